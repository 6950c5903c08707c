"""Association tests against lifelines, scipy, closed forms and hand-computed examples."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.exceptions import ConvergenceError
from lifelines.statistics import multivariate_logrank_test
from scipy import stats

from molquery import associate as a
from molquery.associate import Association, RefusedError
from molquery.errors import InputError
from molquery.outcomes import Survival, survival, variable

ORDER = ("low", "mid", "high")
# Remission times in weeks of 6-MP against placebo: Freireich et al., Blood 1963;21:699.
SIX_MP = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
SIX_MP_EVENT = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def leukaemia():
    time = np.array([*SIX_MP, *PLACEBO], dtype=float)
    event = np.array([*SIX_MP_EVENT, *[1] * 21], dtype=bool)
    return time, event, np.array(["6-MP"] * 21 + ["placebo"] * 21)


def cohort(n=300, effect=0.7, seed=0):
    """Three strata whose hazard rises by exp(effect) each, in two cohorts of unlike hazard."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    block = rng.integers(0, 2, n)
    hazard = np.exp(effect * codes + 1.5 * block)
    death, censored = rng.exponential(1000 / hazard), rng.exponential(900, n)
    time = np.ceil(np.minimum(death, censored))  # whole days: ties
    strata = np.array(ORDER)[codes]
    return time, death <= censored, strata, np.array(["A", "B"])[block]


def test_log_rank_of_the_textbook_example():
    # Kleinbaum and Klein, Survival Analysis, 3rd ed., table 2.1: chi-square 16.79 on 1 df.
    time, event, group = leukaemia()
    found = a.log_rank(time, event, group, ("6-MP", "placebo"))
    assert found.statistic == pytest.approx(16.79, abs=0.005)
    assert found.n == {"6-MP": 21, "placebo": 21}
    assert found.events == {"6-MP": 9, "placebo": 21}


def test_log_rank_by_hand():
    # Deaths at 1 (A), 2 (B), 3 (A), at risk (A, B) = (2, 2), (1, 2), (1, 1); B censored at 4.
    # Ten-fold: every row five times, so that groups are large enough; worked out per time below.
    time, event = np.array([1.0, 3, 2, 4]), np.array([1, 1, 1, 0], dtype=bool)
    group = np.array(["A", "A", "B", "B"])
    rows = np.repeat(np.arange(4), 5)
    found = a.log_rank(time[rows], event[rows], group[rows], ("A", "B"))
    excess, variance = 0.0, 0.0
    for n_a, n_b, d_a, d in [(10, 10, 5, 5), (5, 10, 0, 5), (5, 5, 5, 5)]:
        n = n_a + n_b
        excess += d_a - d * n_a / n
        variance += d * (n_a / n) * (n_b / n) * (n - d) / (n - 1)
    assert found.statistic == pytest.approx(excess**2 / variance)


def test_log_rank_is_that_of_lifelines():
    time, event, strata, _ = cohort()
    found = a.log_rank(time, event, strata, ORDER)
    oracle = multivariate_logrank_test(time, strata, event)
    assert found.statistic == pytest.approx(oracle.test_statistic)
    assert found.p == pytest.approx(oracle.p_value)


def test_stratified_log_rank_is_the_score_test_of_a_stratified_cox_model():
    # With no ties the score test of Cox at 0 is the log-rank test; computed here from the partial
    # likelihood itself, by finite differences.
    rng = np.random.default_rng(3)
    n = 80
    time, event = rng.permutation(np.arange(1.0, n + 1)), rng.random(n) < 0.7
    group, block = rng.integers(0, 2, n), rng.integers(0, 2, n)

    def log_likelihood(beta):
        total = 0.0
        for b in (0, 1):
            for i in np.flatnonzero(event & (block == b)):
                risk = (time >= time[i]) & (block == b)
                total += beta * group[i] - math.log(np.exp(beta * group[risk]).sum())
        return total

    h = 1e-3
    up, mid, down = (log_likelihood(b) for b in (h, 0.0, -h))
    score, information = (up - down) / (2 * h), -(up - 2 * mid + down) / h**2
    labels = np.array(["low", "high"])[group]
    found = a.log_rank(time, event, labels, ("low", "high"), blocks=block.astype(str))
    assert found.statistic == pytest.approx(score**2 / information, rel=1e-4)
    assert "stratified by cohort" in found.test


