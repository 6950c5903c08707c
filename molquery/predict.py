"""From a signature's scores in reference profiles to its predicted scores in slides.

The prediction is linear in the reference scores s (n_reference,), and its weights do not depend on
the gene set, so they are computed once per database state and stored. For slide i

    y_i = a_i sum_j w_ij s_j  +  (1 - a_i) [c_i, 1] . G_g(i) s

The first term is the soft average over the k nearest reference profiles in the shared space,
w_ij = softmax_j((x_i . r_j - h_j) / tau), where h_j is the hubness of profile j: profiles that are
near to everything count for less (`Model.hubness`). The second is a ridge regression of the scores
of paired patients on their slides' leading principal components c (`_ridge`), with slopes that are
in part shared by all cohorts and in part a cohort's own. a_i is 0.7, less in proportion in cohorts
with fewer than 32 pairs, and 0 in one without any: there the neighbours come from other tissues and
their mean level misleads, while the shared slopes carry over (measured by leaving out one cohort at
a time: docs/decisions).

A slide of a patient with RNA is predicted by the model of the fold that held the patient out, from
the profiles of the other patients. So every score is one that was predicted and never remembered,
and comparing the scores of these slides with their measured ones says how far to trust the rest.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from molquery import index, schema, sparse
from molquery.barcodes import pair_key_array
from molquery.database import Database, list_to_matrix
from molquery.database.mapped import Rows as CheckedRows
from molquery.schema import PROFILES, SLIDES, TableSpec
from molquery.space import TEMPERATURE, Fold, Model, SharedSpace
from molquery.threads import Mapper, parallel, processors, streamed
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
#: Weight of the soft average beside the ridge, in cohorts with at least so many paired patients.
SOFT_SHARE = 0.7
SOFT_PAIRS = 32
COMPONENTS = 64  # principal components of the slides that the ridge sees; 128 measured the same
RIDGE = 3.0  # penalty, in units of the kernel x.x' / p
OWN_SLOPE = 0.5  # prior variance of a cohort's own slopes, beside 1 for the shared ones
LEVEL = 1.0  # prior variance of a cohort's own level
GRAND = 10.0  # prior variance of the level shared by all cohorts: hardly shrunk
_NEAR_ROWS = 2_048  # slides whose distances to all training slides are in memory at a time
NEAREST = 10  # training slides whose mean distance says how near a slide is to them
#: What stored operators depend on beside the data; the first number counts changes of the formula
#: and of how it is stored.
SETTINGS = (7, NEIGHBOURS, SOFT_SHARE, SOFT_PAIRS, COMPONENTS, RIDGE, OWN_SLOPE, LEVEL, GRAND)
_FEW_SETS = 4  # up to here the weights are used as they are: no matrix
_DENSE_CELLS = 50_000_000  # slides x profiles up to which the weights are held as a dense matrix
_FEW_COLUMNS = 7  # up to here one sparse product a set is faster than one for all
#: Rows of a product at a time, which stay in the caches from the check on; more of them for a few
#: sets, where what Python does for each block would take longer than its product.
_BLOCK, _BLOCK_OF_FEW = 4_096, 8_192
_ROUGH_BLOCK = 1_024
_WORTH_SOLVING = 50  # slides of one cohort and fold
_ALONE = 100_000  # numbers up to which a product is not worth a second thread
REMOTE = 65_536  # slides that another process computes at a time: 120 MB of weights
_Array = TypeVar("_Array", bound=npt.NDArray[Any])
_Part = Callable[[slice | Ints], Float | Matrix]


@dataclass(frozen=True)
class Operator:
    """The stored weights: reference scores in, slide scores out.

    Its arrays may be memory-mapped, and checked as rows are taken. Large archives are gone through
    a block of rows at a time, each row by itself, so that the scores do not depend on the number of
    processors.

    Attributes:
        rows: (n_rows,) int64, ascending positions of the slides that it covers: all of them, or
            those with RNA, where the operator is for measuring how good predictions are.
        neighbours: (n_rows, k) int32 positions of reference profiles; any where padded.
        weights: (n_rows, k) float32, rows sum to 1; 0 pads at the end.
        soft_share: (n_rows,) a_i of the formula.
        model: (n_rows,) int64, the fold whose model predicts the slide; -1 the final model.
        components: (n_rows, m + 1) c_i and a constant 1.
        group: (n_rows,) int64, which of the solvers applies: one per model and cohort.
        solvers: (n_groups, m + 1, n_reference) float32, G of the formula.
        distance: (n_rows, 2) float32, how far each slide lies from the training slides of its
            model: the root mean square distance to the `NEAREST` of them along the principal
            components, and the distance from the plane of those components (the root of the
            squared prediction error, doi:10.1080/00401706.1979.10489779). Units: standardised
            features. NaN where the scheme does not measure it.
        excerpt: rows that every question asks for once more, in one place: few blocks of a file.
    """

    rows: Ints
    neighbours: npt.NDArray[np.int32] | CheckedRows
    weights: Matrix | CheckedRows
    soft_share: Matrix
    model: Ints
    components: Matrix | CheckedRows
    group: Ints
    solvers: Matrix
    distance: Matrix
    excerpt: Excerpt | None = None

    @property
    def n_reference(self) -> int:
        """Number of reference profiles that a score vector must cover."""
        return int(self.solvers.shape[2])

    @property
    def _small(self) -> bool:
        return is_small(len(self.weights), self.n_reference)

    def apply(self, scores: Float, slides: Ints | None = None) -> Float:
        """Predicted scores (n_slides, n_sets) from reference scores (n_reference, n_sets).

        `slides` are the positions of those wanted, all of them covered; None: all that are.
        """
        if (found := self._with_excerpt(Operator.apply, scores, slides)) is not None:
            return found
        values: Matrix = np.asarray(scores, dtype=np.float32)
        at = self.at(slides)
        n_sets = values.shape[1]
        # Not "or once the matrix is there": the last bits would depend on what was asked before.
        if self._small and n_sets > _FEW_SETS:
            # Picking rows of the answer is cheaper than copying rows of the matrix.
            whole = np.asarray(self.dense @ values, dtype=np.float64)
            return whole if slides is None else whole[at]
        soft, linear = self._soft(values), self._linear(values, at)

        def blend(rows: slice | Ints) -> Float:
            share = self.soft_share[rows, None].astype(np.float64)
            return share * soft(rows) + (1 - share) * linear(rows)

        return _in_blocks(blend, at, n_sets)

    def roughly(self, scores: Float, slides: Ints) -> Matrix:
        """As `apply`, float32, for many sets and some slides: faster, and equal but for rounding.

        Both terms are one sparse product: the neighbours' scores with their weights, and what the
        solvers make of the scores with the components.
        """
        if (found := self._with_excerpt(Operator.roughly, scores, slides)) is not None:
            return found
        at, values = self.at(slides), np.asarray(scores, dtype=np.float32)
        if self._small:
            return np.asarray((self.dense @ values)[at])
        out = np.empty((len(at), values.shape[1]), np.float32)
        _, group, count = np.unique(self.group[at], return_inverse=True, return_counts=True)
        # What a solver makes of all sets is not worth its while for few slides.
        lone = np.flatnonzero(count[group] < _WORTH_SOLVING)
        many = np.flatnonzero(count[group] >= _WORTH_SOLVING)
        groups, group = np.unique(self.group[at[many]], return_inverse=True)
        solved = _each(self.solvers, groups, values)
        columns = np.concatenate([values, solved.reshape(-1, values.shape[1])])
        width = solved.shape[1]

        def alone(start: int) -> None:
            some = lone[start : start + _ROUGH_BLOCK]
            into = np.zeros((len(some), self.n_reference), np.float32)
            out[some] = self._rows(at[some], into) @ values

        def together(start: int) -> None:
            some = slice(start, start + _ROUGH_BLOCK)
            rows = at[many[some]]
            a = self.soft_share[rows, None]
            first = len(values) + group[some, None].astype(np.int32) * np.int32(width)
            indices = np.hstack([self.neighbours[rows], first + np.arange(width, dtype=np.int32)])
            weights = np.hstack([a * self.weights[rows], (1 - a) * self.components[rows]])
            out[many[some]] = sparse.product(indices, weights, columns)

        for part, rows in ((alone, lone), (together, many)):
            parallel(part, range(0, len(rows), _ROUGH_BLOCK))
        return out

    def soft(self, scores: Matrix, slides: Ints | None = None) -> Float:
        """The first term alone, (n_slides, n_sets): the soft average over neighbours."""
        if (found := self._with_excerpt(Operator.soft, scores, slides)) is not None:
            return found
        return _in_blocks(self._soft(scores), self.at(slides), scores.shape[1])

    def linear(self, scores: Matrix, slides: Ints | None = None) -> Float:
        """The second term alone, (n_slides, n_sets): the ridge regression."""
        if (found := self._with_excerpt(Operator.linear, scores, slides)) is not None:
            return found
        at = self.at(slides)
        return _in_blocks(self._linear(scores, at), at, scores.shape[1])

    def at(self, slides: Ints | None) -> Ints:
        """Rows of the arrays (n_slides,) that hold slides, given by their positions.

        Raises:
            IndexError: a slide is not covered.
        """
        if slides is None:
            return np.arange(len(self.rows))
        if len(self.rows) and self.rows[-1] == len(self.rows) - 1:
            return slides
        if not self.has(slides).all():
            raise IndexError("an operator of slides with RNA does not cover the others")
        return np.searchsorted(self.rows, slides)

    def has(self, slides: Ints) -> Bools:
        """(n_slides,) which of some slides, given by their positions, it covers."""
        found = np.searchsorted(self.rows, slides)
        return np.asarray(self.rows[np.minimum(found, len(self.rows) - 1)] == slides)

    def _with_excerpt(
        self, part: Callable[[Operator, Any, Ints], _Array], scores: Any, slides: Ints | None
    ) -> _Array | None:
        """What a method gives for slides, with the rows of the excerpt where it has them; None
        where it has none of them."""
        if slides is None or self.excerpt is None or not (inside := self.excerpt.has(slides)).any():
            return None
        mine = part(self.excerpt, scores, slides[inside])
        out = np.empty((len(slides), mine.shape[1]), mine.dtype)
        out[inside], others = mine, slides[~inside]
        if len(others):
            out[~inside] = part(self, scores, others)
        return out  # type: ignore[return-value]

    @cached_property
    def dense(self) -> Matrix:
        """The whole operator as one matrix (n_rows, n_reference), for archives where it fits."""
        out = np.zeros((len(self.weights), self.n_reference), np.float32)

        def block(start: int) -> None:
            some = out[start : start + _ROUGH_BLOCK]
            self._rows(np.arange(start, start + len(some)), some)

        parallel(block, range(0, len(out), _ROUGH_BLOCK))
        return out

    def _rows(self, rows: Ints, out: Matrix) -> Matrix:
        """Some of its rows (n, n_reference), put into `out`, which is zero."""
        neighbours, share = self.neighbours[rows], self.soft_share[rows, None]
        weights, group = self.weights[rows], self.group[rows]
        at, slots = np.nonzero(weights)
        out[at, neighbours[at, slots]] = (share * weights)[at, slots]
        linear = (1 - share) * self.components[rows]
        for g in np.unique(group):
            mine = np.flatnonzero(group == g)
            out[mine] += linear[mine] @ self.solvers[g]
        return out

    def _soft(self, scores: Matrix) -> _Part:
        """What gives the first term of some rows."""
        n_sets = scores.shape[1]

        def few(rows: slice | Ints) -> Matrix:
            indices, weights = self.neighbours[rows], self.weights[rows]
            return np.stack([(weights * s[indices]).sum(axis=1) for s in scores.T], axis=1)

        if self._small and n_sets <= _FEW_SETS:
            return few
        # Whole SIMD registers; but for a few sets the products with vectors are faster.
        padded = np.zeros((len(scores), -(-n_sets // 4) * 4), np.float32)
        padded[:, :n_sets] = scores
        columns = [scores[:, [s]] for s in range(n_sets)]

        def product(rows: slice | Ints) -> Matrix:
            indices, weights = self.neighbours[rows], self.weights[rows]
            if n_sets <= _FEW_COLUMNS:
                each = [sparse.product(indices, weights, column) for column in columns]
                return np.concatenate(each, axis=1)
            return sparse.product(indices, weights, padded)[:, :n_sets]

        return product

    def _linear(self, scores: Matrix, at: Ints) -> _Part:
        """What gives the second term of some of the rows `at`."""
        n_sets = scores.shape[1]
        needed = np.bincount(self.group[at], minlength=len(self.solvers)) > 0
        place = np.cumsum(needed) - 1
        solved = _each(self.solvers, np.flatnonzero(needed), scores)  # (n_needed, m + 1, n_sets)

        def by_group(rows: slice | Ints) -> Matrix:
            components, group = self.components[rows], place[self.group[rows]]
            out = np.empty((len(group), n_sets), np.float32)
            for g in np.unique(group):
                mine = group == g
                out[mine] = components[mine] @ solved[g]
            return out

        def by_row(rows: slice | Ints) -> Matrix:
            components, group = self.components[rows], place[self.group[rows]]
            columns = (np.ascontiguousarray(solved[:, :, s])[group] for s in range(n_sets))
            each = [np.einsum("ij,ij->i", components, column) for column in columns]
            return np.stack(each, axis=1)

        return by_row if n_sets <= _FEW_COLUMNS and not self._small else by_group


class Excerpt(Operator):
    """Some rows of the operator of a large archive, whose scores are those that it gives."""

    @property
    def _small(self) -> bool:
        return False


#: What an operator holds of every slide.
BY_SLIDE = tuple(f.name for f in fields(Operator) if f.name not in ("solvers", "excerpt"))


def is_small(slides: int, reference: int) -> bool:
    """Whether the weights of so many slides and reference profiles are held as one matrix."""
    return slides * reference <= _DENSE_CELLS


def _each(solvers: Matrix, groups: Ints, scores: Matrix) -> Matrix:
    """(n_groups, m + 1, n_sets) the solvers of some groups times scores (n_reference, n_sets)."""
    out = np.empty((len(groups), solvers.shape[1], scores.shape[1]), np.float32)

    def solve(part: Ints) -> None:
        for i in part:
            np.matmul(solvers[groups[i]], scores, out=out[i])

    if out.size < _ALONE:
        solve(np.arange(len(groups)))
    else:
        parallel(solve, np.array_split(np.arange(len(groups)), processors()))
    return out


def _in_blocks(part: _Part, rows: Ints, n_sets: int) -> Float:
    """(n_rows, n_sets) a part of the prediction, a block of rows at a time on every processor."""
    n = len(rows)
    out = np.empty((n, n_sets))
    step = _BLOCK_OF_FEW if n_sets <= _FEW_COLUMNS else _BLOCK
    # Rows that follow one another are taken as a slice: then nothing of a map is copied.
    run = n > 0 and rows[-1] - rows[0] == n - 1 and bool((np.diff(rows) == 1).all())
    first = int(rows[0]) if run else 0

    def block(start: int) -> None:
        stop = min(start + step, n)
        some = slice(first + start, first + stop) if run else rows[start:stop]
        out[start:stop] = part(some)

    starts = range(0, n, step)
    if len(starts) > 1:
        parallel(block, starts)
    elif n:
        block(0)
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
    sites: Strings

    def some(self, rows: Ints) -> Rows:
        """Some of the rows."""
        return Rows(
            self.vectors[rows], self.keys[rows], self.groups[rows], self.cohorts[rows],
            self.sites[rows],
        )  # fmt: skip


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
        standard: (n_slides, d) the slides that were given, standardised by the model.
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
    fold_of = _folds(space, scheme)
    predicted_by = _predicted_by(fold_of, slides, profiles)
    for f in _in_order(predicted_by if only is None else predicted_by[only]):
        wanted = predicted_by == f
        yield _case(space, scheme, f, slides, profiles, np.flatnonzero(
            wanted if only is None else wanted & only
        ))  # fmt: skip


def _folds(space: SharedSpace, scheme: str) -> dict[str, int]:
    """Group -> position of the fold of a scheme that holds it out."""
    folds = [fold for fold in space.folds if fold.scheme == scheme]
    return {group: f for f, fold in enumerate(folds) for group in fold.held_out}


def _predicted_by(fold_of: Mapping[str, int], slides: Rows, profiles: Rows) -> Ints:
    """(n_slides,) the fold whose model predicts each slide; -1 the final model."""
    paired = has_rna(slides, profiles)
    groups, place = np.unique(slides.groups, return_inverse=True)
    folds = np.array([fold_of.get(str(g), -1) for g in groups], dtype=np.int64)
    return np.where(paired, folds[place], -1)


def has_rna(slides: Rows, profiles: Rows) -> Bools:
    """(n_slides,) slides that are paired with some profile."""
    return np.isin(slides.keys, profiles.keys[profiles.keys != ""])


def _in_order(predicted_by: Ints) -> list[int]:
    """The folds that predict something, the final model last."""
    folds = np.unique(predicted_by).tolist()
    return [f for f in folds if f >= 0] + [f for f in folds if f < 0]


def _case(
    space: SharedSpace, scheme: str, f: int, slides: Rows, profiles: Rows, rows: Ints
) -> Case:
    folds = [fold for fold in space.folds if fold.scheme == scheme]
    fold = folds[f] if f >= 0 else Fold(scheme, frozenset(), space.final)
    aligned = has_rna(slides, profiles) & np.isin(slides.groups, sorted(_folds(space, scheme)))
    held = np.isin(slides.groups, sorted(fold.held_out))
    known = _usable(slides, profiles, fold.held_out | space.left_out)
    standard = fold.model.slide_input.standardise(slides.vectors)
    trained = np.flatnonzero(aligned & ~held)
    return Case(f, fold.model, rows, np.flatnonzero(known), trained, standard)


def _usable(slides: Rows, profiles: Rows, held: frozenset[str]) -> Bools:
    """(n_reference,) profiles that are neither of a held-out group nor paired with its slides."""
    own_slides = np.isin(slides.groups, sorted(held)) & (slides.keys != "")
    own_rna = np.isin(profiles.keys, slides.keys[own_slides])
    return np.asarray(~np.isin(profiles.groups, sorted(held)) & ~own_rna)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A model of a fold scheme with all that it takes to predict any slide."""

    case: Case
    r: Matrix  # (n_known, dim) projected profiles
    hubs: Matrix
    owners: Strings
    ridge: _Ridge | None
    training: Matrix  # (n_trained, d) standardised


