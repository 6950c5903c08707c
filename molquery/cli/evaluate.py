"""molquery evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from molquery.cli.options import open_engine, output_options
from molquery.cli.render import (
    emit,
    held_out,
    left_out_lines,
    number,
    print_table,
    progress_bar,
    say,
)


@click.command(
    epilog="\b\nExample:\n  molquery evaluate --output evaluation.json --report evaluation.html"
)
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write the whole report as one HTML page."
)
@click.option(
    "--labels",
    multiple=True,
    metavar="COLUMN",
    help="A column of labels, such as archetypes, for signatures to tell apart; repeatable.",
)
@click.option("--time", metavar="COLUMN", help="Follow-up times, for survival by stratum.")
@click.option("--event", metavar="COLUMN", help="Whether the follow-up ended with the event.")
@click.option(
    "--event-is", multiple=True, metavar="VALUE", help="A value of --event that is an event."
)
@click.option(
    "--tasks",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What to validate, as TOML, in place of the usual tasks.",
)
@click.option("--learning-curve", is_flag=True, help="Fit models on fewer patients too.")
@click.option(
    "--adaptation-curve",
    is_flag=True,
    help="Leave out every cohort, and fit models with 0 to 128 pairs of it.",
)
@click.option(
    "--resamples",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Of patients, for the intervals.",
)
@click.option(
    "--random-sets",
    type=click.IntRange(20),
    default=100,
    show_default=True,
    help="Random gene sets for each gene set.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@output_options
@click.pass_context
def evaluate(
    ctx: click.Context,
    report: Path | None,
    labels: tuple[str, ...],
    time: str | None,
    event: str | None,
    event_is: tuple[str, ...],
    tasks: Path | None,
    learning_curve: bool,
    adaptation_curve: bool,
    resamples: int,
    random_sets: int,
    seed: int,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Print how well held-out patients are retrieved and predicted in the current space.

    Every figure is about patients (or sites) that the model which made it has not seen.

    By itself it prints a summary at once. With --report, --format json (or an output called
    .json), or any task, it measures everything: intervals, baselines on the same folds, random
    gene sets, coverage of prediction intervals, hubness, and whether predicted scores mean what
    they say. That takes minutes. JSON holds every number.
    """
    as_json = format_ == "json" or (
        format_ is None and output is not None and output.suffix == ".json"
    )
    tested = labels or time or event or tasks or learning_curve or adaptation_curve
    whole = as_json or report or tested
    engine = open_engine(ctx)
    from molquery.query.summary import held_out_summary

    if not whole:
        summary = held_out_summary(engine)
        if format_ is None and output is None:
            print_summary(summary)
            for line in left_out_lines(engine.facts):
                say(line, err=False)
        else:
            emit(
                spectrum_table(summary.spectrum),
                provenance=summary.provenance,
                format_=format_,
                output=output,
                overwrite=overwrite,
            )
        return
    from molquery.files import refuse_existing
    from molquery.query.evaluation import Settings
    from molquery.query.evaluation import evaluate as measure
    from molquery.query.tasks import plan
    from molquery.report.evaluation import page
    from molquery.report.findings import findings

    refuse_existing([report, output], overwrite=overwrite)
    planned = plan(engine, tasks, labels=labels, time=time, event=event, event_is=event_is)
    settings = Settings(
        seed=seed,
        resamples=resamples,
        random_sets=random_sets,
        learning_curve=learning_curve,
        adaptation_curve=adaptation_curve,
    )
    with progress_bar() as tell:
        found = measure(engine, settings, planned, progress=tell)
    if report is not None:
        page(found).write(report, overwrite=overwrite)
        say(f"report written to {report}")
    if as_json or output is not None or format_ is not None:
        emit(
            spectrum_table(engine.spectrum),
            provenance=found.provenance,
            document=found.to_dict,
            format_=format_,
            output=output,
            overwrite=overwrite,
        )
    if not (as_json or format_) or output is not None:
        for line in findings(found):
            say(f"- {line}", err=False)
    for what, why in found.not_measured.items():
        say(f"Not measured: {what}: {why}")


def print_summary(summary: Any) -> None:
    """Retrieval, the ends of the spectrum, and the medians."""
    what = held_out(summary.split_on)
    rows = []
    for key, figures in summary.retrieval.items():
        scheme, direction, *rest = key.split(".")
        rows.append(
            {
                "held out": "sites" if scheme == "site" else what,
                "retrieval": direction.replace("_", " "),
                "gallery": f"{figures['gallery']}" + (" (own cohort)" if rest else ""),
                "R@1": figures["recall1"],
                "R@5": figures["recall5"],
                "R@10": figures["recall10"],
                "median rank": figures["median_rank"],
                "fold@10 over random": figures["fold10"],
            }
        )
    say(f"\nRetrieval, {what} held out (gallery = the fold; mean over folds)", err=False)
    print_table(pa.Table.from_pylist(rows))
    spectrum = summary.spectrum
    say(
        f"\nPredictability of {len(spectrum)} Hallmark sets, {what} held out "
        "(H&E-predicted against measured)",
        err=False,
    )
    if not spectrum:
        say("no Hallmark set has 10 genes in this database", err=False)
        return
    table = spectrum_table(spectrum)
    if len(spectrum) > 12:
        print_table(table.slice(0, 6))
        say("…", err=False)
        lines = table.slice(len(table) - 4)
        print_table(lines)
    else:
        print_table(table)
    m = summary.medians
    line = f"median: R² {number(m['r2'], 3)}, r {number(m['r'], 3)}, "
    line += f"within cohorts r {number(m['within_r'], 3)}"
    if m["site_r2"] is not None:
        line += f"; sites held out: R² {number(m['site_r2'], 3)}, "
        line += f"within cohorts r {number(m['site_within_r'], 3)}"
    say(line, err=False)


def spectrum_table(spectrum: Any) -> pa.Table:
    """One row per gene set, most predictable first."""
    return pa.table(
        {
            "gene set": list(spectrum),
            "r2": _column(spectrum, "r2"),
            "r": _column(spectrum, "r"),
            "within_cohort_r": _column(spectrum, "within_r"),
            "site_r2": _column(spectrum, "site_r2"),
            "site_within_cohort_r": _column(spectrum, "site_within_r"),
        }
    )


def _column(spectrum: Any, name: str) -> pa.Array:
    return pa.array([getattr(p, name) for p in spectrum.values()], pa.float64())
