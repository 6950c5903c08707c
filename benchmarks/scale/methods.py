"""Every way to search that is measured beside molquery: plain records in a list.

A method builds what it needs into a folder, once, and opens it in the process that is measured.
What it opens takes queries (n, DIM), k, a setting, and a mask of the rows that are allowed or None,
and gives positions (n, k), with -1 where there is none. Each is used as its documentation says,
with the settings that its users turn; threads are those of the library's own default unless the
name says otherwise.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.scale.archive import Archive
from benchmarks.scale.machine import processors

Setting = Mapping[str, Any]
Found = npt.NDArray[np.int64]
Search = Callable[[npt.NDArray[np.float32], int, Setting, npt.NDArray[np.bool_] | None], Found]

_ONE: tuple[Setting, ...] = ({},)
_TRAIN_PER_LIST = 64  # k-means rows per list: a quarter of FAISS's default, same recall, less time


@dataclass(frozen=True, slots=True)
class Method:
    """A way to search.

    Attributes:
        name: as printed. library: the package that must be there.
        open: the search over an archive, from the folder that `build` has filled.
        settings: what is turned to trade recall for time; one measurement each.
        slow: its build takes minutes at a million rows, so it is left out there unless asked for.
        folder: methods that share it share what one of them has built.
    """

    name: str
    library: str
    open: Callable[[Archive, Path], Search]
    build: Callable[[Archive, Path], None] | None = None
    settings: tuple[Setting, ...] = _ONE
    exact: bool = False
    slow: bool = False
    folder: str = ""
    filters: bool = True
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def installed(self) -> bool:
        """Whether its library is there."""
        return importlib.util.find_spec(self.library) is not None


# numpy and torch: scores of every row, then a partial sort.


def _numpy_open(archive: Archive, folder: Path) -> Search:
    vectors = archive.matrix()

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        return np.stack([_top(vectors @ q, k, allowed) for q in queries])

    return search


def _top(scores: npt.NDArray[Any], k: int, allowed: npt.NDArray[np.bool_] | None) -> Found:
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    top = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
    order = top[np.argsort(-scores[top], kind="stable")]
    return order if allowed is None else np.where(scores[order] == -np.inf, -1, order)


def _numpy_subset_open(archive: Archive, folder: Path) -> Search:
    vectors = archive.matrix()

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        rows = np.flatnonzero(allowed)
        chosen = vectors[rows]
        out = np.full((len(queries), k), -1)
        for i, q in enumerate(queries):
            top = _top(chosen @ q, min(k, len(rows)), None)
            out[i, : len(top)] = rows[top]
        return out

    return search


def _torch_open(dtype: str) -> Callable[[Archive, Path], Search]:
    def open_(archive: Archive, folder: Path) -> Search:
        import torch

        vectors = torch.from_numpy(archive.matrix()).to(getattr(torch, dtype))

        def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
            out = []
            for q in queries:
                scores = vectors @ torch.from_numpy(q).to(vectors.dtype)
                if allowed is not None:
                    scores = scores.masked_fill(~torch.from_numpy(allowed), -torch.inf)
                if k >= len(scores):
                    out.append(torch.sort(scores, descending=True, stable=True).indices.numpy())
                else:
                    out.append(torch.topk(scores, k).indices.numpy())
            return np.stack(out)

        return search

    return open_


# FAISS.


def _faiss_build(
    factory: str, prepare: Callable[[Any], None] | None = None
) -> Callable[[Archive, Path], None]:
    def build(archive: Archive, folder: Path) -> None:
        import faiss

        rows = archive.rows
        text = factory.format(nlist=lists(rows))
        handle = faiss.index_factory(archive.vectors.shape[1], text, faiss.METRIC_INNER_PRODUCT)
        if prepare:
            prepare(handle)
        if not handle.is_trained:
            handle.train(archive.matrix())
        handle.add(archive.matrix())
        faiss.write_index(handle, str(folder / "index.faiss"))

    return build


def lists(rows: int) -> int:
    """Inverted lists for an archive: 4096 at a million rows, 1024 at 100,000."""
    return max(1, min(2 ** round(np.log2(4 * np.sqrt(rows))), rows // 39))


def _few_rows_per_list(handle: Any) -> None:
    import faiss

    faiss.extract_index_ivf(handle).cp.max_points_per_centroid = _TRAIN_PER_LIST


def faiss_search(handle: Any) -> Search:
    """The search of a FAISS index, with a bitmap for a filter."""

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        parameters = _parameters(handle, setting, _bitmap(allowed))
        return handle.search(queries, min(k, handle.ntotal), params=parameters)[1]

    return search


def _faiss_open(threads: int | None = None) -> Callable[[Archive, Path], Search]:
    def open_(archive: Archive, folder: Path) -> Search:
        import faiss

        handle = faiss.read_index(str(folder / "index.faiss"))
        if threads:
            faiss.omp_set_num_threads(threads)
        return faiss_search(handle)

    return open_


def _faiss_refined_open(archive: Archive, folder: Path) -> Search:
    """Refined with the float32 vectors themselves, in memory."""
    import faiss

    handle = faiss.read_index(str(folder / "index.faiss"))
    faiss.omp_set_num_threads(1)
    vectors = archive.matrix()
    refined = faiss.IndexRefineFlat(handle, faiss.swig_ptr(vectors))
    return faiss_search(refined)


def _faiss_flat(
    factory: str, threads: int | None = None, blas: bool = False
) -> Callable[[Archive, Path], Search]:
    """Nothing is trained, so the index is made in memory, a block at a time."""

    def open_(archive: Archive, folder: Path) -> Search:
        import faiss

        vectors = archive.vectors
        handle = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        for start in range(0, archive.rows, 50_000):
            block = np.array(vectors[start : start + 50_000])
            handle.train(block)
            handle.add(block)
        if threads:
            faiss.omp_set_num_threads(threads)
        if blas:  # the default of 1.15 keeps a batch of 64 off BLAS
            faiss.cvar.distance_compute_blas_threshold = 2000
        return faiss_search(handle)

    return open_


def _faiss_array_open(archive: Archive, folder: Path) -> Search:
    import faiss

    handle = faiss.IndexFlatIP(archive.vectors.shape[1])
    handle.add(archive.matrix())

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        selector = faiss.IDSelectorArray(np.flatnonzero(allowed))
        return handle.search(queries, k, params=faiss.SearchParameters(sel=selector))[1]

    return search


def _bitmap(allowed: npt.NDArray[np.bool_] | None) -> Any:
    import faiss

    if allowed is None:
        return None
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _parameters(handle: Any, setting: Setting, selector: Any) -> Any:
    """Search parameters of an index and of what it wraps."""
    import faiss

    name = type(faiss.downcast_index(handle)).__name__
    if name.startswith("IndexRefine"):
        base = _parameters(handle.base_index, setting, selector)
        return faiss.IndexRefineSearchParameters(
            k_factor=setting.get("k_factor", 10), base_index_params=base
        )
    if name == "IndexIVFRaBitQ":
        return faiss.IVFRaBitQSearchParameters(nprobe=setting["nprobe"], sel=selector)
    if name.startswith("IndexIVF"):
        kind = faiss.IVFPQSearchParameters if "PQ" in name else faiss.SearchParametersIVF
        return kind(nprobe=setting["nprobe"], sel=selector)
    if name.startswith("IndexHNSW"):
        return faiss.SearchParametersHNSW(efSearch=setting["ef"], sel=selector)
    return faiss.SearchParameters(sel=selector) if selector is not None else None


# LanceDB, with its own indexes.

_LANCE_COLUMNS = ("uniform", "cohort")


def write_lance(archive: Archive, path: Path) -> None:
    """The archive as a Lance table: id (the position), vector, uniform, cohort."""
    import lancedb
    import pyarrow as pa

    dim = archive.vectors.shape[1]
    kinds = [pa.int64(), pa.list_(pa.float32(), dim), pa.float32(), pa.int16()]
    schema = pa.schema(list(zip(("id", "vector", *_LANCE_COLUMNS), kinds, strict=True)))
    extra = [archive.uniform, archive.cohorts]

    def batches():  # type: ignore[no-untyped-def]
        for start in range(0, archive.rows, 20_000):
            span = slice(start, min(start + 20_000, archive.rows))
            block = pa.array(np.asarray(archive.vectors[span]).reshape(-1))
            columns = [
                pa.array(np.arange(span.start, span.stop)),
                pa.FixedSizeListArray.from_arrays(block, dim),
                *(pa.array(values[span]) for values in extra),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    source = pa.RecordBatchReader.from_batches(schema, batches())
    lancedb.connect(path).create_table("rows", source, mode="overwrite")


def _lance_build(kind: str) -> Callable[[Archive, Path], None]:
    def build(archive: Archive, folder: Path) -> None:
        import lancedb
        from lancedb.index import IvfPq, IvfRq

        write_lance(archive, folder)
        partitions = lists(archive.rows) // 4  # near sqrt(rows), LanceDB's own default
        config = {"IvfPq": IvfPq, "IvfRq": IvfRq}[kind]
        table = lancedb.connect(folder).open_table("rows")
        table.create_index("vector", config=config(distance_type="dot", num_partitions=partitions))

    return build


def _lance_open(archive: Archive, folder: Path) -> Search:
    import lancedb

    table = lancedb.connect(folder).open_table("rows")

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        out = np.full((len(queries), k), -1)
        for i, q in enumerate(queries):
            ask = table.search(q).distance_type("dot").limit(k).select(["id", "_distance"])
            if "nprobes" in setting:
                ask = ask.nprobes(setting["nprobes"]).refine_factor(setting["refine"])
            else:
                ask = ask.bypass_vector_index()
            if "where" in setting:
                ask = ask.where(setting["where"], prefilter=True)
            ids = ask.to_arrow()["id"].to_numpy()
            out[i, : len(ids)] = ids
        return out

    return search


# hnswlib and usearch.


def _hnswlib_build(archive: Archive, folder: Path) -> None:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=archive.vectors.shape[1])
    index.init_index(max_elements=archive.rows, M=16, ef_construction=200)
    index.add_items(archive.matrix(), np.arange(archive.rows), num_threads=processors())
    index.save_index(str(folder / "index.hnsw"))


def _hnswlib_open(archive: Archive, folder: Path) -> Search:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=archive.vectors.shape[1])
    index.load_index(str(folder / "index.hnsw"))

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        index.set_ef(max(setting["ef"], k))
        return index.knn_query(queries, k=k)[0].astype(np.int64)

    return search


def _usearch_build(archive: Archive, folder: Path) -> None:
    from usearch.index import Index

    index = Index(ndim=archive.vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(archive.rows), archive.matrix(), threads=processors())
    index.save(str(folder / "index.usearch"))


def _usearch_open(archive: Archive, folder: Path) -> Search:
    from usearch.index import Index

    index = Index.restore(str(folder / "index.usearch"), view=False)

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        index.expansion_search = max(setting["ef"], k)
        found = index.search(queries, k)
        return np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)

    return search


# A pool of threads over shards: the fastest that plain FAISS can be made to scan.


def _faiss_shards_open(kind: str) -> Callable[[Archive, Path], Search]:
    def open_(archive: Archive, folder: Path) -> Search:
        import faiss

        starts = np.linspace(0, archive.rows, processors() + 1).astype(int)
        shards = []
        for start, stop in pairwise(starts):
            shard = faiss.index_factory(archive.vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
            part = np.array(archive.vectors[start:stop])
            shard.train(part)
            shard.add(part)
            shards.append((int(start), shard))
        pool = ThreadPoolExecutor(len(shards), initializer=faiss.omp_set_num_threads, initargs=(1,))

        def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
            def one(shard):  # type: ignore[no-untyped-def]
                start, handle = shard
                scores, at = handle.search(queries, k)
                return scores, at + start

            scores, at = (np.hstack(side) for side in zip(*pool.map(one, shards), strict=True))
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(at, order, axis=1)

        return search

    return open_


_NPROBE = tuple({"nprobe": n} for n in (16, 32, 64, 128))
_REFINED = tuple({"nprobe": n, "k_factor": 10} for n in (16, 32, 64, 128))
_EF = tuple({"ef": n} for n in (64, 128, 256, 512))
_LANCE = tuple({"nprobes": n, "refine": 10} for n in (16, 32, 64))

FLAT, APPROXIMATE, FILTER, BATCH, RANKING = "flat", "approximate", "filter", "batch", "ranking"


def _tags(*names: str) -> frozenset[str]:
    return frozenset(names)


METHODS: tuple[Method, ...] = (
    Method("numpy float32", "numpy", _numpy_open, exact=True, tags=_tags(FLAT, RANKING, FILTER)),
    Method("numpy subset", "numpy", _numpy_subset_open, exact=True, tags=_tags(FILTER)),
    Method(
        "torch float32", "torch", _torch_open("float32"), exact=True, tags=_tags(FLAT, RANKING)
    ),
    Method(
        "torch float16", "torch", _torch_open("float16"), exact=True, tags=_tags(FLAT, RANKING)
    ),
    Method(
        "FAISS Flat", "faiss", _faiss_flat("Flat"), exact=True, tags=_tags(FLAT, BATCH, RANKING)
    ),
    Method(
        "FAISS Flat, 1 thread", "faiss", _faiss_flat("Flat", 1), exact=True,
        tags=_tags(FLAT, FILTER),
    ),
    Method(
        "FAISS Flat, BLAS", "faiss", _faiss_flat("Flat", blas=True), exact=True, tags=_tags(BATCH)
    ),
    Method("FAISS Flat, id array", "faiss", _faiss_array_open, exact=True, tags=_tags(FILTER)),
    Method(
        "FAISS SQfp16, 1 thread", "faiss", _faiss_flat("SQfp16", 1), exact=True, tags=_tags(FLAT)
    ),
    Method(
        "FAISS Flat, shards", "faiss", _faiss_shards_open("Flat"), exact=True, tags=_tags(FLAT)
    ),
    Method(
        "FAISS SQfp16, shards", "faiss", _faiss_shards_open("SQfp16"), exact=True, tags=_tags(FLAT)
    ),
    Method(
        "LanceDB, no index", "lancedb", _lance_open, _lance_build("IvfPq"), exact=True,
        folder="lance-pq", tags=_tags(FLAT),
    ),
    Method(
        "FAISS IVF-Flat", "faiss", _faiss_open(1),
        _faiss_build("IVF{nlist},Flat", _few_rows_per_list),
        settings=_NPROBE, tags=_tags(APPROXIMATE, FILTER),
    ),
    Method(
        "FAISS IVF-RaBitQ, refined", "faiss", _faiss_refined_open,
        _faiss_build("IVF{nlist},RaBitQ", _few_rows_per_list),
        settings=_REFINED, tags=_tags(APPROXIMATE),
    ),
    Method(
        "FAISS HNSW32", "faiss", _faiss_open(1), _faiss_build("HNSW32"), settings=_EF, slow=True,
        tags=_tags(APPROXIMATE, FILTER),
    ),
    Method(
        "LanceDB IVF_PQ", "lancedb", _lance_open, _lance_build("IvfPq"), settings=_LANCE,
        folder="lance-pq", tags=_tags(APPROXIMATE),
    ),
    Method(
        "LanceDB IVF_RQ", "lancedb", _lance_open, _lance_build("IvfRq"), settings=_LANCE,
        tags=_tags(APPROXIMATE, FILTER),
    ),
    Method(
        "hnswlib M16", "hnswlib", _hnswlib_open, _hnswlib_build, settings=_EF, slow=True,
        tags=_tags(APPROXIMATE),
    ),
    Method(
        "usearch float16", "usearch", _usearch_open, _usearch_build, settings=_EF, slow=True,
        tags=_tags(APPROXIMATE),
    ),
)  # fmt: skip