@dataclass(frozen=True, slots=True)
class Predictor:
    """The models of a fold scheme: a batch of slides in, their weights out (`weights`).

    Attributes:
        solvers: (n_groups, m + 1, n_reference) of `Operator`.
        groups: (fold, cohort) -> which of them.
    """

    solvers: Matrix
    groups: Mapping[tuple[int, str], int]
    _fitted: Mapping[int, _Fitted]
    _fold_of: Mapping[str, int]
    _profiles: Rows
    _width: int

    def weights(self, slides: Rows, positions: Ints) -> Operator:
        """The operator of some slides, which have these positions (n,) in the archive."""
        n, k = len(slides.vectors), self._width
        model = _predicted_by(self._fold_of, slides, self._profiles)
        neighbours = np.zeros((n, k), dtype=np.int32)
        weights = np.zeros((n, k), dtype=np.float32)
        components = np.zeros((n, COMPONENTS + 1), np.float32)
        soft_share = np.full(n, SOFT_SHARE, dtype=np.float32)
        group = np.zeros(n, dtype=np.int64)
        distance = np.full((n, 2), np.nan, dtype=np.float32)
        for f in _in_order(model):
            rows, fitted = np.flatnonzero(model == f), self._fitted[f]
            known, ridge = fitted.case.known, fitted.ridge
            standard = fitted.case.model.slide_input.standardise(slides.vectors[rows])
            cohorts = slides.cohorts[rows]
            sites = slides.sites[rows].tolist()
            x = fitted.case.model.project_standardised(standard, cohorts.tolist(), sites)
            own = slides.groups[rows] if f < 0 else None
            found, share = _soft_neighbours(x, fitted.r, fitted.hubs, k, own, fitted.owners)
            neighbours[rows] = known[found]
            weights[rows] = share
            for cohort in np.unique(cohorts):
                mine = rows[cohorts == cohort]
                group[mine] = self.groups[f, str(cohort)]
                if ridge is not None:
                    soft_share[mine] *= min(1.0, ridge.n_units(str(cohort)) / SOFT_PAIRS)
            if ridge is None:
                soft_share[rows] = 1.0
                continue
            components[rows] = ridge.components(standard)
            for start in range(0, len(rows), _NEAR_ROWS):
                some = slice(start, start + _NEAR_ROWS)
                distance[rows[some]] = ridge.distances(standard[some], fitted.training)
        return Operator(positions, neighbours, weights, soft_share, model, components, group,
                        self.solvers, distance)  # fmt: skip


