"""Slide vectors of LazySlide, in the zarr store that wsidata keeps beside each slide.

`zs.tl.feature_aggregation` leaves the vector in
`tables/<model>_tiles/uns/agg_ops/agg_slide/features`, (d,) or (1, d), and beside it `encoder`: the
slide encoder, or the numpy reduction (mean, median ...) that made one vector of the tiles.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from molquery.errors import ColumnError, FileFormatError, some
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.detect import ZARR, ZARR_2
from molquery.readers.guard import reading
from molquery.readers.matrix import MAX_DIM, one_slide
from molquery.readers.pooling import N_TILES, POOLING

AGGREGATED = "uns/agg_ops/agg_slide"

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
        FileFormatError: the store is damaged, or its features were not aggregated to the slide.
        ColumnError: several models have slide vectors, and none is chosen.
    """
    import zarr

    with reading(path, "a wsidata store"):
        tables: Any = zarr.open_group(path / "tables", mode="r")
        fits = {
            model_of(name): tables[name]
            for name in sorted(tables.group_keys())
            if f"{AGGREGATED}/features" in tables[name]
        }
        found = [*fits] or [*tables.group_keys()]
    if not fits:
        raise FileFormatError(
            f"no slide vector in {path}",
            found=f"tables {some(found)}" if found else "no tables",
            hint="aggregate first: zs.tl.feature_aggregation(wsi, feature_key=MODEL); wsi.write()",
        )
    model = options.vector or options.encoder or next(iter(fits))
    if model not in fits and len(fits) == 1 and options.vector is None:
        model = found[0]  # --encoder may name the slide encoder instead of the table
    if model not in fits or (len(fits) > 1 and not (options.vector or options.encoder)):
        raise ColumnError(
            f"several models of {path} have slide vectors"
            if model in fits else f"no slide vector of {model} in {path}",
            found=some(fits), hint="choose one with --vector",
        )  # fmt: skip
    with reading(path, "a wsidata store"):
        return _slide(path, model, fits[model])


def model_of(table: str) -> str:
    """The tile encoder in the name of a table of features: `uni_tiles` holds those of uni."""
    return table.removesuffix("_tiles")


def _slide(path: Path, model: str, table: Any) -> Slides:
    features = table[f"{AGGREGATED}/features"]
    # Both are what the metadata claim; either may be false, and would be allocated.
    if math.prod(features.shape) > MAX_DIM or math.prod(features.chunks) > 64 * MAX_DIM:
        raise ValueError(f"features of shape {features.shape} in chunks of {features.chunks}")
    if len(features.shape) not in (1, 2) or (len(features.shape) == 2 and features.shape[0] != 1):
        raise ValueError(f"features of shape {features.shape} are not those of one slide")
    values = np.asarray(features[...])
    how = str(np.asarray(table[f"{AGGREGATED}/encoder"][()]).item())
    metadata: dict[str, Any] = {}
    if "X" in table and len(getattr(table["X"], "shape", ())) == 2:
        metadata[N_TILES] = int(table["X"].shape[0])
    if how in REDUCTIONS:
        return one_slide(path, values, encoder=model, metadata={**metadata, POOLING: how})
    return one_slide(path, values, encoder=how, metadata=metadata)


READER = Reader(
    "wsidata store of LazySlide (.zarr)",
    sniff,
    load,
    (
        Input(
            "LazySlide, wsidata",
            "`<slide>.zarr` with `tables/<model>_tiles/uns/agg_ops/agg_slide`",
            "stores/",
        ),
    ),
)