def test_kaplan_meier_of_the_textbook_example():
    time, event, group = leukaemia()
    treated, placebo = a.kaplan_meier(time, event, group, ("6-MP", "placebo"))
    at = dict(zip(treated.time.tolist(), treated.survival.tolist(), strict=True))
    # Kleinbaum and Klein, table 2.3.
    for t, s in {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378,
                 23: 0.4482}.items():  # fmt: skip
        assert at[t] == pytest.approx(s, abs=5e-5)
    assert (treated.median, placebo.median) == (23, 8)
    assert treated.number_at_risk([0, 6, 7, 10, 13, 16, 22, 23, 36]) == [21, 21, 17, 15, 12, 11,
                                                                         7, 6, 0]  # fmt: skip
    inside = ~np.isnan(treated.low)
    assert (treated.low <= treated.survival)[inside].all()
    assert (treated.survival <= treated.high)[inside].all()
    oracle = KaplanMeierFitter().fit(PLACEBO).confidence_interval_survival_function_.to_numpy()
    np.testing.assert_allclose(placebo.low, oracle[:, 0])
    assert json.dumps(treated.to_dict(), allow_nan=True)


def test_cox_of_the_textbook_example():
    # R: coxph(Surv(time, status) ~ group), Efron: hazard ratio 4.8169 (2.147, 10.81).
    time, event, group = leukaemia()
    terms = {"placebo": (group == "placebo").astype(float)}
    answers, note = a.cox(time, event, terms, report=["placebo"])
    ratio, low, high, z, p = answers["placebo"]
    assert (ratio, low, high) == pytest.approx((4.817, 2.147, 10.81), rel=1e-3)
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert note == ""


def run(n=300, seed=0, **more):
    time, event, strata, block = cohort(n, seed=seed)
    outcome = survival(time, event.astype(int), time_name="os_days", event_name="os_event")
    return a.associate(strata, ORDER, survival=outcome, cohorts=block, **more)


def test_cox_is_stratified_by_cohort_and_adjusted():
    time, event, strata, block = cohort()
    age = np.random.default_rng(1).normal(60, 10, len(time))
    sex = np.random.default_rng(2).choice(["f", "m"], len(time))
    covariates = [variable(age.tolist(), "age"), variable(sex.tolist(), "sex")]
    found = run(covariates=covariates)
    frame = pd.DataFrame({
        "mid": strata == "mid", "high": strata == "high", "age": age, "m": sex == "m",
        "time": time, "event": event, "block": block,
    }).astype({"mid": int, "high": int, "m": int, "event": int})  # fmt: skip
    for columns, test in [
        (["mid", "high"], "Cox, stratified by cohort"),
        (["mid", "high", "age", "m"], "Cox, stratified by cohort, adjusted for age, sex"),
    ]:
        oracle = CoxPHFitter().fit(frame[[*columns, "time", "event", "block"]], "time", "event",
                                   strata=["block"]).summary  # fmt: skip
        mine = [t for t in found.tests if t.test == test]
        assert [t.effect for t in mine] == ["hazard ratio, mid vs low", "hazard ratio, high vs low"]
        for t, name in zip(mine, ["mid", "high"], strict=True):
            assert t.estimate == pytest.approx(oracle.loc[name, "exp(coef)"], rel=1e-5)
            assert t.low == pytest.approx(oracle.loc[name, "exp(coef) lower 95%"], rel=1e-5)
            assert t.p == pytest.approx(oracle.loc[name, "p"], rel=1e-4)
    high = next(t for t in found.tests if t.effect == "hazard ratio, high vs low")
    assert high.low < math.exp(1.4) < high.high  # planted


