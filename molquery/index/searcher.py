"""A search over stored vectors, and an index over them if there is one: which way is cheapest.

Without an index every row is scanned, or of a filter the rows that it allows. An approximate index
finds candidates; where the recipe says so they are scored again from the stored vectors, so that
scores are exact and only who is found is approximate.

With a filter there are three ways, and `plan` takes the cheapest that keeps the recall: reading the
allowed rows alone (exact), a filtered search of the index, or a scan of every row (exact). The
nearest 10 of the allowed rows are, where 1 in 100 is allowed, among the nearest thousand of all. So
it is measured when an index is built how wide a search finds the nearest 10 to 1,000 (the
depths), and a filtered search is as wide as its depth needs. A filter can also have to do with the
query, and allow few of the rows near to it: lists are opened until as many allowed rows are in
reach as any other filter would leave there, and where that is too far, the answer is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from molquery.index import library, scan
from molquery.index.library import Vectors
from molquery.vectors import Bools, Ints, Matrix

#: Bytes a second, for the plan alone: rows one after the other, and rows picked out.
_STREAM, _PICK = 28e9, 24e9
#: Seconds a row that an index looks at, and a list that it opens.
_LOOK, _OPEN = 20e-9, 1e-6
_START = 1e-4  # of a search with an index
#: Seconds a candidate takes that is scored again, and one of a graph, with its neighbours.
_AGAIN, _HOP = 1.3e-6, 6e-6
_REACH = 4  # times the lists wanted, in which the allowed rows must be
_SAMPLE = 16_384  # rows whose lists are known, to judge how a filter falls on the lists
#: Below this share of the rows a graph loses too many of the allowed ones.
_GRAPH = 0.3

Check = Callable[[Ints | None], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """Search parameters.

    Attributes:
        widths: by depth, the inverted lists to open, or the `efSearch` of a graph. A depth that no
            width finds with the recall wanted is not there.
        refine: candidates for each answer, scored again from the stored vectors; 1 for none.
    """

    widths: Mapping[int, int] = field(default_factory=dict)
    refine: int = 1

    def width(self, depth: float) -> int | None:
        """How wide to search for the nearest `depth` rows; None where only a scan will do."""
        return next((w for d, w in sorted(self.widths.items()) if d >= depth), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a query is answered: `way` is 'subset', 'scan' or 'index', seconds as estimated, width of
    the search of the index."""

    way: str
    seconds: float
    width: int = 0


