"""molquery: ask an archive of H&E slides a molecular question.

`molquery.open(path)` gives a `Database` with `search`, `retrieve`, `score`, `stratify` and
`evaluate`. Ingest and alignment are in `molquery.ingest` and `molquery.align`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molquery.api import Database
    from molquery.api import open_database as open
    from molquery.errors import MolqueryError
    from molquery.records import Signature

__version__ = "0.1.0"

__all__ = ["Database", "MolqueryError", "Signature", "__version__", "open"]

_HOME = {
    "Database": ("molquery.api", "Database"),
    "MolqueryError": ("molquery.errors", "MolqueryError"),
    "Signature": ("molquery.records", "Signature"),
    "open": ("molquery.api", "open_database"),
}


def __getattr__(name: str) -> Any:
    """Public names load when they are used, so that `molquery --help` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'molquery' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOME[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
