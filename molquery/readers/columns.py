"""Columns of Arrow tables: names, ids, numbers, and which names are metadata.

Shared by every tabular format. Which columns form slide vectors is in `slide_table.py`, which form
an expression matrix in `profile_table.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from molquery.errors import ColumnError, some
from molquery.vectors import Matrix


def words(text: str) -> frozenset[str]:
    """The words of a listing."""
    return frozenset(text.split())


#: Name given to a first column without a name, which pandas and R write for row names.
INDEX = "index"

SLIDE_IDS = ("slide_id", "slide", "image_id", "filename", "id")
PROFILE_IDS = ("profile_id", "sample_id", "sample", "sample_barcode", "barcode", "spot_id", "id")

#: Id columns that say whose the row is, and so stay in the metadata as well.
PATIENT_IDS = ("patient_id", "patient", "case_id")

#: Numeric columns of these names (any letter case) are metadata: never part of a vector, never a
#: gene. Some are aliases of genes (y, os, sex, rin); no panel in use names its genes so.
KNOWN_METADATA = words("""
patient_id patient case_id slide_id sample_id profile_id spot_id section_id subject_id id index
cohort site batch plate center centre tissue_source_site fold split label subtype cluster
age age_at_diagnosis age_years sex gender race ethnicity stage grade height weight bmi year
status event time days os os_days os_months os_time os_event os_status pfs pfs_days pfs_months
pfs_time pfs_event pfi pfi_time dss dss_time dfs dfs_days dfs_months dfs_time dfs_event dfi
dfi_time survival_days survival_months survival_time age_porpoise
n_tiles n_patches n_missing n_cells n_nuclei num_tiles num_patches tissue_area magnification
mpp level width height_px width_px
total_umi total_counts n_counts n_genes n_genes_by_counts n_umi library_size size_factor
pct_counts_mt percent_mito rin
x y row col row_id col_id array_x array_y array_row array_col pixel_x pixel_y new_x new_y
in_tissue selected purity tumor_purity tumour_purity tmb msi_score ploidy
""")

# The last word of the name of a column of identifiers, which stay text even when they look like
# numbers; and words that say so only of a first column, since a sample may be called `b7_sample`.
# None is a gene symbol, so that no gene of a matrix is taken for text (IDS would be).
ID_WORDS = words("id barcode barcodes uuid accession sampleid patientid slideid")
NAME_WORDS = words("""
code key sample samples patient slide case subject participant spot profile image filename file
gene genes symbol symbols name names index
""")
COUNT_WORDS = frozenset({"n", "num", "total", "number", "nr"})

#: Below this many, numeric columns are more likely measurements about a slide than its embedding.
FEWEST = 8


def normal(name: str) -> str:
    """A column name without letter case and surrounding space, words joined by `_`."""
    return re.sub(r"[\s.\-]+", "_", name.strip().lower())


def is_metadata(name: str) -> bool:
    """True for names that hold facts about a slide or sample: never a vector value or a gene."""
    return normal(name) in KNOWN_METADATA


def holds_names(name: str, *, first: bool) -> bool:
    """True for columns whose values are identifiers, to be kept as text (leading zeros and all)."""
    if normal(name) in (*SLIDE_IDS, *PROFILE_IDS, *PATIENT_IDS):
        return True
    parts = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if not parts or parts[0] in COUNT_WORDS:
        return False
    return parts[-1] in ID_WORDS or (first and parts[-1] in NAME_WORDS)


def is_number(kind: pa.DataType) -> bool:
    """True for types that can be values of a vector or an expression matrix."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """True for text, after `plain`."""
    return bool(pa.types.is_string(kind))


def plain(table: pa.Table) -> pa.Table:
    """The same columns with one type for text; the row names that pandas wrote come first."""
    first = _pandas_index(table)
    order = [*first, *(i for i in range(table.num_columns) if i not in first)]
    arrays = [_plain_column(table.column(i)) for i in order]
    names = [table.column_names[i].strip() for i in order]
    for i, name in enumerate(names):
        if name in ("", "__index_level_0__", "Unnamed: 0"):
            names[i] = INDEX if INDEX not in names else f"column_{i + 1}"
    return pa.Table.from_arrays(arrays, names=names, metadata=table.schema.metadata)


def _pandas_index(table: pa.Table) -> list[int]:
    """Position of the one column that is the index of a data frame; pandas writes it last."""
    try:
        told = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        index = told.get("index_columns", [])
    except (ValueError, AttributeError):
        return []
    named = [n for n in index if isinstance(n, str)] if isinstance(index, list) else []
    places = [i for i, n in enumerate(table.column_names) if [n] == named]
    return places if len(places) == 1 else []


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    return column


def find(names: Sequence[str], name: str, path: Path) -> int:
    """Position of the column called `name`.

    Raises:
        ColumnError: there is no such column, or more than one.
    """
    places = [i for i, other in enumerate(names) if other == name]
    if len(places) == 1:
        return places[0]
    how = f"{len(places)} columns are" if places else "no column is"
    raise ColumnError(f"{how} called {name!r} in {path}", found=some(names, 12))


def first_of(names: Sequence[str], wanted: Iterable[str]) -> int | None:
    """Position of the first of the `wanted` names that is there, whatever its letter case."""
    keys = [normal(name) for name in names]
    return next((keys.index(name) for name in wanted if name in keys), None)


def counting(names: Sequence[str]) -> list[int]:
    """Positions of the names that share a prefix and count up, in order; none unless nearly all do.

    The few others (a fraction, a quality score) are then metadata that nobody wrote down.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for i, name in enumerate(names):
        if match := re.fullmatch(r"(.*?)(\d+)", name):
            groups.setdefault(match[1], []).append((int(match[2]), i))
    best = max((sorted(group) for group in groups.values()), key=len, default=[])
    numbers = [number for number, _ in best]
    consecutive = bool(best) and numbers == list(range(numbers[0], numbers[0] + len(best)))
    nearly_all = len(best) >= max(FEWEST, 0.9 * len(names))
    return [i for _, i in best] if consecutive and nearly_all else []


