"""Signatures beside each other: how well each is predicted, and how strata differ in them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from molquery.figures.style import (
    CATEGORIES,
    DIVERGING,
    FAINT,
    INK,
    SMALL,
    SOFT,
    TEXT,
    WIDTH,
    label,
    new_figure,
    plain_axes,
    same_length,
    title,
)
from molquery.vectors import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 3  # sets at either end of the spectrum that are named, but not beside the marked one
_NEAR = 1 / 3  # of the axis that the marked one's own label may take
_HEADS = 60  # characters that the heads of all columns have room for, side by side
_CELLS = 400  # up to so many cells their values are written into them


def spectrum(
    names: Sequence[str],
    values: Float,
    *,
    name: str,
    value: float | None,
    floor: float,
    unit: str = "held-out correlation within cohorts",
    below: str = "",
) -> Figure:
    """How well gene sets are predicted in held-out patients, the best first, with one marked.

    Args:
        names, values: (n,) gene sets and their held-out correlations, in any order; NaN is left
            out. `name` may be among them, and is not drawn twice.
        name, value: the signature to mark; without a value only the sets are drawn.
        floor: the correlation under which a signature is called hardly predictable.

    Raises:
        InputError: the arrays differ in length or are empty.
    """
    same_length("a spectrum", names=names, values=values)
    entries = {n: float(v) for n, v in zip(names, values, strict=True) if np.isfinite(v)}
    if value is not None:
        entries[name] = value
    ordered = sorted(entries, key=lambda n: (-entries[n], n))
    heights = np.array([entries[n] for n in ordered])
    mark = ordered.index(name) if value is not None else -1
    figure = new_figure(WIDTH, 4.6)
    axes = figure.subplots()
    places = np.arange(1, len(ordered) + 1)
    colours = [CATEGORIES[1] if i == mark else "#A9C6DC" for i in range(len(ordered))]
    axes.bar(places, heights, width=0.72, color=colours)
    axes.axhline(floor, color=SOFT, linewidth=1.0, linestyle=(0, (5, 3)))
    axes.text(
        0.4, floor, f"below {floor:g}: hardly predictable", fontsize=SMALL, color=INK, va="bottom",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "alpha": 0.85,
              "edgecolor": "none"},
    )  # fmt: skip
    ends = [i for i in range(len(ordered)) if i < _NAMED or i >= len(ordered) - _NAMED]
    for i in ends:
        if mark < 0 or abs(i - mark) > _NEAR * len(ordered):
            axes.annotate(
                _short(ordered[i]), (places[i], max(heights[i], 0)), xytext=(0, 4),
                textcoords="offset points", rotation=50, ha="left", va="bottom",
                fontsize=SMALL - 1, color=SOFT, rotation_mode="anchor",
            )  # fmt: skip
    if mark >= 0:
        left = mark < len(ordered) / 2
        axes.annotate(
            f"{_short(name)}\n{heights[mark]:.2f}, place {mark + 1} of {len(ordered)}",
            (places[mark], max(heights[mark], 0)), xytext=(24 if left else -24, 42),
            textcoords="offset points", ha="left" if left else "right", fontsize=TEXT,
            fontweight="bold", color=INK,
            arrowprops={"arrowstyle": "-", "color": CATEGORIES[1], "linewidth": 1.5},
        )  # fmt: skip
    axes.set_xlim(0.2, len(ordered) + 0.8)
    axes.set_ylim(min(0.0, heights.min() * 1.1), max(heights.max(), floor) * 1.45)
    axes.set_ylabel(unit, fontsize=TEXT)
    axes.set_xlabel("gene sets, from the best predicted to the worst", fontsize=TEXT)
    axes.set_xticks([])
    plain_axes(axes, grid="y")
    title(figure, "How well this can be seen in H&E", below)
    return figure


def signature_heatmap(
    values: Float,
    signatures: Sequence[str],
    strata: Sequence[str],
    *,
    name: str,
    unit: str = "mean standardised score",
    counts: Sequence[int] | None = None,
    below: str = "",
) -> Figure:
    """The mean score of every signature in every stratum, in colours that are even around zero.

    Args:
        values: (n_signatures, n_strata), in standard deviations; NaN is left white.
        signatures, strata: the names of rows and columns.
        counts: (n_strata,) how many slides or patients a stratum has.

    Raises:
        InputError: the names do not fit to the values.
    """
    from molquery.errors import InputError

    if values.shape != (len(signatures), len(strata)) or not values.size:
        raise InputError(
            "a heat map needs a row per signature and a column per stratum",
            found=f"{values.shape} values, {len(signatures)} signatures, {len(strata)} strata",
        )
    limit = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    figure = new_figure(
        min(WIDTH, 4.6 + 1.1 * len(strata)), max(3.0, min(1.7 + 0.3 * len(signatures), 16.0))
    )
    axes = figure.subplots()
    drawn = axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    room = max(8, _HEADS // len(strata))
    heads = [textwrap.fill(label(s, 2 * room), room) for s in strata]
    if counts is not None:
        heads = [f"{h}\nn = {n}" for h, n in zip(heads, counts, strict=True)]
    axes.set_xticks(range(len(strata)), labels=heads)
    axes.set_yticks(range(len(signatures)), labels=[_short(s) for s in signatures])
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
    axes.xaxis.tick_top()
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    if values.size <= _CELLS:
        for i, j in np.argwhere(np.isfinite(values)):
            value = float(values[i, j])
            axes.text(
                j, i, f"{value:+.2f}", ha="center", va="center", fontsize=SMALL - 0.5,
                color="white" if abs(value) > 0.62 * limit else INK,
            )  # fmt: skip
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, aspect=24)
    bar.set_label(unit, fontsize=SMALL)
    bar.outline.set_visible(False)
    title(figure, name, below)
    return figure


def _short(name: str) -> str:
    """`HALLMARK_DNA_REPAIR` as it is read: DNA REPAIR."""
    return label(name.removeprefix("HALLMARK_").replace("_", " "), 40)
