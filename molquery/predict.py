"""From a signature's scores in reference profiles to its predicted scores in slides.

The prediction is linear in the reference scores s (n_reference,), and its weights do not depend on
the gene set, so they are computed once per database state and stored. For slide i

    y_i = (1 - a) sum_j w_ij s_j  +  a [ mean(s) + c_i . solve(P, s - mean(s)) ]

The first term is the soft average over the k nearest reference profiles in the shared space,
w_ij = softmax_j((x_i . r_j - h_j) / tau), where h_j is the hubness of profile j: profiles that are
near to everything count for less (`Model.hubness`). The second term is the linear one:
c_i are the principal components of expression predicted from the slide, P those measured in the
reference, and `solve` the ridge regression of s on P. Spaces without an expression head have a = 0.

A slide of a patient with RNA is predicted by the model of the fold that held the patient out, from
the profiles of the other patients. So every score is one that was predicted and never remembered,
and comparing the scores of these slides with their measured ones says how far to trust the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from molquery import index, schema
from molquery.database import Database, list_to_matrix
from molquery.files import sha256_file, write_bytes
from molquery.schema import PROFILES, SLIDES
from molquery.space import TEMPERATURE, Fold, SharedSpace
from molquery.vectors import Bools, Float, Ints, Matrix, Strings

PATIENT_SCHEME = "patient"
SITE_SCHEME = "site"
NEIGHBOURS = 200
RIDGE = 1e-3  # of the mean variance of a principal component: only guards against rank loss
_DENSE_CELLS = 50_000_000  # slides x profiles up to which the weights are held as a dense matrix


@dataclass(frozen=True, slots=True)
class Operator:
    """The stored weights: reference scores in, slide scores out.

    Attributes:
        neighbours: (n_slides, k) int32 positions of reference profiles; -1 pads.
        weights: (n_slides, k) float32, rows sum to 1; 0 where padded.
        model: (n_slides,) which model predicts the slide; -1 the final one.
        components: (n_slides, m) predicted principal components, centred; m may be 0.
        solvers: (n_models, m, n_reference) the ridge solutions; the last is the final model's.
        means: (n_models, n_reference) weights of the reference mean.
        linear_share: a in the formula.
    """

    neighbours: Any
    weights: Matrix
    model: Ints
    components: Matrix
    solvers: Matrix
    means: Matrix
    linear_share: float

    @property
    def n_reference(self) -> int:
        """Number of reference profiles that a score vector must cover."""
        return int(self.means.shape[1])

    def apply(self, scores: Float, rows: Ints | None = None) -> Float:
        """Predicted scores (n_slides, n_sets) from reference scores (n_reference, n_sets).

        `rows` restricts the answer to some slides.
        """
        rows = np.arange(len(self.weights)) if rows is None else rows
        scores = np.asarray(scores, dtype=np.float64)
        local = self._soft(scores, rows)
        if self.linear_share == 0:
            return local
        linear = np.empty_like(local)
        for m in np.unique(self.model[rows]):
            mine = self.model[rows] == m
            mean = self.means[m].astype(np.float64) @ scores
            solved = self.solvers[m].astype(np.float64) @ (scores - mean)
            linear[mine] = mean + self.components[rows[mine]] @ solved
        return (1 - self.linear_share) * local + self.linear_share * linear

    def _soft(self, scores: Float, rows: Ints) -> Float:
        indices, weights = self.neighbours[rows], self.weights[rows]
        if len(rows) * self.n_reference <= _DENSE_CELLS:
            dense = np.zeros((len(rows), self.n_reference), np.float64)
            np.put_along_axis(dense, np.maximum(indices, 0).astype(np.int64), weights, axis=1)
            return np.asarray(dense @ scores)
        from scipy.sparse import csr_array

        starts = np.arange(0, indices.size + 1, indices.shape[1])
        shape = (len(rows), self.n_reference)
        flat = (weights.ravel(), np.maximum(indices, 0).ravel(), starts)
        return np.asarray(csr_array(flat, shape=shape) @ scores)


def build_operator(
    space: SharedSpace, scheme: str, *, slides: SlideRows, profiles: ProfileRows
) -> Operator:
    """The operator of every slide, for the folds of one scheme (`patient` or `site`)."""
    folds = [fold for fold in space.folds if fold.scheme == scheme]
    units = slides.sites if scheme == SITE_SCHEME else slides.groups
    owners = profiles.sites if scheme == SITE_SCHEME else profiles.groups
    paired = np.isin(slides.groups, profiles.groups[profiles.groups != ""])
    fold_of = {unit: f for f, fold in enumerate(folds) for unit in fold.held_out}
    model = np.array(
        [fold_of.get(str(u), -1) if p else -1 for u, p in zip(units, paired, strict=True)],
        dtype=np.int64,
    )
    k = min(NEIGHBOURS, len(profiles.vectors))
    n = len(slides.vectors)
    neighbours = np.full((n, k), -1, dtype=np.int32)
    weights = np.zeros((n, k), dtype=np.float32)
    width = 0 if space.final.components is None else space.final.components.shape[1]
    components = np.zeros((n, width), np.float32)
    solvers = np.zeros((len(folds) + 1, width, len(profiles.vectors)), np.float32)
    means = np.zeros((len(folds) + 1, len(profiles.vectors)), np.float32)
    final = Fold(scheme, frozenset(), space.final)
    for m, fold in enumerate([*folds, final]):
        rows = np.flatnonzero(model == (m if m < len(folds) else -1))
        reference = ~np.isin(owners, sorted(fold.held_out)) if fold.held_out else _all(owners)
        known = np.flatnonzero(reference)
        means[m, known] = 1.0 / len(known)
        measured = fold.model.profile_components(profiles.vectors[known])
        if measured is not None:
            solvers[m][:, known] = _ridge_solver(measured)
        if len(rows) == 0:
            continue
        x = fold.model.project_slides(slides.vectors[rows], slides.cohorts[rows].tolist())
        r = fold.model.project_profiles(profiles.vectors[known])
        hubs = fold.model.hubness(r)
        own = slides.groups[rows] if m == len(folds) else None
        found, share = _soft_neighbours(x, r, hubs, k, own, profiles.groups[known])
        neighbours[rows] = np.where(found >= 0, known[np.maximum(found, 0)], -1)
        weights[rows] = share
        predicted = fold.model.slide_components(slides.vectors[rows], slides.cohorts[rows].tolist())
        if predicted is not None and measured is not None:
            components[rows] = predicted - measured.mean(axis=0)
    share = float(space.facts.get("linear_share", 0.0))
    return Operator(neighbours, weights, model, components, solvers, means, share)


@dataclass(frozen=True, slots=True)
class SlideRows:
    """What prediction needs of the slides: embeddings and who they belong to, in key order."""

    vectors: Matrix
    groups: Strings
    cohorts: Strings
    sites: Strings


@dataclass(frozen=True, slots=True)
class ProfileRows:
    """What prediction needs of the profiles: expression and who it belongs to, in key order."""

    vectors: Matrix
    groups: Strings
    sites: Strings


_FIELDS = ("neighbours", "weights", "model", "components", "solvers", "means")


def state_key(database: Database, space_id: str) -> str:
    """The database state that stored operators belong to."""
    versions = [database.vectors_version(spec) for spec in (SLIDES, PROFILES)]
    return json.dumps([space_id, *versions])


def stored_operators(database: Database, space_id: str) -> dict[str, Operator] | None:
    """The operators stored for the database as it is now, or None when there are none."""
    entry = database.manifest().get("predictions")
    if entry is None or entry["state"] != state_key(database, space_id):
        return None
    path = database.path / entry["file"]
    if not path.is_file() or sha256_file(path) != entry["sha256"]:
        return None
    from safetensors.numpy import load_file

    arrays = load_file(path)
    return {
        scheme: Operator(*(arrays[f"{scheme}.{name}"] for name in _FIELDS), entry["linear_share"])
        for scheme in entry["schemes"]
    }


def compute_operators(database: Database, space: SharedSpace) -> dict[str, Operator]:
    """The operators of every fold scheme of a space, for the database as it is now."""
    split_on = space.facts["split_on"]
    tables = {}
    for spec in (SLIDES, PROFILES):
        columns = list(dict.fromkeys([spec.vector, split_on, schema.COHORT, schema.SITE]))
        tables[spec.name] = database.read(spec, columns)

    def text(table: str, column: str) -> Strings:
        values = tables[table][column].to_pylist()
        return np.array(["" if v is None else str(v) for v in values], dtype=str)

    slides = SlideRows(
        list_to_matrix(tables["slides"][SLIDES.vector]),
        text("slides", split_on),
        text("slides", schema.COHORT),
        text("slides", schema.SITE),
    )
    profiles = ProfileRows(
        list_to_matrix(tables["profiles"][PROFILES.vector]),
        text("profiles", split_on),
        text("profiles", schema.SITE),
    )
    schemes = dict.fromkeys([PATIENT_SCHEME, *(fold.scheme for fold in space.folds)])
    return {s: build_operator(space, s, slides=slides, profiles=profiles) for s in schemes}


def store_operators(database: Database, space: SharedSpace, operators: dict[str, Operator]) -> None:
    """Save operators under `indexes/` and name them in the manifest with their state."""
    from safetensors.numpy import save

    arrays = {
        f"{scheme}.{name}": np.ascontiguousarray(getattr(operator, name))
        for scheme, operator in operators.items()
        for name in _FIELDS
    }
    path = database.path / schema.INDEXES / f"{space.name}-predictions.safetensors"
    path.parent.mkdir(exist_ok=True)
    with database.writing():
        write_bytes(path, save(arrays))
        entry = {
            "file": f"{schema.INDEXES}/{path.name}",
            "sha256": sha256_file(path),
            "schemes": list(operators),
            "linear_share": next(iter(operators.values())).linear_share,
            "state": state_key(database, space.space_id),
        }
        database.update_manifest(lambda manifest: manifest.update(predictions=entry))


def _all(owners: Strings) -> Bools:
    return np.ones(len(owners), dtype=bool)


def _soft_neighbours(
    x: Matrix, r: Matrix, hubs: Matrix, k: int, own: Strings | None, owners: Sequence[str] | Strings
) -> tuple[Ints, Matrix]:
    """The k nearest of r (n_reference, d) for each x (n, d), and their softmax weights.

    `own` names the group of each slide; profiles of the same group never count.
    """
    left = np.hstack([x, np.ones((len(x), 1), np.float32)])
    right = np.hstack([r, -hubs[:, None]])
    spare = 0
    if own is not None:
        named = np.asarray(owners)
        shared = np.intersect1d(own, named[named != ""])
        spare = max((int((named == g).sum()) for g in shared), default=0)
    found_scores, found = index.exact(right, left, min(k + spare, len(r)), None)
    if own is not None and spare:
        mine = (np.asarray(owners)[np.maximum(found, 0)] == own[:, None]) & (own[:, None] != "")
        found_scores[mine] = -np.inf
        order = np.argsort(-found_scores, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(found, order, axis=1)
        found_scores = np.take_along_axis(found_scores, order, axis=1)
    if found.shape[1] < k:
        pad = ((0, 0), (0, k - found.shape[1]))
        found = np.pad(found, pad, constant_values=-1)
        found_scores = np.pad(found_scores, pad, constant_values=-np.inf)
    found[~np.isfinite(found_scores)] = -1
    logits = found_scores.astype(np.float64) / TEMPERATURE
    logits -= logits.max(axis=1, keepdims=True)
    share = np.exp(logits)
    share /= share.sum(axis=1, keepdims=True)
    return found, share.astype(np.float32)


def soft_weights(x: Matrix, r: Matrix, hubs: Matrix) -> Matrix:
    """The dense soft-kNN weights (n_slides, n_reference) of slides x against profiles r."""
    k = min(NEIGHBOURS, len(r))
    found, share = _soft_neighbours(x, r, hubs, k, None, ())
    dense = np.zeros((len(x), len(r)), np.float32)
    np.put_along_axis(dense, found, share, axis=1)
    return dense


def _ridge_solver(measured: Matrix) -> Matrix:
    """(m, n) the matrix that turns scores (n,) into ridge coefficients on components (n, m)."""
    centred = measured.astype(np.float64) - measured.mean(axis=0)
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    return np.asarray(np.linalg.solve(gram, centred.T), dtype=np.float32)
