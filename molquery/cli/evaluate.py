"""molquery evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from molquery.cli.options import open_engine, output_options
from molquery.cli.render import emit, held_out, number, print_table, say


@click.command(epilog="\b\nExample:\n  molquery evaluate --format json --output evaluation.json")
@output_options
@click.pass_context
def evaluate(ctx: click.Context, format_: str | None, output: Path | None, overwrite: bool) -> None:
    """Print how well held-out patients are retrieved and predicted in the current space.

    Every figure is about patients (or sites) that the model which made it has not seen.
    """
    engine = open_engine(ctx)
    from molquery.query.summary import held_out_summary

    summary = held_out_summary(engine)
    if format_ is None and output is None:
        print_summary(summary)
        return
    emit(
        spectrum_table(summary.spectrum),
        provenance=summary.provenance,
        document=summary.to_dict(),
        format_=format_,
        output=output,
        overwrite=overwrite,
    )


def print_summary(summary: Any) -> None:
    """Retrieval, the ends of the spectrum, and the medians."""
    what = held_out(summary.split_on)
    rows = []
    for key, figures in summary.retrieval.items():
        scheme, direction, *rest = key.split(".")
        rows.append(
            {
                "held out": "sites" if scheme == "site" else what,
                "retrieval": direction.replace("_", " "),
                "gallery": f"{figures['gallery']}" + (" (own cohort)" if rest else ""),
                "R@1": figures["recall1"],
                "R@5": figures["recall5"],
                "R@10": figures["recall10"],
                "median rank": figures["median_rank"],
                "fold@10 over random": figures["fold10"],
            }
        )
    say(f"\nRetrieval, {what} held out (gallery = the fold; mean over folds)", err=False)
    print_table(pa.Table.from_pylist(rows))
    spectrum = summary.spectrum
    say(
        f"\nPredictability of {len(spectrum)} Hallmark sets, {what} held out "
        "(H&E-predicted against measured)",
        err=False,
    )
    if not spectrum:
        say("no Hallmark set has 10 genes in this database", err=False)
        return
    table = spectrum_table(spectrum)
    if len(spectrum) > 12:
        print_table(table.slice(0, 6))
        say("…", err=False)
        lines = table.slice(len(table) - 4)
        print_table(lines)
    else:
        print_table(table)
    m = summary.medians
    line = f"median: R² {number(m['r2'], 3)}, r {number(m['r'], 3)}, "
    line += f"within cohorts r {number(m['within_r'], 3)}"
    if m["site_r2"] is not None:
        line += f"; sites held out: R² {number(m['site_r2'], 3)}, "
        line += f"within cohorts r {number(m['site_within_r'], 3)}"
    say(line, err=False)


def spectrum_table(spectrum: Any) -> pa.Table:
    """One row per gene set, most predictable first."""
    return pa.table(
        {
            "gene set": list(spectrum),
            "r2": _column(spectrum, "r2"),
            "r": _column(spectrum, "r"),
            "within_cohort_r": _column(spectrum, "within_r"),
            "site_r2": _column(spectrum, "site_r2"),
            "site_within_cohort_r": _column(spectrum, "site_within_r"),
        }
    )


def _column(spectrum: Any, name: str) -> pa.Array:
    return pa.array([getattr(p, name) for p in spectrum.values()], pa.float64())
