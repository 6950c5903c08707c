"""molquery align."""

from __future__ import annotations

import click

from molquery.cli.options import open_database
from molquery.cli.render import left_out_lines, notes_lines, progress_bar, say

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where contrastive heads are trained; auto: a GPU if there is one.",
)


@click.command(
    epilog="\b\nExample:\n  molquery align --method auto --seed 0\n"
    "  molquery align --hold-out cohort=TCGA-STAD"
)
@click.option(
    "--method",
    type=click.Choice(["auto", "cca", "infonce"]),
    default="auto",
    show_default=True,
    help="auto: whichever predicts better on an inner split of the patients.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--pair-on",
    default="patient_id",
    show_default=True,
    metavar="COLUMN",
    help="Which slide and profile belong together.",
)
@click.option(
    "--split-on",
    default="patient_id",
    show_default=True,
    metavar="COLUMN",
    help="Whose rows are never split between training and test.",
)
@click.option(
    "--hold-out",
    default="",
    metavar="COLUMN=VALUE",
    help="Leave out the RNA of these patients altogether, to see how an unseen cohort would do.",
)
@device_option
@click.pass_context
def align(
    ctx: click.Context,
    method: str,
    seed: int,
    pair_on: str,
    split_on: str,
    hold_out: str,
    device: str,
) -> None:
    """Learn a shared space from the pairs of slide and profile, and project everything into it.

    Held-out retrieval and predictability are printed at the end; evaluate prints them again.
    Interrupted, the same command goes on where it was.
    """
    database = open_database(ctx)
    from molquery.align.train import AlignSettings
    from molquery.align.train import align as learn
    from molquery.cli.evaluate import print_summary
    from molquery.query.engine import Engine
    from molquery.query.summary import held_out_summary

    settings = AlignSettings(method, pair_on, split_on, seed, hold_out)
    with progress_bar() as tell:
        report = learn(database, settings, device=device, progress=tell)
    for name, figures in report.comparison.items():
        shown = ", ".join(f"{k} {v:.3f}" for k, v in figures.items())
        say(f"inner split, {name}: {shown}")
    for line in notes_lines(report.notes):
        say(line)
    facts = report.space.facts
    say(
        f"space {report.space.name} ({report.space.space_id[:12]}): {facts['method']}, "
        f"{facts['dim']} dimensions, {facts['n_pairs']} pairs of {facts['n_groups']} "
        f"{facts['split_on']} values; {report.n_slides} slides and {report.n_profiles} profiles "
        "projected",
        err=False,
    )
    print_summary(held_out_summary(Engine(database)))
    for line in left_out_lines(facts):
        say(line, err=False)
