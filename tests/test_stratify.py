"""Strata: hand-computed cuts, and properties of any scores."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molquery.errors import InputError
from molquery.stratify import Cut, apply_cuts, by_patient, fit_cuts

SPECS = ["tertiles", "median", "quantiles:0.25,0.75", "quantiles:0.2,0.4,0.6,0.8", "value:0,1.5"]


def test_tertiles_median_and_values_by_hand():
    scores = [6.0, 1.0, 2.0, 5.0, 4.0, 3.0]
    cut = fit_cuts(scores, None, "tertiles")
    assert dict(cut.points) == {"all": (2.5, 4.5)}
    assert cut.scope == "pooled"
    assert apply_cuts(scores, None, cut).tolist() == ["high", "low", "low", "high", "mid", "mid"]
    cut = fit_cuts(scores, None, "value:3")
    assert apply_cuts(scores, None, cut).tolist() == ["high", "low", "low", "high", "high", "low"]
    assert fit_cuts(scores, None, "quantiles:0.2,0.4,0.6").labels == ("q1", "q2", "q3", "q4")


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50, unique=True))
def test_median_is_the_textbook_median(scores):
    assert fit_cuts(scores, None, "median").points["all"][0] == pytest.approx(np.median(scores))


@given(st.integers(3, 60), st.integers(0, 5))
def test_tertiles_of_different_scores_are_of_equal_size(n, seed):
    scores = np.random.default_rng(seed).permutation(n) / 7
    cut = fit_cuts(scores, None, "tertiles")
    sizes = np.unique(apply_cuts(scores, None, cut), return_counts=True)[1]
    assert np.ptp(sizes) <= 1


def test_whole_products_are_whole_despite_rounding():
    scores = np.arange(10.0)
    cut = fit_cuts(scores, None, "quantiles:0.7")  # 0.7 * 10 = 7.000000000000001
    assert cut.points["all"] == (6.5,)


def test_cuts_within_cohorts():
    scores = [1.0, 2.0, 101.0, 102.0]
    cohorts = ["a", "a", "b", "b"]
    cut = fit_cuts(scores, cohorts, "median")
    assert cut.scope == "cohort"
    assert dict(cut.points) == {"a": (1.5,), "b": (101.5,)}
    assert apply_cuts(scores, cohorts, cut).tolist() == ["low", "high", "low", "high"]
    pooled = fit_cuts(scores, None, "median")
    assert apply_cuts(scores, None, pooled).tolist() == ["low", "low", "high", "high"]


def test_ties_go_together_to_the_lower_stratum():
    scores = [1.0, 2.0, 2.0, 2.0, 3.0]
    cut = fit_cuts(scores, None, "median")
    assert apply_cuts(scores, None, cut).tolist() == ["low", "low", "low", "low", "high"]


def test_neighbouring_floats_are_still_cut():
    low = 1.0
    scores = [low, np.nextafter(low, 2)]
    cut = fit_cuts(scores, None, "median")
    assert apply_cuts(scores, None, cut).tolist() == ["low", "high"]


@settings(deadline=None)
@given(
    st.sampled_from(SPECS),
    st.lists(st.tuples(st.floats(-3, 3), st.sampled_from("ab")), min_size=1, max_size=60),
    st.lists(st.tuples(st.floats(-9, 9), st.sampled_from("ab")), max_size=20),
    st.booleans(),
)
def test_strata_partition_and_are_monotone(spec, fitted, new, pooled):
    scores = [s for s, _ in fitted]
    cohorts = None if pooled else [c for _, c in fitted]
    try:
        cut = fit_cuts(scores, cohorts, spec)
    except InputError:
        assert not spec.startswith("value")
        return
    labels = apply_cuts(scores, cohorts, cut)
    assert len(labels) == len(scores)
    if not spec.startswith("value"):
        for key in cut.points:
            inside = [i for i in range(len(scores)) if pooled or cohorts[i] == key]
            assert {labels[i] for i in inside} == set(cut.labels)
    rows = fitted + [row for row in new if pooled or row[1] in cut.points]
    rank = {label: i for i, label in enumerate(cut.labels)}
    applied = apply_cuts([s for s, _ in rows], None if pooled else [c for _, c in rows], cut)
    for key in {"all"} if pooled else set(cut.points):
        of_key = sorted(
            (s, rank[label])
            for (s, c), label in zip(rows, applied, strict=True)
            if pooled or c == key
        )
        steps = [step for _, step in of_key]
        assert steps == sorted(steps)
        assert len(set(of_key)) == len({s for s, _ in of_key})  # equal scores, one stratum


def test_a_cut_is_frozen_and_comes_back_from_json():
    cut = fit_cuts([0.1, 0.2, 0.3, 1.7], ["a", "a", "b", "b"], "median")
    assert Cut(**json.loads(json.dumps(cut.as_dict()))) == cut
    with pytest.raises(TypeError):
        cut.points["a"] = (0.0,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cut.method = "tertiles"


@pytest.mark.parametrize(
    "spec", ["", "terciles", "quantiles", "quantiles:", "value:x", "quantile:0.5", "median:0.5"]
)
def test_an_unknown_spec_lists_the_valid_ones(spec):
    with pytest.raises(InputError, match="tertiles, median, quantiles"):
        fit_cuts([1.0, 2.0], None, spec)


@pytest.mark.parametrize(
    "spec", ["quantiles:0.7,0.3", "quantiles:0,0.5", "quantiles:0.5,1", "value:nan", "value:2,2"]
)
def test_impossible_cut_points_are_refused(spec):
    with pytest.raises(InputError, match=r"increase|between 0 and 1"):
        fit_cuts([1.0, 2.0, 3.0], None, spec)


def test_scores_that_cannot_be_cut():
    with pytest.raises(InputError, match=r"b \(2\)"):
        fit_cuts([1.0, 2.0, 3.0, 1.0, 2.0], ["a", "a", "a", "b", "b"], "tertiles")
    with pytest.raises(InputError, match=r"as many scores\n  found: all \(2\)"):
        fit_cuts([1.0, 2.0], None, "tertiles")
    with pytest.raises(InputError, match="all 2 scores in cohort b are equal"):
        fit_cuts([1.0, 2.0, 3.0, 3.0], ["a", "a", "b", "b"], "median")
    with pytest.raises(InputError, match="stratum empty"):
        fit_cuts([1.0, 1.0, 1.0, 2.0], None, "tertiles")
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        fit_cuts([1.0, np.nan], None, "median")
    with pytest.raises(InputError, match="no scores"):
        fit_cuts([], None, "value:1")
    with pytest.raises(InputError, match="1 of 2 scores have no cohort"):
        fit_cuts([1.0, 2.0], ["a", None], "median")


def test_applying_to_an_unknown_or_missing_cohort():
    cut = fit_cuts([1.0, 2.0], ["a", "a"], "median")
    with pytest.raises(InputError, match="cohorts: c"):
        apply_cuts([1.0, 2.0], ["a", "c"], cut)
    with pytest.raises(InputError, match="per cohort"):
        apply_cuts([1.0], None, cut)
    assert len(apply_cuts([], [], cut)) == 0


def test_by_patient():
    patients = ["p2", "p1", "p2", "p1", "p3"]
    names, mean = by_patient(patients, [1.0, 2.0, 5.0, 3.0, -1.0])
    assert names.tolist() == ["p1", "p2", "p3"]
    assert mean.tolist() == [2.5, 3.0, -1.0]
    assert by_patient(patients, [1.0, 2.0, 5.0, 3.0, -1.0], "max")[1].tolist() == [3.0, 5.0, -1.0]
    assert len(by_patient([], [])[0]) == 0
    with pytest.raises(InputError, match="no patient"):
        by_patient(["p1", None], [1.0, 2.0])
    with pytest.raises(InputError, match="mean, max, or a weight"):
        by_patient(["p1"], [1.0], "sum")
