"""Intervals, the domain flag and specificity: against brute force, and coverage by simulation."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyarrow import parquet

from molquery import predict, synth
from molquery.database import Database
from molquery.errors import GeneSetError, InputError
from molquery.evaluate.held_out import HeldOutPairs
from molquery.genesets import collections
from molquery.ingest import ingest_slides
from molquery.predict import COHORT_SCHEME
from molquery.query import calibrate
from molquery.query.answer import answer, in_words
from molquery.query.cohort import score
from molquery.query.engine import Engine
from molquery.query.search import search
from molquery.readers import Options
from molquery.records import Predictability, Signature
from molquery.schema import SLIDES
from molquery.space import need_space
from molquery.texts import Groups

Array = npt.NDArray[Any]
HYPOXIA = collections.find("HALLMARK_HYPOXIA")
UNSEEN = collections.find("HALLMARK_OXIDATIVE_PHOSPHORYLATION")


def names(n: int) -> npt.NDArray[np.str_]:
    return np.array([f"P{i}" for i in range(n)])


# Conformal bounds --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "level", "k"), [(9, 0.9, 9), (19, 0.9, 18), (100, 0.9, 91),
                                               (100, 0.8, 81), (39, 0.975, 39)])  # fmt: skip
def test_with_one_slide_each_the_bound_is_an_order_statistic(n: int, level: float, k: int) -> None:
    errors = np.random.default_rng(n).permutation(n).astype(float)
    assert calibrate.conformal_bound(errors, names(n), level) == k - 1


def test_too_few_patients_bound_nothing() -> None:
    assert calibrate.conformal_bound(np.arange(8.0), names(8), 0.9) == np.inf
    assert calibrate.conformal_bound(np.empty(0), names(0), 0.9) == np.inf
    many_slides_of_few = np.repeat(names(8), 50)
    assert calibrate.conformal_bound(np.arange(400.0), many_slides_of_few, 0.9) == np.inf


def test_slides_share_the_weight_of_their_patient() -> None:
    """Nine patients with an error of 1, one with ninety slides and an error of 5 in each."""
    errors = np.concatenate([np.ones(9), np.full(90, 5.0)])
    patients = np.concatenate([names(9), np.repeat("Q", 90)])
    assert calibrate.conformal_bound(errors, patients, 0.8) == 1  # 9 / 11 of the weight
    assert calibrate.conformal_bound(errors, patients, 0.85) == 5
    assert calibrate.conformal_bound(errors, np.full(99, ""), 0.8) == 5, "no name: all alone"


def test_bounds_cover_new_patients_with_several_slides() -> None:
    """Errors that are the same in all slides of a patient, and larger where there are many."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(3000):
        count = rng.integers(1, 6, 30)
        patients = np.repeat(names(30), count)
        errors = np.abs(rng.normal(size=30))[np.repeat(np.arange(30), count)]
        errors *= np.repeat(count, count)
        new = np.abs(rng.normal()) * rng.integers(1, 6)
        covered.append(new <= calibrate.conformal_bound(errors, patients, 0.9))
    # 28 of 31 by theory; slides that all weigh the same would cover 0.93.
    assert np.mean(covered) == pytest.approx(28 / 31, abs=0.015)


def test_cohorts_are_bounded_by_their_own_errors() -> None:
    errors = np.concatenate([np.arange(40.0), 100 + np.arange(40.0), np.arange(5.0)])
    cohorts = np.repeat(["A", "B", "C"], [40, 40, 5])
    bounds = calibrate.cohort_bounds(errors, cohorts, names(85), 0.9)
    assert bounds == {"A": 36.0, "B": 136.0}  # ceil(41 * 0.9) = 37 of 40; C has too few


# Intervals ---------------------------------------------------------------------------------------


def measure(engine: Engine, signature: Signature) -> tuple[Array, Array]:
    measured = engine.reference.score([signature]).scores
    return engine.predict(measured)[:, 0], measured[:, 0]


def residuals(engine: Engine, predicted: Array, measured: Array) -> tuple[Array, list[int]]:
    """Absolute errors of held-out slides, and which slides they are, from the tables alone."""
    rna = dict(zip(engine.reference.patients.tolist(), measured.tolist(), strict=True))
    rows = [i for i, p in enumerate(engine.patients) if p in rna]
    return np.array([abs(rna[engine.patients[i]] - predicted[i]) for i in rows]), rows


