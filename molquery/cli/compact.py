"""molquery compact."""

from __future__ import annotations

import click

from molquery.cli.options import open_database


@click.command(epilog="\b\nExample:\n  molquery compact --keep 5")
@click.option(
    "--keep",
    type=click.IntRange(1),
    metavar="N",
    help="Keep the newest N, and those with a tag.",
)
@click.option("--purge", is_flag=True, help="Keep the current version alone, and no tags.")
@click.option("--yes", is_flag=True, help="Do not ask before versions are dropped.")
@click.pass_context
def compact(ctx: click.Context, keep: int | None, purge: bool, yes: bool) -> None:
    """Write the tables in fewer files, without deleted rows, and drop old versions.

    Without --keep or --purge no version is dropped. What is dropped cannot be restored.
    """
    import sys

    from molquery import history
    from molquery.errors import InputError

    database = open_database(ctx)
    if (keep or purge) and not yes:
        if not sys.stdin.isatty():
            raise InputError("nothing was dropped: nobody can be asked", hint="add --yes")
        have = len(history.versions(database))
        left = "the current version" if purge else f"the newest {keep} and those with a tag"
        click.confirm(f"Of {have} versions keep only {left}?", abort=True, err=True)
    done = history.compact(database, keep=keep, purge=purge)
    click.echo(
        f"{len(done.dropped)} versions dropped, {len(done.kept)} kept; {done.files} files removed, "
        f"{done.bytes / 1e6:.1f} MB less"
    )
