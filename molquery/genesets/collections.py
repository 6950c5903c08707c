"""The gene sets that ship with molquery, and finding a gene set by name or file.

Sources, licences and citations of the shipped files: `molquery/data/GENESETS.md`. Not here: sets
registered in a database, which the caller passes as `extra`; reading a file (`gmt`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from molquery.errors import GeneSetError, printable, some
from molquery.genesets.gmt import join_up_down, read_gmt
from molquery.genesets.read import read_sets
from molquery.records import Signature

_DATA = Path(__file__).parent.parent / "data"
COLLECTIONS = {"hallmark": "h.all.v7.0.symbols.gmt", "signatures": "signatures.gmt"}

# Endings that make an argument a file name rather than the name of a gene set.
_SUFFIXES = (".gmt", ".gmx", ".txt", ".tsv", ".csv", ".json", ".grp", ".gz")
_LIST = "molquery genesets list shows every name"


@cache
def shipped() -> tuple[Signature, ...]:
    """Every shipped gene set; `source` names its collection, 'hallmark' or 'signatures'."""
    return tuple(
        signature
        for source, file in COLLECTIONS.items()
        for signature in read_gmt(_DATA / file, source=source)
    )


def hallmark() -> tuple[Signature, ...]:
    """The 50 MSigDB Hallmark sets (Liberzon et al. 2015, doi:10.1016/j.cels.2015.12.004)."""
    return tuple(signature for signature in shipped() if signature.source == "hallmark")


def find(query: str, extra: Sequence[Signature] = ()) -> Signature:
    """The gene set that `query` names: a known name, `FILE.gmt#NAME`, or a file with one set.

    Names are compared whole, without regard to letter case; a set in `extra` comes before a
    shipped one of the same name. Where X_UP and X_DN exist, X names the signed signature of both
    (see `join_up_down`).

    Raises:
        GeneSetError: nothing has this name; the file does not exist or holds several sets; two
            sets in `extra` share the name and differ in genes.
        InputError: the file cannot be read, or is of no known format.

    Example:
        >>> len(find("hallmark_hypoxia").weights)
        200
    """
    query = query.strip()
    if not query:
        raise GeneSetError("no gene set is named", hint=_LIST)
    for known in (join_up_down(extra), join_up_down(shipped())):
        if found := _named(query, known):
            return found
    path, name = _split(query)
    if path is None:
        raise GeneSetError(
            f"no gene set is called {printable(query)!r}",
            found=_nearest(query, [*extra, *shipped()]),
            hint=_unknown_hint(query),
        )
    if not os.path.isfile(path):
        raise GeneSetError(
            f"there is no gene-set file {path}",
            found=f"{path} is a directory" if os.path.isdir(path) else None,
            hint=_nearest_file(path),
        )
    return _from_file(path, name)


def _named(name: str, known: Sequence[Signature]) -> Signature | None:
    """The set of this name: the same letter case first, then any."""
    same = [s for s in known if s.name == name] or [
        s for s in known if s.name.upper() == name.upper()
    ]
    if len({s.sha256 for s in same}) > 1:
        raise GeneSetError(
            f"{len(same)} gene sets are called {printable(name)!r} and their genes differ",
            found=some(f"{s.name} from {s.source}" for s in same),
            hint="name the one you mean as FILE.gmt#NAME",
        )
    return same[0] if same else None


def _split(query: str) -> tuple[Path | None, str | None]:
    """File and set name of a query; no file when it does not look like one.

    File names and set names may both hold `#`, so the first split whose left side exists wins.
    """
    cuts = [i for i, character in enumerate(query) if character == "#"]
    options = [(query, None), *((query[:i], query[i + 1 :].strip()) for i in cuts)]
    for text, name in options:
        path = Path(text)
        if text and os.path.isfile(path):
            return path, name
    for text, name in reversed(options):
        if "/" in text or "\\" in text or text.lower().endswith(_SUFFIXES):
            return Path(text), name
    return None, None


def _from_file(path: Path, name: str | None) -> Signature:
    sets = read_sets(path)
    if name is None and len(sets) == 1:
        return sets[0]
    known = join_up_down(sets)
    if not name:
        raise GeneSetError(
            f"{path} holds {len(sets)} gene sets" if name is None else "no name follows the #",
            found=some(s.name for s in known),
            hint=f"name one of them: {path}#{known[-1].name}",
        )
    if found := _named(name, known):
        return found
    raise GeneSetError(
        f"{path} holds no gene set called {printable(name)!r}",
        found=_nearest(name, known),
        hint=f"its names are {some((s.name for s in known), 10)}",
    )


def _nearest(name: str, known: Sequence[Signature]) -> str:
    """The names most like `name`: those that hold it first, then those spelled alike."""
    names = {s.name.upper(): s.name for s in known}
    key = name.upper().replace(" ", "_").replace("-", "_")
    close = [n for n in names if key in n]
    # Compared without the collection's prefix, which would outweigh a short name.
    stems = {n.removeprefix("HALLMARK_"): n for n in names}
    close += [stems[n] for n in difflib.get_close_matches(key, stems, n=5, cutoff=0.5)]
    close += difflib.get_close_matches(key, names, n=5)
    nearest = some(names[n] for n in list(dict.fromkeys(close))[:5])
    return f"nearest names: {nearest}" if nearest else f"no name like it among {len(names)}"


def _nearest_file(path: Path) -> str:
    """What to try in place of a file that is not there."""
    try:
        present = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    except (OSError, ValueError):
        return f"check the path; there is no directory {path.parent}"
    close = difflib.get_close_matches(path.name, present, n=1)
    return str(path.parent / close[0]) if close else "check the path"


def _unknown_hint(query: str) -> str:
    if "," in query:
        return f"--genes {printable(query, 60)}, if these are genes rather than a name"
    return f"{_LIST}; a set in a file is FILE.gmt#NAME"
