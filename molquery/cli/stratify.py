"""molquery stratify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from molquery.cli.options import (
    open_engine,
    output_options,
    read_signature,
    registered_sets,
    where_option,
)
from molquery.cli.render import (
    coverage_line,
    emit,
    emit_tests,
    notes_lines,
    predictability_lines,
)

#: Options that a cut file answers; their values where they are not given.
_FIXED = ("cut", "rule", "within", "by", "slides", "weight", "scoring")


def _signatures(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--scoring",
            type=click.Choice(["mean_z", "ssgsea", "rank"]),
            help="How profiles are scored.  [default: mean_z]",
        ),
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


def _cutting(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--cuts", type=click.Path(path_type=Path), metavar="FILE",
                     help="Apply cut points saved before, unchanged."),
        click.option("--save-cuts", type=click.Path(path_type=Path), metavar="FILE",
                     help="Keep the cut points in a small TOML file, for --cuts."),
        click.option("--min-confidence", type=click.FloatRange(0, 1, max_open=True),
                     help="Call a row uncertain when the measured score lies on the same side of "
                     "the nearest cut with less probability.  [default: 0.6]"),
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


def _testing(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--tests", type=click.Path(path_type=Path), metavar="FILE",
                     help="Also write the table of tests to a file."),
        click.option("--certain-only", is_flag=True,
                     help="Leave uncertain rows out of the tests."),
        click.option("--each-cohort", is_flag=True, help="Test every cohort by itself."),
        click.option("--covariates", metavar="COLUMNS", default="",
                     help="Adjust Cox models for columns: age,sex."),
        click.option("--test", "columns", multiple=True, metavar="COLUMN",
                     help="Test the strata against a column, or against a measured gene: "
                     "rna:CD274. Add :categorical or :continuous where it matters."),
        click.option("--event-is", multiple=True, metavar="VALUE",
                     help="The value of the event column that is the event."),
        click.option("--event", metavar="COLUMN", help="Survival: the event, or its absence."),
        click.option("--time", metavar="COLUMN", help="Survival: follow-up time."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command(
    epilog="\b\nExample:\n  molquery stratify --geneset HALLMARK_E2F_TARGETS --cut tertiles "
    "--within cohort --format csv --output strata.csv"
)
@_signatures
@_cutting
@where_option
@_testing
@click.option("--xy", metavar="X,Y", help="Columns of a region's position, for GeoJSON.")
@output_options
@click.pass_context
def stratify(
    ctx: click.Context,
    /,
    geneset: tuple[str, ...],
    genes: str | None,
    down: str,
    min_genes: int,
    cuts: Path | None,
    save_cuts: Path | None,
    min_confidence: float | None,
    where: str | None,
    xy: str | None,
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
    from molquery.query.strata import stratify_cohort
    from molquery.query.tested import Outcomes

    outcomes = Outcomes(
        time=more["time"], event=more["event"], event_is=more["event_is"], tests=more["columns"],
        covariates=tuple(filter(None, more["covariates"].split(","))), apart=more["each_cohort"],
        certain_only=more["certain_only"],
    )  # fmt: skip
    fixed = _fixed(cuts, more)
    rules = _rules(fixed["rule"])
    signatures = _read(ctx, geneset, genes, down, rules, wanted=cuts is None)
    planned = None
    if cuts is not None:
        from molquery.export.cutfile import read_cuts

        planned = read_cuts(cuts)
    strata = stratify_cohort(
        open_engine(ctx), signatures, cut=fixed["cut"], rules=_named(rules, signatures),
        cuts=planned, by=fixed["by"] or ("patient" if outcomes else "slide"),
        slides="weighted" if fixed["weight"] else fixed["slides"] or "mean",
        weight=fixed["weight"], within=fixed["within"], where=where,
        scoring=fixed["scoring"] or "mean_z", min_confidence=min_confidence,
        outcomes=outcomes or None, coordinates=_axes(xy), min_genes=min_genes,
    )  # fmt: skip
    if save_cuts is not None:
        from molquery.export.cutfile import write_cuts

        write_cuts(strata.cuts, save_cuts, overwrite=overwrite)
    emit(
        strata.table,
        provenance=strata.provenance,
        document=strata.to_dict(),
        format_=format_,
        output=output,
        overwrite=overwrite,
        caption=_caption(strata),
    )
    if strata.associations is not None:
        emit_tests(strata.associations, strata.provenance, tests, overwrite=overwrite)


def _fixed(cuts: Path | None, more: dict[str, Any]) -> dict[str, Any]:
    """The options that say how to cut; none may stand beside a cut file.

    Raises:
        InputError: one does.
    """
    from molquery.errors import InputError, some

    fixed = {name: more[name] for name in _FIXED}
    given = [f"--{name}" for name, value in fixed.items() if value]
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
