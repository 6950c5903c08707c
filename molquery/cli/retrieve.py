"""molquery retrieve."""

from __future__ import annotations

import os
from pathlib import Path

import click

from molquery.cli.options import device_option, open_engine, output_options, where_option
from molquery.cli.render import emit, notes_lines


@click.command(
    epilog="\b\nExample:\n  molquery retrieve SLIDE_ID --to profiles -k 5\n"
    "  molquery retrieve new_slide.h5 --to slides"
)
@click.argument("query", metavar="ID|FILE")
@click.option(
    "--to", required=True, type=click.Choice(["slides", "profiles"]), help="What to find."
)
@click.option(
    "--from",
    "source",
    type=click.Choice(["slides", "profiles"]),
    help="What the query is, where that is not clear.",
)
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many.")
@where_option
@click.option("--id", "id_", metavar="COLUMN", help="The column of ids in a query file.")
@click.option("--vector", metavar="COLUMN", help="The column of vectors in a query file.")
@device_option
@output_options
@click.pass_context
def retrieve(
    ctx: click.Context,
    query: str,
    to: str,
    source: str | None,
    k: int,
    where: str | None,
    id_: str | None,
    vector: str | None,
    device: str,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Find the slides or profiles nearest to a slide, a profile, or a file of either."""
    if os.path.exists(query):
        from molquery.cli.main import pandas_now

        pandas_now()  # some formats are read with it
    engine = open_engine(ctx)
    from molquery.query.retrieve import retrieve as run

    options = None
    if id_ or vector:
        from molquery.readers import Options

        options = Options(id=id_, vector=vector)

    found = run(
        engine,
        query,
        to=to,
        source=source,
        k=k,
        where=where,
        options=options,
        device=device,
    )
    emit(
        found.hits,
        provenance=found.provenance,
        document=found.to_dict,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=notes_lines(found.notes),
    )
