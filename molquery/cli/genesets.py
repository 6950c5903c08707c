"""molquery genesets list|show|check|add."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

from molquery.cli.options import open_database, open_engine, output_options, registered_sets
from molquery.cli.render import emit, say
from molquery.errors import some


@click.group()
def genesets() -> None:
    """List, show, check or register gene sets."""


@genesets.command("list", epilog="\b\nExample:\n  molquery genesets list")
@output_options
@click.pass_context
def list_(ctx: click.Context, format_: str | None, output: Path | None, overwrite: bool) -> None:
    """List the gene sets registered in the database, and those that ship with molquery."""
    from molquery.genesets.collections import shipped

    sets = (*registered_sets(ctx), *shipped())
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
@click.pass_context
def show(
    ctx: click.Context, name: str, format_: str | None, output: Path | None, overwrite: bool
) -> None:
    """Show the genes and weights of a gene set."""
    from molquery.genesets.collections import find

    signature = find(name, registered_sets(ctx))
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

    Without a name, every set is checked; a file or a collection checks all of its sets.
    """
    engine = open_engine(ctx)
    from molquery.query.genesets import check_sets, read_sets

    report = check_sets(engine, read_sets(name, registered_sets(ctx)))
    emit(
        report.table,
        provenance=report.provenance,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[report.missing] if report.missing else [],
    )


@genesets.command(epilog="\b\nExample:\n  molquery genesets add collection.gmt --name mine")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", required=True, metavar="COLLECTION", help="What to call the collection.")
@click.option("--overwrite", is_flag=True, help="Replace a collection of this name.")
@click.pass_context
def add(ctx: click.Context, file: Path, name: str, overwrite: bool) -> None:
    """Register the gene sets of a file in the database, to be found by name from then on.

    GMT, GMX, Enrichr text, MSigDB JSON and decoupler networks are read.
    """
    database = open_database(ctx)
    from molquery.genesets.read import read_sets
    from molquery.genesets.registered import register

    sets = read_sets(file)
    new = register(database, name, sets, origin=file.name, overwrite=overwrite)
    done = f"{len(sets)} gene sets registered" if new else "nothing new"
    say(f"{name}: {done}, such as {some((s.name for s in sets), 3)}", err=False)
