"""The figures of a question, one function for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from molquery.errors import InputError, some
from molquery.figures import scores, signatures, space, survival
from molquery.figures.style import Drawing
from molquery.query import calibrate
from molquery.query.answer import FLOOR
from molquery.report import answer
from molquery.report.question import Question
from molquery.schema import COHORT
from molquery.vectors import Float, Strings, as_text

#: Kinds of figures, and what each shows.
KINDS: Mapping[str, str] = {
    "ranked": "scores from the highest to the lowest, with cut points and intervals",
    "groups": "scores by cohort, or by stratum where there is one cohort",
    "survival": "Kaplan-Meier curves of the strata, with numbers at risk",
    "spectrum": "how well gene sets are predicted here, with this one marked",
    "signatures": "mean score of other signatures in the strata",
    "map": "the shared space, coloured by score, cohort and modality",
}


def drawings(question: Question, kind: str) -> list[Drawing]:
    """The figures of one kind: one, or one for each signature of a rule or cohort tested apart.

    None where the question has nothing to draw.
    """
    return _MAKERS[kind](question)


def draw(
    question: Question, kind: str, *, of: str | None = None, colours: Sequence[str] = ()
) -> Drawing:
    """One figure of a question.

    Args:
        kind: see `KINDS`.
        of: the signature or cohort, where there are several such figures.
        colours: of a map: what its panels are coloured by; all by default.

    Raises:
        InputError: there is no such figure, or more than one.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of figure", hint=", ".join(KINDS))
    made = _map(question, colours) if kind == "map" else drawings(question, kind)
    chosen = [d for d in made if of is None or d.of == of]
    if not made:
        raise InputError(
            f"this question has no figure of kind {kind}",
            hint="--time COLUMN --event COLUMN" if kind == "survival" else None,
        )
    if len(chosen) != 1:
        raise InputError(
            f"there are {len(chosen)} figures of kind {kind}" + (f" of {of}" if of else ""),
            found=some(d.of for d in made),
            hint=f"--of {made[0].of}",
        )
    return chosen[0]


def _ranked(q: Question) -> list[Drawing]:
    cohorts = as_text(q.strata.table[COHORT])
    out = []
    for part in q.strata.parts:
        known = bool(np.isfinite(part.low).any())
        figure = scores.ranked_scores(
            part.score, part.strata, part.cut.points, order=part.cut.labels,
            name=part.signature.name, groups=cohorts, low=part.low if known else None,
            high=part.high if known else None, level=calibrate.LEVEL,
            below=f"{len(part.score):,} {q.noun}, cut by {part.cut.method}"
            + (" within each cohort" if part.cut.scope == COHORT else ""),
        )  # fmt: skip
        caption = (
            f"Every point is one of the {q.noun}, ranked by its predicted score. Dashed lines are "
            "the cut points."
        )
        if known:
            caption += (" The grey band is where the measured score lies with a probability of "
                        f"{100 * calibrate.LEVEL:.0f} %.")  # fmt: skip
        out.append(Drawing(part.signature.name, figure, caption))
    return out


def _groups(q: Question) -> list[Drawing]:
    one = q.strata.sets[0]
    cohorts = as_text(q.strata.table[COHORT])
    by_cohort = len(set(cohorts.tolist())) > 1
    out = []
    for part in q.strata.parts:
        figure = scores.scores_by_group(
            part.score, cohorts if by_cohort else one.labels, one.labels, order=one.order,
            group_order=None if by_cohort else one.order[::-1], name=part.signature.name,
            below="by cohort, in the colours of the strata" if by_cohort else "by stratum",
        )  # fmt: skip
        out.append(
            Drawing(
                part.signature.name, figure,
                f"Predicted scores of the {q.noun} by {'cohort' if by_cohort else 'stratum'}. The "
                "black bar is the middle half, its white tick the median."
                + (" Levels of cohorts differ by tissue as well as by biology." if by_cohort
                   else ""),
            )
        )  # fmt: skip
    return out