def fit_predictor(
    space: SharedSpace, scheme: str, paired: Rows, profiles: Rows, everyone: Rows
) -> Predictor:
    """The models of one fold scheme (`patient` or `site`).

    Args:
        paired: the slides with RNA, which is all that models learn from.
        everyone: the slides to be predicted; their vectors are not used.
    """
    fold_of = _folds(space, scheme)
    predicted_by = _predicted_by(fold_of, everyone, profiles)
    fitted: dict[int, _Fitted] = {}
    groups: dict[tuple[int, str], int] = {}
    solvers: list[Matrix] = []
    for f in _in_order(predicted_by):
        case = _case(space, scheme, f, paired, profiles, np.flatnonzero(predicted_by == f))
        r = case.model.project_profiles(profiles.vectors[case.known])
        training = case.standard[case.trained]
        ridge = None
        if len(case.trained):
            ridge = _ridge(training, paired, case.trained, profiles, case.known)
        fitted[f] = _Fitted(
            case, r, case.model.hubness(r), profiles.groups[case.known], ridge, training
        )
        for cohort in np.unique(everyone.cohorts[case.rows]).tolist():
            groups[f, cohort] = len(solvers)
            none = np.zeros((COMPONENTS + 1, len(profiles.vectors)), np.float32)
            solvers.append(none if ridge is None else ridge.solver(cohort))
    k = min(NEIGHBOURS, len(profiles.vectors))
    return Predictor(np.stack(solvers), groups, fitted, fold_of, profiles, k)


