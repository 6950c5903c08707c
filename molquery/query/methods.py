"""Ways to predict slide scores from a signature, and their comparison in held-out patients.

The default, `blend`, and its two parts come from the stored weights (`molquery.predict`). The
others rank slides by an inner product with one vector q of the shared space, as an index does:

    y_i = a + b (x_i . q)

with a and b by least squares of measured scores on the paired slides that the model has seen.
Every method predicts a slide of a patient with RNA by the model of the fold that held the patient
out, and takes q, a and b from the other patients alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery.errors import InputError
from molquery.evaluate.held_out import SPECTRUM_GENES, median, quality
from molquery.evaluate.metrics import optional
from molquery.genesets import collections
from molquery.genesets.scoring import GeneSet
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME, cases, paired_units, read_paired
from molquery.query.vector import ridge_vector
from molquery.records import Signature
from molquery.schema import SLIDES
from molquery.space import Model, need_space
from molquery.vectors import Float, Ints, Matrix, group_means

if TYPE_CHECKING:
    from molquery.query.engine import Engine

#: What `--method` takes: name -> what it is.
METHODS: Mapping[str, str] = {
    "blend": "soft-knn and ridge together (ridge alone in a cohort without RNA)",
    "soft-knn": "the soft average over the nearest reference profiles",
    "ridge": "ridge regression of measured scores on slide features",
    "vector": "projection on the ridge direction of measured scores in the shared space",
    "centroid": "projection on the mean of the top less that of the bottom quarter of profiles",
    "synthetic": "projection on a made-up profile with the signature's genes up, less one with "
    "them down",
}
DEFAULT_METHOD = "blend"
#: Share of the reference profiles at either end that `centroid` averages.
_TAIL = 0.25
#: Penalty of `vector`, in units of the mean squared coordinate: measured scores are noisy.
_PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class View:
    """What one model sees, in the shared space.

    Attributes:
        fold: position of the fold; -1 the final model. model: the model.
        rows: (n_rows,) positions of the slides that it predicts, ascending, and slides: (n_rows,
            dim) their shared vectors; both are empty for the final model, which predicts all
            others, and whose shared vectors are stored.
        known: profiles that may enter; profiles: (n_known, dim) their shared vectors.
        units: (n_units, dim) mean shared vectors of the paired slides that it has seen.
        unit_of: (n_reference,) the unit of each profile, -1 for those of none.
    """

    fold: int
    model: Model
    rows: Ints
    slides: Matrix
    known: Ints
    profiles: Matrix
    units: Float
    unit_of: Ints


@dataclass(frozen=True, slots=True)
class MethodRow:
    """Medians over gene sets of how well one method predicts held-out patients and sites.

    R² is 1 - SS_res / SS_tot, r Pearson's correlation, within_r its mean over cohorts; None where
    it cannot be computed, and for sites where there are no folds by site.
    """

    method: str
    r2: float | None
    r: float | None
    within_r: float | None
    site_r2: float | None
    site_r: float | None
    site_within_r: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All methods on the same held-out patients; `reason` says why the default is the default."""

    rows: tuple[MethodRow, ...]
    n_sets: int
    n_pairs: int
    default: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain values."""
        return asdict(self)


def check(method: str) -> None:
    """Raise InputError unless the method is known."""
    if method not in METHODS:
        raise InputError(f"{method} is not a method", hint=f"--method {'|'.join(METHODS)}")


def views(engine: Engine, scheme: str) -> list[View]:
    """The views of every model of a fold scheme; takes seconds for thousands of pairs."""
    space = need_space(engine.database)
    # One slide of those that the final model predicts stands for all of them.
    others = np.flatnonzero(engine.operator.model < 0)[:1]
    at, slides, profiles = read_paired(engine.database, space, others)
    found = []
    for case in cases(space, scheme, slides, profiles):
        rows = case.rows if case.fold >= 0 else case.rows[:0]
        needed = np.union1d(rows, case.trained)
        cohorts, sites = slides.cohorts[needed].tolist(), slides.sites[needed].tolist()
        shared = case.model.project_standardised(case.standard[needed], cohorts, sites)
        seen = shared[np.searchsorted(needed, case.trained)]
        units, _, unit_of = paired_units(seen, slides, case.trained, profiles, case.known)
        found.append(
            View(
                fold=case.fold,
                model=case.model,
                rows=at[rows],
                slides=shared[np.searchsorted(needed, rows)],
                known=case.known,
                profiles=case.model.project_profiles(profiles.vectors[case.known]),
                units=units,
                unit_of=unit_of,
            )
        )
    return found


def predict(
    engine: Engine,
    method: str,
    scores: Float,
    sets: Sequence[GeneSet],
    scheme: str = PATIENT_SCHEME,
    slides: Ints | None = None,
) -> Float:
    """Predicted scores (n_slides, S) of signatures by one method of `METHODS`.

    Args:
        scores: (n_reference, S) measured scores of the signatures in the reference.
        sets: the S signatures as (positions, weights) in the expression panel.
        scheme: which folds hold out slides of patients with RNA.
        slides: positions of those that are wanted; all, or by site some of those with RNA.

    Raises:
        InputError: the method is not known.
    """
    check(method)
    operator = engine.operators[scheme]
    if method == "blend":
        return operator.apply(scores, slides)
    if method in ("soft-knn", "ridge"):
        part = operator.soft if method == "soft-knn" else operator.linear
        return np.asarray(part(scores.astype(np.float32), slides), dtype=np.float64)
    wanted = np.arange(engine.n_slides) if slides is None else np.unique(slides)
    out = np.empty((len(wanted), len(sets)))
    fold = operator.model[operator.at(wanted)]
    for view in engine.views(scheme):
        mine = np.flatnonzero(fold == view.fold)
        if len(mine) == 0:
            continue
        _, measured = group_means(view.unit_of[view.unit_of >= 0], scores[view.unit_of >= 0])
        directions = _directions(engine, method, view, measured, scores, sets)
        on_units = view.units @ directions
        on_slides = _shared(engine, view, wanted[mine]) @ directions
        centred = on_units - on_units.mean(axis=0)
        variance = (centred**2).sum(axis=0)
        slope = (centred * measured).sum(axis=0) / np.where(variance > 0, variance, np.inf)
        level = measured.mean(axis=0) - slope * on_units.mean(axis=0)
        out[mine] = level + slope * on_slides
    return out if slides is None else out[np.searchsorted(wanted, slides)]


def _shared(engine: Engine, view: View, rows: Ints) -> Matrix:
    """(n_rows, dim) shared vectors of slides that a view's model predicts."""
    if view.fold < 0:
        return engine.shared_rows(SLIDES, rows)
    return view.slides[np.searchsorted(view.rows, rows)]


