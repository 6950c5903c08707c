"""Features of LazySlide, in the zarr store that wsidata keeps beside each slide.

`zs.tl.feature_aggregation` leaves the vector in
`tables/<model>_tiles/uns/agg_ops/agg_slide/features`, (d,) or (1, d), and beside it `encoder`: the
slide encoder, or the numpy reduction (mean, median ...) that made one vector of the tiles. Older
stores hold it in `varm/agg_slide`, (d, 1), where it is as long as a tile's. Where nothing was
aggregated, the tiles' features (`X` of the table) are mean-pooled.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from molquery.errors import ColumnError, FileFormatError, some
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.columns import FEWEST
from molquery.readers.detect import ZARR, ZARR_2
from molquery.readers.guard import reading
from molquery.readers.hdf5 import MOST_COMPRESSION
from molquery.readers.matrix import MAX_DIM, one_slide
from molquery.readers.pooling import N_TILES, POOLING, mean_of_array, pooled

AGGREGATED = "uns/agg_ops/agg_slide"
OLDER = "varm/agg_slide"

#: Aggregations that are reductions of numpy rather than slide encoders with a name of their own.
REDUCTIONS = {"mean", "median", "sum", "std", "var", "min", "max", "average"}


def is_store(path: Path) -> bool:
    """True for a directory that is a zarr store."""
    return path.is_dir() and any((path / mark).is_file() for mark in (ZARR, ZARR_2))


def sniff(path: Path, _: bytes) -> bool:
    """True for a zarr store with tables."""
    return is_store(path) and is_store(path / "tables")


def load(path: Path, options: Options) -> Slides:
    """The slide of a store; the file's name without `.zarr` is its id.

    Raises:
        FileFormatError: the store is damaged, or holds no features.
        ColumnError: several models have features, and none is chosen.
    """
    import zarr

    with reading(path, "a wsidata store"):
        tables: Any = zarr.open_group(path / "tables", mode="r")
        there: dict[str, Any] = {
            model_of(name): tables[name] for name in sorted(tables.group_keys())
        }
        whole = {m: t for m, t in there.items() if f"{AGGREGATED}/features" in t or OLDER in t}
        tiled = {m: t for m, t in there.items() if m not in whole and _is_features(t)}
    named = options.vector or options.encoder
    known = {**whole, **tiled}
    fits = {named: known[named]} if named in known else whole or tiled
    if not fits:
        raise FileFormatError(
            f"no features in {path}",
            found=f"tables {some(there)}" if there else "no tables",
            hint="zs.tl.feature_extraction(wsi, MODEL); wsi.write()",
        )
    # --encoder may name the slide encoder instead of the table
    if len(fits) > 1 or (options.vector and named not in fits):
        raise ColumnError(
            f"no features of {named} in {path}" if named
            else f"several models of {path} have features",
            found=some(known), hint="choose one with --vector",
        )  # fmt: skip
    model, table = next(iter(fits.items()))
    with reading(path, "a wsidata store"):
        return _slide(path, model, table) if model in whole else _pooled(path, model, table)


def model_of(table: str) -> str:
    """The tile encoder in the name of a table of features: `uni_tiles` holds those of uni."""
    return table.removesuffix("_tiles")


def _is_features(table: Any) -> bool:
    """True where X is a matrix of as many numbers a tile as a vector has."""
    if "X" not in table or not hasattr(table["X"], "shape"):  # a sparse matrix is a group
        return False
    values = table["X"]
    return len(values.shape) == 2 and values.shape[1] >= FEWEST and values.dtype.kind == "f"


def _slide(path: Path, model: str, table: Any) -> Slides:
    newer = f"{AGGREGATED}/features" in table
    features = checked(table[f"{AGGREGATED}/features" if newer else OLDER])
    shape = features.shape if newer else features.shape[::-1]
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1):
        raise ValueError(f"features of shape {features.shape} are not those of one slide")
    values = np.asarray(features[...])
    told = f"{AGGREGATED}/encoder"
    # Without a word on what made the vector, the encoder is asked for.
    how = str(np.asarray(table[told][()]).item()) if newer or told in table else None
    metadata: dict[str, Any] = {}
    if "X" in table and len(getattr(table["X"], "shape", ())) == 2:
        metadata[N_TILES] = int(table["X"].shape[0])
    if how in REDUCTIONS:
        return one_slide(path, values, encoder=model, metadata={**metadata, POOLING: how})
    return one_slide(path, values, encoder=how, metadata=metadata)


def _pooled(path: Path, model: str, table: Any) -> Slides:
    """The mean of the tiles, as of every other patch-level file."""
    mean, n = mean_of_array(checked(table["X"]), chunk=table["X"].chunks[0])
    return pooled(path, mean, n, encoder=model)


def checked(array: Any) -> Any:
    """A zarr array, once what its metadata claim is there: it would be allocated, or read as zeros.

    Raises:
        ValueError: it is not.
    """
    shape, chunks = array.shape, array.chunks
    claimed = math.prod(shape) * array.dtype.itemsize
    held = array.nbytes_stored()
    if shape[-1] > MAX_DIM or claimed > MOST_COMPRESSION * held:
        raise ValueError(f"values of shape {shape} in {held} bytes")
    if math.prod(chunks) * array.dtype.itemsize > 2 * max(claimed, 1 << 20):
        raise ValueError(f"values of shape {shape} in chunks of {chunks}")
    if array.nchunks_initialized != array.nchunks:
        raise ValueError(f"{array.nchunks_initialized} of {array.nchunks} chunks were written")
    return array


READER = Reader(
    "wsidata store of LazySlide (.zarr)",
    sniff,
    load,
    (
        Input(
            "LazySlide, wsidata",
            "`<slide>.zarr`: the slide vector of `tables/<model>_tiles`, else its tiles, pooled",
            "stores/",
        ),
    ),
)
