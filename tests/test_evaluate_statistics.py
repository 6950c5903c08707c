"""The weighted bootstrap against explicit resampling, and geometry against scipy and numbers."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from molquery.errors import InputError
from molquery.evaluate import metrics, resample
from molquery.evaluate.geometry import k_occurrence, modality_gap, skewness
from molquery.evaluate.held_out import mean_retrieval
from molquery.evaluate.resample import Resamples, estimate

N = 60
PATIENTS = np.array([f"p{i // 2:02d}" for i in range(N)])  # two rows each


@pytest.fixture(scope="module")
def drawn():
    return Resamples(PATIENTS, n=40, seed=3).of(PATIENTS)


def repeated(weights):
    """Rows as often as their weight says: what the weights stand for."""
    return np.repeat(np.arange(len(weights)), weights.astype(int))


def columns(seed=0, s=3):
    rng = np.random.default_rng(seed)
    x = 1e4 + rng.normal(size=(N, s))  # far from zero: sums of squares must not drown it
    return x, 0.6 * x + rng.normal(size=(N, s)) + 5.0


def test_resamples_draw_whole_patients_and_begin_with_the_data(drawn):
    assert drawn.weights.shape == (41, N)
    assert (drawn.weights[0] == 1).all()
    assert (drawn.weights[:, ::2] == drawn.weights[:, 1::2]).all()
    assert (drawn.draws.sum(axis=1) == N // 2).all()
    assert len({tuple(row) for row in drawn.draws}) == 41
    again = Resamples(PATIENTS[::-1], n=40, seed=3).of(PATIENTS)
    assert (again.weights == drawn.weights).all()
    assert not (Resamples(PATIENTS, n=40, seed=4).of(PATIENTS).weights == drawn.weights).all()


def test_rows_of_another_table_have_the_weights_of_their_patients():
    resamples = Resamples(["b", "a", "c", "a"], n=9, seed=0)
    first, second = resamples.of(["a", "c"]).weights, resamples.of(["c", "c", "a"]).weights
    assert (first[:, 1] == second[:, 0]).all()
    assert (first[:, 0] == second[:, 2]).all()


def test_correlations_are_those_of_the_rows_drawn(drawn):
    predicted, measured = columns()
    r2, r = resample.correlations(predicted, measured, drawn)
    for i, weights in enumerate(drawn.weights):
        rows = repeated(weights)
        np.testing.assert_allclose(r[i], metrics.pearson(predicted[rows], measured[rows]))
        np.testing.assert_allclose(r2[i], metrics.r2(predicted[rows], measured[rows]))


def test_within_cohort_correlation_is_that_of_the_rows_drawn(drawn):
    predicted, measured = columns(1)
    cohorts = np.array(["a"] * 20 + ["b"] * 30 + ["tiny"] * 4 + [""] * 6)
    mean, each = resample.within_r(predicted, measured, cohorts, drawn, min_n=5)
    assert list(each) == ["a", "b"]
    for i in (0, 7, 21):
        rows = repeated(drawn.weights[i])
        labels = [c if c in each else None for c in cohorts[rows]]
        expected, _ = metrics.within_cohort_r(predicted[rows], measured[rows], labels, min_n=5)
        np.testing.assert_allclose(mean[i], expected)
    nothing, none = resample.within_r(predicted, measured, cohorts, drawn, min_n=1000)
    assert np.isnan(nothing).all()
    assert none == {}


def test_a_constant_column_is_nan_in_every_resample(drawn):
    predicted, measured = columns()
    predicted[:, 1] = 0.3
    r2, r = resample.correlations(predicted, measured, drawn)
    assert np.isnan(r[:, 1]).all()
    assert np.isfinite(r[:, 0]).all()
    measured[:, 0] = 1 / 3
    assert np.isnan(resample.correlations(predicted, measured, drawn)[0][:, 0]).all()
    assert np.isfinite(r2[:, 1]).all()


def test_retrieval_over_folds_is_the_mean_over_folds_in_every_resample(drawn):
    rng = np.random.default_rng(4)
    parts, weights = [], []
    for rows in (np.arange(24), np.arange(24, N)):
        n = len(rows)
        similarity = np.round(rng.normal(size=(n, n)) + 1.5 * np.eye(n), 1)  # with ties
        parts.append((metrics.ranks(similarity, np.eye(n, dtype=bool)), drawn.take(rows)))
        weights.append(drawn.weights[:, rows])
    found = resample.retrieval(parts)
    for i in (0, 5, 33):
        folds = [
            metrics.retrieval_from_ranks(ranks.take(repeated(w[i])))
            for (ranks, _), w in zip(parts, weights, strict=True)
        ]
        expected = mean_retrieval(folds)
        for name in resample.FIGURES:
            assert found[name][i] == pytest.approx(expected[name]), name


def test_weighted_median_is_that_of_repeated_values():
    rng = np.random.default_rng(5)
    values = np.round(rng.normal(size=25), 1)
    weights = rng.integers(0, 4, size=(30, 25)).astype(float)
    weights[3] = 0
    found = resample.weighted_median(values, weights)
    for i, w in enumerate(weights):
        expected = np.median(np.repeat(values, w.astype(int))) if w.any() else np.nan
        assert found[i] == pytest.approx(expected, nan_ok=True)


def test_auc_in_every_resample_matches_sklearn(drawn):
    rng = np.random.default_rng(6)
    scores = np.round(rng.normal(size=N), 1)
    labels = rng.random(N) < 0.4
    found = resample.auc(scores, labels, drawn.weights)
    for i, weights in enumerate(drawn.weights):
        expected = roc_auc_score(labels, scores, sample_weight=weights)
        assert found[i] == pytest.approx(expected)
    only_one = np.zeros(N, dtype=bool)
    assert np.isnan(resample.auc(scores, only_one, drawn.weights)).all()


def test_the_interval_of_a_mean_is_near_the_normal_one_and_of_copies_the_same():
    rng = np.random.default_rng(7)
    values = rng.normal(3, 1, size=400)
    groups = np.arange(400).astype(str)

    def mean(values, groups):
        drawn = Resamples(groups, n=1000, seed=0).of(groups)
        return estimate((drawn.weights @ values) / drawn.weights.sum(axis=1))

    found = mean(values, groups)
    error = values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)
    copies = mean(np.repeat(values, 3), np.repeat(groups, 3))
    assert (copies.low, copies.high) == pytest.approx((found.low, found.high))


def test_a_paired_difference_is_narrower_than_its_parts():
    rng = np.random.default_rng(8)
    measured = rng.normal(size=(300, 1))
    one = measured + rng.normal(size=(300, 1))
    two = one + 0.05 * rng.normal(size=(300, 1))
    drawn = Resamples(np.arange(300), n=500).of(np.arange(300))
    r = [resample.correlations(p, measured, drawn)[1][:, 0] for p in (one, two)]
    whole, apart = estimate(r[0]), estimate(r[0] - r[1])
    assert apart.high - apart.low < 0.3 * (whole.high - whole.low)
    assert not apart.excludes_zero
    assert estimate(r[0]).excludes_zero


def test_estimates_without_an_answer():
    assert estimate([np.nan, 1.0, 2.0]).value is None
    assert estimate([1.0]) == resample.Estimate(1.0)
    assert estimate([1.0, np.nan, np.nan, 2.0]).low is None
    assert estimate([1.0, 2.0, 2.0, np.nan]).low == 2.0
    one = Resamples(["only"] * 5).of(["only"] * 5)
    assert one.weights.shape == (1, 5)
    with pytest.raises(InputError, match="at least one row"):
        Resamples([])


def test_k_occurrence_by_hand_and_skewness_as_scipy():
    similarity = np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [0.0, 5.0, 5.0]])
    assert k_occurrence(similarity, 1).tolist() == [1, 2, 0]  # the tie goes to the first
    assert k_occurrence(similarity, 2).tolist() == [1, 3, 2]
    assert k_occurrence(similarity, 9).tolist() == [3, 3, 3]
    counts = k_occurrence(np.random.default_rng(0).normal(size=(80, 40)) * np.arange(40), 5)
    assert skewness(counts) == pytest.approx(stats.skew(counts))
    assert np.isnan(skewness(np.full(7, 0.1)))


def test_modality_gap_by_hand():
    slides = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert modality_gap(slides, slides) == 0
    assert modality_gap(slides, -slides) == pytest.approx(np.sqrt(2))
    assert modality_gap(slides[:1], -slides[:1]) == pytest.approx(2)
