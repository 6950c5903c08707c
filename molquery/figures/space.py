"""The shared space in two dimensions, coloured by score, cohort or modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery.errors import InputError
from molquery.figures.style import (
    CATEGORIES,
    COLOURS,
    DENSE,
    FAINT,
    SMALL,
    TEXT,
    WIDTH,
    label,
    new_figure,
    plain_axes,
    title,
)
from molquery.vectors import Float, Matrix, Strings, principal_components

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLIP = (2.0, 98.0)  # percentiles of the colour scale: a few extremes must not flatten the rest
_OTHER = "other"


def plane(vectors: Float | Matrix) -> tuple[Float, Float]:
    """(n, 2) positions on the first two principal components, and the share (2,) of each.

    The sign of a component is arbitrary; here its largest loading is positive, so that the same
    vectors give the same picture everywhere.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, directions = principal_components(vectors, 2)
    if directions.shape[1] < 2:
        raise InputError("a map needs at least three points in two dimensions",
                         found=f"{vectors.shape[0]} points")  # fmt: skip
    directions = directions / np.linalg.norm(directions, axis=0)
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])
    points = centred @ directions
    return points, points.var(axis=0) / max(centred.var(axis=0).sum(), 1e-300)


def space_map(
    points: Float,
    colourings: Mapping[str, Float | Strings],
    *,
    name: str,
    shares: Float | None = None,
    below: str = "",
) -> Figure:
    """Points of the shared space, one panel for each way of colouring them.

    Args:
        points: (n, 2), as `plane` gives them.
        colourings: title of the panel -> (n,) numbers (a colour bar; NaN is pale and below the
            others) or (n,) categories (a legend; past eight, the smallest are 'other').
        shares: (2,) of the variance that the axes show.

    Raises:
        InputError: a colouring has another length than there are points.
    """
    wrong = {key: len(values) for key, values in colourings.items() if len(values) != len(points)}
    if wrong or not colourings or not len(points):
        raise InputError("a map needs one colour for every point",
                         found=f"{len(points)} points, {wrong}")  # fmt: skip
    figure = new_figure(WIDTH if len(colourings) > 1 else 7.0, 5.4)
    panels = figure.subplots(1, len(colourings), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (key, values) in zip(panels, colourings.items(), strict=True):
        if values.dtype.kind == "f":
            _by_number(axes, points, np.asarray(values, dtype=np.float64))
        else:
            _by_category(axes, points, values.astype(str))
        axes.set_title(label(key), fontsize=TEXT, loc="left")
        axes.set(xticks=[], yticks=[])
        told = ["", ""] if shares is None else [f" ({100 * s:.0f} % of variance)" for s in shares]
        axes.set_xlabel(f"component 1{told[0]}", fontsize=SMALL)
        if axes is panels[0]:
            axes.set_ylabel(f"component 2{told[1]}", fontsize=SMALL)
        plain_axes(axes)
    title(figure, name, below)
    return figure


def _by_number(axes: Axes, points: Float, values: Float) -> None:
    there = np.isfinite(values)
    settings: dict[str, Any] = {"linewidths": 0, "rasterized": len(points) > DENSE}
    if not there.all():
        axes.scatter(points[~there, 0], points[~there, 1], s=6, color=FAINT, zorder=1, **settings)
    if not there.any():
        return
    low, high = np.percentile(values[there], _CLIP)
    drawn = axes.scatter(
        points[there, 0], points[there, 1], s=9, c=values[there], cmap=COLOURS, vmin=low,
        vmax=high if high > low else low + 1.0, zorder=2, **settings,
    )  # fmt: skip
    bar = axes.figure.colorbar(
        drawn, cax=axes.inset_axes((0.1, -0.15, 0.8, 0.03)), orientation="horizontal",
        extend="both",
    )  # fmt: skip
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)


def _by_category(axes: Axes, points: Float, values: Strings) -> None:
    from matplotlib.lines import Line2D

    names, counts = np.unique(values, return_counts=True)
    order = [str(n) for n in names[np.argsort(-counts, kind="stable")]]
    kept = order if len(order) <= len(CATEGORIES) else order[: len(CATEGORIES) - 1]
    colours = dict(zip(sorted(kept), CATEGORIES, strict=False))
    each = [colours.get(str(v), FAINT) for v in values]
    # A shuffle that is the same every time: no group lies on top of all others.
    mixed = np.random.default_rng(0).permutation(len(points))
    axes.scatter(
        points[mixed, 0], points[mixed, 1], s=9, c=[each[i] for i in mixed], linewidths=0,
        alpha=0.8, rasterized=len(points) > DENSE,
    )  # fmt: skip
    entries = [(label(n, 22) or "none given", c) for n, c in colours.items()]
    if len(kept) < len(order):
        entries.append((f"{_OTHER} ({len(order) - len(kept)})", FAINT))
    axes.legend(
        handles=[Line2D([], [], marker="o", linestyle="", color=c, label=n) for n, c in entries],
        loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=min(3, len(entries)), frameon=False,
        fontsize=SMALL, handletextpad=0.2, columnspacing=1.0,
    )  # fmt: skip
