"""molquery score."""

from __future__ import annotations

from pathlib import Path

import click

from molquery.cli.options import (
    method_option,
    open_engine,
    output_options,
    scoring_option,
    where_option,
)
from molquery.cli.render import emit, notes_lines


@click.command(
    epilog="\b\nExample:\n  molquery score collection.gmt --format parquet --output scores.parquet"
)
@click.argument("gmt", type=click.Path(path_type=Path), metavar="FILE")
@where_option
@method_option
@scoring_option
@click.option(
    "--intervals",
    is_flag=True,
    help="Add SET_low and SET_high, the 90 % prediction interval, and each slide's domain.",
)
@click.option("--min-genes", type=click.IntRange(1), default=5, show_default=True)
@output_options
@click.pass_context
def score(
    ctx: click.Context,
    gmt: Path,
    where: str | None,
    method: str,
    scoring: str,
    intervals: bool,
    min_genes: int,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Score every slide for every gene set of a file: one row per slide, one column per set.

    GMT, GMX, Enrichr, MSigDB JSON and decoupler nets are read; columns are in the file's order.
    """
    from molquery.genesets.read import read_sets

    signatures = read_sets(gmt)
    engine = open_engine(ctx)
    from molquery.query.cohort import score as run

    scores = run(
        engine,
        signatures,
        where=where,
        method=method,
        scoring=scoring,
        intervals=intervals,
        min_genes=min_genes,
    )
    skipped = [f"{name} ({why})" for name, why in scores.skipped.items()]
    caption = ["H&E-predicted scores, for research use only"]
    caption += [f"{len(signatures) - len(skipped)} of {len(signatures)} gene sets scored"]
    caption += [f"Skipped: {line}" for line in skipped]
    emit(
        scores.table,
        provenance=scores.provenance,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[*caption, *notes_lines(scores.notes)],
    )
