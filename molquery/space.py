"""A shared space: load it, and project slides and profiles into it. numpy only.

Projection exists once, here: ingest, alignment and queries all use it. A space holds one final
model, fitted on every pair, and the models of the folds, each fitted without the patients (or the
sites) that it is to be tested on. Slides of patients with RNA are scored by the model that has not
seen them, so that every score in an archive is one that was predicted and not remembered.

A model takes embeddings through an input transform (constants from its training pairs), then
through heads: short lists of affine layers, GELU between them. Each head's output is scaled to unit
length, the heads are weighted and joined, and the result is a unit vector again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from molquery import schema
from molquery.database import Database, list_to_matrix
from molquery.errors import MismatchError, NotReadyError, SpaceError
from molquery.files import sha256_file, write_bytes
from molquery.schema import PROFILES, SLIDES
from molquery.vectors import Matrix, unit

DEFAULT_SPACE = "default"
FINAL = "final"
_ARRAYS = "heads.safetensors"
_FACTS = "space.json"
#: Softmax temperature of soft-kNN and of the hubness correction.
TEMPERATURE = 0.1
_BATCH = 8192  # rows projected at a time: bounds memory, large enough for BLAS


@dataclass(frozen=True, slots=True)
class Layer:
    """An affine map (in, out) with its bias (out,), followed by a GELU or by nothing."""

    weight: Matrix
    bias: Matrix
    gelu: bool = False


Head = tuple[Layer, ...]
#: (n,) the cohort or the site of each row; None and the empty string where it is not known.
Labels = Sequence[str | None]


def run_head(head: Head, x: Matrix) -> Matrix:
    """The output (n, out) of a head on inputs (n, in), float32."""
    for layer in head:
        x = x @ layer.weight + layer.bias
        if layer.gelu:
            from scipy.special import erf

            x = (0.5 * x * (1.0 + erf(x / np.float32(np.sqrt(2.0))))).astype(np.float32)
    return x


@dataclass(frozen=True, slots=True)
class SlideInput:
    """The slide-side input transform, with constants from the training pairs.

    Features are rank-normalised (quantile knots -> normal scores), embeddings standardised. The
    output has blocks of d columns: the values with their cohort's mean taken off, the values as
    they are, and, where some cohort has slides of several sites, the values with the mean of their
    site in their cohort taken off. Means come from slides alone, so they need no RNA. A slide of a
    site that the space has not seen is taken to be an average one of its cohort; a cohort that it
    has never seen keeps its values (offset zero).

    Attributes:
        knots: (n_knots, d) quantiles of each feature, or None for embeddings.
        mean, scale: (d,) of the transformed training values.
        cohorts: names of the cohorts whose offsets are known.
        offsets: (n_cohorts, d) cohort means of the standardised values.
        sites: (cohort, site) of the sites whose offsets are known; empty: there is no third block.
        site_offsets: (n_sites, d) their means, shrunk towards that of the cohort.
    """

    knots: Matrix | None
    mean: Matrix
    scale: Matrix
    cohorts: tuple[str, ...]
    offsets: Matrix
    sites: tuple[tuple[str, str], ...]
    site_offsets: Matrix

    def __call__(self, embeddings: Matrix, cohorts: Labels, sites: Labels) -> Matrix:
        """Head inputs from raw embeddings (n, d); missing values become the mean."""
        return self.blocks(self.standardise(embeddings), cohorts, sites)

    def blocks(self, values: Matrix, cohorts: Labels, sites: Labels) -> Matrix:
        """Head inputs (n, 2 d), or (n, 3 d) where sites are known, from standardised values."""
        of_cohort = self.cohort_means(cohorts)
        if not self.sites:
            return np.hstack([values - of_cohort, values])
        row = {place: i for i, place in enumerate(self.sites)}
        places = ((c or "", s or "") for c, s in zip(cohorts, sites, strict=True))
        at = np.array([row.get(place, -1) for place in places], dtype=np.int64)
        of_site = np.where(at[:, None] >= 0, self.site_offsets[at], of_cohort)
        return np.hstack([values - of_cohort, values, values - of_site])

    def cohort_means(self, cohorts: Labels) -> Matrix:
        """(n, d) the offset of each of these cohorts, zero where it is not known."""
        row = {name: i for i, name in enumerate(self.cohorts)}
        at = np.array([row.get(c or "", -1) for c in cohorts], dtype=np.int64)
        return np.vstack([self.offsets, np.zeros((1, len(self.mean)), np.float32)])[at]

    def standardise(self, embeddings: Matrix) -> Matrix:
        """Transformed, standardised values (n, d), with missing values at the training mean."""
        values = embeddings if self.knots is None else normal_scores(embeddings, self.knots)
        out = np.nan_to_num((values - self.mean) / self.scale, nan=0.0, posinf=0.0, neginf=0.0)
        return np.asarray(out, dtype=np.float32)


def normal_scores(values: Matrix, knots: Matrix) -> Matrix:
    """Each column's values as normal scores of their rank among `knots` (n_knots, d); NaN stays."""
    from scipy.special import ndtri

    n = len(knots)
    grid = (np.arange(n) + 0.5) / n
    out = np.empty_like(values, dtype=np.float32)
    for j in range(values.shape[1]):
        # Ties in the knots (a feature that is often zero) take the middle of their range.
        low = np.interp(values[:, j], knots[:, j], grid)
        high = 1.0 - np.interp(-values[:, j], -knots[::-1, j], grid)
        out[:, j] = ndtri((low + high) / 2)
    return out


