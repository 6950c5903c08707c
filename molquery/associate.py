"""Tests of strata against outcomes: survival, categories, numbers; effects with 95 % intervals.

Pure functions on arrays, one row per patient. Every test gives an `Association`; `adjust` adds
Benjamini-Hochberg q over all that were tested together, and `associate` runs everything for one set
of strata. Reading outcome columns is in `outcomes`, cutting scores into strata in `stratify`.

| outcome | strata | test | effect |
| --- | --- | --- | --- |
| survival | any | log-rank | - |
| survival | each against the first | Cox, Efron ties, Wald p | hazard ratio |
| survival | the score itself | Cox | hazard ratio per standard deviation |
| category | 2 x 2 | Fisher exact | odds ratio, conditional, exact interval |
| category | any other | chi-square, p by permutation where counts are small | Cramér's V |
| number | 2 | Mann-Whitney | rank-biserial correlation |
| number | more | Kruskal-Wallis | epsilon² |
| number, or two categories | more than 2, ordered | Kendall's tau-b (Jonckheere-Terpstra) | tau-b |
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from molquery.errors import InputError, some
from molquery.evaluate.metrics import benjamini_hochberg
from molquery.outcomes import Survival, Variable
from molquery.vectors import Bools, Float, Ints, Strings

#: A stratum, or an outcome category, with fewer rows is not tested.
MIN_GROUP = 5
#: Events per fitted coefficient under which a Cox model is called unstable
#: (doi:10.1016/0895-4356(95)00048-8).
EVENTS_PER_TERM = 10
#: Expected counts under this make the chi-square approximation poor; p is then by permutation.
SMALL_EXPECTED = 5
PERMUTATIONS = 9_999
#: p of the test of proportional hazards under which a note is made.
NOT_PROPORTIONAL = 0.05
#: Standard error of a log hazard ratio from which on it is called unbounded: the interval then
#: spans a factor of e^20 to either side, as it does where a group has no events.
UNBOUNDED = 10.0
#: Newton steps that are tried in turn: the first, which is lifelines' own, leaps too far where a
#: rare category has a high hazard.
STEPS = (0.95, 0.5, 0.1)
Z95 = 1.959963984540054

WARNING = (
    "exploratory: the score is itself a prediction from H&E, and these tests were not planned in "
    "advance; confirm what you find in another cohort, with these same cut points"
)


class RefusedError(InputError):
    """A test that these data cannot answer: a group too small, or a model that does not fit."""


@dataclass(frozen=True, slots=True)
class Association:
    """One test of strata against one outcome.

    Attributes:
        outcome: the column.
        test: its name, with what it was stratified by or adjusted for.
        n: stratum -> rows tested, from low to high.
        events: stratum -> events among them, for survival.
        statistic: of the test, None where it was refused.
        p: two-sided; None where the test was refused.
        effect: what `estimate` is, with the strata compared; '' where there is none.
        estimate: the effect; low and high: its 95 % interval.
        q: p after Benjamini-Hochberg over all tests of the call.
        cohort: the cohort tested, or 'all'.
        note: what limits the test, or why it was refused.
        strata: the signature whose strata are tested, or 'rules'.
    """

    outcome: str
    test: str
    n: Mapping[str, int]
    events: Mapping[str, int] = field(default_factory=dict)
    statistic: float | None = None
    p: float | None = None
    effect: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    q: float | None = None
    cohort: str = "all"
    note: str = ""
    strata: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The test as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Curve:
    """The Kaplan-Meier curve of one stratum.

    Attributes:
        n: rows; events: events among them.
        time: (m,) event and censoring times, increasing, from 0.
        survival: (m,) estimate just after each time; low and high: 95 % log-log interval
            (Kalbfleisch and Prentice), NaN before the first event.
        at_risk: (m,) rows still followed just before each time.
        median: first time at which survival is at most 0.5, None where it is not reached.
    """

    stratum: str
    n: int
    events: int
    time: Float
    survival: Float
    low: Float
    high: Float
    at_risk: Ints
    median: float | None
    cohort: str = "all"
    strata: str = ""

    def number_at_risk(self, times: Sequence[float]) -> list[int]:
        """Rows still followed just before each of `times`, for the table under the curves."""
        at = np.searchsorted(self.time, np.asarray(times, dtype=np.float64), side="left")
        return [int(self.at_risk[i]) if i < len(self.at_risk) else 0 for i in at]

    def to_dict(self) -> dict[str, Any]:
        """The curve as plain values."""
        plain = asdict(self)
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in plain.items()}


@dataclass(frozen=True, slots=True)
class Associations:
    """Everything tested in one call, with q over all of it.

    Attributes:
        tests: in the order asked; a test that was refused has no p and says why.
        curves: of every stratum with a known outcome, by cohort where cohorts were tested apart.
        notes: how outcomes were read, what was left out, and the warning.
        survival: the times and events that were tested, if any.
    """

    tests: tuple[Association, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]
    survival: Survival | None = None

    def to_dict(self) -> dict[str, Any]:
        """Tests, curves and notes as plain values."""
        return {
            "tests": [t.to_dict() for t in self.tests],
            "curves": [c.to_dict() for c in self.curves],
            "notes": list(self.notes),
        }


def associate(
    strata: Strings,
    order: Sequence[str],
    *,
    survival: Survival | None = None,
    variables: Sequence[Variable] = (),
    covariates: Sequence[Variable] = (),
    cohorts: Strings | None = None,
    apart: bool = False,
    scores: Float | None = None,
    ordered: bool = True,
) -> Associations:
    """All tests of one set of strata, with q over every p of the call.

    Args:
        strata: (n,) label of every row, '' for rows that are not to be tested.
        order: the labels from low to high; Cox compares each with the first.
        survival: times and events of the same n rows.
        variables: further outcomes.
        covariates: what a second Cox model is adjusted for.
        cohorts: (n,) cohort of every row; with several, survival tests are stratified by them.
        apart: test every cohort by itself.
        scores: (n,) the score behind the strata, for the hazard ratio per standard deviation.
        ordered: the labels have an order, so that a trend can be tested.

    Raises:
        InputError: not one of the tests can be made.
    """
    n = len(strata)
    names = np.full(n, "", dtype=str) if cohorts is None else np.asarray(cohorts, dtype=str)
    tests: list[Association] = []
    curves: list[Curve] = []
    told = [*(survival.notes if survival else ()), *(v.told for v in (*variables, *covariates))]
    notes = list(dict.fromkeys(told))  # an outcome may be a covariate too
    parts = sorted(set(names[(strata != "") & (names != "")].tolist())) if apart else ["all"]
    for part in parts:
        mine = strata != "" if part == "all" else (strata != "") & (names == part)
        found = _outcomes(
            np.flatnonzero(mine), strata, order, survival, variables, covariates,
            None if apart else names, scores, ordered,
        )  # fmt: skip
        tests += [replace(t, cohort=part) for t in found[0]]
        curves += [replace(c, cohort=part) for c in found[1]]
    several = len(set(names[strata != ""].tolist()) - {""}) > 1
    if several and not apart and variables:
        notes.append(
            "tests of categories and numbers pool the cohorts: part of any difference is tissue "
            "type; test each cohort by itself as well"
        )
    absent = [label for label in order if not (strata == label).any()]
    if absent:
        notes.append(f"no member, so not tested: {some(absent)}")
    refused = list(dict.fromkeys(t.note for t in tests if t.p is None))
    if tests and all(t.p is None for t in tests):
        raise InputError("none of the tests can be made", found="; ".join(refused[:3]))
    return Associations(tuple(adjust(tests)), tuple(curves), (*notes, WARNING), survival)


def adjust(tests: Sequence[Association]) -> list[Association]:
    """The tests with q: p after Benjamini-Hochberg over all of them; refused tests have none."""
    made = [i for i, t in enumerate(tests) if t.p is not None]
    q = benjamini_hochberg(np.array([tests[i].p for i in made], dtype=np.float64))
    of = dict(zip(made, q.tolist(), strict=True))
    return [replace(t, q=of.get(i)) for i, t in enumerate(tests)]


def kaplan_meier(time: Float, event: Bools, strata: Strings, order: Sequence[str]) -> list[Curve]:
    """The Kaplan-Meier curve of every stratum that has members (lifelines).

    Args:
        time: (n,) follow-up; event: (n,) true for events; strata: (n,) labels.
        order: the labels, in the order of the answer.
    """
    from lifelines import KaplanMeierFitter

    curves = []
    for label in order:
        rows = strata == label
        if not rows.any():
            continue
        fitter = KaplanMeierFitter().fit(time[rows], event[rows])
        table = fitter.event_table
        bounds = fitter.confidence_interval_survival_function_.to_numpy()
        median = float(fitter.median_survival_time_)
        curves.append(
            Curve(
                stratum=label,
                n=int(rows.sum()),
                events=int(event[rows].sum()),
                time=table.index.to_numpy(dtype=np.float64),
                survival=fitter.survival_function_.to_numpy(dtype=np.float64)[:, 0],
                low=bounds[:, 0].astype(np.float64),
                high=bounds[:, 1].astype(np.float64),
                at_risk=table["at_risk"].to_numpy(dtype=np.int64),
                median=median if math.isfinite(median) else None,
            )
        )
    return curves


def log_rank(
    time: Float,
    event: Bools,
    strata: Strings,
    order: Sequence[str],
    *,
    blocks: Strings | None = None,
    outcome: str = "survival",
) -> Association:
    """The log-rank test that all strata have one hazard, within `blocks` (cohorts) if given.

    With observed and expected events O_g, E_g summed over event times and blocks, and V the
    hypergeometric covariance, (O - E)' V⁻ (O - E) is chi-square on one degree of freedom less than
    there are strata (doi:10.1111/j.2517-6161.1972.tb00899.x).

    Raises:
        RefusedError: a stratum has fewer than 5 rows, or there are fewer than two.
    """
    from scipy.stats import chi2

    labels, codes = _groups(strata, order)
    block = np.full(len(time), "", dtype=str) if blocks is None else blocks
    k = len(labels)
    excess, covariance = np.zeros(k), np.zeros((k, k))
    for name in np.unique(block):
        own = block == name
        t, e, g = time[own], event[own], codes[own]
        moments = np.unique(t[e])
        if not len(moments):
            continue
        at_risk, deaths = np.empty((2, k, len(moments)))
        for j in range(k):
            at_risk[j] = (g == j).sum() - np.searchsorted(np.sort(t[g == j]), moments, side="left")
            dead = np.sort(t[e & (g == j)])
            deaths[j] = np.searchsorted(dead, moments, "right") - np.searchsorted(dead, moments)
        n, d = at_risk.sum(axis=0), deaths.sum(axis=0)
        excess += (deaths - at_risk * d / n).sum(axis=1)
        factor = np.where(n > 1, d * (n - d) / (n**2 * np.maximum(n - 1, 1)), 0.0)
        covariance += np.diag((factor * n * at_risk).sum(axis=1)) - (at_risk * factor) @ at_risk.T
    statistic = float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess)
    several = len(np.unique(block)) > 1
    return Association(
        outcome, "log-rank" + (", stratified by cohort" if several else ""),
        _counts(labels, codes), _counts(labels, codes, event), statistic,
        float(chi2.sf(statistic, k - 1)),
    )  # fmt: skip


def cox(
    time: Float,
    event: Bools,
    terms: Mapping[str, Float],
    *,
    report: Sequence[str],
    blocks: Strings | None = None,
) -> tuple[dict[str, tuple[float, float, float, float, float]], str]:
    """Hazard ratios of a Cox model with Efron's handling of ties (lifelines).

    Args:
        time: (n,) follow-up; event: (n,) true for events.
        terms: name -> (n,) finite column of the design; dummies for categories.
        report: the terms to answer for; the others are adjusted for.
        blocks: (n,) cohorts with a baseline hazard each.

    Returns:
        name -> hazard ratio, low, high, z and Wald p; and a note on what weakens the model, or ''.

    Raises:
        RefusedError: the model does not converge, such as where a group has no events.
    """
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError
    from lifelines.statistics import proportional_hazard_test

    columns = {f"x{i}": values for i, values in enumerate(terms.values())}
    code = dict(zip(terms, columns, strict=True))
    frame = pd.DataFrame({**columns, "time": time, "event": event.astype(np.int64)})
    within = blocks is not None and len(np.unique(blocks)) > 1
    if within:
        frame["block"] = blocks
    model = CoxPHFitter()
    unfit = "the Cox model does not converge: a group without events, or terms alike"
    with warnings.catch_warnings():
        # lifelines warns of little variance too, which is no fault of the fit: judged below.
        warnings.simplefilter("ignore")
        for step in STEPS:
            try:
                model.fit(
                    frame, "time", "event", strata=["block"] if within else None,
                    fit_options={"step_size": step},
                )  # fmt: skip
                break
            except (ConvergenceError, np.linalg.LinAlgError) as error:
                if step == STEPS[-1]:
                    raise RefusedError(unfit) from error
        summary = model.summary
        tested = proportional_hazard_test(model, frame, time_transform="rank")
    errors = summary.loc[[code[name] for name in report], "se(coef)"].to_numpy()
    if not (errors < UNBOUNDED).all():
        raise RefusedError(unfit)
    answers = {}
    for name in report:
        row = summary.loc[code[name]]
        answers[name] = (
            float(row["exp(coef)"]), float(row["exp(coef) lower 95%"]),
            float(row["exp(coef) upper 95%"]), float(row["z"]), float(row["p"]),
        )  # fmt: skip
    notes = []
    p_of = dict(zip(tested.name, np.atleast_1d(tested.p_value), strict=True))
    crossing = [n for n in report if p_of[code[n]] < NOT_PROPORTIONAL]
    if crossing:
        lowest = min(p_of[code[n]] for n in crossing)
        notes.append(f"hazards may not be proportional (p {lowest:.2g})")
    if event.sum() < EVENTS_PER_TERM * len(terms):
        notes.append(f"{int(event.sum())} events for {len(terms)} terms: unstable")
    return answers, "; ".join(notes)


def categorical(
    strata: Strings, order: Sequence[str], values: Strings, *, outcome: str = "outcome"
) -> Association:
    """Strata against categories: Fisher's exact test for 2 x 2, else chi-square.

    The odds ratio is the conditional estimate with its exact interval. Cramér's V is
    sqrt(max(0, chi² - df) / (n (min(rows, columns) - 1))), without the upward bias of the plain
    one (after doi:10.1016/j.jkss.2012.10.002), its interval from the non-central chi-square
    (Smithson 2003, ISBN 9780761924999). Where an expected count is below 5, p is the share of
    9,999 permutations with a chi-square as high.

    Args:
        strata: (n,) labels; values: (n,) categories, none of them ''.
        order: the labels, from low to high.

    Raises:
        RefusedError: a stratum or a category has fewer than 5 rows, or there are fewer than two.
    """
    from scipy import stats

    labels, rows = _groups(strata, order)
    levels, columns = np.unique(values, return_inverse=True)
    few = [f"{v} ({c})" for v, c in zip(levels, np.bincount(columns), strict=True) if c < MIN_GROUP]
    if len(levels) < 2 or few:
        raise RefusedError(
            f"{outcome} has a category with fewer than {MIN_GROUP} rows: {some(few)}" if few
            else f"{outcome} has one category only here"
        )  # fmt: skip
    table = _crosstab(rows, columns, len(labels), len(levels))
    base = Association(outcome, "", _counts(labels, rows))
    if table.shape == (2, 2):
        ratio = stats.contingency.odds_ratio(table[::-1, ::-1])
        interval = ratio.confidence_interval(0.95)
        return replace(
            base, test="Fisher exact", statistic=float(ratio.statistic),
            p=float(stats.fisher_exact(table).pvalue),
            effect=f"odds ratio of {levels[1]}, {labels[1]} vs {labels[0]}",
            estimate=float(ratio.statistic), low=float(interval.low), high=float(interval.high),
        )  # fmt: skip
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = _chi_square(table, expected)
    df = (len(labels) - 1) * (len(levels) - 1)
    p, note, name = float(stats.chi2.sf(statistic, df)), "", "chi-square"
    if expected.min() < SMALL_EXPECTED:
        rng = np.random.default_rng(0)
        higher = sum(
            _chi_square(_crosstab(rows, rng.permutation(columns), *table.shape), expected)
            >= statistic * (1 - 1e-12)
            for _ in range(PERMUTATIONS)
        )
        p, name = (1 + higher) / (1 + PERMUTATIONS), "chi-square, permutation"
        note = f"an expected count is {expected.min():.1f}"
    size = len(rows) * (min(table.shape) - 1)
    low, high = _noncentrality(statistic, df)
    return replace(
        base, test=name, statistic=statistic, p=p, effect="Cramér's V",
        estimate=min(1.0, math.sqrt(max(0.0, statistic - df) / size)), low=math.sqrt(low / size),
        high=min(1.0, math.sqrt(high / size)), note=note,
    )  # fmt: skip


def continuous(
    strata: Strings, order: Sequence[str], values: Float, *, outcome: str = "outcome"
) -> Association:
    """Strata against a number: Mann-Whitney for two strata, Kruskal-Wallis for more.

    The rank-biserial correlation is 2 P(higher in the upper stratum) - 1, ties counted half, its
    interval by method 5 of Newcombe (doi:10.1002/sim.2324); epsilon² is H / (n - 1), its interval
    from the non-central chi-square.

    Args:
        strata: (n,) labels; values: (n,) finite.
        order: the labels, from low to high.

    Raises:
        RefusedError: a stratum has fewer than 5 rows, there are fewer than two, or all values are
            equal.
    """
    from scipy import stats

    labels, codes = _groups(strata, order)
    _varies(values, outcome)
    base = Association(outcome, "", _counts(labels, codes))
    parts = [values[codes == g] for g in range(len(labels))]
    if len(labels) == 2:
        found = stats.mannwhitneyu(parts[1], parts[0], alternative="two-sided")
        above = float(found.statistic) / (len(parts[0]) * len(parts[1]))
        low, high = _newcombe(above, len(parts[0]), len(parts[1]))
        return replace(
            base, test="Mann-Whitney", statistic=float(found.statistic), p=float(found.pvalue),
            effect=f"rank-biserial, {labels[1]} vs {labels[0]}", estimate=2 * above - 1,
            low=2 * low - 1, high=2 * high - 1,
        )  # fmt: skip
    h = stats.kruskal(*parts)
    low, high = _noncentrality(float(h.statistic), len(labels) - 1)
    size = len(values) - 1
    return replace(
        base, test="Kruskal-Wallis", statistic=float(h.statistic), p=float(h.pvalue),
        effect="epsilon²", estimate=float(h.statistic) / size, low=low / size,
        high=min(1.0, high / size),
    )  # fmt: skip


def trend(
    strata: Strings, order: Sequence[str], values: Float, *, outcome: str = "outcome"
) -> Association:
    """A monotone trend of a number over ordered strata: Kendall's tau-b, and its test.

    S of Kendall between the place of a stratum and the value is the Jonckheere-Terpstra statistic
    (doi:10.1093/biomet/41.1-2.133); the interval is from the asymptotic standard error of
    Goodman and Kruskal (doi:10.1080/01621459.1972.10482410).

    Args:
        strata: (n,) labels; values: (n,) finite, or 0 and 1.
        order: the labels, from low to high.

    Raises:
        RefusedError: as in `continuous`.
    """
    from scipy import stats

    labels, codes = _groups(strata, order)
    _varies(values, outcome)
    found = stats.kendalltau(codes, values, method="asymptotic")
    tau = float(found.statistic)
    error = _tau_error(codes, values, tau)
    return Association(
        outcome, "Kendall trend", _counts(labels, codes), statistic=tau, p=float(found.pvalue),
        effect=f"tau-b, from {labels[0]} to {labels[-1]}", estimate=tau,
        low=max(-1.0, tau - Z95 * error), high=min(1.0, tau + Z95 * error),
    )  # fmt: skip


def _outcomes(
    rows: Ints,
    strata: Strings,
    order: Sequence[str],
    survival: Survival | None,
    variables: Sequence[Variable],
    covariates: Sequence[Variable],
    cohorts: Strings | None,
    scores: Float | None,
    ordered: bool,
) -> tuple[list[Association], list[Curve]]:
    """The tests of some rows, refused ones included, and the survival curves."""
    tests: list[Association] = []
    curves: list[Curve] = []

    def attempt(outcome: str, name: str, run: Callable[[], list[Association]], at: Ints) -> None:
        try:
            tests.extend(run())
        except RefusedError as error:
            note = error.what + (f": {error.found}" if error.found else "")
            counts = {label: int((strata[at] == label).sum()) for label in order}
            tests.append(Association(outcome, name, counts, note=note))

    if survival is not None:
        at = rows[survival.known[rows]]
        time, event = survival.time[at], survival.event[at]
        own, name = None if cohorts is None else cohorts[at], survival.name
        attempt(
            name, "log-rank",
            lambda: [log_rank(time, event, strata[at], order, blocks=own, outcome=name)], at,
        )  # fmt: skip
        attempt(
            name, "Cox", lambda: _cox_tests(survival, at, strata, order, (), cohorts, scores), at
        )
        if covariates:
            full = at[np.logical_and.reduce([c.known[at] for c in covariates])]
            attempt(
                name, "Cox, adjusted",
                lambda: _cox_tests(survival, full, strata, order, covariates, cohorts, scores),
                full,
            )  # fmt: skip
        curves = kaplan_meier(time, event, strata[at], order)
    for v in variables:
        at = rows[v.known[rows]]
        if v.kind == "categorical":
            attempt(v.name, "categories", lambda v=v, at=at: [_categories(v, at, strata, order)],  # type: ignore[misc]
                    at)  # fmt: skip
        else:
            attempt(
                v.name, "numbers",
                lambda v=v, at=at: [continuous(strata[at], order, v.numbers[at], outcome=v.name)],  # type: ignore[misc]
                at,
            )  # fmt: skip
        present = len(set(strata[at].tolist()) & set(order))
        if ordered and present > 2 and (v.kind == "continuous" or len(v.levels) == 2):
            second = v.numbers if v.kind == "continuous" else (v.texts == v.levels[1]).astype(float)
            attempt(
                v.name, "Kendall trend",
                lambda v=v, at=at, x=second: [trend(strata[at], order, x[at], outcome=v.name)],  # type: ignore[misc]
                at,
            )  # fmt: skip
    return tests, curves


def _categories(v: Variable, at: Ints, strata: Strings, order: Sequence[str]) -> Association:
    """The test of a categorical column without its rare categories, which the note names."""
    counts = {level: int((v.texts[at] == level).sum()) for level in v.levels}
    rare = [level for level, c in counts.items() if 0 < c < MIN_GROUP]
    keep = at[~np.isin(v.texts[at], rare)] if len(v.levels) > 2 and rare else at
    found = categorical(strata[keep], order, v.texts[keep], outcome=v.name)
    if len(keep) == len(at):
        return found
    told = f"left out, fewer than {MIN_GROUP} rows: {some(f'{r} ({counts[r]})' for r in rare)}"
    return replace(found, note="; ".join(filter(None, [found.note, told])))


def _cox_tests(
    survival: Survival,
    at: Ints,
    strata: Strings,
    order: Sequence[str],
    covariates: Sequence[Variable],
    cohorts: Strings | None,
    scores: Float | None,
) -> list[Association]:
    """Hazard ratios of every stratum against the first, and of the score per standard deviation."""
    at, lost = _with_events(survival, at, covariates)
    labels, codes = _groups(strata[at], order)
    time, event = survival.time[at], survival.event[at]
    blocks = None if cohorts is None else cohorts[at]
    extra: dict[str, Float] = {}
    for c in covariates:
        extra |= _design(c, at)
    name = "Cox"
    if blocks is not None and len(np.unique(blocks)) > 1:
        name += ", stratified by cohort"
    if covariates:
        name += f", adjusted for {', '.join(c.name for c in covariates)}"
    base = Association(
        survival.name, name, _counts(labels, codes), _counts(labels, codes, event)
    )  # fmt: skip
    terms = {label: (codes == g).astype(np.float64) for g, label in enumerate(labels) if g}
    wanted = [(terms, f"{label} vs {labels[0]}", label) for label in terms]
    if scores is not None and (spread := float(scores[at].std())) > 0:
        per_sd = {"score": (scores[at] - scores[at].mean()) / spread}
        wanted.append((per_sd, "score per sd", "score"))
    tests = []
    for group, versus, term in wanted:
        answers, note = cox(time, event, {**group, **extra}, report=list(group), blocks=blocks)
        ratio, low, high, z, p = answers[term]
        tests.append(
            replace(base, statistic=z, p=p, effect=f"hazard ratio, {versus}", estimate=ratio,
                    low=low, high=high, note="; ".join(filter(None, (note, lost))))
        )  # fmt: skip
    return tests


def _with_events(survival: Survival, at: Ints, covariates: Sequence[Variable]) -> tuple[Ints, str]:
    """The rows whose covariates can be fitted, and which categories are left out, in words.

    A category without events has no finite coefficient, and one with fewer than 5 rows no useful
    one; either would keep the model from converging.
    """
    keep, told = np.ones(len(at), dtype=bool), []
    for c in covariates:
        for level in c.levels:
            mine = c.texts[at] == level
            deaths = int(survival.event[at][mine].sum())
            if mine.any() and (deaths == 0 or mine.sum() < MIN_GROUP):
                keep &= ~mine
                told.append(f"{c.name} {level} ({int(mine.sum())} rows, {deaths} events)")
    return at[keep], f"left out: {some(told)}" if told else ""


def _design(c: Variable, at: Ints) -> dict[str, Float]:
    """The columns of a covariate: itself, or a dummy for each category but the commonest."""
    if c.kind == "continuous":
        return {f"{c.name}=": c.numbers[at]} if np.ptp(c.numbers[at]) > 0 else {}
    levels, counts = np.unique(c.texts[at], return_counts=True)
    usual = levels[np.argmax(counts)] if len(levels) else ""
    return {
        f"{c.name}={level}": (c.texts[at] == level).astype(np.float64)
        for level in levels
        if level != usual
    }


def _groups(strata: Strings, order: Sequence[str]) -> tuple[list[str], Ints]:
    """The labels that have rows, in order, and the place of every row's own.

    Raises:
        RefusedError: fewer than two, or one with fewer than 5 rows.
    """
    counts = {label: int((strata == label).sum()) for label in order}
    labels = [label for label, count in counts.items() if count]
    if sum(counts.values()) != len(strata):
        raise ValueError("a row has a label that is not in the order")
    small = [f"{label} ({counts[label]})" for label in labels if counts[label] < MIN_GROUP]
    if small:
        raise RefusedError(f"a stratum has fewer than {MIN_GROUP} rows", found=some(small))
    if len(labels) < 2:
        raise RefusedError("there is only one stratum to compare", found=some(labels) or "none")
    place = {label: g for g, label in enumerate(labels)}
    return labels, np.array([place[str(s)] for s in strata], dtype=np.int64)


def _counts(labels: Sequence[str], codes: Ints, among: Bools | None = None) -> dict[str, int]:
    chosen = codes if among is None else codes[among]
    counts = np.bincount(chosen, minlength=len(labels))
    return {label: int(c) for label, c in zip(labels, counts, strict=True)}


def _varies(values: Float, outcome: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    if len(values) == 0 or float(values.min()) == float(values.max()):
        raise RefusedError(f"{outcome} has one value only here")


def _crosstab(rows: Ints, columns: Ints, n_rows: int, n_columns: int) -> Ints:
    flat = np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns)
    return np.asarray(flat.reshape(n_rows, n_columns), dtype=np.int64)


def _chi_square(table: Ints, expected: Float) -> float:
    return float(((table - expected) ** 2 / expected).sum())


def _noncentrality(statistic: float, df: int) -> tuple[float, float]:
    """The 95 % interval of the non-centrality of a chi-square statistic.

    A statistic below its mean under the null counts as that mean for the upper bound: inverting
    the test would say [0, 0], as if a small sample could prove that there is nothing.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, ncx2

    def bound(at: float, tail: float) -> float:
        if chi2.cdf(at, df) <= tail:
            return 0.0
        top = at + 10 * math.sqrt(at + df) + 50
        return float(brentq(lambda x: ncx2.cdf(at, df, x) - tail, 0, top))

    return bound(statistic, 0.975), bound(max(statistic, df), 0.025)