def _directions(
    engine: Engine,
    method: str,
    view: View,
    measured: Float,
    scores: Float,
    sets: Sequence[GeneSet],
) -> Float:
    """(dim, S) the vector q of every signature, of any length."""
    if method == "vector":
        return ridge_vector(view.units, measured, _PENALTY)
    if method == "centroid":
        order = np.argsort(scores[view.known], axis=0, kind="stable")
        count = max(1, round(_TAIL * len(order)))
        top, bottom = (
            np.stack([view.profiles[rows].mean(axis=0) for rows in end.T], axis=1)
            for end in (order[-count:], order[:count])
        )
        return np.asarray(top - bottom, dtype=np.float64)
    moments = engine.reference.moments
    middle = np.tile(np.where(np.isnan(moments.mean), 0.0, moments.mean), (len(sets), 1))
    change = np.zeros_like(middle)
    for row, (positions, weights) in zip(change, sets, strict=True):
        row[positions] = weights / np.abs(weights).mean() * moments.sd[positions]
    up, down = (view.model.project_profiles(middle + sign * change) for sign in (1, -1))
    return np.asarray((up - down).T, dtype=np.float64)


def compare_methods(engine: Engine, signatures: Sequence[Signature] | None = None) -> Comparison:
    """How every method predicts signatures in held-out patients, and in held-out sites.

    Args:
        signatures: what to predict; the Hallmark sets with enough genes in the panel by default.

    Raises:
        InputError: none of the signatures has enough genes in the panel.
    """
    scored = engine.reference.score(collections.hallmark() if signatures is None else signatures)
    least = SPECTRUM_GENES if signatures is None else 1
    keep = [i for i, m in enumerate(scored.matches) if len(m.positions) >= least]
    if not keep:
        raise InputError("no gene set has enough genes in this database to compare methods on")
    scores = scored.scores[:, keep]
    sets = [(scored.matches[i].positions, scored.matches[i].weights) for i in keep]
    pairs = engine.pairs
    rows = []
    for method in METHODS:
        told: dict[str, float | None] = {}
        for scheme, prefix in ((PATIENT_SCHEME, ""), (SITE_SCHEME, "site_")):
            if scheme in engine.operators:
                found = pairs.join(predict(engine, method, scores, sets, scheme, pairs.slide))
                values = quality(found, scores[pairs.profiles], pairs.cohorts)
            for name in ("r2", "r", "within_r"):
                known = scheme in engine.operators
                told[prefix + name] = median([optional(v) for v in values[name]]) if known else None
        rows.append(MethodRow(method, **told))
    return Comparison(
        tuple(rows), len(keep), len(pairs.profiles), DEFAULT_METHOD, _reason(tuple(rows))
    )


def _reason(rows: Sequence[MethodRow]) -> str:
    """Whether the default is also the best here, by the median correlation within cohorts."""

    def merit(row: MethodRow) -> float:
        value = row.within_r if row.within_r is not None else row.r
        return -2.0 if value is None else value

    best = max(rows, key=merit)
    mine = next(row for row in rows if row.method == DEFAULT_METHOD)
    if merit(mine) == -2.0:
        return f"{DEFAULT_METHOD} is the default; none can be measured here"
    by = "correlation within cohorts" if mine.within_r is not None else "correlation"
    if best is mine:
        others = max((row for row in rows if row is not mine), key=merit)
        return (
            f"{DEFAULT_METHOD} is the default: the highest median {by} in held-out patients, "
            f"{merit(mine):.3f}; next {others.method}, {merit(others):.3f}"
        )
    return (
        f"{DEFAULT_METHOD} is the default, but here {best.method} has the higher median {by} in "
        f"held-out patients: {merit(best):.3f} against {merit(mine):.3f}"
    )
