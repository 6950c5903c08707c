"""What a space must beat: simpler methods, fitted and asked on the same folds and galleries.

Each baseline sees the training pairs of a fold, with slides standardised by constants of the
training slides (features as sign(v) log(1 + |v|) first). It gives a similarity of every held-out
slide to every held-out profile, and weights that predict the scores of the slides from those of the
reference. None is tuned on held-out patients; where a setting is fixed, it is the one that served
the baseline best on a cohort of 1,647 patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from molquery import predict
from molquery.align.cca import CCA, fit_cca
from molquery.encoders import FEATURES_KIND
from molquery.predict import Case, Rows, paired_units
from molquery.space import run_head
from molquery.vectors import (
    Bools,
    Float,
    Ints,
    Matrix,
    Strings,
    group_means,
    principal_components,
    unit,
)

_NEIGHBOURS = 50
_COMPONENTS = 200
_FLOOR = 3.0  # added to the variance of a component before scaling, as the ridge rz of the CCA
_PENALTIES = 10.0 ** np.arange(-2.0, 3.1, 0.25)  # of the ridge, in units of the kernel x.x' / p
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Gallery:
    """The held-out slides and profiles of a fold: each side asks, the other is its gallery.

    Attributes:
        slides, profiles: their positions.
        positive: (n_slides, n_profiles) true for pairs.
        same: (n_slides, n_profiles) true inside a cohort; false where none is named.
    """

    slides: Ints
    profiles: Ints
    positive: Bools
    same: Bools

    @classmethod
    def of(cls, case: Case, slides: Rows, profiles: Rows) -> Gallery:
        """The slides that a case predicts and the profiles paired with them."""
        mine = np.flatnonzero(np.isin(profiles.keys, slides.keys[case.rows]))
        positive = slides.keys[case.rows][:, None] == profiles.keys[mine][None, :]
        cohorts = profiles.cohorts[mine]
        same = slides.cohorts[case.rows][:, None] == cohorts[None, :]
        return cls(case.rows, mine, positive, same & (cohorts != "")[None, :])


@dataclass(frozen=True, slots=True)
class Answers:
    """What a method says of a fold.

    Attributes:
        to_profiles: (n_slides, n_profiles) similarity, slides asking.
        to_slides: (n_profiles, n_slides) similarity, profiles asking.
        weights: (n_slides, n_reference): predicted scores are weights @ reference scores.
    """

    to_profiles: Float
    to_slides: Float
    weights: Float


@dataclass(frozen=True, slots=True)
class _Fold:
    """A fold, standardised. Profiles are scaled principal components y, and z-scores z."""

    gallery: Gallery
    cohorts: Strings  # (n_slides,) of the held-out slides
    x: Matrix  # (n_slides, p)
    y: Float  # (n_profiles, m)
    z: Matrix  # (n_profiles, n_genes)
    units_x: Float  # (n_units, p) training pairs
    units_y: Float  # (n_units, m)
    units_z: Float  # (n_units, n_genes)
    unit_cohorts: Strings
    unit_of: Ints  # (n_reference,) the unit of each profile, -1 for none
    known: Ints
    known_z: Matrix  # (n_known, n_genes)

    def spread(self, on_units: Float) -> Float:
        """Weights on units (n, n_units) as weights on their profiles (n, n_reference)."""
        paired = np.flatnonzero(self.unit_of >= 0)
        unit_of = self.unit_of[paired]
        out = np.zeros((len(on_units), len(self.unit_of)))
        out[:, paired] = on_units[:, unit_of] / np.bincount(unit_of)[unit_of]
        return out


def answers(
    case: Case, gallery: Gallery, slides: Rows, profiles: Rows, kind: str
) -> dict[str, Answers]:
    """What every baseline says of a fold, by name; `kind` of the slides: embeddings or features."""
    fold = _standardise(case, gallery, slides, profiles, kind)
    return {name: baseline(fold) for name, (_, baseline) in _BASELINES.items()}


def _standardise(case: Case, gallery: Gallery, slides: Rows, profiles: Rows, kind: str) -> _Fold:
    needed = np.union1d(case.trained, gallery.slides)
    x = slides.vectors[needed]
    if kind == FEATURES_KIND:
        x = np.sign(x) * np.log1p(np.abs(x))
    trained = np.searchsorted(needed, case.trained)
    x = _z_scores(x, trained)
    z = _z_scores(profiles.vectors, case.known)
    centre = z[case.known].mean(axis=0, dtype=np.float64)
    variances, directions = principal_components(z[case.known], _COMPONENTS)
    scale = directions / np.sqrt(variances + _FLOOR)
    units_x, cohorts, unit_of = paired_units(x[trained], slides, case.trained, profiles, case.known)
    units_z = group_means(unit_of[unit_of >= 0], z[unit_of >= 0])[1]
    return _Fold(
        gallery=gallery,
        cohorts=slides.cohorts[gallery.slides],
        x=x[np.searchsorted(needed, gallery.slides)],
        y=(z[gallery.profiles] - centre) @ scale,
        z=z[gallery.profiles],
        units_x=units_x,
        units_y=(units_z - centre) @ scale,
        units_z=units_z,
        unit_cohorts=cohorts,
        unit_of=unit_of,
        known=case.known,
        known_z=z[case.known],
    )


def _z_scores(values: Matrix, train: Ints) -> Matrix:
    """z-scores by the training rows; missing values are 0."""
    chosen = values[train]
    known = np.maximum((~np.isnan(chosen)).sum(axis=0), 1)
    mean = np.nansum(chosen, axis=0, dtype=np.float64) / known
    sd = np.sqrt(np.nansum((chosen - mean) ** 2, axis=0, dtype=np.float64) / known)
    z = (values - mean) / np.where(sd < _TINY, 1.0, sd)
    return np.asarray(np.nan_to_num(z), dtype=np.float32)


def _random(fold: _Fold) -> Answers:
    """All alike: with ties settled by expectation, exactly a random order."""
    nothing = np.zeros(fold.gallery.positive.shape)
    mean = np.full((1, len(fold.units_x)), 1.0 / len(fold.units_x))
    return Answers(nothing, nothing.T, np.tile(fold.spread(mean), (len(fold.x), 1)))


def _cohort(fold: _Fold) -> Answers:
    """Only the cohort is known: its members first, its mean score for all."""
    names, code = np.unique(fold.cohorts, return_inverse=True)
    own = (names[:, None] == fold.unit_cohorts[None, :]).astype(np.float64)
    own[own.sum(axis=1) == 0] = 1.0  # a cohort without training pairs: the mean of all
    weights = fold.spread(own / own.sum(axis=1, keepdims=True))[code]
    same = fold.gallery.same.astype(np.float64)
    return Answers(same, same.T, weights)


def _raw_neighbours(fold: _Fold) -> Answers:
    """The mean of the nearest training slides' profiles; of the nearest profiles' slides, too."""
    n = len(fold.units_x)
    k = min(_NEIGHBOURS, max(5, n // 20), n)
    centre_x, centre_y = fold.units_x.mean(axis=0), fold.units_y.mean(axis=0)
    units_x, units_y = fold.units_x - centre_x, fold.units_y - centre_y
    x, y = fold.x - centre_x, fold.y - centre_y
    near_x, near_y = _nearest(x, units_x, k), _nearest(y, units_y, k)
    expected_y, expected_x = near_x @ units_y, near_y @ units_x
    return Answers(_cosine(expected_y, y), _cosine(expected_x, x), fold.spread(near_x))


def _ridge(fold: _Fold) -> Answers:
    """Ridge regression from slides to expression components, or to the scores themselves.

    The penalty has the least generalised cross-validation error over the components (Golub, Heath
    and Wahba 1979, doi:10.1080/00401706.1979.10489751).
    """
    n, p = fold.units_x.shape
    centre_x, centre_y = fold.units_x.mean(axis=0), fold.units_y.mean(axis=0)
    units_x, units_y = fold.units_x - centre_x, fold.units_y - centre_y
    values, vectors = np.linalg.eigh(units_x @ units_x.T / p)
    values = np.maximum(values, 0.0)
    rotated = ((vectors.T @ units_y) ** 2).sum(axis=1)
    error = []
    for penalty in _PENALTIES:
        left = penalty / (values + penalty)
        error.append((left**2 @ rotated) / max(left.sum() - 1, _TINY) ** 2)
    penalty = _PENALTIES[int(np.argmin(error))]
    kernel = (fold.x - centre_x) @ units_x.T / p
    dual = (kernel @ (vectors / (values + penalty))) @ vectors.T
    similarity = _cosine(dual @ units_y, fold.y - centre_y)
    weights = dual - dual.mean(axis=1, keepdims=True) + 1.0 / n
    return Answers(similarity, similarity.T, fold.spread(weights))


def _cca(fold: _Fold) -> Answers:
    """Regularised CCA on slides as they are, cosine, and soft-kNN: no cohort block, no hubness."""
    slide_head, profile_head, _ = fit_cca(
        fold.units_x.astype(np.float32), fold.units_z.astype(np.float32), fold.known_z, CCA()
    )
    x, r = unit(run_head(slide_head, fold.x)), unit(run_head(profile_head, fold.z))
    known = unit(run_head(profile_head, fold.known_z))
    weights = np.zeros((len(x), len(fold.unit_of)))
    weights[:, fold.known] = predict.soft_weights(x, known, np.zeros(len(known), np.float32))
    similarity = (x @ r.T).astype(np.float64)
    return Answers(similarity, similarity.T, weights)


def _nearest(queries: Float, rows: Float, k: int) -> Float:
    """(n_queries, n_rows) 1 / k at the k rows of largest cosine, else 0."""
    cosine = _cosine(queries, rows)
    near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    weights = np.zeros(cosine.shape)
    np.put_along_axis(weights, near, 1.0 / k, axis=1)
    return weights


def _cosine(a: Float, b: Float) -> Float:
    return np.asarray(unit(a) @ unit(b).T, dtype=np.float64)


_BASELINES: Mapping[str, tuple[str, Callable[[_Fold], Answers]]] = {
    "random": ("random order", _random),
    "cohort": ("cohort alone", _cohort),
    "raw_knn": ("nearest raw slides", _raw_neighbours),
    "ridge": ("ridge regression", _ridge),
    "cca": ("plain CCA", _cca),
}
#: What each baseline is, in words, simplest first.
LABELS: Mapping[str, str] = {name: label for name, (label, _) in _BASELINES.items()}
