"""The strata of a signature for a terminal: a small table, and beside it how the scores lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from molquery.errors import printable
from molquery.query.units import Called
from molquery.vectors import Float, Strings

_BINS = 10
_BAR = 40  # characters of the longest bar
#: Told apart without colour too; colours as in the figures (`figures/style.py`), where they have
#: names in a terminal.
_MARKS = "█▒░▓▚▞"
_COLOURS = ("red", "bright_black", "blue", "green", "magenta", "yellow")


def strata_picture(one: Called, scores: Float) -> str:
    """Strata from high to low with their rows, certain rows and mean score, beside a histogram.

    Each bar of the histogram is made of the strata that lie in it, in the marks of the table.

    Args:
        one: the strata of a signature; scores: (n,) what was cut.
    """
    order = one.order[::-1]
    marks = {label: _MARKS[i % len(_MARKS)] for i, label in enumerate(order)}
    styles = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(order)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("stratum", no_wrap=True)
    for name in ("n", "certain", "mean"):
        table.add_column(name, justify="right", no_wrap=True)
    for label in order:
        mine = one.labels == label
        mean = f"{scores[mine].mean():.3f}" if mine.any() else "-"
        table.add_row(
            Text(marks[label], styles[label]), Text(printable(label, 40)),
            str(one.counts[label]), str(one.certain[label]), mean,
        )  # fmt: skip
    bars = Table.grid(padding=(0, 1))
    bars.add_column(justify="right", no_wrap=True)
    bars.add_column(no_wrap=True)
    edges, counts = histogram(scores, one.labels, order)
    longest = max(1, int(counts.sum(axis=1).max()))
    for i in range(len(counts) - 1, -1, -1):
        bar = Text()
        ends = np.round(np.cumsum(counts[i]) * _BAR / longest).astype(int)
        for label, length in zip(order, np.diff(ends, prepend=0), strict=True):
            bar.append(marks[label] * int(length), styles[label])
        total = int(counts[i].sum())
        bar.append(f" {total}" if total else "")
        bars.add_row(f"{edges[i]:.2f} to {edges[i + 1]:.2f}", bar)
    both = Table.grid(padding=(0, 4))
    both.add_row(table, bars)
    console = Console(width=200, highlight=False, force_terminal=True)
    with console.capture() as captured:
        console.print(both)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def histogram(scores: Float, labels: Strings, order: Sequence[str]) -> tuple[Float, Float]:
    """Edges (b + 1,) of bins of equal width, and the rows of each stratum (b, n_strata) in them."""
    edges = np.histogram_bin_edges(scores, bins=_BINS)
    counts = [np.histogram(scores[labels == label], bins=edges)[0] for label in order]
    return edges, np.stack(counts, axis=1).astype(np.float64)
