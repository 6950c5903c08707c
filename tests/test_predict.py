"""Prediction weights against the formulas, written again with plain loops and solvers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy import linalg

from molquery import predict, synth
from molquery.database import Database
from molquery.genesets import collections
from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
from molquery.predict import COHORT_SCHEME, PATIENT_SCHEME, SITE_SCHEME, Operator
from molquery.query import prepared
from molquery.query.engine import Engine
from molquery.readers import Options
from molquery.schema import PROFILES, SLIDES
from molquery.space import need_space

Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def tables(aligned: Path) -> dict[str, list[str]]:
    database = Database.open(aligned)
    out = {}
    for spec in (SLIDES, PROFILES):
        held = database.read(spec, ["patient_id", "cohort", "site"])
        for name in held.schema.names:
            out[f"{spec.noun}.{name}"] = held[name].to_pylist()
    return out


def brute_force(engine: Engine, tables: dict[str, list[str]], i: int, scores: Array) -> float:
    """The score of slide i from the docstring of predict.py: soft average and ridge, one slide."""
    space = need_space(engine.database)
    raw = engine.database.matrix(SLIDES, SLIDES.vector)
    rna = engine.database.matrix(PROFILES, PROFILES.vector)
    owner, cohort, site = (np.array(tables[f"slide.{c}"]) for c in ("patient_id", "cohort", "site"))
    of_profile = np.array(tables["profile.patient_id"])
    me = owner[i]
    fold = next((f for f in space.folds if f.scheme == "patient" and me in f.held_out), None)
    model = space.final if fold is None else fold.model
    held = {me} if fold is None else set(fold.held_out)
    known = [j for j, p in enumerate(of_profile) if p not in held]

    x = model.project_slides(raw[[i]], [str(cohort[i])], [str(site[i])])[0]
    r = model.project_profiles(rna[known])
    logits = np.array([float(x @ v) for v in r]) - model.hubness(r)
    best = sorted(range(len(known)), key=lambda j: -logits[j])[: predict.NEIGHBOURS]
    weight = np.exp((logits[best] - logits[best].max()) / 0.1)
    soft = float(weight @ scores[[known[j] for j in best]] / weight.sum())

    # Ridge as Gaussian-process regression on patients: slides averaged, profiles averaged.
    patients = sorted(set(owner) & set(of_profile[known]))
    values = model.slide_input.standardise(raw).astype(np.float64)
    units = np.array([values[owner == p].mean(axis=0) for p in patients])
    target = np.array([np.mean([scores[j] for j in known if of_profile[j] == p])
                       for p in patients])  # fmt: skip
    unit_cohort = np.array([cohort[owner == p][0] for p in patients])
    centre, n_features = units.mean(axis=0), units.shape[1]
    assert n_features <= predict.COMPONENTS, "here all principal components enter"

    def kernel(a: Array, ca: npt.NDArray[np.str_], b: Array, cb: npt.NDArray[np.str_]) -> Array:
        same = (ca[:, None] == cb[None, :]).astype(float)
        slope = (1 + predict.OWN_SLOPE * same) / (1 + predict.OWN_SLOPE)
        inner = (a - centre) @ (b - centre).T / n_features
        return np.asarray(inner * slope + predict.LEVEL * same + predict.GRAND)

    gram = kernel(units, unit_cohort, units, unit_cohort) + predict.RIDGE * np.eye(len(units))
    alpha = linalg.cho_solve(linalg.cho_factor(gram), target - target.mean())
    ridge = kernel(values[[i]], cohort[[i]], units, unit_cohort) @ alpha + target.mean()
    share = 0.7 * min(1.0, (unit_cohort == cohort[i]).sum() / 32)
    return float(share * soft + (1 - share) * ridge[0])


def test_predictions_equal_the_formula(engine: Engine, tables: dict[str, list[str]]) -> None:
    scores = engine.reference.score([collections.find("HALLMARK_HYPOXIA")]).scores
    found = engine.predict(scores)[:, 0]
    basis = engine.held_out
    some = [*np.flatnonzero(basis)[::45], *np.flatnonzero(~basis)[:3]]
    assert len(some) >= 6
    expected = [brute_force(engine, tables, int(i), scores[:, 0]) for i in some]
    np.testing.assert_allclose(found[some], expected, atol=2e-4)


def test_only_slides_without_rna_are_projected(
    engine: Engine, tables: dict[str, list[str]]
) -> None:
    paired = np.isin(tables["slide.patient_id"], tables["profile.patient_id"])
    assert 0 < paired.sum() < len(paired)
    np.testing.assert_array_equal(engine.held_out, paired)


@pytest.mark.parametrize("scheme", [PATIENT_SCHEME, SITE_SCHEME])
def test_rna_of_what_is_held_out_has_no_weight(
    engine: Engine, tables: dict[str, list[str]], scheme: str
) -> None:
    dense = engine.operators[scheme].dense
    for name in ("patient_id", "site")[: 1 if scheme == PATIENT_SCHEME else 2]:
        slide, profile = (np.array(tables[f"{t}.{name}"]) for t in ("slide", "profile"))
        same = slide[:, None] == profile[None, :]
        same = same[engine.operators[scheme].rows]
        if name == "site":
            same &= engine.operators[scheme].model[:, None] >= 0
        assert same.any()
        assert np.abs(dense[same]).max() == 0


def test_a_constant_signature_is_predicted_as_itself(engine: Engine) -> None:
    for operator in engine.operators.values():
        np.testing.assert_allclose(operator.dense.sum(axis=1), 1, atol=1e-3)
        used, soft = operator.weights > 0, operator.soft_share > 0
        np.testing.assert_allclose((operator.weights * used).sum(axis=1)[soft], 1, atol=1e-5)
        assert np.all(operator.weights[~used] == 0)
        assert np.all(operator.weights >= 0)


def test_the_sparse_path_equals_the_dense_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.random.default_rng(0).normal(size=(engine.operator.n_reference, 3))
    rows = np.arange(0, len(engine.slide_ids), 3)
    dense = engine.operator.apply(scores), engine.operator.apply(scores, rows)
    monkeypatch.setattr(predict, "_DENSE_CELLS", 0)
    sparse = engine.operator.apply(scores), engine.operator.apply(scores, rows)
    for a, b in zip(dense, sparse, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(dense[1], dense[0][rows], atol=1e-6)


def test_padded_neighbours_take_no_part() -> None:
    operator = Operator(
        rows=np.arange(1),
        neighbours=np.array([[2, 0]], dtype=np.int32),
        weights=np.array([[1.0, 0.0]], dtype=np.float32),
        soft_share=np.ones(1, np.float32),
        model=np.zeros(1, np.int64),
        components=np.zeros((1, 1), np.float32),
        group=np.zeros(1, np.int64),
        solvers=np.zeros((1, 1, 3), np.float32),
        distance=np.zeros((1, 2), np.float32),
    )
    assert operator.apply(np.array([[7.0], [8.0], [9.0]])).tolist() == [[9.0]]


def test_operators_are_read_back_as_they_were_computed(aligned: Path) -> None:
    database = Database.open(aligned)
    space = need_space(database)
    found = prepared.load(database, space.space_id)
    assert found is not None
    stored = found.operators
    fresh = predict.compute_operators(database, space)
    assert stored.keys() == fresh.keys() == {PATIENT_SCHEME, SITE_SCHEME, COHORT_SCHEME}
    for scheme in stored:
        np.testing.assert_allclose(stored[scheme].dense, fresh[scheme].dense, atol=1e-5)


def test_damaged_operators_are_computed_anew(aligned_copy: Path, engine: Engine) -> None:
    database = Database.open(aligned_copy)
    (file,) = (aligned_copy / "indexes").glob("predictions-*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert prepared.load(database, engine.space_id) is None
    again = Engine(database).operator
    np.testing.assert_allclose(again.dense, engine.operator.dense, atol=1e-5)
    assert prepared.load(database, engine.space_id) is not None


def add_patient(path: Path, archive: synth.Archive) -> Engine:
    """A new patient with a slide and a profile, ingested after align."""
    database, folder = Database.open(path), path.parent
    cohort = str(archive.cohorts[0])
    slide = {"slide_id": ["N-S"], "patient_id": ["N"], "cohort": [cohort], "site": ["S00"],
             "features": [archive.embeddings[0].tolist()]}  # fmt: skip
    rna = {"profile_id": ["N-R"], "patient_id": ["N"], "cohort": [cohort], "site": ["S00"]}
    parquet.write_table(pa.table(slide), folder / "s.parquet")
    parquet.write_table(
        pa.table(rna | {g: [float(archive.expression[0, j])] for j, g in enumerate(archive.genes)}),
        folder / "p.parquet",
    )
    ingest_slides(database, [folder / "s.parquet"], options=Options(), encoder="toy-encoder")
    ingest_profiles(
        database, [folder / "p.parquet"], options=Options(genes_in="columns"), scale="log2"
    )
    return Engine(database)


def test_rna_that_came_after_align_has_no_weight_for_its_own_slides(
    aligned_copy: Path, archive: synth.Archive
) -> None:
    engine = add_patient(aligned_copy, archive)
    i = engine.slide_ids.tolist().index("N-S")
    j = engine.reference.ids.tolist().index("N-R")
    for operator in engine.operators.values():
        assert operator.dense[operator.at(np.array([i])), j] == 0


def test_rna_paired_by_key_is_held_out_whatever_its_group(
    aligned_copy: Path, tables: dict[str, list[str]]
) -> None:
    """Where profiles name no group, those paired with held-out slides are left out all the same."""
    database = Database.open(aligned_copy)

    def rows(spec: object, noun: str) -> predict.Rows:
        patients = np.array(tables[f"{noun}.patient_id"])
        vectors = database.matrix(spec, spec.vector)  # type: ignore[arg-type, attr-defined]
        cohorts, sites = (np.array(tables[f"{noun}.{c}"]) for c in ("cohort", "site"))
        return predict.Rows(vectors, patients, patients, cohorts, sites)

    slides, profiles = rows(SLIDES, "slide"), rows(PROFILES, "profile")
    profiles = replace(profiles, groups=np.full(len(profiles.groups), ""))
    operator = predict.build_operator(need_space(database), SITE_SCHEME, slides, profiles)
    same = slides.keys[:, None] == profiles.keys[None, :]
    held = (operator.model >= 0)[:, None]
    assert (same & held).any()
    assert np.abs(operator.dense[same & held]).max() == 0


def test_a_patient_named_later_makes_the_predictions_anew(
    aligned_copy: Path, archive: synth.Archive, tmp_path: Path
) -> None:
    """A slide that turns out to be of a patient with RNA must not be predicted from that RNA."""
    database = Database.open(aligned_copy)
    owner = archive.profile_patient[0]
    new = {"slide_id": ["LATE"], "features": [archive.embeddings[0].tolist()]}
    parquet.write_table(pa.table(new), tmp_path / "s.parquet")
    ingest_slides(database, [tmp_path / "s.parquet"], options=Options(), encoder="toy-encoder")
    mine = archive.profile_ids.tolist().index(f"{archive.patients[owner]}-R1")

    def weight() -> float:
        engine = Engine(database)
        return float(engine.operator.dense[engine.slide_ids.tolist().index("LATE"), mine])

    assert weight() != 0, "as a patient of its own, the slide may learn from every profile"
    told = {"slide_id": ["LATE"], "patient_id": [str(archive.patients[owner])]}
    parquet.write_table(pa.table(told), tmp_path / "m.parquet")
    ingest_metadata(database, [tmp_path / "m.parquet"], on="slide_id")
    assert weight() == 0


def made_up(n: int, n_reference: int, seed: int) -> Operator:
    """Weights of any size, with padding in some rows and slides of several groups."""
    rng = np.random.default_rng(seed)
    neighbours = rng.integers(0, n_reference, (n, 30), dtype=np.int32)
    weights = rng.random((n, 30), dtype=np.float32)
    weights[::7, 20:] = 0
    return Operator(
        rows=np.arange(n),
        neighbours=neighbours,
        weights=weights / weights.sum(axis=1, keepdims=True),
        soft_share=rng.choice(np.array([0.7, 0.0], np.float32), n),
        model=np.full(n, -1),
        components=rng.standard_normal((n, 5), dtype=np.float32),
        group=rng.integers(0, 6, n),
        solvers=rng.standard_normal((6, 5, n_reference), dtype=np.float32),
        distance=np.zeros((n, 2), np.float32),
    )


@pytest.mark.parametrize("n_sets", [1, 3, 7, 8, 50])
def test_products_in_blocks_equal_the_sum_written_out(
    n_sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = made_up(2_500, 90, n_sets)
    scores = np.random.default_rng(1).normal(size=(90, n_sets))
    monkeypatch.setattr(predict, "_DENSE_CELLS", 0)
    monkeypatch.setattr(predict, "_BLOCK", 512)
    found = operator.apply(scores)
    for i in (0, 7, 511, 512, 2_499):
        used = operator.weights[i] > 0
        soft = operator.weights[i][used].astype(float) @ scores[operator.neighbours[i][used]]
        ridge = operator.components[i].astype(float) @ (
            operator.solvers[operator.group[i]] @ scores
        )
        share = float(operator.soft_share[i])
        np.testing.assert_allclose(found[i], share * soft + (1 - share) * ridge, atol=1e-4)
    some = np.array([3, 7, 8, 9, 600, 2_400])
    np.testing.assert_allclose(operator.apply(scores, some), found[some], atol=1e-6)


@pytest.mark.parametrize("n_sets", [1, 50])
def test_scores_do_not_depend_on_the_number_of_processors(
    n_sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = made_up(5_000, 90, 0)
    scores = np.random.default_rng(1).normal(size=(90, n_sets))
    monkeypatch.setattr(predict, "_DENSE_CELLS", 0)
    monkeypatch.setattr(predict, "_BLOCK", 512)
    found = []
    for processors in (1, 2):
        monkeypatch.setattr("molquery.threads.processors", lambda n=processors: n)
        found.append(operator.apply(scores).tobytes())
    assert found[0] == found[1]


def test_only_the_weights_of_new_slides_are_computed(
    aligned_copy: Path, archive: synth.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(aligned_copy)
    before = Engine(database)
    ids, old = before.slide_ids, before.operator
    rng = np.random.default_rng(0)
    values = archive.embeddings[:5] + 0.01 * rng.normal(size=(5, archive.embeddings.shape[1]))
    new = {"slide_id": ["A-NEW", "P000100-A", "ZZ1", "ZZ2", "ZZ3"], "features": values.tolist(),
           "cohort": [str(archive.cohorts[0])] * 4 + ["NEVER-SEEN"]}  # fmt: skip
    parquet.write_table(pa.table(new), tmp_path / "s.parquet")
    ingest_slides(database, [tmp_path / "s.parquet"], options=Options(), encoder="toy-encoder")
    asked: list[int] = []
    weights = predict.Predictor.weights

    def counted(self: predict.Predictor, slides: predict.Rows, positions: Array) -> Operator:
        asked.append(len(positions))
        return weights(self, slides, positions)

    monkeypatch.setattr(predict.Predictor, "weights", counted)
    after = Engine(database)
    found = after.operator
    paired = int(before.held_out.sum())
    assert asked.count(5) == 1
    assert len(ids) not in asked
    assert max(asked) == paired  # of slides with RNA, to say how good predictions are
    fresh = predict.compute_operators(database, need_space(database))[PATIENT_SCHEME]
    np.testing.assert_allclose(found.dense, fresh.dense, atol=1e-5)
    np.testing.assert_array_equal(found.model, fresh.model)
    np.testing.assert_allclose(found.distance, fresh.distance, rtol=1e-4)
    kept = np.isin(after.slide_ids, ids)
    np.testing.assert_array_equal(found.weights[kept], old.weights)
    np.testing.assert_array_equal(found.neighbours[kept], old.neighbours)
