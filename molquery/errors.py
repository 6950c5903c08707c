"""Every error that molquery raises on purpose.

MolqueryError
├── InputError             a file or value given by the user cannot be used
│   ├── FileFormatError    not a file of a kind that molquery reads, or a damaged one
│   ├── ColumnError        a named column is missing, or has the wrong type
│   ├── DuplicateIdError   the same id twice where ids must be unique
│   ├── VectorError        NaN, infinite or all-zero vectors
│   └── MismatchError      another encoder, dimension, gene panel or scale than the database holds
├── GeneSetError           a gene set is unknown, malformed, or has too few genes in the database
├── FilterError            a --where expression that cannot be evaluated
├── DatabaseError          no database here, another format version, or damaged
│   └── ConflictError      another process has changed it meanwhile: run the command again
├── NotReadyError          a step that must come first is missing (align before search)
├── SpaceError             alignment is impossible: no pairs, too few pairs, one cohort only
├── IndexFileError         an index is missing, stale or damaged, or a recipe is not valid
└── OutputError            the output exists already or cannot be written

A message says what was wrong, what was found, and what to type next. The command line catches
`MolqueryError` once and exits with status 1; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class MolqueryError(Exception):
    """Base of all errors that a user can cause and mend."""

    def __init__(self, what: str, *, found: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.found = found
        self.hint = hint
        lines = [what]
        if found:
            lines.append(f"  found: {found}")
        if hint:
            lines.append(f"  try:   {hint}")
        # Ids and file names are part of messages: they must not drive a terminal.
        whole = "\n".join(lines).split("\n")
        super().__init__("\n".join(printable(line, limit=None) for line in whole))


class InputError(MolqueryError):
    """A file or value given by the user cannot be used."""


class FileFormatError(InputError):
    """Not a file of a kind that molquery reads, or a damaged one."""


class ColumnError(InputError):
    """A named column is missing or has the wrong type."""


class DuplicateIdError(InputError):
    """The same id appears twice where ids must be unique."""


class VectorError(InputError):
    """Vectors hold NaN or infinite values, or are all zero."""


class MismatchError(InputError):
    """The encoder, dimension, gene panel or scale differs from what the database holds."""


class GeneSetError(MolqueryError):
    """A gene set is unknown, malformed, or has too few genes in the database."""


class FilterError(MolqueryError):
    """A filter expression cannot be evaluated."""


class DatabaseError(MolqueryError):
    """There is no database at a path, or it cannot be read."""


class ConflictError(DatabaseError):
    """Another process has changed the database meanwhile: nothing of the command took effect.

    The same command can be run again.
    """


class NotReadyError(MolqueryError):
    """A step that must come first has not been run."""


class SpaceError(MolqueryError):
    """An alignment cannot be learned from the pairs that are there."""


class IndexFileError(MolqueryError):
    """An index is missing, stale or damaged, or a recipe is not valid."""


class OutputError(MolqueryError):
    """An output exists already or cannot be written."""


def some(values: Iterable[object], limit: int = 5) -> str:
    """A short listing for a message: the first `limit` values and how many more there are."""
    items = [printable(str(v)) for v in values]
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown}, … ({len(items) - limit} more)"


def printable(text: str, limit: int | None = 120) -> str:
    """`text` with control characters escaped and its length bounded, safe for a terminal."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe if limit is None or len(safe) <= limit else safe[: limit - 1] + "…"
