"""Gene identifiers: symbols, previous symbols, aliases, Ensembl and Entrez ids.

Everything is mapped to the current HGNC symbol, through the table shipped in
`molquery/data/genes.tsv.gz` (source, date and licence: `molquery/data/GENES.md`). The columns of
an expression panel (at ingest) and the genes of a signature (at query) both pass through
`resolve`, so that one signature gives one answer whichever identifiers the matrix came with.
Reading gene sets is in `genesets/`; the choice between two columns that resolve to the same gene
is the caller's, who knows their values.
"""

import gzip
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["GeneMap", "find", "resolve", "table_version"]

TABLE = Path(__file__).parent / "data" / "genes.tsv.gz"

KINDS = ("auto", "symbol", "ensembl", "entrez")

ENSEMBL = re.compile(r"(ENSG\d{11})(?:\.\d+)?")

# GENCODE marks the Y copies of pseudoautosomal genes ENSG…_PAR_Y; releases before 25, ENSGR….
PAR_Y = re.compile(r"ENSG\d{11}(?:\.\d+)?_PAR_Y|ENSGR\d{10}(?:\.\d+)?")

# Spreadsheets turn SEPT2 into 2-Sep or Sep-02, MARCH1 into 1-Mar or 2001-03-01. Two genes may
# share a date (MARCH1, MARC1), so these are reported and never repaired. Ziemann et al. 2016,
# doi:10.1186/s13059-016-1044-7.
_MONTH = "(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEPT?|OCT|NOV|DEC)"
DATE = re.compile(
    rf"\d{{1,2}}-{_MONTH}(?:-\d{{2,4}})?|{_MONTH}-\d{{1,4}}|\d{{4}}-\d{{2}}-\d{{2}}(?: 00:00:00)?"
)

# One gene written as two identifiers: SYMBOL|ENTREZ (TCGA), ENSG…_SYMBOL (RSEM), ENSG…|SYMBOL.
_SYMBOL_ENTREZ = re.compile(r"([^|]*)\|(\d+)")
_ENSEMBL_SYMBOL = re.compile(r"(ENSG\d{11}(?:\.\d+)?)[_|](?!PAR_Y)([^|]+)")
# An Entrez id that passed through a column of floating-point numbers.
_ENTREZ_FLOAT = re.compile(r"(\d+)\.0")
# What R's make.unique and pandas append to a repeated name.
_REPEAT = re.compile(r"(.+)\.\d{1,2}")


