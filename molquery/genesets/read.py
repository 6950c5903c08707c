"""Gene sets from a file of any known format, told by its content.

GMT and Enrichr text are in `gmt.py`; here are GMX, MSigDB JSON and decoupler's network tables, and
the one function that chooses. A file that could be two formats is an error.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from molquery.errors import FileFormatError, GeneSetError, printable, some
from molquery.genesets.gmt import NO_TEXT, lines_of, read_gmt
from molquery.records import Signature

Line = tuple[int, str]

_SOURCE, _TARGET = "source", "target"
_WEIGHTS = ("weight", "mor")  # older decoupler nets call the weight `mor`, mode of regulation
# More than MOST of the names are genes, or fewer than FEW: a file of pathways has neither between.
_MOST, _FEW = 0.5, 0.2


def read_sets(path: str | Path, *, source: str | None = None) -> tuple[Signature, ...]:
    """The gene sets of a GMT, GMX, Enrichr, MSigDB JSON or decoupler network file, in its order.

    Args:
        path: the file, plain or gzip.
        source: what to record as the sets' source; the path as given when left out.

    Raises:
        InputError: the file is missing or cannot be read.
        FileFormatError: it is of no known format, or could be of two.
        GeneSetError: a set is empty or named twice, or a weight is not a finite number or is zero.
    """
    path = Path(path)
    lines = lines_of(path)
    told = str(path) if source is None else source
    for fits, read in _FORMATS:
        if fits(lines, path):
            return read(lines, path, told)
    return read_gmt(path, source=source)


def _is_json(lines: Sequence[Line], _: Path) -> bool:
    return bool(lines) and lines[0][1].lstrip().startswith("{")


def _read_json(lines: Sequence[Line], path: Path, source: str) -> tuple[Signature, ...]:
    """`{NAME: {geneSymbols: […], …}}` of MSigDB; `{NAME: […]}` is read as well."""
    try:
        document = json.loads("\n".join(line for _, line in lines), object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path} looks like JSON but cannot be read", found=printable(str(error), 200)
        ) from error
    sets = []
    for name, entry in document:
        facts = dict(entry) if isinstance(entry, _Pairs) else {}
        genes = facts.get("geneSymbols") if facts else entry
        if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
            raise FileFormatError(
                f"{path} is JSON, but {printable(name)} is no gene set of MSigDB",
                hint='a set is {"NAME": {"geneSymbols": ["GENE", …]}}',
            )
        about = [str(facts[key]) for key in ("systematicName", "collection") if facts.get(key)]
        if facts.get("pmid"):
            about.append(f"PMID {facts['pmid']}")
        sets.append((name, dict.fromkeys(_named(genes), 1.0), ", ".join(about)))
    return _made(sets, path, source)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, so that a name given twice is not lost."""


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _is_net(lines: Sequence[Line], _: Path) -> bool:
    return bool(lines) and {_SOURCE, _TARGET} <= set(_net_header(lines)[1])


def _net_header(lines: Sequence[Line]) -> tuple[str, list[str]]:
    first = lines[0][1]
    mark = "\t" if "\t" in first else ","
    return mark, [name.strip().lower() for name in next(csv.reader([first], delimiter=mark), [])]


def _read_net(lines: Sequence[Line], path: Path, source: str) -> tuple[Signature, ...]:
    """A table `source,target,weight`: one set a source; without weights all are 1."""
    mark, names = _net_header(lines)
    name_at, gene_at = names.index(_SOURCE), names.index(_TARGET)
    weight_at = next((names.index(name) for name in _WEIGHTS if name in names), None)
    sets: dict[str, dict[str, float]] = {}
    for number, line in lines[1:]:
        where = f"line {number} of {path}"
        try:
            fields = [field.strip() for field in next(csv.reader([line], delimiter=mark))]
        except csv.Error as error:
            raise FileFormatError(f"{where} cannot be read", found=str(error)) from error
        if len(fields) < len(names) or not fields[name_at] or not fields[gene_at]:
            raise GeneSetError(f"{where} lacks a source or a target", found=printable(line, 60))
        try:
            weight = 1.0 if weight_at is None else float(fields[weight_at])
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight) or weight == 0:
            raise GeneSetError(
                f"{where}: the weight is not a finite number other than zero",
                found=printable(fields[weight_at or 0]) or "nothing",
            )
        weights = sets.setdefault(fields[name_at], {})
        if weights.setdefault(fields[gene_at], weight) * weight < 0:
            raise GeneSetError(
                f"{where}: {printable(fields[gene_at])} has weights of opposite sign"
            )
    return _made([(name, weights, "") for name, weights in sets.items()], path, source)


