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


def sniff(_: Path, head: bytes) -> bool:
    """True for both columns of gene names, in either order."""
    return set(body.first_line(head).split("\t")[:2]) == {"hugo_symbol", "entrez_gene_id"}


def load(path: Path, options: Options) -> Profiles:
    """Profiles of the sample columns.

    Raises:
        FileFormatError: the file is damaged.
        ColumnError: a column holds text among its numbers.
    """
    from molquery.genes import resolve

    table = delimited.load(path, options)
    symbols = [(v or "").strip() for v in table["Hugo_Symbol"].cast(pa.string()).to_pylist()]
    entrez = [str(v or "").removesuffix(".0") for v in table["Entrez_Gene_Id"].to_pylist()]
    known = resolve(symbols, kind="symbol").symbols
    by_id = resolve(entrez, kind="entrez").symbols
    genes = [
        f"{symbol}|{number}" if current is None and other is not None else symbol
        for symbol, number, current, other in zip(symbols, entrez, known, by_id, strict=True)
    ]
    at = table.column_names.index("Hugo_Symbol")
    table = table.set_column(at, "Hugo_Symbol", pa.array(genes, pa.string()))
    chosen = options.gene_column or "Hugo_Symbol"
    return profiles_from_table(
        table, path, replace(options, gene_column=chosen, genes_in=options.genes_in or ROWS)
    )


READER = Reader("cBioPortal expression", sniff, load)
