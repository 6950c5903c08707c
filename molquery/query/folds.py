"""One pass over the folds of a space: retrieval ranks, baselines, and how the space lies.

Everything is about held-out patients: the model of a fold, and every baseline, has seen neither
their slides nor their RNA.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from molquery.evaluate import geometry, metrics
from molquery.evaluate.metrics import Ranks
from molquery.predict import Case, Rows, cases
from molquery.query import baselines
from molquery.query.baselines import Gallery
from molquery.space import Fold, SharedSpace
from molquery.vectors import Float, Ints, Strings

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
class FoldResult:
    """What one fold gave.

    Attributes:
        slides: positions of the slides that it holds out.
        standings: (direction, scope, method) -> where partners stand; scopes without a single
            query are left out.
        predicted: baseline -> (n_held_out, S) predicted scores of the slides.
        lying: figures of the space's geometry.
    """

    slides: Ints
    standings: dict[tuple[str, str, str], Standing] = field(default_factory=dict)
    predicted: dict[str, Float] = field(default_factory=dict)
    lying: dict[str, float] = field(default_factory=dict)


def fold_result(
    space: SharedSpace, fold: Fold, slides: Rows, profiles: Rows, scores: Float
) -> FoldResult | None:
    """Retrieval and baselines of a fold; None when nothing that it holds out is there any more.

    Args:
        scores: (n_reference, S) measured scores that the baselines predict.
    """
    mine = np.isin(slides.groups, sorted(fold.held_out))
    for case in cases(space, fold.scheme, slides, profiles, mine):
        if case.fold < 0 or len(case.trained) == 0:
            continue
        gallery = Gallery.of(case, slides, profiles)
        out = FoldResult(gallery.slides)
        _ours(out, case, gallery, slides, profiles)
        found = baselines.answers(case, gallery, slides, profiles, str(space.facts["kind"]))
        for name, answer in found.items():
            _stand(out, name, gallery, slides, profiles, answer.to_profiles, answer.to_slides)
            out.predicted[name] = answer.weights @ scores
        return out
    return None


def _ours(out: FoldResult, case: Case, gallery: Gallery, slides: Rows, profiles: Rows) -> None:
    """The space itself: the hubness-corrected cosine for slides, the cosine for profiles."""
    cohorts, sites = (v[gallery.slides].tolist() for v in (slides.cohorts, slides.sites))
    x = case.model.project_standardised(case.standard[gallery.slides], cohorts, sites)
    r = case.model.project_profiles(profiles.vectors[gallery.profiles])
    cosine = (x @ r.T).astype(np.float64)
    corrected = cosine - case.model.hubness(r)
    _stand(out, OURS, gallery, slides, profiles, corrected, cosine.T)

    for name, similarity in (("before", cosine), ("after", corrected)):
        counts = geometry.k_occurrence(similarity, _NEIGHBOURS)
        out.lying[f"skewness_{name}"] = geometry.skewness(counts)
        out.lying[f"never_{name}"] = float((counts == 0).mean())
        out.lying[f"largest_{name}"] = float(counts.max() / len(x))
    out.lying["modality_gap"] = geometry.modality_gap(x, r)
    others = cosine[~gallery.positive]
    out.lying["cosine_pairs"] = float(cosine[gallery.positive].mean())
    out.lying["cosine_others"] = float(others.mean()) if len(others) else float("nan")


def _stand(
    out: FoldResult,
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
                out.standings[direction, scope, method] = standing
