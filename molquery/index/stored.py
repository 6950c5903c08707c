"""Indexes of a database: build, extend, load, and know when one must not answer.

What an exact index stores are the vectors of a table, in the order of the keys, and the keys; the
approximate ones refer to the rows of an exact one, and score their candidates from it. An index is
derived: its manifest entry names the space, the version of the vectors and the sums of the file.
Where rows have only come since, it answers for those that it holds, and the others are scanned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.database import Database
from molquery.database.drafts import Draft
from molquery.database.mapped import SUMS, Arrays, row_sums
from molquery.errors import DatabaseError, IndexFileError
from molquery.index import library, scan
from molquery.index.assembly import Span, assemble, fill
from molquery.index.entries import index_key, too_lossy, why_stale
from molquery.index.searcher import Searcher, Settings
from molquery.index.tuning import RECALL, measured_recall, tune
from molquery.progress import Progress, silent
from molquery.recipes import Recipe, load_recipe
from molquery.schema import TableSpec
from molquery.threads import Mapper
from molquery.vectors import Bools, Ints, Matrix, Strings

_VECTORS, _KEYS, _ENDS = "vectors", "keys", "ends"
_BATCH = 65_536
#: Up to this many bytes of vectors an exact scan is preferred to an approximate index: some 40 ms.
EXACT_UP_TO = 1_100_000_000
_BUILD = "molquery index build"


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of a table that indexes are built over, in the order of the keys.

    Attributes:
        keys: gives the keys (n,).
        vectors: gives the shared vectors of some rows (n_rows, d), by ascending position.
        n: number of rows; dim: of the vectors.
        space: `name` and `space_id` that the vectors belong to.
    """

    spec: TableSpec
    n: int
    dim: int
    space: dict[str, str]
    keys: Callable[[], Strings]
    vectors: Callable[[Ints], Matrix]


@dataclass
class Index:
    """A loaded index and its manifest entry.

    Attributes:
        rows: (n_indexed,) the row of the table of each row of the index; None where it is the same.
        tail: rows of the table that came after the index was built, and their vectors.
    """

    key: str
    entry: dict[str, Any]
    searcher: Searcher
    rows: Ints | None = None
    tail: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    tail_vectors: Matrix | None = None

    @property
    def name(self) -> str:
        """What a result says of it."""
        recall = f"recall@10 {self.entry['recall_at_10']:.3f}"
        more = f", {len(self.tail)} new rows scanned beside it" if len(self.tail) else ""
        return f"{self.key} ({recall}{more})"

    @property
    def notices(self) -> list[str]:
        """What a user should know of how it answered."""
        return self.searcher.notices

    def search(
        self, queries: Matrix, k: int, allowed: Bools | None = None, *, exactly: bool = False
    ) -> tuple[Matrix, Ints]:
        """The k nearest rows of the table: as `Searcher.search`, those that came since included.

        Raises:
            IndexFileError: what it reads turns out to be damaged.
        """
        mine = allowed if allowed is None or self.rows is None else allowed[self.rows]
        try:
            scores, at = self.searcher.search(queries, k, mine, exactly=exactly)
        except DatabaseError as error:
            raise _cannot(self.key, f"{error.what} ({error.found})") from error
        if self.rows is not None:
            at = np.where(at >= 0, self.rows[at], -1)
        if self.tail_vectors is None or not len(self.tail):
            return scores, at
        few = None if allowed is None else allowed[self.tail]
        more, there = scan.top(self.tail_vectors, queries, k, few)
        there = np.where(there >= 0, self.tail[there], -1)
        return _merged(np.hstack([scores, more]), np.hstack([at, there]), k)


