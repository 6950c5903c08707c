"""FAISS indexes over the shared vectors of a table: build, save, load, search, filter.

An index is derived: positions in it are rows in key order, and its manifest entry names the space,
the version of the vectors and the sha256 of the file, all checked when it is loaded. This is the
only module that imports faiss.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from molquery import schema
from molquery.database import Database
from molquery.errors import IndexFileError
from molquery.recipes import Recipe
from molquery.schema import TableSpec
from molquery.vectors import Bools, Ints, Matrix

_RECALL_SAMPLE = 200  # queries for the recall measured at build time
_RECALL_K = 10


@dataclass(frozen=True, slots=True)
class Index:
    """A loaded index and its manifest entry."""

    key: str
    entry: dict[str, Any]
    handle: Any

    def search(self, queries: Matrix, k: int, allowed: Bools | None = None) -> tuple[Matrix, Ints]:
        """The k nearest rows by inner product: scores and positions, both (n_queries, k).

        Positions are -1, and scores -inf, where fewer than k rows qualify. `allowed` (n_rows,)
        restricts the answer; it is applied inside the search, so no qualifying row is lost to it.
        """
        return _search(self.handle, queries, k, allowed, self.entry.get("n_probe"))


def index_key(space_name: str, spec: TableSpec, recipe: str) -> str:
    """The name of an index in the manifest, which is also its file's stem."""
    return f"{space_name}-{spec.name}-{recipe}"


def build(
    database: Database, spec: TableSpec, recipe: Recipe, vectors: Matrix, space: dict[str, str]
) -> dict[str, Any]:
    """Build an index over `vectors` (n, d), save it, and return its new manifest entry.

    `space` holds the name and space_id that the vectors belong to.

    Raises:
        IndexFileError: FAISS does not accept the recipe's factory string.
    """
    import faiss

    version = database.vectors_version(spec)
    handle = _make(recipe, vectors)
    n_probe = None
    if recipe.probe_fraction is not None:
        n_probe = max(1, round(recipe.probe_fraction * recipe.n_lists(len(vectors))))
    key = index_key(space["name"], spec, recipe.name)
    entry = {
        "recipe": recipe.name,
        "factory": recipe.factory_for(len(vectors)),
        "table": spec.name,
        "space": space["name"],
        "space_id": space["space_id"],
        "vectors_version": version,
        "rows": len(vectors),
        "dim": int(vectors.shape[1]),
        "n_probe": n_probe,
        "recall_at_10": _recall(handle, vectors, n_probe),
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
    }

    def write(path: Path) -> None:
        faiss.write_index(handle, str(path))

    return database.store_derived("indexes", key, entry, f"{key}.faiss", write)


def load(database: Database, key: str) -> Index:
    """A saved index, after its checksum, space and table version have been checked.

    Raises:
        IndexFileError: it is missing, damaged, stale, or belongs to another space.
    """
    import faiss

    manifest = database.manifest()
    entry = manifest["indexes"].get(key)
    if entry is None:
        raise IndexFileError(f"there is no index {key}", hint="molquery index build")
    reason = why_stale(database, entry, manifest)
    path = database.path / entry["file"]
    if reason is None and database.derived("indexes", key) is None:
        reason = f"{path.name} is damaged: its sha256 is not the one it was saved with"
    if reason:
        raise IndexFileError(f"index {key} cannot be used: {reason}", hint="molquery index build")
    try:
        return Index(key, entry, faiss.read_index(str(path)))
    except RuntimeError as error:
        raise IndexFileError(
            f"index {key} cannot be read", found=str(error)[:200], hint="molquery index build"
        ) from error


def load_current(database: Database, space_name: str, spec: TableSpec) -> Index:
    """The first usable index of a table; exact ones come before approximate ones.

    Raises:
        IndexFileError: there is none, or none can be used; says why.
    """
    entries = database.manifest()["indexes"]
    mine = [
        (entry["n_probe"] is not None, key)
        for key, entry in entries.items()
        if entry["table"] == spec.name and entry["space"] == space_name
    ]
    problem = IndexFileError(f"no index of the {spec.name} has been built")
    for _, key in sorted(mine):
        try:
            return load(database, key)
        except IndexFileError as error:
            problem = error
    raise problem


def why_stale(database: Database, entry: dict[str, Any], manifest: dict[str, Any]) -> str | None:
    """Why an index must not answer, or None when it is current (its bytes are not checked here)."""
    spec = schema.TABLES[entry["table"]]
    current = manifest["spaces"].get(entry["space"])
    if current is None or current["space_id"] != entry["space_id"]:
        return "it was built for a space that has been replaced"
    version = database.vectors_version(spec)
    if version != entry["vectors_version"]:
        return f"{spec.name} have changed (version {entry['vectors_version']} -> {version})"
    if not (database.path / entry["file"]).is_file():
        return "its file is missing"
    return None


def gpus() -> int:
    """The number of GPUs that FAISS can use."""
    import faiss

    return int(faiss.get_num_gpus())


def exact(vectors: Matrix, queries: Matrix, k: int, allowed: Bools | None) -> tuple[Matrix, Ints]:
    """As `Index.search`, by an exact scan of `vectors` (n, d): what answers without an index."""
    handle = _flat(vectors)
    return _search(handle, queries, k, allowed, None)


def _flat(vectors: Matrix) -> Any:
    import faiss

    handle = faiss.IndexFlatIP(vectors.shape[1])
    handle.add(vectors)
    return handle


def _make(recipe: Recipe, vectors: Matrix) -> Any:
    import faiss

    factory = recipe.factory_for(len(vectors))
    try:
        handle = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise IndexFileError(
            f"FAISS does not know the factory string {factory!r} of recipe {recipe.name}",
            hint='a valid one is "Flat" or "IVF{nlist},Flat"',
        ) from error
    if not handle.is_trained:
        handle.train(vectors)
    handle.add(vectors)
    return handle


def _search(
    handle: Any, queries: Matrix, k: int, allowed: Bools | None, n_probe: int | None
) -> tuple[Matrix, Ints]:
    import faiss

    if len(queries) == 0 or k <= 0:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    selector = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
    if n_probe is None:
        parameters = faiss.SearchParameters(sel=selector) if selector else None
    else:
        # A filter can leave the probed lists with too few rows: then every list is scanned.
        wide = allowed is not None and int(allowed.sum()) < 50 * k
        probes = handle.nlist if wide else n_probe
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
    k = min(k, handle.ntotal)
    scores, positions = handle.search(np.ascontiguousarray(queries), k, params=parameters)
    scores[positions < 0] = -np.inf
    return scores, positions.astype(np.int64)


def _recall(handle: Any, vectors: Matrix, n_probe: int | None) -> float:
    """Measured recall@10 against exact search, on rows of the archive that are not random."""
    if n_probe is None:
        return 1.0
    step = max(1, len(vectors) // _RECALL_SAMPLE)
    queries = vectors[::step]
    k = min(_RECALL_K, len(vectors))
    _, truth = _search(_flat(vectors), queries, k, None, None)
    _, found = _search(handle, queries, k, None, n_probe)
    shared = sum(len(np.intersect1d(t, f)) for t, f in zip(truth, found, strict=True))
    return float(shared / truth.size)


def remove_stale(database: Database, live_space_ids: set[str]) -> None:
    """Forget indexes of replaced spaces."""

    def change(manifest: dict[str, Any]) -> None:
        for key, entry in list(manifest["indexes"].items()):
            if entry["space_id"] not in live_space_ids:
                del manifest["indexes"][key]

    database.update_manifest(change)
