"""molquery ingest slides|profiles|metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from molquery.cli.options import engine_option, mapper_of, open_database
from molquery.cli.render import notes_lines, progress_bar, say
from molquery.errors import some

_PATHS = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
_SKIP = click.option(
    "--skip-invalid", is_flag=True, help="Leave out vectors with NaN, infinity or only zeros."
)
_ID = click.option("--id", "id_", metavar="COLUMN", help="The column that holds the ids.")


@click.group()
def ingest() -> None:
    """Take slides, profiles or metadata into the database.

    Ingest is an upsert: the same file twice changes nothing, and an id with other content is
    updated. A file that cannot be used leaves the database as it was.
    """


@ingest.command(
    epilog="\b\nExample:\n  molquery ingest slides slides.parquet --id slide_id --encoder titan"
)
@_PATHS
@_ID
@click.option("--vector", metavar="COLUMN", help="The column (or .h5ad obsm key) of the vectors.")
@click.option("--encoder", metavar="NAME", help="The slide encoder, where files do not say it.")
@click.option(
    "--kind",
    type=click.Choice(["embedding", "features"]),
    help="features: interpretable measurements, where NaN means missing.",
)
@_SKIP
@engine_option
@click.pass_context
def slides(
    ctx: click.Context,
    paths: tuple[Path, ...],
    id_: str | None,
    vector: str | None,
    encoder: str | None,
    kind: str | None,
    skip_invalid: bool,
    engine: str,
) -> None:
    """Slide embeddings from files, directories, globs in quotes, or text files of paths.

    Formats: TRIDENT, CLAM, STAMP (patches are mean-pooled), TITAN and PRISM pickles, LazySlide
    stores, AnnData, Parquet, Arrow, CSV/TSV, .npy and .npz; see docs/inputs.md. An ingest that
    was interrupted goes on where it ended.
    """
    database = open_database(ctx)
    from molquery import readers
    from molquery.ingest import ingest_slides

    with mapper_of(engine) as mapper, progress_bar() as tell:
        report = ingest_slides(
            database,
            paths,
            options=readers.Options(id=id_, vector=vector),
            encoder=encoder,
            kind=kind,
            skip_invalid=skip_invalid,
            progress=tell,
            mapper=mapper,
        )
    _print_report(report)


@ingest.command(
    epilog="\b\nExample:\n  molquery ingest profiles rna.parquet --id patient_id --scale log2"
)
@_PATHS
@_ID
@click.option(
    "--scale",
    type=click.Choice(["log2", "ln", "log10", "counts", "tpm", "fpkm", "zscore"]),
    help="The scale of the values: log2(x + 1), counts, …; else it is told from the values.",
)
@click.option(
    "--genes-in", type=click.Choice(["rows", "columns"]), help="Where the genes are in a matrix."
)
@click.option(
    "--gene-id",
    type=click.Choice(["symbol", "ensembl", "entrez"]),
    help="The kind of the gene ids; else it is told from them.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A table of file names and sample ids, such as gdc_sample_sheet.tsv.",
)
@click.option(
    "--tx2gene",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A table of transcript and gene ids, for salmon.",
)
@click.option("--gene-column", metavar="COLUMN", help="The column of gene ids (.h5ad: of var).")
@click.option("--layer", metavar="NAME", help="The .h5ad layer to read instead of X.")
@click.option(
    "--encoder",
    metavar="NAME",
    help="The files hold embeddings by this RNA model: keep them beside the expression of the "
    "same profiles.",
)
@click.option(
    "--vector", metavar="COLUMN", help="With --encoder: the column (or .h5ad obsm key) of them."
)
@_SKIP
@click.pass_context
def profiles(
    ctx: click.Context,
    paths: tuple[Path, ...],
    id_: str | None,
    scale: str | None,
    genes_in: str | None,
    gene_id: str | None,
    samples: Path | None,
    tx2gene: Path | None,
    gene_column: str | None,
    layer: str | None,
    encoder: str | None,
    vector: str | None,
    skip_invalid: bool,
) -> None:
    """Bulk RNA-seq profiles: GDC, salmon, RSEM, GCT, Xena, cBioPortal, .h5ad, any matrix.

    Scale, orientation and gene ids are told from the content, and said in the report.
    """
    of_expression = {
        "--scale": scale, "--genes-in": genes_in, "--gene-id": gene_id, "--samples": samples,
        "--tx2gene": tx2gene, "--gene-column": gene_column, "--layer": layer,
    }  # fmt: skip
    if vector is not None and encoder is None:
        raise click.UsageError("--vector goes with --encoder: which RNA model made the vectors?")
    if encoder is not None and (wrong := [k for k, v in of_expression.items() if v is not None]):
        raise click.UsageError(f"--encoder takes embeddings, and {wrong[0]} is for expression")
    database = open_database(ctx)
    from molquery import readers
    from molquery.ingest import ingest_embeddings, ingest_profiles

    if encoder is not None:
        with progress_bar() as tell:
            report = ingest_embeddings(
                database, paths, options=readers.Options(id=id_, vector=vector), encoder=encoder,
                skip_invalid=skip_invalid, progress=tell,
            )  # fmt: skip
        _print_report(report)
        return
    options = readers.Options(
        id=id_, genes_in=genes_in, gene_column=gene_column, layer=layer, gene_id=gene_id,
        samples=samples, tx2gene=tx2gene,
    )  # fmt: skip
    with progress_bar() as tell:
        report = ingest_profiles(
            database, paths, options=options, scale=scale, skip_invalid=skip_invalid, progress=tell
        )
    _print_report(report)


@ingest.command(epilog="\b\nExample:\n  molquery ingest metadata clinical.parquet --on patient_id")
@_PATHS
@click.option(
    "--on", metavar="COLUMN", help="The column to join by; else the first that is called like ids."
)
@click.pass_context
def metadata(ctx: click.Context, paths: tuple[Path, ...], on: str | None) -> None:
    """Clinical and other tables, joined to slides and profiles by slide, sample or patient id.

    TCGA barcodes of different lengths are matched by their common part, and the report says so.
    """
    database = open_database(ctx)
    from molquery.ingest import ingest_metadata

    report = ingest_metadata(database, paths, on=on)
    say(f"metadata: {len(report.columns)} columns: {some(report.columns, 12)}", err=False)
    by = f" by {on}" if on else ""
    for table, (matched, total) in report.matched.items():
        say(f"  matched {matched} of {total} {table}{by}", err=False)
    if report.n_unmatched_file:
        say(
            f"  {report.n_unmatched_file} rows of the file match nothing, "
            f"such as {some(report.unmatched_file)}",
            err=False,
        )
    if report.n_unmatched_database:
        say(
            f"  {report.n_unmatched_database} ids of the database are not in the file, "
            f"such as {some(report.unmatched_database)}",
            err=False,
        )
    for line in notes_lines(report.notes):
        say(line)


def _print_report(report: Any) -> None:
    facts = ", ".join(f"{k} {v}" for k, v in report.facts.items())
    say(
        f"{report.table}: {report.inserted} inserted, {report.updated} updated, "
        f"{report.unchanged} unchanged ({facts})",
        err=False,
    )
    for reason, ids in report.skipped.items():
        say(f"  skipped {len(ids)} with {reason}: {some(ids, 3)}", err=False)
    for line in notes_lines(report.notes):
        say(line)
