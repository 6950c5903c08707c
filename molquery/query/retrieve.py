"""Cross-modal retrieval: the slides or profiles nearest to a slide, a profile or a file of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from molquery import index, schema
from molquery.arrow import column
from molquery.barcodes import patient_of, site_of
from molquery.errors import IndexFileError, InputError, some
from molquery.query.engine import Engine
from molquery.records import Provenance
from molquery.schema import COHORT, PATIENT, PROFILES, SLIDES, TABLES, TableSpec
from molquery.space import need_space
from molquery.texts import Texts
from molquery.vectors import Bools, Matrix

if TYPE_CHECKING:
    from molquery import readers


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of each query, best first; `hits` has one row per query and neighbour."""

    hits: pa.Table
    provenance: Provenance
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "hits": self.hits.to_pylist(),
            "notes": list(self.notes),
            "provenance": asdict(self.provenance),
        }


@dataclass(frozen=True, slots=True)
class _Queries:
    source: TableSpec
    ids: tuple[str, ...]
    patients: tuple[str, ...]
    vectors: Matrix
    known: bool  # rows of the database itself, which must not find themselves


def retrieve(
    engine: Engine,
    query: str,
    *,
    to: str,
    source: str | None = None,
    k: int = 10,
    where: str | None = None,
    options: readers.Options | None = None,
    use_index: bool = True,
    device: str = "auto",
) -> Neighbours:
    """The k nearest slides or profiles of a query, in the shared space.

    The similarity is the cosine; between a slide and profiles the hubness of each profile is taken
    off it, as in the measured retrieval (`Model.hubness`).

    Args:
        query: the id of a slide or profile, or a file of slide embeddings or expression profiles.
        to: 'slides' or 'profiles'.
        source: which of the two the query is, where an id is both or a file does not tell.
        where: SQL filter over the metadata of what is retrieved.
        options: how to read a query file.
        device: where the index is searched: 'auto', 'cpu', 'gpu' or 'gpu:N'.

    Raises:
        InputError: the id is in neither table or in both, or the file does not fit.
    """
    if to not in TABLES:
        raise InputError(f"--to must be slides or profiles, not {to}")
    if k < 1:
        raise InputError("k must be at least 1", found=str(k))
    target = TABLES[to]
    notes: list[str] = []
    queries = _queries(engine, query, source, options, notes)
    texts = _texts(engine, target)
    left = _oriented(queries, target)
    allowed: Bools | None = None
    if where is not None:
        table = engine.database.read(target, [target.key], where=where)
        allowed = texts[target.key].are_in(table[target.key])
    spare = 1 if queries.known and queries.source is target else 0
    name = None
    if not use_index:
        index.devices(device)
    try:
        if not use_index:
            raise IndexFileError("the index was not asked for")
        loaded = engine.index(target, device=device)
        scores, found = loaded.search(left, k + spare, allowed)
        name = loaded.name
        notes += loaded.notices
    except IndexFileError as error:
        if use_index and "--device" in error.what:
            raise
        if use_index:
            notes.append(f"exact scan instead of an index: {error.what}")
        right = engine.slide_vectors if target is SLIDES else engine.profile_index_vectors
        scores, found = index.exact(right, left, k + spare, allowed)
    rows: dict[str, list[Any]] = {c: [] for c in _columns(target)}
    for q, query_id in enumerate(queries.ids):
        there = found[q] >= 0
        names = (texts[c].at(found[q][there]).tolist() for c in (target.key, PATIENT, COHORT))
        mine = [
            (-float(s), i, patient, cohort)
            for s, i, patient, cohort in zip(scores[q][there], *names, strict=True)
            if not (spare and i == query_id)
        ]
        for rank, (similarity, i, patient, cohort) in enumerate(sorted(mine)[:k], start=1):
            same = bool(patient) and patient == queries.patients[q]
            values = (query_id, rank, i, patient, cohort or None, -similarity, same)
            for held, value in zip(rows.values(), values, strict=True):
                held.append(value)
    if queries.known and queries.source is not target and any(rows["same_patient"]):
        notes.append(
            "rows of the query's own patient were in the training pairs: that they are near says "
            "nothing; molquery evaluate prints retrieval of held-out patients"
        )
    if not rows["rank"]:
        notes.append(f"no other {target.noun} satisfies the filter")
    provenance = engine.provenance(
        "cosine", {"query": query, "from": queries.source.name, "to": to, "k": k, "where": where},
        index=name,
    )  # fmt: skip
    kinds = {"rank": np.int64, "similarity": np.float64, "same_patient": bool}
    hits = {c: column(np.array(v, kinds[c]) if c in kinds else v) for c, v in rows.items()}
    return Neighbours(pa.table(hits), provenance, tuple(notes))


