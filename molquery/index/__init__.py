"""Indexes over vectors: exact search at the speed of memory, and FAISS where that is too slow."""

from molquery.index.scan import top as exact

__all__ = ["exact"]
