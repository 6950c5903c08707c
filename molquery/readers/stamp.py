"""STAMP features: `feats` in HDF5, for the tiles of a slide, for a slide, or for a patient.

The attribute `feat_type` says which; files written before it existed hold tiles when `feats` is a
matrix. Tiles are mean-pooled. `extractor` names the encoder of tiles, `encoder` that of slides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from molquery.errors import FileFormatError
from molquery.readers import hdf5
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.guard import reading
from molquery.readers.matrix import one_slide
from molquery.readers.pooling import mean_of_dataset, pooled

TILE, SLIDE, PATIENT = "tile", "slide", "patient"


def sniff(path: Path, head: bytes) -> bool:
    """True for HDF5 with an array called `feats`."""
    return head.startswith(hdf5.MAGIC) and hdf5.layout(path) == hdf5.STAMP


def load(path: Path, _: Options) -> Slides:
    """The slide or patient of a file; one without features is reported as skipped.

    Raises:
        FileFormatError: the file is damaged, or says to be of another kind than its shape is.
    """
    with reading(path, "STAMP features"), hdf5.open_file(path) as file:
        feats = hdf5.checked(path, file["feats"])
        kind = _kind(path, file, feats.shape)
        if kind == TILE:
            mean, n = mean_of_dataset(feats)
            return pooled(path, mean, n, encoder=hdf5.text_attribute(file, "extractor", "encoder"))
        encoder = hdf5.text_attribute(file, "encoder", "extractor")
        metadata = {"patient_id": path.stem} if kind == PATIENT else None
        return one_slide(path, feats[()], encoder=encoder, metadata=metadata)


def _kind(path: Path, file: Any, shape: tuple[int, ...]) -> str:
    one = len(shape) == 1 or shape[0] == 1
    # Without feat_type, an encoder (of slides) beside one vector tells a slide from a single tile.
    guess = SLIDE if one and (len(shape) == 1 or "encoder" in file.attrs) else TILE
    kind = hdf5.text_attribute(file, "feat_type") or guess
    if shape == (0,) and kind in (TILE, SLIDE, PATIENT):
        return SLIDE
    matrix = len(shape) == 2
    right = matrix if kind == TILE else kind in (SLIDE, PATIENT) and one and len(shape) <= 2
    if not right:
        raise FileFormatError(
            f"{path} says to hold features of a {kind}, and does not",
            found=f"feat_type {kind!r}, feats of shape {shape}",
            hint="feat_type is tile with (n, d), or slide or patient with (d,) or (1, d)",
        )
    return kind


READER = Reader(
    "STAMP features (.h5)",
    sniff,
    load,
    (
        Input("STAMP, tile level (mean-pooled)", "`<extractor>/<slide>.h5` with `feats` (n, d)",
              "stamp_out/uni2-features"),
        Input("STAMP, slide level", "`<slide>.h5` with `feats` (d,), `feat_type` slide",
              "stamp_out/titan-slide"),
        Input("STAMP, patient level", "`<patient>.h5`, `feat_type` patient: the id is the patient",
              "stamp_out/titan-patient"),
    ),
)  # fmt: skip
