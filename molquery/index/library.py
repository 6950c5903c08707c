"""FAISS behind a few typed functions: the only module that imports it.

What is known of FAISS 1.15 and is not in its manual is kept here: which thresholds make it slow,
how a filter is given to each type of index, what the GPU can not do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from molquery.threads import processors
from molquery.vectors import Bools, Ints, Matrix

#: float32 or float16, (n, d), C-contiguous.
Vectors = npt.NDArray[Any]

# Above this many queries x dimensions FAISS uses BLAS; its own 128,000 makes a batch of 64 at
# d = 512 eight times slower than BLAS is.
faiss.cvar.distance_compute_blas_threshold = 2000

#: From this many queries on products go through BLAS and all processors.
MANY = 4
_BLOCK = 8192  # rows that are picked out, or made float32, at a time
_GATHERED = 1024  # float16 rows picked out at a time: what the caches of a processor hold
_FEW = 20_000  # rows to train on, up to which threads would wait more than they compute
#: The most neighbours that the classic GPU indexes can return.
GPU_MOST = 2048


def threads() -> int:
    """Processors that FAISS uses: as many as `OMP_NUM_THREADS` says, else all there are."""
    held = os.environ.get("OMP_NUM_THREADS", "")
    if held.isdigit() and int(held):
        return int(held)
    return processors()


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Keep OpenMP to the thread that asks: a second one that waits for work costs milliseconds."""
    before = faiss.omp_get_max_threads()
    if wanted:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@cache
def _pool() -> ThreadPoolExecutor:
    # OpenMP counts threads by the thread that asks: each of these works alone.
    return ThreadPoolExecutor(threads(), initializer=lambda: faiss.omp_set_num_threads(1))


