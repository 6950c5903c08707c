"""Scores over the tissue: regions with coordinates, painted on the H&E image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery.errors import FileFormatError, InputError
from molquery.figures.style import COLOURS, new_figure
from molquery.vectors import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLIP = (2.0, 98.0)  # percentiles: a few extreme spots must not flatten all others
_MARGIN = 1.0  # of the distance between spots, around the outermost ones


def tissue_map(
    image_path: Path,
    x: Float,
    y: Float,
    predicted: Float,
    measured: Float,
    *,
    title: str,
    label: str,
    um_per_pixel: float,
    pitch_um: float,
) -> Figure:
    """The H&E-predicted score over the tissue (left) beside the measured one (right).

    Both panels share one colour scale, from the 2nd to the 98th percentile of the measured scores.

    Args:
        image_path: the H&E image of the section.
        x, y: (n,) spot centres in pixels of that image.
        predicted, measured: (n,) scores in the same units; NaN leaves a spot out.
        label: what the colours mean, beside the colour bar.
        um_per_pixel: micrometres per pixel of the image, for the scale bar.
        pitch_um: micrometres between neighbouring spots.

    Raises:
        InputError: the arrays differ in length, or hold no value.
        FileFormatError: the image cannot be read.
    """
    if not len(x) == len(y) == len(predicted) == len(measured):
        raise InputError(
            "a tissue map needs one position and two scores per spot",
            found=f"{len(x)} x, {len(y)} y, {len(predicted)} predicted, {len(measured)} measured",
        )
    if not (np.isfinite(predicted).any() and np.isfinite(measured).any()):
        raise InputError("a tissue map needs scores", found="only missing values")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, high = np.percentile(measured[np.isfinite(measured)], _CLIP)
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1.0), COLOURS)
    image = _pale(image_path)
    pitch = pitch_um / um_per_pixel
    edge = (_MARGIN + 0.5) * pitch
    left, right = max(0.0, x.min() - edge), min(float(image.shape[1]), x.max() + edge)
    top, bottom = max(0.0, y.min() - edge), min(float(image.shape[0]), y.max() + edge)

    width = 12.0
    height = (width - 1.2) / 2 * (bottom - top) / (right - left) + 0.9
    figure = new_figure(width, min(max(height, 4.0), 12.0))
    panels = figure.subplots(1, 2)
    both = ((predicted, "Predicted from H&E"), (measured, "Measured RNA"))
    for axes, (values, name) in zip(panels, both, strict=True):
        axes.imshow(image, interpolation="bilinear")
        _spots(axes, x, y, values, scale, 0.8 * pitch)
        axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        axes.set_title(name, fontsize=13)
        _scale_bar(axes, 1000.0 / um_per_pixel, "1 mm")
        for spine in axes.spines.values():
            spine.set_visible(False)
    bar = figure.colorbar(scale, ax=panels, shrink=0.75, pad=0.015, extend="both")
    bar.set_label(label, fontsize=11)
    figure.suptitle(title, fontsize=14)
    return figure


def _pale(path: Path) -> Any:
    """The image as (height, width) float in [0, 1]: grey and light, so that only spots have hue."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"), dtype=np.float32) / 255
    except (OSError, UnidentifiedImageError) as error:
        raise FileFormatError(f"{path} cannot be read as an image", found=str(error)) from error
    return np.repeat((0.25 + 0.75 * grey)[:, :, None], 3, axis=2)


def _spots(axes: Any, x: Float, y: Float, values: Float, scale: Any, diameter: float) -> None:
    from matplotlib.collections import EllipseCollection

    there = np.isfinite(values)
    n = int(there.sum())
    sizes = np.full(n, diameter)
    # Sizes in data units: spots keep their place and extent in the tissue at any figure size.
    spots = EllipseCollection(
        sizes, sizes, np.zeros(n), units="xy", offsets=np.c_[x[there], y[there]],
        offset_transform=axes.transData, facecolors=scale.to_rgba(values[there]), linewidths=0,
    )  # fmt: skip
    axes.add_collection(spots)


def _scale_bar(axes: Any, length: float, text: str) -> None:
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x = left + 0.03 * (right - left)
    y = bottom + 0.04 * (top - bottom)
    axes.plot([x, x + length], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    axes.text(
        x + length / 2, y + 0.012 * (top - bottom), text, ha="center", va="bottom", fontsize=11
    )
