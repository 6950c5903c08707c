"""Options that several commands share, and what opens a database for a command."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from molquery.errors import DatabaseError, GeneSetError

F = TypeVar("F", bound=Callable[..., Any])

#: As in `molquery.query.methods` and `molquery.genesets.scoring`, which are not loaded for --help.
METHODS = ("blend", "soft-knn", "ridge", "vector", "centroid", "synthetic")
SCORINGS = ("mean_z", "ssgsea", "rank")
FORMATS = ("table", "tsv", "csv", "json", "jsonl", "parquet", "h5ad", "geojson", "r")


def database_path(ctx: click.Context) -> Path | str:
    """The path or URI of the database, from --db or MOLQUERY_DB.

    Raises:
        DatabaseError: neither was given.
    """
    path: Path | str | None = ctx.obj["db"]
    if path is None or str(path) == "":
        raise DatabaseError(
            "which database?", hint="molquery --db PATH …, or export MOLQUERY_DB=PATH"
        )
    return path


def open_database(ctx: click.Context) -> Any:
    """The database that the command works on; opened once."""
    if "database" not in ctx.obj:
        from molquery.database import Database

        database = ctx.obj["database"] = Database.open(database_path(ctx))
        if database.remote:
            from molquery.cli.render import stage_lines

            database.remote.progress = stage_lines()
    return ctx.obj["database"]


def open_engine(ctx: click.Context, mapper: Any = None) -> Any:
    """The database's query engine; `mapper` is what `mapper_of` gives."""
    from molquery.cli.render import progress_bar
    from molquery.query.engine import Engine

    return Engine(open_database(ctx), mapper, progress_bar)


def mapper_of(engine: str) -> AbstractContextManager[Any]:
    """Who computes batches, for what --engine says; None: this process."""
    if engine == "local":
        return nullcontext()
    from molquery.cluster import connected

    return connected()


engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where batches are computed: here, or on the Ray cluster of RAY_ADDRESS.",
)


def table_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """A file for a table, if its suffix stands for a format; without a suffix it is TSV.

    Raises:
        InputError: the suffix stands for none: `x.xlsx` would hold text all the same.
    """
    if path is None or not path.suffix:
        return path
    from molquery import export
    from molquery.errors import InputError

    if export.guess(path) is None:
        raise InputError(
            f"the name {path.name} does not say how to write it", found=path.suffix,
            hint=f"end it in {', '.join(f.suffixes[0] for f in export.FORMATS)}",
        )  # fmt: skip
    return path


def _output_file(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """The output, if --format or its suffix says how to write it."""
    if ctx.params.get("format_") or (path is not None and path.suffix == ".json"):
        return path
    return table_file(ctx, option, path)


def output_options(function: F, *more: str) -> F:
    """--format, --output and --overwrite; `more` formats than those of any table."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace the output file if it exists."),
        click.option(
            "--output",
            "-o",
            type=click.Path(path_type=Path),
            callback=_output_file,
            help="Write to a file, not stdout.",
        ),
        click.option(
            "--format",
            "format_",
            type=click.Choice([*FORMATS, *more]),
            is_eager=True,  # so that the callback of --output knows it
            help="Default: a table on a terminal, TSV in a pipe, or as the output's name says.",
        ),
    ):
        function = option(function)
    return function


def study_options(function: F) -> F:
    """--format with cbioportal, and what a study needs."""
    for option in (
        click.option(
            "--cancer-type",
            default="mixed",
            show_default=True,
            metavar="CODE",
            help="OncoTree code of a cBioPortal study.",
        ),
        click.option(
            "--study-id",
            metavar="ID",
            help="Of a cBioPortal study.  [default: as the output directory is called]",
        ),
    ):
        function = option(function)
    return output_options(function, "cbioportal")


def signature_options(function: F) -> F:
    """--geneset, --genes and how many of the genes must be in the database."""
    for option in (
        click.option(
            "--min-genes",
            type=click.IntRange(1),
            default=5,
            show_default=True,
            help="Refuse a signature with fewer genes in the database (half, for small sets).",
        ),
        click.option("--down", default="", metavar="GENES", help="Down genes, with --genes."),
        click.option(
            "--genes",
            metavar="GENES",
            help="Inline signature: CXCL9,CXCL10,-KRT5; weights as KRT5:1.5.",
        ),
        click.option(
            "--geneset",
            metavar="NAME|FILE[#NAME]",
            help="A shipped or registered gene set, or one of a file (GMT, GMX, JSON, net CSV).",
        ),
    ):
        function = option(function)
    return function


def registered_sets(ctx: click.Context) -> Any:
    """The gene sets registered in the database, where one is named and is there; else none."""
    if not (ctx.obj or {}).get("db"):
        return ()
    from molquery.genesets.registered import registered

    return registered(open_database(ctx))


def read_signature(ctx: click.Context, geneset: str | None, genes: str | None, down: str) -> Any:
    """The signature that --geneset or --genes names; the database's own sets come first.

    Raises:
        GeneSetError: neither or both were given, or it cannot be read.
    """
    if bool(geneset) == bool(genes or down):
        raise GeneSetError(
            "give one signature: --geneset or --genes",
            hint="--geneset HALLMARK_HYPOXIA, or --genes CXCL9,CXCL10,-KRT5",
        )
    if geneset:
        from molquery.genesets.collections import find

        return find(geneset, registered_sets(ctx))
    from molquery.genesets.inline import parse_genes

    return parse_genes(genes or "", down=down)


where_option = click.option(
    "--where", metavar="SQL", help="Only rows that satisfy a filter: \"cohort = 'TCGA-LUAD'\"."
)

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|gpu[:N]",
    help="Where an index is built or searched.",
)

method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    default="blend",
    show_default=True,
    help="What predicts the scores; molquery evaluate compares them.",
)

scoring_option = click.option(
    "--scoring",
    type=click.Choice(SCORINGS),
    default="mean_z",
    show_default=True,
    help="How the reference profiles are scored.",
)
