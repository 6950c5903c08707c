"""GCT 1.2 and 1.3 (GenePattern, GTEx, LINCS): genes in rows, with metadata of rows and columns.

-666 marks a missing value, in the matrix and in the metadata of version 1.3.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from molquery.errors import FileFormatError, some
from molquery.readers import body, columns, orientation
from molquery.readers.base import Input, Options, Profiles, Reader
from molquery.readers.profile_table import finish

WHAT = "a GCT file"
NUMBER = r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?"
MISSING = {*(null.lower() for null in body.NULLS), "-666", "-666.0"}


def sniff(_: Path, head: bytes) -> bool:
    """True for the version line."""
    return body.first_line(head).strip() in ("#1.2", "#1.3")


def load(path: Path, options: Options) -> Profiles:
    """Profiles of the columns; facts about them in version 1.3 become metadata.

    Genes are the row ids, or a column that describes rows where that holds known genes instead.

    Raises:
        FileFormatError: the file is damaged, is cut short, or holds its genes in columns.
        ColumnError: `options.gene_column` is not there.
    """
    top = body.lines(path, WHAT, 3)
    newer = bool(top) and top[0][0].strip() == "#1.3"
    counts = [f.strip() for f in top[1] if f.strip()] if len(top) > 2 else []
    if len(counts) != (4 if newer else 2) or not all(re.fullmatch(r"\d{1,9}", c) for c in counts):
        raise FileFormatError(
            f"{path} looks like a GCT file, but its second line does not hold its dimensions",
            found=some(counts, 4) or "nothing",
        )
    n_rows, n_columns, n_row_facts, n_facts = map(int, counts if newer else [*counts, "1", "0"])
    header = [name.strip() for name in top[2]]
    while len(header) > 1 + n_row_facts + n_columns and not header[-1]:
        header.pop()  # lines that end in tabs
    if len(header) != 1 + n_row_facts + n_columns:
        raise _cut(path, f"{n_columns} columns", f"{len(header) - 1 - n_row_facts}")
    names = [f"{i}" for i in range(len(header))]
    texts, samples = header[: 1 + n_row_facts], header[1 + n_row_facts :]
    facts = body.lines(path, WHAT, 3 + n_facts)[3:]
    types = {n: pa.string() if i < len(texts) else pa.float32() for i, n in enumerate(names)}
    table = body.columns(path, WHAT, 3 + n_facts, names, types)
    if table.num_rows != n_rows:
        raise _cut(path, f"{n_rows} rows", str(table.num_rows))
    genes, notes = _genes(table, texts, samples, path, options)
    values = np.empty((len(samples), n_rows), dtype=np.float32)
    for i in range(len(samples)):
        values[i] = columns.as_float32(table.column(len(texts) + i))
    ids = columns.ids_of(pa.chunked_array([pa.array(samples, pa.string())]), "the header", path)
    metadata = _metadata(facts, len(texts), ids)
    return finish(ids, tuple(genes), values, metadata, notes, path)


def _genes(
    table: pa.Table, texts: list[str], samples: list[str], path: Path, options: Options
) -> tuple[list[str], list[str]]:
    if options.gene_column is not None:
        at = columns.find(texts, options.gene_column, path)
        return _stripped(table.column(at)), []
    candidates = [_stripped(table.column(i)) for i in range(len(texts))]
    for name, genes in zip(texts, candidates, strict=True):
        if orientation.known_share(genes) > orientation.MOST:
            return genes, [f"read with genes in rows, called by column {name!r}"]
    if options.genes_in != orientation.ROWS and options.gene_id is None:
        turned = orientation.known_share(samples) > orientation.MOST
        raise FileFormatError(
            f"the rows of {path}, a GCT file, are not named by known genes",
            found=f"{some(candidates[0], 3)} in rows, {some(samples, 3)} in columns",
            hint="transpose the file: GCT holds genes in rows"
            if turned
            else "--gene-column COLUMN, or --genes-in rows to take them as they are",
        )
    return candidates[0], []


def _metadata(facts: list[list[str]], start: int, ids: tuple[str, ...]) -> pa.Table:
    held: dict[str, pa.Array] = {}
    for row in facts:
        values = [v.strip() for v in row[start : start + len(ids)]]
        values += [""] * (len(ids) - len(values))
        present = [None if v.lower() in MISSING else v for v in values]
        held[row[0].strip() or f"column_{len(held) + 1}"] = _typed(present)
    return pa.table(held) if held else pa.table({"id": pa.array(ids)}).select([])


def _typed(values: list[str | None]) -> pa.Array:
    """Numbers where every value is one; an id such as 007 is none."""
    texts = pa.array(values, pa.string())
    present = [v for v in values if v is not None]
    if present and all(re.fullmatch(r"-?(0|[1-9]\d{0,14})", v) for v in present):
        return texts.cast(pa.int64())
    if present and all(re.fullmatch(NUMBER, v) for v in present):
        return texts.cast(pa.float64())
    return texts


def _stripped(column: pa.ChunkedArray) -> list[str]:
    return [(v or "").strip() for v in column.to_pylist()]


def _cut(path: Path, promised: str, there: str) -> FileFormatError:
    return FileFormatError(
        f"{path}, a GCT file, says that it has {promised}",
        found=there,
        hint="the file may be cut short: fetch or write it again",
    )


READER = Reader(
    "GCT 1.2/1.3",
    sniff,
    load,
    (
        Input(
            "GCT (GTEx, LINCS, GenePattern)", "`.gct` of version 1.2 or 1.3", "file.gct",
            "profiles",
            "Facts about samples become metadata; -666 is missing; the dimensions that the file "
            "states must hold.",
        ),
    ),
)  # fmt: skip
