"""From a signature's scores in reference profiles to its predicted scores in slides.

The prediction is linear in the reference scores s (n_reference,), and its weights do not depend on
the gene set, so they are computed once per database state and stored. For slide i

    y_i = a_i sum_j w_ij s_j  +  (1 - a_i) [c_i, 1] . G_g(i) s

The first term is the soft average over the k nearest reference profiles in the shared space,
w_ij = softmax_j((x_i . r_j - h_j) / tau), where h_j is the hubness of profile j: profiles that are
near to everything count for less (`Model.hubness`). The second is a ridge regression of the scores
of paired patients on their slides' leading principal components c (`_ridge`), with slopes that are
in part shared by all cohorts and in part a cohort's own. a_i is 0.7, and 0 for slides of a cohort
without a single pair: there the neighbours come from other tissues and their mean level misleads,
while the shared slopes carry over (measured by leaving out one cohort at a time: docs/decisions).

A slide of a patient with RNA is predicted by the model of the fold that held the patient out, from
the profiles of the other patients. So every score is one that was predicted and never remembered,
and comparing the scores of these slides with their measured ones says how far to trust the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from molquery import index, schema
from molquery.database import Database, list_to_matrix
from molquery.schema import PROFILES, SLIDES
from molquery.space import TEMPERATURE, Fold, Model, SharedSpace
from molquery.threads import parallel
from molquery.vectors import (
    Bools,
    Float,
    Ints,
    Matrix,
    Strings,
    as_text,
    group_means,
    principal_components,
)

PATIENT_SCHEME = "patient"
SITE_SCHEME = "site"
#: Whole cohorts left out one at a time, each predicted as a cohort without any pair is.
COHORT_SCHEME = "cohort"
NEIGHBOURS = 200
#: Weight of the soft average beside the ridge, for cohorts with pairs.
SOFT_SHARE = 0.7
COMPONENTS = 64  # principal components of the slides that the ridge sees; 128 measured the same
RIDGE = 3.0  # penalty, in units of the kernel x.x' / p
OWN_SLOPE = 0.5  # prior variance of a cohort's own slopes, beside 1 for the shared ones
LEVEL = 1.0  # prior variance of a cohort's own level
GRAND = 10.0  # prior variance of the level shared by all cohorts: hardly shrunk
NEAREST = 10  # training slides whose mean distance says how near a slide is to them
#: What stored operators depend on beside the data; the first number counts changes of the formula.
SETTINGS = (2, NEIGHBOURS, SOFT_SHARE, COMPONENTS, RIDGE, OWN_SLOPE, LEVEL, GRAND)
_FEW_SETS = 4  # up to here the weights are used as they are: no matrix, no scipy
_DENSE_CELLS = 50_000_000  # slides x profiles up to which the weights are held as a dense matrix


@dataclass(frozen=True)
class Operator:
    """The stored weights: reference scores in, slide scores out.

    Attributes:
        neighbours: (n_slides, k) int32 positions of reference profiles; -1 pads.
        weights: (n_slides, k) float32, rows sum to 1; 0 where padded.
        soft_share: (n_slides,) a_i of the formula.
        model: (n_slides,) int64, the fold whose model predicts the slide; -1 the final model.
        components: (n_slides, m + 1) c_i and a constant 1.
        group: (n_slides,) int64, which of the solvers applies: one per model and cohort.
        solvers: (n_groups, m + 1, n_reference) float32, G of the formula.
        distance: (n_slides, 2) float32, how far each slide lies from the training slides of its
            model: the root mean square distance to the `NEAREST` of them along the principal
            components, and the distance from the plane of those components (the root of the
            squared prediction error, doi:10.1080/00401706.1979.10489779). Units: standardised
            features. NaN where the scheme does not measure it.
    """

    neighbours: npt.NDArray[np.int32]
    weights: Matrix
    soft_share: Matrix
    model: Ints
    components: Matrix
    group: Ints
    solvers: Matrix
    distance: Matrix

    @property
    def n_reference(self) -> int:
        """Number of reference profiles that a score vector must cover."""
        return int(self.solvers.shape[2])

    def apply(self, scores: Float, rows: Ints | None = None) -> Float:
        """Predicted scores (n_slides, n_sets) from reference scores (n_reference, n_sets).

        `rows` restricts the answer to some slides.
        """
        values: Matrix = np.asarray(scores, dtype=np.float32)
        few = values.shape[1] <= _FEW_SETS and "dense" not in self.__dict__
        if len(self.weights) * self.n_reference <= _DENSE_CELLS and not few:
            # Picking rows of the answer is cheaper than copying rows of the matrix.
            whole = np.asarray(self.dense @ values, dtype=np.float64)
            return whole if rows is None else whole[rows]
        rows = np.arange(len(self.weights)) if rows is None else rows
        share = self.soft_share[rows, None].astype(np.float64)
        return share * self.soft(values, rows) + (1 - share) * self.linear(values, rows)

    @cached_property
    def dense(self) -> Matrix:
        """The whole operator as one matrix (n_slides, n_reference), for archives where it fits."""
        out = np.zeros((len(self.weights), self.n_reference), np.float32)
        share = self.soft_share[:, None]
        padded = self.neighbours < 0
        if padded.any():
            rows, slots = np.nonzero(~padded)
            out[rows, self.neighbours[rows, slots]] = (share * self.weights)[rows, slots]
        else:
            np.put_along_axis(out, self.neighbours, share * self.weights, axis=1)
        linear = (1 - share) * self.components
        for g in np.unique(self.group):
            mine = np.flatnonzero(self.group == g)
            out[mine] += linear[mine] @ self.solvers[g]
        return out

    def soft(self, scores: Matrix, rows: Ints) -> Matrix:
        """The first term alone, (n_rows, n_sets): the soft average over neighbours."""
        indices, weights = self.neighbours[rows], self.weights[rows]
        if scores.shape[1] <= _FEW_SETS:  # padding has weight 0, so -1 may point anywhere
            return np.stack([(weights * s[indices]).sum(axis=1) for s in scores.T], axis=1)
        from scipy.sparse import csr_array

        starts = np.arange(0, indices.size + 1, indices.shape[1])
        flat = (weights.ravel(), np.maximum(indices, 0).ravel(), starts)
        return np.asarray(csr_array(flat, shape=(len(rows), self.n_reference)) @ scores)

    def linear(self, scores: Matrix, rows: Ints) -> Matrix:
        """The second term alone, (n_rows, n_sets): the ridge regression."""
        out = np.empty((len(rows), scores.shape[1]), np.float32)
        for g in np.unique(self.group[rows]):
            mine = self.group[rows] == g
            out[mine] = self.components[rows[mine]] @ (self.solvers[g] @ scores)
        return out


@dataclass(frozen=True, slots=True)
class Rows:
    """What prediction needs of a table, in key order. Missing text is the empty string.

    Attributes:
        vectors: (n, d) slide embeddings or expression.
        keys: what pairs a slide with a profile; groups: what is never split.
    """

    vectors: Matrix
    keys: Strings
    groups: Strings
    cohorts: Strings


@dataclass(frozen=True, slots=True)
class Case:
    """One model of a fold scheme, what it predicts and what it may learn from.

    Attributes:
        fold: position of the fold; -1 the final model.
        model: fitted without the groups that the fold holds out.
        rows: slides that it predicts.
        known: profiles that may enter: none of a held-out group, nor paired with its slides.
        trained: paired slides that it was fitted on. Pairs that came after `align` are in no fold,
            so they are not among them.
        standard: (n_slides, d) all slides, standardised by the model.
    """

    fold: int
    model: Model
    rows: Ints
    known: Ints
    trained: Ints
    standard: Matrix


def cases(
    space: SharedSpace, scheme: str, slides: Rows, profiles: Rows, only: Bools | None = None
) -> Iterator[Case]:
    """Every model of a scheme (`patient` or `site`) that predicts some slide, the final one last.

    A slide of a patient with RNA is predicted by the fold that held the patient out, all others by
    the final model. RNA that the space left out enters nowhere. `only` (n_slides,) restricts what
    is predicted.
    """
    folds = [fold for fold in space.folds if fold.scheme == scheme]
    paired = np.isin(slides.keys, profiles.keys[profiles.keys != ""])
    fold_of = {group: f for f, fold in enumerate(folds) for group in fold.held_out}
    predicted_by = np.array(
        [fold_of.get(str(g), -1) if p else -1 for g, p in zip(slides.groups, paired, strict=True)],
        dtype=np.int64,
    )
    aligned = paired & np.isin(slides.groups, sorted(fold_of))
    final = Fold(scheme, frozenset(), space.final)
    for f, fold in [*enumerate(folds), (-1, final)]:
        wanted = predicted_by == f
        rows = np.flatnonzero(wanted if only is None else wanted & only)
        if len(rows) == 0:
            continue
        held = np.isin(slides.groups, sorted(fold.held_out))
        known = _usable(slides, profiles, fold.held_out | space.left_out)
        standard = fold.model.slide_input.standardise(slides.vectors)
        trained = np.flatnonzero(aligned & ~held)
        yield Case(f, fold.model, rows, np.flatnonzero(known), trained, standard)


def _usable(slides: Rows, profiles: Rows, held: frozenset[str]) -> Bools:
    """(n_reference,) profiles that are neither of a held-out group nor paired with its slides."""
    own_slides = np.isin(slides.groups, sorted(held)) & (slides.keys != "")
    own_rna = np.isin(profiles.keys, slides.keys[own_slides])
    return np.asarray(~np.isin(profiles.groups, sorted(held)) & ~own_rna)


def build_operator(
    space: SharedSpace, scheme: str, slides: Rows, profiles: Rows, only: Bools | None = None
) -> Operator:
    """The operator of every slide, for the folds of one scheme (`patient` or `site`).

    Rows of slides that are not among `only` (n_slides,), where it is given, mean nothing.
    """
    n, k = len(slides.vectors), min(NEIGHBOURS, len(profiles.vectors))
    model = np.full(n, -1, dtype=np.int64)
    neighbours = np.full((n, k), -1, dtype=np.int32)
    weights = np.zeros((n, k), dtype=np.float32)
    components = np.zeros((n, COMPONENTS + 1), np.float32)
    soft_share = np.full(n, SOFT_SHARE, dtype=np.float32)
    group = np.zeros(n, dtype=np.int64)
    distance = np.full((n, 2), np.nan, dtype=np.float32)
    solvers: list[Matrix] = []
    for case in cases(space, scheme, slides, profiles, only):
        rows, known, standard = case.rows, case.known, case.standard
        model[rows] = case.fold
        x = case.model.project_standardised(standard[rows], slides.cohorts[rows].tolist())
        r = case.model.project_profiles(profiles.vectors[known])
        own = slides.groups[rows] if case.fold < 0 else None
        found, share = _soft_neighbours(x, r, case.model.hubness(r), k, own, profiles.groups[known])
        neighbours[rows] = np.where(found >= 0, known[np.maximum(found, 0)], -1)
        weights[rows] = share
        if len(case.trained) == 0:
            soft_share[rows] = 1.0
            solvers.append(np.zeros((COMPONENTS + 1, len(profiles.vectors)), np.float32))
            group[rows] = len(solvers) - 1
            continue
        ridge = _ridge(standard[case.trained], slides, case.trained, profiles, known)
        components[rows] = ridge.components(standard[rows])
        distance[rows] = ridge.distances(standard[rows], standard[case.trained])
        for cohort in np.unique(slides.cohorts[rows]):
            mine = rows[slides.cohorts[rows] == cohort]
            solvers.append(ridge.solver(str(cohort)))
            group[mine] = len(solvers) - 1
            if str(cohort) not in ridge.cohorts:
                soft_share[mine] = 0.0
    stacked = np.stack(solvers)
    return Operator(neighbours, weights, soft_share, model, components, group, stacked, distance)


def build_left_out(space: SharedSpace, slides: Rows, profiles: Rows) -> Operator | None:
    """Every slide predicted as if its cohort had no pair: by the ridge of all other cohorts.

    The fold of a paired slide is the position of its cohort among those with pairs. Features are
    standardised by the final model, which has seen the cohort's slides but uses no RNA for it.
    None where there is only one cohort.
    """
    paired = np.isin(slides.keys, profiles.keys[profiles.keys != ""])
    in_folds = {g for fold in space.folds if fold.scheme == PATIENT_SCHEME for g in fold.held_out}
    trained = paired & np.isin(slides.groups, sorted(in_folds))
    seen = np.unique(slides.cohorts[trained])
    if len(seen) < 2:
        return None
    standard = space.final.slide_input.standardise(slides.vectors)
    n = len(slides.vectors)
    components = np.zeros((n, COMPONENTS + 1), np.float32)
    group = np.zeros(n, dtype=np.int64)
    solvers = []
    for c, cohort in enumerate([*seen, None]):
        mine = slides.cohorts == cohort if cohort is not None else ~np.isin(slides.cohorts, seen)
        own = mine & paired
        others = trained & ~mine & ~np.isin(slides.groups, slides.groups[own])
        known = (profiles.cohorts != cohort) & ~np.isin(profiles.keys, slides.keys[own])
        known &= _usable(slides, profiles, space.left_out)
        rows = np.flatnonzero(others)
        ridge = _ridge(standard[rows], slides, rows, profiles, np.flatnonzero(known))
        components[mine] = ridge.components(standard[mine])
        group[mine] = c
        solvers.append(ridge.solver(cohort))
    return Operator(
        neighbours=np.full((n, 1), -1, np.int32),
        weights=np.zeros((n, 1), np.float32),
        soft_share=np.zeros(n, np.float32),
        model=np.where(paired & np.isin(slides.cohorts, seen), group, -1),
        components=components,
        group=group,
        solvers=np.stack(solvers),
        distance=np.full((n, 2), np.nan, np.float32),
    )


@dataclass(frozen=True)
class _Ridge:
    """A fitted ridge: the slide components, and what a cohort's solver is made of.

    With unit rows X (n_units, m) of components, kernel and dual weights are

        K = (X X' / p)(1 + t same) / (1 + t) + level same + grand
        alpha = (K + lambda I)^-1 (s - mean s)

    where `same` marks units of one cohort and t is `OWN_SLOPE`.
    """

    directions: Matrix  # (d, COMPONENTS), zero-padded
    centre: Matrix
    x: Float
    unit_cohorts: Strings
    dual: Float  # (n_units, n_units): (K + lambda I)^-1 with the scores' mean taken off
    unit_of: Ints  # (n_reference,): the unit of each profile, -1 for those of none
    p: int

    @cached_property
    def cohorts(self) -> set[str]:
        """The cohorts that have pairs."""
        return set(self.unit_cohorts.tolist())

    def components(self, standardised: Matrix) -> Matrix:
        """(n, COMPONENTS + 1) components of slides, and a constant 1."""
        c = (standardised - self.centre) @ self.directions
        return np.hstack([c, np.ones((len(c), 1), np.float32)]).astype(np.float32)

    def distances(self, standardised: Matrix, training: Matrix) -> Matrix:
        """(n, 2) `Operator.distance` of slides from the training slides, both standardised."""
        centred = (standardised - self.centre).astype(np.float64)
        c = centred @ self.directions.astype(np.float64)
        t = (training - self.centre).astype(np.float64) @ self.directions.astype(np.float64)
        squares = (c**2).sum(axis=1)
        apart = squares[:, None] - 2 * c @ t.T + (t**2).sum(axis=1)
        k = min(NEAREST, len(t))
        near = np.partition(apart, k - 1, axis=1)[:, :k].mean(axis=1)
        # With no more features than components nothing is left but rounding.
        off = (centred**2).sum(axis=1) - squares if self.p > COMPONENTS else np.zeros(len(c))
        apart = np.sqrt(np.maximum(np.stack([near, off], axis=1), 0.0))
        return np.asarray(apart, dtype=np.float32)

    def solver(self, cohort: str | None) -> Matrix:
        """(COMPONENTS + 1, n_reference) G: from reference scores to slopes and level.

        None, like a cohort without pairs, has the shared slopes and level alone.
        """
        own = (self.unit_cohorts == cohort).astype(np.float64)
        slopes = (self.x * (1 + OWN_SLOPE * own)[:, None]).T / (self.p * (1 + OWN_SLOPE))
        level = LEVEL * own + GRAND
        whole = np.vstack([slopes @ self.dual, level @ self.dual + 1.0 / len(self.x)])
        paired = np.flatnonzero(self.unit_of >= 0)
        unit = self.unit_of[paired]
        out = np.zeros((len(whole), len(self.unit_of)), np.float32)
        out[:, paired] = whole[:, unit] / np.bincount(unit)[unit]
        return out


def _ridge(
    standardised: Matrix, slides: Rows, trained: Ints, profiles: Rows, known: Ints
) -> _Ridge:
    """The ridge of paired units: slides of one pair key are averaged, and so are its profiles."""
    x, cohorts, unit_of = paired_units(standardised, slides, trained, profiles, known)
    p = x.shape[1]
    centre = x.mean(axis=0)
    _, vectors = principal_components(x, COMPONENTS)
    directions = np.zeros((p, COMPONENTS), np.float32)
    directions[:, : vectors.shape[1]] = vectors
    reduced = (x - centre) @ directions.astype(np.float64)
    same = (cohorts[:, None] == cohorts[None, :]).astype(np.float64)
    kernel = reduced @ reduced.T / p * (1 + OWN_SLOPE * same) / (1 + OWN_SLOPE)
    kernel += LEVEL * same + GRAND
    kernel[np.diag_indices_from(kernel)] += RIDGE
    dual = np.linalg.inv(kernel)
    dual -= dual.mean(axis=1, keepdims=True)
    return _Ridge(directions, centre.astype(np.float32), reduced, cohorts, dual, unit_of, p)


def paired_units(
    values: Matrix, slides: Rows, trained: Ints, profiles: Rows, known: Ints
) -> tuple[Float, Strings, Ints]:
    """Pairs as units of one slide side and one profile side.

    Args:
        values: (n_trained, d) of the slides in `trained`.

    Returns:
        The mean of `values` over the slides of each unit (n_units, d), the cohort of each, and the
        unit of each profile (n_reference,): -1 where it is not known or has no slide.
    """
    mine = np.isin(slides.keys[trained], profiles.keys[known])
    trained, values = trained[mine], values[mine]
    names, x = group_means(slides.keys[trained], values)
    cohorts = slides.cohorts[trained][np.unique(slides.keys[trained], return_index=True)[1]]
    unit_of = np.full(len(profiles.keys), -1, dtype=np.int64)
    at = np.searchsorted(names, profiles.keys[known])
    found = names[np.minimum(at, len(names) - 1)] == profiles.keys[known]
    unit_of[known[found]] = at[found]
    return x, cohorts, unit_of


@dataclass(frozen=True, slots=True)
class RidgeTerms:
    """The ridge's prediction of one slide, level + sum_f values_f slopes_f, term by term.

    Attributes:
        values: (d,) the slide's features as the ridge sees them: standardised, less the mean of
            the paired units.
        slopes: (d,) of the predicted score along each.
        level: what is predicted where all values are 0.
    """

    values: Float
    slopes: Float
    level: float


def ridge_terms(
    space: SharedSpace, slides: Rows, profiles: Rows, row: int, scores: Float
) -> RidgeTerms:
    """The terms behind the second part of the formula for one slide, folds by patient.

    Args:
        row: position of the slide.
        scores: (n_reference,) measured scores of a signature.
    """
    only = np.zeros(len(slides.vectors), dtype=bool)
    only[row] = True
    (case,) = cases(space, PATIENT_SCHEME, slides, profiles, only)
    if len(case.trained) == 0:
        nothing = np.zeros(slides.vectors.shape[1])
        return RidgeTerms(nothing, nothing, 0.0)
    ridge = _ridge(case.standard[case.trained], slides, case.trained, profiles, case.known)
    weights = ridge.solver(str(slides.cohorts[row])).astype(np.float64) @ scores
    values = (case.standard[row] - ridge.centre).astype(np.float64)
    slopes = ridge.directions.astype(np.float64) @ weights[:-1]
    return RidgeTerms(values, slopes, float(weights[-1]))


def read_rows(database: Database, space: SharedSpace) -> tuple[Rows, Rows]:
    """Slides and profiles of a database as prediction needs them."""
    pair_on, split_on = space.facts["settings"]["pair_on"], space.facts["split_on"]

    def rows(spec: schema.TableSpec) -> Rows:
        columns = [spec.vector, pair_on, split_on, schema.COHORT]
        table = database.read(spec, list(dict.fromkeys(columns)))
        vectors = list_to_matrix(table[spec.vector])
        keys, groups, cohorts = (as_text(table[c]) for c in (pair_on, split_on, schema.COHORT))
        return Rows(vectors, keys, groups, cohorts)

    return rows(SLIDES), rows(PROFILES)


def compute_operators(database: Database, space: SharedSpace) -> dict[str, Operator]:
    """The operators of every fold scheme of a space, for the database as it is now."""
    slides, profiles = read_rows(database, space)

    def build(scheme: str) -> Operator | None:
        if scheme == COHORT_SCHEME:
            return build_left_out(space, slides, profiles)
        return build_operator(space, scheme, slides, profiles)

    schemes = list(dict.fromkeys([PATIENT_SCHEME, *(f.scheme for f in space.folds), COHORT_SCHEME]))
    built = zip(schemes, parallel(build, schemes), strict=True)
    return {scheme: operator for scheme, operator in built if operator is not None}


def _soft_neighbours(
    x: Matrix, r: Matrix, hubs: Matrix, k: int, own: Strings | None, owners: Strings
) -> tuple[Ints, Matrix]:
    """The k nearest of r (n_reference, d) for each x (n, d), and their softmax weights.

    `own` names the group of each slide; profiles of the same group never count.
    """
    left = np.hstack([x, np.ones((len(x), 1), np.float32)])
    right = np.hstack([r, -hubs[:, None]])
    spare = 0
    if own is not None:
        shared = np.intersect1d(own, owners[owners != ""])
        spare = max((int((owners == g).sum()) for g in shared), default=0)
    scores, found = index.exact(right, left, min(k + spare, len(r)), None)
    if own is not None and spare:
        mine = (owners[np.maximum(found, 0)] == own[:, None]) & (own[:, None] != "")
        scores[mine] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(found, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
    if found.shape[1] < k:
        pad = ((0, 0), (0, k - found.shape[1]))
        found = np.pad(found, pad, constant_values=-1)
        scores = np.pad(scores, pad, constant_values=-np.inf)
    found[~np.isfinite(scores)] = -1
    logits = scores.astype(np.float64) / TEMPERATURE
    logits -= logits.max(axis=1, keepdims=True)
    share = np.exp(logits)
    share /= share.sum(axis=1, keepdims=True)
    return found, share.astype(np.float32)


def soft_weights(x: Matrix, r: Matrix, hubs: Matrix) -> Matrix:
    """The dense soft-kNN weights (n_slides, n_reference) of slides x against profiles r."""
    k = min(NEIGHBOURS, len(r))
    found, share = _soft_neighbours(x, r, hubs, k, None, np.empty(0, dtype=str))
    dense = np.zeros((len(x), len(r)), np.float32)
    np.put_along_axis(dense, found, share, axis=1)
    return dense
