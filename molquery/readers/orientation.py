"""Which axis of an expression matrix holds the genes, from the names alone.

The matrix itself is read in `profile_table.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from molquery.errors import FileFormatError, InputError, some
from molquery.readers import columns

ROWS = "rows"
COLUMNS = "columns"

#: Names looked up per axis: enough to tell the axes apart, and a few milliseconds.
SAMPLE = 2_000
#: An axis holds the genes when more than MOST of its names are known, and less than FEW of the
#: other's. Panels of rare transcripts stay above one half; sample names that happen to be aliases
#: of genes (S1, T2, P1) stay below a tenth in any cohort of size.
MOST, FEW = 0.5, 0.1


def known_share(names: Sequence[str]) -> float:
    """Share of the names that are gene identifiers, in [0, 1].

    Bare numbers are Entrez ids only when they are spread out: 1, 2, 3, … number samples or
    dimensions, and most small integers are Entrez ids as well.
    """
    from molquery.genes import is_entrez, resolve

    unique = list(dict.fromkeys(name.strip() for name in names if name and name.strip()))
    if not unique:
        return 0.0
    numbers = all(is_entrez(name) for name in unique)
    if numbers and max(int(name.removesuffix(".0")) for name in unique) <= 3 * len(unique):
        return 0.0
    step = max(1, -(-len(unique) // SAMPLE))
    sample = unique[::step]
    found = resolve(sample)
    known = sum(symbol is not None for symbol in found.symbols)
    return (known + len(found.ambiguous) + len(found.dropped)) / len(sample)


def holds_genes(names: Sequence[str]) -> bool:
    """True where most of the names of a matrix' columns are genes, and they do not just count up.

    D1, D2, … and C1, C2, … are genes as well.
    """
    if len(names) < columns.FEWEST or columns.counting(names):
        return False
    return known_share(names) > MOST


def orient(
    in_columns: Sequence[str], in_rows: Sequence[str], path: Path, forced: str | None
) -> str:
    """`ROWS` or `COLUMNS`: the axis that holds the genes.

    Args:
        in_columns: names of the columns that could be genes.
        in_rows: the row names that could be genes.
        path: for messages.
        forced: the user's word, which is not questioned.

    Raises:
        FileFormatError: neither axis, or both, look like genes.
        InputError: `forced` is something else.
    """
    if forced is not None:
        if forced not in (ROWS, COLUMNS):
            raise InputError(f"genes are in 'rows' or 'columns', not in {forced!r}")
        return forced
    across, down = known_share(in_columns), known_share(in_rows)
    if across > MOST and down < FEW:
        return COLUMNS
    if down > MOST and across < FEW:
        return ROWS
    raise FileFormatError(
        f"cannot tell whether the genes of {path} are in its rows or in its columns",
        found=f"{across:.0%} of the column names are known genes ({some(in_columns, 3)}), and "
        f"{down:.0%} of the row names ({some(in_rows, 3)})",
        hint="--genes-in columns (one sample per row) or --genes-in rows (one sample per column)",
    )