def test_hazard_ratio_per_standard_deviation():
    rng = np.random.default_rng(5)
    score = rng.normal(3, 7, 500)
    death = rng.exponential(1000 / np.exp(0.5 * (score - 3) / 7))
    strata = np.where(score > 3, "high", "low")
    outcome = survival(np.minimum(death, 1500), (death < 1500).astype(int), time_name="d",
                       event_name="event")  # fmt: skip
    found = a.associate(strata, ("low", "high"), survival=outcome, scores=score)
    (per_sd,) = [t for t in found.tests if t.effect == "hazard ratio, score per sd"]
    assert per_sd.low < math.exp(0.5) < per_sd.high


def test_crossing_hazards_are_noted():
    rng = np.random.default_rng(0)
    early, late = rng.exponential(1, 200) ** 3, 1 + rng.normal(0, 0.05, 200)
    time, event = np.concatenate([early, late]), np.ones(400, dtype=bool)
    event[::10] = False
    outcome = Survival(time, event, np.ones(400, dtype=bool), "os", "", ())
    found = a.associate(np.repeat(["low", "high"], 200), ("low", "high"), survival=outcome)
    assert any("not be proportional" in t.note for t in found.tests)


def test_covariate_categories_without_events_are_left_out_by_name():
    time, event, strata, _ = cohort()
    stage = np.random.default_rng(3).choice(["I", "II"], 300)
    stage[:9], event[:9] = "0", False
    outcome = survival(time, event.astype(int), time_name="t", event_name="os_event")
    found = a.associate(
        strata, ORDER, survival=outcome, covariates=[variable(stage.tolist(), "stage")]
    )
    adjusted = [t for t in found.tests if "adjusted for stage" in t.test]
    assert len(adjusted) == 2
    assert all("left out: stage 0 (9 rows, 0 events)" in t.note for t in adjusted)
    assert all(sum(t.n.values()) == 291 for t in adjusted)
    columns = {"mid": strata == "mid", "high": strata == "high", "II": stage == "II"}
    frame = pd.DataFrame({"time": time, "event": event, **columns}).astype(float)[9:]
    oracle = CoxPHFitter().fit(frame, "time", "event").summary
    assert adjusted[1].estimate == pytest.approx(oracle.loc["high", "exp(coef)"], rel=1e-5)


def test_a_leaping_newton_step_is_taken_back():
    # Of the first step alone lifelines ends in NaN here.
    rng = np.random.default_rng(1)
    age, rare = rng.normal(60, 13, 800), rng.random(800) < 0.015
    death = rng.exponential(9000 / np.exp(0.04 * (age - 60) + 3.0 * rare))
    censored = rng.exponential(1200, 800)
    time, event = np.ceil(np.minimum(death, censored)), death <= censored
    terms = {"age": age, "rare": rare.astype(float)}
    frame = pd.DataFrame({**terms, "time": time, "event": event.astype(int)})
    with pytest.raises(ConvergenceError):
        CoxPHFitter().fit(frame, "time", "event")
    answers, _ = a.cox(time, event, terms, report=["rare"])
    _, low, high, *_ = answers["rare"]
    assert low < math.exp(3) < high


def test_a_group_without_events_is_refused_with_the_reason():
    time = np.arange(1.0, 41)
    event = np.array([True, False] * 10 + [False] * 20)
    outcome = Survival(time, event, np.ones(40, dtype=bool), "os", "", ())
    found = a.associate(np.repeat(["low", "high"], 20), ("low", "high"), survival=outcome)
    by_test = {t.test: t for t in found.tests}
    assert by_test["log-rank"].p is not None
    assert by_test["Cox"].p is None
    assert "does not converge" in by_test["Cox"].note
    assert by_test["Cox"].q is None


