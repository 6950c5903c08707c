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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from molquery.index import library, scan
from molquery.index.library import Vectors
from molquery.recipes import ROWS_PER_LIST, Recipe, bad_factory
from molquery.vectors import Bools, Ints, Matrix

#: Bytes a second, for the plan alone: rows one after the other, and rows picked out.
_STREAM, _PICK = 28e9, 24e9
#: Seconds a row that an index looks at, and a list that it opens.
_LOOK, _OPEN = 20e-9, 1e-6
_START = 1e-4  # of a search with an index
#: Seconds a candidate of a graph takes, with its neighbours.
_HOP = 6e-6
#: How many neighbours down the width of a search is measured when an index is built.
DEPTHS = (10, 30, 100, 300, 1000)
#: Recall that a search is made wide enough for, at every depth.
RECALL = 0.99
_WIDEST = 2048  # of a graph
_MOST_REFINED = 80  # candidates for each answer
_REACH = 4  # times the lists wanted, in which the allowed rows must be
_SAMPLE = 16_384  # rows whose lists are known, to judge how a filter falls on the lists
#: Below this share of the rows a graph loses too many of the allowed ones.
_GRAPH = 0.3
_TRAIN_PER_LIST = 40
_BATCH = 65_536
SHARD = 1_048_576  # rows of an index that another process fills
#: Queries by which recall is measured, at each depth; 200 where it is not said.
_QUERIES = {10: 500, 300: 100, 1000: 50}

Check = Callable[[Ints | None], None]
Span = tuple[int, int]  # rows from the first to before the second


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
            seconds = max(wide, k) * _HOP
            graph = share >= _GRAPH and seconds < exactly.seconds
            return Plan("index", seconds, wide) if graph else exactly
        lists = self.handle.nlist
        seconds = _START + width * (_OPEN + n / lists * _LOOK)
        if seconds > exactly.seconds:
            return exactly
        if allowed is None:
            return Plan("index", seconds, width)
        enough = self._in_reach(queries, allowed, width, share)
        seconds *= enough / width
        return Plan("index", seconds, enough) if 0 < seconds < exactly.seconds else exactly

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


@dataclass(frozen=True)
class _Exam:
    """Rows of an archive as queries, each of which itself counts neither as wanted nor as found.

    Attributes:
        truth: (n, d) what an exact scan reads.
        rows: of the queries; depth: the neighbours of each that are wanted.
    """

    truth: Vectors
    rows: Ints
    depth: int

    @cached_property
    def queries(self) -> Matrix:
        return np.ascontiguousarray(self.truth[self.rows], np.float32)

    @cached_property
    def wanted(self) -> Ints:
        return scan.top(self.truth, self.queries, min(self.depth + 1, len(self.truth)))[1]

    def recall(self, searcher: Searcher) -> tuple[float, float]:
        """Share of the neighbours wanted that are found, and its standard error."""
        k, width = self.wanted.shape[1], searcher.settings.widths.get(self.depth)
        if width is None:
            _, found = searcher.search(self.queries, k)
        else:
            _, found = searcher.by_index(self.queries, k, None, width)
        shares = []
        for own, one, other in zip(self.rows, self.wanted, found, strict=True):
            others = one[one != own][: self.depth]
            answer = other[other != own][: self.depth]
            shares.append(len(np.intersect1d(others, answer)) / max(1, len(others)))
        if k <= 1:
            return 1.0, 0.0
        return float(np.mean(shares)), float(np.std(shares) / np.sqrt(len(shares)))


