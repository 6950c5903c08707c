"""molquery figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from molquery.cli.cutting import asked, cutting_options, signatures_options, testing_options
from molquery.cli.options import open_engine, where_option
from molquery.cli.render import progress_bar

#: As `molquery.report.drawings.KINDS`, which is not imported for --help.
KINDS = ("ranked", "groups", "survival", "spectrum", "signatures", "map")


@click.command(
    epilog="\b\nExample:\n  molquery figure ranked --geneset HALLMARK_E2F_TARGETS -o ranked.svg\n"
    "  molquery figure survival --geneset HALLMARK_E2F_TARGETS --time os_days --event os_event "
    "-o survival.pdf"
)
@click.argument("kind", type=click.Choice(KINDS))
@signatures_options
@cutting_options
@click.option("--pooled", is_flag=True, help="Cut all cohorts together, not inside each.")
@where_option
@testing_options
@click.option(
    "--of",
    metavar="NAME",
    help="Where a question has several such figures: of this signature, or of this cohort.",
)
@click.option(
    "--colour",
    type=click.Choice(["score", "cohort", "modality"]),
    multiple=True,
    help="Of a map; more than once for several.  [default: all three]",
)
@click.option(
    "--panel",
    metavar="NAME|FILE",
    help="Gene sets of the heat map of signatures.  [default: the Hallmark sets that differ most]",
)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="The figure to write: .png, .svg or .pdf.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.pass_context
def figure(
    ctx: click.Context,
    /,
    kind: str,
    pooled: bool,
    of: str | None,
    colour: tuple[str, ...],
    panel: str | None,
    output: Path,
    overwrite: bool,
    **more: Any,
) -> None:
    """Draw one figure of a report, for a slide deck or a paper.

    \b
    ranked      scores from the highest to the lowest, with cut points and intervals
    groups      scores by cohort, or by stratum where there is one cohort
    survival    Kaplan-Meier curves of the strata, with numbers at risk
    spectrum    how well gene sets are predicted here, with this one marked
    signatures  mean score of other signatures in the strata
    map         the shared space, coloured by score, cohort and modality
    """
    from molquery.figures import style
    from molquery.files import refuse_existing

    style.file_kind(output)
    refuse_existing([output], overwrite=overwrite)
    signatures, options = asked(ctx, **more)
    compared = _panel(ctx, panel)
    engine = open_engine(ctx)
    from molquery.report.drawings import draw
    from molquery.report.question import ask

    with progress_bar() as tell:
        question = ask(engine, signatures, pooled=pooled, panel=compared, progress=tell, **options)
        drawing = draw(question, kind, of=of, colours=colour)
    style.save(drawing.figure, output, overwrite=overwrite)
    click.echo(f"{output}: {drawing.caption}", err=True)


def _panel(ctx: click.Context, name: str | None) -> Any:
    if name is None:
        return None
    from molquery.cli.options import registered_sets
    from molquery.query.genesets import read_sets

    return read_sets(name, registered_sets(ctx))