def _merged(scores: Matrix, at: Ints, k: int) -> tuple[Matrix, Ints]:
    order = np.lexsort((at, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(at, order, axis=1)


def exact_recipe(storage: str) -> str:
    """The name of the recipe whose index holds the vectors in this storage."""
    return "flat16" if storage == "float16" else "flat"


# Building ----------------------------------------------------------------------------------------


def build(
    database: Database,
    source: Source,
    recipe: Recipe,
    *,
    recall: float = RECALL,
    devices: tuple[int, ...] = (),
    progress: Progress | None = None,
    mapper: Mapper | None = None,
    anew: bool = False,
) -> dict[str, Any]:
    """Build an index, or extend one that lacks nothing but rows that came since; its entry.

    One that is current and whole, and was built by the same recipe for the same recall, stays: its
    entry says that it `stays`. Stored vectors that are needed and not current are written first.

    Args:
        anew: build it whatever there is.
        mapper: who fills inverted lists with rows, as shards that are merged; this process when
            left out.

    Raises:
        IndexFileError: FAISS does not accept the recipe's factory string, or memory is too small.
    """
    tell = progress or silent
    needed = recipe if recipe.exact else load_recipe(exact_recipe(recipe.storage))
    key = index_key(source.space["name"], source.spec, recipe.name)
    asked = _asked(recipe, recall)
    there = None if anew else _current(database, source, key)
    if there is not None and (recipe.exact or there.get("asked") == asked):
        return {**there, "stays": True}
    old = None if recipe.exact or anew else _extendable(database, source, recipe)
    at = index_key(source.space["name"], source.spec, needed.name)
    entry = None if recipe.exact else _current(database, source, at)
    if entry is None:
        entry = _write_vectors(database, source, needed, tell)
    if recipe.exact:
        return entry
    need, free = recipe.index_bytes(source.n, source.dim), free_memory()
    if free is not None and need > free:
        raise IndexFileError(
            f"an index {recipe.name} of {source.n:,} rows x {source.dim} is built in memory: it "
            f"takes {need / 1e9:.1f} GB",
            found=f"{free / 1e9:.1f} GB are free",
            hint="--recipe ivf-rabitq takes "
            f"{load_recipe('ivf-rabitq').index_bytes(source.n, source.dim) / 1e9:.1f} GB",
        )
    vectors, check = _vectors(database, at)
    check(None)
    if old is not None:
        searcher, extended = _extended(source, old, vectors)
        factory = old[0]["factory"]
        tell("choosing how wide to search", source.n, source.n)
        tune(searcher, recipe, vectors, recall)
        found = measured_recall(searcher, vectors)
    else:
        extended, factory = 0, recipe.factory_for(source.n, source.dim)
        shards = None
        if mapper is not None:

            def shards(empty: bytes, spans: Sequence[Span]) -> Iterator[bytes]:
                return mapper(Shard(database, at, empty), spans)

        searcher, found = assemble(
            recipe, vectors, recall=recall, devices=devices, progress=progress, shards=shards
        )
    whole = {
        **_facts(database, source, recipe),
        "factory": factory,
        "widths": {str(depth): width for depth, width in searcher.settings.widths.items()},
        "refine": searcher.settings.refine,
        "recall_at_10": found,
        "recall_wanted": recall,
        "asked": asked,
        "extended_by": extended,
        "vectors": at,
        "vectors_sha256": entry["sha256"],
    }
    handle = searcher.handle if searcher.gpu is None else searcher.gpu
    return database.store_derived(
        "indexes", key, whole, f"{key}.faiss", lambda path: library.write(handle, path)
    )


@dataclass(frozen=True)
class Shard:
    """Fills a copy of a trained index with some rows, in another process, which reads them itself.

    Attributes:
        vectors: the key of the exact index that holds them; empty: the packed index.
    """

    database: Database
    vectors: str
    empty: bytes

    def __call__(self, span: Span) -> bytes:
        """The packed index of rows from start to stop."""
        vectors, check = _vectors(self.database, self.vectors)
        check(np.arange(*span))
        handle = library.unpack(self.empty)
        fill(handle, vectors, span, silent)
        return library.pack(handle)


def _asked(recipe: Recipe, recall: float) -> dict[str, Any]:
    """What decides how an approximate index comes out, beside the vectors."""
    return {
        "factory": recipe.factory, "storage": recipe.storage, "probes": recipe.probes,
        "breadth": recipe.breadth, "refine": recipe.refine, "recall": recall,
    }  # fmt: skip


def _facts(database: Database, source: Source, recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "factory": recipe.factory_for(source.n, source.dim),
        "table": source.spec.name,
        "space": source.space["name"],
        "space_id": source.space["space_id"],
        "vectors_version": database.vectors_version(source.spec),
        "rows": source.n,
        "dim": source.dim,
        "storage": recipe.storage,
        "device": recipe.device,
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_vectors(
    database: Database, source: Source, recipe: Recipe, tell: Progress
) -> dict[str, Any]:
    """Write the vectors of a table and their keys, some rows at a time."""
    keys = [key.encode() for key in source.keys().tolist()]
    ends = np.cumsum([0, *map(len, keys)], dtype=np.int64)
    blob = np.frombuffer(b"".join(keys), np.uint8)
    dtype = np.float16 if recipe.storage == "float16" else np.float32

    def write(path: Path) -> None:
        layout = {
            _VECTORS: (dtype, (source.n, source.dim)),
            _VECTORS + SUMS: (np.uint64, (source.n,)),
            _ENDS: (np.int64, ends.shape),
            _KEYS: (np.uint8, blob.shape),
        }
        told = {"table": source.spec.name, "space_id": source.space["space_id"]}
        with Draft(path, layout, told) as draft:
            draft.put(_ENDS, ends)
            draft.put(_KEYS, blob)
            for start in range(0, source.n, _BATCH):
                tell(f"writing vectors of {source.spec.name}", start, source.n)
                rows = np.arange(start, min(start + _BATCH, source.n))
                vectors = np.ascontiguousarray(source.vectors(rows), dtype)
                draft.put(_VECTORS, vectors, start)
                draft.put(_VECTORS + SUMS, row_sums(vectors), start)

    key = index_key(source.space["name"], source.spec, recipe.name)
    entry = _facts(database, source, recipe) | {"recall_at_10": 1.0, "recall_wanted": 1.0}
    if dtype == np.float16:
        entry["recall_at_10"] = _recall_of_halves(source)
    return database.store_derived("indexes", key, entry, f"{key}.safetensors", write)


def _recall_of_halves(source: Source, most: int = 200_000) -> float:
    """Recall at 10 of float16 vectors against float32, over at most so many of the rows."""
    step = max(1, -(-source.n // most))
    sample = np.ascontiguousarray(source.vectors(np.arange(0, source.n, step)), np.float32)
    return measured_recall(Searcher(sample.astype(np.float16)), sample)


def _extendable(database: Database, source: Source, recipe: Recipe) -> tuple[Any, Any, Ints] | None:
    """An index that lacks nothing but new rows: its entry, its handle, and where its rows are."""
    key = index_key(source.space["name"], source.spec, recipe.name)
    entry = database.manifest()["indexes"].get(key)
    if entry is None or entry["rows"] >= source.n or source.n > 2 * entry["rows"]:
        return None  # after doubling, lists and their number no longer fit
    if entry["factory"].split(",")[1:] != recipe.factory.split(",")[1:]:
        return None
    if why_stale(database, entry, database.manifest()) is not None:
        return None
    found = database.derived("indexes", key)
    if found is None:
        return None
    try:
        rows = _old_rows(database, source, entry["vectors"])
        handle = library.read(found[1], mapped=False)
    except (RuntimeError, DatabaseError, IndexFileError):
        return None
    return (entry, handle, rows) if library.is_inverted(handle) else None


def _extended(
    source: Source, old: tuple[Any, Any, Ints], vectors: library.Vectors
) -> tuple[Searcher, int]:
    _, handle, rows = old
    library.renumber(handle, rows)
    new = np.setdiff1d(np.arange(source.n), rows)
    for start in range(0, len(new), _BATCH):
        some = new[start : start + _BATCH]
        library.add_numbered(handle, np.asarray(vectors[some], np.float32), some)
    return Searcher(vectors, handle), len(new)


def _settings(entry: dict[str, Any]) -> Settings:
    widths = {int(depth): int(width) for depth, width in entry.get("widths", {}).items()}
    return Settings(widths, int(entry.get("refine", 1)))


def free_memory() -> int | None:
    """Bytes of memory that are free, None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


# Loading -----------------------------------------------------------------------------------------


def load(database: Database, key: str, source: Source, *, devices: tuple[int, ...] = ()) -> Index:
    """A saved index, after its space, table version and content have been checked.

    Of stored vectors those blocks are checked that a search reads, when it does.

    Raises:
        IndexFileError: it is missing, damaged, stale, or belongs to another space.
    """
    manifest = database.manifest()
    entry = manifest["indexes"].get(key)
    if entry is None:
        raise IndexFileError(f"there is no index {key}", hint=_BUILD)
    if reason := why_stale(database, entry, manifest):
        raise _cannot(key, reason)
    if entry["dim"] != source.dim:
        raise _cannot(key, f"it holds vectors of {entry['dim']} values, not {source.dim}")
    at = entry.get("vectors", key)
    vectors, check = _vectors(database, at)
    searcher = Searcher(vectors, None, _settings(entry), check)
    if at != key:
        found = database.derived("indexes", key)
        if found is None:
            raise _cannot(key, f"{entry['file']} is damaged: it is not what was written")
        try:
            searcher.handle = library.read(found[1])
        except RuntimeError as error:
            raise _cannot(key, f"it cannot be read ({library.reason(error)})") from error
    if devices:
        _onto_gpus(searcher, entry, devices)
    loaded = Index(key, entry, searcher)
    if entry["rows"] != source.n:
        loaded.rows = _old_rows(database, source, at)
        loaded.tail = np.setdiff1d(np.arange(source.n), loaded.rows)
        loaded.tail_vectors = source.vectors(loaded.tail)
    return loaded


def load_current(
    database: Database,
    source: Source,
    *,
    devices: tuple[int, ...] = (),
    every_recipe: bool = True,
    approximate: bool = False,
) -> Index:
    """The best usable index of a table.

    Exact ones come first up to `EXACT_UP_TO`, the faster of them before; above it, or where it is
    wanted, approximate ones do, the more accurate before. Those that miss far more than they were
    allowed to come last.

    Args:
        devices: GPUs to search on; those of recipes for GPUs alone, unless `every_recipe`.

    Raises:
        IndexFileError: there is none, or none can be used; says why.
    """
    entries = database.manifest()["indexes"]

    def standing(item: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
        key, entry = item
        size = entry["rows"] * entry["dim"] * (2 if entry.get("storage") == "float16" else 4)
        is_exact = "vectors" not in entry
        first = is_exact != (approximate or size > EXACT_UP_TO)
        # Where a scan is fast, float16 gains nothing.
        worth = size if source.n * source.dim * 4 > EXACT_UP_TO // 10 else -size
        worth = worth if is_exact else -entry["recall_at_10"]
        return too_lossy(entry) is not None, not first, worth, key

    mine = {
        key: entry for key, entry in entries.items()
        if entry["table"] == source.spec.name and entry["space"] == source.space["name"]
    }  # fmt: skip
    problem = IndexFileError(f"no index of the {source.spec.name} has been built")
    for key, _ in sorted(mine.items(), key=standing):
        try:
            gpu = every_recipe or mine[key].get("device") == "gpu"
            return load(database, key, source, devices=devices if gpu else ())
        except IndexFileError as error:
            problem = error
    raise problem


def _current(database: Database, source: Source, key: str) -> dict[str, Any] | None:
    """The entry of an exact index that holds every row as it is now, and is whole."""
    entry = database.manifest()["indexes"].get(key)
    if entry is None or why_stale(database, entry, database.manifest()) is not None:
        return None
    same = entry["vectors_version"] == database.vectors_version(source.spec)
    whole = same and database.derived("indexes", key) is not None
    return dict(entry) if whole and entry["rows"] == source.n else None


def _vectors(database: Database, key: str) -> tuple[library.Vectors, Callable[[Ints | None], None]]:
    """Stored vectors, mapped, and what checks rows of them."""
    arrays = _arrays(database, key)

    def check(rows: Ints | None) -> None:
        if rows is None:
            arrays.whole(_VECTORS)
        else:
            arrays.check_rows(_VECTORS, rows)

    return arrays.unchecked(_VECTORS), check


def _arrays(database: Database, key: str) -> Arrays:
    found = database.mapped("indexes", key)
    try:
        if found is None:
            raise _cannot(key, "its file is damaged: it is not what was written")
        return Arrays(found[1])
    except DatabaseError as error:
        raise _cannot(key, error.what) from error


def _old_rows(database: Database, source: Source, key: str) -> Ints:
    """(n_indexed,) where the rows of an exact index are in the table now.

    Raises:
        IndexFileError: one is not there any more.
    """
    arrays = _arrays(database, key)
    try:
        ends, blob = arrays.whole(_ENDS), arrays.whole(_KEYS)
    except DatabaseError as error:
        raise _cannot(key, error.what) from error
    buffers = [None, pa.py_buffer(np.ascontiguousarray(ends)), pa.py_buffer(blob)]
    held = pa.Array.from_buffers(pa.large_string(), len(ends) - 1, buffers)
    import pyarrow.compute as pc

    now = pa.array(source.keys().tolist(), pa.large_string())
    at = pc.index_in(held, value_set=now)
    if at.null_count:
        raise _cannot(key, f"{at.null_count} of its rows are not in the table any more")
    return np.asarray(at.to_numpy(), dtype=np.int64)


def stored_vectors(database: Database, source: Source, rows: Ints | None = None) -> Matrix | None:
    """The float32 vectors of a table, checked, where an exact index holds them as they are now.

    They are mapped; of `rows` it is a copy, and no others are read.
    """
    key = index_key(source.space["name"], source.spec, "flat")
    entry = database.manifest()["indexes"].get(key)
    if entry is None or why_stale(database, entry, database.manifest()) is not None:
        return None
    if entry["rows"] != source.n or entry["dim"] != source.dim:
        return None
    try:
        vectors, check = _vectors(database, key)
        check(rows)
    except (DatabaseError, IndexFileError):
        return None
    return vectors if rows is None else np.asarray(vectors[rows])


def _cannot(key: str, reason: str) -> IndexFileError:
    return IndexFileError(f"index {key} cannot be used: {reason}", hint=_BUILD)


# Devices -----------------------------------------------------------------------------------------


def _onto_gpus(searcher: Searcher, entry: dict[str, Any], devices: tuple[int, ...]) -> None:
    """Move what can be searched on GPUs there; what cannot is told, and the CPU answers."""
    try:
        if searcher.handle is None:
            if searcher.check is not None:
                searcher.check(None)
            searcher.gpu = library.flat_on_gpus(searcher.vectors, devices)
        else:
            cuvs = entry["recipe"] == "gpu-cagra"
            searcher.gpu = library.to_gpus(searcher.handle, devices, cuvs=cuvs)
    except (RuntimeError, AttributeError, TypeError) as error:
        said = library.reason(error) if isinstance(error, RuntimeError) else str(error)
        searcher.notices.append(f"{entry['recipe']} is searched on the CPU, not a GPU: {said}")


def devices(text: str) -> tuple[int, ...]:
    """The GPUs that `--device auto|cpu|gpu[:N]` stands for; none for the CPU.

    Raises:
        IndexFileError: a GPU is asked for that is not there, or the text is something else.
    """
    kind, _, number = text.partition(":")
    if kind not in ("auto", "cpu", "gpu") or (number and (kind != "gpu" or not number.isdigit())):
        raise IndexFileError(f"--device {text} is not known", hint="auto, cpu, gpu or gpu:0")
    if kind == "cpu":
        return ()
    held = library.gpus()
    if kind == "gpu" and held == 0:
        raise IndexFileError(
            "--device gpu: FAISS sees no GPU here",
            found=f"FAISS {library.version()}, {'built' if library.has_gpu() else 'not built'} "
            "for GPUs",
            hint="--device cpu; molquery doctor says which FAISS is installed, the README which "
            "to install",
        )
    if number:
        if int(number) >= held:
            raise IndexFileError(f"--device {text}: there are {held} GPUs, numbered from 0")
        return (int(number),)
    return tuple(range(held))
