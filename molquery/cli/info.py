"""molquery info."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from molquery.cli.options import open_database, output_options
from molquery.cli.render import emit


@click.command(epilog="\b\nExample:\n  molquery info")
@output_options
@click.pass_context
def info(ctx: click.Context, format_: str | None, output: Path | None, overwrite: bool) -> None:
    """Say what the database holds: tables, cohorts, encoders, space, indexes."""
    database = open_database(ctx)
    from molquery.overview import overview

    facts = overview(database)
    rows = [(k, _text(v)) for k, v in facts.items()]
    table = pa.table({"what": [r[0] for r in rows], "value": [r[1] for r in rows]})
    emit(
        table, provenance={}, document=lambda: facts, format_=format_, output=output,
        overwrite=overwrite,
    )  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(str(v) for v in value) or "none"
    return str(value)
