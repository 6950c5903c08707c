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
from molquery.vectors import Float, Ints, Strings

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
    def of(cls, slide: Ints, profile: Ints, slide_cohorts: Strings) -> HeldOutPairs:
        """From aligned positions of pairs and the cohort of every slide."""
        profiles, first = np.unique(profile, return_index=True)
        return cls(slide, profile, profiles, slide_cohorts[slide[first]])

    def predicted(self, operator: Operator, scores: Float) -> Float:
        """(n_profiles_paired, S) predictions, averaged over the slides of each profile."""
        return self.average(operator.apply(scores))

    def average(self, values: Float) -> Float:
        """(n_profiles_paired, S) values (n_slides, S), averaged over the slides of each profile."""
        each = values[self.slide]
        order = np.searchsorted(self.profiles, self.profile)
        total = np.zeros((len(self.profiles), values.shape[1]))
        np.add.at(total, order, each)
        return np.asarray(total / np.bincount(order)[:, None])


def predictabilities(
    operators: Mapping[str, Operator], pairs: HeldOutPairs, scores: Float
) -> list[Predictability]:
    """How well each signature is predicted in held-out patients.

    Args:
        scores: (n_reference, S) measured scores of the reference profiles.
    """
    measured = scores[pairs.profiles]
    patient = quality(pairs.predicted(operators[PATIENT_SCHEME], scores), measured, pairs.cohorts)
    site = None
    if SITE_SCHEME in operators:
        site = quality(pairs.predicted(operators[SITE_SCHEME], scores), measured, pairs.cohorts)
    cohorts: dict[str, Float] = patient["by_cohort"]
    return [
        Predictability(
            n_pairs=len(pairs.profiles),
            r2=metrics.optional(patient["r2"][s]),
            r=metrics.optional(patient["r"][s]),
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
