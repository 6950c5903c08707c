"""molquery stratify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from molquery.cli.cutting import asked, cutting_options, signatures_options, testing_options
from molquery.cli.options import open_engine, study_options, table_file, where_option
from molquery.cli.render import (
    coverage_line,
    emit,
    emit_study,
    emit_tests,
    notes_lines,
    predictability_lines,
)


@click.command(
    epilog="\b\nExample:\n  molquery stratify --geneset HALLMARK_E2F_TARGETS --cut tertiles "
    "--within cohort --format csv --output strata.csv"
)
@signatures_options
@cutting_options
@click.option(
    "--save-cuts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the cut points in a small TOML file, for --cuts.",
)
@where_option
@testing_options
@click.option(
    "--tests",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=table_file,
    help="Also write the table of tests to a file.",
)
@click.option("--xy", metavar="X,Y", help="Columns of a region's position, for GeoJSON.")
@click.option(
    "--diameter",
    type=click.FloatRange(0, min_open=True),
    metavar="PIXELS",
    help="Of the round region that a row stands for, for GeoJSON.",
)
@study_options
@click.pass_context
def stratify(
    ctx: click.Context,
    /,
    save_cuts: Path | None,
    xy: str | None,
    diameter: float | None,
    study_id: str | None,
    cancer_type: str,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
    tests: Path | None,
    **more: Any,
) -> None:
    """Split a cohort by the predicted activity of gene sets, and test the strata.

    Each row has its stratum, how sure that is, and a call: the stratum, or uncertain. Tests count
    patients; they are exploratory.
    """
    from molquery.files import refuse_existing
    from molquery.query.strata import stratify_cohort

    refuse_existing([output, save_cuts, tests], overwrite=overwrite)
    signatures, options = asked(ctx, **more)
    engine = open_engine(ctx)
    strata = stratify_cohort(
        engine, signatures, coordinates=_axes(xy), diameter=diameter, **options
    )
    if save_cuts is not None:
        from molquery.export.cutfile import write_cuts

        write_cuts(strata.cuts, save_cuts, overwrite=overwrite)
    if format_ == "cbioportal":
        emit_study(
            engine, [part.signature for part in strata.parts], strata=strata,
            where=options["where"], min_genes=options["min_genes"],
            method=strata.cuts.prediction, scoring=strata.cuts.scoring,
            study_id=study_id, cancer_type=cancer_type, output=output, overwrite=overwrite,
            caption=_caption(strata),
        )  # fmt: skip
    else:
        emit(
            strata.table, provenance=strata.provenance, document=strata.to_dict, format_=format_,
            output=output, overwrite=overwrite, caption=_caption(strata),
        )  # fmt: skip
    if sys.stderr.isatty():
        from molquery.cli.histogram import strata_picture

        for one in strata.sets:
            if one.scores is not None:
                click.echo(strata_picture(one, one.scores), err=True)
    if strata.associations is not None:
        emit_tests(strata.associations, strata.provenance, tests, overwrite=overwrite)


def _axes(xy: str | None) -> tuple[str, str] | None:
    if xy is None:
        return None
    from molquery.errors import InputError

    names = [part.strip() for part in xy.split(",")]
    if len(names) != 2 or not all(names):
        raise InputError("--xy takes two columns", found=xy, hint="--xy pixel_x,pixel_y")
    return names[0], names[1]


def _caption(strata: Any) -> list[str]:
    """What was cut, where, how sure it is, and how far to trust it."""
    lines = []
    for one in strata.sets:
        counts = ", ".join(f"{k} {n} ({one.certain[k]} certain)" for k, n in one.counts.items())
        title = "the rules" if one.name == "rules" else one.name
        lines.append(f"Strata by {title} (H&E-predicted): {counts}")
        if one.uncertain:
            reasons = ", ".join(f"{n} {reason}" for reason, n in one.uncertain.items())
            lines.append(f"  called uncertain: {reasons}")
    lines += [f"Rule {rule}" for rule in strata.rules]
    for part in strata.parts:
        points = "; ".join(
            f"{scope}: {', '.join(f'{p:.3f}' for p in cuts)}"
            for scope, cuts in part.cut.points.items()
        )
        named = f" of {part.signature.name}" if len(strata.parts) > 1 else ""
        lines.append(f"Cut points{named} ({part.cut.method}): {points}")
        lines.append(coverage_line(part.coverage))
        lines += predictability_lines(part.predictability)
    return [*lines, *notes_lines(strata.notes)]
