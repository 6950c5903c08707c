"""Indexes over vectors: exact search at the speed of memory, and FAISS where that is too slow.

`scan` is exact search by itself, `searcher` an index over vectors in memory, `assembly` builds one,
`tuning` measures it, `stored` has the indexes of a database, `entries` what the manifest says of
them. FAISS is imported by `library` alone, and only when something is asked of it: what a search
needs no index for must not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molquery.index.assembly import assemble
    from molquery.index.entries import (
        EARLIER,
        index_key,
        remove_stale,
        too_lossy,
        unindexed,
        why_stale,
    )
    from molquery.index.library import gpus
    from molquery.index.scan import top as exact
    from molquery.index.searcher import Searcher, Settings
    from molquery.index.stored import (
        Index,
        Source,
        build,
        devices,
        free_memory,
        load,
        load_current,
        stored_vectors,
    )

__all__ = [
    "EARLIER",
    "Index",
    "Searcher",
    "Settings",
    "Source",
    "assemble",
    "build",
    "devices",
    "exact",
    "free_memory",
    "gpus",
    "index_key",
    "load",
    "load_current",
    "remove_stale",
    "stored_vectors",
    "too_lossy",
    "unindexed",
    "why_stale",
]

_ELSEWHERE = {
    "gpus": "library", "exact": "scan", "Searcher": "searcher", "Settings": "searcher",
    "assemble": "assembly",
    "EARLIER": "entries", "index_key": "entries", "remove_stale": "entries",
    "too_lossy": "entries", "unindexed": "entries", "why_stale": "entries",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    module = import_module(f"molquery.index.{_ELSEWHERE.get(name, 'stored')}")
    return getattr(module, "top" if name == "exact" else name)
