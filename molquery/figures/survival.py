"""Kaplan-Meier curves with the numbers at risk under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from molquery.associate import Curve
from molquery.errors import InputError
from molquery.figures.style import (
    INK,
    SMALL,
    SOFT,
    TEXT,
    label,
    new_figure,
    plain_axes,
    strata_colours,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TICKS = 6  # about so many times on the axis and in the table
_SHOWN = 0.02  # of all rows still followed: past that, curves rest on a handful and are cut
_CENSORED = 400  # censoring marks are drawn where there are fewer
#: What a time axis is marked in, by the unit of the column: unit -> (steps, name, its length).
_AXIS = {
    "days": (365.25, "years"), "weeks": (52.1786, "years"), "months": (12.0, "years"),
}  # fmt: skip


def kaplan_meier(
    curves: Sequence[Curve],
    *,
    order: Sequence[str],
    name: str,
    unit: str = "",
    outcome: str = "survival",
    below: str = "",
) -> Figure:
    """One curve for each stratum, its 95 % interval as a band, ticks where rows were censored.

    The time axis ends where fewer than 2 % of all rows are still followed, or at the last time.
    Times in days, weeks or months are marked in years when they span more than two.

    Args:
        curves: of `molquery.associate.kaplan_meier`, of one cohort.
        order: all strata from low to high: the order of legend and table.
        unit: of the times, '' where it is not known.
        outcome: what survival is of, for the axis.

    Raises:
        InputError: there is no curve.
    """
    if not curves:
        raise InputError("a survival figure needs at least one stratum with known outcomes")
    by_name = {c.stratum: c for c in curves}
    shown = [by_name[s] for s in order if s in by_name]
    colours = strata_colours(order)
    figure = new_figure(9.0, 5.0 + 0.26 * len(shown))
    grid = figure.add_gridspec(2, 1, height_ratios=[10, 0.9 + 0.75 * len(shown)])
    axes, table = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    end = _end(shown)
    step, shown_unit = _axis_unit(end, unit)
    for curve in shown:
        _curve(axes, curve, colours[curve.stratum], step, shown_unit)
    ticks = _ticks(end / step)
    axes.set(xlim=(0, end / step), ylim=(0, 1.02), yticks=np.arange(0, 1.01, 0.25), xticks=ticks)
    axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    axes.set_ylabel(label(outcome), fontsize=TEXT)
    axes.set_xlabel(f"time ({shown_unit})" if shown_unit else "time", fontsize=TEXT)
    plain_axes(axes, grid="y")
    legend = axes.legend(loc="lower left", frameon=True, fontsize=SMALL, borderpad=0.6)
    legend.get_frame().set(edgecolor="none", alpha=0.85)
    _at_risk(table, shown, colours, ticks, step, end / step)
    title(figure, name, below)
    return figure


def _end(curves: Sequence[Curve]) -> float:
    """Where the axis ends: the last time at which 2 % of all rows are still followed."""
    total = sum(c.n for c in curves)
    times = np.unique(np.concatenate([c.time for c in curves]))
    followed = np.sum([c.number_at_risk(times.tolist()) for c in curves], axis=0)
    last = float(times[followed >= _SHOWN * total].max())
    return last if last > 0 else float(times.max()) or 1.0


def _axis_unit(end: float, unit: str) -> tuple[float, str]:
    step, name = _AXIS.get(unit, (1.0, unit))
    return (step, name) if end > 2 * step else (1.0, unit)


def _ticks(end: float) -> list[float]:
    """Round times from 0, about `_TICKS` of them."""
    rough = end / _TICKS
    size = 10.0 ** np.floor(np.log10(rough))
    step = size * next(m for m in (1, 2, 2.5, 5, 10) if m * size >= rough)
    return [float(t) for t in np.arange(0, end * (1 + 1e-9), step)]


def _curve(axes: Axes, curve: Curve, colour: str, step: float, unit: str) -> None:
    time = curve.time / step
    median = "" if curve.median is None else f", median {curve.median / step:.3g} {unit}".rstrip()
    axes.step(
        time, curve.survival, where="post", color=colour, linewidth=2.2, zorder=3,
        label=f"{label(curve.stratum, 28)}: {curve.n}, events {curve.events}{median}",
    )  # fmt: skip
    known = np.isfinite(curve.low) & np.isfinite(curve.high)
    axes.fill_between(
        time[known], curve.low[known], curve.high[known], step="post", color=colour, alpha=0.13,
        linewidth=0, zorder=1,
    )  # fmt: skip
    falls = np.diff(curve.survival, prepend=1.0) < 0
    censored = ~falls & (curve.time > 0)
    if censored.sum() < _CENSORED:
        axes.plot(
            time[censored], curve.survival[censored], linestyle="", marker="|", markersize=5,
            color=colour, markeredgewidth=0.9, zorder=3,
        )  # fmt: skip


def _at_risk(
    table: Axes,
    curves: Sequence[Curve],
    colours: dict[str, str],
    ticks: Sequence[float],
    step: float,
    end: float,
) -> None:
    table.set(xlim=(0, end), ylim=(len(curves) - 0.4, -1.0), xticks=[])
    table.set_yticks(range(len(curves)), labels=[label(c.stratum, 28) for c in curves])
    for tick, curve in zip(table.get_yticklabels(), curves, strict=True):
        tick.set_color(colours[curve.stratum])
    table.tick_params(length=0, labelsize=SMALL, pad=20)
    table.text(
        0, 1.0, "still followed", transform=table.transAxes, fontsize=SMALL, color=SOFT,
        va="top", ha="left",
    )  # fmt: skip
    for row, curve in enumerate(curves):
        counts = curve.number_at_risk([t * step for t in ticks])
        for t, count in zip(ticks, counts, strict=True):
            table.text(
                t, row, str(count), fontsize=SMALL, color=INK, va="center", ha="center",
                clip_on=False,
            )  # fmt: skip
    for spine in table.spines.values():
        spine.set_visible(False)
