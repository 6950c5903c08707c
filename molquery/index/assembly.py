"""Building an index in memory: train, fill, and measure how wide it must be searched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from molquery.index import library, tuning
from molquery.index.library import Vectors
from molquery.index.searcher import Check, Searcher, Settings
from molquery.progress import Progress, silent
from molquery.recipes import Recipe, bad_factory

_BATCH = 65_536
SHARD = 1_048_576  # rows of an index that another process fills

Span = tuple[int, int]  # rows from the first to before the second


def fill(handle: Any, vectors: Vectors, span: Span, tell: Progress) -> None:
    """Add rows from start to stop to a trained index, some at a time."""
    for start in range(*span, _BATCH):
        tell("adding rows", start, span[1])
        rows = vectors[start : min(start + _BATCH, span[1])]
        handle.add(np.ascontiguousarray(rows, np.float32))


def assemble(
    recipe: Recipe,
    vectors: Vectors,
    *,
    recall: float = tuning.RECALL,
    truth: Vectors | None = None,
    devices: tuple[int, ...] = (),
    check: Check | None = None,
    progress: Progress | None = None,
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
        return searcher, 1.0 if exact_here else tuning.measured_recall(searcher, truth)
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
        sample = vectors[tuning.trained_on(n, handle.nlist)]
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
    tell("choosing how wide to search", n, n)
    tuning.tune(searcher, recipe, truth, recall)
    return searcher, tuning.measured_recall(searcher, truth)