def build_operator(
    space: SharedSpace, scheme: str, slides: Rows, profiles: Rows, only: Bools | None = None
) -> Operator:
    """The operator of every slide, or of those among `only` (n_slides,), for the folds of one
    scheme (`patient` or `site`)."""
    rows = np.arange(len(slides.keys)) if only is None else np.flatnonzero(only)
    wanted = slides.some(rows)
    paired = slides.some(np.flatnonzero(has_rna(slides, profiles)))
    return fit_predictor(space, scheme, paired, profiles, wanted).weights(wanted, rows)


def build_left_out(
    space: SharedSpace, slides: Rows, profiles: Rows, positions: Ints | None = None
) -> Operator | None:
    """Every slide predicted as if its cohort had no pair: by the ridge of all other cohorts.

    The fold of a paired slide is the position of its cohort among those with pairs. Features are
    standardised by the final model, which has seen the cohort's slides but uses no RNA for it.
    None where there is only one cohort. `positions` (n_slides,) are those in the archive, where
    these slides are not all of it.
    """
    paired = has_rna(slides, profiles)
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
        rows=np.arange(n) if positions is None else positions,
        neighbours=np.zeros((n, 1), np.int32),
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

    def n_units(self, cohort: str) -> int:
        """How many paired patients a cohort has."""
        return int((self.unit_cohorts == cohort).sum())

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
        slides: those with RNA and the one asked about, at least; row: its position among them.
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


