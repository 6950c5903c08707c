"""TCGA barcodes: the patient, the tissue-source site and the kind of tissue that an id names.

R writes their hyphens as dots; both are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from molquery.vectors import Strings

_AT_A_TIME = 65_536  # texts that are Python's own

_BARCODE = re.compile(
    r"^(TCGA[-.]([A-Z0-9]{2})[-.][A-Z0-9]{4})(?:[-.](?:(\d{2})[A-Z]?(?=[-.]|$))?|$)", re.IGNORECASE
)


def patient_of(identifier: str) -> str | None:
    """The 12-character patient barcode at the start of an id, or None."""
    match = _BARCODE.match(identifier)
    return match.group(1).replace(".", "-").upper() if match else None


def site_of(identifier: str) -> str | None:
    """The tissue-source site (field 2 of a TCGA barcode) that an id names, or None."""
    match = _BARCODE.match(identifier)
    return match.group(2).upper() if match else None


def has_barcodes(texts: pa.Array) -> bool:
    """Whether any of an array of texts may be a barcode."""
    import pyarrow.compute as pc

    return bool(pc.any(pc.starts_with(texts, "TCGA", ignore_case=True)).as_py())


def is_normal(identifier: str) -> bool:
    """True where field 4 of a TCGA barcode says normal tissue, blood or a control (10 to 29)."""
    match = _BARCODE.match(identifier)
    return bool(match and match.group(3) and 10 <= int(match.group(3)) <= 29)


def pair_keys(ids: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The keys by which slides and profiles are paired; rows of normal tissue have their own.

    The RNA of normal tissue must not be learned, or tested, as that of the same patient's tumour.
    """
    return [
        f"{key} (normal tissue)" if key and is_normal(i) else key
        for i, key in zip(ids, keys, strict=True)
    ]


def pair_key_array(ids: Strings, keys: Strings) -> Strings:
    """(n,) as `pair_keys`, of arrays of text (n,)."""
    starts = range(0, len(ids), _AT_A_TIME)
    some = [slice(start, start + _AT_A_TIME) for start in starts]
    found = [np.array(pair_keys(ids[s].tolist(), keys[s].tolist()), dtype=str) for s in some]
    return np.concatenate(found) if found else np.empty(0, dtype=str)
