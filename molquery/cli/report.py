"""molquery report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from molquery.cli.cutting import (
    asked,
    command_line,
    cutting_options,
    signatures_options,
    testing_options,
)
from molquery.cli.options import open_engine, where_option
from molquery.cli.render import progress_bar


@click.command(
    epilog="\b\nExample:\n  molquery report --geneset HALLMARK_INTERFERON_GAMMA_RESPONSE "
    "--time os_days --event os_event --output ifng.html\n"
    "  molquery report --geneset HALLMARK_E2F_TARGETS --where \"cohort = 'TCGA-LUAD'\" "
    "--outcome stage --outcome rna:CD274 --output e2f.html"
)
@signatures_options
@cutting_options
@click.option("--pooled", is_flag=True, help="Cut all cohorts together, not inside each.")
@where_option
@testing_options
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The page to write."
)
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@click.pass_context
def report(ctx: click.Context, /, pooled: bool, output: Path, overwrite: bool, **more: Any) -> None:
    """Write a page that answers one question: a cohort split by predicted activity, tested, shown.

    The page is one HTML file that needs no network and prints on A4. Where there are several
    cohorts, strata are cut inside each unless --pooled is given.
    """
    from molquery.files import refuse_existing

    refuse_existing([output], overwrite=overwrite)
    signatures, options = asked(ctx, **more)
    engine = open_engine(ctx)
    from molquery.report.page import page, sentences
    from molquery.report.question import ask

    with progress_bar() as tell:
        question = ask(engine, signatures, pooled=pooled, progress=tell, **options)
        written = page(question, command=command_line(ctx), progress=tell)
    written.write(output, overwrite=overwrite)
    for line in sentences(question):
        click.echo(line, err=True)
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB", err=True)
