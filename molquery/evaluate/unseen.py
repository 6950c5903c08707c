"""How well patients are predicted whose RNA a space has left out: an unseen cohort, simulated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from molquery.evaluate import metrics
from molquery.evaluate.held_out import HeldOutPairs, median, quality
from molquery.predict import PATIENT_SCHEME, Rows, build_operator
from molquery.space import Model, SharedSpace
from molquery.vectors import Float, Strings, same_key


@dataclass(frozen=True, slots=True)
class Unseen:
    """Predictions for patients whose RNA is there but was not used, against that RNA.

    Attributes:
        n_patients: patients with slides and RNA; n_slides, n_profiles: theirs.
        n_sets: gene sets over which the next three are medians.
        within_r: Pearson's r within cohorts (over all patients where no cohort has 20 profiles).
        r2: 1 - SS_res / SS_tot over these patients: below 0 where their own mean predicts better.
        fold10: recall at 10 from slide to RNA over that of a random order; the gallery is the
            `n_profiles` of these patients.
    """

    n_patients: int
    n_slides: int
    n_profiles: int
    n_sets: int
    within_r: float | None
    r2: float | None
    fold10: float


def predict_unseen(
    space: SharedSpace, slides: Rows, profiles: Rows, scores: Float, groups: Collection[str]
) -> tuple[HeldOutPairs, Float]:
    """Pairs of groups that a space has left out, and predictions of their profiles.

    Args:
        scores: (n_reference, S) measured scores; those of `groups` enter no prediction.

    Returns:
        The pairs, and (n_profiles_paired, S) predictions as `search` makes them.
    """
    tested = np.isin(slides.groups, sorted(groups))
    slide, profile = same_key(slides.keys, profiles.keys)
    slide, profile = slide[tested[slide]], profile[tested[slide]]
    only = np.zeros(len(slides.keys), dtype=bool)
    only[slide] = True
    operator = build_operator(space, PATIENT_SCHEME, slides, profiles, only)
    pairs = HeldOutPairs.of(slide, profile, slides.cohorts[slide])
    return pairs, pairs.predicted(operator, scores)


def medians(predicted: Float, measured: Float, cohorts: Strings) -> tuple[float | None, ...]:
    """`within_r` and `r2` of `Unseen`, from predictions (n, S) of measured scores."""
    found = quality(predicted, measured, cohorts)
    within, r, r2 = ([metrics.optional(v) for v in found[k]] for k in ("within_r", "r", "r2"))
    return median(within) if median(within) is not None else median(r), median(r2)


def retrieved(model: Model, pairs: HeldOutPairs, slides: Rows, profiles: Rows) -> float:
    """`fold10` of `Unseen`: slide to RNA, the profiles of the pairs being the gallery."""
    rows, inverse = np.unique(pairs.slide, return_inverse=True)
    cohorts, sites = slides.cohorts[rows].tolist(), slides.sites[rows].tolist()
    x = model.project_slides(slides.vectors[rows], cohorts, sites)
    r = model.project_profiles(profiles.vectors[pairs.profiles])
    positive = np.zeros((len(rows), len(pairs.profiles)), dtype=bool)
    positive[inverse, np.searchsorted(pairs.profiles, pairs.profile)] = True
    return metrics.retrieval(x @ r.T - model.hubness(r)[None, :], positive).fold10


def unseen_quality(
    space: SharedSpace, slides: Rows, profiles: Rows, scores: Float, groups: Collection[str]
) -> Unseen:
    """The figures of groups that the space has left out; arguments as in `predict_unseen`."""
    pairs, predicted = predict_unseen(space, slides, profiles, scores, groups)
    within_r, r2 = medians(predicted, scores[pairs.profiles], pairs.cohorts)
    rows = np.unique(pairs.slide)
    return Unseen(
        n_patients=len(np.unique(slides.groups[rows])),
        n_slides=len(rows),
        n_profiles=len(pairs.profiles),
        n_sets=scores.shape[1],
        within_r=within_r,
        r2=r2,
        fold10=retrieved(space.final, pairs, slides, profiles),
    )
