"""Which row of a metadata table belongs to which slide, profile or patient.

Keys are compared whole. Where that matches nothing and both sides are TCGA barcodes, the longer
barcodes are cut to the length of the shorter ones; of several rows that then mean one key, the
primary tumour (sample type 01) is taken, else the first in the order of their barcodes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from molquery.barcodes import patient_of
from molquery.errors import some

#: Lengths of a patient, sample, vial and aliquot barcode.
LENGTHS = (12, 15, 16, 28)
_BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?:-\d{2}[A-Z]?(?:-.*)?)?", re.IGNORECASE)
_MOST = 0.5


@dataclass(frozen=True, slots=True)
class Matched:
    """For each key held, the row of the file or None; and what was done to match them."""

    rows: tuple[int | None, ...]
    notes: tuple[str, ...]


def match_keys(keys: Sequence[str], held: Sequence[str | None]) -> Matched:
    """Rows of a file, named by unique `keys`, for the keys that a table holds."""
    at = {key: i for i, key in enumerate(keys)}
    rows = tuple(None if key is None else at.get(key) for key in held)
    if any(row is not None for row in rows):
        return Matched(rows, ())
    length = min(_length(keys), _length([key for key in held if key is not None]))
    if not length:
        return Matched(rows, ())
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        if _BARCODE.fullmatch(key.replace(".", "-")):
            groups.setdefault(_cut(key, length), []).append(i)
    chosen = {key: min(found, key=lambda i: _preference(keys[i])) for key, found in groups.items()}
    rows = tuple(None if key is None else chosen.get(_cut(key, length)) for key in held)
    if all(row is None for row in rows):
        return Matched(rows, ())
    notes = [f"TCGA barcodes are matched by their first {length} characters"]
    several = [key for key, found in groups.items() if len(found) > 1]
    if several:
        notes.append(
            f"{len(several)} barcodes have several rows in the file ({some(several, 3)}): the "
            "primary tumour (01) is taken, else the first"
        )
    return Matched(rows, tuple(notes))


def _length(keys: Sequence[str]) -> int:
    """The barcode length that all TCGA keys reach, or 0 where most keys are no barcodes."""
    barcodes = [key.replace(".", "-") for key in keys]
    barcodes = [key for key in barcodes if _BARCODE.fullmatch(key)]
    if len(barcodes) <= _MOST * len(keys):
        return 0
    shortest = min(map(len, barcodes), default=0)
    return max((n for n in LENGTHS if n <= shortest), default=0)


def _cut(key: str, length: int) -> str:
    return key.replace(".", "-")[:length].upper()


def _preference(key: str) -> tuple[bool, str]:
    assert patient_of(key.replace(".", "-")) is not None
    return key[13:15] != "01", key