def read_paired(
    database: Database, space: SharedSpace, also: Ints | None = None
) -> tuple[Ints, Rows, Rows]:
    """The slides with RNA, which is all that models learn from, and every profile.

    The vectors of no other slides are read, so it takes the memory of the pairs, however large the
    archive is.

    Args:
        also: positions of more slides that are wanted.

    Returns:
        The positions of the slides in the archive (n,), ascending; the slides; the profiles.
        Everything that is made of these slides counts them from 0 to n - 1.
    """
    columns = _columns(space)
    profiles = _read_profiles(database, columns)
    slides, _ = _read_texts(database, columns)
    at = np.flatnonzero(has_rna(slides, profiles))
    at = at if also is None else np.union1d(at, also)
    return at, _with_vectors(database, slides, at), profiles


def _columns(space: SharedSpace) -> tuple[str, str, str, str]:
    """What tells pair key, split group, cohort and site of a row."""
    pair_on, split_on = space.facts["settings"]["pair_on"], space.facts["split_on"]
    return pair_on, split_on, schema.COHORT, schema.SITE


def _read_profiles(database: Database, columns: Sequence[str]) -> Rows:
    table = database.read(PROFILES, _needed(PROFILES, columns, PROFILES.vector))
    return _rows(PROFILES, table, list_to_matrix(table[PROFILES.vector]), columns)


