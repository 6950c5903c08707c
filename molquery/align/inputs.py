"""Input transforms, fitted on training pairs only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from molquery.align.pairs import Pairs, Places
from molquery.encoders import FEATURES_KIND
from molquery.space import ProfileInput, SlideInput, normal_scores
from molquery.texts import Groups
from molquery.vectors import Bools, Ints, Matrix

_KNOTS = 101  # quantiles kept of each feature: percentiles, fine enough for normal scores
_TINY = 1e-6  # a feature or gene that varies less than this is constant
#: Slides of a site at which its mean lies midway between that of its slides and of its cohort.
_SHRINK = 5.0


def fit_slide_input(pairs: Pairs, train: Bools, kind: str) -> SlideInput:
    """The slide transform from the slides of the training pairs (`train`: (n_pairs,) mask).

    The mean of a cohort, or of a site, without a training pair is taken over all its slides, or
    evenly spaced ones of many (`Pairs.places`): it needs no RNA.
    """
    rows = np.unique(pairs.slide[train])
    vectors = pairs.slides.vectors
    knots = None
    values = vectors[rows]
    if kind == FEATURES_KIND:
        knots = _quantiles(values)
        values = normal_scores(values, knots)
    with np.errstate(invalid="ignore"):
        mean, scale = _moments(values)
    none = np.zeros((0, vectors.shape[1]), np.float32)
    partial = SlideInput(knots, mean, scale, (), none, (), none)
    names, offsets = [], []
    seen = pairs.slides.cohorts[rows]
    for cohort in sorted(pairs.places.cohorts):
        members = rows[seen == cohort]
        if len(members) == 0:
            members = pairs.places.cohorts[cohort]
        names.append(cohort)
        offsets.append(partial.standardise(vectors[members]).mean(axis=0))
    stacked = np.array(offsets, dtype=np.float32).reshape(len(names), vectors.shape[1])
    partial = replace(partial, cohorts=tuple(names), offsets=stacked)
    sites, middles = _site_offsets(pairs, rows, partial)
    return replace(partial, sites=sites, site_offsets=middles)


def _site_offsets(
    pairs: Pairs, trained: Ints, known: SlideInput
) -> tuple[tuple[tuple[str, str], ...], Matrix]:
    """(cohort, site) of every site, and (n_sites, d) the offsets of their slides:

        m + n / (n + 5) (mean of the site's n slides - m),   m the mean of the cohort

    Nothing where no cohort has slides of two sites: a site that is all of its cohort tells no more.
    """
    slides, places = pairs.slides, tuple(sorted(pairs.places.sites))
    if len({cohort for cohort, _ in places}) == len(places):
        return (), np.zeros((0, slides.vectors.shape[1]), np.float32)
    own = Places.of(*(Groups.of(v[trained]) for v in (slides.cohorts, slides.sites))).sites
    offsets = known.cohort_means([cohort for cohort, _ in places])
    for offset, place in zip(offsets, places, strict=True):
        n, some = pairs.places.sites[place]
        if place in own:
            n, some = own[place][0], trained[own[place][1]]
        mean = known.standardise(slides.vectors[some]).mean(axis=0)
        offset += n / (n + _SHRINK) * (mean - offset)
    return places, offsets


def fit_profile_input(pairs: Pairs, reference: Bools) -> ProfileInput:
    """The profile transform, from the reference profiles (`reference`: (n_profiles,) mask)."""
    mean, scale = _moments(pairs.profiles.vectors[reference])
    return ProfileInput(mean, scale)


def _moments(values: Matrix) -> tuple[Matrix, Matrix]:
    """Column means and standard deviations without missing values; constants get scale 1."""
    known = np.maximum((~np.isnan(values)).sum(axis=0), 1)
    mean = np.nansum(values, axis=0, dtype=np.float64) / known
    variance = np.nansum((values - mean) ** 2, axis=0, dtype=np.float64) / known
    scale = np.sqrt(variance)
    scale[scale < _TINY] = 1.0
    return mean.astype(np.float32), scale.astype(np.float32)


def _quantiles(values: Matrix) -> Matrix:
    """(n_knots, d) quantiles of each feature, without its missing values."""
    grid = (np.arange(_KNOTS) + 0.5) / _KNOTS
    known = ~np.isnan(values).all(axis=0)
    out = np.zeros((_KNOTS, values.shape[1]), np.float32)
    out[:, known] = np.nanquantile(values[:, known], grid, axis=0)
    return out
