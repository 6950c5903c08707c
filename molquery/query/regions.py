"""A signature over one slide: the scores of its regions, and where they lie on its image.

Regions are rows of the slides table like any other, with three columns of metadata: `x` and `y`,
the centre of the region in pixels, and `slide`, the slide that it was cut from (`COLUMNS` lists the
other names that are recognised). Three more columns may say what image to paint on, once for every
slide: `image` (a path), `image_scale` (pixels of the image per pixel of the coordinates) and
`um_per_pixel` (of the coordinates). Drawing is in `molquery.figures.tissue`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as types

from molquery.errors import ColumnError, InputError, some
from molquery.evaluate.metrics import optional, pearson
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.images import grey
from molquery.query.answer import answer, signature_notes
from molquery.query.engine import Engine
from molquery.query.methods import DEFAULT_METHOD
from molquery.records import Coverage, Predictability, Provenance, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.schema import SLIDES
from molquery.vectors import Bools, Float, Ints, Strings, as_text

#: What is needed of a region -> the column names that are recognised, the first that is there.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "x": ("x", "pixel_x", "coord_x"),
    "y": ("y", "pixel_y", "coord_y"),
    "slide": ("slide", "section", "wsi"),
}
IMAGE, IMAGE_SCALE, UM_PER_PIXEL = "image", "image_scale", "um_per_pixel"
#: Share of regions on blank background above which image and slide may not belong together: 0.05 in
#: the example's section C4, 0.22 to 0.71 when its image is given for another section.
_BLANK = 0.2


@dataclass(frozen=True)
class Regions:
    """The regions of one slide with their scores; arrays are (n,), ordered by region id.

    Attributes:
        ids: region ids (keys of the slides table).
        x, y: centres in pixels of the image.
        predicted: H&E-predicted scores; of a region with RNA, by models that have not seen it.
        measured: measured scores, NaN where a region has no RNA; None where no region has.
        r: Pearson's correlation of the two over the `n_measured` regions with both.
        image: the H&E image; um_per_pixel: of that image, None where it is not known.
    """

    slide: str
    ids: Strings
    x: Float
    y: Float
    predicted: Float
    measured: Float | None
    n_measured: int
    r: float | None
    image: Path
    um_per_pixel: float | None
    title: str
    unit: str
    predictability: Predictability
    coverage: Coverage
    provenance: Provenance
    notes: tuple[str, ...]


def regions(
    engine: Engine,
    signature: Signature,
    slide: str,
    *,
    image: Path | None = None,
    image_scale: float | None = None,
    um_per_pixel: float | None = None,
    columns: Mapping[str, str] | None = None,
    method: str = DEFAULT_METHOD,
    scoring: str = DEFAULT_SCORING,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> Regions:
    """The scores of a slide's regions, placed on its image.

    Args:
        slide: a value of the column that says which slide a region is of.
        image, image_scale, um_per_pixel: as in the metadata columns of the same names, which they
            stand in for; a scale that is given nowhere is 1.
        method: what predicts the scores; scoring: how the reference profiles are scored.
        columns: 'x', 'y' or 'slide' -> the column that holds it, where `COLUMNS` is not enough.

    Raises:
        ColumnError: regions have no coordinates or no slide, or a column is no number.
        InputError: there is no such slide, no image is known, or a setting makes no sense.
        GeneSetError: too few genes of the signature are in the database.
    """
    names = _columns(engine, columns or {})
    held = [c for c in (IMAGE, IMAGE_SCALE, UM_PER_PIXEL)
            if c in engine.database.metadata_columns(SLIDES)]  # fmt: skip
    table = engine.database.read(SLIDES, [*names.values(), *held])
    rows, of_slide = _rows(as_text(table[names["slide"]]), slide, names["slide"])
    x, y = (_numbers(table, names[axis])[rows] for axis in ("x", "y"))
    placed = np.isfinite(x) & np.isfinite(y)
    notes = []
    if not placed.all():
        if not placed.any():
            raise InputError(f"no region of {of_slide} has coordinates",
                             found=f"{len(rows)} regions without")  # fmt: skip
        notes.append(f"{int((~placed).sum())} of {len(rows)} regions of {of_slide} have no "
                     "coordinates: not painted")  # fmt: skip
    told = {c: _one_value(table, c, rows, of_slide) for c in held}
    path = image or (Path(told[IMAGE]) if told.get(IMAGE) else None)
    if path is None:
        raise InputError(
            f"which image shows {of_slide}?",
            hint="--image FILE, or a metadata column `image` with its path",
        )
    scale = _positive(IMAGE_SCALE, image_scale, told) or 1.0
    size = _positive(UM_PER_PIXEL, um_per_pixel, told)
    if size is None:
        notes.append("no scale bar: say how large a pixel is with --um-per-pixel")

    known = answer(
        engine, signature, method=method, scoring=scoring, null=0, min_genes=min_genes,
        min_fraction=min_fraction,
    )  # fmt: skip
    match, quality = known.match, known.predictability
    scores = engine.reference.matrix([(match.positions, match.weights)], scoring)
    rows, x, y = rows[placed], x[placed] * scale, y[placed] * scale
    predicted = known.predicted[rows]
    measured = _measured(engine, rows, scores[:, 0], notes)
    both = np.isfinite(measured) if measured is not None else np.zeros(len(rows), dtype=bool)
    r = None
    if measured is not None and both.sum() > 2:
        r = optional(float(pearson(predicted[both], measured[both])))
    head = f"{signature.name}, {of_slide}"
    if r is not None:
        head += f": r = {r:.2f} over {int(both.sum())} regions"
    blank = grey(path).blank(x, y)
    if blank > _BLANK:
        notes.append(f"{100 * blank:.0f} % of the regions lie on blank parts of {path.name}: check "
                     f"that it shows {of_slide}, and the image scale")  # fmt: skip
    mine = np.zeros(len(engine.slide_ids), dtype=bool)
    mine[rows] = True
    notes += [
        *signature_notes(signature, match.coverage, match.lost, quality, strict=False),
        *engine.unseen_note(mine),
        *engine.domain_notes(mine),
        *engine.notices,
    ]
    return Regions(
        slide=of_slide, ids=engine.slide_ids[rows], x=x, y=y, predicted=predicted,
        measured=measured, n_measured=int(both.sum()), r=r, image=path,
        um_per_pixel=None if size is None else size / scale, title=head,
        unit=f"score ({'mean z' if scoring == DEFAULT_SCORING else scoring} in the reference)",
        predictability=quality, coverage=match.coverage,
        provenance=engine.provenance(
            method,
            {"scoring": scoring, "slide": of_slide, "columns": names, "image": str(path),
             IMAGE_SCALE: scale, UM_PER_PIXEL: size},
            signature=signature.name, signature_sha256=signature.sha256,
            genes_found=match.coverage.found, genes_missing=match.coverage.missing,
            notes=tuple(notes),
        ),
        notes=tuple(notes),
    )  # fmt: skip


def _columns(engine: Engine, given: Mapping[str, str]) -> dict[str, str]:
    """'x', 'y' and 'slide' -> the column that holds it."""
    there = engine.database.metadata_columns(SLIDES)
    names = {}
    for what, known in COLUMNS.items():
        wanted = (given[what],) if given.get(what) else known
        found = next((name for name in wanted if name in there), None)
        if found is None:
            option = "--slide-column" if what == "slide" else f"--{what}"
            raise ColumnError(
                f"slides have no column {wanted[0]}" if given.get(what)
                else "this database holds no regions: a heat map needs coordinates (x, y, in "
                "pixels) and the slide that each region is of",
                found=f"no column {' or '.join(wanted)} among {some(there, 30)}",
                hint=f"{option} COLUMN, or molquery ingest metadata FILE --on slide_id",
            )  # fmt: skip
        names[what] = found
    return names


def _rows(slides: Strings, slide: str, column: str) -> tuple[Ints, str]:
    rows = np.flatnonzero(slides == slide)
    if not len(rows):
        known = sorted(set(slides.tolist()) - {""})
        near = difflib.get_close_matches(slide, known, n=1)
        raise InputError(
            f"no region is of a slide called {slide!r}",
            found=f"{column}: {some(known, 10)}",
            hint=f"--slide {near[0] if near else (known or ['ID'])[0]}",
        )
    return rows, slide


def _numbers(table: pa.Table, column: str) -> Float:
    """A column as numbers (n,), NaN where a value is missing."""
    kind = table.schema.field(column).type
    if not (types.is_integer(kind) or types.is_floating(kind)):
        raise ColumnError(f"{column} holds no coordinates", found=f"values of type {kind}",
                          hint="--x COLUMN --y COLUMN")  # fmt: skip
    return np.array([np.nan if v is None else float(v) for v in table[column].to_pylist()])


def _one_value(table: pa.Table, column: str, rows: Ints, slide: str) -> str:
    """What a column says of a slide; '' where it says nothing."""
    values: set[str] = set(as_text(table[column])[rows].tolist()) - {""}
    if len(values) > 1:
        raise InputError(
            f"the regions of {slide} differ in {column}", found=some(sorted(values)),
            hint=f"--{column.replace('_', '-')}",
        )  # fmt: skip
    return next(iter(values), "")


def _positive(name: str, given: float | None, told: Mapping[str, Any]) -> float | None:
    value = given if given is not None else told.get(name) or None
    try:
        number = None if value is None else float(value)
    except ValueError:
        number = -1.0
    if number is not None and not 0 < number < np.inf:
        raise InputError(f"{name} must be a number above 0", found=str(value))
    return number


def _measured(engine: Engine, rows: Ints, scores: Float, notes: list[str]) -> Float | None:
    """Measured scores (n_rows,) of regions with RNA of their own; None where there are none."""
    slide, profile = engine.pairs.slide, engine.pairs.profile
    mine: Bools = np.isin(slide, rows)
    slide, profile = slide[mine], profile[mine]
    if not len(slide):
        return None
    if len(np.unique(profile)) < len(profile):
        notes.append("the RNA is of whole patients and not of single regions: "
                     "no measured score is painted")  # fmt: skip
        return None
    total, count = np.zeros((2, len(engine.slide_ids)))
    np.add.at(total, slide, scores[profile])
    np.add.at(count, slide, 1)
    out = np.full(len(engine.slide_ids), np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return np.asarray(out[rows])