def _columns(target: TableSpec) -> tuple[str, ...]:
    return ("query", "rank", target.key, "patient_id", "cohort", "similarity", "same_patient")


def _oriented(queries: _Queries, target: TableSpec) -> Matrix:
    """Query vectors whose inner product with what the index of a table holds is the similarity."""
    if target is SLIDES:
        return queries.vectors
    bias = np.float32(1.0 if queries.source is SLIDES else 0.0)
    extra = np.full((len(queries.vectors), 1), bias, np.float32)
    return np.hstack([queries.vectors, extra])


def _texts(engine: Engine, spec: TableSpec) -> dict[str, Texts]:
    return engine.texts if spec is SLIDES else engine.reference.texts


def _queries(
    engine: Engine,
    query: str,
    source: str | None,
    options: readers.Options | None,
    notes: list[str],
) -> _Queries:
    """The query vectors, from an id of the database or from a file."""
    found = {
        spec.name: _texts(engine, spec)[spec.key].find(query)
        for spec in (SLIDES, PROFILES)
        if source in (None, spec.name)
    }
    hits = [name for name, row in found.items() if row is not None]
    if len(hits) == 1:
        spec = TABLES[hits[0]]
        at = np.array([found[spec.name]])
        patient = str(_texts(engine, spec)[PATIENT].at(at)[0])
        return _Queries(spec, (query,), (patient,), engine.shared_rows(spec, at), known=True)
    if len(hits) == 2:
        raise InputError(
            f"{query} is the id of a slide and of a profile",
            hint="--from slides or --from profiles",
        )
    path = Path(query)
    if os.path.exists(path):
        return _from_file(engine, path, source, options, notes)
    slides, profiles = (_texts(engine, spec)[spec.key] for spec in (SLIDES, PROFILES))
    near = slides.near(query, 1, 0.8) or profiles.near(query, 1, 0.8)
    first = np.arange(2)
    raise InputError(
        f"{query} is neither a slide, a profile, nor a file",
        found=f"slides such as {some(slides.at(first[: len(slides)]))}; "
        f"profiles such as {some(profiles.at(first[: len(profiles)]))}",
        hint=f"did you mean {near[0]}?" if near else None,
    )


def _from_file(
    engine: Engine,
    path: Path,
    source: str | None,
    options: readers.Options | None,
    notes: list[str],
) -> _Queries:
    from molquery import ingest, readers  # an id needs none of them

    options = options or readers.Options()
    space = need_space(engine.database)
    if source != PROFILES.name:
        try:
            slides = list(readers.read_slides(path, options))
        except InputError:
            if source == SLIDES.name:
                raise
            slides = []
        vectors = [part.vectors for part in slides if part.ids]
        dims = {v.shape[1] for v in vectors}
        if dims == {space.facts["slide_dim"]} or (source == SLIDES.name and vectors):
            for part in slides:
                if part.encoder and part.encoder.lower() != str(space.facts["encoder"]).lower():
                    raise InputError(
                        f"{part.source} holds {part.encoder} embeddings",
                        found=f"this database holds {space.facts['encoder']}",
                    )
            ids = tuple(i for part in slides for i in part.ids)
            raw = np.concatenate(vectors)
            ingest.check_vectors(raw, ids, kind=str(space.facts["kind"]))
            cohorts, sites = _labels(slides, schema.COHORT), _labels(slides, schema.SITE)
            sites = [s or site_of(i) for s, i in zip(sites, ids, strict=True)]
            projected = space.project_slides(raw, cohorts, sites)
            return _Queries(SLIDES, ids, tuple(_patients(ids)), projected, known=False)
        if source is None and dims:
            notes.append(
                f"{path.name} read as expression: its vectors have dimension "
                f"{some(sorted(dims))}, slides here {space.facts['slide_dim']}"
            )
    profiles = readers.read_profiles(path, options)
    names, values, said = ingest.current_symbols(profiles.genes, profiles.values)
    matrix = ingest.onto_panel(names, values, engine.reference.genes, profiles.source, notes)
    del said
    notes.append(
        f"{path.name} is taken to be on the database's scale, "
        f"{engine.database.facts(PROFILES)['scale']}"
    )
    vectors_out = space.project_profiles(matrix)
    return _Queries(
        PROFILES, profiles.ids, tuple(_patients(profiles.ids)), vectors_out, known=False
    )


def _labels(parts: Sequence[readers.Slides], name: str) -> list[str | None]:
    """A column of the metadata of slides in files, None where a file has no such column."""
    out: list[str | None] = []
    for part in parts:
        there = name in part.metadata.schema.names
        out += part.metadata[name].to_pylist() if there else [None] * len(part.ids)
    return out


def _patients(ids: tuple[str, ...]) -> list[str]:
    return [patient_of(i) or i for i in ids]