@dataclass(frozen=True, slots=True)
class GeneMap:
    """Identifiers resolved to current HGNC symbols, and an account of those that were not.

    Every input is either resolved (its symbol is not None) or in exactly one of `ambiguous`,
    `unknown`, `dropped` and `date_damaged`. These hold each input once, as it was given, in order.

    Attributes:
        symbols: current symbol of each input, in order; None means only "not resolved". A matrix
            may carry novel transcripts, so callers keep unknown and ambiguous names as they are.
            Two inputs may share a symbol: a gene under its old and its new name, or an Ensembl id
            and its successor. Callers choose: an input that is not in `renamed` is the surer
            one (a merged locus such as MIR4697HG may outweigh IGSF9B), then the higher mean.
        kind: what the inputs were: 'symbol', 'ensembl', 'entrez', or 'mixed' (symbols and ids).
        renamed: input -> current symbol, where a name was given in another form: a previous
            symbol, an alias, other letter case, or mangled by R. Ensembl and Entrez ids are not
            listed.
        ambiguous: input -> the current symbols that it may mean, sorted; never guessed.
        unknown: inputs that the table does not hold.
        dropped: Ensembl ids of the Y copies of pseudoautosomal genes.
        date_damaged: names that a spreadsheet turned into dates, such as 1-Mar or Sep-09.
    """

    symbols: tuple[str | None, ...]
    kind: str
    renamed: dict[str, str]
    ambiguous: dict[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    dropped: tuple[str, ...]
    date_damaged: tuple[str, ...]


def resolve(identifiers: Sequence[str], *, kind: str = "auto") -> GeneMap:
    """Current HGNC symbols of gene names, Ensembl ids or Entrez ids, with nothing guessed.

    A name is looked up as a current symbol, then as a previous symbol, then as an alias; the first
    of these that knows it decides, and if it names several genes the input is ambiguous. Letter
    case and surrounding space do not matter (no two current symbols differ by case alone).
    Versions are stripped from Ensembl ids only. Resolving resolved symbols changes nothing.

    Names that the table does not hold as they are written are read in these forms, in this order:
    `SYMBOL|ENTREZ` and `ENSG…_SYMBOL` by the id, else by the symbol; R's `HLA.A` for HLA-A and
    `X7SK` for 7SK; `TP53.1`, a repeat of the current symbol TP53. Entrez ids may be `7157.0`.

    Args:
        identifiers: gene identifiers, such as the columns of a matrix or the genes of a set.
        kind: what they are. 'auto' takes names and Ensembl ids as they come, and bare numbers as
            Entrez ids only where every identifier is one: a stray number is more likely damage.

    Raises:
        ValueError: `kind` is not 'auto', 'symbol', 'ensembl' or 'entrez'.

    Example:
        >>> resolve(["CTGF", "HLA-A", "ENSG00000141510.18", "CD16"]).symbols
        ('CCN2', 'HLA-A', 'TP53', None)
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of gene identifier {kind!r}; use one of {', '.join(KINDS)}")
    keys = [identifier.strip().upper() for identifier in identifiers]
    if kind == "auto" and keys and all(is_entrez(key) for key in keys):
        kind = "entrez"
    symbols: list[str | None] = []
    kinds: set[str] = set()
    renamed: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    # Dictionaries serve as ordered sets: each input is reported once.
    unknown: dict[str, None] = {}
    dropped: dict[str, None] = {}
    date_damaged: dict[str, None] = {}

    for given, key in zip(identifiers, keys, strict=True):
        one = kind
        if kind == "auto":
            one = "ensembl" if key.startswith("ENSG") else "symbol"
        kinds.add(one)
        found = _candidates(key, one)
        whole = given.strip()
        if not found:
            found, whole = _other_form(key, whole, one)
        symbols.append(found[0] if len(found) == 1 else None)
        if len(found) > 1:
            ambiguous[given] = found
        elif found:
            if one == "symbol" and found[0] != whole:
                renamed[given] = found[0]
        elif one == "ensembl" and PAR_Y.fullmatch(key):
            dropped[given] = None
        elif one == "symbol" and DATE.fullmatch(key):
            date_damaged[given] = None
        else:
            unknown[given] = None

    return GeneMap(
        symbols=tuple(symbols),
        kind=kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "symbol",
        renamed=renamed,
        ambiguous=ambiguous,
        unknown=tuple(unknown),
        dropped=tuple(dropped),
        date_damaged=tuple(date_damaged),
    )


def is_entrez(name: str) -> bool:
    """True for a bare number, `7157` or `7157.0`."""
    return name.isdecimal() or _ENTREZ_FLOAT.fullmatch(name) is not None


def _other_form(key: str, given: str, kind: str) -> tuple[tuple[str, ...], str]:
    """Candidates of an identifier that is not in the table as it is written, and its own symbol.

    The second value is the symbol that the identifier itself holds, so that a composite id which
    names the current symbol does not count as renamed.
    """
    if kind == "entrez":
        match = _ENTREZ_FLOAT.fullmatch(key)
        return (_candidates(match[1], "entrez") if match else ()), given
    if match := _ENSEMBL_SYMBOL.fullmatch(key):
        own = given[match.start(2) :]
        return _candidates(match[1], "ensembl") or _candidates(match[2], "symbol"), own
    if kind != "symbol" or DATE.fullmatch(key):
        return (), given
    if match := _SYMBOL_ENTREZ.fullmatch(key):
        own = given[: match.end(1)]
        return _candidates(match[2], "entrez") or _candidates(match[1], "symbol"), own
    if "." in key and (found := _candidates(key.replace(".", "-"), "symbol")):
        return found, given
    if key[:1] == "X" and key[1:2].isdigit() and (found := _candidates(key[1:], "symbol")):
        return found, given
    if match := _REPEAT.fullmatch(key):
        # Only of a current symbol: clone names such as U2.1 must not become an alias's gene.
        for stem in (match[1], match[1].replace(".", "-")):
            found = _candidates(stem, "symbol")
            if len(found) == 1 and found[0].upper() == stem:
                return found, given
    return (), given


def find(symbol: str, panel: Mapping[str, int]) -> int | None:
    """Position of a gene-set member in an expression panel, or None where the panel lacks it.

    The panel's keys are the names kept at ingest: current symbols, and the names that did not
    resolve as they were given. The member's current symbol is looked up first, then its own name.

    Example:
        >>> find("CTGF", {"CCN2": 0, "ENSG00000999999": 1})
        0
    """
    current = resolve([symbol]).symbols[0]
    if current is not None and current in panel:
        return panel[current]
    return panel.get(symbol.strip())


def table_version() -> str:
    """Source and date of the shipped gene table, for provenance, such as 'HGNC 2024-07-23'."""
    return _table()[0].decode().removeprefix("# ")


@cache
def _table() -> list[bytes]:
    """The shipped table: its version, then sorted lines `kind TAB identifier TAB symbol[|symbol]`.

    Kept as encoded lines and searched by bisection: with a dict of its 195,000 keys the table
    loads three times as slowly, and most commands look up a handful of genes.
    """
    return gzip.decompress(TABLE.read_bytes()).splitlines()


def _candidates(key: str, kind: str) -> tuple[str, ...]:
    """Current symbols, sorted, that an upper-case identifier of one kind may mean."""
    if kind == "ensembl" and (match := ENSEMBL.fullmatch(key)):
        key = match[1]
    table, start = _table(), f"{kind}\t{key}\t".encode()
    at = bisect_left(table, start)
    if at < len(table) and table[at].startswith(start):
        return tuple(table[at].removeprefix(start).decode().split("|"))
    return ()
