"""Metrics against scikit-learn, scipy, enumeration of every tie order, and numbers done by hand."""

from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import r2_score, roc_auc_score

from molquery.errors import InputError
from molquery.evaluate.metrics import (
    auc,
    benjamini_hochberg,
    empirical_p,
    optional,
    pearson,
    percentile_rank,
    r2,
    ranks,
    retrieval,
    retrieval_from_ranks,
    spearman,
    within_cohort_r,
)


def random_columns(n=60, s=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, s))
    return x, 0.5 * x + rng.normal(size=(n, s))


def test_retrieval_by_hand():
    similarity = [[0.9, 0.5, 0.1, 0.0], [0.9, 0.5, 0.1, 0.0], [0.9, 0.5, 0.1, 0.0]]
    found = retrieval(similarity, np.eye(3, 4, dtype=bool))
    assert (found.n_queries, found.gallery) == (3, 4)
    assert found.recall1 == pytest.approx(1 / 3)
    assert found.recall5 == found.recall10 == 1
    assert found.median_rank == 2
    assert found.mrr == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert (found.chance10, found.fold10) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(
        lambda row: any(positive for _, positive in row)
    )
)
def test_ties_are_the_mean_over_every_order(row):
    scores, positives = zip(*row, strict=True)
    found = ranks([scores], [positives])
    places = []
    for order in permutations(range(len(row))):
        ordered = sorted(order, key=lambda i: -scores[i])  # stable: ties keep the permuted order
        places.append(1 + next(p for p, i in enumerate(ordered) if positives[i]))
    places = np.array(places)
    assert found.rank[0] == pytest.approx(places.mean())
    assert found.reciprocal[0] == pytest.approx((1 / places).mean())
    for k in (1, 2, 5, 10):
        assert found.hits(k)[0] == pytest.approx((places <= k).mean())


def test_constant_similarity_is_chance():
    n = 37
    found = retrieval(np.ones((n, n)), np.eye(n, dtype=bool))
    assert found.recall1 == pytest.approx(1 / n)
    assert found.recall10 == pytest.approx(10 / n)
    assert found.median_rank == (n + 1) / 2
    assert found.mrr == pytest.approx((1 / np.arange(1, n + 1)).mean())
    assert found.fold10 == pytest.approx(1)


def test_random_similarity_is_near_chance_and_chance_is_hypergeometric():
    rng = np.random.default_rng(1)
    positives = rng.random((400, 100)) < 0.03
    positives[:, 0] = True
    found = ranks(rng.random((400, 100)), positives)
    k = positives.sum(axis=1)
    expected = [1 - comb(100 - p, 10) / comb(100, 10) for p in k]
    np.testing.assert_allclose(found.chance(10), expected)
    np.testing.assert_allclose(found.chance(10), stats.hypergeom.sf(0, 100, k, 10))
    assert retrieval_from_ranks(found).fold10 == pytest.approx(1, abs=0.15)


def test_allowed_restricts_the_gallery():
    rng = np.random.default_rng(2)
    cohorts = np.array(["a", "b", "c"])[rng.integers(3, size=50)]
    similarity = rng.normal(size=(50, 50))
    own = cohorts[:, None] == cohorts
    found = ranks(similarity, np.eye(50, dtype=bool), allowed=own)
    for i in range(50):
        row = similarity[i, cohorts == cohorts[i]]
        assert found.rank[i] == 1 + (row > similarity[i, i]).sum()
        assert found.gallery[i] == len(row)


def test_queries_without_a_partner_are_not_counted():
    positives = np.array([[True, False], [False, False]])
    found = ranks(np.ones((2, 2)), positives)
    assert found.query.tolist() == [0]
    assert retrieval_from_ranks(found).n_queries == 1
    with pytest.raises(InputError, match="no query"):
        retrieval(np.ones((2, 2)), np.zeros((2, 2), dtype=bool))


def test_retrieval_refuses_nan_and_unlike_shapes():
    with pytest.raises(InputError, match="NaN"):
        ranks([[np.nan, 1.0]], [[True, False]])
    with pytest.raises(InputError, match="alike"):
        ranks([[0.1, 1.0]], [[True]])


