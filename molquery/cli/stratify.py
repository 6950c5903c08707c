"""molquery stratify."""

from __future__ import annotations

from pathlib import Path

import click

from molquery.cli.options import (
    method_option,
    open_engine,
    output_options,
    read_signature,
    scoring_option,
    signature_options,
    where_option,
)
from molquery.cli.render import coverage_line, emit, notes_lines, predictability_lines


@click.command(
    epilog="\b\nExample:\n  molquery stratify --geneset HALLMARK_E2F_TARGETS --cut tertiles "
    "--within cohort --format csv --output strata.csv"
)
@signature_options
@click.option(
    "--cut",
    default="tertiles",
    show_default=True,
    help="tertiles, median, quantiles:0.25,0.75 or value:0.5.",
)
@click.option("--within", type=click.Choice(["cohort"]), help="Cut inside each cohort.")
@where_option
@method_option
@scoring_option
@output_options
@click.pass_context
def stratify(
    ctx: click.Context,
    geneset: str | None,
    genes: str | None,
    down: str,
    min_genes: int,
    cut: str,
    within: str | None,
    where: str | None,
    method: str,
    scoring: str,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Split a cohort by the predicted activity of a gene set.

    The cut points are part of the result's provenance.
    """
    signature = read_signature(ctx, geneset, genes, down)
    engine = open_engine(ctx)
    from molquery.query.cohort import stratify_cohort

    strata = stratify_cohort(
        engine,
        signature,
        cut=cut,
        within=within,
        where=where,
        method=method,
        scoring=scoring,
        min_genes=min_genes,
    )
    counts = ", ".join(f"{label} {n}" for label, n in strata.counts.items())
    points = "; ".join(
        f"{scope}: {', '.join(f'{p:.3f}' for p in cuts)}"
        for scope, cuts in strata.cut.points.items()
    )
    emit(
        strata.table,
        provenance=strata.provenance,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[
            f"Strata of {signature.name} (H&E-predicted): {counts}",
            f"Cut points: {points}",
            coverage_line(strata.coverage),
            *predictability_lines(strata.predictability),
            *notes_lines(strata.notes),
        ],
    )