def _read_texts(database: Database, columns: Sequence[str], *more: str) -> tuple[Rows, pa.Table]:
    """All slides without their vectors, and the table that they are of, with `more` columns."""
    table = database.read(SLIDES, _needed(SLIDES, columns, *more))
    return _rows(SLIDES, table, np.empty((len(table), 0), np.float32), columns), table


def _with_vectors(database: Database, slides: Rows, at: Ints) -> Rows:
    """The slides at some ascending positions, with their vectors."""
    vectors = list_to_matrix(database.take(SLIDES, [SLIDES.vector], at)[SLIDES.vector])
    return replace(slides.some(at), vectors=vectors)


@dataclass(frozen=True)
class Fitted:
    """What the operators of a database are made with, for its state as it is now.

    Attributes:
        predictor: of the folds by patient: `weights` gives those of any slides.
        measured: by scheme, the operators of the slides with RNA, which say how good scores are.
        slides: (n_slides,) all slides, without their vectors.
        basis: a hash of all that the weights of a slide depend on beside the slide itself.
        content: (n_slides, 2) uint64, a hash of what they depend on in the slide.
        columns: what tells pair key, split group, cohort and site of a slide.
    """

    predictor: Predictor
    measured: Mapping[str, Operator]
    slides: Rows
    basis: str
    content: npt.NDArray[np.uint64]
    columns: tuple[str, str, str, str]

    def batches(
        self, database: Database, rows: Ints | None = None, mapper: Mapper | None = None
    ) -> Iterator[Operator]:
        """The operator by patient, some slides at a time: of all, or of some ascending `rows`.

        Args:
            mapper: who computes it; threads of this process when left out.
        """
        if mapper is not None:
            rows = np.arange(len(self.slides.keys)) if rows is None else rows
            ranges = [rows[start : start + REMOTE] for start in range(0, len(rows), REMOTE)]
            work = Weigh(database.pinned(), self.predictor, self.columns)
            return itertools.chain.from_iterable(mapper(work, ranges))

        def weights(batch: tuple[Ints, pa.Table]) -> Operator:
            positions, table = batch
            slides = replace(
                self.slides.some(positions), vectors=list_to_matrix(table[SLIDES.vector])
            )
            return self.predictor.weights(slides, positions)

        return streamed(weights, database.batches(SLIDES, [SLIDES.vector], rows=rows))


