"""Rendering: tables for people, TSV or JSON for pipes, files where --output names one."""

from __future__ import annotations

import re
import shlex
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
#: What draws on the terminal now: a terminal has room for one.
_drawing: list[Tell] = []


def emit(
    table: pa.Table,
    *,
    provenance: Provenance | Mapping[str, Any],
    document: Callable[[], Mapping[str, Any]] | None = None,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
    caption: Sequence[str] = (),
) -> None:
    """Write a result where and how the user wants it.

    `document` gives the JSON form; without it the rows stand under "rows" beside the provenance.
    `caption` lines go to stderr, so that stdout holds the result and nothing else.
    """
    from molquery import export

    kind = format_ or _default_format(output)
    facts = told(provenance)
    if kind == "json":
        whole = document() if document else {"rows": table.to_pylist()}
        whole = {**whole, "provenance": facts}
        if output:
            export.write_json(whole, output, overwrite=overwrite)
        else:
            click.echo(export.to_json(whole))
    elif output:
        name = "tsv" if kind == "table" else kind
        if name == "h5ad":
            from molquery.cli.main import pandas_now

            pandas_now()
        export.write(table, facts, output, name, overwrite=overwrite)
    elif kind == "table":
        print_table(table)
    else:
        click.echo(export.to_text(table, kind), nl=False)
    if output:
        say(f"{table.num_rows} rows written to {output}")
    for line in caption:
        say(line)


def say(text: str, *, err: bool = True) -> None:
    """Print lines for a person; ids and file names in them cannot drive the terminal."""
    for line in text.split("\n"):
        click.echo(printable(line, limit=None), err=err)


