"""JSON documents: strict JSON from records, numpy values and paths. The layout is the caller's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from molquery.files import atomic_path


def plain(value: Any) -> Any:
    """`value` as what JSON can hold: NaN and infinite become None, records and mappings objects.

    Raises:
        TypeError: a value has no JSON form; that is a mistake in molquery.
    """
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, PurePath | Decimal | timedelta):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(document: Any) -> str:
    """`document` as indented JSON text that ends with a newline."""
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(document: Any, target: Path, *, overwrite: bool = False) -> None:
    """Write `document` to `target` atomically; it holds its own provenance, there is no sidecar.

    Raises:
        OutputError: `target` exists and `overwrite` is false, or it cannot be written.
    """
    text = to_json(document)
    with atomic_path(target, overwrite=overwrite) as path:
        path.write_text(text, encoding="utf-8", newline="\n")
