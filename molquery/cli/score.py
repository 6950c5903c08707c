"""molquery score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from molquery.cli.options import (
    method_option,
    open_engine,
    registered_sets,
    scoring_option,
    study_options,
    where_option,
)
from molquery.cli.render import emit, emit_batches, emit_study, notes_lines, say

_TITLE = "H&E-predicted scores, for research use only"


@click.command(
    epilog="\b\nExample:\n  molquery score collection.gmt --format parquet --output scores.parquet"
)
@click.argument("sets", metavar="FILE|COLLECTION")
@where_option
@method_option
@scoring_option
@click.option(
    "--intervals",
    is_flag=True,
    help="Add SET_low and SET_high, the 90 % prediction interval, and each slide's domain.",
)
@click.option("--min-genes", type=click.IntRange(1), default=5, show_default=True)
@study_options
@click.pass_context
def score(
    ctx: click.Context,
    sets: str,
    where: str | None,
    method: str,
    scoring: str,
    intervals: bool,
    min_genes: int,
    study_id: str | None,
    cancer_type: str,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Score every slide for every gene set of a file: one row per slide, one column per set.

    GMT, GMX, Enrichr, MSigDB JSON and decoupler nets are read; columns are in the file's order. A
    collection is one that ships (hallmark) or was registered with molquery genesets add.
    """
    from molquery.files import refuse_existing
    from molquery.query.genesets import read_sets

    refuse_existing([output], overwrite=overwrite)
    signatures = read_sets(sets, registered_sets(ctx))
    engine = open_engine(ctx)
    from molquery.query import batch, cohort

    streamed = (
        format_ in (None, "parquet") and not intervals and method in batch.METHODS
        and output is not None and (format_ or output.suffix) in ("parquet", ".parquet", ".pq")
    )  # fmt: skip
    options: dict[str, Any] = {
        "where": where,
        "method": method,
        "scoring": scoring,
        "min_genes": min_genes,
    }
    if format_ == "cbioportal":
        emit_study(
            engine, signatures, study_id=study_id, cancer_type=cancer_type, output=output,
            overwrite=overwrite, caption=[_TITLE], **options,
        )  # fmt: skip
        return
    scores: Any
    if streamed and output is not None:
        scores = batch.score_batches(engine, signatures, **options)
        emit_batches(scores, output, overwrite=overwrite)
    else:
        scores = cohort.score(engine, signatures, intervals=intervals, **options)
        emit(
            scores.table, provenance=scores.provenance, format_=format_, output=output,
            overwrite=overwrite,
        )  # fmt: skip
    caption = [
        _TITLE,
        f"{len(signatures) - len(scores.skipped)} of {len(signatures)} gene sets scored",
        *(f"Skipped: {name} ({why})" for name, why in scores.skipped.items()),
        *notes_lines(scores.notes),
    ]
    for line in caption:
        say(line)
