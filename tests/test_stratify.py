"""Strata: hand-computed cuts, and properties of any scores."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.mixture import GaussianMixture

from molquery.errors import InputError
from molquery.stratify import (
    READY_RULES,
    Cut,
    Rule,
    apply_cuts,
    apply_rules,
    by_patient,
    confidence,
    fit_cuts,
    parse_rule,
)

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


def test_by_patient_weighted_by_hand():
    patients = ["p2", "p1", "p2"]
    names, joined = by_patient(patients, [1.0, 2.0, 4.0], "weighted", [3.0, 1.0, 1.0])
    assert names.tolist() == ["p1", "p2"]
    assert joined.tolist() == [2.0, (1 * 3 + 4 * 1) / 4]
    for weights, text in (([1.0, 0.0, 1.0], "weight 0 only"), ([1.0, -1.0, 1.0], "negative"),
                          ([1.0, np.nan, 1.0], "no weight")):  # fmt: skip
        with pytest.raises(InputError, match=text):
            by_patient(patients, [1.0, 2.0, 4.0], "weighted", weights)


def two_groups(n=300, apart=6.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0, 1, n), rng.normal(apart, 1, n // 2)])


def test_a_mixture_is_cut_where_scikit_learn_changes_its_mind():
    scores = two_groups()
    cut = fit_cuts(scores, None, "mixture")
    assert cut.method == "mixture:2, by BIC"
    assert cut.labels == ("low", "high")
    assert cut.remarks == ()
    oracle = GaussianMixture(2, n_init=10, random_state=5).fit(scores[:, None])
    upper = int(np.argmax(oracle.means_[:, 0]))
    (point,) = cut.points["all"]
    below, above = oracle.predict_proba([[point - 0.05], [point + 0.05]])[:, upper]
    assert below < 0.5 < above
    truth = np.repeat(["low", "high"], [300, 150])
    assert (apply_cuts(scores, None, cut) == truth).mean() > 0.99


def test_a_mixture_is_always_the_same_and_in_any_unit():
    scores = two_groups(apart=3.0)
    (point,) = fit_cuts(scores, None, "mixture:2").points["all"]
    assert fit_cuts(scores, None, "mixture:2").points["all"] == (point,)
    shuffled = np.random.default_rng(1).permutation(scores)
    assert fit_cuts(shuffled, None, "mixture:2").points["all"][0] == pytest.approx(point)
    (moved,) = fit_cuts(scores * 1e-3 + 5, None, "mixture:2").points["all"]
    assert moved == pytest.approx(point * 1e-3 + 5, abs=1e-6)


def test_bic_finds_the_number_of_groups_and_refuses_one():
    rng = np.random.default_rng(2)
    three = np.concatenate([rng.normal(m, 1, 200) for m in (-8, 0, 8)])
    assert fit_cuts(three, None, "mixture").labels == ("low", "mid", "high")
    with pytest.raises(InputError, match="look like one group"):
        fit_cuts(rng.normal(size=400), None, "mixture")
    asked = fit_cuts(rng.normal(size=400), None, "mixture:2")
    assert any("overlap" in remark for remark in asked.remarks)
    with pytest.raises(InputError, match="needs 40 scores"):
        fit_cuts(three[:30], None, "mixture")
    with pytest.raises(InputError, match="not a way to cut"):
        fit_cuts(three, None, "mixture:1")


def test_mixtures_within_cohorts_agree_on_their_number():
    rng = np.random.default_rng(3)
    two = two_groups(seed=4)
    three = np.concatenate([rng.normal(m, 1, 150) for m in (-8, 0, 8)])
    cohorts = ["a"] * len(two) + ["b"] * len(three)
    with pytest.raises(InputError, match="same number of groups"):
        fit_cuts(np.concatenate([two, three]), cohorts, "mixture")
    cut = fit_cuts(np.concatenate([two, two + 50]), ["a"] * len(two) + ["b"] * len(two), "mixture")
    assert cut.points["b"][0] == pytest.approx(cut.points["a"][0] + 50, abs=0.01)


def test_rules_are_parsed():
    assert parse_rule("hot: A_1 high and B low") == Rule("hot", (("A_1", "high"), ("B", "low")))
    assert parse_rule("FILE.gmt#My set high AND B low").conditions[0] == ("FILE.gmt#My set", "high")
    assert str(parse_rule("A high")) == "match: A high"
    for text, said in (("A high or B low", "joined by and"), ("not A high", "joined by and"),
                       ("A", "no condition"), ("", "no condition"), ("other: A high", "cannot be"),
                       ("A high and ", "condition|joined")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            parse_rule(text)


def test_rules_are_applied_in_order_and_the_least_sure_condition_counts():
    strata = {"A": np.array(["high", "high", "low", "low"]),
              "B": np.array(["low", "high", "low", "high"])}  # fmt: skip
    sure = {"A": np.array([0.9, 0.8, 0.6, 0.7]), "B": np.array([0.7, 0.95, 0.9, 0.55])}
    labels, certain = apply_rules([parse_rule("x: A high and B low")], strata, sure)
    assert labels.tolist() == ["x", "other", "other", "other"]
    # fits: min(.9, .7); fails by B: .95; by A: .6; by A and B: the surer of .7 and .55
    assert certain.tolist() == [0.7, 0.95, 0.6, 0.7]
    labels, certain = apply_rules(
        [parse_rule("x: A high and B low"), parse_rule("y: A high")], strata, sure
    )
    assert labels.tolist() == ["x", "y", "other", "other"]
    assert certain.tolist() == [0.7, 0.8, 0.6, 0.7]


def test_the_four_quadrants_partition():
    rules = READY_RULES["tme"]
    (immune, fibrosis) = (name for name, _ in rules[0].conditions)
    strata = {immune: np.array(["high", "high", "low", "low"]),
              fibrosis: np.array(["low", "high", "high", "low"])}  # fmt: skip
    labels, _ = apply_rules(rules, strata, {name: np.ones(4) for name in strata})
    assert labels.tolist() == [rule.label for rule in rules]


def test_confidence_by_hand():
    errors = [-2.0, -1.0, 0.0, 1.0, 2.0]
    # score 0.5, cut at 0: errors above -0.5 are 0, 1, 2: 3 of 6. Score -1.5: those up to 1.5: 4.
    assert confidence([0.5, -1.5], [0.0], [errors]).tolist() == [3 / 6, 4 / 6]
    # between two cuts the less favourable side counts: above -1: {0, 1, 2}; up to 3: all five
    assert confidence([0.0], [-1.0, 3.0], [errors]).tolist() == [3 / 6]
    # an error counts in units of the scale: score 0.5 is 0.25 units above the cut
    assert confidence([1.5], [0.0], [errors], scale=[2.0]).tolist() == [3 / 6]
    assert confidence([2.5], [0.0], [errors], scale=[2.0]).tolist() == [4 / 6]
    # several lists of errors: the worst of them
    assert confidence([0.5], [0.0], [errors, [-9.0] * 9]).tolist() == [0.0]
    assert np.isnan(confidence([0.5], [0.0], [])).all()
    assert np.isnan(confidence([0.5], [0.0], [[]])).all()


@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_confidence_is_the_share_that_keeps_its_side(spread):
    rng = np.random.default_rng(7)
    score = rng.normal(size=6000)
    measured = score + rng.normal(0, spread, 6000)
    known, new = slice(0, 1000), slice(1000, None)
    sure = confidence(score[new], [-0.4, 0.4], [measured[known] - score[known]])
    outer = np.abs(score[new]) > 0.4
    kept = np.where(score[new] > 0.4, measured[new] > 0.4, measured[new] < -0.4)[outer]
    for low, high in ((0.5, 0.6), (0.6, 0.75), (0.75, 0.9), (0.9, 1.0)):
        inside = (sure[outer] >= low) & (sure[outer] < high)
        if inside.sum() > 100:
            error = stats.sem(kept[inside])
            stated = sure[outer][inside].mean()
            assert kept[inside].mean() == pytest.approx(stated, abs=4 * error + 0.03)