def in_parts(n: int, work: Callable[[int, int], Any], *, least: int = 16_384) -> list[Any]:
    """`work(start, stop)` over parts of n rows, one a processor, side by side.

    One query against a flat index is bound by memory: FAISS's own threads make it slower, while two
    Python threads (FAISS releases the interpreter) reach the bandwidth of the machine.
    """
    parts = max(1, min(threads(), n // least))
    edges = [n * p // parts for p in range(parts + 1)]
    if parts == 1:
        with one_thread():
            return [work(0, n)]
    return list(_pool().map(work, edges[:-1], edges[1:]))


def scores(vectors: Vectors, query: Matrix) -> Matrix:
    """(n,) float32 inner products of every row with a query (d,)."""
    n, d = vectors.shape
    out = np.empty(n, np.float32)
    q = np.ascontiguousarray(query, np.float32)

    def plain(start: int, stop: int) -> None:
        rows = vectors[start:stop]
        faiss.fvec_inner_products_ny(
            faiss.swig_ptr(out[start:stop]), faiss.swig_ptr(q), faiss.swig_ptr(rows), d, len(rows)
        )

    def half(start: int, stop: int) -> None:
        _half_scores(vectors[start:stop], q, out[start:stop])

    if n:
        in_parts(n, half if vectors.dtype == np.float16 else plain)
    return out


def _half_scores(vectors: Vectors, query: Matrix, out: Matrix) -> None:
    """Inner products of float16 rows (n, d) with a query (d,), written to `out` (n,)."""
    n, d = vectors.shape
    scanner = _scanner(d, query)
    found = faiss.RangeSearchResult(1)
    partial = faiss.RangeSearchPartialResult(found)
    codes = faiss.swig_ptr(vectors.view(np.uint8))
    least = float(np.finfo(np.float32).min)
    result = partial.new_result(0)
    scanner.scan_codes_range(n, codes, None, least, result)
    partial.finalize()
    at = faiss.rev_swig_ptr(found.labels, n)
    out[at] = faiss.rev_swig_ptr(found.distances, n)


def scores_of(vectors: Vectors, query: Matrix, rows: Ints) -> Matrix:
    """(n_rows,) float32 inner products of some rows with a query (d,), never copying all."""
    out = np.empty(len(rows), np.float32)
    q = np.ascontiguousarray(query, np.float32)
    rows = np.ascontiguousarray(rows, np.int64)

    def plain(start: int, stop: int) -> None:
        faiss.fvec_inner_products_by_idx(
            faiss.swig_ptr(out[start:stop]), faiss.swig_ptr(q), faiss.swig_ptr(vectors),
            faiss.swig_ptr(rows[start:stop]), vectors.shape[1], 1, stop - start,
        )  # fmt: skip

    def half(start: int, stop: int) -> None:
        for first in range(start, stop, _GATHERED):
            some = rows[first : min(first + _GATHERED, stop)]
            _half_scores(vectors.take(some, axis=0), q, out[first : first + len(some)])

    if len(rows):
        in_parts(len(rows), half if vectors.dtype == np.float16 else plain, least=4096)
    return out


def nearest_half(vectors: Vectors, query: Matrix, k: int) -> tuple[Matrix, Ints]:
    """Of float16 rows the k nearest to a query (d,), in no order; more of them where rows tie."""
    n, d = vectors.shape
    q = np.ascontiguousarray(query, np.float32)

    def part(start: int, stop: int) -> tuple[Matrix, Ints]:
        best, at = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)
        scanner = _scanner(d, q)
        codes = faiss.swig_ptr(vectors[start:stop].view(np.uint8))
        scanner.scan_codes(stop - start, codes, None, faiss.swig_ptr(best), faiss.swig_ptr(at), k)
        return best, np.where(at >= 0, at + start, -1)

    found = in_parts(n, part)
    best, at = (np.concatenate(side) for side in zip(*found, strict=True))
    return best[at >= 0], at[at >= 0]


def _scanner(d: int, query: Matrix) -> Any:
    quantizer = faiss.ScalarQuantizer(d, faiss.ScalarQuantizer.QT_fp16)
    scanner = quantizer.select_InvertedListScanner(
        faiss.METRIC_INNER_PRODUCT,
        None,
        True,
        None,
        False,  # rows numbered from 0, without ids
    )
    scanner.quantizer = quantizer  # it points to it
    scanner.set_query(faiss.swig_ptr(query))
    scanner.set_list(0, 0.0)
    return scanner


def nearest_many(vectors: Vectors, queries: Matrix, k: int, rows: Ints | None = None) -> Ints:
    """Positions (n_queries, k) of the rows nearest to each of many queries, in no order, by BLAS.

    Each processor takes a part of the rows by itself: FAISS's own threads wait for each other at
    every block, which takes ten times as long where the machine has other work.

    Args:
        rows: the positions of those that count; every row by default.
    """
    n = len(vectors) if rows is None else len(rows)
    step = n if rows is None and vectors.dtype == np.float32 else _BLOCK

    def part(start: int, stop: int) -> tuple[Matrix, Ints]:
        found = []
        for first in range(start, stop, step):
            last = min(first + step, stop)
            some = vectors[first:last] if rows is None else vectors[rows[first:last]]
            scores, at = faiss.knn(
                queries, _floats(some), min(k, last - first), faiss.METRIC_INNER_PRODUCT
            )
            found.append((scores, at + first))
        scores, at = (np.hstack(side) for side in zip(*found, strict=True))
        return scores, at

    scores, at = (np.hstack(side) for side in zip(*in_parts(n, part), strict=True))
    if at.shape[1] > k:
        keep = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        at = np.take_along_axis(at, keep, axis=1)
    return at if rows is None else rows[at]


def _floats(vectors: Vectors) -> Matrix:
    """Rows as float32; float16 ones several times as fast as NumPy makes them so."""
    if vectors.dtype == np.float32:
        return vectors
    quantizer = faiss.ScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16)
    codes = np.ascontiguousarray(vectors).view(np.uint8)
    return np.asarray(quantizer.decode(codes))


# Approximate indexes -----------------------------------------------------------------------------


def make(factory: str, d: int) -> Any:
    """An empty index by inner product.

    Raises:
        RuntimeError: FAISS does not know the factory string.
    """
    return faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT)


def train(handle: Any, sample: Matrix) -> None:
    """Train an empty index on a sample, where its type needs it."""
    if not handle.is_trained:
        if hasattr(handle, "cp"):  # of the k-means behind inverted lists; 25 gain nothing
            handle.cp.niter = 10
        if hasattr(handle, "pq"):
            handle.pq.cp.min_points_per_centroid = 1  # recall is measured: nothing to warn of
            # Codes that can be compared by their bits take minutes, and no search here does so.
            handle.do_polysemous_training = False
        with one_thread(len(sample) <= _FEW):  # k-means of few rows is all starts and waits
            handle.train(sample)


def pack(handle: Any) -> bytes:
    """An index as bytes, for another process."""
    return bytes(faiss.serialize_index(handle))


