"""Prediction methods against loops and scikit-learn, scorings against gseapy, and no leaks."""

from pathlib import Path

import gseapy
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
from conftest import ENCODER, Cli
from pyarrow import parquet
from sklearn.linear_model import LinearRegression, Ridge

from molquery import synth
from molquery.cli import options
from molquery.database import Database
from molquery.errors import GeneSetError, InputError
from molquery.genesets import collections, scoring
from molquery.genesets.inline import parse_genes
from molquery.ingest import ingest_slides
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME
from molquery.query import methods
from molquery.query.cohort import score
from molquery.query.engine import Engine
from molquery.query.methods import METHODS, MethodRow, compare_methods, predict
from molquery.query.search import search
from molquery.query.strata import stratify_cohort
from molquery.readers import Options
from molquery.records import Signature
from molquery.reference import Reference
from molquery.schema import SLIDES
from molquery.space import need_space

Array = npt.NDArray[np.float64]
HYPOXIA = collections.find("HALLMARK_HYPOXIA")
_DOWN = collections.find("HALLMARK_E2F_TARGETS").genes[:3]
SIGNED = parse_genes(f"VEGFA:2,SLC2A1,BNIP3L,PFKFB3,-{_DOWN[0]},-{_DOWN[1]}:0.5,-{_DOWN[2]}")


@pytest.fixture(scope="module")
def measured(engine: Engine) -> Array:
    return engine.reference.score([HYPOXIA]).scores


@pytest.fixture(scope="module")
def sets(engine: Engine) -> list[scoring.GeneSet]:
    match = engine.reference.score([HYPOXIA]).matches[0]
    return [(match.positions, match.weights)]


def by_hand(engine: Engine, method: str, i: int, measured: Array, genes: scoring.GeneSet) -> float:
    """The score of slide i from the docstrings of methods.py, from the tables and the space."""
    space = need_space(engine.database)
    raw, rna = engine.database.matrix(SLIDES, SLIDES.vector), engine.reference.expression
    patients, owners = engine.patients, engine.reference.patients
    fold = next((f for f in space.folds if f.scheme == "patient" and patients[i] in f.held_out),
                None)  # fmt: skip
    model = space.final if fold is None else fold.model
    held = set() if fold is None else fold.held_out
    known = np.array([j for j, p in enumerate(owners) if p not in held])
    sites = engine.database.read(SLIDES, ["site"])["site"].to_pylist()
    x = model.project_slides(raw, engine.cohorts.tolist(), sites)
    r = model.project_profiles(rna[known])
    trained = sorted(set(patients.tolist()) & set(owners[known].tolist()))
    units = np.array([x[patients == p].mean(axis=0) for p in trained])
    y = np.array([measured[owners == p].mean() for p in trained])
    if method == "vector":
        gram = ((units - units.mean(axis=0)) ** 2).sum()
        q = Ridge(alpha=gram / units.shape[1]).fit(units, y).coef_
    elif method == "centroid":
        order = np.argsort(measured[known], kind="stable")
        quarter = round(len(order) / 4)
        q = r[order[-quarter:]].mean(axis=0) - r[order[:quarter]].mean(axis=0)
    else:
        positions, weights = genes
        mean, sd = rna.mean(axis=0), rna.std(axis=0)
        step = np.zeros(rna.shape[1])
        step[positions] = weights / np.abs(weights).mean() * sd[positions]
        up, down = model.project_profiles(np.array([mean + step, mean - step]))
        q = up - down
    line = LinearRegression().fit((units @ q)[:, None], y)
    return float(line.predict([[x[i] @ q]])[0])


@pytest.mark.parametrize("method", ["vector", "centroid", "synthetic"])
def test_projections_equal_the_formula(
    engine: Engine, measured: Array, sets: list[scoring.GeneSet], method: str
) -> None:
    found = predict(engine, method, measured, sets)[:, 0]
    held_out = engine.held_out
    some = [*np.flatnonzero(held_out)[::60], *np.flatnonzero(~held_out)[:2]]
    expected = [by_hand(engine, method, int(i), measured[:, 0], sets[0]) for i in some]
    np.testing.assert_allclose(found[some], expected, atol=1e-4)


