"""The answer to a question in plain sentences, from the numbers of its strata and tests.

Nothing is computed here. A difference is called found where q < 0.05 (p after Benjamini-Hochberg
over all tests of the question); otherwise the sentence says that none was found, with the interval
that the data leave open.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from molquery.associate import Association
from molquery.errors import some
from molquery.query.answer import FLOOR, in_words
from molquery.query.strata import Strata
from molquery.query.units import Called
from molquery.records import Predictability
from molquery.schema import COHORT

FOUND = 0.05
_SENTENCES = 4  # outcomes that get a sentence of their own


def low_trust(p: Predictability, cohorts: Collection[str]) -> bool:
    """True where the scores should not be used in these cohorts without a warning."""
    mine = [p.by_cohort[c] for c in cohorts if p.by_cohort.get(c) is not None]
    values = [p.headline_r, *mine]
    measured = bool(mine) or not any(r is not None for r in p.by_cohort.values())
    return not measured or any(r is None or r < FLOOR for r in values)


def predictability_sentence(name: str, p: Predictability, cohorts: Collection[str]) -> str:
    """How far the scores of a signature can be trusted in some cohorts, from held-out patients."""
    if p.headline_r is None:
        return (f"How well {name} can be seen in H&E could not be measured: there are too few "
                "pairs of slide and RNA.")  # fmt: skip
    held = "patients" if p.split_on == "patient_id" else f"{p.split_on} values"
    within = " within cohorts" if p.within_r is not None else ""
    follows = "the predicted score follows the measured one with"
    known = {c: r for c, r in p.by_cohort.items() if r is not None}
    mine = {c: r for c, r in known.items() if c in cohorts}
    if known and not mine:
        return (
            f"How well {name} is predicted in {some(sorted(cohorts))} was not measured: there is "
            f"no RNA of it. In held-out {held} of other cohorts {follows} r = "
            f"{p.headline_r:.2f}{within}."
        )
    sentence = f"{name} is {in_words(p)}. In held-out {held} {follows} "
    if len(mine) < len(known):
        each = ", ".join(f"r = {r:.2f} in {c}" for c, r in sorted(mine.items()))
        return f"{sentence}{each}."
    return f"{sentence}r = {p.headline_r:.2f}{within}."


def unseen_sentence(cohorts: Sequence[str]) -> str:
    """What cannot be known of cohorts without RNA."""
    return (
        f"There is no RNA of {some(cohorts)}: how well scores are predicted there was not "
        "measured, and only the order within the cohort means something."
    )


def strata_sentence(strata: Strata, noun: str) -> str:
    """How many are in each stratum, and how many of them are not sure."""
    one = strata.sets[0]
    parts = ", ".join(f"{label} {count:,}" for label, count in reversed(one.counts.items()))
    unsure = int((one.reason != "").sum())
    sentence = f"{len(one.labels):,} {noun} by predicted {title(strata)}: {parts}."
    if unsure:
        share = 100 * unsure / len(one.labels)
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in one.uncertain.items())
        sentence += f" {unsure:,} of them ({share:.0f} %) are called uncertain: {reasons}."
    return sentence


def title(strata: Strata) -> str:
    """What the question is about."""
    return " and ".join(p.signature.name for p in strata.parts)


def outcome_sentences(strata: Strata) -> list[str]:
    """One sentence for every outcome that was tested, the survival first."""
    if strata.associations is None:
        return []
    called = strata.sets[0]
    several = len(set(strata.table[COHORT].to_pylist()) - {None}) > 1
    out: list[str] = []
    found: list[str] = []
    rest: list[str] = []
    for (cohort, outcome), tests in _by_outcome(strata.associations.tests).items():
        within = "" if cohort == "all" else f" in {cohort}"
        first = next((t for t in tests if t.p is not None), None)
        if first is None:
            out.append(f"{outcome}{within} could not be tested: {tests[0].note}.")
        elif first.test.startswith("log-rank") or first.test.startswith("Cox"):
            out.append(_survival(outcome + within, tests, called))
        elif len(out) < _SENTENCES:
            pooled = " over all cohorts together" if several and cohort == "all" else ""
            out.append(_variable(outcome + within, tests, pooled))
        else:
            (found if _is_found(tests) else rest).append(outcome + within)
    null = ("No ", "was not found")
    nothing = next((i for i, text in enumerate(out) if any(n in text for n in null)), None)
    if nothing is not None:
        out[nothing] += (" That is no proof that there is none: the interval says what these data "
                         "leave open.")  # fmt: skip
    if found:
        out.append(f"Also associated (q < {FOUND}): {some(found, 20)}.")
    if rest:
        out.append(f"No association was found with {some(rest, 20)}.")
    return out


def _by_outcome(tests: Sequence[Association]) -> dict[tuple[str, str], list[Association]]:
    groups: dict[tuple[str, str], list[Association]] = {}
    for test in tests:
        groups.setdefault((test.cohort, test.outcome), []).append(test)
    return groups


def _is_found(tests: Sequence[Association]) -> bool:
    return any(_found(t) for t in tests)


def _survival(outcome: str, tests: Sequence[Association], called: Called) -> str:
    first = next(t for t in tests if t.p is not None)
    n, events = sum(first.n.values()), sum(first.events.values())
    how = f"{n:,} patients, {events:,} events"
    how += ", stratified by cohort" if "stratified by cohort" in first.test else ""
    test = f"{first.test.split(',')[0]} {p_and_q(first)}; {how}"
    ends = _of_effect(tests, f"hazard ratio, {called.order[-1]} vs {called.order[0]}")
    per_sd = _of_effect(tests, "hazard ratio, score per sd")
    if not called.ordered or ends is None:
        verb = "differs" if _found(first) else "was not found to differ"
        ratios = [t for t in tests if t.effect.endswith(f" vs {called.order[0]}") and t.estimate]
        told = ", ".join(
            f"{t.effect.removeprefix('hazard ratio, ').rpartition(' vs ')[0]} {estimate(t)}"
            for t in ratios
        )
        against = f" Hazard ratios against {called.order[0]}: {told}." if told else ""
        return f"{outcome} {verb} between the strata ({test}).{against}"
    ratio = f"hazard ratio of {called.order[-1]} against {called.order[0]} {estimate(ends)}"
    if per_sd is not None:
        ratio += f", per standard deviation of the score {estimate(per_sd)}"
    if _found(first):
        if ends.low is not None and ends.high is not None and ends.low < 1 < ends.high:
            return (f"{outcome} differs between the strata ({test}), but not clearly between the "
                    f"outer ones: {ratio}.")  # fmt: skip
        word = "fewer" if (ends.estimate or 0) < 1 else "more"
        return (
            f"Patients with a {called.order[-1]} predicted score had {word} events ({outcome}) "
            f"over time than those with a {called.order[0]} one: {ratio} ({test})."
        )
    return f"No difference in {outcome} between the strata was found ({test}); {ratio}."


def _variable(outcome: str, tests: Sequence[Association], pooled: str) -> str:
    """The sentence of a category or a number; `pooled` says where cohorts are not told apart."""
    first = next(t for t in tests if t.p is not None)
    trend = next((t for t in tests if t.test == "Kendall trend" and t.p is not None), None)
    size = f"; {first.effect} {estimate(first)}" if first.estimate is not None else ""
    test = f"{first.test} {p_and_q(first)}{size}"
    if trend is not None and _found(trend):
        direction = "rises" if (trend.estimate or 0) > 0 else "falls"
        return (
            f"{outcome} {direction} with the predicted score{pooled} (trend {p_and_q(trend)}, "
            f"tau-b {estimate(trend)}; {test})."
        )
    if _found(first):
        return f"{outcome} differs between the strata{pooled} ({test})."
    if trend is not None:
        test += f"; trend {p_and_q(trend)}"
    return f"No association with {outcome} was found{pooled} ({test})."


def _found(test: Association) -> bool:
    return test.q is not None and test.q < FOUND


def _of_effect(tests: Sequence[Association], effect: str) -> Association | None:
    return next((t for t in tests if t.effect == effect and t.estimate is not None), None)


def p_and_q(test: Association) -> str:
    """`p = 0.0012, q = 0.0036`; q where it says something else than p."""
    q = "" if test.q is None or f"{test.q:.2g}" == f"{test.p:.2g}" else f", q = {test.q:.2g}"
    return f"p = {test.p:.2g}{q}"


def estimate(test: Association) -> str:
    """An effect with its 95 % interval, as `0.70 (0.58 to 0.85)`."""
    if test.estimate is None:
        return "not estimated"
    if test.low is None or test.high is None:
        return f"{test.estimate:.2f}"
    return f"{test.estimate:.2f} ({test.low:.2f} to {test.high:.2f})"
