"""molquery snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from molquery.cli.main import PLACE
from molquery.cli.options import open_database
from molquery.cli.render import progress_bar


@click.command(epilog="\b\nExample:\n  molquery snapshot backup-2026-07")
@click.argument("target", type=PLACE, metavar="DIRECTORY|URI")
@click.pass_context
def snapshot(ctx: click.Context, target: Path | str) -> None:
    """Copy the current version to a directory or to s3://BUCKET/PATH, checked file by file.

    Others may write meanwhile. The copy is a database: ask it with --db. To restore a backup, use
    it in place of the database, or take a snapshot of it.
    """
    database = open_database(ctx)
    from molquery.backup import snapshot as copy

    with progress_bar() as tell:
        made = copy(database, target, progress=tell)
    click.echo(
        f"version {made.version} copied to {made.path}: {made.files} files, "
        f"{made.bytes / 1e6:.1f} MB"
    )
    for name in made.left_out:
        click.echo(f"Note: {name} is damaged and was left out: molquery doctor --repair", err=True)