def test_the_spread_is_that_of_the_neighbours(engine: Engine) -> None:
    _, measured = measure(engine, HYPOXIA)
    found = engine.spread(measured + 1e4)
    operator = engine.operator
    for i in range(0, len(found), 25):
        near = measured[operator.neighbours[i]]
        weight = operator.weights[i].astype(float)
        sd = np.sqrt(np.average((near - np.average(near, weights=weight)) ** 2, weights=weight))
        assert found[i] == pytest.approx(max(sd, np.median(found) / 2), rel=1e-3)


def test_intervals_are_the_weighted_quantile_of_the_cohorts_errors(engine: Engine) -> None:
    predicted, measured = measure(engine, HYPOXIA)
    low, high = engine.intervals(predicted, measured)
    spread = engine.spread(measured)
    errors, rows = residuals(engine, predicted, measured)
    errors = errors / spread[rows]
    for cohort in np.unique(engine.cohorts):
        mine = [k for k, i in enumerate(rows) if engine.cohorts[i] == cohort]
        owners = [str(engine.patients[rows[k]]) for k in mine]
        n_patients = len(set(owners))
        assert n_patients >= calibrate.MIN_PATIENTS
        total, bound = 0.0, np.inf
        for k, owner in sorted(zip(mine, owners, strict=True), key=lambda item: -errors[item[0]]):
            total += 1 / owners.count(owner) / (n_patients + 1)
            if total > 0.1 - 1 / (n_patients + 1) + 1e-9:  # infinity has a share of its own
                bound = errors[k]
                break
        members = engine.cohorts == cohort
        half = bound * spread[members]
        np.testing.assert_allclose(high[members] - predicted[members], half, atol=1e-9)
        np.testing.assert_allclose(predicted[members] - low[members], half, atol=1e-9)


def test_a_higher_level_is_wider_and_levels_are_checked(engine: Engine) -> None:
    predicted, measured = measure(engine, HYPOXIA)
    widths = [np.ptp(engine.intervals(predicted, measured, level), axis=0) for level in (0.5, 0.9)]
    assert (widths[0] < widths[1]).all()
    for level in (0, 1, 90):
        with pytest.raises(InputError, match="between 0 and 1"):
            engine.intervals(predicted, measured, level)


