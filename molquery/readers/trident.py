"""TRIDENT slide-level features: one HDF5 file per slide, `slide_features_<encoder>/<slide>.h5`.

The file has no encoder attribute: the name is in the folder, or in the configuration that TRIDENT
writes beside the folder. Patch-level files are read in `patches.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from molquery.readers import hdf5
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.guard import reading
from molquery.readers.matrix import one_slide

FOLDER = "slide_features_"
CONFIG = "_config_slide_features_"


def sniff(path: Path, head: bytes) -> bool:
    """True for HDF5 with one vector called `features`."""
    return head.startswith(hdf5.MAGIC) and hdf5.layout(path) == hdf5.SLIDE


def load(path: Path, _: Options) -> Slides:
    """The slide of a file; an empty slide is reported as skipped.

    Raises:
        FileFormatError: the file is damaged, or its features are not numbers.
    """
    with reading(path, "TRIDENT slide features"), hdf5.open_file(path) as file:
        return slide(path, hdf5.checked(path, file["features"])[()])


def slide(path: Path, features: Any) -> Slides:
    """The slide whose vector is `features`, with the encoder that its folder tells."""
    return one_slide(path, features, encoder=named(path, FOLDER, CONFIG))


def named(path: Path, folder_prefix: str, config_prefix: str) -> str | None:
    """The encoder that the folder's name tells, else the one configuration file near it."""
    folder = path.absolute().parent
    if folder.name.startswith(folder_prefix):
        return folder.name.removeprefix(folder_prefix) or None
    for place in (folder, folder.parent):
        names = {
            config.stem.removeprefix(config_prefix)
            for config in place.glob(f"{config_prefix}*.json")
            if config.stem != config_prefix
        }
        if names:
            return names.pop() if len(names) == 1 else None
    return None


READER = Reader(
    "TRIDENT slide features (.h5)",
    sniff,
    load,
    (
        Input(
            "TRIDENT, slide level",
            "`<mag>x_<px>px_<ov>px_overlap/slide_features_<encoder>/<slide>.h5`",
            "trident_out",
        ),
    ),
)