def _newcombe(theta: float, m: int, n: int) -> tuple[float, float]:
    """The 95 % interval of P(X < Y): method 5 of doi:10.1002/sim.2324, good at the extremes too."""
    from scipy.optimize import brentq

    half = (m + n) / 2 - 1

    def beyond(x: float) -> float:
        spread = 1 + half * ((1 - x) / (2 - x) + x / (1 + x))
        return abs(x - theta) - Z95 * math.sqrt(x * (1 - x) * spread / (m * n))

    # 0 and 1 solve the equation themselves when theta is there: search just inside of them
    low = 0.0 if theta == 0 else float(brentq(beyond, 0.0, min(theta, 1 - 1e-9)))
    high = 1.0 if theta == 1 else float(brentq(beyond, max(theta, 1e-9), 1.0))
    return low, high


def _tau_error(codes: Ints, values: Float, tau: float) -> float:
    """The asymptotic standard error of tau-b, from how often each row agrees with the others."""
    n = len(values)
    agree = np.zeros(n)
    sorted_of = [np.sort(values[codes == g]) for g in range(int(codes.max()) + 1)]
    for g, other in enumerate(sorted_of):
        below = np.searchsorted(other, values, "left")
        above = len(other) - np.searchsorted(other, values, "right")
        agree += np.where(codes == g, 0, np.where(codes > g, below - above, above - below))
    row_size = np.bincount(codes)[codes].astype(np.float64)
    ordered = np.sort(values)
    tied = np.searchsorted(ordered, values, "right") - np.searchsorted(ordered, values, "left")
    w_row = n**2 - float((np.bincount(codes).astype(np.float64) ** 2).sum())
    w_column = n**2 - float(tied.sum())
    w = math.sqrt(w_row * w_column)
    v = row_size * w_column + tied * w_row
    total = float(((2 * w * agree + tau * v) ** 2).sum()) - n**3 * tau**2 * (w_row + w_column) ** 2
    return math.sqrt(max(total, 0.0)) / w**2
