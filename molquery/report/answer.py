"""The answer to a question in plain sentences, from the numbers of its strata and tests.

Nothing is computed here. A difference is called found where q < 0.05 (p after Benjamini-Hochberg
over all tests of the question); otherwise the sentence says that none was found, with the interval
that the data leave open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from molquery.associate import Association
from molquery.errors import some
from molquery.query.search import FLOOR
from molquery.query.strata import Part, Strata
from molquery.query.units import Called
from molquery.records import Predictability

FOUND = 0.05
#: Held-out correlations within cohorts, and what they are called.
GRADES = ((0.5, "well"), (0.35, "moderately well"), (FLOOR, "weakly"))
UNKNOWN = "to an unknown degree"
_SENTENCES = 4  # outcomes that get a sentence of their own


@dataclass(frozen=True, slots=True)
class Trust:
    """How well a signature is predicted in the cohorts of a question, and the word for it.

    Attributes:
        r: held-out correlation within those cohorts, their mean; where they have none, over all
            cohorts of the database.
        cohorts: the cohorts that it is of; none when it is of the whole database.
        elsewhere: true where the cohorts of the question have no RNA, and others have.
        weak: cohorts under the floor, with their r.
    """

    r: float | None
    cohorts: tuple[str, ...]
    elsewhere: bool
    weak: Mapping[str, float]

    @property
    def word(self) -> str:
        """Well, moderately well, weakly or hardly."""
        if self.r is None:
            return UNKNOWN
        return next((word for bar, word in GRADES if self.r >= bar), "hardly")

    @property
    def low(self) -> bool:
        """True where the scores should not be used without a warning."""
        weak = self.word in ("weakly", "hardly", UNKNOWN) or bool(self.weak)
        return weak or self.elsewhere


def trust(p: Predictability, cohorts: Collection[str]) -> Trust:
    """How far scores can be trusted in some cohorts, from held-out patients."""
    known = {c: r for c, r in p.by_cohort.items() if r is not None}
    mine = {c: r for c, r in known.items() if c in cohorts}
    weak = {c: r for c, r in mine.items() if r < FLOOR}
    if mine and len(mine) < len(known):
        return Trust(sum(mine.values()) / len(mine), tuple(sorted(mine)), False, weak)
    whole = p.within_r if p.within_r is not None else p.r
    return Trust(whole, (), bool(known) and not mine, weak)


def predictability_sentence(part: Part, cohorts: Collection[str]) -> str:
    """The same in words."""
    name, p = part.signature.name, part.predictability
    found = trust(p, cohorts)
    if found.r is None:
        return (f"How well {name} can be seen in H&E could not be measured: there are too few "
                "pairs of slide and RNA.")  # fmt: skip
    held = "patients" if p.split_on == "patient_id" else f"{p.split_on} values"
    within = " within cohorts" if p.within_r is not None else ""
    if found.elsewhere:
        return (
            f"How well {name} is predicted in {some(sorted(cohorts))} was not measured: there is "
            f"no RNA of it. In held-out {held} of other cohorts the predicted score follows the "
            f"measured one with r = {found.r:.2f}{within}."
        )
    if found.cohorts:
        within = f" within {some(found.cohorts)}"
    sentence = (
        f"{name} is {found.word} predicted from H&E here: in held-out {held} the predicted score "
        f"follows the measured one with r = {found.r:.2f}{within}"
    )
    if p.rank and p.of and not found.cohorts:
        sentence += f", place {p.rank} among {p.of} Hallmark sets"
    if found.weak and len(found.cohorts) != 1 and found.word != "hardly":
        named = ", ".join(f"{c} ({r:.2f})" for c, r in found.weak.items())
        sentence += f", but hardly in {named}"
    return f"{sentence}."


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


def sentences(strata: Strata, noun: str, cohorts: Collection[str]) -> list[str]:
    """The whole answer: outcomes, strata, and how far to trust the scores."""
    return [
        *outcome_sentences(strata),
        strata_sentence(strata, noun),
        *(predictability_sentence(part, cohorts) for part in strata.parts),
    ]


def outcome_sentences(strata: Strata) -> list[str]:
    """One sentence for every outcome that was tested, the survival first."""
    if strata.associations is None:
        return []
    called = strata.sets[0]
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
            out.append(_variable(outcome + within, tests))
        else:
            (found if _is_found(tests) else rest).append(outcome + within)
    nothing = next((i for i, text in enumerate(out) if text.startswith("No ")), None)
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


def _variable(outcome: str, tests: Sequence[Association]) -> str:
    first = next(t for t in tests if t.p is not None)
    trend = next((t for t in tests if t.test == "Kendall trend" and t.p is not None), None)
    size = f"; {first.effect} {estimate(first)}" if first.estimate is not None else ""
    test = f"{first.test} {p_and_q(first)}{size}"
    if trend is not None and _found(trend):
        direction = "rises" if (trend.estimate or 0) > 0 else "falls"
        return (
            f"{outcome} {direction} with the predicted score (trend {p_and_q(trend)}, tau-b "
            f"{estimate(trend)}; {test})."
        )
    if _found(first):
        return f"{outcome} differs between the strata ({test})."
    if trend is not None:
        test += f"; trend {p_and_q(trend)}"
    return f"No association with {outcome} was found ({test})."


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
