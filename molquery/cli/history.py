"""molquery history."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import pyarrow as pa

from molquery.cli.options import open_database, output_options
from molquery.cli.render import emit


@click.group(
    invoke_without_command=True,
    epilog="\b\nExample:\n  molquery history\n  molquery history tag paper",
)
@output_options
@click.pass_context
def history(ctx: click.Context, format_: str | None, output: Path | None, overwrite: bool) -> None:
    """List the versions of the database: when, by which command, with how many rows.

    Every command that changes slides, profiles, the space or gene sets makes a version, and every
    version can be restored until molquery compact drops it.
    """
    if ctx.invoked_subcommand is not None:
        return
    database = open_database(ctx)
    from molquery.history import versions

    found = versions(database)
    table = pa.table(
        {
            "version": [v.version for v in found],
            "time": [v.time for v in found],
            "command": [v.command for v in found],
            "what": [v.details for v in found],
            "slides": [v.slides for v in found],
            "profiles": [v.profiles for v in found],
            "space": [v.space for v in found],
            "tags": [", ".join(v.tags) for v in found],
            "state": ["damaged" if v.damaged else "current" if v.current else "" for v in found],
        }
    )
    emit(
        table,
        provenance={"database": database.name},
        document=lambda: {"database": database.name, "versions": [asdict(v) for v in found]},
        format_=format_,
        output=output,
        overwrite=overwrite,
    )


@history.command(epilog="\b\nExample:\n  molquery history tag paper --version 4")
@click.argument("name")
@click.option("--version", type=click.IntRange(0), help="Default: the current version.")
@click.option("--overwrite", is_flag=True, help="Move a tag that another version has.")
@click.pass_context
def tag(ctx: click.Context, name: str, version: int | None, overwrite: bool) -> None:
    """Give a version a name: molquery compact keeps it, molquery restore --tag finds it."""
    database = open_database(ctx)
    from molquery import history as library

    number = library.tag(database, name, version, overwrite=overwrite)
    click.echo(f"version {number} has the tag {name}", err=True)


@history.command(epilog="\b\nExample:\n  molquery history untag paper")
@click.argument("name")
@click.pass_context
def untag(ctx: click.Context, name: str) -> None:
    """Take a tag away; the version stays until it is compacted away."""
    database = open_database(ctx)
    from molquery import history as library

    library.untag(database, name)
    click.echo(f"no version has the tag {name} any more", err=True)
