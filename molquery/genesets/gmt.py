"""GMT files: one gene set a line; tab-separated name, description, genes.

Also read: gzip, byte-order marks, any line ending, trailing tabs, and Enrichr's `GENE,1.0` weights.
Not here: genes typed on the command line (`inline`), finding a set by name (`collections`).
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from molquery.errors import FileFormatError, GeneSetError, InputError, printable, some
from molquery.records import Signature

_GZIP = b"\x1f\x8b"
_UP = re.compile(r"(.+)_UP", re.IGNORECASE)
_DOWN = re.compile(r"(.+)_(?:DN|DOWN)", re.IGNORECASE)
# A gene is never a decimal number; a bare integer may be an Entrez id.
_DECIMAL = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?")
# What stands in the second row of a GMX file whose sets have no description.
NO_TEXT = frozenset({"na", "n/a", ">na", ""})
_NET_HEADER = re.compile(r"source\s*,\s*target\b", re.IGNORECASE)


def read_gmt(path: str | Path, *, source: str | None = None) -> tuple[Signature, ...]:
    """The gene sets of a GMT file, in the order of the file.

    Fields are split on tabs only, since descriptions hold spaces. A gene named twice in a set is
    kept once, with its first weight. Lines that start with `#` and hold no tab are comments.

    Args:
        path: the file, plain or gzip (told by content, not by name).
        source: what to record as the sets' source; the path as given when left out.

    Raises:
        InputError: the file is missing or cannot be read.
        FileFormatError: it is not a GMT file.
        GeneSetError: a set without genes or without a name, a name used twice, or a weight that
            is not a number, not finite or zero.
    """
    path = Path(path)
    lines = lines_of(path)
    _check_kind(path, lines)
    sets: dict[str, Signature] = {}
    first_line: dict[str, int] = {}
    for number, line in lines:
        if line.startswith("#") and "\t" not in line:
            continue
        where = f"line {number} of {path}"
        name, *rest = (field.strip() for field in line.split("\t"))
        description = rest[0] if rest else ""
        if not name:
            raise GeneSetError(f"{where} starts with a tab: the gene set has no name")
        weights = _weights([field for field in rest[1:] if field], where)
        if not weights:
            raise GeneSetError(
                f"gene set {printable(name)} ({where}) holds no genes",
                hint="a line is NAME<tab>DESCRIPTION<tab>GENE<tab>GENE…; delete the line if empty",
            )
        if name in sets:
            raise GeneSetError(
                f"gene set {printable(name)} appears twice in {path}",
                found=f"lines {first_line[name]} and {number}",
                hint="rename or delete one of them",
            )
        first_line[name] = number
        sets[name] = Signature(name, weights, description, str(path) if source is None else source)
    return tuple(sets.values())


def join_up_down(signatures: Sequence[Signature]) -> tuple[Signature, ...]:
    """`signatures`, then one signed signature X for every pair X_UP and X_DN (or X_DOWN).

    X has the genes of X_UP with their weights and those of X_DN with opposite weights. A gene in
    both says nothing and is left out; X's description tells how many. Nothing is added where a set
    called X exists already, or where nothing but shared genes remains.

    Raises:
        GeneSetError: X_UP has both an X_DN and an X_DOWN.
    """
    taken = {signature.name.upper() for signature in signatures}
    downs: dict[str, list[Signature]] = {}
    for signature in signatures:
        if match := _DOWN.fullmatch(signature.name):
            downs.setdefault(match[1].upper(), []).append(signature)
    joined: list[Signature] = []
    for up in signatures:
        match = _UP.fullmatch(up.name)
        partners = downs.get(match[1].upper(), []) if match else []
        if not match or not partners or match[1].upper() in taken:
            continue
        if len(partners) > 1:
            raise GeneSetError(
                f"{printable(up.name)} has more than one set of down genes",
                found=some(partner.name for partner in partners),
                hint="rename or delete one of them",
            )
        both = up.weights.keys() & partners[0].weights.keys()
        weights = {gene: weight for gene, weight in up.weights.items() if gene not in both}
        weights |= {g: -w for g, w in partners[0].weights.items() if g not in both}
        if weights:
            note = f"; {len(both)} genes in both left out" if both else ""
            text = f"{up.name} minus {partners[0].name}{note}"
            joined.append(Signature(match[1], weights, text, up.source))
            taken.add(match[1].upper())
    return (*signatures, *joined)


def lines_of(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number in the file, counted from 1."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read gene sets from {path}", found=error.strerror) from error
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise FileFormatError(
                f"{path} is a damaged gzip file", found=str(error), hint="download it again"
            ) from error
    if b"\0" in content:
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise FileFormatError(
            f"{path} is not a GMT file",
            found="UTF-16 text" if utf16 else "binary data",
            hint="save it as UTF-8, tab-separated text",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # accents in old descriptions; gene names are ASCII
    # Not str.splitlines, which also splits on characters that a description may hold.
    lines = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _check_kind(path: Path, lines: Sequence[tuple[int, str]]) -> None:
    """Refuse what is plainly another kind of file, and say which.

    Raises:
        FileFormatError: always when the file is empty or holds no tab.
    """
    hint = "a GMT line is NAME<tab>DESCRIPTION<tab>GENE<tab>GENE…"
    kind = None
    if not lines:
        kind = "an empty file"
    elif lines[0][1].strip() in ("#1.2", "#1.3"):
        kind = "a GCT expression matrix"
    elif all("\t" not in line for _, line in lines):
        kind, hint = _looks_like([line for _, line in lines], hint)
    elif any(_DECIMAL.fullmatch(field.strip()) for field in lines[-1][1].split("\t")[2:]):
        kind = "a table of numbers, such as an expression matrix"
    elif len(lines) > 2 and {f.strip().lower() for f in lines[1][1].split("\t")} <= NO_TEXT:
        kind, hint = "a GMX file (one gene set a column)", "transpose it to GMT, one set a line"
    if kind:
        raise FileFormatError(f"{path} is not a GMT file", found=kind, hint=hint)


def _looks_like(lines: Sequence[str], hint: str) -> tuple[str, str]:
    """What text without tabs seems to be, and what to do about it."""
    first = lines[0].strip()
    if first.startswith(("{", "[")):
        return "JSON", "download the GMT file of the same collection instead"
    if first.startswith("<"):
        return "a web page or XML", "the download may have returned a login page; try it again"
    if _NET_HEADER.match(first):
        return "a network table (source,target,weight)", hint
    if all(len(line.split()) == 1 and "," not in line for line in lines):
        return f"a list of {len(lines)} words, one a line", "give genes as --genes GENE,GENE,…"
    if "," in first and len(first.split()) == 1:
        return f"comma-separated text: {printable(first, 60)}", hint
    return f"text without tabs: {printable(first, 60)}", f"replace spaces by tabs; {hint}"


def _weights(fields: Iterable[str], where: str) -> dict[str, float]:
    """Gene -> weight of the gene fields of one line; each is `GENE` or `GENE,weight`."""
    weights: dict[str, float] = {}
    for field in fields:
        gene, comma, number = (part.strip() for part in field.rpartition(","))
        weight = 1.0
        if not comma:
            gene = field
        else:
            try:
                weight = float(number)
            except ValueError:
                weight = math.nan
        if not gene or not math.isfinite(weight) or weight == 0:
            raise GeneSetError(
                f"{where}: {printable(field)!r} is not a gene, or GENE,weight",
                found=f"weight {printable(number)!r}" if gene else "no gene name",
                hint="weights are finite numbers and not zero; genes are separated by tabs",
            )
        if weights.setdefault(gene, weight) * weight < 0:
            raise GeneSetError(f"{where}: gene {printable(gene)} has weights of opposite sign")
    return weights
