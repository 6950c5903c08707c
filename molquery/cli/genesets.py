"""molquery genesets list|show|check."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

from molquery.cli.options import open_engine, output_options
from molquery.cli.render import emit


@click.group()
def genesets() -> None:
    """List, show or check gene sets."""


@genesets.command("list", epilog="\b\nExample:\n  molquery genesets list")
@output_options
def list_(format_: str | None, output: Path | None, overwrite: bool) -> None:
    """List the gene sets that ship with molquery."""
    from molquery.genesets.collections import shipped

    sets = shipped()
    table = pa.table(
        {
            "name": [s.name for s in sets],
            "genes": [len(s.genes) for s in sets],
            "collection": [s.source for s in sets],
            "description": [s.description for s in sets],
        }
    )
    emit(table, provenance={}, format_=format_, output=output, overwrite=overwrite)


@genesets.command(epilog="\b\nExample:\n  molquery genesets show HALLMARK_HYPOXIA")
@click.argument("name", metavar="NAME|FILE[#NAME]")
@output_options
def show(name: str, format_: str | None, output: Path | None, overwrite: bool) -> None:
    """Show the genes and weights of a gene set."""
    from molquery.genesets.collections import find

    signature = find(name)
    table = pa.table(
        {"gene": list(signature.genes), "weight": [float(w) for w in signature.weights.values()]}
    )
    emit(
        table,
        provenance={"gene_set": signature.name, "sha256": signature.sha256},
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[f"{signature.name}: {signature.description}"],
    )


@genesets.command(epilog="\b\nExample:\n  molquery genesets check HALLMARK_HYPOXIA")
@click.argument("name", metavar="NAME|FILE[#NAME]", required=False)
@output_options
@click.pass_context
def check(
    ctx: click.Context, name: str | None, format_: str | None, output: Path | None, overwrite: bool
) -> None:
    """Show how many genes of each set the database holds, and how well H&E predicts it.

    Without a name, every shipped set is checked; a GMT file checks all of its sets.
    """
    engine = open_engine(ctx)
    from molquery.query.genesets import check_sets, read_sets

    report = check_sets(engine, read_sets(name))
    emit(
        report.table,
        provenance=report.provenance,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[report.missing] if report.missing else [],
    )