def _survival(q: Question) -> list[Drawing]:
    found = q.strata.associations
    if found is None:
        return []
    one = q.strata.sets[0]
    several = len(q.cohorts) > 1
    out = []
    for cohort in dict.fromkeys(c.cohort for c in found.curves):
        tests = [t for t in found.tests if t.cohort == cohort and t.test.startswith("log-rank")]
        told = "strata predicted from H&E, exploratory"
        if tests and tests[0].p is not None:
            told = f"{tests[0].test}: {answer.p_and_q(tests[0])}; {told}"
        outcome = tests[0].outcome if tests else "survival"
        figure = survival.kaplan_meier(
            [c for c in found.curves if c.cohort == cohort], order=one.order,
            name=q.title + ("" if cohort == "all" else f", {cohort}"), unit=q.unit,
            outcome=f"without event ({outcome})", below=told,
        )  # fmt: skip
        out.append(
            Drawing(
                cohort, figure,
                "Kaplan-Meier estimate of each predicted stratum with its 95 % interval; ticks are "
                "censored patients. Below: how many were still followed; the axis ends where "
                "fewer than 2 % are."
                + (" The curves pool the cohorts, the test compares within them." if several
                   and cohort == "all" else ""),
            )
        )  # fmt: skip
    return out


def _spectrum(q: Question) -> list[Drawing]:
    out = []
    for part in q.strata.parts:
        p = part.predictability
        value = p.headline_r
        if not q.spectrum and value is None:
            continue
        names = list(q.spectrum) or [part.signature.name]
        figure = signatures.spectrum(
            names, np.array([q.spectrum.get(n, np.nan) for n in names]), name=part.signature.name,
            value=value, floor=FLOOR,
            unit="held-out correlation" + (" within cohorts" if p.within_r is not None else ""),
        )  # fmt: skip
        out.append(
            Drawing(
                part.signature.name, figure,
                "Correlation of predicted and measured scores in patients that the model had not "
                "seen, for the Hallmark gene sets and the one of this page.",
            )
        )  # fmt: skip
    return out


def _signatures(q: Question) -> list[Drawing]:
    if q.panel is None:
        return []
    one = q.strata.sets[0]
    figure = signatures.signature_heatmap(
        q.panel.values, q.panel.names, one.order, name="Predicted signatures in the strata",
        counts=list(one.counts.values()), unit="mean score, in sd within cohort",
    )  # fmt: skip
    return [
        Drawing(
            "all", figure,
            "Mean predicted score of other signatures in the strata, standardised within each "
            "cohort. All are predicted from the same slides, so they move together in part because "
            "one morphology stands for several of them."
            + (f" Too few genes: {some(q.panel.skipped)}." if q.panel.skipped else ""),
        )
    ]  # fmt: skip


def _map(q: Question, colours: Sequence[str] = ()) -> list[Drawing]:
    places = q.places
    ways: dict[str, Float | Strings] = {
        "score": places.score, "cohort": places.cohorts, "modality": places.modality,
    }  # fmt: skip
    shown = [w for w in ways if w != "cohort" or len(set(places.cohorts.tolist())) > 1]
    figure = space.space_map(
        places.points, {way: ways[way] for way in colours or shown},
        name="The shared space of slides and RNA profiles", shares=places.shares,
        below=f"{q.strata.parts[0].signature.name}: predicted in slides, measured in profiles",
    )  # fmt: skip
    return [
        Drawing(
            "all", figure,
            "The first two principal components of the shared vectors, by the final model (paired "
            "patients were used to train it).",
        )
    ]  # fmt: skip


_MAKERS: Mapping[str, Callable[[Question], list[Drawing]]] = {
    "ranked": _ranked, "groups": _groups, "survival": _survival, "spectrum": _spectrum,
    "signatures": _signatures, "map": _map,
}  # fmt: skip
