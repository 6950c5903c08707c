"""molquery heatmap."""

from __future__ import annotations

from pathlib import Path

import click

from molquery.cli.options import (
    method_option,
    open_engine,
    read_signature,
    scoring_option,
    signature_options,
)
from molquery.cli.render import coverage_line, notes_lines, predictability_lines


@click.command(
    epilog="\b\nExample:\n  molquery heatmap --slide C4 --geneset HALLMARK_ALLOGRAFT_REJECTION "
    "--image C4.jpg --image-scale 0.1725 --um-per-pixel 0.686 --output tissue.png"
)
@signature_options
@click.option("--slide", required=True, metavar="ID", help="The slide whose regions are painted.")
@click.option(
    "--image", type=click.Path(path_type=Path), help="Its H&E image; else the column `image`."
)
@click.option(
    "--image-scale",
    type=float,
    help="Pixels of the image per pixel of the coordinates; else the column, else 1.",
)
@click.option(
    "--um-per-pixel",
    type=float,
    help="Micrometres per pixel of the coordinates, for the scale bar; else the column.",
)
@click.option("--x", metavar="COLUMN", help="Holds the centres' x, in pixels: x or pixel_x.")
@click.option("--y", metavar="COLUMN", help="Holds the centres' y, in pixels: y or pixel_y.")
@click.option(
    "--slide-column", metavar="COLUMN", help="Says which slide a region is of: slide or section."
)
@method_option
@scoring_option
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="The figure to write: .png, .svg or .pdf.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.pass_context
def heatmap(
    ctx: click.Context,
    geneset: str | None,
    genes: str | None,
    down: str,
    min_genes: int,
    slide: str,
    image: Path | None,
    image_scale: float | None,
    um_per_pixel: float | None,
    x: str | None,
    y: str | None,
    slide_column: str | None,
    method: str,
    scoring: str,
    output: Path,
    overwrite: bool,
) -> None:
    """Paint the predicted activity of a gene set over a slide's H&E image.

    For databases that hold regions of slides with coordinates (spots or tiles). Where regions have
    RNA of their own, the measured score is painted beside the predicted one.
    """
    from molquery.figures import style

    style.file_kind(output)
    signature = read_signature(ctx, geneset, genes, down)
    engine = open_engine(ctx)
    from molquery.figures.tissue import tissue_map
    from molquery.query.regions import regions

    columns = {"x": x or "", "y": y or "", "slide": slide_column or ""}
    found = regions(
        engine, signature, slide, image=image, image_scale=image_scale, um_per_pixel=um_per_pixel,
        columns=columns, method=method, scoring=scoring, min_genes=min_genes,
    )  # fmt: skip
    figure = tissue_map(
        found.image, found.x, found.y, found.predicted, found.measured, title=found.title,
        unit=found.unit, um_per_pixel=found.um_per_pixel,
    )  # fmt: skip
    style.save(figure, output, overwrite=overwrite)
    agreement = f", r = {found.r:.2f} with the predicted score" if found.r is not None else ""
    for line in (
        f"{output}: {len(found.ids)} regions of {found.slide}, {found.n_measured} with measured "
        f"RNA{agreement}. H&E-predicted, for research use only.",
        coverage_line(found.coverage),
        *predictability_lines(found.predictability),
        *notes_lines(found.notes),
    ):
        click.echo(line, err=True)
