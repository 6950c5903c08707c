"""How wide an index is searched: measured when it is built, with rows of the archive as queries.

A query must be as new to the index as those of its users are. So the rows that are asked for do not
train inverted lists, a graph is searched without its links to the row, the row counts neither as
wanted nor as found, and recall is measured by other rows than those by which the width was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from molquery.index import library, scan
from molquery.index.library import Vectors
from molquery.index.searcher import Searcher, Settings
from molquery.recipes import ROWS_PER_LIST, Recipe
from molquery.vectors import Float, Ints, Matrix

#: How many neighbours down the width of a search is measured when an index is built.
DEPTHS = (10, 30, 100, 300, 1000)
#: Recall that a search is made wide enough for, at every depth.
RECALL = 0.99
_WIDEST = 2048  # of a graph
_MOST_REFINED = 80  # candidates for each answer
#: Queries by which recall is measured, at each depth; 200 where it is not said.
_QUERIES = {10: 500, 300: 100, 1000: 50}
_SURE = 2  # standard errors above the recall wanted: a width is not taken by luck
_TRAIN_PER_LIST = 40


@dataclass(frozen=True)
class Exam:
    """Rows of an archive as queries, each of which itself counts neither as wanted nor as found.

    Attributes:
        truth: (n, d) what an exact scan reads.
        rows: of the queries; depth: the neighbours of each that are wanted.
    """

    truth: Vectors
    rows: Ints
    depth: int
    _links: list[Ints] | None = field(default=None, init=False, repr=False)

    @property
    def k(self) -> int:
        """Neighbours to ask for: one more than wanted, which may be the query's own row."""
        return min(self.depth + 1, len(self.truth))

    @cached_property
    def queries(self) -> Matrix:
        """(n_queries, d) float32."""
        return np.ascontiguousarray(self.truth[self.rows], np.float32)

    @cached_property
    def wanted(self) -> Ints:
        """(n_queries, depth) the nearest other rows by an exact scan; -1 pads."""
        return _others(scan.top(self.truth, self.queries, self.k)[1], self.rows, self.depth)

    def recall(self, searcher: Searcher, width: int | None) -> tuple[float, float]:
        """Share of the neighbours wanted that are found, and its standard error.

        By the index as wide as is said, or as a user would search; None for that.
        """

        def found_by(queries: Matrix) -> Ints:
            if width is None:
                return searcher.search(queries, self.k)[1]
            return searcher.by_index(queries, self.k, None, width)[1]

        if searcher.gpu is None and library.is_graph(searcher.handle):
            found = np.vstack(
                [found_by(self.queries[[i]]) for i in self._one_by_one(searcher.handle)]
            )
        else:
            found = found_by(self.queries)
        found = _others(found, self.rows, self.depth)
        return self._share([np.isin(w, f) for w, f in zip(self.wanted, found, strict=True)])

    def _one_by_one(self, graph: Any) -> Iterator[int]:
        """Each query in turn, while nothing in a graph leads to its own row."""
        if self._links is None:
            object.__setattr__(self, "_links", library.links_to(graph, self.rows))
        for i, places in enumerate(self._links or ()):
            with library.unlinked(graph, places):
                yield i

    def ranks(self, handle: Any, width: int) -> Ints:
        """(n_queries, depth) how many candidates of an index come before each neighbour wanted."""
        most = min(len(self.truth), self.k * _MOST_REFINED)
        _, at = library.search(handle, self.queries, most, width)
        out = np.full(self.wanted.shape, most, np.int64)
        for q, (wanted, found) in enumerate(zip(self.wanted, at, strict=True)):
            order = np.argsort(found, kind="stable")
            place = np.minimum(np.searchsorted(found[order], wanted), most - 1)
            there = found[order][place] == wanted
            out[q, there] = order[place][there]
        return out

    def recall_of(self, ranks: Ints, refine: int) -> tuple[float, float]:
        """As `recall`, where so many candidates for each answer are scored again."""
        return self._share(list(ranks < self.k * refine))

    def _share(self, hits: list[Any]) -> tuple[float, float]:
        real = self.wanted >= 0
        if not real.any():
            return 1.0, 0.0
        shares: Float = np.array(
            [hit[there].mean() for hit, there in zip(hits, real, strict=True) if there.any()]
        )
        return float(shares.mean()), float(shares.std() / np.sqrt(len(shares)))


def _others(found: Ints, own: Ints, depth: int) -> Ints:
    """(n, depth) the first of the rows found that are not the query's own; -1 pads."""
    out = np.full((len(found), depth), -1, np.int64)
    for q, (rows, row) in enumerate(zip(found, own, strict=True)):
        rest = rows[(rows != row) & (rows >= 0)][:depth]
        out[q, : len(rest)] = rest
    return out


