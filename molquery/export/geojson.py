"""GeoJSON as QuPath reads it: one feature a row, with its stratum as class and its numbers.

Coordinates are pixels of the full-resolution image, the origin at its top left corner
(https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html). A file stands
for one image: choose the rows of one with a filter.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.errors import ColumnError, some
from molquery.export.document import plain
from molquery.export.record import Format

X, Y, DIAMETER, STRATUM = "x", "y", "diameter", "stratum"
_IDS = ("slide_id", "patient_id")
#: Corners of the polygon that stands for a circle: QuPath's GeoJSON has no ellipses.
_CORNERS = 32
#: Okabe and Ito's colours, told apart by colour-blind people too; grey for the middle of three.
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (230, 159, 0),
    (86, 180, 233), (204, 121, 167), (240, 228, 66), (0, 0, 0),
)  # fmt: skip
_GREY = (153, 153, 153)


def features(table: pa.Table) -> Iterator[dict[str, Any]]:
    """One GeoJSON feature per row: a circle where the table has a diameter, else a point.

    Raises:
        ColumnError: there are no columns x and y, or a row has none.
    """
    if X not in table.column_names or Y not in table.column_names:
        raise ColumnError(
            "GeoJSON needs a position of every row", found=some(table.column_names),
            hint="molquery stratify --xy pixel_x,pixel_y",
        )  # fmt: skip
    lost = sum(
        v is None or not math.isfinite(v) for name in (X, Y) for v in table[name].to_pylist()
    )
    if lost:
        raise ColumnError(f"{lost} coordinates are missing", hint="leave these rows out: --where")
    colours = _colours(table)
    numbers = [
        f.name for f in table.schema
        if (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))
        and f.name not in (X, Y, DIAMETER)
    ]  # fmt: skip
    texts = [
        f.name for f in table.schema if f.name not in (*numbers, X, Y, DIAMETER, STRATUM)
    ]  # fmt: skip
    for row in table.to_pylist():
        name = next((str(row[key]) for key in _IDS if row.get(key)), "")
        properties: dict[str, Any] = {
            "objectType": "detection" if DIAMETER in row else "annotation",
            "name": name,
            "measurements": {n: row[n] for n in numbers if plain(row[n]) is not None},
            "metadata": {n: str(row[n]) for n in texts if row[n] is not None},
        }
        if row.get(STRATUM) is not None:
            properties["classification"] = {
                "name": row[STRATUM], "color": list(colours[row[STRATUM]]),
            }  # fmt: skip
        yield {
            "type": "Feature",
            # The same row gets the same id in every export, so that a later one can be joined.
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {row[X]} {row[Y]}")),
            "geometry": _geometry(float(row[X]), float(row[Y]), row.get(DIAMETER)),
            "properties": properties,
        }


def write(table: pa.Table, provenance: Mapping[str, Any], path: Path) -> None:
    """Write the rows of `table` to `path`, the provenance as a member of the collection."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        told = json.dumps(plain(provenance), ensure_ascii=False)
        stream.write(f'{{"type": "FeatureCollection", "molquery": {told}, "features": [\n')
        for i, feature in enumerate(features(table)):
            stream.write((",\n" if i else "") + json.dumps(plain(feature), ensure_ascii=False))
        stream.write("\n]}\n")


def _geometry(x: float, y: float, diameter: float | None) -> dict[str, Any]:
    if diameter is None:
        return {"type": "Point", "coordinates": [x, y]}
    radius = diameter / 2
    turn = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
    ring = [[x + radius * math.cos(a), y + radius * math.sin(a)] for a in turn]
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def _colours(table: pa.Table) -> dict[str, tuple[int, int, int]]:
    if STRATUM not in table.column_names:
        return {}
    column = table[STRATUM]
    if pa.types.is_dictionary(column.type) and len(column):
        labels = column.combine_chunks().dictionary.to_pylist()
    else:
        labels = sorted({v for v in column.to_pylist() if v is not None})
    if labels == ["low", "mid", "high"]:
        return {"low": _COLOURS[0], "mid": _GREY, "high": _COLOURS[1]}
    return {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}


GEOJSON = Format("geojson", (".geojson",), write)
