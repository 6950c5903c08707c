"""molquery adapt."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from molquery.cli.align import device_option
from molquery.cli.options import open_database, output_options
from molquery.cli.render import emit, notes_lines, number, progress_bar


@click.command(epilog="\b\nExample:\n  molquery adapt --curve\n  molquery adapt --pairs 32")
@click.option(
    "--pairs",
    "n_pairs",
    type=click.IntRange(1),
    metavar="N",
    help="Learn the space anew with N more patients of those held out.",
)
@click.option(
    "--curve",
    is_flag=True,
    help="Measure how predictions improve with 0 to 128 pairs. Changes nothing.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which patients are drawn.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="With --curve: how often the patients are divided anew.",
)
@device_option
@output_options
@click.pass_context
def adapt(
    ctx: click.Context,
    n_pairs: int | None,
    curve: bool,
    seed: int,
    seeds: int,
    device: str,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Adapt the space to a cohort that it has not seen, with a few pairs of that cohort.

    The patients are those that align held out (--hold-out), or whose pairs came after align. Those
    that are not added stay held out, and say how well it went.
    """
    if curve == (n_pairs is not None):
        raise click.UsageError("give --pairs N, or --curve", ctx)
    database = open_database(ctx)
    from molquery.align import adapt as run

    if curve:
        with progress_bar() as tell:
            found = run.adaptation_curve(database, seeds=seeds, device=device, progress=tell)
        document, table, caption = found.to_dict(), _curve_table(found), _curve_caption(found)
    else:
        with progress_bar() as tell:
            done = run.adapt(database, n_pairs or 0, seed=seed, device=device, progress=tell)
        table, caption = _before_after(done), _caption(done)
        document = {k: v for k, v in asdict(done).items() if k != "report"}
    emit(
        table,
        provenance={},
        document=lambda: document,
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=caption,
    )


def _before_after(done: Any) -> pa.Table:
    """One row before and one after, about the same patients."""
    rows = [(done.total - done.added, done.before), (done.total, done.after)]
    kept = [(pairs, figures) for pairs, figures in rows if figures is not None]
    return pa.table(
        {
            "pairs": pa.array([pairs for pairs, _ in kept], pa.int64()),
            "tested": pa.array([f.n_patients for _, f in kept], pa.int64()),
            **{
                name: pa.array([getattr(f, name) for _, f in kept], pa.float64())
                for name in ("within_r", "r2", "fold10")
            },
        }
    )


def _caption(done: Any) -> list[str]:
    space = done.report.space
    lines = [
        f"space {space.name} ({space.space_id[:12]}): {done.added} patients of {done.rule} added, "
        f"{done.total} in all",
        *notes_lines(done.report.notes),
    ]
    if done.after is None:
        return [*lines, "No patient is held out any more: nothing is left to test on."]
    return [*lines, *_legend(done.after.n_sets)]


def _legend(n_sets: int) -> list[str]:
    sets = f", medians over {n_sets} Hallmark sets" if n_sets else " (no Hallmark set has 10 genes)"
    return [
        f"pairs: patients whose RNA was used. within_r, r2: predicted against measured{sets}. "
        "fold10: recall at 10 from slide to RNA over chance."
    ]


def _curve_table(curve: Any) -> pa.Table:
    points = [*curve.points, curve.full]
    columns: dict[str, Any] = {
        "pairs": ["all" if p.pairs is None else str(p.pairs) for p in points]
    }
    for name in ("within_r", "within_r_sd", "r2", "r2_sd", "fold10", "fold10_sd"):
        columns[name] = pa.array([getattr(p, name) for p in points], pa.float64())
    return pa.table(columns)


def _curve_caption(curve: Any) -> list[str]:
    share = f"{curve.share:.0%} of the within_r with all pairs"
    reached = "is not reached" if curve.reached is None else f"takes {curve.reached} pairs"
    if curve.reached == 0:
        reached = "is there without any pair"
    return [
        f"{curve.rule}: {curve.n_patients} patients; tested on {curve.n_tested} of them, drawn "
        f"{curve.seeds} times (sd over the draws). all: five folds, each trained with four fifths.",
        f"{share} ({number(curve.full.within_r, 3)}) {reached}.",
        "within_r, r2: medians over Hallmark sets. fold10: recall at 10 from slide to RNA over "
        f"chance, gallery about {curve.n_tested}.",
    ]