def crosstab(table):
    strata, values = [], []
    for i, row in enumerate(table):
        for j, count in enumerate(row):
            strata += [ORDER[i] if len(table) == 3 else ("low", "high")[i]] * count
            values += [f"c{j}"] * count
    return np.array(strata), np.array(values)


def test_fisher_and_the_odds_ratio():
    # R: fisher.test(matrix(c(3, 1, 1, 3), 2)) gives 6.408309 (0.3135693, 621.9337480) on 4 and 4;
    # the groups of 5 here: fisher.test(matrix(c(8, 2, 3, 9), 2)): p 0.0300, scipy is the oracle.
    strata, values = crosstab([[9, 3], [2, 8]])
    found = a.categorical(strata, ("low", "high"), values)
    table = [[8, 2], [3, 9]]  # odds of c1 in high against low
    oracle = stats.contingency.odds_ratio(table)
    assert found.p == pytest.approx(stats.fisher_exact(table).pvalue)
    assert found.estimate == pytest.approx(oracle.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert found.estimate > 1
    assert found.effect == "odds ratio of c1, high vs low"


def test_chi_square_and_cramers_v():
    table = np.array([[30, 20, 10], [20, 25, 15], [10, 20, 40]])
    strata, values = crosstab(table)
    found = a.categorical(strata, ORDER, values)
    oracle = stats.chi2_contingency(table, correction=False)
    assert (found.statistic, found.p) == pytest.approx((oracle.statistic, oracle.pvalue))
    n = table.sum() * 2
    assert found.estimate == pytest.approx(math.sqrt((oracle.statistic - 4) / n))
    assert found.estimate == pytest.approx(stats.contingency.association(table, "cramer"), abs=0.03)
    assert found.low < found.estimate < found.high
    # The bounds are the non-centralities under which the statistic is the 97.5 % and 2.5 % point.
    assert stats.ncx2.cdf(found.statistic, 4, found.low**2 * n) == pytest.approx(0.975)
    assert stats.ncx2.cdf(found.statistic, 4, found.high**2 * n) == pytest.approx(0.025)


def test_v_lies_in_its_interval_however_many_categories():
    rng = np.random.default_rng(0)
    for levels in (2, 6, 15):
        strata = np.array(ORDER)[rng.integers(0, 3, 600)]
        values = np.array([f"c{v:02d}" for v in rng.integers(0, levels, 600)])
        found = a.categorical(strata, ORDER, values)
        assert 0 == found.low <= found.estimate <= found.high < 0.2


def test_an_interval_of_v_holds_zero_when_there_is_nothing():
    strata, values = crosstab([[20, 20], [20, 20], [20, 20]])
    found = a.categorical(strata, ORDER, values)
    assert (found.estimate, found.low, found.p) == (0, 0, 1)
    assert found.high > 0


def test_small_counts_are_permuted():
    table = np.array([[12, 2], [6, 5], [2, 3]])
    strata, values = crosstab(table)
    found = a.categorical(strata, ORDER, values)
    assert found.test == "chi-square, permutation"
    rng = np.random.default_rng(9)
    codes = np.unique(values, return_inverse=True)[1]
    seen = []
    for _ in range(1000):
        drawn = np.histogram2d(np.unique(strata, return_inverse=True)[1], rng.permutation(codes),
                               bins=(3, 2))[0]  # fmt: skip
        seen.append(stats.chi2_contingency(drawn, correction=False).statistic)
    oracle = np.mean(np.array(seen) >= found.statistic - 1e-9)
    assert found.p == pytest.approx(oracle, abs=0.04)
    assert found.p != pytest.approx(stats.chi2.sf(found.statistic, 2), rel=1e-3)


def test_mann_whitney_and_rank_biserial():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 9, 40), rng.integers(2, 12, 30)  # with ties
    values = np.concatenate([low, high]).astype(float)
    strata = np.repeat(["low", "high"], [40, 30])
    found = a.continuous(strata, ("low", "high"), values)
    oracle = stats.mannwhitneyu(high, low)
    assert (found.statistic, found.p) == pytest.approx((oracle.statistic, oracle.pvalue))
    pairs = np.sign(high[:, None] - low[None, :]).mean()
    assert found.estimate == pytest.approx(pairs)
    assert found.low < pairs < found.high


