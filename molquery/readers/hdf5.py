"""What an HDF5 file holds, from the names and shapes of its datasets.

AnnData, slide-level and patch-level files share the extension `.h5` and the magic bytes. Reading
them is in `h5ad.py` and `trident.py`; h5py loads with the first HDF5 file that is met.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from molquery.errors import FileFormatError, printable, some

MAGIC = b"\x89HDF\r\n\x1a\n"

ANNDATA = "anndata"
SLIDE = "slide"
PATCH = "patch"
OTHER = "other"


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
    """One of `ANNDATA`, `SLIDE` (one vector), `PATCH` (a vector per patch) and `OTHER`."""
    with open_file(path) as file:
        return _layout(file)


def _layout(file: Any) -> str:
    names = set(file)
    if "obs" in names and names & {"X", "var", "obsm", "layers"}:
        return ANNDATA
    features = file.get("features", file.get("feats"))
    # A group, or a file of another tool, has no such shape.
    shape = getattr(features, "shape", None)
    if "features" in names and shape is not None and len(shape) == 1:
        return SLIDE
    return PATCH if shape is not None and len(shape) in (2, 3) else OTHER


def describe(path: Path) -> str:
    """What the file holds, in a few words, for a message.

    Raises:
        FileFormatError: it is truncated or damaged.
    """
    with open_file(path) as file:
        kind = _layout(file)
        if kind == ANNDATA:
            return "an AnnData file (.h5ad)"
        if kind == SLIDE:
            return "HDF5 with the features of one slide (TRIDENT)"
        if kind == PATCH:
            shape = file.get("features", file.get("feats")).shape
            return (
                f"HDF5 with patch-level features of shape {shape}: "
                "pool them to one vector per slide first"
            )
        return f"HDF5 with {some(file) or 'nothing in it'}"
