"""One question, one page: strata by a predicted signature, what they mean, how far to trust them.

`ask` computes everything, `drawings` makes the figures of one kind, `page` writes the page. The
sentences are in `answer`, the strata and tests in `molquery.query.strata`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery.associate import MIN_GROUP, Association
from molquery.errors import InputError, some
from molquery.figures import scores, signatures, space, style, survival
from molquery.genesets import collections
from molquery.outcomes import times
from molquery.pages import Page
from molquery.query import calibrate
from molquery.query.engine import Engine
from molquery.query.prepared import standing
from molquery.query.search import FLOOR
from molquery.query.strata import Part, Strata, stratify_cohort
from molquery.query.tested import Outcomes
from molquery.records import Signature
from molquery.report import answer
from molquery.schema import COHORT, PATIENT, SLIDES
from molquery.vectors import Bools, Float, Ints, Strings, as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Kinds of figures, and what each shows.
KINDS: Mapping[str, str] = {
    "ranked": "scores from the highest to the lowest, with cut points and intervals",
    "groups": "scores by cohort, or by stratum where there is one cohort",
    "survival": "Kaplan-Meier curves of the strata, with numbers at risk",
    "spectrum": "how well gene sets are predicted here, with this one marked",
    "signatures": "mean score of other signatures in the strata",
    "map": "the shared space, coloured by score, cohort and modality",
}
_TOP = 10  # rows of the table of highest scores
_SETS = 18  # signatures in the heat map
_SLIDES = 20_000  # that map and heat map are made of, evenly spaced: enough for a picture

Tell = Callable[..., None]


@dataclass(frozen=True)
class Panel:
    """Mean standardised scores (n_signatures, n_strata) of other signatures in the strata."""

    names: tuple[str, ...]
    values: Float


@dataclass(frozen=True)
class Places:
    """Slides and profiles in the plane of the shared space; arrays are (n,), slides first.

    Attributes:
        points: (n, 2); shares: (2,) of the variance.
        score: predicted scores of slides, measured ones of profiles.
    """

    points: Float
    shares: Float
    score: Float
    cohorts: Strings
    modality: Strings


@dataclass(frozen=True)
class CohortFacts:
    """What is known of one cohort among the rows of the question.

    Attributes:
        n: rows; r: held-out correlation.
        seen: whether the model has RNA of the cohort.
        strange: slides unlike those that the model learned from.
        half_width: half of the 90 % prediction interval; None where it is not known.
    """

    cohort: str
    n: int
    n_slides: int
    r: float | None
    seen: bool
    strange: int
    half_width: float | None


@dataclass(frozen=True)
class Question:
    """Everything that a page about one question shows.

    Attributes:
        noun: what the rows are, in the plural.
        n_slides: slides that the rows are made of.
        spectrum: Hallmark set -> held-out correlation, best first.
        unit: of the follow-up time, '' where it is not known.
    """

    strata: Strata
    noun: str
    n_slides: int
    cohorts: tuple[CohortFacts, ...]
    spectrum: Mapping[str, float]
    panel: Panel | None
    places: Places
    where: str | None
    unit: str

    @property
    def title(self) -> str:
        """The signature, or the signatures that rules join."""
        return answer.title(self.strata)


@dataclass(frozen=True)
class Drawing:
    """A figure, what it is of (a signature or a cohort), and its caption."""

    of: str
    figure: Figure
    caption: str


def ask(
    engine: Engine,
    asked: Sequence[Signature],
    *,
    within: str | None = None,
    pooled: bool = False,
    where: str | None = None,
    panel: Sequence[Signature] | None = None,
    progress: Tell | None = None,
    **options: Any,
) -> Question:
    """Strata by a signature, or by rules over several, with what is needed to judge them.

    Args:
        asked: one signature, or those that `rules` name.
        within: 'cohort' to cut inside each cohort: the default where there are several.
        pooled: cut all cohorts together.
        panel: signatures to compare the strata in; the Hallmark sets by default.
        options: as of `molquery.query.strata.stratify_cohort`.

    Raises:
        InputError: several signatures and no rule that joins them, and whatever
            `stratify_cohort` refuses.
    """
    tell = progress or (lambda *_: None)
    if len(asked) > 1 and not options.get("rules"):
        raise InputError(
            "a page answers one question: one signature, or rules that join several",
            found=some(s.name for s in asked),
            hint="--rule 'hot: SET_A high and SET_B low', or one page for each signature",
        )
    tell("strata and tests", 0, 3)
    allowed = engine.slides_where(where)
    several = len(set(engine.cohorts[allowed].tolist()) - {""}) > 1
    if within is None and several and not pooled and options.get("cuts") is None:
        within = COHORT
    strata = stratify_cohort(engine, asked, within=within, where=where, **options)
    tell("strata and tests", 1, 3)
    by_patient = "slide_id" not in strata.table.column_names
    labels = _of_slides(engine, strata, allowed, by_patient)
    chosen = np.flatnonzero(labels != "")
    drawn = chosen[:: max(1, -(-len(chosen) // _SLIDES))]
    compared = _panel(engine, strata, labels, drawn, panel)
    tell("strata and tests", 2, 3)
    places = _places(engine, strata, drawn)
    tell("strata and tests", 3, 3)
    tested: Outcomes | None = options.get("outcomes")
    return Question(
        strata=strata,
        noun="patients" if by_patient else "slides",
        n_slides=len(chosen),
        cohorts=tuple(_cohorts(engine, strata, chosen)),
        spectrum={name: standing(p) for name, p in engine.spectrum.items()},
        panel=compared,
        places=places,
        where=where,
        unit=times([0.0], tested.time)[1] if tested and tested.time else "",
    )


def _of_slides(engine: Engine, strata: Strata, allowed: Bools, by_patient: bool) -> Strings:
    """(n_slides,) the stratum of every slide, '' for those that are left out."""
    keys = engine.patients if by_patient else engine.slide_ids
    ids = as_text(strata.table[PATIENT if by_patient else SLIDES.key])
    order = np.argsort(ids)
    place = order[np.clip(np.searchsorted(ids[order], keys), 0, len(ids) - 1)]
    there = allowed & (ids[place] == keys) & (keys != "")
    if strata.cut.scope == COHORT:
        there &= engine.cohorts != ""
    return np.where(there, strata.sets[0].labels[place], "")


def _cohorts(engine: Engine, strata: Strata, chosen: Ints) -> list[CohortFacts]:
    part = strata.parts[0]
    rows = as_text(strata.table[COHORT])
    half = (part.high - part.low) / 2
    facts = []
    for cohort in np.unique(rows):
        mine = rows == cohort
        slides = chosen[engine.cohorts[chosen] == cohort]
        known = half[mine][np.isfinite(half[mine])]
        facts.append(
            CohortFacts(
                cohort=str(cohort),
                n=int(mine.sum()),
                n_slides=len(slides),
                r=part.predictability.by_cohort.get(str(cohort)),
                seen=bool(len(slides)) and not engine.unseen[slides].all(),
                strange=int(engine.out_of_domain[slides].sum()),
                half_width=float(np.median(known)) if len(known) else None,
            )
        )
    return facts


def _panel(
    engine: Engine,
    strata: Strata,
    labels: Strings,
    rows: Ints,
    wanted: Sequence[Signature] | None,
) -> Panel | None:
    """Other signatures in the strata: those that differ most, where they are not named.

    Of the Hallmark sets only those enter that are predicted above the floor.
    """
    if wanted is None:
        usable = {name for name, p in engine.spectrum.items() if standing(p) >= FLOOR}
        mine = {p.signature.sha256 for p in strata.parts}
        wanted = [s for s in collections.hallmark() if s.name in usable and s.sha256 not in mine]
    scored = engine.reference.score([*(p.signature for p in strata.parts), *wanted])
    if not scored.signatures:
        return None
    predicted = engine.operator.apply(scored.scores, rows)
    groups = np.where(engine.cohorts[rows] == "", "-", engine.cohorts[rows])
    standard = np.stack([calibrate.within_groups(s, groups)[1] for s in predicted.T], axis=1)
    order = strata.sets[0].order
    values = np.full((len(scored.signatures), len(order)), np.nan)
    for j, label in enumerate(order):
        members = labels[rows] == label
        if members.sum() >= MIN_GROUP:
            values[:, j] = np.nanmean(standard[members], axis=0)
    spread = np.nanmax(values, axis=1) - np.nanmin(values, axis=1)
    own = len(scored.signatures) - len(wanted) + len(scored.skipped)
    best = own + np.argsort(-spread[own:], kind="stable")[: _SETS - own]
    chosen = [*range(own), *best.tolist()]
    return Panel(tuple(scored.signatures[i].name for i in chosen), values[chosen])


def _places(engine: Engine, strata: Strata, rows: Ints) -> Places:
    """The slides of the question and the profiles of their cohorts, in the plane."""
    part = strata.parts[0]
    _, measured = engine.reference.score_one(part.signature, min_genes=1, min_fraction=0)
    cohorts = set(engine.cohorts[rows].tolist())
    profiles = np.flatnonzero(np.isin(engine.reference.cohorts, sorted(cohorts)))
    profiles = profiles[:: max(1, -(-len(profiles) // _SLIDES))]
    vectors = np.vstack([engine.slide_vectors[rows], engine.profile_vectors[profiles]])
    points, shares = space.plane(vectors)
    return Places(
        points=points,
        shares=shares,
        score=np.r_[engine.operator.apply(measured, rows)[:, 0], measured[profiles, 0]],
        cohorts=np.r_[engine.cohorts[rows], engine.reference.cohorts[profiles]],
        modality=np.r_[np.full(len(rows), "slide"), np.full(len(profiles), "RNA profile")],
    )


# Figures ----------------------------------------------------------------------------------------


def drawings(question: Question, kind: str, of: str | None = None) -> list[Drawing]:
    """The figures of one kind: one, or one for every signature of a rule or cohort tested apart.

    Args:
        of: only the one of this signature or cohort.

    Raises:
        InputError: the kind is unknown, or the question has no such figure.
    """
    makers = {
        "ranked": _ranked, "groups": _groups, "survival": _survival, "spectrum": _spectrum,
        "signatures": _signatures, "map": _map,
    }  # fmt: skip
    if kind not in makers:
        raise InputError(f"{kind!r} is no kind of figure", hint=", ".join(KINDS))
    made = makers[kind](question)
    chosen = [d for d in made if of is None or d.of == of]
    if not chosen:
        missing = f"of {of}" if of else "here"
        raise InputError(
            f"there is no figure of kind {kind} {missing}",
            found=some(d.of for d in made) if made else "nothing to draw",
            hint="--time COLUMN --event COLUMN" if kind == "survival" and not made else None,
        )
    return chosen


def _ranked(q: Question) -> list[Drawing]:
    cohorts = as_text(q.strata.table[COHORT])
    out = []
    for part in q.strata.parts:
        figure = scores.ranked_scores(
            part.score, part.strata, part.cut.points, order=part.cut.labels,
            name=part.signature.name, groups=cohorts, low=part.low, high=part.high,
            level=calibrate.LEVEL, below=f"{len(part.score):,} {q.noun}, cut by {part.cut.method}"
            + (" within each cohort" if part.cut.scope == COHORT else ""),
        )  # fmt: skip
        out.append(
            Drawing(
                part.signature.name, figure,
                f"Every point is one of the {q.noun}, ranked by its predicted score. Dashed lines "
                "are the cut points. The grey band is where the measured score lies with a "
                f"probability of {100 * calibrate.LEVEL:.0f} %.",
            )
        )  # fmt: skip
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
    out = []
    for cohort in dict.fromkeys(c.cohort for c in found.curves):
        tests = [t for t in found.tests if t.cohort == cohort and t.test.startswith("log-rank")]
        told = f"{tests[0].test}: {answer.p_and_q(tests[0])}" if tests and tests[0].p else ""
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
                "censored patients. Below: how many were still followed.",
            )
        )  # fmt: skip
    return out


def _spectrum(q: Question) -> list[Drawing]:
    out = []
    for part in q.strata.parts:
        p = part.predictability
        value = p.within_r if p.within_r is not None else p.r
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
            "one morphology stands for several of them.",
        )
    ]  # fmt: skip


def _map(q: Question) -> list[Drawing]:
    places = q.places
    figure = space.space_map(
        places.points,
        {"score": places.score, "cohort": places.cohorts, "modality": places.modality},
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


# The page ---------------------------------------------------------------------------------------


def page(question: Question, *, command: str = "", progress: Tell | None = None) -> Page:
    """The page: the answer, figures, tests, how far to trust it, caveats, provenance, command.

    Args:
        command: the command that makes this page again.
    """
    tell = progress or (lambda *_: None)
    q, strata = question, question.strata
    told = strata.provenance
    out = Page(f"{q.title}, predicted from H&E", _subtitle(q))
    first, *others = [*answer.outcome_sentences(strata), answer.strata_sentence(strata, q.noun)]
    out.answer(first)
    for part in strata.parts:
        text = answer.predictability_sentence(part)
        weak = answer.grade(part.predictability) in ("weakly", "hardly", answer.UNKNOWN)
        (out.caution if weak else out.answer)(text)
    out.points(others)
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
        out.points(n for n in strata.associations.notes)
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
    for part in strata.parts:
        c = part.coverage
        out.text(
            f"{part.signature.name}: {len(c.found)} of {len(c.found) + len(c.missing)} genes are "
            f"in this database: {some(c.found, 1000)}."
            + (f" Missing: {some(c.missing, 1000)}." if c.missing else "")
        )
    if command:
        out.text("This page is made again by")
        out.code(command)
    tell("figures", 7, 7)
    return out


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
    columns = ["stratum", q.noun, "called with confidence",
               *(f"mean {p.signature.name}" if len(parts) > 1 else "mean score" for p in parts)]  # fmt: skip
    rows = [
        [label, count, one.certain[label],
         *(float(p.score[one.labels == label].mean()) if count else None for p in parts)]
        for label, count in reversed(one.counts.items())
    ]  # fmt: skip
    out.table(columns, rows)
    for rule in q.strata.rules:
        out.text(f"Rule {rule}")
    for part in parts:
        points = [[key, *(float(p) for p in cuts)] for key, cuts in part.cut.points.items()]
        if len({len(p) for p in points}) == 1:
            names = [f"{a} | {b}" for a, b in zip(part.cut.labels, part.cut.labels[1:])]
            scope = "cohort" if part.cut.scope == COHORT else "over"
            out.table([scope, *names], points, caption=(
                f"{part.signature.name}: c" if len(parts) > 1 else "C"
            ) + f"ut points ({part.cut.method})")  # fmt: skip


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
        "profiles": "n_pairs", "R²": "r2", "r": "r", "r within cohorts": "within_r",
        "R², sites held out": "site_r2", "r within cohorts, sites held out": "site_within_r",
    }  # fmt: skip
    out.table(
        ["", *(p.signature.name for p in parts)],
        [[told, *(getattr(p.predictability, name) for p in parts)]
         for told, name in measures.items()],
        caption="Predicted against measured scores of patients that the model had not seen",
    )  # fmt: skip
    out.table(
        ["cohort", q.noun, *(["slides"] if q.noun != "slides" else []), "has RNA", "held-out r",
         "interval ±", "unlike training slides"],
        [[c.cohort or "none given", c.n, *([c.n_slides] if q.noun != "slides" else []),
          "yes" if c.seen else "no", c.r, c.half_width, c.strange] for c in q.cohorts],
        caption=f"{parts[0].signature.name} by cohort; the measured score lies within the interval "
        f"with a probability of {100 * calibrate.LEVEL:.0f} %",
    )  # fmt: skip


def _top_table(out: Page, q: Question) -> None:
    part, table = q.strata.parts[0], q.strata.table
    key = SLIDES.key if SLIDES.key in table.column_names else PATIENT
    ids, cohorts = as_text(table[key]), as_text(table[COHORT])
    standard = calibrate.within_groups(part.score, cohorts)[1]
    apart = part.cut.scope == COHORT
    ranked = np.where(np.isnan(standard), -np.inf, standard) if apart else part.score
    order = np.argsort(-ranked, kind="stable")[:_TOP]
    call, basis = q.strata.sets[0].call, as_text(table["basis"])
    out.table(
        [key, COHORT, "score", "90 % low", "high", "sd within cohort", "call", "basis"],
        [[ids[i], cohorts[i], float(part.score[i]), float(part.low[i]), float(part.high[i]),
          float(standard[i]), call[i], basis[i]] for i in order],
        caption=f"{part.signature.name}, ranked "
        + ("by standard deviations within the cohort" if apart else "over all cohorts"),
    )  # fmt: skip


def _caveats(q: Question) -> list[str]:
    """What limits the answer, the notes of the strata first."""
    strata = q.strata
    read = strata.associations.notes if strata.associations else ()
    out = [note for note in strata.notes if note not in read]
    for part in strata.parts:
        if line := _confidence_line(part, q.noun):
            out.append(line)
    strange = sum(c.strange for c in q.cohorts)
    if strange:
        out.append(f"{strange:,} of {q.n_slides:,} slides are unlike those that the model learned "
                   "from; a few are so by chance.")  # fmt: skip
    one = strata.sets[0]
    out += [f"{n:,} {q.noun} are called uncertain: {reason}" for reason, n in one.uncertain.items()]
    if strata.cut.scope != COHORT and len(q.cohorts) > 1:
        out.append("The cut points pool all cohorts: part of what separates the strata is the type "
                   "of tissue.")  # fmt: skip
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