def test_newcombe_interval_covers_and_does_not_collapse():
    # Separated groups: the interval must not be the point 1.
    low, high = a._newcombe(1.0, 10, 10)
    assert high == 1
    assert 0.6 < low < 0.9
    assert a._newcombe(0.0, 10, 10) == pytest.approx((1 - high, 1 - low))
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    inside = 0
    for _ in range(400):
        x, y = rng.normal(0, 1, 25), rng.normal(1, 1, 40)
        bounds = a._newcombe(float((y[:, None] > x).mean()), 25, 40)
        inside += bounds[0] <= truth <= bounds[1]
    assert 0.92 <= inside / 400 <= 0.99


def test_kruskal_and_epsilon_squared():
    rng = np.random.default_rng(0)
    parts = [rng.normal(m, 1, n) for m, n in ((0, 30), (0.5, 25), (1.2, 40))]
    strata = np.repeat(ORDER, [30, 25, 40])
    found = a.continuous(strata, ORDER, np.concatenate(parts))
    oracle = stats.kruskal(*parts)
    assert (found.statistic, found.p) == pytest.approx((oracle.statistic, oracle.pvalue))
    assert found.estimate == pytest.approx(oracle.statistic * (95 + 1) / (95**2 - 1))
    assert 0 < found.low < found.estimate < found.high < 1


def test_trend_is_jonckheere_terpstra_by_brute_force():
    rng = np.random.default_rng(2)
    codes = np.repeat([0, 1, 2], [12, 15, 10])
    values = rng.integers(0, 8, 37) + codes.astype(float)
    found = a.trend(np.array(ORDER)[codes], ORDER, values)
    n = len(codes)
    s = ties_x = ties_y = 0.0
    for i in range(n):
        for j in range(i):
            s += np.sign(codes[i] - codes[j]) * np.sign(values[i] - values[j])
            ties_x += codes[i] == codes[j]
            ties_y += values[i] == values[j]
    pairs = n * (n - 1) / 2
    assert found.estimate == pytest.approx(s / math.sqrt((pairs - ties_x) * (pairs - ties_y)))
    assert found.p == pytest.approx(stats.kendalltau(codes, values).pvalue)


def test_the_interval_of_tau_is_that_of_a_bootstrap():
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 3, 400)
    values = codes * 0.6 + rng.normal(size=400)
    found = a.trend(np.array(ORDER)[codes], ORDER, values)
    draws = []
    for _ in range(400):
        rows = rng.integers(0, 400, 400)
        draws.append(stats.kendalltau(codes[rows], values[rows]).statistic)
    assert (found.high - found.low) / 2 / a.Z95 == pytest.approx(np.std(draws), rel=0.12)
    binary = (values > 0.5).astype(float)
    found = a.trend(np.array(ORDER)[codes], ORDER, binary)
    draws = [
        stats.kendalltau(codes[rows], binary[rows]).statistic
        for rows in (rng.integers(0, 400, 400) for _ in range(400))
    ]
    assert (found.high - found.low) / 2 / a.Z95 == pytest.approx(np.std(draws), rel=0.12)


def test_small_groups_are_refused():
    strata = np.array(["low"] * 20 + ["high"] * 4)
    values = np.arange(24.0)
    for refused in (
        lambda: a.continuous(strata, ("low", "high"), values),
        lambda: a.trend(strata, ("low", "high"), values),
        lambda: a.categorical(strata, ("low", "high"), np.array(["x", "y"] * 12)),
        lambda: a.log_rank(values, values > 3, strata, ("low", "high")),
    ):
        with pytest.raises(RefusedError, match=r"fewer than 5 rows\n.*high \(4\)"):
            refused()
    with pytest.raises(RefusedError, match="only one stratum"):
        a.continuous(strata[:20], ("low", "high"), values[:20])
    with pytest.raises(RefusedError, match="one value only"):
        a.continuous(np.repeat(["low", "high"], 10), ("low", "high"), np.ones(20))


