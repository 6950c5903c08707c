"""One pass over the folds of a space: retrieval ranks, baselines, and how the space lies.

Everything is about held-out patients: the model of a fold, and every baseline, has seen neither
their slides nor their RNA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from molquery.evaluate import geometry, metrics
from molquery.evaluate.metrics import Ranks
from molquery.predict import Case, Rows, cases
from molquery.query import baselines
from molquery.query.baselines import Gallery
from molquery.space import SharedSpace
from molquery.vectors import Float, Strings

OURS = "molquery"
DIRECTIONS = ("slide_to_profile", "profile_to_slide")
#: The gallery of a query: the whole fold, or those of the query's own cohort.
SCOPES = ("pooled", "within_cohort")
_NEIGHBOURS = 10  # of the k-occurrence


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the partners of one fold's queries stand, and whose the queries are."""

    ranks: Ranks
    groups: Strings  # of all the rows that `ranks` was given
    cohorts: Strings


@dataclass(slots=True)
class SchemeResult:
    """What the folds of one scheme gave.

    Attributes:
        standings: (direction, scope, method) -> one entry per fold.
        predicted: baseline -> (n_slides, S), NaN for slides that no fold holds out.
        lying: figure of the space's geometry -> one (value, weight) per fold.
        notes: scopes without a single query.
    """

    standings: dict[tuple[str, str, str], list[Standing]] = field(default_factory=dict)
    predicted: dict[str, Float] = field(default_factory=dict)
    lying: dict[str, list[tuple[float, int]]] = field(default_factory=dict)


def scheme_result(
    space: SharedSpace,
    scheme: str,
    slides: Rows,
    profiles: Rows,
    scores: Float,
    done: Callable[[], None],
) -> SchemeResult:
    """Retrieval and baselines over the folds of a scheme (`patient` or `site`).

    Args:
        scores: (n_reference, S) measured scores that the baselines predict.
        done: called when a fold is done.
    """
    out = SchemeResult()
    for name in baselines.LABELS:
        out.predicted[name] = np.full((len(slides.keys), scores.shape[1]), np.nan)
    for case in cases(space, scheme, slides, profiles):
        if case.fold < 0 or len(case.trained) == 0:
            continue
        gallery = Gallery.of(case, slides, profiles)
        _ours(out, case, gallery, slides, profiles)
        found = baselines.answers(case, gallery, slides, profiles, str(space.facts["kind"]))
        for name, answer in found.items():
            _stand(out, name, gallery, slides, profiles, answer.to_profiles, answer.to_slides)
            out.predicted[name][gallery.slides] = answer.weights @ scores
        done()
    return out


def _ours(out: SchemeResult, case: Case, gallery: Gallery, slides: Rows, profiles: Rows) -> None:
    """The space itself: the hubness-corrected cosine for slides, the cosine for profiles."""
    cohorts = slides.cohorts[gallery.slides].tolist()
    x = case.model.project_standardised(case.standard[gallery.slides], cohorts)
    r = case.model.project_profiles(profiles.vectors[gallery.profiles])
    cosine = (x @ r.T).astype(np.float64)
    corrected = cosine - case.model.hubness(r)
    _stand(out, OURS, gallery, slides, profiles, corrected, cosine.T)

    def tell(name: str, value: float) -> None:
        out.lying.setdefault(name, []).append((value, len(x)))

    for name, similarity in (("before", cosine), ("after", corrected)):
        counts = geometry.k_occurrence(similarity, _NEIGHBOURS)
        tell(f"skewness_{name}", geometry.skewness(counts))
        tell(f"never_{name}", float((counts == 0).mean()))
        tell(f"largest_{name}", float(counts.max() / len(x)))
    tell("modality_gap", geometry.modality_gap(x, r))
    tell("cosine_pairs", float(cosine[gallery.positive].mean()))
    tell("cosine_others", float(cosine[~gallery.positive].mean()))


def _stand(
    out: SchemeResult,
    method: str,
    gallery: Gallery,
    slides: Rows,
    profiles: Rows,
    to_profiles: Float,
    to_slides: Float,
) -> None:
    """Note where the partners stand, in both directions and both galleries."""
    both = (
        (DIRECTIONS[0], to_profiles, gallery.positive, gallery.same, slides, gallery.slides),
        (DIRECTIONS[1], to_slides, gallery.positive.T, gallery.same.T, profiles, gallery.profiles),
    )
    for direction, similarity, positive, same, rows, at in both:
        for scope, allowed in zip(SCOPES, (None, same), strict=True):
            found = metrics.ranks(similarity, positive, allowed=allowed)
            if len(found.query):
                standing = Standing(found, rows.groups[at], rows.cohorts[at])
                out.standings.setdefault((direction, scope, method), []).append(standing)
