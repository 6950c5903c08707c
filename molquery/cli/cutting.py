"""Options of `stratify`, `report` and `figure`: how a cohort is cut, what it is tested against."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from molquery.cli.options import (
    database_path,
    method_option,
    read_signature,
    registered_sets,
    scoring_option,
)

F = TypeVar("F", bound=Callable[..., Any])

#: Options that a cut file answers.
_FIXED = ("cut", "rule", "within", "by", "slides", "weight", "method", "scoring")


def signatures_options(function: F) -> F:
    """--geneset, more than once, --genes, and how they are scored."""
    for option in (
        click.option(
            "--min-genes",
            type=click.IntRange(1),
            default=5,
            show_default=True,
            help="Refuse a signature with fewer genes in the database (half, for small sets).",
        ),
        click.option("--down", default="", metavar="GENES", help="Down genes, with --genes."),
        click.option("--genes", metavar="GENES", help="Inline signature: CXCL9,CXCL10,-KRT5."),
        click.option(
            "--geneset",
            multiple=True,
            metavar="NAME|FILE[#NAME]",
            help="A gene set by name, or one of a file. Give it again for more signatures.",
        ),
    ):
        function = option(function)
    return function


def cutting_options(function: F) -> F:
    """How scores are cut, of what, and when a row is called uncertain."""
    for option in (
        scoring_option,
        method_option,
        click.option("--cuts", type=click.Path(path_type=Path), metavar="FILE",
                     help="Apply cut points saved before, unchanged."),
        click.option("--min-confidence", type=click.FloatRange(0, 1, max_open=True),
                     help="Call a row uncertain when the measured score lies on the same side of "
                     "the nearest cut with less probability; 0.95 is about when its 90 % interval "
                     "reaches a cut.  [default: 0.6]"),
        click.option("--weight", metavar="COLUMN",
                     help="Average the slides of a patient weighted by a column, such as area."),
        click.option("--slides", type=click.Choice(["mean", "max"]),
                     help="How the slides of a patient are joined.  [default: mean]"),
        click.option("--by", type=click.Choice(["slide", "patient"]),
                     help="What is cut.  [default: slide, or patient when outcomes are tested]"),
        click.option("--within", type=click.Choice(["cohort"]), help="Cut inside each cohort."),
        click.option("--rule", multiple=True, metavar="RULE",
                     help="'LABEL: SET high and SET low', more than once for more strata; or tme, "
                     "the four immune and fibrosis quadrants."),
        click.option("--cut", metavar="SPEC",
                     help="tertiles, median, quantiles:0.25,0.75, value:0.5, mixture or mixture:3."
                     "  [default: tertiles, or median with rules]"),
    ):  # fmt: skip
        function = option(function)
    return function


def testing_options(function: F) -> F:
    """What strata are tested against."""
    for option in (
        click.option("--certain-only", is_flag=True,
                     help="Leave uncertain rows out of the tests."),
        click.option("--each-cohort", is_flag=True, help="Test every cohort by itself."),
        click.option("--covariates", metavar="COLUMNS", default="",
                     help="Adjust Cox models for columns: age,sex."),
        click.option("--outcome", "--test", "columns", multiple=True, metavar="COLUMN",
                     help="Test the strata against a column, or against a measured gene: "
                     "rna:CD274. Add :categorical or :continuous where it matters."),
        click.option("--event-is", multiple=True, metavar="VALUE",
                     help="The value of the event column that is the event."),
        click.option("--event", metavar="COLUMN", help="Survival: the event, or its absence."),
        click.option("--time", metavar="COLUMN", help="Survival: follow-up time."),
    ):  # fmt: skip
        function = option(function)
    return function


def command_line(ctx: click.Context) -> str:
    """The command that was typed, ready to type again; a database named elsewhere is added.

    One line for each option, so that no line is broken where it is shown.
    """
    words = sys.argv[1:]
    if not any(w == "--db" or w.startswith("--db=") for w in words):
        words = ["--db", str(database_path(ctx)), *words]
    at = words.index(str(ctx.info_name)) if ctx.info_name in words else 0
    lines = [shlex.join(["molquery", *words[: at + 1]])]
    for word in words[at + 1 :]:
        if word.startswith("-"):
            lines.append(f"  {shlex.quote(word)}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)


def asked(
    ctx: click.Context,
    *,
    geneset: Sequence[str],
    genes: str | None,
    down: str,
    cuts: Path | None,
    **more: Any,
) -> tuple[list[Any], dict[str, Any]]:
    """The signatures that the options name, and the arguments of `stratify_cohort` that they give.

    Raises:
        InputError: options that cannot stand together.
        GeneSetError: a signature cannot be read.
    """
    from molquery.query.tested import Outcomes

    outcomes = Outcomes(
        time=more["time"], event=more["event"], event_is=more["event_is"], tests=more["columns"],
        covariates=tuple(filter(None, more["covariates"].split(","))), apart=more["each_cohort"],
        certain_only=more["certain_only"],
    )  # fmt: skip
    fixed = _fixed(ctx, cuts, more)
    rules = _rules(fixed["rule"])
    signatures = _read(ctx, geneset, genes, down, rules, wanted=cuts is None)
    planned = None
    if cuts is not None:
        from molquery.export.cutfile import read_cuts

        planned = read_cuts(cuts)
    if outcomes or (fixed["cut"] or "").startswith("mixture"):
        from molquery.cli.main import pandas_now

        pandas_now()
    return signatures, {
        "cut": fixed["cut"],
        "rules": _named(rules, signatures),
        "cuts": planned,
        "by": fixed["by"] or ("patient" if outcomes else "slide"),
        "slides": "weighted" if fixed["weight"] else fixed["slides"] or "mean",
        "weight": fixed["weight"],
        "within": fixed["within"],
        "where": more["where"],
        "method": fixed["method"],
        "scoring": fixed["scoring"],
        "min_confidence": more["min_confidence"],
        "outcomes": outcomes or None,
        "min_genes": more["min_genes"],
    }


def _fixed(ctx: click.Context, cuts: Path | None, more: dict[str, Any]) -> dict[str, Any]:
    """The options that say how to cut; none may stand beside a cut file.

    Raises:
        InputError: one does.
    """
    from molquery.errors import InputError, some

    fixed = {name: more[name] for name in _FIXED}
    said = click.core.ParameterSource.COMMANDLINE
    given = [f"--{name}" for name in fixed if ctx.get_parameter_source(name) is said]
    if cuts is not None and given:
        raise InputError(
            f"the cut file says how to cut: {some(given)} cannot be changed", hint=f"--cuts {cuts}"
        )
    if fixed["weight"] and fixed["slides"]:
        raise InputError("slides are joined by --slides or by --weight, not by both")
    return fixed


def _rules(texts: Sequence[str]) -> list[Any]:
    """The rules that were given; a name stands for ready ones."""
    from molquery.stratify import READY_RULES, parse_rule

    rules: list[Any] = []
    for text in texts:
        rules += READY_RULES.get(text.strip().lower()) or [parse_rule(text)]
    return rules


def _read(
    ctx: click.Context,
    geneset: Sequence[str],
    genes: str | None,
    down: str,
    rules: Sequence[Any],
    *,
    wanted: bool,
) -> list[Any]:
    """The signatures that are named by --geneset, --genes, or a rule."""
    if not geneset and not genes and not down and (rules or not wanted):
        found: list[Any] = []
    elif geneset and not (genes or down):
        found = [read_signature(ctx, name, None, "") for name in geneset]
    else:
        found = [read_signature(ctx, geneset[0] if geneset else None, genes, down)]
    known = {s.name.upper() for s in found}
    extra = None
    for rule in rules:
        for name, _ in rule.conditions:
            if name.upper() in known:
                continue
            from molquery.genesets.collections import find

            extra = registered_sets(ctx) if extra is None else extra
            found.append(find(name, extra))
            known |= {name.upper(), found[-1].name.upper()}
    return found


def _named(rules: Sequence[Any], signatures: Sequence[Any]) -> list[Any]:
    """The rules with their signatures called as the signatures call themselves."""
    from molquery.stratify import Rule

    names = {s.name.upper(): s.name for s in signatures}

    def name(text: str) -> str:
        return names.get(text.upper()) or names.get(text.rpartition("#")[2].upper()) or text

    return [Rule(r.label, tuple((name(n), label) for n, label in r.conditions)) for r in rules]