@dataclass
class Searcher:
    """Rows that can be searched.

    Attributes:
        vectors: (n, d) float32 or float16.
        handle: a FAISS index over them, or None.
        check: called with the rows that are about to be read (None: all) of vectors in a file.
        notices: what a user should know, such as a GPU that could not be used.
    """

    vectors: Vectors
    handle: Any = None
    settings: Settings = Settings()
    check: Check | None = None
    gpu: Any = None
    notices: list[str] = field(default_factory=list)

    def search(
        self, queries: Matrix, k: int, allowed: Bools | None = None, *, exactly: bool = False
    ) -> tuple[Matrix, Ints]:
        """The k nearest rows by inner product: scores and positions, both (n_queries, k).

        Positions are -1, and scores -inf, where fewer than k rows qualify: k rows come whenever k
        qualify. Best first; equal scores in the order of the rows.

        Args:
            allowed: (n,) rows that may be found.
            exactly: scan, whatever index there is.
        """
        n = len(self.vectors)
        k = min(k, n)
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) == 0 or k <= 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if allowed is not None and allowed.all():
            allowed = None
        if self.gpu is not None and not exactly:
            found = self._on_gpu(queries, k, allowed)
            if found is not None:
                return found
        plan = self.plan(k, allowed, queries) if not exactly else None
        if plan is None or plan.way != "index":
            return self._exactly(queries, k, allowed)
        scores, at = self.by_index(queries, k, allowed, plan.width)
        short = (at < 0).sum(axis=1) > max(0, k - (n if allowed is None else int(allowed.sum())))
        if short.any():  # the rows that qualify were not all in reach
            scores[short], at[short] = self._exactly(queries[short], k, allowed)
        return scores, at

    def plan(self, k: int, allowed: Bools | None, queries: Matrix) -> Plan:
        """The cheapest way that keeps the recall; see the head of this module."""
        n, size = len(self.vectors), self.vectors.shape[1] * self.vectors.itemsize
        m = n if allowed is None else int(np.count_nonzero(allowed))
        exactly = Plan("scan", n * size / _STREAM)
        if m < scan.GATHER * n:
            exactly = Plan("subset", m * size / _PICK)
        if self.handle is None or m <= k:
            return exactly
        share = m / n
        width = self.settings.width(k / share)
        if width is None:
            return exactly
        if not library.is_inverted(self.handle):
            wide = round(width / share)
            seconds = self.seconds(wide, k)
            graph = share >= _GRAPH and seconds < exactly.seconds
            return Plan("index", seconds, wide) if graph else exactly
        seconds = self.seconds(width, k)
        if seconds > exactly.seconds:
            return exactly
        if allowed is None:
            return Plan("index", seconds, width)
        enough = self._in_reach(queries, allowed, width, share)
        seconds *= enough / width
        return Plan("index", seconds, enough) if 0 < seconds < exactly.seconds else exactly

    def seconds(self, width: int, k: int) -> float:
        """What a search of the index takes one query, about."""
        candidates = k * self.settings.refine
        again = candidates * _AGAIN if self.settings.refine > 1 else 0.0
        lists = getattr(self.handle if self.gpu is None else self.gpu, "nlist", 0)
        if not lists:
            return max(width, candidates) * _HOP + again
        rows = len(self.vectors) / int(lists)
        return _START + width * (_OPEN + rows * _LOOK) + again

    def _in_reach(self, queries: Matrix, allowed: Bools, wanted: int, share: float) -> int:
        """Lists within which every query has its share of allowed rows; 0 if not within reach."""
        rows, of_list = self._lists
        lists = self.handle.nlist
        held = np.bincount(of_list[allowed[rows]], minlength=lists)
        reach = min(lists, _REACH * wanted)
        _, order = library.nearest_lists(self.handle, queries, reach)
        within = np.cumsum(held[order], axis=1)
        enough = 0.8 * share * len(rows) * wanted / lists
        if (within[:, -1] < enough).any():
            return lists if reach == lists else 0
        return max(wanted, int((within < enough).sum(axis=1).max()) + 1)

    @cached_property
    def _lists(self) -> tuple[Ints, Ints]:
        """Some rows, evenly spaced, and the inverted list of each."""
        n = len(self.vectors)
        rows = np.arange(0, n, max(1, n // _SAMPLE))
        return rows, library.lists_of(self.handle, n)[rows]

    def _exactly(self, queries: Matrix, k: int, allowed: Bools | None) -> tuple[Matrix, Ints]:
        if self.check is not None:
            few = allowed is not None and np.count_nonzero(allowed) < scan.GATHER * len(allowed)
            self.check(np.flatnonzero(allowed) if few and allowed is not None else None)
        scores, at = scan.top(self.vectors, queries, k, allowed)
        return scores, at

    def by_index(
        self, queries: Matrix, k: int, allowed: Bools | None, width: int
    ) -> tuple[Matrix, Ints]:
        """As `search`, by the index and nothing else: fewer than k where it finds no more."""
        wanted = min(len(self.vectors), k * self.settings.refine)
        handle = self.handle if self.gpu is None else self.gpu
        scores, at = library.search(handle, queries, wanted, width, allowed)
        return self._refined(queries, scores, at, k)

    def _refined(self, queries: Matrix, scores: Matrix, at: Ints, k: int) -> tuple[Matrix, Ints]:
        """The k best of candidates, scored from the stored vectors where the recipe says so."""
        out = np.full((len(queries), k), -np.inf, np.float32)
        places = np.full((len(queries), k), -1, np.int64)
        again = self.settings.refine > 1
        if again and self.check is not None:
            self.check(np.unique(at[at >= 0]))
        for q, query in enumerate(queries):
            there = at[q] >= 0
            order = np.argsort(at[q][there])
            mine = at[q][there][order]
            values = scores[q][there][order]
            if again:
                values = library.scores_of(self.vectors, query, mine)
            chosen = scan.best(values, k)
            out[q, : len(chosen)], places[q, : len(chosen)] = values[chosen], mine[chosen]
        return out, places

    def _on_gpu(self, queries: Matrix, k: int, allowed: Bools | None) -> tuple[Matrix, Ints] | None:
        """The answer of the GPU, or None where the CPU must give it."""
        n = len(self.vectors)
        share = 1.0 if allowed is None else np.count_nonzero(allowed) / n
        wanted = k * self.settings.refine
        if share < 1:  # GPU indexes take no filter: more are asked for, and those not allowed go
            wanted = round(1.5 * wanted / max(share, 1 / n)) + 32
        wanted = min(wanted, n)
        if wanted > library.GPU_MOST:
            if k > library.GPU_MOST:
                self._notice(
                    f"k = {k} is more than a GPU index can return ({library.GPU_MOST}): "
                    "answered by the CPU"
                )
            return None
        width = self.settings.width(wanted / self.settings.refine)
        if width is None and self.settings.widths:
            return None
        scores, at = library.search(self.gpu, queries, wanted, width or 0)
        if allowed is not None:
            at = np.where((at >= 0) & allowed[at], at, -1)
            if ((at >= 0).sum(axis=1) < min(k, int(allowed.sum()))).any():
                return None
        return self._refined(queries, scores, at, k)

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
