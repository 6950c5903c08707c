"""Figures of an evaluation: what a reader compares at a glance, with intervals and baselines.

Each takes numbers and gives a matplotlib figure; `style.svg` makes it part of a page. Where a value
stands is told by position and by shape, never by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery.evaluate.resample import Estimate
from molquery.figures.style import CATEGORIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = CATEGORIES[:3]
GREY = "#8a8a8a"
_BAND = "#d9d9d9"
_SMALL, _NORMAL = 9, 10


def short(name: str) -> str:
    """A gene set's name as a figure shows it: without the collection, without underscores."""
    return name.removeprefix("HALLMARK_").replace("_", " ")


def retrieval(
    panels: Sequence[tuple[str, Mapping[str, Estimate], Mapping[str, Estimate]]],
    labels: Mapping[str, str],
) -> Figure:
    """Recall@10 of every method, patients held out and sites held out, one panel a gallery.

    Args:
        panels: title, and by method the recall@10 with patients and with sites held out (may be
            empty).
        labels: method -> what it is, from top to bottom.
    """
    figure = new_figure(10, 0.55 + 2.35 * ((len(panels) + 1) // 2))
    axes = figure.subplots((len(panels) + 1) // 2, 2, sharex=True, sharey=True, squeeze=False)
    for ax, (title, patient, site) in zip(axes.flat, panels, strict=False):
        for y, method in enumerate(labels):
            _whisker(ax, patient.get(method), y - 0.14, BLUE, "o", scale=100, filled=True)
            _whisker(ax, site.get(method), y + 0.14, ORANGE, "D", scale=100, filled=False)
        ax.set_yticks(range(len(labels)), list(labels.values()))
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.set_xlim(0, 100)
        ax.set_title(title, fontsize=_NORMAL, loc="left")
        _plain(ax, "x")
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("own partner among the first ten, % of queries", fontsize=_SMALL)
    entries = [("patients held out", BLUE, "o", True)]
    if any(site for _, _, site in panels):
        entries.append(("sites held out", ORANGE, "D", False))
    _legend(figure, entries)
    return figure


def spectrum(
    rows: Sequence[tuple[str, Estimate, Estimate | None, tuple[float, float] | None]], label: str
) -> Figure:
    """Every gene set's held-out correlation, beside that of random gene sets like it.

    Args:
        rows: name; correlation with patients and with sites held out; 5th and 95th percentile of
            random sets.
        label: of the axis.
    """
    figure = new_figure(10, 0.9 + 0.235 * len(rows))
    ax = figure.subplots()
    for y, (_, patient, site, random) in enumerate(rows):
        if random:
            ax.barh(y, random[1] - random[0], left=random[0], height=0.7, color=_BAND, zorder=1)
        _whisker(ax, patient, y - (0.13 if site else 0), BLUE, "o", filled=True)
        _whisker(ax, site, y + 0.13, ORANGE, "D", filled=False)
    ax.set_yticks(range(len(rows)), [short(name) for name, *_ in rows], fontsize=_SMALL - 0.5)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(label, fontsize=_SMALL)
    _plain(ax, "x")
    entries = [("patients held out, 95 % interval", BLUE, "o", True)]
    if any(site for _, _, site, _ in rows):
        entries.append(("sites held out", ORANGE, "D", False))
    if any(random for *_, random in rows):
        entries.append(("random gene sets, 5-95 %", _BAND, "s", True))
    _legend(figure, entries)
    return figure


def coverage(rows: Sequence[tuple[str, str, Estimate]], level: float) -> Figure:
    """Measured coverage of intervals by cohort: `own` bounds, and those of other cohorts."""
    cohorts = list(dict.fromkeys(cohort for cohort, _, _ in rows))
    figure = new_figure(8, 1.0 + 0.42 * len(cohorts))
    ax = figure.subplots()
    ax.axvspan(100 * level - 2, 100 * level + 2, color=_BAND, zorder=0)
    ax.axvline(100 * level, color="black", linewidth=0.8)
    for cohort, basis, value in rows:
        own = basis == "own"
        y = cohorts.index(cohort) + (-0.13 if own else 0.13)
        _whisker(ax, value, y, BLUE if own else ORANGE, "o" if own else "D", scale=100, filled=own)
    ax.set_yticks(range(len(cohorts)), cohorts)
    ax.set_ylim(len(cohorts) - 0.5, -0.5)
    ax.set_xlim(min(75, *(100 * (v.low or v.value or 1) - 3 for _, _, v in rows)), 101)
    ax.set_xlabel("measured scores inside their 90 % interval, % of patients", fontsize=_SMALL)
    _plain(ax, "x")
    entries = [("cohort with RNA", BLUE, "o", True)]
    if any(basis != "own" for _, basis, _ in rows):
        entries.append(("as if the cohort had no RNA", ORANGE, "D", False))
    _legend(figure, entries)
    return figure


def roc(curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> Figure:
    """ROC curves, one panel each: title, false positive rates, true positive rates."""
    figure = new_figure(3.6 * max(1, len(curves)), 3.6)
    axes = figure.subplots(1, len(curves), squeeze=False)
    for ax, (title, false, true) in zip(axes.flat, curves, strict=True):
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        ax.plot(false, true, color=BLUE, linewidth=1.8)
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        ax.set_title(title, fontsize=_NORMAL, loc="left")
        ax.set_xlabel("false positive rate", fontsize=_SMALL)
        ax.set_ylabel("true positive rate", fontsize=_SMALL)
        _plain(ax, "both")
    return figure


def groups(
    cohorts: Sequence[tuple[str, Mapping[str, Sequence[float]]]], gene: str, label: str
) -> Figure:
    """Predicted scores over tertiles of a gene in every cohort, as boxes with medians.

    Args:
        cohorts: title, and by tertile the 5th, 25th, 50th, 75th and 95th percentile.
        gene: whose measured expression makes the tertiles.
        label: of the vertical axis.
    """
    figure = new_figure(max(4.0, 2.4 * len(cohorts)), 3.4)
    axes = figure.subplots(1, len(cohorts), sharey=True, squeeze=False)
    for ax, (title, quartiles) in zip(axes.flat, cohorts, strict=True):
        boxes = [
            {"whislo": q[0], "q1": q[1], "med": q[2], "q3": q[3], "whishi": q[4], "label": name}
            for name, q in quartiles.items()
        ]
        ax.bxp(
            boxes, showfliers=False, patch_artist=True, widths=0.6,
            boxprops={"facecolor": "#cfe3f1", "edgecolor": BLUE},
            whiskerprops={"color": BLUE}, capprops={"color": BLUE},
            medianprops={"color": "black", "linewidth": 1.6},
        )  # fmt: skip
        ax.set_title(title, fontsize=_NORMAL, loc="left")
        ax.set_xlabel(f"measured {gene}", fontsize=_SMALL)
        ax.axhline(0, color=GREY, linewidth=0.8)
        _plain(ax, "y")
    axes[0, 0].set_ylabel(label, fontsize=_SMALL)
    return figure


def labels(
    rows: Sequence[str], columns: Sequence[str], auc: Any, marked: Any, title: str
) -> Figure:
    """AUCs of labels (rows) by signature (columns): the number in every cell, and its colour.

    Args:
        auc: (n_rows, n_columns), NaN where not measured.
        marked: bool, the same shape: cells printed bold.
    """
    figure = new_figure(2.9 + 1.25 * len(columns), 1.5 + 0.3 * len(rows))
    ax = figure.subplots()
    ax.imshow(auc, vmin=0, vmax=1, cmap="RdBu_r", aspect="auto")
    for i in range(len(rows)):
        for j in range(len(columns)):
            value = auc[i, j]
            if np.isfinite(value):
                dark = abs(value - 0.5) > 0.3
                ax.text(
                    j, i, f"{value:.2f}", ha="center", va="center", fontsize=_SMALL,
                    color="white" if dark else "black",
                    fontweight="bold" if marked[i, j] else "normal",
                )  # fmt: skip
    ax.set_xticks(range(len(columns)), [_wrapped(short(c)) for c in columns], fontsize=_SMALL - 1)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(rows)), rows, fontsize=_SMALL - 0.5)
    ax.tick_params(length=0)
    ax.set_xlabel(title, fontsize=_SMALL)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure


def forest(
    panels: Sequence[tuple[str, Sequence[tuple[str, float, float, float, bool]]]], label: str
) -> Figure:
    """Hazard ratios with intervals on a log axis: a panel for each signature.

    Args:
        panels: title, and rows of (cohort, hazard ratio, low, high, filled).
        label: of the axis.
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    names = list(dict.fromkeys(row[0] for _, rows in panels for row in rows))
    figure = new_figure(10, lines * (0.75 + 0.27 * len(names)) + 0.35)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, (title, rows) in zip(axes.flat, panels, strict=False):
        for name, ratio, low, high, filled in rows:
            y = names.index(name)
            ax.plot([low, high], [y, y], color=BLUE, linewidth=1.4)
            ax.plot(ratio, y, "o", color=BLUE, markersize=6,
                    markerfacecolor=BLUE if filled else "white")  # fmt: skip
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_yticks(range(len(names)), names, fontsize=_SMALL)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_title(_wrapped(short(title), 34), fontsize=_NORMAL - 0.5, loc="left")
        _plain(ax, "x")
    ends = [end for _, rows in panels for row in rows for end in row[2:4] if end > 0]
    span = max(1.5, *(max(end, 1 / end) for end in ends)) * 1.05
    marks = [m for m in (0.25, 0.5, 0.67, 1, 1.5, 2, 4) if 1 / span <= m <= span]
    for ax in axes.flat:
        ax.set_xlim(1 / span, span)
        ax.set_xticks(marks, [f"{m:g}" for m in marks])
        ax.minorticks_off()
    _lowest(axes, len(panels), label)
    return figure


def learning_curve(points: Sequence[tuple[int, float | None, float | None]]) -> Figure:
    """Median R² and within-cohort r over the number of patients learned from (log axis)."""
    figure = new_figure(7, 3.4)
    ax = figure.subplots()
    sizes = [n for n, _, _ in points]
    ax.plot(sizes, [_nan(w) for _, _, w in points], "o-", color=BLUE, label="r within cohorts")
    ax.plot(sizes, [_nan(r) for _, r, _ in points], "s--", color=ORANGE, label="R², pooled")
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.set_xlabel("patients learned from", fontsize=_SMALL)
    ax.set_ylabel("median over gene sets", fontsize=_SMALL)
    ax.legend(frameon=False, fontsize=_SMALL)
    _plain(ax, "y")
    return figure


def adaptation(
    panels: Sequence[tuple[str, Sequence[tuple[str, float | None, float | None]], float | None]],
    share: float,
) -> Figure:
    """Within-cohort r over the number of pairs of a new cohort, one panel a cohort.

    Args:
        panels: title; number of pairs, mean over the draws and its standard deviation; the mean
            with all pairs of the cohort.
        share: of that mean at which a line is drawn.
    """
    rows = (len(panels) + 1) // 2
    figure = new_figure(10, 0.6 + 2.3 * rows)
    axes = figure.subplots(rows, 2, sharey=True, squeeze=False)
    for ax, (title, points, full) in zip(axes.flat, panels, strict=False):
        mean, sd = [_nan(r) for _, r, _ in points], [_nan(d) for _, _, d in points]
        ax.errorbar(range(len(points)), mean, yerr=np.nan_to_num(sd), fmt="o-", color=BLUE,
                    markersize=4.5, linewidth=1.3)  # fmt: skip
        if full is not None:
            ax.axhline(full, color="black", linewidth=0.8)
            ax.axhline(share * full, color=GREY, linewidth=0.8, linestyle="--")
        ax.set_xticks(range(len(points)), [name for name, *_ in points])
        ax.set_ylim(bottom=0)
        ax.set_title(title, fontsize=_NORMAL, loc="left")
        _plain(ax, "y")
    _lowest(axes, len(panels), "pairs of the cohort")
    for ax in axes[:, 0]:
        ax.set_ylabel("median r in the cohort", fontsize=_SMALL)
    return figure


def _whisker(
    ax: Any,
    value: Estimate | None,
    y: float,
    colour: str,
    marker: str,
    *,
    filled: bool,
    scale: float = 1.0,
) -> None:
    """A marker at an estimate with a line over its interval; nothing where it is not measured."""
    if value is None or value.value is None:
        return
    if value.low is not None and value.high is not None:
        ax.plot([scale * value.low, scale * value.high], [y, y], color=colour, linewidth=1.3,
                zorder=2)  # fmt: skip
    ax.plot(scale * value.value, y, marker, color=colour, markersize=4.5, zorder=3,
            markerfacecolor=colour if filled else "white")  # fmt: skip


def _legend(figure: Any, entries: Sequence[tuple[str, str, str, bool]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none" if marker == "s" else "-",
               markersize=9 if marker == "s" else 5,
               markerfacecolor=colour if filled else "white", label=text)
        for text, colour, marker, filled in entries
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False,
        fontsize=_SMALL,
    )  # fmt: skip


def _lowest(axes: Any, shown: int, label: str) -> None:
    """Hide the axes after the first `shown`; label the lowest that is left of every column."""
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < shown)
        if i < shown <= i + axes.shape[1]:
            ax.tick_params(axis="x", labelbottom=True)
            ax.set_xlabel(label, fontsize=_SMALL)


def _plain(ax: Any, grid: str) -> None:
    ax.grid(axis=grid, color="#e8e8e8", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=_SMALL)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _wrapped(text: str, width: int = 14) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
