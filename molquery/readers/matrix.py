"""Slides from a matrix and a list of ids, however the file keeps the two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.errors import ColumnError, FileFormatError, MismatchError
from molquery.readers.base import Slides
from molquery.vectors import Matrix

EMPTY = "empty slide (no features)"

#: No encoder in use comes near; a longer vector is a damaged file.
MAX_DIM = 1 << 20

#: File name endings that are not part of a slide's id, where a list of file names gives the ids.
ENDINGS = (".h5", ".pt", ".npy", ".svs", ".ndpi", ".tif", ".tiff", ".mrxs", ".scn", ".czi", ".bif")


NO_VECTORS: Matrix = np.empty((0, 0), dtype=np.float32)


def slides_from_matrix(
    path: Path, ids: Sequence[Any], values: Any, *, encoder: str | None
) -> Slides:
    """The slides whose ids are given for the rows of `values` (n, d).

    Raises:
        FileFormatError: the values are not numbers, or not a matrix.
        MismatchError: there are more or fewer ids than vectors.
        ColumnError: an id is empty.
    """
    vectors = as_vectors(path, values)
    if vectors.ndim != 2:
        raise FileFormatError(
            f"the vectors of {path} do not form a matrix of slides",
            found=f"shape {vectors.shape}", hint="(slides, dimensions) is read",
        )  # fmt: skip
    names = tuple(slide_name(value) for value in ids)
    if len(names) != len(vectors):
        raise MismatchError(
            f"{path} has another number of ids than of vectors",
            found=f"{len(names)} ids, {len(vectors)} vectors",
        )
    if "" in names:
        raise ColumnError(f"id number {names.index('') + 1} for {path} is empty")
    return Slides(names, vectors, encoder, no_metadata(len(names)), {}, str(path))


def one_slide(
    path: Path, vector: Any, *, encoder: str | None, metadata: dict[str, Any] | None = None
) -> Slides:
    """The one slide of a file, named by the file; an empty vector gives a skipped slide."""
    slide_id = path.stem.strip()
    if vector is None or vector.size == 0:
        return Slides((), NO_VECTORS, encoder, no_metadata(0), {EMPTY: (slide_id,)}, str(path))
    values = as_vectors(path, vector).reshape(1, -1)
    told = (
        pa.table({name: [value] for name, value in metadata.items()})
        if metadata
        else no_metadata(1)
    )
    return Slides((slide_id,), values, encoder, told, {}, str(path))


def as_vectors(path: Path, values: Any) -> Matrix:
    """Numbers of any width as float32, C-contiguous.

    Raises:
        FileFormatError: they are not real numbers.
    """
    if values.dtype.kind not in "fiu":
        raise FileFormatError(f"the features of {path} are not numbers", found=str(values.dtype))
    return np.ascontiguousarray(values, dtype=np.float32)


def slide_name(value: Any) -> str:
    """An id from a list: text, stripped, without its folder and without a slide's file ending."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    name = str(value).strip().replace("\\", "/").rpartition("/")[2]
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def no_metadata(n: int) -> pa.Table:
    """A table of n rows and no columns."""
    return pa.table({"id": pa.nulls(n)}).select([])