def are_names(column: pa.ChunkedArray) -> bool:
    """True for text that is more than a numbering of the rows."""
    if not is_text(column.type):
        return False
    return not pc.all(pc.match_substring_regex(column, r"^\d*$")).as_py()


def ids_of(column: pa.ChunkedArray, name: str, path: Path) -> tuple[str, ...]:
    """A column's values as ids: text, stripped.

    Raises:
        ColumnError: the column holds neither text nor integers, or some ids are missing.
    """
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise ColumnError(f"column {name!r} of {path} cannot hold ids", found=f"type {column.type}")
    texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
    ids: list[str | None] = texts.to_pylist()
    empty = sum(not value for value in ids)
    if empty:
        first = next(i for i, value in enumerate(ids) if not value) + 1
        raise ColumnError(
            f"{empty} of {len(ids)} ids are missing in column {name!r} of {path}",
            found=f"the first in data row {first}",
            hint="fill them in, or name another column with --id",
        )
    return tuple(value or "" for value in ids)


def as_float32(column: pa.ChunkedArray) -> Matrix:
    """A numeric column as (n,) float32, NaN where it holds nothing."""
    values = column.cast(pa.float32(), safe=False).to_numpy()
    return np.asarray(values, dtype=np.float32)


def metadata_of(table: pa.Table, keep: Sequence[int], path: Path) -> pa.Table:
    """The columns at positions `keep`; without any, a table of as many rows and no columns.

    Raises:
        ColumnError: two of them share a name.
    """
    # select comes last: without columns, replace_schema_metadata forgets the number of rows.
    chosen = table.replace_schema_metadata(None).select(list(keep))
    names = chosen.column_names
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ColumnError(f"columns of {path} share a name", found=some(twice))
    for i, kind in enumerate(chosen.schema.types):
        # A column of nothing has no type of its own; text takes any later value.
        if pa.types.is_null(kind):
            chosen = chosen.set_column(i, names[i], chosen.column(i).cast(pa.string()))
    return chosen
