"""The rows of a table of strata, slides or patients, and the errors of their held-out scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from molquery import stratify
from molquery.errors import ColumnError, InputError, some
from molquery.predict import COHORT_SCHEME
from molquery.query import calibrate
from molquery.query.engine import Engine
from molquery.schema import SLIDES
from molquery.stratify import UNCERTAIN
from molquery.vectors import Bools, Float, Ints, Strings

By = Literal["slide", "patient"]


@dataclass(frozen=True)
class Called:
    """One set of strata over the rows: of one signature, or of the rules that join several.

    Attributes:
        name: the signature, or 'rules'.
        order: the labels, from low to high where they are `ordered`.
        labels: (n,) the stratum of every row; confidence: (n,) how sure it is, NaN where unknown.
        reason: (n,) why a row is called uncertain, '' where it is not.
        scores: (n,) what was cut; None for rules.
    """

    name: str
    order: tuple[str, ...]
    ordered: bool
    labels: Strings
    confidence: Float
    reason: Strings
    scores: Float | None

    @property
    def call(self) -> Strings:
        """(n,) the strata, or `uncertain`."""
        return np.where(self.reason == "", self.labels, UNCERTAIN)

    @property
    def counts(self) -> dict[str, int]:
        """Stratum -> rows, in order, empty ones included."""
        return {label: int((self.labels == label).sum()) for label in self.order}

    @property
    def certain(self) -> dict[str, int]:
        """Stratum -> rows that are not called uncertain."""
        return {label: int((self.call == label).sum()) for label in self.order}

    @property
    def uncertain(self) -> dict[str, int]:
        """Reason -> rows, the commonest first."""
        reasons, counts = np.unique(self.reason[self.reason != ""], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {str(reasons[i]): int(counts[i]) for i in order}


@dataclass(frozen=True)
class Units:
    """The rows of a table of strata, and how they are made of slides.

    Attributes:
        by: what a row is.
        rows: (m,) positions of the slides that are used; code: (m,) the row each belongs to.
        ids, patients, cohorts: (n,) of the rows.
        allowed: (n_slides,) mask of the slides that are used.
        weights: (n_slides,) of the slides, where they are joined by weight; NaN where not known.
    """

    by: By
    rows: Ints
    code: Ints
    ids: Strings
    patients: Strings
    cohorts: Strings
    allowed: Bools
    slides: str
    weights: Float | None

    def join(self, values: Float) -> Float:
        """One value per row (n,) from one per slide of the archive (n_slides,)."""
        if self.by == "slide":
            return np.asarray(values[self.rows], dtype=np.float64)
        return self.join_patients(self.rows, self.ids[self.code], values)[1]

    def join_patients(self, rows: Ints, patients: Strings, values: Float) -> tuple[Strings, Float]:
        """The patients of some slides, sorted, and the joined value of each."""
        return stratify.by_patient(
            patients, values[rows], self.slides,  # type: ignore[arg-type]
            None if self.weights is None else self.weights[rows],
        )  # fmt: skip

    def join_mean(self, values: Float) -> Float:
        """The mean over the slides of each row (n,), however their scores are joined."""
        count = np.bincount(self.code, minlength=len(self.ids))
        return np.asarray(np.bincount(self.code, values[self.rows], len(self.ids)) / count)

    def any(self, mask: Bools) -> Bools:
        """(n,) rows of which any slide is in a mask (n_slides,)."""
        return np.asarray(np.bincount(self.code, mask[self.rows], minlength=len(self.ids)) > 0)


def units_of(
    engine: Engine,
    where: str | None,
    by: By,
    slides: str,
    weight: str | None,
    within: str | None,
    notes: list[str],
) -> Units:
    """The rows, with what is left out said in `notes`."""
    if weight and by == "slide":
        raise InputError("a weight joins the slides of a patient", hint="--by patient")
    if (slides == "weighted") != (weight is not None):
        raise InputError("slides are weighted by a column", hint="--weight COLUMN")
    allowed = engine.slides_where(where)
    noun = "slides"
    if within:
        lost = int((allowed & (engine.cohorts == "")).sum())
        if lost:
            notes.append(f"{lost} {noun} have no cohort: left out of strata within cohort")
        allowed = allowed & (engine.cohorts != "")
    if by == "patient":
        lost = int((allowed & (engine.patients == "")).sum())
        if lost:
            notes.append(f"{lost} slides have no patient: left out of strata by patient")
        allowed = allowed & (engine.patients != "")
    rows = np.flatnonzero(allowed)
    if len(rows) == 0:
        raise InputError("no slide satisfies the filter", found=f"--where {where}")
    weights = None
    if weight:
        weights = numbers_of(engine, weight)
        bad = int((~(weights[rows] >= 0)).sum())
        if bad:
            raise InputError(
                f"{bad} of {len(rows)} slides have no {weight}, or a negative one",
                hint=f'leave them out: --where "{weight} > 0"',
            )
    if by == "slide":
        return Units(
            by, rows, np.arange(len(rows)), engine.slide_ids[rows], engine.patients[rows],
            engine.cohorts[rows], allowed, slides, weights,
        )  # fmt: skip
    names, code = np.unique(engine.patients[rows], return_inverse=True)
    cohorts, torn = _one_each(engine.cohorts[rows], code, len(names))
    if len(torn):
        if within:
            raise InputError(
                f"{len(torn)} patients have slides in several cohorts: {some(names[torn])}",
                hint="pool the cohorts, or choose slides with --where",
            )
        notes.append(f"{len(torn)} patients have slides in several cohorts: they count as of none")
    return Units(by, rows, code, names, names, cohorts, allowed, slides, weights)


def _one_each(values: Strings, code: Ints, n: int) -> tuple[Strings, Ints]:
    """The value of every group (n,), '' where there is none, and the groups with several."""
    out: list[set[str]] = [set() for _ in range(n)]
    for value, c in zip(values.tolist(), code.tolist(), strict=True):
        if value:
            out[c].add(value)
    torn = np.array([i for i, seen in enumerate(out) if len(seen) > 1], dtype=np.int64)
    return np.array([next(iter(s)) if len(s) == 1 else "" for s in out], dtype=str), torn


@dataclass(frozen=True)
class Errors:
    """Measured minus predicted scores of held-out slides or patients, and how large they may be.

    As in `Engine.intervals`: within a cohort an error is taken in units of the spread of the
    measured scores among the slide's nearest profiles; a cohort without enough errors of its own is
    judged by the others, each left out as a whole, in the units of the scores.

    Attributes:
        own: cohort -> errors by models that know the cohort, where they are enough, and what is
            exchangeable.
        left_out: cohort -> errors by a model that has seen nothing of the cohort, likewise.
        spread: (n,) of the rows.
    """

    own: Mapping[str, tuple[Float, Strings]]
    left_out: Mapping[str, tuple[Float, Strings]]
    spread: Float

    @classmethod
    def of(
        cls, engine: Engine, units: Units, predicted: Float, measured: Float, method: str
    ) -> Errors:
        """From scores (n_slides,) that `method` predicts and those of the reference (n_reference,).

        Cohorts left out are predicted by the ridge, so they say nothing of other methods.
        """
        spread = engine.spread(measured)
        own = cls._by_cohort(engine, units, predicted, measured, spread)
        left_out: Mapping[str, tuple[Float, Strings]] = {}
        lacking = set(units.cohorts.tolist()) - set(own)
        if lacking and COHORT_SCHEME in engine.operators and method in ("blend", "ridge"):
            operator = engine.operators[COHORT_SCHEME]
            elsewhere = np.full(len(predicted), np.nan)
            elsewhere[operator.rows] = operator.apply(measured[:, None])[:, 0]
            left_out = cls._by_cohort(engine, units, elsewhere, measured, np.ones_like(spread))
        return cls(own, left_out, units.join_mean(spread))

    @staticmethod
    def _by_cohort(
        engine: Engine, units: Units, predicted: Float, measured: Float, spread: Float
    ) -> dict[str, tuple[Float, Strings]]:
        """The errors of every cohort that has them for enough patients."""
        slide, profile = engine.pairs.slide, engine.pairs.profile
        cohorts, groups = engine.cohorts[slide], engine.groups[slide]
        if units.by == "slide":
            errors = (measured[profile] - predicted[slide]) / spread[slide]
        else:
            # Every slide of a patient with RNA, whatever the filter: errors are those of the model.
            patients = engine.patients[slide]
            usable = patients != ""
            if units.weights is not None:
                usable &= units.weights[slide] > 0
            rows = np.unique(slide[usable])
            names, joined = units.join_patients(rows, engine.patients[rows], predicted)
            place = np.searchsorted(names, patients[usable])
            count = np.bincount(place, minlength=len(names))
            truth = np.bincount(place, measured[profile[usable]], minlength=len(names)) / count
            owner = np.searchsorted(names, engine.patients[rows])
            unit = np.bincount(owner, spread[rows]) / np.bincount(owner)
            errors, groups = (truth - joined) / unit, names
            cohorts = _one_each(engine.cohorts[rows], owner, len(names))[0]
        out = {}
        for cohort in np.unique(cohorts):
            mine = cohorts == cohort
            if len(np.unique(groups[mine])) >= calibrate.MIN_PATIENTS:
                out[str(cohort)] = (errors[mine], groups[mine])
        return out

    def lists(self, cohort: str, *, level: bool) -> list[Float]:
        """The errors that rows of a cohort may have: its own, or each list of other cohorts.

        Without `level` only the order within the cohort counts, so that the mean error of a cohort
        that the model has not seen is taken off.
        """
        if cohort in self.own:
            return [self.own[cohort][0]]
        return [e if level else e - e.mean() for e, _ in self.left_out.values()]

    def scale(self, cohort: str, rows: Bools) -> Float:
        """The units of the errors of rows of a cohort (n_rows,)."""
        return self.spread[rows] if cohort in self.own else np.ones(int(rows.sum()))

    def bound(self, cohort: str) -> float:
        """Half the width of the prediction interval in these units; NaN where there is none."""
        chosen = [self.own[cohort]] if cohort in self.own else list(self.left_out.values())
        bounds = [calibrate.conformal_bound(np.abs(e), g, calibrate.LEVEL) for e, g in chosen]
        worst = max(bounds, default=np.nan)
        return worst if np.isfinite(worst) else float("nan")


def columns_of(engine: Engine, names: Sequence[str]) -> dict[str, list[Any]]:
    """Metadata columns of all slides as Python values."""
    if not names:
        return {}
    held = engine.database.metadata_columns(SLIDES)
    unknown = [n for n in names if n not in held]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], held, n=1)
        raise ColumnError(
            f"slides have no column {some(unknown)}", found=some(held, 30),
            hint=near[0] if near else "molquery ingest metadata FILE --on patient_id",
        )  # fmt: skip
    table = engine.database.read(SLIDES, list(names))
    return {name: table[name].to_pylist() for name in names}


def per_unit(units: Units, values: Sequence[Any], name: str) -> list[Any]:
    """One value per row; the slides of a patient must agree."""
    out: list[Any] = [None] * len(units.ids)
    torn = set()
    for row, c in zip(units.rows.tolist(), units.code.tolist(), strict=True):
        value = values[row]
        if value is None or value != value:
            continue
        if out[c] is not None and out[c] != value:
            torn.add(str(units.ids[c]))
        out[c] = value
    if torn:
        raise InputError(
            f"{len(torn)} patients have slides with different {name}", found=some(sorted(torn)),
            hint="an outcome must be the same for all slides of a patient",
        )  # fmt: skip
    return out


def numbers_of(engine: Engine, name: str) -> Float:
    """A numeric metadata column (n_slides,), NaN where missing."""
    values = columns_of(engine, [name])[name]
    try:
        return np.array([np.nan if v is None else float(v) for v in values])
    except (TypeError, ValueError) as error:
        raise ColumnError(f"{name} holds no numbers", found=str(error)) from error
