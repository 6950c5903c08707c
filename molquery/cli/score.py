"""molquery score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from molquery.cli.options import (
    engine_option,
    mapper_of,
    method_option,
    open_engine,
    registered_sets,
    scoring_option,
    study_options,
    where_option,
)
from molquery.cli.render import emit, emit_batches, emit_study, notes_lines, say
from molquery.errors import InputError

#: `molquery.query.batch.METHODS`, which is not loaded for --help.
_STREAMED = ("blend", "soft-knn", "ridge")
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
@engine_option
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
    engine: str,
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
    options: dict[str, Any] = {
        "where": where,
        "method": method,
        "scoring": scoring,
        "min_genes": min_genes,
    }
    streamed = (
        format_ in (None, "parquet") and not intervals and method in _STREAMED
        and output is not None and (format_ or output.suffix) in ("parquet", ".parquet", ".pq")
    )  # fmt: skip
    scores: Any
    if streamed and output is not None:
        with mapper_of(engine) as mapper:
            opened = open_engine(ctx, mapper)
            from molquery.query.batch import score_batches

            scores = score_batches(opened, signatures, **options, mapper=mapper)
            emit_batches(scores, output, overwrite=overwrite)
    elif engine != "local":
        raise InputError(
            "a cluster scores batches of slides by stored weights, into a Parquet file",
            found=f"--method {method}, --output {output}{', --intervals' * intervals}",
            hint=f"--output scores.parquet, --method {'|'.join(_STREAMED)}, no --intervals",
        )
    elif format_ == "cbioportal":
        emit_study(
            open_engine(ctx), signatures, study_id=study_id, cancer_type=cancer_type,
            output=output, overwrite=overwrite, caption=[_TITLE], **options,
        )  # fmt: skip
        return
    else:
        opened = open_engine(ctx)
        from molquery.query import cohort

        scores = cohort.score(opened, signatures, intervals=intervals, **options)
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