def _is_gmx(lines: Sequence[Line], path: Path) -> bool:
    """True where columns hold genes under two rows of names, and rows do not.

    Raises:
        FileFormatError: rows and columns both hold genes.
    """
    if len(lines) < 3:
        return False
    rows = [[field.strip() for field in line.split("\t")] for _, line in lines]
    if len(rows[0]) < 2 or rows[0][0].startswith("#"):
        return False
    if all(field.lower() in NO_TEXT for field in rows[1]):
        return True
    # Under a GMX's first two rows every column holds genes; the first two of a GMT hold none.
    down = _share([field for row in rows[2:] for field in row[:2]])
    across = _share([field for row in rows[:2] for field in row[2:]])
    if down <= _MOST:
        return False
    if across > _MOST:
        raise FileFormatError(
            f"{path} may be GMT (one gene set a line) or GMX (one a column)",
            found=f"genes in both directions: {some(rows[0], 3)}",
            hint="give the sets descriptions that are no genes, such as na",
        )
    return across < _FEW


def _read_gmx(lines: Sequence[Line], path: Path, source: str) -> tuple[Signature, ...]:
    """Columns of name, description and genes, of unequal length."""
    rows = [[field.strip() for field in line.split("\t")] for _, line in lines]
    width = max((i + 1 for i, name in enumerate(rows[0]) if name), default=0)
    for (number, _), row in zip(lines, rows, strict=True):
        if any(row[width:]):
            raise FileFormatError(
                f"line {number} of {path} has more columns than the {width} gene sets of line 1"
            )
    sets = []
    for i in range(width):
        cells = [row[i] if i < len(row) else "" for row in rows]
        sets.append((cells[0], dict.fromkeys(_named(cells[2:]), 1.0), cells[1]))
    return _made(sets, path, source)


def _share(names: Sequence[str]) -> float:
    """Share of the names, without empty ones, that are known genes; of the first thousand."""
    from molquery.genes import resolve

    given = [name for name in names if name][:1000]
    if not given:
        return 0.0
    found = resolve(given, kind="entrez" if all(n.isdecimal() for n in given) else "auto")
    return sum(symbol is not None for symbol in found.symbols) / len(given)


def _named(genes: Sequence[str]) -> list[str]:
    return [gene.strip() for gene in genes if gene.strip()]


def _made(
    sets: Sequence[tuple[str, dict[str, float], str]], path: Path, source: str
) -> tuple[Signature, ...]:
    """Signatures, with names checked as in GMT files."""
    if not sets:
        raise FileFormatError(f"{path} holds no gene sets")
    made: dict[str, Signature] = {}
    for name, weights, description in sets:
        if not name.strip():
            raise GeneSetError(f"a gene set of {path} has no name")
        if not weights:
            raise GeneSetError(f"gene set {printable(name)} of {path} holds no genes")
        if name.strip() in made:
            raise GeneSetError(
                f"gene set {printable(name)} appears twice in {path}",
                hint="rename or delete one of them",
            )
        made[name.strip()] = Signature(name.strip(), weights, description, source)
    return tuple(made.values())


_FORMATS: tuple[
    tuple[
        Callable[[Sequence[Line], Path], bool],
        Callable[[Sequence[Line], Path, str], tuple[Signature, ...]],
    ],
    ...,
] = ((_is_json, _read_json), (_is_net, _read_net), (_is_gmx, _read_gmx))
