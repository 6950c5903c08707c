"""Patch-level features in HDF5, one file per slide: TRIDENT's and CLAM's, mean-pooled.

Both keep `features` (n, d) beside `coords`. TRIDENT names the encoder in an attribute, in the
folder `features_<encoder>`, and in a configuration beside it; CLAM names it nowhere.
"""

from __future__ import annotations

from pathlib import Path

from molquery.errors import FileFormatError
from molquery.readers import hdf5, trident
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.guard import reading
from molquery.readers.pooling import mean_of_dataset, pooled

FOLDER = "features_"
CONFIG = "_config_feats_"


def sniff(path: Path, head: bytes) -> bool:
    """True for HDF5 with a vector per patch called `features`."""
    return head.startswith(hdf5.MAGIC) and hdf5.layout(path) == hdf5.PATCH


def load(path: Path, _: Options) -> Slides:
    """The slide of a file, pooled; one without patches is reported as skipped.

    Raises:
        FileFormatError: the file is damaged, or its features and coordinates disagree.
    """
    with reading(path, "patch features"), hdf5.open_file(path) as file:
        features = hdf5.checked(path, file["features"])
        coords = getattr(file.get("coords"), "shape", None)
        n = features.shape[-2]
        if coords is not None and n not in coords[:2]:
            raise FileFormatError(
                f"{path} has another number of patches than of coordinates",
                found=f"features {features.shape}, coords {coords}",
                hint="the file may be half written: run the tool again",
            )
        encoder = hdf5.text_attribute(features, "encoder") or trident.named(path, FOLDER, CONFIG)
        if n == 1 and path.absolute().parent.name.startswith(trident.FOLDER):
            return trident.slide(path, features[()])
        mean, n = mean_of_dataset(features)
    return pooled(path, mean, n, encoder=encoder)


READER = Reader(
    "patch features of TRIDENT or CLAM (.h5)",
    sniff,
    load,
    (
        Input(
            "TRIDENT, patch level (mean-pooled)",
            "`<mag>x_<px>px_<ov>px_overlap/features_<encoder>/<slide>.h5`",
            "trident_out/20x_512px_0px_overlap/features_uni_v1",
        ),
        Input(
            "CLAM, HDF5 (mean-pooled)",
            "`h5_files/<slide>.h5`",
            "clam_out/h5_files --encoder resnet50",
        ),
    ),
)