def test_correlations_match_scipy_and_sklearn():
    x, y = random_columns()
    y[:30, 0] = np.round(y[:30, 0])  # ties
    for j in range(x.shape[1]):
        assert pearson(x, y)[j] == pytest.approx(stats.pearsonr(x[:, j], y[:, j]).statistic)
        assert spearman(x, y)[j] == pytest.approx(stats.spearmanr(x[:, j], y[:, j]).statistic)
    np.testing.assert_allclose(r2(x, y), r2_score(y, x, multioutput="raw_values"))
    assert optional(pearson(x[:, 0], y[:, 0])) == pytest.approx(pearson(x, y)[0])


def test_r2_by_hand_is_not_symmetric():
    assert r2([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]) == pytest.approx(0.5)
    assert r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]) == pytest.approx(1 - 1 / (14 / 3))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
def test_a_constant_column_is_nan_and_optional_makes_it_none(constant):
    x, y = random_columns(n=7, s=2)
    x[:, 1] = constant
    for function in (pearson, spearman):
        result = function(x, y)
        assert optional(result[0]) is not None
        assert optional(result[1]) is None
        assert optional(function(y, x)[1]) is None
    assert optional(r2(y, x)[1]) is None
    assert optional(r2(x, y)[1]) < 0


def test_nan_and_too_few_rows_give_nan():
    x, y = random_columns(n=5, s=2)
    x[2, 0] = np.nan
    for function in (pearson, spearman, r2):
        result = function(x, y)
        assert np.isnan(result[0])
        assert np.isfinite(result[1])
        assert np.isnan(function(x[:1], y[:1])).all()
        assert np.isnan(function(x[:0], y[:0])).all()
    with pytest.raises(InputError, match="one shape"):
        pearson(x, y[:, :1])


def test_within_cohort_r_is_the_unweighted_mean_of_cohorts():
    x, y = random_columns(n=100)
    cohorts = ["a"] * 60 + ["b"] * 20 + ["small"] * 19 + [None]
    x[60:80, 3] = 1.0  # constant in b
    mean, each = within_cohort_r(x, y, cohorts)
    assert list(each) == ["a", "b"]
    for j in range(3):
        in_a = stats.pearsonr(x[:60, j], y[:60, j]).statistic
        in_b = stats.pearsonr(x[60:80, j], y[60:80, j]).statistic
        assert mean[j] == pytest.approx((in_a + in_b) / 2)
    assert np.isnan(each["b"][3])
    assert mean[3] == pytest.approx(each["a"][3])
    nothing, none = within_cohort_r(x, y, cohorts, min_n=1000)
    assert np.isnan(nothing).all()
    assert none == {}


def test_within_cohort_r_ignores_differences_between_cohorts():
    rng = np.random.default_rng(4)
    tissue = np.repeat([0.0, 10.0], 200)
    x, y = tissue + rng.normal(size=400), tissue + rng.normal(size=400)
    assert pearson(x, y) > 0.9
    mean, _ = within_cohort_r(x, y, ["a"] * 200 + ["b"] * 200)
    assert abs(mean) < 0.2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auc_matches_sklearn(rows):
    scores, labels = zip(*rows, strict=True)
    if len(set(labels)) == 2:
        assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert np.isnan(auc(scores, labels))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_benjamini_hochberg_matches_scipy(p):
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), atol=1e-15)


def test_benjamini_hochberg_by_hand_and_refusals():
    np.testing.assert_allclose(benjamini_hochberg([0.04, 0.01, 0.03]), [0.04, 0.03, 0.04])
    assert len(benjamini_hochberg([])) == 0
    for bad in ([0.5, np.nan], [-0.1], [1.1], [[0.5]]):
        with pytest.raises(InputError, match="p values"):
            benjamini_hochberg(bad)


def test_empirical_p_by_hand():
    null = [[1, 2, 3], [1, 2, 3], [1, 2, 3]]
    np.testing.assert_allclose(empirical_p([0, 2, 4], null), [1.0, 3 / 4, 1 / 4])
    with pytest.raises(InputError, match="NaN"):
        empirical_p([np.nan], [[0.0]])
    with pytest.raises(InputError, match="one row per score"):
        empirical_p([0.0, 1.0], [[0.0]])


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_percentile_rank_matches_scipy(values):
    expected = [stats.percentileofscore(values, v, kind="mean") for v in values]
    np.testing.assert_allclose(percentile_rank(values), expected)


def test_percentile_rank_of_columns_and_nan():
    table = np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 5.0]])
    result = percentile_rank(table)
    np.testing.assert_allclose(result[:, 0], [100 / 6, 50, 500 / 6])
    np.testing.assert_allclose(result[:, 1], [50, np.nan, 50])
