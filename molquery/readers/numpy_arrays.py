"""`.npy` with its ids in a file beside it, or one `.npy` a slide; and `.npz` with both inside.

The ids of `slides.npy` are in `slides.txt`, `.csv`, `.tsv` or `.json`, or in `slides_ids.*`, or in
`ids.*` or `slide_ids.*` of the same folder; their order is that of the rows.
"""

from __future__ import annotations

import csv
import json
import math
import mmap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from molquery.errors import ColumnError, FileFormatError, some
from molquery.readers import columns
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.guard import reading
from molquery.readers.hdf5 import MOST_COMPRESSION
from molquery.readers.matrix import one_slide, slides_from_matrix
from molquery.readers.pickled import IDS, VECTORS

NPY = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
LISTS = (".txt", ".csv", ".tsv", ".json")

_ID_KEYS = (*IDS, "names", "slides", "index")
_VECTOR_KEYS = (*VECTORS, "X", "x", "arr_0")


def sniff_npy(_: Path, head: bytes) -> bool:
    """True for the first bytes of a `.npy` file."""
    return head.startswith(NPY)


def sniff_npz(_: Path, head: bytes) -> bool:
    """True for a zip archive whose first member is a `.npy` file."""
    if not head.startswith(ZIP):
        return False
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return name.endswith(b".npy")


def load_npy(path: Path, options: Options) -> Slides:
    """The slides of a matrix and its list of ids; without a list, the one slide of a vector.

    Raises:
        FileFormatError: the file is damaged, or a matrix has no list of ids beside it.
        MismatchError: there are more or fewer ids than rows.
    """
    with (
        reading(path, "a NumPy array"),
        path.open("rb") as file,
        # A memory map gives no more than there is, however long the header says that it is.
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        values = _array(content, path.stat().st_size)  # type: ignore[arg-type]
    beside = id_list(path)
    if beside is not None and values.ndim == 2:
        ids = read_ids(beside, len(values), options)
        return slides_from_matrix(path, ids, values, encoder=None)
    if values.ndim == 1 or values.shape[:-1] == (1,):
        return one_slide(path, values.reshape(-1), encoder=None)
    raise FileFormatError(
        f"{path} has no list of slide ids beside it",
        found=f"an array of shape {values.shape}",
        hint=f"write one id a line, in the order of the rows, to {path.with_suffix('.txt').name}",
    )


def load_npz(path: Path, options: Options) -> Slides:
    """The slides of an archive with an array of ids and one of vectors.

    Raises:
        FileFormatError: the archive is damaged.
        ColumnError: no array, or several, could be the ids or the vectors.
    """
    size = path.stat().st_size
    with reading(path, "a NumPy archive (.npz)"), zipfile.ZipFile(path) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        ids_at = _pick(path, names, options.id, _ID_KEYS, "--id")
        vectors_at = _pick(path, names, options.vector, _VECTOR_KEYS, "--vector")
        arrays = []
        for name in (ids_at, vectors_at):
            with archive.open(f"{name}.npy") as stream:
                arrays.append(_array(stream, size * MOST_COMPRESSION))
        encoder = None
        if "encoder" in names:
            with archive.open("encoder.npy") as stream:
                encoder = str(_array(stream, size * MOST_COMPRESSION).reshape(-1)[0])
    return slides_from_matrix(path, arrays[0].reshape(-1).tolist(), arrays[1], encoder=encoder)


def _pick(
    path: Path, names: list[str], wanted: str | None, known: tuple[str, ...], option: str
) -> str:
    if wanted is not None and wanted in names:
        return wanted
    found = next((name for name in known if name in names), None) if wanted is None else None
    if found is None:
        raise ColumnError(
            f"no array of {path} is called "
            + (repr(wanted) if wanted is not None else " or ".join(known)),
            found=some(names, 12) or "no arrays",
            hint=f"name it with {option}",
        )
    return found


def _array(stream: IO[bytes], most: int) -> Any:
    """The array, once its header claims no more than `most` bytes. Objects are refused."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
        np.lib.format.read_array_header_2_0
    )  # fmt: skip
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which could run code: save text or numbers")
    n = math.prod(shape)
    if min(shape, default=0) < 0 or n * dtype.itemsize > most:
        raise ValueError(f"an array of shape {shape}, more than the file can hold")
    content = stream.read(n * dtype.itemsize)
    return np.frombuffer(content, dtype, count=n).reshape(shape, order="F" if fortran else "C")


def id_list(path: Path) -> Path | None:
    """The file beside `path` that lists the ids of its rows."""
    return next((file for file in _candidates(path) if file.is_file()), None)


def _candidates(path: Path) -> Iterator[Path]:
    for stem in (path.stem, f"{path.stem}_ids", f"{path.stem}.ids", "slide_ids", "ids"):
        for ending in LISTS:
            yield path.with_name(stem + ending)


def read_ids(path: Path, n: int, options: Options) -> list[Any]:
    """The ids of a list: one a line, a column of a table with or without a header, or JSON."""
    with reading(path, "a list of ids"):
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            return _from_json(json.loads(text))
        if path.suffix == ".txt":
            return [line for line in text.splitlines() if line.strip()]
        rows = list(csv.reader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ","))
        rows = [row for row in rows if row]
        return _from_rows(rows, n, options.id)


def _from_json(found: Any) -> list[Any]:
    if isinstance(found, dict):
        found = next(found[key] for key in _ID_KEYS if key in found)
    if not isinstance(found, list) or any(isinstance(i, dict | list) for i in found):
        raise ValueError("not a list of ids")
    return found


def _from_rows(rows: list[list[str]], n: int, wanted: str | None) -> list[Any]:
    """The column called `wanted`, else of a usual name, else the first; a header is told by n."""
    header = [columns.normal(name) for name in rows[0]] if rows else []
    at = columns.first_of(header, (columns.normal(wanted),) if wanted else columns.SLIDE_IDS)
    if at is None and wanted is not None:
        raise ValueError(f"no column called {wanted!r}, but {some(rows[0] if rows else [])}")
    if at is not None or len(rows) == n + 1:
        rows = rows[1:]
    return [row[at or 0] for row in rows]


NPY_READER = Reader(
    "NumPy array with a list of ids (.npy)",
    sniff_npy,
    load_npy,
    (
        Input("NumPy, with ids beside it", "`slides.npy` (n, d) and `slides.txt`, one id a line",
              "slides.npy --encoder titan"),
        Input("NumPy, one file a slide", "`<slide>.npy` of shape (d,)",
              "vectors/ --encoder titan"),
    ),
)  # fmt: skip
NPZ_READER = Reader(
    "NumPy archive of ids and vectors (.npz)",
    sniff_npz,
    load_npz,
    (Input("NumPy archive", "`slides.npz` with arrays `ids` and `vectors`",
           "slides.npz --encoder titan"),),
)  # fmt: skip
