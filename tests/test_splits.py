"""Splits: properties that must hold for any grouping, and shapes of real cohorts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molquery.errors import InputError, SpaceError
from molquery.evaluate.splits import folds_by_group, holdout_by_group

rows = st.lists(
    st.tuples(st.integers(0, 14), st.sampled_from(["BRCA", "LUAD", "LUSC", None])),
    min_size=1,
    max_size=80,
)


def unpack(table):
    return [f"p{g}" for g, _ in table], [s for _, s in table]


@settings(deadline=None)
@given(rows, st.integers(2, 5), st.integers(0, 3), st.booleans(), st.randoms())
def test_groups_stay_whole_and_row_order_does_not_matter(table, n_folds, seed, stratified, random):
    groups, strata = unpack(table)
    if len(set(groups)) < n_folds:
        with pytest.raises(SpaceError, match=f"{n_folds} folds"):
            folds_by_group(groups, n_folds=n_folds, seed=seed)
        return
    kinds = strata if stratified else None
    folds = folds_by_group(groups, n_folds=n_folds, seed=seed, strata=kinds)
    assert folds.dtype == np.int64
    assert set(folds.tolist()) == set(range(n_folds))
    assert len({(g, f) for g, f in zip(groups, folds, strict=True)}) == len(set(groups))
    order = list(range(len(groups)))
    random.shuffle(order)
    again = folds_by_group(
        [groups[i] for i in order],
        n_folds=n_folds,
        seed=seed,
        strata=[strata[i] for i in order] if stratified else None,
    )
    assert again.tolist() == folds[order].tolist()


@settings(deadline=None)
@given(rows, st.integers(2, 5), st.integers(0, 3))
def test_fold_sizes_differ_by_at_most_the_largest_group(table, n_folds, seed):
    groups, _ = unpack(table)
    if len(set(groups)) >= n_folds:
        sizes = np.bincount(folds_by_group(groups, n_folds=n_folds, seed=seed))
        assert np.ptp(sizes) <= max(groups.count(g) for g in groups)


@settings(deadline=None)
@given(st.lists(st.sampled_from("ABCD"), min_size=5, max_size=80), st.integers(0, 3))
def test_single_rows_are_spread_evenly_within_and_over_strata(strata, seed):
    groups = [f"p{i}" for i in range(len(strata))]
    folds = folds_by_group(groups, n_folds=5, seed=seed, strata=strata)
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1
    for stratum in set(strata):
        inside = folds[np.array(strata) == stratum]
        assert np.ptp(np.bincount(inside, minlength=5)) <= 1


def sites(seed):
    """About 1,600 rows at 300 sites of skewed size, each site in one of 20 cohorts."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.geometric(0.18, size=300), 60)
    names = np.repeat([f"site{i}" for i in range(300)], sizes)
    cohorts = np.repeat([f"c{i}" for i in rng.integers(20, size=300)], sizes)
    return names, cohorts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sites_of_many_cohorts_are_balanced(seed):
    names, cohorts = sites(seed)
    folds = folds_by_group(names, n_folds=5, seed=seed, strata=cohorts)
    sizes = np.bincount(folds)
    assert sizes.max() / sizes.min() < 1.1
    worst = np.bincount(folds_by_group(names, n_folds=5, seed=seed)[cohorts == "c0"], minlength=5)
    assert np.ptp(np.bincount(folds[cohorts == "c0"], minlength=5)) <= np.ptp(worst)


def test_the_seed_decides_and_is_repeatable():
    groups = [f"p{i}" for i in range(40)]
    first = folds_by_group(groups, n_folds=4, seed=0)
    assert first.tolist() == folds_by_group(groups, n_folds=4, seed=0).tolist()
    assert first.tolist() != folds_by_group(groups, n_folds=4, seed=1).tolist()


def test_too_few_groups_says_what_is_there_and_what_is_possible():
    with pytest.raises(SpaceError) as caught:
        folds_by_group(["a", "a", "b"], n_folds=5, seed=0)
    assert "2: a, b" in str(caught.value)
    assert "at most 2 folds" in str(caught.value)
    with pytest.raises(SpaceError, match="more patients"):
        folds_by_group(["a", "a"], n_folds=2, seed=0)
    with pytest.raises(SpaceError, match="none"):
        folds_by_group([], n_folds=2, seed=0)


def test_rows_without_a_group_and_unlike_lengths_are_refused():
    with pytest.raises(InputError, match="2 of 3 rows"):
        folds_by_group(["a", None, ""], n_folds=2, seed=0)
    with pytest.raises(InputError, match="differ"):
        folds_by_group(["a", "b"], n_folds=2, seed=0, strata=["x"])
    with pytest.raises(InputError, match="2 folds"):
        folds_by_group(["a", "b"], n_folds=1, seed=0)


@settings(deadline=None)
@given(rows, st.floats(0.05, 0.95), st.integers(0, 3), st.randoms())
def test_holdout_keeps_groups_whole_and_both_sides_filled(table, fraction, seed, random):
    groups, strata = unpack(table)
    if len(set(groups)) < 2:
        with pytest.raises(SpaceError, match="at least 2 groups"):
            holdout_by_group(groups, fraction=fraction, seed=seed)
        return
    held = holdout_by_group(groups, fraction=fraction, seed=seed, strata=strata)
    assert held.dtype == bool
    assert held.any()
    assert not held.all()
    assert not set(np.array(groups)[held]) & set(np.array(groups)[~held])
    order = list(range(len(groups)))
    random.shuffle(order)
    shuffled = [groups[i] for i in order], [strata[i] for i in order]
    again = holdout_by_group(shuffled[0], fraction=fraction, seed=seed, strata=shuffled[1])
    assert again.tolist() == held[order].tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.5])
def test_holdout_takes_its_share_of_every_cohort(fraction):
    strata = np.repeat(["a", "b", "c"], [200, 60, 20])
    groups = [f"p{i}" for i in range(280)]
    held = holdout_by_group(groups, fraction=fraction, seed=0, strata=strata)
    assert held.sum() == pytest.approx(280 * fraction, abs=1.5)
    for cohort in "abc":
        inside = strata == cohort
        assert held[inside].sum() == pytest.approx(inside.sum() * fraction, abs=1.5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_holdout_refuses_a_fraction_outside_zero_and_one(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        holdout_by_group(["a", "b"], fraction=fraction, seed=0)
