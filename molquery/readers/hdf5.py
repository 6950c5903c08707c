"""What an HDF5 file holds, from the names and shapes of its datasets; and safe sizes.

AnnData, slide-level and patch-level files share the extension `.h5` and the magic bytes. Reading
them is in `h5ad.py`, `trident.py`, `clam.py` and `stamp.py`; h5py loads with the first HDF5 file
that is met.

A damaged file may claim any size, and rows that were never written read as zeros: `checked` refuses
both before anything is allocated. Damage inside HDF5's own metadata is the HDF5 library's to find;
what it does then is contained in `apart.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from molquery.errors import FileFormatError, printable, some
from molquery.readers.apart import MAGIC
from molquery.readers.guard import reading
from molquery.readers.matrix import MAX_DIM

__all__ = ["MAGIC", "checked", "checked_group", "describe", "layout", "open_file", "text_attribute"]

ANNDATA = "anndata"
STAMP = "stamp"
SLIDE = "slide"
PATCH = "patch"
OTHER = "other"

#: No filter in use compresses better (deflate reaches 1,032), so a larger claim is false.
MOST_COMPRESSION = 1100

# Beside `features`, these say that its rows are slides rather than patches.
_ROW_NAMES = {"filenames", "filename", "slide_ids", "slide_id", "ids", "names", "slides"}


def open_file(path: Path) -> Any:
    """The file, open for reading.

    Raises:
        FileFormatError: it is truncated or damaged.
    """
    import h5py

    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise FileFormatError(
            f"{path} looks like HDF5 but cannot be opened",
            found=printable(str(error), 200),
            hint="the file may be truncated, or still being written: fetch or write it again",
        ) from error


def layout(path: Path) -> str:
    """One of `ANNDATA`, `STAMP`, `SLIDE` (one vector), `PATCH` (one per patch) and `OTHER`.

    Raises:
        FileFormatError: the file is truncated or damaged.
    """
    with reading(path, "HDF5"), open_file(path) as file:
        return _layout(file)


def _layout(file: Any) -> str:
    names = set(file)
    if "obs" in names and names & {"X", "var", "obsm", "layers"}:
        return ANNDATA
    if ("feats" in names) == ("features" in names):
        return OTHER
    # A group, or a file of another tool, has no such shape.
    key = "feats" if "feats" in names else "features"
    shape = getattr(file.get(key), "shape", None)
    if shape is None or names & _ROW_NAMES or len(shape) not in (1, 2, 3):
        return OTHER
    if key == "feats":
        return STAMP
    return SLIDE if len(shape) == 1 else PATCH


def checked(path: Path, dataset: Any) -> Any:
    """The dataset, once its shape is one that the file can hold, and holds.

    Raises:
        FileFormatError: it claims more than there is, or is not numbers.
    """
    shape, dtype = dataset.shape, dataset.dtype
    if dtype.kind not in "fiu":
        raise FileFormatError(f"the features of {path} are not numbers", found=str(dtype))
    if len(shape) == 3 and shape[0] != 1:
        raise _impossible(
            path, dataset, "(patches, dimensions) or (1, patches, dimensions) is read"
        )
    if shape[-1] > MAX_DIM:
        raise _impossible(path, dataset, f"vectors of up to {MAX_DIM} dimensions are read")
    _check_size(path, dataset)
    return dataset


def checked_group(path: Path, item: Any, depth: int = 8) -> Any:
    """The group or dataset, once every dataset in it has a size that the file can hold, and holds.

    Raises:
        FileFormatError: one claims more than there is, or groups lie too deep in one another.
    """
    if not hasattr(item, "keys"):
        if item.shape is not None:
            _check_size(path, item)
        return item
    if not depth:
        raise FileFormatError(f"{path} cannot be read", found=f"groups as deep as {item.name}")
    for name in item:
        checked_group(path, item[name], depth - 1)
    return item


def _check_size(path: Path, dataset: Any) -> None:
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    if claimed > MOST_COMPRESSION * path.stat().st_size:
        hint = "the file is too small for that: fetch or write it again"
        raise _impossible(path, dataset, hint)
    if claimed and not _is_written(dataset, claimed):
        hint = "parts of it were never written: run the tool again"
        raise _impossible(path, dataset, hint)


def _is_written(dataset: Any, claimed: int) -> bool:
    """False where some values would be read as the fill value, or from another file."""
    if dataset.is_virtual or dataset.external:
        return False
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size() >= claimed)
    chunks = math.prod(-(-n // size) for n, size in zip(dataset.shape, dataset.chunks, strict=True))
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    within = chunk <= max(claimed, 1 << 20) * 2
    return bool(within and dataset.id.get_num_chunks() == chunks)


def _impossible(path: Path, dataset: Any, hint: str) -> FileFormatError:
    name = printable(str(dataset.name)).removeprefix("/")
    return FileFormatError(
        f"{name} of {path} cannot be read", found=f"shape {dataset.shape}", hint=hint
    )


def text_attribute(item: Any, *names: str) -> str | None:
    """The first attribute with text in it; TRIDENT writes None as the text 'None'."""
    for name in names:
        value = item.attrs.get(name)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str) and value.strip() not in ("", "None"):
            return value.strip()
    return None


def describe(path: Path) -> str:
    """What the file holds, in a few words, for a message.

    Raises:
        FileFormatError: it is truncated or damaged.
    """
    kind = layout(path)
    if kind == ANNDATA:
        return "an AnnData file (.h5ad)"
    if kind == SLIDE:
        return "HDF5 with the features of one slide (TRIDENT)"
    if kind == STAMP:
        return "HDF5 with the features of one slide or patient (STAMP)"
    with open_file(path) as file:
        if kind == PATCH:
            return f"HDF5 with patch-level features of shape {file['features'].shape}"
        return f"HDF5 with {some(file) or 'nothing in it'}"