@dataclass(frozen=True, slots=True)
class ProfileInput:
    """The profile-side input transform: z-scores over the training profiles, missing genes at 0."""

    mean: Matrix
    scale: Matrix

    def __call__(self, expression: Matrix) -> Matrix:
        """Head inputs (n, n_genes) from expression (n, n_genes)."""
        z = (expression - self.mean) / self.scale
        return np.asarray(np.nan_to_num(z, nan=0.0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Model:
    """One fitted alignment: input transforms, and paired heads with their weights.

    `anchors` are shared vectors of (a sample of) the training slides; `hubness` needs them.
    """

    slide_input: SlideInput
    profile_input: ProfileInput
    slide_heads: tuple[Head, ...]
    profile_heads: tuple[Head, ...]
    weights: tuple[float, ...]
    anchors: Matrix  # (n_anchors, dim): shared vectors of training slides

    def project_slides(self, embeddings: ArrayLike, cohorts: Labels, sites: Labels) -> Matrix:
        """Shared-space unit vectors (n, dim) float32 of raw slide embeddings (n, d)."""
        raw = np.asarray(embeddings, dtype=np.float32)
        parts = [
            self._join(self.slide_heads, self.slide_input(raw[s], cohorts[s], sites[s]))
            for s in _slices(raw)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def project_standardised(self, values: Matrix, cohorts: Labels, sites: Labels) -> Matrix:
        """As `project_slides`, from values that `slide_input.standardise` has transformed."""
        return self._join(self.slide_heads, self.slide_input.blocks(values, cohorts, sites))

    def project_profiles(self, expression: ArrayLike) -> Matrix:
        """Shared-space unit vectors (n, dim) float32 of expression profiles (n, n_genes)."""
        raw = np.asarray(expression, dtype=np.float32)
        parts = [self._join(self.profile_heads, self.profile_input(raw[s])) for s in _slices(raw)]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def hubness(self, shared: Matrix) -> Matrix:
        """How near profiles are to slides in general: (n,) float32, to be taken off their cosines.

            h_j = tau log mean_i exp(x_i . r_j / tau),   x_i the anchors, tau = `TEMPERATURE`

        the inverted softmax of Smith et al. 2017 (arXiv 1702.03859). Without it a few profiles that
        lie near the middle of all slides (hubs) would be everyone's neighbours.
        """
        logits = shared.astype(np.float64) @ self.anchors.T.astype(np.float64) / TEMPERATURE
        top = logits.max(axis=1, keepdims=True)
        mean = np.exp(logits - top).mean(axis=1)
        return np.asarray(TEMPERATURE * (top[:, 0] + np.log(mean)), dtype=np.float32)

    def _join(self, heads: tuple[Head, ...], inputs: Matrix) -> Matrix:
        blocks = [
            unit(run_head(h, inputs)) * np.float32(w)
            for h, w in zip(heads, self.weights, strict=True)
        ]
        return unit(np.hstack(blocks))

    @property
    def dim(self) -> int:
        """Dimension of the shared space."""
        return sum(int(head[-1].weight.shape[1]) for head in self.slide_heads)


@dataclass(frozen=True, slots=True)
class Fold:
    """A model and the patients held out when it was fitted: some, or all of some sites."""

    scheme: str
    held_out: frozenset[str]
    model: Model


@dataclass(frozen=True)
class SharedSpace:
    """A trained alignment with the facts of its training.

    `facts` holds the slide encoder, kind and dimension, the gene panel's hash, the method and its
    settings, the seed, the number of pairs, and the held-out summary.
    """

    name: str
    space_id: str
    facts: Mapping[str, Any]
    final: Model
    folds: tuple[Fold, ...]

    @property
    def left_out(self) -> frozenset[str]:
        """The groups (patients) whose RNA `align --hold-out` left unused."""
        return frozenset((self.facts.get("hold_out") or {}).get("groups", ()))

    def project_slides(self, embeddings: ArrayLike, cohorts: Labels, sites: Labels) -> Matrix:
        """Shared vectors (n, dim) of slide embeddings, by the final model.

        Raises:
            MismatchError: the embeddings have another dimension than the space's encoder.
        """
        raw = np.asarray(embeddings, dtype=np.float32)
        if raw.ndim != 2 or raw.shape[1] != self.facts["slide_dim"]:
            raise MismatchError(
                f"space {self.name} takes {self.facts['encoder']} embeddings of dimension "
                f"{self.facts['slide_dim']}",
                found=f"shape {raw.shape}",
            )
        return self.final.project_slides(raw, cohorts, sites)

    def project_profiles(self, expression: ArrayLike) -> Matrix:
        """Shared vectors (n, dim) of expression profiles on the database's gene panel."""
        return self.final.project_profiles(expression)


def save_space(
    database: Database,
    name: str,
    facts: Mapping[str, Any],
    final: Model,
    folds: Sequence[Fold],
) -> SharedSpace:
    """Write a space under `spaces/<name>/`; it takes effect when the manifest names it.

    Files of a space are named by its id, so a space in use is never overwritten.
    """
    from safetensors.numpy import save

    models = {FINAL: final, **{f"fold{i}": fold.model for i, fold in enumerate(folds)}}
    arrays: dict[str, Any] = {}
    layout = {key: pack_model(model, f"{key}.", arrays) for key, model in models.items()}
    content = {
        "facts": dict(facts),
        "models": layout,
        "folds": [{"scheme": f.scheme, "held_out": sorted(f.held_out)} for f in folds],
    }
    blob = save(arrays)
    digest = hashlib.sha256(blob + json.dumps(content, sort_keys=True).encode()).hexdigest()
    directory = space_directory(database, name, digest)
    directory.mkdir(parents=True, exist_ok=True)
    write_bytes(directory / _ARRAYS, blob)
    text = json.dumps({"space_id": digest, **content}, indent=1, sort_keys=True)
    write_bytes(directory / _FACTS, text.encode())
    return SharedSpace(name, digest, dict(facts), final, tuple(folds))


def space_directory(database: Database, name: str, space_id: str) -> Path:
    """Where the files of a space are."""
    return database.path / schema.SPACES / name / space_id[:12]


def project_tables(database: Database, space: SharedSpace) -> None:
    """Store the shared vectors of every slide and profile, by the space's final model."""

    def project(rows: pa.Table) -> Matrix:
        return space.project_profiles(list_to_matrix(rows[PROFILES.vector]))

    column = schema.shared_column(space.space_id)
    with database.writing("project"):
        project_slides(database, space)
        database.set_vectors(PROFILES, column, space.final.dim, [PROFILES.vector], project)


def project_slides(database: Database, space: SharedSpace) -> None:
    """Store the shared vectors of every slide, the same bits on any number of threads."""
    column = schema.shared_column(space.space_id)
    reads = [schema.COHORT, schema.SITE, SLIDES.vector]
    project = partial(project_rows, space=space)
    database.set_vectors(SLIDES, column, space.final.dim, reads, project)


def project_rows(rows: pa.Table, space: SharedSpace) -> Matrix:
    """Shared vectors (n, dim) of rows of the slide table."""
    cohorts, sites = (rows[column].to_pylist() for column in (schema.COHORT, schema.SITE))
    return space.project_slides(list_to_matrix(rows[SLIDES.vector]), cohorts, sites)


def manifest_entry(database: Database, space: SharedSpace) -> dict[str, Any]:
    """What the manifest records of a space: its id, the checksums of its files, and the metadata
    columns that its pairs and folds are made of."""
    directory = space_directory(database, space.name, space.space_id)
    return {
        "space_id": space.space_id,
        "sha256": {f: sha256_file(directory / f) for f in (_ARRAYS, _FACTS)},
        "reads": sorted({space.facts["settings"]["pair_on"], space.facts["split_on"]}),
    }


def space_facts(database: Database, name: str = DEFAULT_SPACE) -> dict[str, Any] | None:
    """The training facts of the current space, without loading its arrays; None before align."""
    entry = database.manifest()["spaces"].get(name)
    if entry is None:
        return None
    return dict(json.loads(_checked(database, name, entry, _FACTS))["facts"])


def named_groups(database: Database, name: str = DEFAULT_SPACE) -> set[str]:
    """The patients (or other groups) that the current space names.

    It was learned from those that are in a fold, and has left out the others.
    """
    entry = database.manifest()["spaces"].get(name)
    if entry is None:
        return set()
    content = json.loads(_checked(database, name, entry, _FACTS))
    left_out = (content["facts"].get("hold_out") or {}).get("groups", ())
    return {group for fold in content["folds"] for group in fold["held_out"]}.union(left_out)


def current_space(database: Database, name: str = DEFAULT_SPACE) -> SharedSpace | None:
    """The space that the manifest names, with its files' checksums verified; None before align.

    Raises:
        SpaceError: a file of the space is missing or damaged.
    """
    entry = database.manifest()["spaces"].get(name)
    if entry is None:
        return None
    from safetensors.numpy import load

    content = json.loads(_checked(database, name, entry, _FACTS))
    arrays = load(_checked(database, name, entry, _ARRAYS))
    models = {k: unpack_model(layout, f"{k}.", arrays) for k, layout in content["models"].items()}
    folds = tuple(
        Fold(f["scheme"], frozenset(f["held_out"]), models[f"fold{i}"])
        for i, f in enumerate(content["folds"])
    )
    return SharedSpace(name, entry["space_id"], content["facts"], models[FINAL], folds)


def need_space(database: Database, name: str = DEFAULT_SPACE) -> SharedSpace:
    """The current space.

    Raises:
        NotReadyError: nothing has been aligned yet.
    """
    space = current_space(database, name)
    if space is None:
        raise not_aligned(database)
    return space


def not_aligned(database: Database) -> NotReadyError:
    """The error for a query before `align`, which says what comes first."""
    missing = [s.name for s in schema.TABLES.values() if not database.has(s)]
    if missing:
        steps = ", ".join(f"molquery ingest {name}" for name in missing)
        return NotReadyError(
            f"{database.name} holds no {' and no '.join(missing)} yet",
            hint=f"{steps}, then molquery align",
        )
    return NotReadyError(f"{database.name} has no shared space yet", hint="molquery align")


def _checked(database: Database, name: str, entry: Mapping[str, Any], file: str) -> bytes:
    """The content of a file of a space; what is checked is what is used."""
    path = space_directory(database, name, entry["space_id"]) / file
    inside = path.relative_to(database.path).as_posix()
    if database.remote:
        database.is_whole(inside, entry["sha256"][file])
    try:
        content = path.read_bytes()
    except OSError:
        state = "missing"
    else:
        if hashlib.sha256(content).hexdigest() == entry["sha256"][file]:
            return content
        state = "damaged (its sha256 differs)"
    hint = "molquery doctor says what is left; molquery align learns the space again"
    raise SpaceError(f"{database.name}/{inside} is {state}", hint=hint)


def _slices(matrix: Matrix) -> list[slice]:
    return [slice(i, i + _BATCH) for i in range(0, len(matrix), _BATCH)]


def pack_model(model: Model, prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Put a model's arrays into `arrays`; return the layout that `unpack_model` needs."""

    def put(name: str, array: Matrix | None) -> None:
        if array is not None:
            arrays[prefix + name] = np.ascontiguousarray(array, dtype=np.float32)

    put("slide.knots", model.slide_input.knots)
    put("slide.mean", model.slide_input.mean)
    put("slide.scale", model.slide_input.scale)
    put("slide.offsets", model.slide_input.offsets)
    put("slide.site_offsets", model.slide_input.site_offsets)
    put("profile.mean", model.profile_input.mean)
    put("profile.scale", model.profile_input.scale)
    put("anchors", model.anchors)
    heads = {f"slide_heads.{i}": h for i, h in enumerate(model.slide_heads)}
    heads |= {f"profile_heads.{i}": h for i, h in enumerate(model.profile_heads)}
    for name, head in heads.items():
        for i, layer in enumerate(head):
            put(f"{name}.{i}.weight", layer.weight)
            put(f"{name}.{i}.bias", layer.bias)
    return {
        "cohorts": list(model.slide_input.cohorts),
        "sites": [list(place) for place in model.slide_input.sites],
        "weights": list(model.weights),
        "gelu": {name: [layer.gelu for layer in head] for name, head in heads.items()},
    }


def unpack_model(layout: Mapping[str, Any], prefix: str, arrays: Mapping[str, Any]) -> Model:
    """The model that `pack_model` took apart."""

    def get(name: str) -> Any:
        return arrays.get(prefix + name)

    def head(name: str) -> Head:
        return tuple(
            Layer(get(f"{name}.{i}.weight"), get(f"{name}.{i}.bias"), gelu)
            for i, gelu in enumerate(layout["gelu"][name])
        )

    count = len(layout["weights"])
    return Model(
        slide_input=SlideInput(
            get("slide.knots"), get("slide.mean"), get("slide.scale"),
            tuple(layout["cohorts"]), get("slide.offsets"),
            tuple((cohort, site) for cohort, site in layout["sites"]), get("slide.site_offsets"),
        ),
        profile_input=ProfileInput(get("profile.mean"), get("profile.scale")),
        slide_heads=tuple(head(f"slide_heads.{i}") for i in range(count)),
        profile_heads=tuple(head(f"profile_heads.{i}") for i in range(count)),
        weights=tuple(layout["weights"]),
        anchors=get("anchors"),
    )  # fmt: skip
