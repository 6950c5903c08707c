"""molquery project."""

from __future__ import annotations

import click

from molquery.cli.options import engine_option, mapper_of, open_engine
from molquery.cli.render import say


@click.command(epilog="\b\nExample:\n  molquery project")
@engine_option
@click.pass_context
def project(ctx: click.Context, engine: str) -> None:
    """Compute the prediction weights of slides that have none yet.

    Otherwise the first question after an ingest or an alignment does it. Weights of slides that
    have not changed are kept.
    """
    with mapper_of(engine) as mapper:
        opened = open_engine(ctx, mapper)
        weights = opened.operator.weights
    for notice in opened.notices:
        say(notice)
    say(f"prediction weights of {len(weights)} slides over {weights.shape[1]} nearest profiles")