def _drawn(n: int) -> tuple[Ints, Ints]:
    """Rows that a search is made wide enough for, and others that its recall is measured with."""
    count = min(_QUERIES[10], n // 4)
    if count == 0:
        return np.arange(n), np.arange(n)
    rows = np.random.default_rng(n).choice(n, 2 * count, replace=False)
    return rows[:count], rows[count:]


def _trained_on(n: int, lists: int) -> Ints:
    """The rows that inverted lists are trained on: evenly spaced, and none of those drawn, unless
    too few would be left."""
    rows = np.arange(0, n, max(1, n // max(_TRAIN_PER_LIST * lists, 20_000)))
    others = np.setdiff1d(rows, np.concatenate(_drawn(n)))
    return others if len(others) >= ROWS_PER_LIST * lists else rows


def measured_recall(searcher: Searcher, truth: Vectors) -> float:
    """Recall at 10 against an exact scan of `truth` (n, d), of rows drawn at random.

    Neither has a width been chosen by these rows, nor, from some 27,000 rows on, have inverted
    lists been trained on them: to an index of lists they are as new as any query.
    """
    return _Exam(truth, _drawn(len(truth))[1], 10).recall(searcher)[0]


def _tune(searcher: Searcher, truth: Vectors, start: int, most: int, recall: float) -> None:
    """Find the least width, to an eighth, at which recall exceeds what is wanted by its error."""
    width = min(start, most)
    for depth in DEPTHS:
        if depth > len(truth) // 10 and depth > DEPTHS[0]:
            break
        exam = _Exam(truth, _drawn(len(truth))[0][: _QUERIES.get(depth, 200)], depth)
        if searcher.gpu is not None and (depth + 1) * searcher.settings.refine > library.GPU_MOST:
            break

        def enough(wide: int, exam: _Exam = exam) -> bool:
            widths = {**searcher.settings.widths, exam.depth: wide}
            searcher.settings = Settings(widths, searcher.settings.refine)
            found, error = exam.recall(searcher)
            return found - error >= recall

        short = 0  # the widest that was not enough
        while not (reached := enough(width)):
            refine = searcher.settings.refine
            if width < most:
                short, width = width, min(2 * width, most)
            elif depth == DEPTHS[0] and 1 < refine < _MOST_REFINED:
                short, width = 0, min(start, most)
                searcher.settings = Settings(searcher.settings.widths, 2 * refine)
            else:
                break
        while reached and short and width - short > max(1, short // 8):
            middle = (short + width) // 2
            if enough(middle):
                width = middle
            else:
                short = middle
        widths = {**searcher.settings.widths, depth: width}
        if not reached and depth > DEPTHS[0]:  # deeper ones will not do either
            del widths[depth]
        searcher.settings = Settings(widths, searcher.settings.refine)
        if not reached:
            break


def fill(handle: Any, vectors: Vectors, span: Span, tell: Callable[[str, int, int], None]) -> None:
    """Add rows from start to stop to a trained index, some at a time."""
    for start in range(*span, _BATCH):
        tell("adding rows", start, span[1])
        rows = vectors[start : min(start + _BATCH, span[1])]
        handle.add(np.ascontiguousarray(rows, np.float32))


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody is told of."""


def assemble(
    recipe: Recipe,
    vectors: Vectors,
    *,
    recall: float = RECALL,
    truth: Vectors | None = None,
    devices: tuple[int, ...] = (),
    check: Check | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    shards: Callable[[bytes, Sequence[Span]], Iterator[bytes]] | None = None,
) -> tuple[Searcher, float]:
    """Build an index over stored vectors (n, d), in memory, and measure its recall at 10.

    A search is made wider until the recall wanted is reached, as far as that goes.

    Args:
        recall: wanted, at every depth.
        truth: (n, d) float32 what recall is measured against; by default `vectors`.
        devices: GPUs to build and search on; none for the CPU.
        shards: fills copies of a trained index of inverted lists with rows from start to stop, in
            other processes; both are packed.

    Raises:
        IndexFileError: FAISS does not accept the recipe's factory string.
    """
    n, d = vectors.shape
    searcher = Searcher(vectors, None, Settings({}, recipe.refine), check)
    truth = vectors if truth is None else truth
    if recipe.exact:
        if devices:
            searcher.gpu = library.flat_on_gpus(vectors, devices)
        exact_here = truth.dtype == vectors.dtype and not devices
        return searcher, 1.0 if exact_here else measured_recall(searcher, truth)
    factory = recipe.factory_for(n, d)
    try:
        handle = library.make(factory, d)
    except RuntimeError as error:
        raise bad_factory(recipe, factory, library.reason(error)) from error
    if (recipe.probes is not None) != library.is_inverted(handle):
        wanted = "no inverted lists" if recipe.probes else "inverted lists, and no search.probes"
        raise bad_factory(recipe, factory, f"this one has {wanted}")
    sample: Vectors = vectors
    if library.is_inverted(handle):
        sample = vectors[_trained_on(n, handle.nlist)]
    if devices:
        handle = library.to_gpus(handle, devices, cuvs=recipe.cuvs)
    sample = np.ascontiguousarray(sample, np.float32)

    tell = progress or silent
    try:
        library.train(handle, sample)
        if shards is not None and library.is_inverted(handle) and not devices:
            spans = [(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]
            filled = shards(library.pack(handle), spans)
            for (start, _), blob in zip(spans, filled, strict=True):
                tell("adding rows", start, n)
                library.merge(handle, library.unpack(blob), start)
        else:
            fill(handle, vectors, (0, n), tell)
    except RuntimeError as error:
        raise bad_factory(recipe, factory, library.reason(error)) from error
    if devices:
        searcher.gpu = handle
    else:
        searcher.handle = handle
    start = recipe.probes or recipe.breadth or 1
    most = handle.nlist if recipe.probes else _WIDEST
    _tune(searcher, truth, start, most, recall)
    return searcher, measured_recall(searcher, truth)