def told(provenance: Provenance | Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as plain values, with the command that was typed."""
    facts = asdict(provenance) if isinstance(provenance, Provenance) else dict(provenance)
    return {**facts, "command": shlex.join(["molquery", *sys.argv[1:]])}


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


def emit_batches(batches: Any, target: Path, *, overwrite: bool) -> None:
    """Write scores to a Parquet file as they are computed."""
    from molquery import export

    def told_rows(tell: Tell) -> Iterator[Any]:
        done = 0
        for batch in batches.rows:
            tell("scoring slides", done, batches.n_rows)
            yield batch
            done += batch.num_rows
        tell("scoring slides", done, batches.n_rows)

    with progress_bar() as tell:
        export.write_batches(
            told_rows(tell), batches.schema, told(batches.provenance), target, overwrite=overwrite
        )
    say(f"{batches.n_rows} rows written to {target}")


def emit_study(
    engine: Any,
    signatures: Sequence[Any],
    *,
    study_id: str | None,
    output: Path | None,
    overwrite: bool,
    caption: Sequence[str],
    **options: Any,
) -> None:
    """Write a cBioPortal study to a directory, and say what its user must know."""
    from molquery.errors import InputError, some
    from molquery.export import cbioportal
    from molquery.query.portal import study_of

    if output is None:
        raise InputError("a cBioPortal study is a directory", hint="--output DIRECTORY")
    name = study_id or re.sub(r"[^a-z0-9_]+", "_", output.name.lower()).strip("_") or "molquery"
    study, provenance, notes = study_of(engine, signatures, study_id=name, **options)
    changed = cbioportal.write(study, told(provenance), output, overwrite=overwrite)
    say(
        f"study {name}: {len(study.scored)} slides, {len(study.measured)} samples with RNA, "
        f"{len(study.gene_sets)} gene sets, written to {output}", err=True,
    )  # fmt: skip
    if changed:
        listed = some(f"{what} {old} -> {new}" for what, old, new in changed)
        say(f"{len(changed)} ids were changed, all in {cbioportal.IDS}: {listed}")
    for line in (*caption, *notes_lines(notes)):
        say(line)


def emit_tests(
    associations: Any, provenance: Provenance, target: Path | None, *, overwrite: bool
) -> None:
    """The tests on stderr, for a person, and in a file where one is named."""
    from molquery import export

    table = tests_table(associations)
    if target is not None:
        kind = export.guess(target)
        name = kind.name if kind else "tsv"
        export.write(table, told(provenance), target, name, overwrite=overwrite)
        say(f"{table.num_rows} tests written to {target}")
    values = {name: set(table[name].to_pylist()) for name in ("strata", "cohort", "note", "events")}
    dropped = [n for n in ("strata", "cohort") if len(values[n]) == 1]
    dropped += [n for n in ("note", "events") if values[n] == {""}]
    shown = table.drop_columns(dropped)
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
    """What held-out patients say about a signature: one plain sentence, then the numbers."""
    from molquery.query.answer import in_words

    lines = [
        f"Predictability: {in_words(p)}.",
        f"  predicted against measured, {p.n_pairs} profiles, {held_out(p.split_on)} held out: "
        f"R² {number(p.r2)}, r {number(p.r)}, Spearman {number(p.spearman)}, "
        f"within cohorts r {number(p.within_r)}",
    ]
    if p.site_r2 is not None:
        lines.append(
            f"  sites held out: R² {number(p.site_r2)}, within cohorts r {number(p.site_within_r)}"
        )
    if p.by_cohort:
        each = sorted(p.by_cohort.items(), key=lambda item: -(item[1] or -2.0))
        lines.append("  by cohort: " + ", ".join(f"{c} {number(r)}" for c, r in each))
    if p.rank and p.of:
        lines.append(f"  place {p.rank} among {p.of} Hallmark sets of this database")
    if p.random_r is not None:
        lines.append(
            f"  random gene sets of like size and expression: r {number(p.random_r)}; "
            f"this one stands {number(p.specificity)} above, z {number(p.specificity_z, 1)}"
        )
    return lines


def held_out(split_on: str) -> str:
    """What was held out together, in words: patients, or the values of another column."""
    return "patients" if split_on == "patient_id" else f"{split_on} values"


def left_out_lines(facts: Mapping[str, Any]) -> list[str]:
    """What a space says of patients whose RNA it left out; nothing where it left out none."""
    hold_out = facts.get("hold_out")
    if not hold_out:
        return []
    q = hold_out["quality"]
    return [
        f"\nHeld out: {hold_out['rule']}, {q['n_patients']} patients with {q['n_slides']} slides; "
        "none of their RNA was used. Predicted as an unseen cohort, against that RNA: "
        f"within-cohort r {number(q['within_r'], 3)}, R² {number(q['r2'], 3)} (medians over "
        f"{q['n_sets']} Hallmark sets); slide to RNA fold@10 {q['fold10']:.1f} "
        f"(gallery {q['n_profiles']})"
    ]


def coverage_line(coverage: Any) -> str:
    """How many of a signature's genes the database holds, with the missing ones named."""
    total = len(coverage.found) + len(coverage.missing)
    line = f"Genes: {len(coverage.found)} of {total} in the database"
    if coverage.missing:
        from molquery.errors import some

        line += f"; missing {some(coverage.missing, 8)}"
    return line


def stage_lines() -> Tell:
    """A function that writes one line on stderr per stage, and one more every half minute."""
    begun: dict[str, float] = {}
    told: dict[str, float] = {}

    def line(stage: str, done: int, total: int, text: str = "") -> None:
        now = time.monotonic()
        if stage not in begun:
            begun[stage] = told[stage] = now
            say(f"{stage} …")
        elif now - told[stage] > _LINE_SECONDS:
            told[stage] = now
            rate = done / (now - begun[stage])
            say(f"{stage}: {done} of {total or '?'}, {rate:.1f} a second")

    return line


@contextmanager
def progress_bar() -> Iterator[Tell]:
    """A function (stage, done, total, text) that draws progress on stderr, if it is a terminal.

    Off a terminal it writes one line per stage, and one more every half minute. Inside of another
    it is that one.
    """
    if _drawing:
        yield _drawing[0]
        return
    if not sys.stderr.isatty():
        yield stage_lines()
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

        _drawing.append(draw)
        try:
            yield draw
        finally:
            _drawing.clear()


def notes_lines(notes: Sequence[str]) -> list[str]:
    """Notes as lines of their own."""
    return [f"Note: {note}" for note in notes]
