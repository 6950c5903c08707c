"""The held-out summary of a space: retrieval and the Hallmark predictability spectrum.

Every number here compares predictions for held-out patients with their measured RNA. The stored
operators hold those predictions for the folds by patient and, where sites are known, by site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from molquery.evaluate import metrics
from molquery.evaluate.metrics import Retrieval
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME, Operator
from molquery.records import Predictability
from molquery.vectors import Float, Ints, Strings, group_means

#: A set enters the spectrum with at least this many genes in the panel.
SPECTRUM_GENES = 10
#: A cohort enters within-cohort figures with at least this many pairs.
MIN_COHORT = 20


@dataclass(frozen=True, slots=True)
class HeldOutPairs:
    """One row per reference profile with slides: its slides are averaged.

    Attributes:
        slide: (n_pairs,) slide positions; profile: (n_pairs,) profile positions.
        cohorts: (n_profiles_paired,) cohort of each distinct paired profile.
    """

    slide: Ints
    profile: Ints
    profiles: Ints
    cohorts: Strings

    @classmethod
    def of(cls, slide: Ints, profile: Ints, cohorts: Strings) -> HeldOutPairs:
        """From aligned positions of pairs and the cohort of each one's slide (n_pairs,)."""
        profiles, first = np.unique(profile, return_index=True)
        return cls(slide, profile, profiles, cohorts[first])

    def predicted(self, operator: Operator, scores: Float) -> Float:
        """(n_profiles_paired, S) predictions, averaged over the slides of each profile."""
        return self.join(operator.apply(scores, self.slide))

    def average(self, values: Float) -> Float:
        """(n_profiles_paired, S) values (n_slides, S), averaged over the slides of each profile."""
        return self.join(values[self.slide])

    def join(self, values: Float) -> Float:
        """As `average`, of values (n_pairs, S) of the slides of the pairs."""
        return np.asarray(group_means(self.profile, values)[1])


def predictabilities(
    operators: Mapping[str, Operator], pairs: HeldOutPairs, scores: Float
) -> list[Predictability]:
    """How well each signature is predicted in held-out patients by the stored weights.

    Args:
        scores: (n_reference, S) measured scores of the reference profiles.
    """
    schemes = [s for s in (PATIENT_SCHEME, SITE_SCHEME) if s in operators]
    return describe({s: pairs.predicted(operators[s], scores) for s in schemes}, pairs, scores)


def describe(
    predicted: Mapping[str, Float], pairs: HeldOutPairs, scores: Float
) -> list[Predictability]:
    """How well each signature is predicted, from predictions (n_profiles_paired, S) by scheme."""
    measured = scores[pairs.profiles]
    patient = quality(predicted[PATIENT_SCHEME], measured, pairs.cohorts)
    ranked = metrics.spearman(predicted[PATIENT_SCHEME], measured)
    site = None
    if SITE_SCHEME in predicted:
        site = quality(predicted[SITE_SCHEME], measured, pairs.cohorts)
    cohorts: dict[str, Float] = patient["by_cohort"]
    return [
        Predictability(
            n_pairs=len(pairs.profiles),
            r2=metrics.optional(patient["r2"][s]),
            r=metrics.optional(patient["r"][s]),
            spearman=metrics.optional(ranked[s]),
            within_r=metrics.optional(patient["within_r"][s]),
            by_cohort={c: metrics.optional(v[s]) for c, v in cohorts.items()},
            site_r2=None if site is None else metrics.optional(site["r2"][s]),
            site_within_r=None if site is None else metrics.optional(site["within_r"][s]),
        )
        for s in range(scores.shape[1])
    ]


def quality(predicted: Float, measured: Float, cohorts: Strings) -> dict[str, Any]:
    """R², r, within-cohort r (S,) and r by cohort of predictions (n, S) of measured scores."""
    labels = [c or None for c in cohorts.tolist()]
    within, by_cohort = metrics.within_cohort_r(predicted, measured, labels, min_n=MIN_COHORT)
    return {
        "r2": metrics.r2(predicted, measured),
        "r": metrics.pearson(predicted, measured),
        "within_r": within,
        "by_cohort": by_cohort,
    }


def correlation(predicted: Float, measured: Float, cohorts: Strings, *, pooled: bool) -> Float:
    """Pearson's r of each signature (S,): the mean within cohorts, or over all of them."""
    if pooled:
        return metrics.pearson(predicted, measured)
    labels = [c or None for c in cohorts.tolist()]
    return metrics.within_cohort_r(predicted, measured, labels, min_n=MIN_COHORT)[0]


def median(values: Sequence[float | None]) -> float | None:
    """The median of the values that are there."""
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def mean_retrieval(parts: Sequence[Retrieval]) -> dict[str, float]:
    """Retrieval of several folds as one: each figure's mean weighted by the fold's queries."""
    weight = np.array([p.n_queries for p in parts], dtype=np.float64)
    names = ("recall1", "recall5", "recall10", "median_rank", "mrr", "chance10", "fold10")
    out = {
        name: float(np.average([getattr(p, name) for p in parts], weights=weight)) for name in names
    }
    out["n_queries"] = int(weight.sum())
    out["gallery"] = round(float(np.average([p.gallery for p in parts], weights=weight)))
    return out
