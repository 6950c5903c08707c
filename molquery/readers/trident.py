"""TRIDENT slide-level features: one HDF5 file per slide, `slide_features_<encoder>/<slide>.h5`.

The file has no encoder attribute: the name is in the folder, or in the configuration that TRIDENT
writes beside the folder. Patch-level files are recognised, and refused, in `hdf5.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from molquery.errors import FileFormatError
from molquery.readers import hdf5
from molquery.readers.base import Options, Reader, Slides
from molquery.readers.detect import reading

FOLDER = "slide_features_"
CONFIG = "_config_slide_features_"

EMPTY = "empty slide (no features)"


def sniff(path: Path, head: bytes) -> bool:
    """True for HDF5 with one vector called `features`."""
    return head.startswith(hdf5.MAGIC) and hdf5.layout(path) == hdf5.SLIDE


def load(path: Path, _: Options) -> Slides:
    """The slide of a file; an empty slide is reported as skipped.

    Raises:
        FileFormatError: the file is damaged, or its features are not numbers.
    """
    with reading(path, "TRIDENT slide features"), hdf5.open_file(path) as file:
        features = file["features"][()]
    if features.dtype.kind not in "fiu":
        raise FileFormatError(f"the features of {path} are not numbers", found=str(features.dtype))
    ids: tuple[str, ...] = (path.stem,)
    skipped = {}
    vectors = features.astype(np.float32)[np.newaxis]
    if features.size == 0:
        skipped[EMPTY] = ids
        ids, vectors = (), np.empty((0, 0), dtype=np.float32)
    metadata = pa.table({"id": pa.array(ids, pa.string())}).select([])
    return Slides(ids, vectors, encoder_of(path), metadata, skipped, str(path))


def encoder_of(path: Path) -> str | None:
    """The encoder that the folder's name tells, else the one configuration file near it."""
    folder = path.absolute().parent
    if folder.name.startswith(FOLDER):
        return folder.name.removeprefix(FOLDER) or None
    for place in (folder, folder.parent):
        names = {
            config.stem.removeprefix(CONFIG)
            for config in place.glob(f"{CONFIG}*.json")
            if config.stem != CONFIG
        }
        if names:
            return names.pop() if len(names) == 1 else None
    return None


READER = Reader("TRIDENT slide features (.h5)", sniff, load)
