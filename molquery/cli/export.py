"""molquery export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from molquery.cli.options import open_database


@click.command(epilog="\b\nExample:\n  molquery export exported --gmt collection.gmt")
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--only",
    type=click.Choice(["parquet", "h5ad"]),
    help="One of the two formats; both are written otherwise.",
)
@click.option(
    "--gmt",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also the predicted scores of the gene sets of a file.",
)
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier export.")
@click.pass_context
def export(
    ctx: click.Context, folder: Path, only: str | None, gmt: Path | None, overwrite: bool
) -> None:
    """Write the database to Parquet and .h5ad: vectors, shared vectors, metadata, scores.

    Ingesting the files into a new database gives the same content.
    """
    database = open_database(ctx)
    from molquery.export.archive import FORMATS, export_database

    scores: tuple[Any, Any] | None = None
    if gmt is not None:
        scores = _scores(ctx, gmt)
    formats = (only,) if only else FORMATS
    for path in export_database(
        database, folder, formats=formats, scores=scores, overwrite=overwrite
    ):
        click.echo(str(path))


def _scores(ctx: click.Context, gmt: Path) -> tuple[Any, Any]:
    from dataclasses import asdict

    from molquery.cli.options import open_engine
    from molquery.genesets.read import read_sets
    from molquery.query.cohort import score

    scored = score(open_engine(ctx), read_sets(gmt))
    return scored.table, {**asdict(scored.provenance), "skipped": scored.skipped}