def test_half_of_the_patients_cover_the_other_half(engine: Engine) -> None:
    """Split conformal as promised: bounds of some held-out patients, coverage of the others."""
    rng = np.random.default_rng(1)
    covered = []
    for name in list(engine.spectrum)[:4]:
        predicted, measured = measure(engine, collections.find(name))
        errors, rows = residuals(engine, predicted, measured)
        errors = errors / engine.spread(measured)[rows]
        owners, cohorts = engine.patients[rows], engine.cohorts[rows]
        for _ in range(20):
            chosen = rng.permutation(np.unique(owners))
            known = np.isin(owners, chosen[: len(chosen) // 2])
            bounds = calibrate.cohort_bounds(errors[known], cohorts[known], owners[known], 0.9)
            covered += [errors[k] <= bounds[str(cohorts[k])] for k in np.flatnonzero(~known)]
    # Cohorts of about 33 calibrating patients: 0.9 to 0.93 expected, and splits of one archive.
    assert 0.88 < np.mean(covered) < 0.95


def test_cohorts_left_out_are_predicted_by_the_ridge_of_the_others(engine: Engine) -> None:
    """Slopes and level from a plain weighted least-squares solve on the other cohorts' patients."""
    measured = measure(engine, HYPOXIA)[1]
    operator = engine.operators[COHORT_SCHEME]
    found = operator.apply(measured[:, None])[:, 0]
    model = need_space(engine.database).final
    raw = engine.database.matrix(SLIDES, SLIDES.vector)
    values = model.slide_input.standardise(raw).astype(np.float64)
    rna = dict(zip(engine.reference.patients.tolist(), measured.tolist(), strict=True))
    for cohort in np.unique(engine.cohorts):
        patients = sorted({str(p) for p, c in zip(engine.patients, engine.cohorts, strict=True)
                           if c != cohort and p in rna})  # fmt: skip
        x = np.array([values[engine.patients == p].mean(axis=0) for p in patients])
        y = np.array([rna[p] for p in patients])
        own = np.array([engine.cohorts[engine.patients == p][0] for p in patients])
        centre = x.mean(axis=0)
        same = (own[:, None] == own).astype(float)
        inner = (x - centre) @ (x - centre).T / x.shape[1]
        gram = inner * (1 + predict.OWN_SLOPE * same) / (1 + predict.OWN_SLOPE)
        gram += predict.LEVEL * same + predict.GRAND + predict.RIDGE * np.eye(len(x))
        alpha = np.linalg.solve(gram, y - y.mean())
        mine = operator.rows[engine.cohorts[operator.rows] == cohort]
        cross = (values[mine] - centre) @ (x - centre).T / x.shape[1] / (1 + predict.OWN_SLOPE)
        expected = (cross + predict.GRAND) @ alpha + y.mean()
        np.testing.assert_allclose(found[operator.at(mine)], expected, atol=2e-4)
        weight = operator.dense[np.ix_(operator.at(mine), engine.reference.cohorts == cohort)]
        assert np.abs(weight).max() == 0


def engine_without(engine: Engine, few: str, keep: int) -> Engine:
    """The same snapshot, where only `keep` of one cohort's patients count as held out."""
    other = Engine(engine.database)
    pairs = engine.pairs
    mine = engine.cohorts[pairs.slide] == few
    some = np.unique(engine.patients[pairs.slide[mine]])[:keep]
    keep_rows = ~mine | np.isin(engine.patients[pairs.slide], some)
    slide, profile = pairs.slide[keep_rows], pairs.profile[keep_rows]
    other.pairs = HeldOutPairs.of(slide, profile, engine.cohorts[slide])
    return other


@pytest.mark.parametrize("keep", [0, calibrate.MIN_PATIENTS - 1])
def test_cohorts_with_few_patients_are_as_wide_as_the_worst_left_out(
    engine: Engine, keep: int
) -> None:
    predicted, measured = measure(engine, HYPOXIA)
    other = engine_without(engine, "COHORT-B", keep)
    low, high = other.intervals(predicted, measured)
    operator = engine.operators[COHORT_SCHEME]
    left_out = np.full(len(predicted), np.nan)
    left_out[operator.rows] = operator.apply(measured[:, None])[:, 0]
    errors, rows = residuals(engine, left_out, measured)
    cohorts, owners = engine.cohorts[rows], engine.patients[rows]
    worst = max(calibrate.conformal_bound(errors[cohorts == c], owners[cohorts == c], 0.9)
                for c in ("COHORT-A", "COHORT-C"))  # fmt: skip
    mine = engine.cohorts == "COHORT-B"
    np.testing.assert_allclose((high - low)[mine], 2 * worst, atol=1e-6)
    before = np.ptp(engine.intervals(predicted, measured), axis=0)
    assert (high - low)[mine].mean() > before[mine].mean()
    np.testing.assert_allclose((high - low)[~mine], before[~mine])


def test_where_nothing_can_be_measured_there_is_no_interval_and_a_note(engine: Engine) -> None:
    predicted, measured = measure(engine, HYPOXIA)
    other = engine_without(engine, "COHORT-B", 3)
    low, _ = other.intervals(predicted, measured, method="soft-knn")
    mine = engine.cohorts == "COHORT-B"
    assert np.isnan(low[mine]).all()
    assert not np.isnan(low[~mine]).any()
    found = search(other, HYPOXIA, k=10_000, null=0, method="soft-knn")
    hits = found.hits.to_pylist()
    assert all((h["low"] is None) == (h["cohort"] == "COHORT-B") for h in hits)
    assert any(f"no interval for {mine.sum()} slides" in note for note in found.notes)


def test_search_and_score_show_the_same_intervals(engine: Engine) -> None:
    hits = search(engine, HYPOXIA, k=10_000, null=0).hits.sort_by("slide_id")
    plain = score(engine, [HYPOXIA, UNSEEN])
    wide = score(engine, [HYPOXIA, UNSEEN], intervals=True)
    identity = ["slide_id", "patient_id", "cohort"]
    assert plain.table.column_names == [*identity, HYPOXIA.name, UNSEEN.name]
    assert wide.table.column_names == [
        *identity, HYPOXIA.name, f"{HYPOXIA.name}_low", f"{HYPOXIA.name}_high",
        UNSEEN.name, f"{UNSEEN.name}_low", f"{UNSEEN.name}_high", "basis", "domain",
    ]  # fmt: skip
    for column, end in (("score", ""), ("low", "_low"), ("high", "_high")):
        np.testing.assert_allclose(wide.table[HYPOXIA.name + end], hits[column], atol=1e-5)
    assert wide.table["domain"].to_pylist() == hits["domain"].to_pylist()
    assert wide.table["basis"].to_pylist() == hits["basis"].to_pylist()
    assert any(UNSEEN.name in note and "hardly" in note for note in plain.notes)
    held_out = plain.provenance.parameters["held_out_r"]
    assert held_out[HYPOXIA.name] == pytest.approx(engine.spectrum[HYPOXIA.name].within_r, abs=1e-4)


def test_a_set_named_like_an_end_of_another_is_refused(engine: Engine) -> None:
    twin = replace(HYPOXIA, name=f"{HYPOXIA.name}_low")
    with pytest.raises(GeneSetError, match="_low, as a column"):
        score(engine, [HYPOXIA, twin], intervals=True)


# The domain --------------------------------------------------------------------------------------


def test_distances_are_those_of_plain_loops(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With four components: nearest neighbours in their plane, and the rest of the vector."""
    monkeypatch.setattr(predict, "COMPONENTS", 4)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 9)).astype(np.float32) * np.arange(1, 10, dtype=np.float32)
    keys = names(50)
    rows = predict.Rows(x, keys, keys, np.repeat(["A", "B"], 25), np.full(50, ""))
    every = np.arange(50)
    ridge = predict._ridge(x, rows, every, rows, every)
    new = rng.normal(size=(6, 9)).astype(np.float32) * 5
    centre = x.astype(float).mean(axis=0)
    _, _, directions = np.linalg.svd(x - centre)
    plane = directions[:4]
    for found, vector in zip(ridge.distances(new, x), new, strict=True):
        c = plane @ (vector - centre)
        near = sorted(((plane @ (t - centre) - c) ** 2).sum() for t in x)[: predict.NEAREST]
        rest = vector - centre - plane.T @ c
        np.testing.assert_allclose(found, [np.sqrt(np.mean(near)), np.linalg.norm(rest)], rtol=1e-4)


def outlying(distance: Array, held_out: Array, cohorts: Array) -> Array:
    """`calibrate.outlying` of slides that each have a patient of their own."""
    known = np.flatnonzero(held_out)
    return calibrate.outlying(distance, known, Groups.of(cohorts), names(len(known)))


def test_a_slide_beyond_the_held_out_slides_of_its_cohort_is_flagged() -> None:
    rng = np.random.default_rng(4)
    distance = np.abs(rng.normal(size=(500, 2)))
    cohorts = np.repeat(["A", "B"], [300, 200])
    distance[cohorts == "B"] *= 10
    held_out = np.arange(500) % 10 != 0
    distance[0], distance[10], distance[490] = (0, 7), (7, 0), (7, 7)
    flagged = outlying(distance, held_out, cohorts)
    assert flagged[0]
    assert flagged[10]
    assert not flagged[490], "far for A, near for its own cohort"


def test_ordinary_slides_are_flagged_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(60):
        distance = rng.gamma(5, size=(800, 2))
        held_out = np.arange(800) < 600
        cohorts = np.where(np.arange(800) % 2, "A", "B")
        shares.append(outlying(distance, held_out, cohorts)[600:].mean())
    assert np.mean(shares) < calibrate.FALSE_ALARM + 0.004
    assert np.mean(shares) > calibrate.FALSE_ALARM / 2


def test_few_held_out_slides_bound_by_their_largest() -> None:
    distance = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [3.5, 0.0], [2.5, 0.0]])
    held_out = np.array([True, True, True, False, False])
    flagged = outlying(distance, held_out, np.full(5, "A"))
    assert flagged.tolist() == [False, False, False, True, False]


def test_slides_from_elsewhere_are_marked_and_ordinary_ones_are_not(
    aligned_copy: Path, archive: synth.Archive, tmp_path: Path
) -> None:
    """New slides: some like those of the archive, some far outside of it."""
    rng = np.random.default_rng(6)
    like = archive.embeddings[:40] + rng.normal(scale=0.02, size=(40, 32)).astype(np.float32)
    far = like + 4 * rng.normal(size=32).astype(np.float32)
    own = archive.cohorts[archive.slide_patient[:40]].tolist()
    table = {
        "slide_id": [f"N{i:02d}-{kind}" for kind in ("FAR", "LIKE") for i in range(40)],
        "cohort": own * 2,
        "features": [*far.tolist(), *like.tolist()],
    }
    parquet.write_table(pa.table(table), tmp_path / "new.parquet")
    database = Database.open(aligned_copy)
    ingest_slides(database, [tmp_path / "new.parquet"], options=Options(), encoder="toy-encoder")
    engine = Engine(database)
    new = np.char.startswith(engine.slide_ids, "N")
    kind = np.char.endswith(engine.slide_ids, "FAR")
    assert engine.out_of_domain[new & kind].all()
    assert engine.out_of_domain[new & ~kind].mean() < 0.1
    found = search(engine, HYPOXIA, k=10_000, null=0)
    marked = {h["slide_id"] for h in found.hits.to_pylist() if h["domain"] == "out"}
    assert marked == set(engine.slide_ids[engine.out_of_domain].tolist())
    assert any("are unlike those that the model has learned from" in n for n in found.notes)


# Specificity -------------------------------------------------------------------------------------


def test_specificity_is_the_distance_to_random_sets(engine: Engine) -> None:
    """The same random sets, correlated cohort by cohort with numpy."""
    found = answer(engine, HYPOXIA, null=100)
    p, match = found.predictability, found.match
    seed = [0, int(HYPOXIA.sha256[:8], 16)]
    sets = calibrate.random_sets(
        engine.reference, match.positions, match.weights, count=100, seed=seed
    )
    random = []
    patients = sorted(set(engine.patients) & set(engine.reference.patients))
    for drawn, weights in sets:
        genes = [engine.reference.genes[j] for j in drawn]
        predicted, measured = measure(
            engine, Signature("R", dict(zip(genes, weights.tolist(), strict=True)))
        )
        y = [measured[engine.reference.patients == p].mean() for p in patients]
        x = [predicted[engine.patients == p].mean() for p in patients]
        own = np.array([engine.cohorts[engine.patients == p][0] for p in patients])
        random.append(
            np.mean([np.corrcoef(np.array(x)[own == c], np.array(y)[own == c])[0, 1]
                     for c in np.unique(own)])
        )  # fmt: skip
    assert p.within_r is not None
    assert p.random_r == pytest.approx(np.mean(random), abs=1e-4)
    assert p.specificity == pytest.approx(p.within_r - np.mean(random), abs=1e-4)
    assert p.specificity_z == pytest.approx(
        (p.within_r - np.mean(random)) / np.std(random), abs=0.02
    )
    assert p.specificity_percentile == pytest.approx(
        100 * np.mean(np.array(random) < p.within_r), abs=1
    )


def test_planted_signatures_are_specific_and_invisible_ones_are_not(engine: Engine) -> None:
    shown, hidden = (answer(engine, s).predictability for s in (HYPOXIA, UNSEEN))
    assert shown.specificity_percentile is not None
    assert shown.specificity_percentile > 95
    assert hidden.specificity_percentile is not None
    assert hidden.specificity_percentile < 50
    assert answer(engine, HYPOXIA, null=0).predictability.specificity is None


def test_a_second_query_computes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answer(engine, HYPOXIA, null=100)
    monkeypatch.setattr(calibrate, "random_sets", None)
    assert answer(engine, replace(HYPOXIA, name="OTHER"), null=100) is first


def test_random_sets_that_must_repeat_the_signature_are_told(engine: Engine) -> None:
    """A signature of nearly all genes leaves no others to draw."""
    most = Signature("MOST", dict.fromkeys(engine.reference.genes[:-8], 1.0))
    found = search(engine, most, k=1, null=100)
    assert any("too few other genes of like expression" in note for note in found.notes)
    assert not any("too few other" in n for n in search(engine, HYPOXIA, k=1, null=100).notes)


def test_random_sets_without_a_score_in_every_profile_are_left_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Engine(engine.database)
    matrix = other.reference.matrix

    def partial(sets: object, method: str = "mean_z") -> Array:
        scores = matrix(sets, method)  # type: ignore[arg-type]
        if scores.shape[1] > 1:
            scores[0, ::2] = np.nan
        return scores

    monkeypatch.setattr(other.reference, "matrix", partial)
    found = search(other, HYPOXIA, k=3, null=120)
    assert "p" not in found.hits.column_names
    assert found.predictability.specificity is None
    assert any("only 60 of 120 random gene sets" in note for note in found.notes)
    other.answers.clear()
    enough = search(other, HYPOXIA, k=3, null=240)
    assert not np.isnan(enough.hits["p"].to_numpy()).any()


# In words ----------------------------------------------------------------------------------------

GOOD = Predictability(
    n_pairs=100, r2=0.4, r=0.6, within_r=0.5, by_cohort={"A": 0.6, "B": 0.15, "C": 0.55},
    site_r2=None, site_within_r=None, spearman=0.6, rank=3, of=42,
)  # fmt: skip


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (GOOD, "predicted from H&E about as well as the top fifth of Hallmark sets; "
         "within B (r 0.15) it is weak"),
        (replace(GOOD, rank=15, by_cohort={}, specificity_percentile=100.0),
         "predicted from H&E about as well as the upper half of Hallmark sets; "
         "better than 99 % of random gene sets like it"),
        (replace(GOOD, rank=30, by_cohort={}, specificity_percentile=80.0),
         "predicted from H&E about as well as the lower half of Hallmark sets; "
         "only somewhat better than random gene sets like it (than 80 % of them)"),
        (replace(GOOD, rank=42, within_r=0.1, specificity_percentile=12.0),
         "hardly predicted from H&E, like the bottom fifth of Hallmark sets; "
         "no better than random gene sets like it (than 12 % of them)"),
        (replace(GOOD, rank=None, of=None, by_cohort={}, within_r=None), "predicted from H&E"),
        (replace(GOOD, r=None, within_r=None),
         "how well it is predicted from H&E cannot be measured here"),
    ],
)  # fmt: skip
def test_predictability_in_words(p: Predictability, words: str) -> None:
    assert in_words(p) == words


def test_spearman_and_cohorts_are_told(engine: Engine) -> None:
    from scipy import stats

    p = search(engine, HYPOXIA, k=1, null=0).predictability
    predicted, measured = measure(engine, HYPOXIA)
    patients = sorted(set(engine.patients) & set(engine.reference.patients))
    x = [predicted[engine.patients == q].mean() for q in patients]
    y = [measured[engine.reference.patients == q].mean() for q in patients]
    assert p.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-4)
    assert set(p.by_cohort) == set(engine.cohorts.tolist())


def test_one_cohort_alone_has_its_own_interval_and_no_left_out(
    aligned: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(aligned, tmp_path / "one.mq"))
    engine = Engine(Database.open(path))
    space = need_space(engine.database)
    _, slides, profiles = predict.read_paired(engine.database, space)
    one = replace(slides, cohorts=np.full(len(slides.cohorts), "ONLY"))
    assert predict.build_left_out(space, one, profiles) is None


@pytest.mark.parametrize("true", [0.15, 0.3, 0.6])
def test_fdr_of_a_sample_is_near_that_of_all(true: float) -> None:
    """Of 200,000 slides some have the least p; scipy says the FDR over all of them."""
    from scipy.stats import false_discovery_control

    rng = np.random.default_rng(8)
    n, null = 200_000, 300
    above = np.where(rng.random(n) < true, rng.binomial(null, 0.004, n), rng.integers(0, 301, n))
    p = (1 + above) / (1 + null)
    exact = false_discovery_control(p)
    found = calibrate.fdr(p, p[calibrate.sampled(np.arange(n))])
    low = exact <= 0.1
    assert low.sum() > 1_000
    # The share of the slides with such a p is p / FDR; of 10,000 it is known to 1 / sqrt(count).
    error = 1 / np.sqrt(10_000 * p / exact)
    assert error[low].max() < 0.06
    assert np.all(np.abs(found / exact - 1)[low] < 4 * error[low])
