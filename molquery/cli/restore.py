"""molquery restore."""

from __future__ import annotations

import click

from molquery.cli.options import open_database


@click.command(epilog="\b\nExample:\n  molquery restore --version 4")
@click.option("--version", type=click.IntRange(0), help="Its number: molquery history lists them.")
@click.option("--tag", metavar="NAME", help="Its tag.")
@click.pass_context
def restore(ctx: click.Context, version: int | None, tag: str | None) -> None:
    """Make the database what it was at an earlier version: slides, profiles, space, gene sets.

    It takes effect in one step and makes a new version, so a restore can be undone by another.
    """
    database = open_database(ctx)
    from molquery import history as library

    done = library.restore(database, version, tag=tag)
    if done.version is None:
        click.echo(f"the database is as it was at version {done.source}: nothing to do", err=True)
        return
    click.echo(
        f"version {done.source} is back, as version {done.version}: {done.slides} slides, "
        f"{done.profiles} profiles"
    )
    for note in done.notes:
        click.echo(f"Note: {note}", err=True)