def _drawn(n: int) -> tuple[Ints, Ints]:
    """Rows that a search is made wide enough for, and others that its recall is measured with."""
    count = min(_QUERIES[10], n // 4)
    if count == 0:
        return np.arange(n), np.arange(n)
    rows = np.random.default_rng(n).choice(n, 2 * count, replace=False)
    return rows[:count], rows[count:]


def trained_on(n: int, lists: int) -> Ints:
    """The rows that inverted lists are trained on: evenly spaced, and none of those drawn, unless
    too few would be left."""
    rows = np.arange(0, n, max(1, n // max(_TRAIN_PER_LIST * lists, 20_000)))
    others = np.setdiff1d(rows, np.concatenate(_drawn(n)))
    return others if len(others) >= ROWS_PER_LIST * lists else rows


def measured_recall(searcher: Searcher, truth: Vectors) -> float:
    """Recall at 10 against an exact scan of `truth` (n, d), of rows drawn at random.

    Neither has a width been chosen by these rows, nor, from some 27,000 rows on, have inverted
    lists been trained on them, nor does a graph link to them: they are as new as any query.
    """
    width = searcher.settings.widths.get(DEPTHS[0])  # not that of the row too many asked for
    return Exam(truth, _drawn(len(truth))[1], DEPTHS[0]).recall(searcher, width)[0]


def tune(searcher: Searcher, recipe: Recipe, truth: Vectors, recall: float) -> None:
    """Find, by depth, the least width at which recall exceeds what is wanted by twice its error.

    At the first depth that is done for several numbers of candidates that are scored again, and
    the cheapest pair is taken; the widest, where none will do.
    """
    handle = searcher.handle if searcher.gpu is None else searcher.gpu
    lists = int(getattr(handle, "nlist", recipe.n_lists(len(truth))))  # copies on GPUs hide it
    most = lists if recipe.probes else _WIDEST
    width = min(recipe.probes or recipe.breadth or 1, most)
    searcher.settings = Settings({}, recipe.refine)
    first, n = _drawn(len(truth))[0], len(truth)
    found = _pair(searcher, Exam(truth, first, DEPTHS[0]), width, most, recall)
    if found is None:
        refine = _MOST_REFINED if recipe.refine > 1 and recipe.probes else recipe.refine
        searcher.settings = Settings({DEPTHS[0]: most}, refine)
        return
    width, refine = found
    widths = {DEPTHS[0]: width}
    searcher.settings = Settings(widths, refine)
    for depth in DEPTHS[1:]:
        if depth > n // 10:
            break
        if searcher.gpu is not None and (depth + 1) * refine > library.GPU_MOST:
            break
        exam = Exam(truth, first[: _QUERIES.get(depth, 200)], depth)

        def enough(wide: int, exam: Exam = exam) -> bool:
            share, error = exam.recall(searcher, wide)
            return share - _SURE * error >= recall

        deeper = _least(enough, width, most, narrower=False)
        if deeper is None:  # those further down will not do either
            break
        width = widths[depth] = deeper
        searcher.settings = replace(searcher.settings, widths=dict(widths))


def _pair(
    searcher: Searcher, exam: Exam, start: int, most: int, recall: float
) -> tuple[int, int] | None:
    """The cheapest width, and candidates for each answer, that reach the recall; None: none do."""
    handle = searcher.handle if searcher.gpu is None else searcher.gpu
    base = searcher.settings.refine
    ranks: dict[int, Ints] = {}  # by width

    def enough(wide: int, refine: int) -> bool:
        if base == 1 or not hasattr(handle, "nlist"):
            share, error = exam.recall(searcher, wide)
        else:
            if wide not in ranks:
                ranks[wide] = exam.ranks(handle, wide)
            share, error = exam.recall_of(ranks[wide], refine)
        return share - _SURE * error >= recall

    best: tuple[float, int, int] | None = None
    refine = base
    while refine <= max(base, _MOST_REFINED):
        width = _least(lambda wide, r=refine: enough(wide, r), start, most)  # type: ignore[misc]
        if width is not None:
            searcher.settings = Settings({}, refine)
            cost = searcher.seconds(width, exam.depth), width, refine
            if best is not None and cost >= best:
                break
            best = cost
        if base == 1 or not hasattr(handle, "nlist"):
            break
        refine *= 2
    return None if best is None else best[1:]


def _least(
    enough: Callable[[int], bool], start: int, most: int, *, narrower: bool = True
) -> int | None:
    """The least width that is enough, to an eighth; None where not even the most is."""
    width, short = start, 0  # the widest that was not enough
    if enough(width):
        while narrower and width > 1:
            if not enough(width // 2):
                short = width // 2
                break
            width //= 2
    else:
        while True:
            if width >= most:
                return None
            short, width = width, min(2 * width, most)
            if enough(width):
                break
    while short and width - short > max(1, short // 8):
        middle = (short + width) // 2
        if enough(middle):
            width = middle
        else:
            short = middle
    return width
