"""molquery search."""

from __future__ import annotations

from pathlib import Path

import click

from molquery.cli.options import (
    device_option,
    method_option,
    open_engine,
    output_options,
    read_signature,
    scoring_option,
    signature_options,
    where_option,
)
from molquery.cli.render import coverage_line, emit, notes_lines, predictability_lines

_INTERVAL = (
    "low to high: 90 % prediction interval of the score that the patient's RNA would give. "
    "domain out: unlike the slides that the model has learned from."
)


@click.command(
    epilog="\b\nExample:\n  molquery search --geneset HALLMARK_HYPOXIA -k 10\n"
    "  molquery search --genes CD8A,CXCL9,-EPCAM --where \"cohort = 'TCGA-LUAD'\" --within cohort"
)
@signature_options
@click.option("-k", default=20, show_default=True, type=click.IntRange(1), help="Slides to return.")
@where_option
@click.option("--within", metavar="COLUMN", help="Rank by the score standardised in each cohort.")
@method_option
@scoring_option
@click.option(
    "--null",
    default=300,
    show_default=True,
    type=int,
    metavar="N",
    help="Random gene sets behind p, FDR and specificity; 0 for none.",
)
@click.option(
    "--index",
    "use_index",
    is_flag=True,
    help="Rank only what an index finds: fast in an archive of millions.",
)
@click.option("--strict", is_flag=True, help="Refuse a signature that H&E hardly predicts.")
@device_option
@output_options
@click.pass_context
def search(
    ctx: click.Context,
    geneset: str | None,
    genes: str | None,
    down: str,
    min_genes: int,
    k: int,
    where: str | None,
    within: str | None,
    method: str,
    scoring: str,
    null: int,
    use_index: bool,
    device: str,
    strict: bool,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Rank slides by the predicted activity of a gene set. Scores are H&E-predicted."""
    signature = read_signature(ctx, geneset, genes, down)
    engine = open_engine(ctx)
    from molquery.query.search import search as run

    ranking = run(
        engine,
        signature,
        k=k,
        where=where,
        within=within,
        method=method,
        scoring=scoring,
        null=null,
        min_genes=min_genes,
        strict=strict,
        use_index=use_index,
        device=device,
    )
    shown = f"{ranking.hits.num_rows} of {ranking.n_ranked} slides, {signature.name}"
    how = f"ranked within {within}" if within else "ranked over the whole archive"
    emit(
        ranking.hits,
        provenance=ranking.provenance,
        document=ranking.to_dict,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[
            f"\n{shown}, {how}. H&E-predicted, for research use only.",
            *([_INTERVAL] if ranking.hits["low"].null_count < ranking.hits.num_rows else []),
            coverage_line(ranking.coverage),
            *predictability_lines(ranking.predictability),
            *notes_lines(ranking.notes),
        ],
    )
