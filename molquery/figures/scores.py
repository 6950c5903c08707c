"""Predicted scores of a cohort: ranked with their cut points, and side by side by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery.figures.style import (
    DENSE,
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
    strata_colours,
    title,
)
from molquery.vectors import Bools, Float, Ints, Strings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The key of cut points that hold for all groups (`molquery.stratify.POOLED`).
_POOLED = "all"
_PANELS = 12  # groups that get a panel of their own, the largest first
_RANKS = 20_000  # of a ranking are drawn, evenly spaced: more than a figure has pixels
_BINS = 40  # over which the width of a cloud of points is measured
_GOLDEN = 0.6180339887498949  # its multiples fill an interval evenly, the same way every time


def ranked_scores(
    scores: Float,
    strata: Strings,
    cuts: Mapping[str, Sequence[float]],
    *,
    order: Sequence[str],
    name: str,
    groups: Strings | None = None,
    low: Float | None = None,
    high: Float | None = None,
    level: float = 0.9,
    unit: str = "predicted score",
    below: str = "",
) -> Figure:
    """Scores from the highest to the lowest, in the colours of their strata, with the cut points.

    One panel; with cut points of each group's own, one for each group. Past twelve groups the
    largest twelve are drawn and the figure says so.

    Args:
        scores: (n,) predicted scores.
        strata: (n,) the stratum of each.
        cuts: 'all' -> cut points, or group -> its own cut points.
        order: the strata from low to high, for the legend.
        name: what was scored, for the title.
        groups: (n,) group of each, where the cut points are the groups' own.
        low, high: (n,) prediction intervals; NaN where there is none.
        level: the share of patients that the intervals cover.

    Raises:
        InputError: the arrays differ in length or are empty.
    """
    same_length("a ranking", scores=scores, strata=strata, groups=groups, low=low, high=high)
    pooled = groups is None or set(cuts) == {_POOLED}
    everyone = np.ones(len(scores), dtype=bool)
    rows = {_POOLED: everyone} if pooled else _largest(groups if groups is not None else strata)
    across = 1 if len(rows) == 1 else 2 if len(rows) in (2, 4) else 3
    down = -(-len(rows) // across)
    figure = new_figure(WIDTH, 5.0 if down == 1 else 1.2 + 2.6 * down)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    colours = strata_colours(order)
    dense = len(scores) > DENSE
    for axes, (key, mine) in zip(panels.flat, rows.items(), strict=False):
        bounds = None if low is None or high is None else (low[mine], high[mine])
        _ranking(axes, scores[mine], strata[mine], colours, bounds, dense)
        if not pooled:
            axes.set_title(f"{label(key)}, n = {int(mine.sum())}", fontsize=TEXT, loc="left")
    for axes, key in zip(panels.flat, rows, strict=False):
        _cut_lines(axes, cuts.get(key, ()), gap=0.05 if down == 1 else 0.09)
    for axes in panels.flat[len(rows) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(unit, fontsize=TEXT)
    panels[-1, 0].set_xlabel("rank, from the highest score", fontsize=TEXT)
    _legend(figure, strata, order, colours, None if low is None else level)
    if groups is not None and not pooled and len(rows) < len(set(groups.tolist())):
        below += f"{'; ' if below else ''}the {len(rows)} largest of {len(set(groups.tolist()))}"
    title(figure, name, below)
    return figure


def _largest(groups: Strings) -> dict[str, Bools]:
    """Masks of the largest groups, by name."""
    names, counts = np.unique(groups[groups != ""], return_counts=True)
    kept = sorted(names[np.argsort(-counts, kind="stable")][:_PANELS].tolist())
    return {str(name): groups == name for name in kept}


def _ranking(
    axes: Axes,
    scores: Float,
    strata: Strings,
    colours: Mapping[str, str],
    bounds: tuple[Float, Float] | None,
    dense: bool,
) -> None:
    order = np.argsort(-scores, kind="stable")
    step = max(1, -(-len(order) // _RANKS))
    shown = order[::step]
    rank = np.arange(1, len(order) + 1)[::step]
    if bounds is not None:
        axes.vlines(
            rank, bounds[0][shown], bounds[1][shown], color=FAINT, alpha=0.35 if dense else 0.6,
            linewidth=0.6 if dense else 1.0, rasterized=dense, zorder=1,
        )  # fmt: skip
    axes.scatter(
        rank, scores[shown], c=[colours[s] for s in strata[shown].tolist()], s=9, linewidths=0,
        rasterized=dense, zorder=2,
    )  # fmt: skip
    axes.set_xlim(1 - 0.02 * len(order), 1.02 * len(order) + 1)
    plain_axes(axes, grid="y")


def _cut_lines(axes: Axes, points: Sequence[float], gap: float) -> None:
    """Cut points as lines, with their values right of the panel, `gap` of its height apart."""
    low, high = axes.get_ylim()
    places = [(point - low) / (high - low) for point in points]
    apart = list(places)
    for i in range(1, len(apart)):
        apart[i] = max(apart[i], apart[i - 1] + gap)
    shift = float(np.mean(np.subtract(apart, places))) if places else 0.0
    for point, place in zip(points, apart, strict=True):
        axes.axhline(point, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=3)
        axes.annotate(
            f"{point:.3f}", (1, place - shift), xycoords="axes fraction", xytext=(3, 0),
            textcoords="offset points", ha="left", va="center", fontsize=SMALL, color=INK,
        )  # fmt: skip


def _legend(
    figure: Figure,
    strata: Strings,
    order: Sequence[str],
    colours: Mapping[str, str],
    level: float | None,
) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], marker="o", linestyle="", markersize=7, color=colours[s],
               label=f"{label(s, 24)} ({int((strata == s).sum())})")
        for s in reversed(order)
    ]  # fmt: skip
    if level is not None:
        handles.append(Line2D([], [], color=FAINT, linewidth=2,
                              label=f"{100 * level:.0f} % interval"))  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False,
        fontsize=SMALL,
    )  # fmt: skip


def scores_by_group(
    scores: Float,
    groups: Strings,
    strata: Strings,
    *,
    order: Sequence[str],
    name: str,
    group_order: Sequence[str] | None = None,
    unit: str = "predicted score",
    below: str = "",
) -> Figure:
    """Every score as a point in the row of its group, in the colour of its stratum.

    A row is as thick as its scores are dense; the bar is the middle half of them and the white
    tick their median. Rows stand by median, the highest on top, or in `group_order`.

    Args:
        scores: (n,) predicted scores.
        groups: (n,) such as the cohort of each; the empty string is shown as 'none given'.
        strata: (n,) the stratum of each.
        order: the strata from low to high, for the legend.

    Raises:
        InputError: the arrays differ in length or are empty.
    """
    same_length("scores by group", scores=scores, groups=groups, strata=strata)
    members = {str(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    by_median = sorted(members, key=lambda g: (-float(np.median(scores[members[g]])), g))
    shown = [g for g in group_order or by_median if g in members]
    figure = new_figure(WIDTH, max(3.0, min(1.6 + 0.62 * len(shown), 14.0)))
    axes = figure.subplots()
    colours = strata_colours(order)
    for row, group in enumerate(shown):
        mine = members[group]
        axes.scatter(
            scores[mine], row + _cloud(scores[mine]), s=8, linewidths=0, alpha=0.75,
            c=[colours[s] for s in strata[mine].tolist()], rasterized=len(scores) > DENSE, zorder=1,
        )  # fmt: skip
        low, middle, high = np.quantile(scores[mine], [0.25, 0.5, 0.75])
        axes.plot([low, high], [row, row], color=INK, linewidth=4, solid_capstyle="butt", zorder=2)
        axes.plot([middle], [row], marker="|", color="white", markersize=7, markeredgewidth=2.5,
                  zorder=3)  # fmt: skip
    names = [f"{label(g, 30) or 'none given'}\nn = {len(members[g])}" for g in shown]
    axes.set_yticks(range(len(shown)), labels=names)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(unit, fontsize=TEXT)
    plain_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=SOFT, linewidth=0.8, zorder=0)
    _legend(figure, strata, order, colours, None)
    title(figure, name, below)
    return figure


def _cloud(values: Float) -> Float:
    """Offsets (n,) within +-0.38 that fill a shape as wide as the values are dense."""
    if len(values) < 3 or values.min() == values.max():
        return np.zeros(len(values))
    counts, edges = np.histogram(values, bins=min(_BINS, max(5, len(values) // 5)))
    counts = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    here: Ints = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(counts) - 1)
    within = np.empty(len(values))
    within[np.argsort(values, kind="stable")] = np.arange(len(values)) * _GOLDEN % 1.0 - 0.5
    return np.asarray(0.76 * within * counts[here] / counts.max())
