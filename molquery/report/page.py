"""The page about one question: the answer first, then figures, tests, caveats and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from molquery.associate import WARNING, Association
from molquery.errors import some
from molquery.figures import style
from molquery.pages import Page
from molquery.query import calibrate
from molquery.query.strata import POOLED_CUT, Part
from molquery.report import answer
from molquery.report.drawings import KINDS, drawings
from molquery.report.question import Question, Tell
from molquery.schema import COHORT, PATIENT, SLIDES
from molquery.stratify import POOLED
from molquery.texts import Groups
from molquery.vectors import as_text

_TOP = 10  # rows of the table of highest scores


def page(question: Question, *, command: str = "", progress: Tell | None = None) -> Page:
    """The page: the answer, figures, tests, how far to trust it, caveats, provenance, command.

    Args:
        command: the command that makes this page again.
    """
    tell = progress or (lambda *_: None)
    q, strata = question, question.strata
    told = strata.provenance
    out = Page(f"{q.title}, predicted from H&E", _subtitle(q))
    first, *others = _found(q)
    out.answer(first)
    for text, low in _trusted(q):
        (out.caution if low else out.answer)(text)
    out.points(others)
    if strata.associations is not None:
        out.caution(f"{WARNING[0].upper()}{WARNING[1:]}.")
    if POOLED_CUT in strata.notes:
        out.caution(f"{POOLED_CUT[0].upper()}{POOLED_CUT[1:].partition(';')[0]}.")
    if unseen := [c.cohort for c in q.cohorts if not c.seen]:
        out.caution(answer.unseen_sentence(unseen))
    steps = iter(range(1, 8))

    def figures(kind: str) -> None:
        tell("figures", next(steps), 7)
        for drawing in drawings(q, kind):
            out.figure(style.svg(drawing.figure), drawing.caption,
                       f"{KINDS[kind]}: {drawing.of}")  # fmt: skip

    out.section("The strata")
    _strata_table(out, q)
    figures("ranked")
    figures("groups")
    if strata.associations is not None:
        out.section("Outcomes")
        if strata.associations.curves:
            figures("survival")
        _tests_table(out, strata.associations.tests)
        out.points(n for n in strata.associations.notes if n != WARNING)
    out.section("How far to trust the scores")
    _trust_tables(out, q)
    if q.spectrum:
        figures("spectrum")
    out.section("What else differs")
    if q.panel is not None:
        figures("signatures")
    figures("map")
    out.section("The highest scores")
    _top_table(out, q)
    out.section("Before you use this")
    out.points(_caveats(q))
    out.section("Where this comes from")
    rows = {
        "database": told.database,
        "table versions": ", ".join(f"{k} {v}" for k, v in told.table_versions.items()),
        "shared space": told.space_id,
        "signatures": ", ".join(f"{p.signature.name} (sha256 {p.signature.sha256[:16]})"
                                for p in strata.parts),
        "method": told.method,
        **_plain(told.parameters),
        "molquery": told.molquery,
    }  # fmt: skip
    out.facts(rows)
    if command:
        out.text("This page is made again by")
        out.code(command)
    for part in strata.parts:
        c = part.coverage
        out.text(
            f"{part.signature.name}: {len(c.found)} of {len(c.found) + len(c.missing)} genes are "
            f"in this database: {some(c.found, 1000)}."
            + (f" Missing: {some(c.missing, 1000)}." if c.missing else ""),
            "small",
        )
    tell("figures", 7, 7)
    return out


def sentences(question: Question) -> list[str]:
    """The whole answer in plain sentences."""
    return [*_found(question), *(text for text, _ in _trusted(question))]


def _found(q: Question) -> list[str]:
    return [*answer.outcome_sentences(q.strata), answer.strata_sentence(q.strata, q.noun)]


def _trusted(q: Question) -> list[tuple[str, bool]]:
    """A sentence for each signature on how far to trust it, and whether it is a warning."""
    cohorts = [facts.cohort for facts in q.cohorts]
    return [
        (answer.predictability_sentence(part.signature.name, p, cohorts),
         answer.low_trust(p, cohorts))
        for part, p in zip(q.strata.parts, q.quality, strict=True)
    ]  # fmt: skip


def _subtitle(q: Question) -> str:
    cohorts = [c.cohort for c in q.cohorts if c.cohort]
    text = f"{sum(c.n for c in q.cohorts):,} {q.noun}"
    if q.noun != "slides":
        text += f" with {q.n_slides:,} slides"
    if cohorts:
        text += f" of {some(cohorts, 12)}"
    return text + (f", where {q.where}" if q.where else "") + ". For research use only."


def _strata_table(out: Page, q: Question) -> None:
    one, parts = q.strata.sets[0], q.strata.parts
    single = parts[0] if len(parts) == 1 else None  # of several, the heat map shows the means
    columns = ["stratum", q.noun, "called with confidence", *(["mean score"] if single else [])]
    rows = []
    for label, count in reversed(one.counts.items()):
        row = [label, count, one.certain[label]]
        if single:
            row.append(float(single.score[one.labels == label].mean()) if count else None)
        rows.append(row)
    out.table(columns, rows)
    out.points(f"Rule {rule}" for rule in q.strata.rules)
    for part in parts:
        name = f"{part.signature.name}: c" if single is None else "C"
        told = f"{name}ut points ({part.cut.method})"
        bounds = [f"{a} | {b}" for a, b in pairwise(part.cut.labels)]
        if part.cut.scope == COHORT:
            points = [[key, *map(float, cuts)] for key, cuts in part.cut.points.items()]
            out.table([COHORT, *bounds], points, caption=told)
        else:
            values = zip(bounds, part.cut.points[POOLED], strict=True)
            out.text(f"{told}: {', '.join(f'{b} at {v:.3f}' for b, v in values)}.")


def _tests_table(out: Page, tests: Sequence[Association]) -> None:
    several = len({t.cohort for t in tests}) > 1
    rows = []
    for t in tests:
        counts = f"{sum(t.n.values()):,}" + (f" ({sum(t.events.values()):,})" if t.events else "")
        rows.append([
            *([t.cohort] if several else []), t.outcome, t.test, counts, t.p, t.q, t.effect,
            "" if t.estimate is None else answer.estimate(t),
        ])  # fmt: skip
    columns = ["outcome", "test", "n (events)", "p", "q", "effect", "estimate (95 % interval)"]
    out.table(
        [*(["cohort"] if several else []), *columns], rows,
        caption="Every test that was made; q is p after Benjamini-Hochberg over all of them",
    )  # fmt: skip
    out.points(f"{t.outcome}, {t.test}: {t.note}" for t in tests if t.note)


def _trust_tables(out: Page, q: Question) -> None:
    parts = q.strata.parts
    measures = {
        "profiles": "n_pairs", "R²": "r2", "r": "r", "r within": "within_r",
        "R², new sites": "site_r2", "r within, new sites": "site_within_r",
        "r of random sets": "random_r",
    }  # fmt: skip
    _filled_table(
        out, ["signature", *measures],
        [[part.signature.name, *(getattr(p, m) for m in measures.values())]
         for part, p in zip(parts, q.quality, strict=True)],
        "Predicted against measured scores of patients that the model had not seen. Within: the "
        "mean over cohorts"
        + ("; new sites: whole hospitals left out"
           if any(p.site_r2 is not None for p in q.quality) else ""),
    )  # fmt: skip
    known = any(c.half_width is not None for c in q.cohorts)
    _filled_table(
        out,
        ["cohort", q.noun, "slides", "has RNA", "held-out r", "interval ±",
         "unlike training slides"],
        [[c.cohort or "none given", c.n, c.n_slides if q.noun != "slides" else None,
          "yes" if c.seen else "no", c.r, c.half_width, c.strange] for c in q.cohorts],
        f"{parts[0].signature.name} by cohort"
        + (f"; the measured score lies within the interval with a probability of "
           f"{100 * calibrate.LEVEL:.0f} %" if known else ""),
    )  # fmt: skip


def _filled_table(
    out: Page, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str
) -> None:
    """A table without the columns in which every value is missing."""
    kept = [i for i in range(len(columns)) if any(_is_there(row[i]) for row in rows)]
    out.table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], caption=caption)


def _is_there(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and np.isnan(value))


def _top_table(out: Page, q: Question) -> None:
    part, table = q.strata.parts[0], q.strata.table
    key = SLIDES.key if SLIDES.key in table.column_names else PATIENT
    ids, cohorts = as_text(table[key]), as_text(table[COHORT])
    standard = calibrate.within_groups(part.score, Groups.of(cohorts))[1]
    apart = part.cut.scope == COHORT
    ranked = np.where(np.isnan(standard), -np.inf, standard) if apart else part.score
    order = np.argsort(-ranked, kind="stable")[:_TOP]
    call, basis = q.strata.sets[0].call, as_text(table["basis"])
    level = f"{100 * calibrate.LEVEL:.0f} %"
    _filled_table(
        out,
        [key, COHORT, "score", f"{level} low", f"{level} high", "sd within cohort", "call",
         "basis"],
        [[ids[i], cohorts[i], float(part.score[i]), float(part.low[i]), float(part.high[i]),
          float(standard[i]), call[i], basis[i]] for i in order],
        f"{part.signature.name}, ranked "
        + ("by standard deviations within the cohort" if apart
           else "over all cohorts" if len(q.cohorts) > 1 else "by score"),
    )  # fmt: skip


def _caveats(q: Question) -> list[str]:
    """What limits the answer, the notes of the strata first."""
    strata = q.strata
    read = strata.associations.notes if strata.associations else ()
    out = [note for note in strata.notes if note not in read and note != POOLED_CUT]
    for part in strata.parts:
        if line := _confidence_line(part, q.noun):
            out.append(line)
    strange = sum(c.strange for c in q.cohorts)
    if strange:
        out.append(f"{strange:,} of {q.n_slides:,} slides are unlike those that the model learned "
                   "from; a few are so by chance.")  # fmt: skip
    return [
        *out,
        "Scores are predicted from H&E: they shrink toward the mean and cannot show what "
        "morphology does not. Cell composition is most of what they carry.",
        "For research use only.",
    ]


def _confidence_line(part: Part, noun: str) -> str:
    """How sure the stratum of an ordinary row is; '' where it was not measured."""
    known = part.confidence[np.isfinite(part.confidence)]
    if not len(known):
        return ""
    return (
        f"{part.signature.name}: for half of the {noun} the measured score lies on the same side "
        f"of the nearest cut point with a probability of less than {np.median(known):.2f}. Compare "
        f"groups; do not classify single {noun} by these strata."
    )


def _plain(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that say something, as text; cut points stand elsewhere on the page."""
    out = {}
    for name, value in parameters.items():
        if name in ("cut", "signatures") or value in (None, "", [], (), {}):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {_text(v)}" for k, v in value.items() if v)
        out[name.replace("_", " ")] = _text(value)
    return out


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
