"""molquery snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from molquery.cli.options import open_database
from molquery.cli.render import progress_bar


@click.command(epilog="\b\nExample:\n  molquery snapshot backup-2026-07")
@click.argument("directory", type=click.Path(path_type=Path))
@click.pass_context
def snapshot(ctx: click.Context, directory: Path) -> None:
    """Copy the current version to DIRECTORY, checked file by file, while others may write.

    The copy is a database: ask it with --db DIRECTORY. To restore a backup, use it in place of the
    database, or take a snapshot of it.
    """
    database = open_database(ctx)
    from molquery.backup import snapshot as copy

    with progress_bar() as tell:
        made = copy(database, directory, progress=tell)
    click.echo(
        f"version {made.version} copied to {made.path}: {made.files} files, "
        f"{made.bytes / 1e6:.1f} MB"
    )
    for name in made.left_out:
        click.echo(f"Note: {name} is damaged and was left out: molquery doctor --repair", err=True)