def test_q_is_over_everything_tested_and_refusals_stay_out():
    made = [Association("x", "t", {}, p=p) for p in (0.01, 0.04, 0.03)]
    adjusted = a.adjust([made[0], Association("y", "t", {}, note="refused"), *made[1:]])
    assert [t.q for t in adjusted] == [pytest.approx(0.03), None, pytest.approx(0.04),
                                       pytest.approx(0.04)]  # fmt: skip
    assert a.adjust([]) == []
    found = run(variables=[variable(list(range(300)), "age")])
    p = np.array([t.p for t in found.tests])
    np.testing.assert_allclose([t.q for t in found.tests], stats.false_discovery_control(p))
    assert {t.outcome for t in found.tests} == {"os_event", "age"}


def test_cohorts_apart_and_together():
    rng = np.random.default_rng(0)
    values = variable(rng.normal(size=300).tolist(), "x")
    together = run(variables=[values])
    assert {t.cohort for t in together.tests} == {"all"}
    assert any("tissue type" in note for note in together.notes)
    apart = run(variables=[values], apart=True)
    assert [t.cohort for t in apart.tests] == sorted(t.cohort for t in apart.tests)
    assert {t.cohort for t in apart.tests} == {"A", "B"}
    assert not any("tissue type" in note for note in apart.notes)
    assert not any("stratified" in t.test for t in apart.tests)
    assert len(apart.curves) == 6
    assert apart.notes[-1] == a.WARNING


def test_an_outcome_that_only_marks_the_cohort_is_null_within_them():
    # Every row of cohort B has the category and a high stratum more often: pooled it looks strong.
    rng = np.random.default_rng(8)
    block = np.repeat(["A", "B"], 200)
    strata = np.where(rng.random(400) < np.where(block == "B", 0.9, 0.1), "high", "low")
    marker = np.where(rng.random(400) < np.where(block == "B", 0.8, 0.2), "y", "n").tolist()
    pooled = a.associate(strata, ("low", "high"), variables=[variable(marker, "m")], cohorts=block)
    apart = a.associate(
        strata, ("low", "high"), variables=[variable(marker, "m")], cohorts=block, apart=True
    )
    assert pooled.tests[0].p < 1e-10
    assert min(t.p for t in apart.tests) > 0.01


def test_rare_categories_are_left_out_by_name():
    strata = np.repeat(["low", "high"], 30)
    values = (["a"] * 14 + ["b"] * 14 + ["c"] * 2) * 2
    found = a.associate(strata, ("low", "high"), variables=[variable(values, "type")])
    assert "c (4)" in found.tests[0].note
    assert sum(found.tests[0].n.values()) == 56


def test_a_stratum_without_members_is_named_and_all_refused_is_an_error():
    strata = np.repeat(["low", "high"], 10)
    found = a.associate(strata, ORDER, variables=[variable(list(range(20)), "x")])
    assert "no member, so not tested: mid" in found.notes
    assert found.tests[0].test == "Mann-Whitney"
    with pytest.raises(InputError, match="none of the tests"):
        a.associate(strata[6:14], ORDER, variables=[variable(list(range(8)), "x")])


def test_unlabelled_rows_are_not_tested():
    strata = np.array(["low"] * 10 + [""] * 10 + ["high"] * 10)
    found = a.associate(strata, ("low", "high"), variables=[variable(list(range(30)), "x")])
    assert found.tests[0].n == {"low": 10, "high": 10}


def test_records_are_plain():
    found = run(variables=[variable(["x", "y"] * 150, "v")])
    document = json.loads(json.dumps(found.to_dict(), allow_nan=True))
    assert document["tests"][0]["test"].startswith("log-rank")
    assert document["curves"][0]["stratum"] == "low"
