"""cBioPortal expression: `Hugo_Symbol`, `Entrez_Gene_Id`, then one column a sample.

Read as a delimited matrix with genes in rows. A row whose symbol is empty or not known is named by
its Entrez id. Files of z-scores look the same and are told by their values (`molquery.scales`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from molquery.readers import body, delimited
from molquery.readers.base import Options, Profiles, Reader
from molquery.readers.orientation import ROWS
from molquery.readers.profile_table import profiles_from_table

HEADER = ("hugo_symbol", "entrez_gene_id")


def sniff(_: Path, head: bytes) -> bool:
    """True for both columns of gene names, in either order."""
    return set(body.first_line(head).split("\t")[:2]) == set(HEADER)


def load(path: Path, options: Options) -> Profiles:
    """Profiles of the sample columns.

    Raises:
        FileFormatError: the file is damaged.
        ColumnError: a column holds text among its numbers.
    """
    from molquery.genes import resolve

    table = delimited.load(path, options)
    at, entrez_at = ([n.lower() for n in table.column_names].index(name) for name in HEADER)
    symbols = [(v or "").strip() for v in table.column(at).cast(pa.string()).to_pylist()]
    entrez = [str(v or "").removesuffix(".0") for v in table.column(entrez_at).to_pylist()]
    known = resolve(symbols, kind="symbol").symbols
    by_id = resolve(entrez, kind="entrez").symbols
    genes = [
        f"{symbol}|{number}" if current is None and other is not None else symbol
        for symbol, number, current, other in zip(symbols, entrez, known, by_id, strict=True)
    ]
    symbol = table.column_names[at]
    table = table.set_column(at, symbol, pa.array(genes, pa.string()))
    chosen = options.gene_column or symbol
    return profiles_from_table(
        table, path, replace(options, gene_column=chosen, genes_in=options.genes_in or ROWS)
    )


READER = Reader("cBioPortal expression", sniff, load)
