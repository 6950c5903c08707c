"""molquery doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import pyarrow as pa

from molquery.cli.options import output_options
from molquery.cli.render import emit, progress_bar

_COLUMNS = ("severity", "check", "what", "remedy")


@click.command(epilog="\b\nExample:\n  molquery doctor --format json")
@click.option("--repair", is_flag=True, help="Make anew what is derived; never touches the rest.")
@click.option("--all", "every", is_flag=True, help="List the checks that found nothing, too.")
@output_options
@click.pass_context
def doctor(
    ctx: click.Context,
    repair: bool,
    every: bool,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Examine the installation and the database: what is wrong, and what to do.

    Without --db, the installation alone. Every file of every kept version is read and compared
    with its checksum. Exit 1 if there is a warning or an error.

    --repair makes indexes, predictions, sidecars, shared vectors and the manifest anew from what
    they are derived from, and removes what killed commands left. Tables, spaces and gene sets are
    the truth: it never writes them.
    """
    from molquery import doctor as library
    from molquery.errors import DatabaseError

    path: Path | str | None = ctx.obj["db"]
    if repair and path is None:
        raise DatabaseError("which database?", hint="molquery --db PATH doctor --repair")
    with progress_bar() as tell:
        if repair and path is not None:
            found = library.repair(path, progress=tell)
        else:
            found = library.examine(path, progress=tell)
    shown = [f for f in found.findings if every or f.severity != "ok"]
    table = pa.table({c: pa.array([getattr(f, c) for f in shown], pa.string()) for c in _COLUMNS})
    document = {
        "healthy": found.healthy,
        "environment": found.environment,
        "database": str(path) if path else None,
        "findings": [asdict(f) for f in found.findings],
        "repaired": list(found.repaired),
    }
    caption = [f"repaired: {line}" for line in found.repaired]
    fine = sum(f.severity == "ok" for f in found.findings)
    caption.append(f"{fine} of {len(found.findings)} checks found nothing to say")
    if format_ != "json":
        caption += [f"{name}: {value}" for name, value in found.environment.items()]
    emit(
        table, provenance=found.environment, document=lambda: document, format_=format_,
        output=output, overwrite=overwrite, caption=caption,
    )  # fmt: skip
    if not found.healthy:
        ctx.exit(1)
