"""One gene set and 50 gene sets x 1,000,000 slides, and those to Parquet in bounded memory.

    python benchmarks/score_million.py [SLIDES]

The weights are made up and lie in memory-mapped files, as those of an archive would that is larger
than memory: 200 neighbours among 2,000 profiles and 64 components a slide. What is timed is what
`molquery score collection.gmt --output scores.parquet` does once they are there: the products and
the writing. Beside it stands the sparse product alone, from arrays in memory, which no way of
scoring by these weights can beat. And a new gene set over all slides, beside the time that it takes
to read its neighbours and weights once on as many threads. Needs about 2.2 GB of disk for a million
slides.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from molquery import export
from molquery.predict import COMPONENTS, NEIGHBOURS, SOFT_SHARE, Operator
from molquery.query.batch import BATCH, Predict, predict_batches
from molquery.threads import parallel

PROFILES, SETS, GROUPS = 2_000, 50, 30
_MB = 2**20
_SPAN = 1 << 21  # numbers read at a time
REPEATS = 7


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(PROFILES, SETS))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        operator = made_up(folder, n, rng)
        seconds_of = new_sets(operator, scores)
        limit = sparse_limit(rng, scores)
        target = folder / "scores.parquet"
        before = anonymous()
        with Peak() as peak:
            start = time.perf_counter()
            write(operator, scores, n, target)
            seconds = time.perf_counter() - start
        size = target.stat().st_size
    reading, soft, one, many = seconds_of
    print(f"{n:,} slides, {NEIGHBOURS} neighbours each, medians of {REPEATS}")
    print(f"reading neighbours and weights, ms     {1e3 * reading:>12,.0f}")
    print(f"their sparse product, one set, ms      {1e3 * soft:>12,.0f}")
    print(f"share of the bandwidth                 {reading / soft:>12.0%}")
    print(f"one set with its ridge part, ms        {1e3 * one:>12,.0f}")
    print(f"{SETS} sets with their ridge part, ms     {1e3 * many:>12,.0f}")
    print(f"{SETS} sets, in times of one               {many / one:>12.1f}")
    print(f"{n:,} slides x {SETS} gene sets in {seconds:.1f} s")
    print(f"rows a second, products and Parquet    {n / seconds:>12,.0f}")
    print(f"rows a second, sparse product alone    {limit:>12,.0f}")
    print(f"share of that limit                    {n / seconds / limit:>12.0%}")
    print(f"memory above that before, peak, MB     {peak.highest - before:>12,.0f}")
    print(f"Parquet, MB                            {size / _MB:>12,.0f}")


def made_up(folder: Path, n: int, rng: np.random.Generator) -> Operator:
    """Weights of `n` slides in files, written in pieces."""

    def mapped(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)

    neighbours = mapped("neighbours", (n, NEIGHBOURS), np.int32)
    weights = mapped("weights", (n, NEIGHBOURS), np.float32)
    components = mapped("components", (n, COMPONENTS + 1), np.float32)
    for start in range(0, n, BATCH):
        rows = min(BATCH, n - start)
        span = slice(start, start + rows)
        neighbours[span] = rng.integers(0, PROFILES, (rows, NEIGHBOURS), dtype=np.int32)
        share = rng.random((rows, NEIGHBOURS), dtype=np.float32)
        weights[span] = share / share.sum(axis=1, keepdims=True)
        components[span] = rng.standard_normal((rows, COMPONENTS + 1), dtype=np.float32)
    for array in (neighbours, weights, components):
        array.flush()
    return Operator(
        rows=np.arange(n),
        neighbours=np.load(folder / "neighbours.npy", mmap_mode="r"),
        weights=np.load(folder / "weights.npy", mmap_mode="r"),
        soft_share=np.full(n, SOFT_SHARE, np.float32),
        model=np.full(n, -1),
        components=np.load(folder / "components.npy", mmap_mode="r"),
        group=rng.integers(0, GROUPS, n),
        solvers=rng.standard_normal((GROUPS, COMPONENTS + 1, PROFILES), dtype=np.float32),
        distance=np.empty((0, 2), np.float32),
    )


def new_sets(operator: Operator, scores: np.ndarray) -> tuple[float, float, float, float]:
    """Seconds to read the weights, of their product with one set, of one set and of all sets."""
    arrays = [a.reshape(-1).view(np.uint64) for a in (operator.neighbours, operator.weights)]
    spans = [(a, slice(i, i + _SPAN)) for a in arrays for i in range(0, len(a), _SPAN)]
    first = scores[:, :1].astype(np.float32)

    def read() -> None:
        parallel(lambda span: np.bitwise_or.reduce(span[0][span[1]]), spans)

    work = (read, lambda: operator.soft(first), lambda: operator.apply(first),
            lambda: operator.apply(scores))  # fmt: skip
    times: list[list[float]] = [[] for _ in work]
    for _ in range(REPEATS):  # in turn, so that a busy machine troubles all alike
        for spent, function in zip(times, work, strict=True):
            start = time.perf_counter()
            function()
            spent.append(time.perf_counter() - start)
    reading, soft, one, many = (statistics.median(spent) for spent in times)
    return reading, soft, one, many


def write(operator: Operator, scores: np.ndarray, n: int, target: Path) -> None:
    names = [f"SET_{s}" for s in range(SETS)]
    schema = pa.schema([("slide_id", pa.string()), *((name, pa.float64()) for name in names)])

    def batches() -> Iterator[pa.RecordBatch]:
        for rows, predicted in predict_batches(Predict(operator, scores), np.arange(n)):
            ids = pa.array([f"S{i:09d}" for i in rows])
            columns = [pa.array(np.ascontiguousarray(column)) for column in predicted.T]
            yield pa.RecordBatch.from_arrays([ids, *columns], schema=schema)

    export.write_batches(batches(), schema, {"made_up": True}, target)


def sparse_limit(rng: np.random.Generator, scores: np.ndarray) -> float:
    """Rows a second of the sparse product alone, the best of five."""
    rows = 4 * BATCH
    indices = rng.integers(0, PROFILES, rows * NEIGHBOURS, dtype=np.int32)
    starts = np.arange(0, len(indices) + 1, NEIGHBOURS, dtype=np.int32)
    data = rng.random(len(indices), dtype=np.float32)
    matrix = csr_array((data, indices, starts), shape=(rows, PROFILES))
    dense = scores.astype(np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ dense
        times.append(time.perf_counter() - start)
    return rows / min(times)


def anonymous() -> float:
    """MB of memory of this process that no file backs: mapped pages can be dropped at any time."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this benchmark reads /proc: Linux only")


class Peak:
    """The highest `anonymous` while the block runs."""

    def __enter__(self) -> Peak:
        self.highest = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.highest = max(self.highest, anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


if __name__ == "__main__":
    main()