def test_the_blend_is_made_of_its_parts(
    engine: Engine, measured: Array, sets: list[scoring.GeneSet]
) -> None:
    blend, soft, ridge = (
        predict(engine, m, measured, sets)[:, 0] for m in ("blend", "soft-knn", "ridge")
    )
    share = engine.operator.soft_share
    np.testing.assert_allclose(blend, share * soft + (1 - share) * ridge, atol=1e-4)
    assert np.abs(soft - ridge).max() > 0.05
    np.testing.assert_array_equal(blend, engine.predict(measured)[:, 0])


@pytest.mark.parametrize("scheme", [PATIENT_SCHEME, SITE_SCHEME])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_held_out_changes_nothing(engine: Engine, method: str, scheme: str) -> None:
    """Other RNA of the patients of a fold leaves the scores of the fold's slides as they are."""
    scored = engine.reference.score([HYPOXIA])
    genes = [(m.positions, m.weights) for m in scored.matches]
    operator = engine.operators[scheme]
    fold = operator.model == 0
    other = scored.scores.copy()
    mine = np.isin(engine.reference.patients, engine.patients[operator.rows[fold]])
    assert 10 < mine.sum() < len(mine) / 2
    other[mine] += 3 * np.random.default_rng(0).normal(size=(int(mine.sum()), 1))
    before = predict(engine, method, scored.scores, genes, scheme, operator.rows)
    after = predict(engine, method, other, genes, scheme, operator.rows)
    np.testing.assert_allclose(after[fold], before[fold], atol=1e-5)
    if method != "synthetic":  # where only the scale depends on measured scores
        assert np.abs(after[~fold] - before[~fold]).mean() > 1e-3


def test_methods_are_compared_on_held_out_patients(engine: Engine) -> None:
    found = compare_methods(engine)
    assert [row.method for row in found.rows] == list(METHODS)
    assert found.n_sets == len(engine.spectrum)
    blend = found.rows[0]
    assert blend.method == found.default == "blend"
    for name in ("r2", "r", "within_r", "site_r2", "site_within_r"):
        spectrum = np.median([getattr(p, name) for p in engine.spectrum.values()])
        assert getattr(blend, name) == pytest.approx(spectrum, abs=1e-3), name
    best = max(found.rows, key=lambda row: row.within_r or -1)
    assert best.method in found.reason
    assert f"{best.within_r:.3f}" in found.reason
    one = compare_methods(engine, [HYPOXIA])
    assert one.n_sets == 1
    assert one.rows[0].within_r == pytest.approx(
        engine.spectrum["HALLMARK_HYPOXIA"].within_r, abs=1e-3
    )
    with pytest.raises(InputError, match="no gene set"):
        compare_methods(engine, [Signature("NONE", {"ABSENT": 1.0})])


def test_the_reason_says_when_another_method_is_ahead() -> None:
    rows = [MethodRow(m, 0.1, 0.2, w, None, None, None) for m, w in
            (("blend", 0.3), ("soft-knn", 0.4), ("ridge", 0.2))]  # fmt: skip
    assert methods._reason(rows) == (
        "blend is the default, but here soft-knn has the higher median correlation within cohorts "
        "in held-out patients: 0.400 against 0.300"
    )
    assert "the highest median" in methods._reason([rows[0], rows[2]])
    none = [MethodRow(m, None, None, None, None, None, None) for m in ("blend", "ridge")]
    assert "none can be measured" in methods._reason(none)