@dataclass(frozen=True)
class Weigh:
    """The operators of slides at some positions, for another process: it reads them itself.

    Attributes:
        columns: pair key, split group, cohort and site of a slide.
    """

    database: Database
    predictor: Predictor
    columns: tuple[str, str, str, str]

    def __call__(self, rows: Ints) -> list[Operator]:
        """The operator of ascending positions (n,), in the batches of a single machine."""
        names = _needed(SLIDES, self.columns, SLIDES.vector)
        return [
            self.predictor.weights(
                _rows(SLIDES, table, list_to_matrix(table[SLIDES.vector]), self.columns), positions
            )
            for positions, table in self.database.batches(SLIDES, names, rows=rows)
        ]  # fmt: skip


def _rows(spec: TableSpec, table: pa.Table, vectors: Matrix, columns: Sequence[str]) -> Rows:
    """Rows of a table, which `_needed` names the columns of."""
    ids = as_text(table[spec.key])
    pair_on, groups, cohorts, sites = (as_text(table[c]) for c in columns)
    keys = pair_key_array(ids, pair_on)
    return Rows(vectors, keys, groups, cohorts, sites)


def _needed(spec: TableSpec, columns: Sequence[str], *more: str) -> list[str]:
    return list(dict.fromkeys([spec.key, *columns, *more]))


