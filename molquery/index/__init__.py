"""Indexes over vectors: exact search at the speed of memory, and FAISS where that is too slow.

`scan` is exact search by itself, `searcher` an index over vectors in memory, `stored` the indexes
of a database. FAISS is imported by `library` alone.
"""

from molquery.index.library import gpus
from molquery.index.scan import top as exact
from molquery.index.searcher import Searcher, Settings, assemble
from molquery.index.stored import (
    Index,
    Source,
    build,
    devices,
    free_memory,
    index_key,
    load,
    load_current,
    remove_stale,
    stored_vectors,
    unindexed,
    why_stale,
)

__all__ = [
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
    "unindexed",
    "why_stale",
]
