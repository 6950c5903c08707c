"""molquery delete slides|profiles."""

from __future__ import annotations

import sys
from typing import Any

import click

from molquery.cli.options import open_database
from molquery.errors import InputError, printable, some


@click.group()
def delete() -> None:
    """Delete slides or profiles, and everything that was derived from them."""


def _options(function: Any) -> Any:
    for option in (
        click.option(
            "--purge",
            is_flag=True,
            help="For good: drop every earlier version and every tag, and write the tables anew.",
        ),
        click.option("--yes", is_flag=True, help="Do not ask (for scripts)."),
        click.option(
            "--where", metavar="SQL", required=True, help="Which: \"patient_id = 'P-17'\"."
        ),
    ):
        function = option(function)
    return click.pass_context(function)


@delete.command(epilog="\b\nExample:\n  molquery delete slides --where \"patient_id = 'P-17'\"")
@_options
def slides(ctx: click.Context, where: str, yes: bool, purge: bool) -> None:
    """Delete the slides that satisfy a filter, after showing how many they are.

    They are gone from tables, indexes, sidecars and predictions at once. Earlier versions keep
    them, so that molquery restore can bring them back, unless --purge is given.
    """
    _delete(ctx, "slides", where, yes, purge)


@delete.command(epilog="\b\nExample:\n  molquery delete profiles --where \"site = 'A7'\" --yes")
@_options
def profiles(ctx: click.Context, where: str, yes: bool, purge: bool) -> None:
    """Delete the profiles that satisfy a filter, after showing how many they are.

    As molquery delete slides. Scores are relative to the profiles, so every score changes.
    """
    _delete(ctx, "profiles", where, yes, purge)


def _delete(ctx: click.Context, table: str, where: str, yes: bool, purge: bool) -> None:
    database = open_database(ctx)
    from molquery import history, schema

    plan = history.plan_deletion(database, schema.TABLES[table], where)
    if not plan.ids:
        hint = "molquery compact --purge ends a delete --purge that was interrupted"
        raise InputError(
            f"no {table} satisfy the filter", found=f"--where {printable(where)}",
            hint=hint if purge else None,
        )  # fmt: skip
    click.echo(
        f"{len(plan.ids)} of {plan.total} {table}, of {len(plan.patients)} patients: "
        f"{some(plan.ids, 3)}",
        err=True,
    )
    if purge:
        click.echo("every earlier version and every tag will be dropped", err=True)
        if plan.learned:
            click.echo("the shared space, learned from some of them, will be removed", err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("nothing was deleted: nobody can be asked", hint="add --yes")
        if not click.confirm("Delete them for good?" if purge else "Delete them?", err=True):
            click.echo("nothing was deleted", err=True)
            ctx.exit(1)
    done = history.delete(database, plan, purge=purge)
    click.echo(f"{done.rows} {table} deleted, {done.left} left (version {done.version})")
    for note in done.notes:
        click.echo(f"Note: {note}", err=True)
