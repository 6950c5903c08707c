"""molquery index build|list|check."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

from molquery.cli.options import (
    device_option,
    engine_option,
    mapper_of,
    open_database,
    open_engine,
    output_options,
)
from molquery.cli.render import emit, progress_bar, say
from molquery.errors import IndexFileError

_COLUMNS = ("index", "recipe", "factory", "rows", "recall_at_10", "built", "state")


@click.group()
def index() -> None:
    """Build, list or check FAISS indexes.

    Indexes are derived: a stale or damaged one is never used, and exact search answers instead.
    """


@index.command(epilog="\b\nExample:\n  molquery index build\n  molquery index build --recall 1")
@click.option(
    "--recipe",
    default="auto",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="How to build it: flat, flat16, ivf, ivf-rabitq, hnsw, ivfpq, gpu-…; auto chooses.",
)
@click.option(
    "--recall",
    default=0.99,
    show_default=True,
    type=float,
    help="Share of the true 10 nearest that it must find; 1 for exact answers.",
)
@click.option("--force", is_flag=True, help="Build it anew, be it current or not.")
@device_option
@engine_option
@click.pass_context
def build(
    ctx: click.Context, recipe: str, recall: float, force: bool, device: str, engine: str
) -> None:
    """Build the index of slides and of profiles, and measure its recall on this archive.

    One that is current stays as it is. Where only new rows came since it was built, an index of
    inverted lists is extended, and its recall measured anew.
    """
    from molquery.recipes import load_recipe

    if recipe != "auto":
        chosen = load_recipe(recipe)
    from molquery.query.indexes import build_indexes

    with mapper_of(engine) as mapper, progress_bar() as tell:
        entries = build_indexes(
            open_engine(ctx, mapper), "auto" if recipe == "auto" else chosen, tell,
            recall=recall, device=device, mapper=mapper, anew=force,
        )  # fmt: skip
    for entry in entries:
        new = f", extended by {entry['extended_by']}" if entry.get("extended_by") else ""
        if entry.get("stays"):
            new = " (current already: --force builds it anew)"
        say(
            f"{entry['table']}: {entry['recipe']} ({entry['factory']}), {entry['rows']} rows{new}, "
            f"recall@10 {entry['recall_at_10']:.3f} against exact search",
            err=False,
        )
        for line in filter(None, [entry["why"], *entry["told"]]):
            say(f"  {line}")


@index.command("list", epilog="\b\nExample:\n  molquery index list")
@output_options
@click.pass_context
def list_(ctx: click.Context, format_: str | None, output: Path | None, overwrite: bool) -> None:
    """List the indexes and whether they are current."""
    _show(ctx, False, format_, output, overwrite)


@index.command(epilog="\b\nExample:\n  molquery index check")
@output_options
@click.pass_context
def check(ctx: click.Context, format_: str | None, output: Path | None, overwrite: bool) -> None:
    """Check every index: checksum, space and table version. Exit 1 if one must not be used."""
    states = _show(ctx, True, format_, output, overwrite)
    bad = [s for s in states if not s.startswith("ok")]
    if bad:
        raise IndexFileError(
            f"{len(bad)} of {len(states)} indexes cannot be used", hint="molquery index build"
        )


def _show(
    ctx: click.Context, checksums: bool, format_: str | None, output: Path | None, overwrite: bool
) -> list[str]:
    database = open_database(ctx)
    from molquery.query.indexes import index_states

    states = index_states(database, checksums=checksums)
    table = pa.table({c: [s[c] for s in states] for c in _COLUMNS})
    emit(
        table,
        provenance={"database": database.name},
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=[] if states else ["no index has been built: molquery index build"],
    )
    return [s["state"] for s in states]
