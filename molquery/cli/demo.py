"""molquery demo."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import click

from molquery.cli.render import coverage_line, number, progress_bar, table_text

_WIDTH = 88


@click.command(epilog="\b\nExample:\n  molquery demo molquery-demo --overwrite")
@click.argument(
    "directory", type=click.Path(path_type=Path), default=Path("molquery-demo"), required=False
)
@click.option("--overwrite", is_flag=True, help="Replace the database of an earlier demo.")
def demo(directory: Path, overwrite: bool) -> None:
    """Build a database from the example cohort and ask it one question of each kind.

    DIRECTORY (default molquery-demo) is an ordinary database afterwards, yours to keep. Every step
    is printed with the command that does the same. Real data: HER2-positive breast tumours,
    Andersson et al. 2021, CC BY 4.0; two patients.
    """
    from molquery.demo import run_demo

    with progress_bar() as tell:
        result = run_demo(directory, overwrite=overwrite, progress=tell)
    click.echo("\n".join(_story(result)))


def _story(r: Any) -> list[str]:
    """The whole output: each step's command, what it gave, and what that means."""
    quality, here = r.ranking.predictability, r.sections[r.pictured]
    name = r.ranking.signature.name
    others = {s: q for s, q in r.sections.items() if s != r.pictured}
    patients = "; ".join(f"{p}: {', '.join(s)}" for p, s in r.sections_of_patient.items())
    facts = r.space
    return [
        *_text(
            "The example: spots of HER2-positive breast tumour sections (Andersson et al., Nature "
            "Communications 2021;12:6012, CC BY 4.0). Each spot stands for one small H&E region "
            "and has its own RNA, so it plays the part of a slide here. Only two patients."
        ),
        *_step(1, "Make a database", r.commands["init"]),
        *_step(2, "Take in H&E embeddings and RNA", r.commands["slides"], r.commands["profiles"]),
        *_text(
            f"{_rows(r.slides)} H&E regions and {_rows(r.profiles)} RNA profiles of "
            f"{r.profiles.facts['genes']} genes. Section {r.unseen} has no RNA here: it can "
            "only be predicted."
        ),
        *_step(3, "Learn which H&E goes with which RNA", r.commands["align"]),
        *_text(
            f"A shared space from {facts['n_pairs']} pairs, found by the spot id. Each of the "
            f"{facts['n_groups']} sections with RNA ({patients}) was held out once: its scores "
            "below come from a model that has not seen its RNA."
        ),
        *_step(4, "Build an index", r.commands["index"]),
        *_text("; ".join(
            f"{e['table']}: {e['rows']} rows, recall@10 {e['recall_at_10']:.3f}" for e in r.indexes
        ) + " against exact search."),
        *_step(5, "Ask: which regions look rich in immune cells?", r.commands["search"]),
        *_text(f"{name}: genes of T cells and other immune cells."),
        *_table(r.ranking.hits, "rank slide_id score percentile p fdr basis"),
        *_text(
            f"{coverage_line(r.ranking.coverage)}. score is predicted from H&E alone: the mean "
            "z-score of the genes, so 0 is the average spot. p: share of random gene sets of like "
            "size and expression that score as high in this spot. basis: held-out, or projected "
            "where a spot has no RNA."
        ),
        *_text(
            f"How far to trust it: in the held-out sections the predicted score follows the "
            f"measured one with r = {number(quality.r)} over all {quality.n_pairs} spots "
            f"(R² {number(quality.r2)}). Within sections: r = {here.r:.2f} in {r.pictured}, "
            + ", ".join(f"{q.r:.2f} in {s}" for s, q in others.items())
            + f". {_depth(r)}"
        ),
        *_step(6, "Ask: which RNA looks like this H&E?", r.commands["retrieve"]),
        *_table(r.retrieved.hits, "rank profile_id patient_id similarity same_patient"),
        *_text(
            f"{r.query} has the highest score in section {r.unseen}, which has no RNA. These are "
            "the measured profiles nearest to it in the shared space: a hint at its expression, "
            f"not a measurement. {_retrieval(r)}"
        ),
        *_step(7, "Split the cohort in three", r.commands["stratify"]),
        *_text(
            ", ".join(f"{label} {n}" for label, n in r.strata.counts.items())
            + f", in {r.strata_file}. The cut points ("
            + ", ".join(f"{p:.3f}" for cuts in r.strata.cut.points.values() for p in cuts)
            + ") are stored beside it, with all else that is needed to make it again."
        ),
        *_picture(r),
        "",
        *_text(
            "What not to conclude: with two patients, nothing here says how well new patients are "
            f"predicted. {name} was picked for this demo by these same numbers, so they flatter "
            "it; other sets may show a higher r and owe more of it to the RNA count. The "
            "encoder is a generic one, not made for histology. Scores are predictions, "
            "for research use only."
        ),
        "",
        "The database is yours to keep. What it holds, and how well each gene set is predicted:",
        f"   $ {r.commands['info']}",
        f"   $ {r.commands['check']}",
    ]  # fmt: skip


def _depth(r: Any) -> str:
    values = [q.r_at_depth for q in r.sections.values()]
    return (
        "Spots with more RNA molecules score higher in most gene sets; with that taken off "
        f"(partial correlation given the total count), {r.sections[r.pictured].r_at_depth:.2f} in "
        f"{r.pictured} and {min(values):.2f} to {max(values):.2f} over the sections remain."
    )


def _retrieval(r: Any) -> str:
    """How often retrieval finds the right profile, in sections held out."""
    held = r.space["retrieval"]["patient.slide_to_profile"]
    return (
        "It is a rough tool: for held-out spots, the spot's own profile is among the first 10 of "
        f"about {held['gallery']} in {100 * held['recall10']:.0f} % of cases "
        f"(by chance {100 * held['chance10']:.0f} %)."
    )


def _picture(r: Any) -> list[str]:
    return [
        *_step(8, f"See it on the tissue, section {r.pictured}", r.commands["heatmap"]),
        *_text(f"{r.picture}: the score predicted from H&E on the left, the measured one on the "
               "right, in the same colours. The prediction is smoother: it averages over "
               "look-alike regions, so its extremes are less extreme."),
    ]  # fmt: skip


def _step(count: int, title: str, *commands: str) -> list[str]:
    return ["", f"{count}. {title}", *(f"   $ {command}" for command in commands)]


def _text(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="   ", subsequent_indent="   ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _table(hits: Any, columns: str) -> list[str]:
    return ["   " + line for line in table_text(hits.select(columns.split())).splitlines()]


def _rows(report: Any) -> int:
    return int(report.inserted + report.updated + report.unchanged)
