"""molquery init."""

from __future__ import annotations

import click

from molquery.cli.options import database_path
from molquery.cli.render import say


@click.command(epilog="\b\nExample:\n  molquery --db archive.mq init")
@click.pass_context
def init(ctx: click.Context) -> None:
    """Create an empty database at --db PATH (or MOLQUERY_DB)."""
    from molquery.database import Database

    database = Database.create(database_path(ctx))
    say(f"created {database.name}; next: molquery ingest slides FILE")
