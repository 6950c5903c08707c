"""molquery export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from molquery.cli.options import open_database


@click.command(epilog="\b\nExample:\n  molquery export exported --genesets hallmark")
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--only",
    type=click.Choice(["parquet", "h5ad"]),
    help="One of the two formats; both are written otherwise.",
)
@click.option(
    "--genesets",
    metavar="FILE|COLLECTION",
    help="Also the predicted scores of the gene sets of a file, or of a collection.",
)
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier export.")
@click.pass_context
def export(
    ctx: click.Context, folder: Path, only: str | None, genesets: str | None, overwrite: bool
) -> None:
    """Write the database to Parquet and .h5ad: vectors, shared vectors, metadata, scores.

    Ingesting the files into a new database gives the same content.
    """
    database = open_database(ctx)
    from molquery.export.archive import FORMATS, export_database

    scores: tuple[Any, Any] | None = None
    if genesets is not None:
        scores = _scores(ctx, genesets)
    formats = (only,) if only else FORMATS
    for path in export_database(
        database, folder, formats=formats, scores=scores, overwrite=overwrite
    ):
        click.echo(str(path))


def _scores(ctx: click.Context, genesets: str) -> tuple[Any, Any]:
    from dataclasses import asdict

    from molquery.cli.options import open_engine, registered_sets
    from molquery.query.cohort import score
    from molquery.query.genesets import read_sets

    scored = score(open_engine(ctx), read_sets(genesets, registered_sets(ctx)))
    return scored.table, {**asdict(scored.provenance), "skipped": scored.skipped}