def test_the_command_line_knows_all_methods_and_scorings() -> None:
    assert tuple(METHODS) == options.METHODS
    assert {m.name for m in scoring.METHODS} == set(options.SCORINGS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_everywhere(engine: Engine, method: str) -> None:
    """One prediction, whoever asks; and predictability is that of the method asked for."""
    found = search(engine, HYPOXIA, k=10_000, method=method, null=100)
    scores = dict(zip(found.hits["slide_id"].to_pylist(), found.hits["score"].to_pylist(),
                      strict=True))  # fmt: skip
    table = score(engine, [HYPOXIA], method=method)
    strata = stratify_cohort(engine, HYPOXIA, method=method)
    for result, column in ((table, HYPOXIA.name), (strata, "score")):
        mine = [scores[i] for i in result.table["slide_id"].to_pylist()]
        np.testing.assert_allclose(result.table[column], mine, atol=1e-4)
        assert result.provenance.method == found.provenance.method == method
    (row,) = (r for r in compare_methods(engine, [HYPOXIA]).rows if r.method == method)
    assert found.predictability.within_r == pytest.approx(row.within_r, abs=1e-4)
    assert found.predictability.site_r2 == pytest.approx(row.site_r2, abs=1e-4)
    assert found.predictability.random_r is not None


def test_an_unknown_method_lists_the_known(engine: Engine) -> None:
    for ask in (lambda: search(engine, HYPOXIA, method="magic"),
                lambda: score(engine, [HYPOXIA], method="magic"),
                lambda: stratify_cohort(engine, HYPOXIA, method="magic")):  # fmt: skip
        with pytest.raises(InputError, match="blend"):
            ask()


# Scorings ----------------------------------------------------------------------------------------


def test_search_by_ssgsea_rests_on_the_scores_of_gseapy(engine: Engine) -> None:
    reference = engine.reference
    frame = pd.DataFrame(reference.expression.T.astype(float), reference.genes, reference.ids)
    genes = [g for g in HYPOXIA.genes if g in reference.panel]
    result = gseapy.ssgsea(
        frame, {"S": genes}, sample_norm_method="rank", correl_norm_type="rank", weight=0.25,
        min_size=1, max_size=10_000, threads=1,
    )  # fmt: skip
    es = result.res2d.set_index("Name").loc[reference.ids, "ES"].to_numpy(float)
    own = reference.score_one(HYPOXIA, method="ssgsea")[1][:, 0]
    np.testing.assert_allclose(own, es, rtol=1e-6)
    hits = search(engine, HYPOXIA, k=10_000, null=0, scoring="ssgsea").hits.sort_by("slide_id")
    expected = engine.operator.dense.astype(float) @ es
    np.testing.assert_allclose(hits["score"], expected, rtol=1e-4)


@pytest.mark.parametrize("scoring_name", options.SCORINGS)
def test_signed_and_weighted_signatures_by_every_scoring(engine: Engine, scoring_name: str) -> None:
    """Turning all signs around turns the scores around; predictions follow the measured scores."""
    turned = Signature("TURNED", {g: -w for g, w in SIGNED.weights.items()})
    match, scores = engine.reference.score_one(SIGNED, method=scoring_name)
    np.testing.assert_allclose(
        engine.reference.score_one(turned, method=scoring_name)[1], -scores, atol=1e-9
    )
    assert (match.weights < 0).any()
    if scoring_name == "mean_z":
        x = engine.reference.expression[:, match.positions].astype(float)
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        expected = z @ match.weights / np.abs(match.weights).sum()
        np.testing.assert_allclose(scores[:, 0], expected, atol=1e-6)
    found = search(engine, SIGNED, k=10_000, scoring=scoring_name, null=100, min_genes=3)
    hits = found.hits.sort_by("slide_id")
    np.testing.assert_allclose(hits["score"], engine.predict(scores)[:, 0], atol=1e-4)
    back = search(engine, turned, k=10_000, scoring=scoring_name, null=0, min_genes=3).hits
    np.testing.assert_allclose(back.sort_by("slide_id")["low"], -hits["high"].to_numpy(), atol=1e-4)


@pytest.mark.parametrize("scoring_name", options.SCORINGS)
@pytest.mark.parametrize("command", ["search", "score", "stratify"])
def test_scoring_is_an_option_of_every_command(
    cli: Cli, aligned: Path, files: synth.Files, command: str, scoring_name: str
) -> None:
    what = [files.gene_sets] if command == "score" else ["--geneset", "HALLMARK_HYPOXIA"]
    result = cli("--db", aligned, command, *what, "--scoring", scoring_name, "--format", "json")
    assert result.code == 0, result.err
    assert f'"scoring": "{scoring_name}"' in result.out


def test_what_cannot_be_scored_is_refused_or_reported(engine: Engine) -> None:
    """A set of every gene has no rank score in any profile."""
    every = Signature("EVERY", dict.fromkeys(engine.reference.genes, 1.0))
    with pytest.raises(GeneSetError, match="cannot be scored in the reference profiles"):
        search(engine, every, scoring="ssgsea", null=0)
    found = score(engine, [every, HYPOXIA], scoring="ssgsea")
    assert list(found.skipped) == ["EVERY"]
    assert "no score in" in found.skipped["EVERY"]
    assert not np.isnan(found.table[HYPOXIA.name].to_numpy()).any()
    with pytest.raises(GeneSetError, match="no gene set can be scored"):
        score(engine, [every], scoring="ssgsea")
    constant = Signature("CONSTANT", {g: 1.0 for g in HYPOXIA.genes[:30]} | {"ABSENT": 1.0})
    other = Reference(engine.database)
    positions = [other.genes.index(g) for g in HYPOXIA.genes[:30]]
    other.expression = other.expression.copy()
    other.expression[:, positions] = 7.0
    with pytest.raises(GeneSetError, match="CONSTANT"):
        other.score_one(constant)
    assert list(other.score([constant]).skipped) == ["CONSTANT"]


# The reference -----------------------------------------------------------------------------------


def test_profiles_without_a_slide_inform_scores(engine: Engine, archive: synth.Archive) -> None:
    """RNA-only patients are neighbours like any other, and their scores reach the slides."""
    alone = ~np.isin(engine.reference.patients, engine.patients)
    assert alone.sum() == len(set(archive.profile_patient) - set(archive.slide_patient)) > 10
    weight = engine.operator.dense[:, alone]
    assert np.abs(weight).sum(axis=1).min() > 0
    soft = engine.operator.soft(alone[:, None].astype(np.float32), np.arange(len(weight)))
    assert soft.min() > 0
    assert alone.mean() / 2 < soft.mean() < 2 * alone.mean()


def test_an_archive_whose_new_patients_have_no_rna_is_scored(
    aligned_copy: Path, archive: synth.Archive
) -> None:
    """Slides only, profiles only and pairs: each slide has a finite score by every method."""
    engine = Engine(Database.open(aligned_copy))
    assert not engine.held_out.all()
    for method in METHODS:
        assert np.isfinite(score(engine, [HYPOXIA], method=method).table[HYPOXIA.name]).all()


def test_a_database_that_has_changed_is_not_mixed_with_its_snapshot(
    aligned_copy: Path, archive: synth.Archive, tmp_path: Path
) -> None:
    def hits(engine: Engine, method: str) -> pa.Table:
        return search(engine, HYPOXIA, k=10_000, method=method, null=0).hits

    right = {m: hits(Engine(Database.open(aligned_copy)), m) for m in ("blend", "centroid")}
    early, late = (Engine(Database.open(aligned_copy)) for _ in range(2))
    hits(late, "blend")
    table = {"slide_id": ["LATER"], "features": [archive.embeddings[0].tolist()]}
    parquet.write_table(pa.table(table), tmp_path / "s.parquet")
    ingest_slides(
        Database.open(aligned_copy), [tmp_path / "s.parquet"], options=Options(), encoder=ENCODER
    )
    for engine in (early, late):
        assert not engine.is_current()
        for method, table in right.items():
            assert hits(engine, method).equals(table), "not the answer of the snapshot's state"
    now = hits(Engine(Database.open(aligned_copy)), "centroid")
    assert "LATER" in now["slide_id"].to_pylist()
