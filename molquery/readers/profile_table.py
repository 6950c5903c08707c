"""Expression profiles from an Arrow table, whichever file it came from.

Numeric columns are genes (or, with genes in rows, samples), except the well-known names of
`columns.KNOWN_METADATA`; a gene that no table of symbols knows is a gene all the same. What could
be a mistake is said in the notes. Which axis holds the genes is decided in `orientation.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from molquery.errors import ColumnError, printable, some
from molquery.readers import columns, orientation
from molquery.readers.base import Options, Profiles
from molquery.vectors import Matrix

#: Marks a missing value in GCT files and what is derived from them (GTEx, CCLE).
SENTINEL = -666.0
#: Marks a gene that was not measured, in matrices made for BulkFormer.
BULKFORMER = -10.0

#: Columns beside the gene names, in matrices with genes in rows, that describe the gene.
ROW_ANNOTATIONS = columns.words("""
entrez_gene_id entrez_id entrezgene entrez gene_id gene_name gene_symbol hgnc_symbol symbol
hugo_symbol ensembl_gene_id ensembl_id hgnc_id description name gene_type gene_biotype biotype
chr chrom chromosome start end length gene_length strand cytoband
""")

GENE_WORDS = ("gene", "symbol", "hugo", "hgnc", "ensembl", "entrez")

# Columns are transposed into the matrix in groups: strided writes of single columns are slow.
GROUP = 64

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


def profiles_from_table(table: pa.Table, path: Path, options: Options) -> Profiles:
    """The profiles of a matrix with samples in rows or in columns.

    Raises:
        ColumnError: a column is missing or of the wrong type, or ids are missing.
        FileFormatError: it cannot be told which axis holds the genes.
    """
    table = columns.plain(table)
    names = table.column_names
    numeric = [
        i
        for i, kind in enumerate(table.schema.types)
        if (columns.is_number(kind) or pa.types.is_null(kind)) and names[i] != options.id
    ]
    values = [i for i in numeric if not columns.is_metadata(names[i])]
    gene_at = _gene_column(table, path, options)
    axis = orientation.orient(
        [names[i] for i in values],
        [] if gene_at is None else _texts(table.column(gene_at)),
        path,
        options.genes_in,
    )
    if axis == orientation.COLUMNS:
        return _genes_in_columns(table, values, numeric, path, options)
    if options.id is not None:
        columns.find(names, options.id, path)  # not needed here, but a name that is wrong is said
    return _genes_in_rows(table, gene_at, path)


def _genes_in_columns(
    table: pa.Table, values: list[int], numeric: list[int], path: Path, options: Options
) -> Profiles:
    names = table.column_names
    id_at = _id_column(table, path, options)
    values = [i for i in values if i != id_at]
    if not values:
        raise ColumnError(f"no numeric columns, so no expression, in {path}", found=some(names, 12))
    ids = columns.ids_of(table.column(id_at), names[id_at], path)
    notes = [f"read with samples in rows, called by column {names[id_at]}, and genes in columns"]
    taken = set(values)
    if columns.normal(names[id_at]) not in columns.PATIENT_IDS:
        taken.add(id_at)
    rest = [i for i in range(len(names)) if i not in taken]
    notes += _odd_text_columns(table, [i for i in rest if i != id_at], path)
    if aside := [names[i] for i in numeric if i in rest and i != id_at]:
        notes.append(f"numeric columns kept as metadata, not as genes: {some(aside)}")
    genes = tuple(names[i] for i in values)
    out = np.empty((table.num_rows, len(values)), dtype=np.float32)
    for start in range(0, len(values), GROUP):
        group = [columns.as_float32(table.column(i)) for i in values[start : start + GROUP]]
        out[:, start : start + len(group)] = np.stack(group, axis=1)
    metadata = columns.metadata_of(table, rest, path)
    return finish(ids, genes, out, metadata, notes, path)


def _genes_in_rows(table: pa.Table, gene_at: int | None, path: Path) -> Profiles:
    names = table.column_names
    if gene_at is None:
        raise ColumnError(
            f"no column of gene names in {path}",
            found=some(names, 12),
            hint="name it with --gene-column",
        )
    samples, aside = [], []
    for i, kind in enumerate(table.schema.types):
        number = columns.is_number(kind) or pa.types.is_null(kind)
        if i == gene_at:
            continue
        if number and columns.normal(names[i]) not in ROW_ANNOTATIONS:
            samples.append(i)
        else:
            if not number and columns.normal(names[i]) not in ROW_ANNOTATIONS:
                _refuse_damaged(table.column(i), names[i], path, "sample")
            aside.append(names[i])
    if not samples:
        raise ColumnError(f"no numeric columns, so no samples, in {path}", found=some(names, 12))
    notes = ["read with genes in rows and samples in columns"]
    if aside:
        notes.append(f"columns that describe genes were left out: {some(aside)}")
    genes = [name.strip() for name in _texts(table.column(gene_at))]
    out = np.empty((len(samples), table.num_rows), dtype=np.float32)
    for row, i in enumerate(samples):
        out[row] = columns.as_float32(table.column(i))
    named = np.array([bool(name) for name in genes], dtype=bool)
    if not named.all():
        notes.append(f"{int((~named).sum())} rows without a gene name were left out")
        out = np.ascontiguousarray(out[:, named])
        genes = [name for name in genes if name]
    ids = tuple(names[i].strip() for i in samples)
    metadata = pa.table({"id": pa.array(ids)}).select([])
    return finish(ids, tuple(genes), out, metadata, notes, path)


def finish(
    ids: tuple[str, ...],
    genes: tuple[str, ...],
    values: Matrix,
    metadata: pa.Table,
    notes: Sequence[str],
    path: Path,
    *,
    scale: str | None = None,
) -> Profiles:
    """The profiles, with sentinels turned into NaN and names that are no known genes noted."""
    said = list(notes)
    sentinels = values == np.float32(SENTINEL)
    if count := int(sentinels.sum()):
        values = values.copy()
        values[sentinels] = np.nan
        said.append(f"{count} values of -666 were read as missing")
    negative = values < 0
    if (count := int(negative.sum())) and (values[negative] == np.float32(BULKFORMER)).all():
        values = np.where(negative, np.float32(np.nan), values)
        said.append(f"{count} values of -10, the only negative ones, were read as missing")
    return Profiles(ids, genes, values, metadata, tuple(said), str(path), scale)


def _id_column(table: pa.Table, path: Path, options: Options) -> int:
    names = table.column_names
    if options.id is not None:
        return columns.find(names, options.id, path)
    at = columns.first_of(names, columns.PROFILE_IDS)
    first_holds_names = bool(names) and columns.are_names(table.column(0))
    if at is None and first_holds_names and names[0] == columns.INDEX:
        at = 0
    if at is None:
        at = columns.first_of(names, columns.PATIENT_IDS)
    if at is None and first_holds_names:
        at = 0
    if at is None:
        wanted = (*columns.PROFILE_IDS, *columns.PATIENT_IDS)
        raise ColumnError(
            f"no column of sample ids in {path}: none is called " + ", ".join(wanted),
            found=some(names, 12),
            hint="name the column with --id",
        )
    return at


def _gene_column(table: pa.Table, path: Path, options: Options) -> int | None:
    """Position of the column that holds the gene names, if these are in rows.

    Without the user's word: the first column or one that is called like gene names, in their
    order, that holds known genes (else the likeliest); its values must differ, so that a column
    such as `driver_gene` of a sample table is never taken.
    """
    names = table.column_names
    named = options.gene_column or (options.id if options.genes_in == orientation.ROWS else None)
    if named is not None:
        return columns.find(names, named, path)
    best, best_share = None, -1.0
    for i, kind in enumerate(table.schema.types):
        like_genes = any(word in names[i].lower() for word in GENE_WORDS)
        fits = columns.is_text(kind) or (pa.types.is_integer(kind) and like_genes)
        if not fits or not (i == 0 or like_genes):
            continue
        texts = _texts(table.column(i))
        if len(set(texts)) < 0.9 * len(texts):
            continue
        share = orientation.known_share(texts)
        if share > orientation.MOST:
            return i
        if share > best_share:
            best, best_share = i, share
    return best


def _texts(column: pa.ChunkedArray) -> list[str]:
    values: list[str | None] = column.cast(pa.string()).to_pylist()
    return [value or "" for value in values]


def _odd_text_columns(table: pa.Table, rest: Sequence[int], path: Path) -> list[str]:
    """Notes on text columns that are called like genes.

    Raises:
        ColumnError: such a column holds numbers, with some text among them.
    """
    from molquery.genes import resolve

    names = table.column_names
    text = [i for i in rest if columns.is_text(table.schema.types[i])]
    text = [i for i in text if not columns.is_metadata(names[i])]
    known = resolve([names[i] for i in text]).symbols
    called = [i for i, symbol in zip(text, known, strict=True) if symbol is not None]
    for i in called:
        _refuse_damaged(table.column(i), names[i], path, "gene")
    if not called:
        return []
    shown = some(names[i] for i in called)
    return [f"text columns kept as metadata, though called like genes: {shown}"]


def _refuse_damaged(column: pa.ChunkedArray, name: str, path: Path, noun: str) -> None:
    if not columns.is_text(column.type):
        return
    present = column.drop_null()
    number = pc.match_substring_regex(present, NUMBER)
    if not len(present) or pc.sum(number).as_py() <= len(present) / 2:
        return
    odd = present.filter(pc.invert(number))
    if not len(odd):
        raise ColumnError(
            f"the {noun} column {name!r} of {path} holds numbers as text",
            found=f"type {column.type}",
            hint="write the column as numbers",
        )
    raise ColumnError(
        f"the {noun} column {name!r} of {path} holds text among its numbers",
        found=repr(printable(odd[0].as_py(), 40)),
        hint="write missing values as an empty field or NA",
    )
