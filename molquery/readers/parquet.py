"""Parquet files as Arrow tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from molquery.readers.base import Input, Options, Reader
from molquery.readers.detect import checked
from molquery.readers.guard import reading

MAGIC = b"PAR1"


def sniff(_: Path, head: bytes) -> bool:
    """True for the first bytes of a Parquet file."""
    return head.startswith(MAGIC)


def load(path: Path, _: Options) -> pa.Table:
    """Every column of the file.

    Raises:
        FileFormatError: the file is truncated or damaged.
    """
    # pq.read_table would add columns for folders called key=value.
    with reading(path, "Parquet"), pq.ParquetFile(path) as file:
        return checked(file.read())


READER = Reader(
    "Parquet",
    sniff,
    load,
    (
        Input(
            "pandas, polars (Parquet)",
            "`.parquet`: ids, and a list column or a numeric column per dimension",
            "slides.parquet --id slide_id --encoder titan",
        ),
        Input(
            "Any matrix (Parquet)",
            "`.parquet`, samples in rows or in columns",
            "matrix.parquet",
            "profiles",
        ),
        Input("Any table (Parquet)", "`.parquet`", "clinical.parquet --on patient_id", "metadata"),
    ),
)
