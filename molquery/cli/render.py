"""Rendering: tables for people, TSV or JSON for pipes, files where --output names one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from molquery.errors import printable
from molquery.pages import cell
from molquery.records import Provenance

Tell = Callable[..., None]

#: Between lines of progress where there is no terminal, such as in the log of a cluster's job.
_LINE_SECONDS = 30.0


def emit(
    table: pa.Table,
    *,
    provenance: Provenance | Mapping[str, Any],
    document: Mapping[str, Any] | None = None,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
    caption: Sequence[str] = (),
) -> None:
    """Write a result where and how the user wants it.

    `document` is the JSON form; without it the rows stand under "rows" beside the provenance.
    `caption` lines go to stderr, so that stdout holds the result and nothing else.
    """
    from molquery import export

    kind = format_ or _default_format(output)
    facts = asdict(provenance) if isinstance(provenance, Provenance) else dict(provenance)
    if kind == "json":
        whole = document or {"rows": table.to_pylist(), "provenance": facts}
        if output:
            export.write_json(whole, output, overwrite=overwrite)
        else:
            click.echo(export.to_json(whole))
    elif output:
        name = "tsv" if kind == "table" else kind
        export.write(table, facts, output, name, overwrite=overwrite)
    elif kind == "table":
        print_table(table)
    else:
        click.echo(export.to_text(table, kind), nl=False)
    if output:
        click.echo(f"{table.num_rows} rows written to {output}", err=True)
    for line in caption:
        click.echo(line, err=True)


#: Columns of a table of tests, as `associate.Association` has them.
TESTS = ("strata", "cohort", "outcome", "test", "n", "events", "statistic", "p", "q", "effect",
         "estimate", "low", "high", "note")  # fmt: skip


def tests_table(associations: Any) -> pa.Table:
    """Association tests as a table, in the order in which they were made."""
    rows = [test.to_dict() for test in associations.tests]
    for row in rows:
        for name in ("n", "events"):
            row[name] = ", ".join(f"{k} {v}" for k, v in row[name].items())
    kinds = {name: pa.float64() for name in ("statistic", "p", "q", "estimate", "low", "high")}
    fields = [pa.field(name, kinds.get(name, pa.string())) for name in TESTS]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def emit_tests(
    associations: Any, provenance: Provenance, target: Path | None, *, overwrite: bool
) -> None:
    """The tests on stderr, for a person, and in a file where one is named."""
    from molquery import export

    table = tests_table(associations)
    if target is not None:
        kind = export.guess(target)
        name = kind.name if kind else "tsv"
        export.write(table, asdict(provenance), target, name, overwrite=overwrite)
        click.echo(f"{table.num_rows} tests written to {target}", err=True)
    constant = {
        name for name in ("strata", "cohort", "note", "events")
        if len(set(table[name].to_pylist())) == 1
    }  # fmt: skip
    shown = table.drop_columns(sorted(constant))
    click.echo(table_text(shown, "Tests of the strata"), err=True, nl=False)


def _default_format(output: Path | None) -> str:
    from molquery import export

    if output is not None:
        if output.suffix == ".json":
            return "json"
        guess = export.guess(output)
        return guess.name if guess else "tsv"
    return "table" if sys.stdout.isatty() else "tsv"


def print_table(table: pa.Table, title: str | None = None) -> None:
    """A table on stdout, as wide as it needs to be; ids are never cut."""
    click.echo(table_text(table, title), nl=False)


def table_text(table: pa.Table, title: str | None = None) -> str:
    """The table as text, at least as wide as its content."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for field in table.schema:
        number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        grid.add_column(field.name, justify="right" if number else "left", no_wrap=True)
    for row in zip(*(table[c].to_pylist() for c in table.schema.names), strict=True):
        grid.add_row(*(Text(printable(cell(v), 200)) for v in row))
    buffer = StringIO()
    colour = sys.stdout.isatty()
    console = Console(file=buffer, force_terminal=colour, no_color=not colour, width=10_000)
    # The real width: rich would otherwise cut columns to an 80-column terminal.
    console.width = max(20, console.measure(grid).maximum)
    console.print(grid)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    """A number for a sentence; 'not measured' where there is none."""
    return "not measured" if value is None else f"{value:.{digits}f}"


def predictability_lines(p: Any) -> list[str]:
    """What held-out patients say about a signature, in two or three plain lines."""
    lines = [
        f"Predictability (H&E-predicted against measured, {p.n_pairs} profiles, "
        f"{held_out(p.split_on)} held out): "
        f"R² {number(p.r2)}, r {number(p.r)}, within cohorts r {number(p.within_r)}"
        + (f"; sites held out: R² {number(p.site_r2)}, within cohorts r {number(p.site_within_r)}"
           if p.site_r2 is not None else "")
    ]  # fmt: skip
    if p.rank and p.of:
        place = "as predictable as the best of" if p.rank == 1 else f"place {p.rank} among"
        lines.append(f"  {place} {p.of} Hallmark sets of this database, by r within cohorts")
    weak = {c: r for c, r in p.by_cohort.items() if r is not None and r < 0.2}
    if weak:
        named = ", ".join(f"{c} {r:.2f}" for c, r in weak.items())
        lines.append(f"  weak within {named}")
    return lines


def held_out(split_on: str) -> str:
    """What was held out together, in words: patients, or the values of another column."""
    return "patients" if split_on == "patient_id" else f"{split_on} values"


def coverage_line(coverage: Any) -> str:
    """How many of a signature's genes the database holds, with the missing ones named."""
    total = len(coverage.found) + len(coverage.missing)
    line = f"Genes: {len(coverage.found)} of {total} in the database"
    if coverage.missing:
        from molquery.errors import some

        line += f"; missing {some(coverage.missing, 8)}"
    return line


@contextmanager
def progress_bar() -> Iterator[Tell]:
    """A function (stage, done, total, text) that draws progress on stderr, if it is a terminal.

    Off a terminal it writes one line per stage, and one more every half minute.
    """
    if not sys.stderr.isatty():
        begun: dict[str, float] = {}
        told: dict[str, float] = {}

        def line(stage: str, done: int, total: int, text: str = "") -> None:
            now = time.monotonic()
            if stage not in begun:
                begun[stage] = told[stage] = now
                click.echo(f"{stage} …", err=True)
            elif now - told[stage] > _LINE_SECONDS:
                told[stage] = now
                rate = done / (now - begun[stage])
                click.echo(f"{stage}: {done} of {total or '?'}, {rate:.1f} a second", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        """How many a second, once it is known."""

        def render(self, task: Task) -> str:
            speed = task.finished_speed or task.speed
            return f"{speed:.1f}/s" if speed else ""

    columns = (
        TextColumn("{task.description:<22}"), BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        Rate(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def draw(stage: str, done: int, total: int, text: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None, text="")
            bars.update(tasks[stage], completed=done, total=total or None, text=text)

        yield draw


def notes_lines(notes: Sequence[str]) -> list[str]:
    """Notes as lines of their own."""
    return [f"Note: {note}" for note in notes]