def fit(database: Database, space: SharedSpace) -> Fitted:
    """Fit what predicts the slides of a database. Reads the vectors of slides with RNA alone."""
    own = _columns(space)
    profiles = _read_profiles(database, own)
    slides, table = _read_texts(database, own, schema.CONTENT_HASH)
    at = np.flatnonzero(has_rna(slides, profiles))
    paired = _with_vectors(database, slides, at)

    def build(scheme: str) -> tuple[Predictor | None, Operator | None]:
        if scheme == COHORT_SCHEME:
            return None, build_left_out(space, paired, profiles, at)
        if scheme != PATIENT_SCHEME and len(at) == 0:
            return None, None
        everyone = slides if scheme == PATIENT_SCHEME else paired
        predictor = fit_predictor(space, scheme, paired, profiles, everyone)
        return predictor, predictor.weights(paired, at)

    schemes = list(dict.fromkeys([PATIENT_SCHEME, *(f.scheme for f in space.folds), COHORT_SCHEME]))
    built = dict(zip(schemes, parallel(build, schemes), strict=True))
    predictor = built[PATIENT_SCHEME][0]
    assert predictor is not None
    content = _content(table, own)
    about = json.dumps([SETTINGS, space.space_id, database.vectors_version(PROFILES)])
    basis = hashlib.sha256(about.encode() + content[at].tobytes()).hexdigest()
    measured = {scheme: operator for scheme, (_, operator) in built.items() if operator is not None}
    return Fitted(predictor, measured, slides, basis, content, own)


def _content(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(n, 2) a hash of the id, the ingested content and some columns of each slide."""
    names = (SLIDES.key, schema.CONTENT_HASH, *columns)
    found = np.empty((len(table), 2), np.uint64)
    for start in range(0, len(table), REMOTE):  # Python's texts take many times the room
        some = table.slice(start, REMOTE)
        digests = [
            hashlib.blake2b(repr(row).encode(), digest_size=16).digest()
            for row in zip(*(some[name].to_pylist() for name in names), strict=True)
        ]
        found[start : start + REMOTE] = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    return found


def compute_operators(database: Database, space: SharedSpace) -> dict[str, Operator]:
    """The operators of every fold scheme of a space, in memory."""
    fitted = fit(database, space)
    parts = list(fitted.batches(database))
    whole: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in BY_SLIDE
    }
    return {**fitted.measured, PATIENT_SCHEME: Operator(**whole, solvers=parts[0].solvers)}


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
