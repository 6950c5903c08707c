"""What a reader gives back, what it may be told, and what a reader is.

Reading one format is in the module named after it; the lists of formats and the functions to call
are in `registry.py`. Duplicate ids, NaN, infinite and all-zero vectors pass through untouched:
they are judged at ingest, where the whole input is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from molquery.vectors import Matrix

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slides:
    """Slide vectors of one file.

    Attributes:
        ids: slide ids, stripped of surrounding space, in the order of the file.
        vectors: (n, d) float32, C-contiguous, perhaps a read-only view of the file's own buffer.
            NaN where the file holds nothing. (0, 0) where every slide of the file was skipped.
        encoder: name of the model that made the vectors, where the file or its folder tells.
        metadata: n rows, every column other than id and vector; it may have no columns at all.
        skipped: reason -> ids of slides (or names of files) that gave no vector.
        source: the file.
    """

    ids: tuple[str, ...]
    vectors: Matrix
    encoder: str | None
    metadata: pa.Table
    skipped: Mapping[str, tuple[str, ...]]
    source: str


@dataclass(frozen=True, slots=True)
class Profiles:
    """Expression profiles of one file.

    Attributes:
        ids: sample ids, stripped of surrounding space, in the order of the file.
        genes: gene identifiers as the file has them, stripped; not resolved, perhaps repeated.
        values: (n_samples, n_genes) float32, C-contiguous; NaN = missing.
        metadata: n_samples rows; it may have no columns at all.
        notes: what a reader of the report should know, such as columns that were left out.
        source: the file.
        scale: the scale of the values, where the format itself says it (a TPM column).
        embeddings: (n_samples, d) float32 of an RNA model, NaN where a sample has none; and the
            model's name. Only exports of molquery hold both in one file.
    """

    ids: tuple[str, ...]
    genes: tuple[str, ...]
    values: Matrix
    metadata: pa.Table
    notes: tuple[str, ...]
    source: str
    scale: str | None = None
    embeddings: tuple[str, Matrix] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says about a file where its content does not tell.

    Attributes:
        id: column that holds the ids (of `obs` in .h5ad; the default there is its index).
        vector: list column, or a pattern of numeric columns such as `f*`; in .h5ad `X` or a key
            of `obsm`; the model of a wsidata store.
        genes_in: 'rows' or 'columns' of an expression matrix.
        gene_column: column of gene identifiers (of `var` in .h5ad; the default is its index).
        layer: layer of .h5ad to read profiles from, instead of `X`.
        scale: scale of an expression matrix; chooses the column where a file has several.
        gene_id: kind of the gene identifiers: 'symbol', 'ensembl' or 'entrez'.
        samples: table that names the sample of each file, where the files do not say it.
        tx2gene: table of transcript and gene ids, to sum transcripts to genes.
        encoder: of several encoders' folders in one output directory, the one to read.
    """

    id: str | None = None
    vector: str | None = None
    genes_in: str | None = None
    gene_column: str | None = None
    layer: str | None = None
    scale: str | None = None
    gene_id: str | None = None
    samples: Path | None = None
    tx2gene: Path | None = None
    encoder: str | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """What one tool writes, and how it is taken in: a row of `docs/inputs.md`.

    Attributes:
        tool: the tool, as its users call it.
        layout: the folders and files that it writes.
        arguments: what follows `molquery ingest slides`.
    """

    tool: str
    layout: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reader(Generic[T]):
    """One format: its name, how to recognise it, how to read it.

    Attributes:
        name: how messages call the format.
        sniff: (path, first bytes of the file) -> whether this is the format. It looks at content,
            never at the extension, and raises FileFormatError where the file is damaged.
        read: (path, options) -> the content.
        inputs: the tools that write this format, for the documentation.
    """

    name: str
    sniff: Callable[[Path, bytes], bool] = field(repr=False)
    read: Callable[[Path, Options], T] = field(repr=False)
    inputs: tuple[Input, ...] = field(default=(), repr=False)
