"""One question: strata by a predicted signature, what they mean, and how far to trust them.

`ask` computes everything. The sentences are in `answer`, the figures in `drawings`, the page in
`page`; strata and tests come from `molquery.query.strata`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from molquery.associate import MIN_GROUP
from molquery.errors import InputError, some
from molquery.figures import space
from molquery.genesets import collections
from molquery.genesets.scoring import GeneSet
from molquery.outcomes import times
from molquery.query import calibrate
from molquery.query.answer import FLOOR, answer
from molquery.query.engine import Engine
from molquery.query.methods import DEFAULT_METHOD, predict
from molquery.query.prepared import standing
from molquery.query.strata import Strata, stratify_cohort
from molquery.query.tested import Outcomes
from molquery.records import Predictability, Signature
from molquery.report.answer import title
from molquery.schema import COHORT, PATIENT, SLIDES
from molquery.texts import Groups
from molquery.vectors import Bools, Float, Ints, Strings, as_text

_SETS = 18  # signatures in the heat map
_NAMED = 60  # when they are named one by one
_SLIDES = 20_000  # that map and heat map are made of, evenly spaced: enough for a picture

Tell = Callable[..., None]


@dataclass(frozen=True)
class Panel:
    """Mean standardised scores (n_signatures, n_strata) of signatures in the strata.

    Attributes:
        skipped: signatures that were named and have too few genes in the database.
    """

    names: tuple[str, ...]
    values: Float
    skipped: tuple[str, ...]


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
        quality: how well each signature is predicted, with its specificity.
        noun: what the rows are, in the plural.
        n_slides: slides that the rows are made of.
        spectrum: Hallmark set -> held-out correlation, best first.
        unit: of the follow-up time, '' where it is not known.
    """

    strata: Strata
    quality: tuple[Predictability, ...]
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
        return title(self.strata)


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
    quality = [
        answer(engine, part.signature, method=strata.cuts.prediction, scoring=strata.cuts.scoring,
               min_genes=1, min_fraction=0).predictability
        for part in strata.parts
    ]  # fmt: skip
    tell("strata and tests", 3, 3)
    tested: Outcomes | None = options.get("outcomes")
    return Question(
        strata=strata,
        quality=tuple(quality),
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
    """Other signatures in the strata: all that are named, or the Hallmark sets that differ most.

    Of the Hallmark sets only those enter that are predicted above the floor.
    """
    own = [part.signature for part in strata.parts]
    mine = {s.sha256 for s in own}
    if wanted is None:
        usable = {name for name, p in engine.spectrum.items() if standing(p) >= FLOOR}
        others = [s for s in collections.hallmark() if s.name in usable and s.sha256 not in mine]
    else:
        others = [s for s in wanted if s.sha256 not in mine]
        if len(others) > _NAMED:
            raise InputError(
                f"{len(others)} gene sets are too many for one figure",
                hint=f"a file with at most {_NAMED}; molquery score gives a table of all",
            )
    scored = engine.reference.score([*own, *others], method=strata.cuts.scoring)
    names = [s.name for s in scored.signatures]
    sets = [(m.positions, m.weights) for m in scored.matches]
    predicted = _predicted(engine, strata, scored.scores, sets, rows)
    groups = Groups.of(np.where(engine.cohorts[rows] == "", "-", engine.cohorts[rows]))
    order = strata.sets[0].order
    values = np.full((len(names), len(order)), np.nan)
    for i, score in enumerate(predicted.T):
        standard = calibrate.within_groups(score, groups)[1]
        for j, label in enumerate(order):
            members = standard[(labels[rows] == label) & np.isfinite(standard)]
            if len(members) >= MIN_GROUP:
                values[i, j] = members.mean()
    chosen = [i for i in range(len(names)) if np.isfinite(values[i]).any()]
    if wanted is None:
        spread = {i: np.nanmax(values[i]) - np.nanmin(values[i]) for i in chosen}
        chosen.sort(key=lambda i: (scored.signatures[i].sha256 not in mine, -spread[i]))
        chosen = chosen[:_SETS]
    if not chosen:
        return None
    skipped = () if wanted is None else tuple(scored.skipped)
    return Panel(tuple(names[i] for i in chosen), values[chosen], skipped)


def _places(engine: Engine, strata: Strata, rows: Ints) -> Places:
    """The slides of the question and the profiles of their cohorts, in the plane."""
    match, measured = engine.reference.score_one(
        strata.parts[0].signature, method=strata.cuts.scoring, min_genes=1, min_fraction=0
    )
    cohorts = set(engine.cohorts[rows].tolist())
    profiles = np.flatnonzero(np.isin(engine.reference.cohorts, sorted(cohorts)))
    profiles = profiles[:: max(1, -(-len(profiles) // _SLIDES))]
    vectors = np.vstack([engine.slide_vectors[rows], engine.profile_vectors[profiles]])
    points, shares = space.plane(vectors)
    predicted = _predicted(engine, strata, measured, [(match.positions, match.weights)], rows)
    return Places(
        points=points,
        shares=shares,
        score=np.r_[predicted[:, 0], measured[profiles, 0]],
        cohorts=np.r_[engine.cohorts[rows], engine.reference.cohorts[profiles]],
        modality=np.r_[np.full(len(rows), "slide"), np.full(len(profiles), "RNA profile")],
    )


def _predicted(
    engine: Engine, strata: Strata, scores: Float, sets: Sequence[GeneSet], rows: Ints
) -> Float:
    """Predicted scores (n_rows, S) by the method of the strata."""
    if strata.cuts.prediction == DEFAULT_METHOD:
        return engine.operator.apply(scores, rows)
    return predict(engine, strata.cuts.prediction, scores, sets)[rows]
