"""Scores over the tissue: regions with coordinates, painted on the H&E image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery.errors import InputError
from molquery.figures.style import COLOURS, DENSE, SMALL, TEXT, label, new_figure, same_length
from molquery.figures.style import title as write_title
from molquery.images import grey
from molquery.vectors import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLIP = (2.0, 98.0)  # percentiles: a few extreme regions must not flatten all others
_MARGIN = 1.0  # of the distance between regions, around the outermost ones
_BAR_SHARE = 0.25  # of the panel's width that the scale bar takes at most


def tissue_map(
    image_path: Path,
    x: Float,
    y: Float,
    predicted: Float,
    measured: Float | None = None,
    *,
    title: str,
    unit: str = "score",
    um_per_pixel: float | None = None,
) -> Figure:
    """The H&E-predicted score over the tissue, beside the measured one where there is one.

    Both panels share one colour scale, from the 2nd to the 98th percentile of the measured scores
    (of the predicted ones where none are measured). A region is a disc, a little smaller than the
    usual distance between neighbours.

    Args:
        image_path: the H&E image of the section.
        x, y: (n,) centres of the regions in pixels of that image.
        predicted, measured: (n,) scores in the same units; NaN leaves a region out.
        unit: what the colours mean, beside the colour bar.
        um_per_pixel: micrometres per pixel of the image; without it there is no scale bar.

    Raises:
        InputError: the arrays differ in length, hold no value, or regions lie outside the image.
        FileFormatError: the image cannot be read.
    """
    same_length("a tissue map", x=x, y=y, predicted=predicted, measured=measured)
    shown = [(predicted, "Predicted from H&E")]
    if measured is not None:
        shown.append((measured, "Measured RNA"))
    if not all(np.isfinite(values).any() for values, _ in shown):
        raise InputError("a tissue map needs scores", found="only missing values")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    truth = shown[-1][0]
    low, high = np.percentile(truth[np.isfinite(truth)], _CLIP)
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1.0), COLOURS)
    pitch = _spacing(x, y)
    edge = (_MARGIN + 0.5) * pitch
    box = (x.min() - edge, y.min() - edge, x.max() + edge, y.max() + edge)
    part = grey(image_path, box)
    _inside(x, y, part.size, image_path)
    left, right, bottom, top = extent = (part.left, part.right, part.bottom, part.top)
    # Grey and light, so that only regions have hue.
    image = np.repeat((0.25 + 0.75 * part.values)[:, :, None], 3, axis=2)

    width = 12.0 if len(shown) == 2 else 7.5
    height = (width - 1.2) / len(shown) * (bottom - top) / (right - left) + 0.9
    figure = new_figure(width, min(max(height, 4.0), 12.0))
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (values, name) in zip(panels, shown, strict=True):
        axes.imshow(image, extent=extent, interpolation="bilinear")
        _discs(axes, x, y, values, scale, 0.8 * pitch)
        axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        axes.set_title(name, fontsize=TEXT + 1)
        if um_per_pixel is not None:
            _scale_bar(axes, um_per_pixel)
        for spine in axes.spines.values():
            spine.set_visible(False)
    bar = figure.colorbar(scale, ax=panels, shrink=0.75, pad=0.015, extend="both")
    bar.set_label(label(unit, 80), fontsize=SMALL + 1)
    write_title(figure, title)
    return figure


def _spacing(x: Float, y: Float) -> float:
    """The usual distance of a region from its nearest neighbour, in pixels."""
    from scipy.spatial import cKDTree

    points = np.unique(np.c_[x, y], axis=0)
    if len(points) < 2:
        return 100.0
    distances = np.asarray(cKDTree(points).query(points, k=2)[0])
    return float(np.median(distances[:, 1]))


def _inside(x: Float, y: Float, size: tuple[int, int], path: Path) -> None:
    outside = int(((x < 0) | (y < 0) | (x > size[0]) | (y > size[1])).sum())
    if outside:
        raise InputError(
            f"{outside} of {len(x)} regions lie outside of the image",
            found=f"{path.name} has {size[0]} x {size[1]} pixels; regions lie at "
            f"x {x.min():.0f} to {x.max():.0f}, y {y.min():.0f} to {y.max():.0f}",
            hint="--image-scale: pixels of the image per pixel of the coordinates, such as 0.1",
        )


def _discs(axes: Any, x: Float, y: Float, values: Float, scale: Any, diameter: float) -> None:
    from matplotlib.collections import EllipseCollection

    there = np.isfinite(values)
    n = int(there.sum())
    sizes = np.full(n, diameter)
    # Sizes in data units: regions keep their place and extent in the tissue at any figure size.
    discs = EllipseCollection(
        sizes, sizes, np.zeros(n), units="xy", offsets=np.c_[x[there], y[there]],
        offset_transform=axes.transData, facecolors=scale.to_rgba(values[there]), linewidths=0,
        rasterized=n > DENSE,
    )  # fmt: skip
    axes.add_collection(discs)


def _scale_bar(axes: Any, um_per_pixel: float) -> None:
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    most = _BAR_SHARE * (right - left) * um_per_pixel
    power = 10.0 ** np.floor(np.log10(most))
    um = power * max(m for m in (1, 2, 5) if m * power <= most)
    length = um / um_per_pixel
    x = left + 0.03 * (right - left)
    y = bottom + 0.04 * (top - bottom)
    axes.plot([x, x + length], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    axes.text(
        x + length / 2, y + 0.012 * (top - bottom),
        f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm", ha="center", va="bottom",
        fontsize=TEXT,
    )  # fmt: skip
