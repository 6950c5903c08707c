"""molquery explain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from molquery.cli.options import open_engine, output_options, read_signature, signature_options
from molquery.cli.render import coverage_line, emit, notes_lines, predictability_lines, print_table


@click.command(
    epilog="\b\nExample:\n  molquery explain SLIDE_ID --geneset HALLMARK_HYPOXIA\n"
    "  molquery explain SLIDE_ID --genes CD8A,CXCL9 --format json"
)
@click.argument("slide", metavar="SLIDE")
@signature_options
@click.option(
    "-k",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    help="Rows of each table on a terminal; other formats have all of them.",
)
@click.option(
    "--feature-names",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names of the slide features: a JSON list, or one per line.",
)
@output_options
@click.pass_context
def explain(
    ctx: click.Context,
    slide: str,
    geneset: str | None,
    genes: str | None,
    down: str,
    min_genes: int,
    k: int,
    feature_names: Path | None,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Say what a slide's score is made of: reference profiles, genes and slide features.

    Contributions of neighbours, features and level add up to the score; so do those of genes.
    """
    signature = read_signature(ctx, geneset, genes, down)
    engine = open_engine(ctx)
    from molquery.query import explain as run

    names = run.read_feature_names(feature_names) if feature_names else None
    found = run.explain(engine, slide, signature, feature_names=names, min_genes=min_genes)
    caption = [
        coverage_line(found.coverage),
        *predictability_lines(found.predictability),
        *notes_lines(found.notes),
    ]
    if output is None and (format_ or ("table" if sys.stdout.isatty() else "")) == "table":
        _print(found, k)
        for line in caption:
            click.echo(line, err=True)
        return
    emit(
        found.to_table(),
        provenance=found.provenance,
        document=found.to_dict,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[_headline(found), *caption],
    )


def _headline(found: Any) -> str:
    from molquery.query.calibrate import LEVEL

    interval = ""
    if found.low is not None:
        interval = f" ({LEVEL:.0%} interval {found.low:.2f} to {found.high:.2f})"
    place = f"percentile {found.percentile:.0f} of the archive"
    if found.cohort_percentile is not None:
        place += f", {found.cohort_percentile:.0f} of {found.cohort}"
    return (
        f"{found.slide_id}, {found.signature.name}: score {found.score:.3f}{interval}; {place}. "
        f"Basis: {found.basis}; domain: {found.domain}. H&E-predicted, for research use only."
    )


def _print(found: Any, k: int) -> None:
    """The score's parts, then the three tables, each with a line for what is not shown."""
    click.echo(_headline(found))
    click.echo(
        f"  = {found.neighbour_part:+.3f} nearest profiles {found.feature_part:+.3f} slide "
        f"features {found.level:+.3f} level of the average slide"
    )
    for title, table in (
        ("Nearest reference profiles (weight x measured score)", found.neighbours),
        ("Genes of the signature (all parts together)", found.genes),
        ("Slide features (the ridge's part)", found.features),
    ):
        if table.num_rows == 0:
            continue
        click.echo(f"\n{title}")
        print_table(_shortened(table, k))


def _shortened(table: pa.Table, k: int) -> pa.Table:
    """The first k rows, and one that sums up the others."""
    if table.num_rows <= k + 1:
        return table
    rest = table.slice(k)
    row: dict[str, Any] = dict.fromkeys(table.schema.names)
    row[table.schema.names[0]] = f"({rest.num_rows} others)"
    row["contribution"] = sum(rest["contribution"].to_pylist())
    return pa.concat_tables([table.slice(0, k), pa.Table.from_pylist([row], table.schema)])