def unpack(blob: bytes) -> Any:
    """The index of `pack`."""
    return faiss.deserialize_index(np.frombuffer(blob, np.uint8))


def merge(handle: Any, shard: Any, first: int) -> None:
    """Move the rows of a shard with the same lists into an index; they are numbered from `first`.

    FAISS moves codes from list to list and does not compute any anew.
    """
    handle.merge_from(shard, first)


def write(handle: Any, path: Path) -> None:
    """Save an index; what lies on a GPU is copied from it first.

    Raises:
        OSError: it cannot be written; a full disk, say.
    """
    try:
        faiss.write_index(from_gpus(handle), str(path))
    except RuntimeError as error:  # what the system says is in brackets at the end
        raise OSError(str(error).rpartition("(")[2].rstrip(")\n")) from error


def read(path: Path, *, mapped: bool = True) -> Any:
    """A saved index; its large arrays are mapped and not read.

    Raises:
        RuntimeError: it is not an index.
    """
    if not mapped:
        return faiss.read_index(str(path))
    flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY
    return faiss.read_index(str(path), flags)


def renumber(handle: Any, new: Ints) -> None:
    """Give the rows of an inverted-file index other numbers: row i becomes `new[i]`."""
    lists = handle.invlists
    for number in range(handle.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            ids[:] = new[ids]


def add_numbered(handle: Any, vectors: Matrix, numbers: Ints) -> None:
    """Add rows to an inverted-file index under given numbers."""
    handle.add_with_ids(np.ascontiguousarray(vectors, np.float32), numbers)


def is_inverted(handle: Any) -> bool:
    """Whether an index has inverted lists, so that rows can be renumbered and added to it."""
    return hasattr(handle, "nlist") and hasattr(handle, "invlists")


def is_graph(handle: Any) -> bool:
    """Whether an index is a graph of neighbours on the CPU."""
    return hasattr(handle, "hnsw")


def links_to(handle: Any, rows: Ints) -> list[Ints]:
    """For each of some rows the places of a graph's links that lead to it."""
    links, n = _links(handle), handle.ntotal
    wanted = np.zeros(n + 1, dtype=bool)  # -1, no link, stands for the last
    wanted[rows] = True
    step = 1 << 24
    parts = [
        first + np.flatnonzero(wanted[links[first : first + step]])
        for first in range(0, len(links), step)
    ]
    places = np.concatenate(parts)
    places = places[np.argsort(links[places], kind="stable")]
    edges = np.searchsorted(links[places], [rows, rows + 1])
    return [places[start:stop] for start, stop in edges.T]


@contextmanager
def unlinked(handle: Any, places: Ints) -> Iterator[None]:
    """Within the block the links at these places of a graph lead nowhere.

    A link to nothing would end a row's list: each leads to the row that it starts from instead,
    which has been visited when its links are read.
    """
    links = _links(handle)
    before = links[places]
    links[places] = np.searchsorted(_starts(handle), places, side="right") - 1
    try:
        yield
    finally:
        links[places] = before


def _links(handle: Any) -> npt.NDArray[np.int32]:
    neighbours = handle.hnsw.neighbors
    return np.asarray(faiss.rev_swig_ptr(neighbours.data(), neighbours.size()))


def _starts(handle: Any) -> npt.NDArray[np.uint64]:
    offsets = handle.hnsw.offsets
    return np.asarray(faiss.rev_swig_ptr(offsets.data(), offsets.size()))


def search(
    handle: Any, queries: Matrix, k: int, width: int, allowed: Bools | None = None
) -> tuple[Matrix, Ints]:
    """The k nearest by an index, (n_queries, k) each: -1 pads.

    Args:
        width: inverted lists to open, or `efSearch` of a graph; 0 for types that have neither.
        allowed: (n,) rows that may be found.
    """
    selector = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
    if not width:
        parameters = faiss.SearchParameters(sel=selector)
    elif not hasattr(handle, "nlist"):  # on a GPU inverted lists are not to be seen
        parameters = faiss.SearchParametersHNSW(efSearch=max(width, k), sel=selector)
    elif isinstance(handle, faiss.IndexIVFRaBitQ):  # takes no other, and would not filter
        parameters = faiss.IVFRaBitQSearchParameters(nprobe=min(width, handle.nlist), sel=selector)
    else:
        parameters = faiss.SearchParametersIVF(nprobe=min(width, handle.nlist), sel=selector)
    queries = np.ascontiguousarray(queries, np.float32)
    k = min(k, handle.ntotal)
    with one_thread(len(queries) < MANY):
        found = handle.search(queries, k, params=parameters)
    return found[0], found[1].astype(np.int64)


def nearest_lists(handle: Any, queries: Matrix, count: int) -> tuple[Matrix, Ints]:
    """The inverted lists nearest to each query, (n_queries, count) each."""
    with one_thread(len(queries) < MANY):
        found = handle.quantizer.search(queries, count)
    return found[0], found[1].astype(np.int64)


def lists_of(handle: Any, n: int) -> Ints:
    """(n,) the inverted list of every row."""
    out = np.zeros(n, np.int64)
    lists = handle.invlists
    for number in range(handle.nlist):
        size = lists.list_size(number)
        if size:
            out[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
    return out


def reason(error: RuntimeError) -> str:
    """What FAISS says, without the place in its source."""
    told = re.sub(r"^Error in .*? at \S+:\d+: ", "", str(error), flags=re.DOTALL)
    return told.split("Error: ")[-1].split(" at /")[0].strip()[:200]


# GPUs --------------------------------------------------------------------------------------------


def gpus() -> int:
    """The number of GPUs that FAISS can use."""
    return int(faiss.get_num_gpus())


def version() -> str:
    """The version of FAISS."""
    return str(faiss.__version__)


def has_gpu() -> bool:
    """Whether this FAISS was built for GPUs, be there one or not."""
    return hasattr(faiss, "StandardGpuResources")


def has_cuvs() -> bool:
    """Whether this FAISS has cuVS."""
    return hasattr(faiss, "GpuIndexCagra")


def flat_on_gpus(vectors: Vectors, devices: Sequence[int]) -> Any:
    """An exact index in float16 in the memory of one GPU, or cut into shards over several."""
    n, d = vectors.shape
    edges = [n * i // len(devices) for i in range(len(devices) + 1)]
    shards = []
    for device, start, stop in zip(devices, edges[:-1], edges[1:], strict=True):
        config = faiss.GpuIndexFlatConfig()
        config.device, config.useFloat16 = device, True
        shard = faiss.GpuIndexFlatIP(_resources(device), d, config)
        for first in range(start, stop, 262_144):
            part = vectors[first : min(first + 262_144, stop)]
            shard.add(np.ascontiguousarray(part, np.float32))
        shards.append(shard)
    if len(shards) == 1:
        return shards[0]
    whole = faiss.IndexShards(d, True, True)  # threaded; rows numbered through
    for shard in shards:
        whole.add_shard(shard)
    whole.molquery_shards = shards  # it points to them
    return whole


def to_gpus(handle: Any, devices: Sequence[int], *, cuvs: bool) -> Any:
    """An index moved to one GPU, or copied to several that share the queries.

    A graph becomes CAGRA, which only a FAISS with cuVS has.
    """
    if cuvs and not is_inverted(handle):
        config = faiss.GpuIndexCagraConfig()
        config.device = devices[0]
        metric = faiss.METRIC_INNER_PRODUCT
        graph = faiss.GpuIndexCagra(_resources(devices[0]), handle.d, metric, config)
        if handle.ntotal:
            graph.copyFrom(handle)
        return graph
    resources = [_resources(device) for device in devices]
    if len(devices) == 1:
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        options.use_cuvs = cuvs
        return faiss.index_cpu_to_gpu(resources[0], devices[0], handle, options)
    options = faiss.GpuMultipleClonerOptions()
    options.useFloat16 = True
    options.shard = False
    options.use_cuvs = cuvs
    return faiss.index_cpu_to_gpu_multiple_py(resources, handle, options, list(devices))


def from_gpus(handle: Any) -> Any:
    """The index on the CPU: CAGRA as HNSW, any other as itself."""
    if type(handle).__name__ == "GpuIndexCagra":
        graph = faiss.IndexHNSWCagra(handle.d, 32, faiss.METRIC_INNER_PRODUCT)
        handle.copyTo(graph)
        return graph
    if type(handle).__name__.startswith(("Gpu", "IndexReplicas", "IndexShards")):
        return faiss.index_gpu_to_cpu(handle)
    return handle


@cache
def _resources(device: int) -> Any:
    return faiss.StandardGpuResources()
