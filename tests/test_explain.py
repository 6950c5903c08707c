"""Explanations: parts that add up to the score, each held to another way of computing it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import ENCODER, Cli
from pyarrow import parquet

from molquery.database import Database
from molquery.errors import GeneSetError, InputError
from molquery.genesets import collections, scoring
from molquery.ingest import ingest_slides
from molquery.predict import PATIENT_SCHEME, RIDGE
from molquery.query.engine import Engine
from molquery.query.explain import (
    Explanation,
    _gene_scores,
    _weighted_columns,
    explain,
    read_feature_names,
)
from molquery.query.search import search
from molquery.readers import Options
from molquery.records import Signature
from molquery.schema import SLIDES
from molquery.space import need_space

NAME = "HALLMARK_HYPOXIA"
SIGNATURE = collections.find(NAME)


@pytest.fixture(scope="module", params=["held-out", "projected"])
def found(engine: Engine, request: pytest.FixtureRequest) -> Explanation:
    """The explanation of a slide of a patient with RNA, and of one without."""
    basis = np.array(engine.basis(np.arange(len(engine.slide_ids))))
    row = np.flatnonzero(basis == request.param)[7]
    return explain(engine, str(engine.slide_ids[row]), SIGNATURE)


def test_parts_add_up_to_the_score_of_a_search(engine: Engine, found: Explanation) -> None:
    hits = search(engine, SIGNATURE, k=len(engine.slide_ids), null=0).hits.to_pylist()
    (hit,) = (h for h in hits if h["slide_id"] == found.slide_id)
    assert found.score == pytest.approx(hit["score"], abs=1e-6)
    for name in ("low", "high", "percentile", "cohort_percentile", "basis", "domain"):
        assert getattr(found, name) == pytest.approx(hit[name]), name
    total = found.neighbour_part + found.feature_part + found.level
    assert total == pytest.approx(found.score, abs=1e-4)
    assert sum(found.neighbours["contribution"].to_pylist()) == pytest.approx(found.neighbour_part)
    assert sum(found.features["contribution"].to_pylist()) == pytest.approx(found.feature_part)
    assert sum(found.genes["contribution"].to_pylist()) == pytest.approx(found.score, abs=1e-4)
    assert abs(found.neighbour_part) > 1e-3
    assert abs(found.feature_part) > 1e-3


def test_neighbours_are_other_patients_with_their_measured_scores(
    engine: Engine, found: Explanation
) -> None:
    rows = found.neighbours.to_pylist()
    assert found.patient_id not in {row["patient_id"] for row in rows}
    assert sum(row["weight"] for row in rows) == pytest.approx(0.7, abs=1e-5)
    reference = engine.reference
    positions = [j for j, g in enumerate(reference.genes) if g in SIGNATURE.weights]
    z = reference.expression[:, positions].astype(float)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    measured = dict(zip(reference.ids.tolist(), z.mean(axis=1), strict=True))
    for row in rows:
        assert row["measured"] == pytest.approx(measured[row["profile_id"]], abs=1e-4)
        assert row["contribution"] == pytest.approx(row["weight"] * row["measured"])
    sizes = [abs(row["contribution"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_a_gene_contributes_what_the_score_loses_without_it(
    engine: Engine, found: Explanation
) -> None:
    """The sum of weight x predicted z, less the same without the gene, in the unit of the mean."""
    genes = found.genes["gene"].to_pylist()
    row = int(np.flatnonzero(engine.slide_ids == found.slide_id)[0])

    def predicted(members: list[str]) -> float:
        _, scores = engine.reference.score_one(Signature("x", dict.fromkeys(members, 1.0)))
        return float(engine.predict(scores)[row, 0])

    whole = predicted(genes) * len(genes)
    for gene, told in list(zip(genes, found.genes["contribution"].to_pylist(), strict=True))[:6]:
        rest = [g for g in genes if g != gene]
        lost = (whole - predicted(rest) * len(rest)) / len(genes)
        assert told == pytest.approx(lost, abs=1e-4)


def test_features_are_the_ridge_of_an_independent_fit(engine: Engine, found: Explanation) -> None:
    """Slopes by ridge regression in feature space, where `predict` solves for its dual."""
    database = engine.database
    space = need_space(database)
    raw = database.matrix(SLIDES, SLIDES.vector)
    folds = [f for f in space.folds if f.scheme == PATIENT_SCHEME]
    fold = next((f for f in folds if found.patient_id in f.held_out), None)
    model = space.final if fold is None else fold.model
    held = set() if fold is None else set(fold.held_out)
    rna = {p: i for i, p in enumerate(engine.reference.patients.tolist()) if p not in held}
    measured = engine.reference.score([SIGNATURE]).scores[:, 0]
    units = sorted(set(engine.patients.tolist()) & set(rna))
    standard = model.slide_input.standardise(raw).astype(float)
    x = np.array([standard[engine.patients == p].mean(axis=0) for p in units])
    y = np.array([measured[rna[p]] for p in units])
    cohort = np.array([engine.cohorts[engine.patients == p][0] for p in units])
    names = sorted(set(cohort.tolist()))
    n, p = x.shape
    centred = x - x.mean(axis=0)
    # One block of shared slopes, one for each cohort; levels likewise: prior variances as stated.
    same = (cohort[:, None] == np.array(names)[None, :]).astype(float)
    design = [centred * np.sqrt(1 / 1.5 / p)]
    design += [centred * same[:, [c]] * np.sqrt(0.5 / 1.5 / p) for c in range(len(names))]
    design += [np.sqrt(10.0) * np.ones((n, 1)), same]
    a = np.hstack(design)
    beta = np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T @ (y - y.mean()))
    mine = names.index(found.cohort)
    slopes = (beta[:p] * np.sqrt(1 / 1.5 / p)
              + beta[p * (1 + mine) : p * (2 + mine)] * np.sqrt(0.5 / 1.5 / p))  # fmt: skip
    row = int(np.flatnonzero(engine.slide_ids == found.slide_id)[0])
    values = standard[row] - x.mean(axis=0)
    told = {r["feature"]: r for r in found.features.to_pylist()}
    assert len(told) == p
    for f in range(p):
        mine_told = told[f"dimension {f}"]
        assert mine_told["value"] == pytest.approx(raw[row, f])
        assert mine_told["z"] == pytest.approx(values[f], abs=1e-4)
        assert mine_told["contribution"] == pytest.approx(0.3 * values[f] * slopes[f], abs=2e-4)
    level = y.mean() + np.sqrt(10.0) * beta[p * (1 + len(names))] + beta[-len(names) + mine]
    assert found.level == pytest.approx(0.3 * level, abs=2e-4)


def test_gene_parts_of_profiles_with_missing_genes_add_up() -> None:
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(30, 8))
    expression[rng.random(expression.shape) < 0.2] = np.nan
    weights = rng.normal(size=8)
    expected = scoring.mean_z(expression, np.arange(8), weights)
    parts = _gene_scores(scoring.z_scores(expression), weights)
    np.testing.assert_allclose(parts.sum(axis=1), expected, atol=1e-12)


def test_weighted_means_leave_missing_values_out() -> None:
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_allclose(_weighted_columns(values, np.array([3.0, 1.0])), [1.5, 5, np.nan])


def test_an_unseen_cohort_has_no_neighbours(ingested_copy: Path) -> None:
    from molquery.align.train import AlignSettings, align

    database = Database.open(ingested_copy)
    align(database, AlignSettings(method="cca", hold_out="cohort=COHORT-B"))
    engine = Engine(database)
    row = int(np.flatnonzero(engine.cohorts == "COHORT-B")[0])
    told = explain(engine, str(engine.slide_ids[row]), SIGNATURE)
    assert told.basis == "unseen cohort"
    assert (told.neighbours.num_rows, told.neighbour_part, told.soft_share) == (0, 0.0, 0.0)
    assert told.feature_part + told.level == pytest.approx(told.score, abs=1e-4)
    assert any("no neighbours" in note for note in told.notes)


# What a user types -------------------------------------------------------------------------------


def test_the_table_for_a_pipe_adds_up(aligned: Path, engine: Engine, cli: Cli) -> None:
    slide = str(engine.slide_ids[11])
    done = cli("--db", aligned, "explain", slide, "--geneset", NAME)
    assert done.code == 0, done.err
    header, *lines = (line.split("\t") for line in done.out.splitlines())
    assert header == ["part", "name", "value", "contribution"]
    told = explain(engine, slide, SIGNATURE)
    sums = {part: sum(float(line[3]) for line in lines if line[0] == part)
            for part in ("neighbour", "feature", "level", "gene")}  # fmt: skip
    assert sums["gene"] == pytest.approx(told.score, abs=1e-4)
    assert sum(sums.values()) - sums["gene"] == pytest.approx(told.score, abs=1e-4)
    assert "Predictability" in done.err


def test_tables_for_a_person_sum_up_what_they_do_not_show(
    aligned: Path, engine: Engine, cli: Cli
) -> None:
    slide = str(engine.slide_ids[11])
    done = cli("--db", aligned, "explain", slide, "--geneset", NAME, "--format", "table", "-k", 3)
    told = explain(engine, slide, SIGNATURE)
    rest = sum(told.neighbours["contribution"].to_pylist()[3:])
    others = next(line for line in done.out.splitlines() if "others)" in line)
    assert f"({told.neighbours.num_rows - 3} others)" in others
    assert float(others.split()[-1]) == pytest.approx(rest, abs=1e-3)
    assert f"score {told.score:.3f}" in done.out


def test_json_holds_every_row_and_where_it_comes_from(
    aligned: Path, engine: Engine, cli: Cli, tmp_path: Path
) -> None:
    dim = engine.facts["slide_dim"]
    names = tmp_path / "names.json"
    names.write_text(json.dumps([f"nuclei {i}" for i in range(dim)]))
    done = cli("--db", aligned, "explain", engine.slide_ids[3], "--geneset", NAME,
               "--feature-names", names, "--format", "json")  # fmt: skip
    told = json.loads(done.out)
    assert {f["feature"] for f in told["features"]} == {f"nuclei {i}" for i in range(dim)}
    assert told["provenance"]["signature"] == NAME
    assert len(told["genes"]) == len(told["provenance"]["genes_found"])


@pytest.mark.parametrize("text", ["a\nb\n\nc", "[1, 2]", "", '{"a": 1}\n', "[oops"])
def test_files_that_hold_no_feature_names(text: str, tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "names"
    path.write_text(text)
    with pytest.raises(InputError):
        explain(engine, str(engine.slide_ids[0]), SIGNATURE, feature_names=read_feature_names(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_feature_names(tmp_path / "missing")


def test_slides_that_are_not_there(
    aligned: Path, engine: Engine, cli: Cli, unchanged: Callable[[Path], None]
) -> None:
    unchanged(aligned)
    slide, patient = str(engine.slide_ids[0]), str(engine.patients[0])
    with pytest.raises(InputError, match="is a patient, not a slide") as caught:
        explain(engine, patient, SIGNATURE)
    assert slide in str(caught.value)
    with pytest.raises(InputError, match="did you mean") as caught:
        explain(engine, slide + "x", SIGNATURE)
    assert slide in str(caught.value)
    with pytest.raises(InputError, match="there is no slide"):
        explain(engine, "zzz", SIGNATURE)
    done = cli("--db", aligned, "explain", slide, "--genes", "NOSUCHGENE")
    assert done.code == 1
    assert "Traceback" not in done.err
    with pytest.raises(GeneSetError):
        explain(engine, slide, Signature("none", {"NOSUCHGENE": 1.0}))


@pytest.mark.parametrize("basis", ["held-out", "projected"])
def test_more_slides_without_rna_change_no_part(engine: Engine, larger: Engine, basis: str) -> None:
    row = np.flatnonzero(np.array(engine.basis(np.arange(engine.n_slides))) == basis)[7]
    slide = str(engine.slide_ids[row])
    assert str(larger.slide_ids[row]) != slide
    one, other = (explain(e, slide, SIGNATURE) for e in (engine, larger))
    assert other.score == pytest.approx(one.score, abs=1e-6)
    assert other.level == one.level
    for name in ("neighbours", "features"):
        assert getattr(other, name).equals(getattr(one, name)), name


@pytest.fixture(scope="module")
def larger(aligned: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The archive with slides without RNA, unlike all others, before those that are there."""
    folder = tmp_path_factory.mktemp("larger")
    values = np.random.default_rng(3).normal(50.0, 20.0, (30, engine.facts["slide_dim"]))
    new = {"slide_id": [f"A{i}" for i in range(30)], "cohort": engine.cohorts[:30].tolist(),
           "features": values.tolist()}  # fmt: skip
    parquet.write_table(pa.table(new), folder / "more.parquet")
    database = Database.open(Path(shutil.copytree(aligned, folder / "toy.mq")))
    ingest_slides(database, [folder / "more.parquet"], options=Options(), encoder=ENCODER)
    return Engine(database)
