"""TCGA barcodes: the patient and the tissue-source site that an id names."""

from __future__ import annotations

import re

_BARCODE = re.compile(r"^(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4})(?:[-.]|$)", re.IGNORECASE)


def patient_of(identifier: str) -> str | None:
    """The 12-character patient barcode at the start of an id, or None."""
    match = _BARCODE.match(identifier)
    return match.group(1).upper() if match else None


def site_of(identifier: str) -> str | None:
    """The tissue-source site (field 2 of a TCGA barcode) that an id names, or None."""
    match = _BARCODE.match(identifier)
    return match.group(2).upper() if match else None
