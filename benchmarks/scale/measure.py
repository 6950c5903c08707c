"""One measurement, in the process that it was started in: JSON in, JSON out.

    python -m benchmarks.scale.measure '{"measure": "search", "method": "numpy float32", ...}'

Every task names what to measure, the archive (`work`, `kind`, `rows`) and what belongs to that
measurement. Times are in milliseconds, memory and sizes in MB (10^6 bytes on disk, 2^20 resident).
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.scale import machine
from benchmarks.scale.archive import Archive, archive, nearest
from benchmarks.scale.methods import Method, Search, Setting
from benchmarks.scale.molquery_methods import ALL

Task = dict[str, Any]
Result = dict[str, Any]

K, MANY, BATCH_OF, BATCH_K = 10, 100, 64, 100
_FEWEST = 5  # queries, however slow they are


def method(name: str) -> Method:
    """The method of that name."""
    return next(m for m in ALL if m.name == name)


def folder_of(of: Method, task: Task) -> Path:
    """Where a method keeps what it has built for the archive of a task."""
    name = of.folder or "".join(c if c.isalnum() else "-" for c in of.name).lower()
    return Path(task["work"]) / f"{task['kind']}-{task['rows']}" / name


def opened(task: Task) -> tuple[Archive, Method, Search, float]:
    """The archive, the method and its search, and the seconds that opening took."""
    held = archive(Path(task["work"]), task["kind"], task["rows"])
    of = method(task["method"])
    start = time.perf_counter()
    search = of.open(held, folder_of(of, task))
    return held, of, search, time.perf_counter() - start


def warm(task: Task) -> tuple[Archive, Method, Search, float]:
    """As `opened`, with what was built in the system's memory: others may have driven it out."""
    machine.into_cache(folder_of(method(task["method"]), task))
    return opened(task)


def make(task: Task) -> Result:
    """The archive itself."""
    start = time.perf_counter()
    archive(Path(task["work"]), task["kind"], task["rows"])
    return {"seconds": time.perf_counter() - start}


def build(task: Task) -> Result:
    """Build of a method: seconds, size on disk, peak memory."""
    held = archive(Path(task["work"]), task["kind"], task["rows"])
    of = method(task["method"])
    folder = folder_of(of, task)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    assert of.build is not None
    start = time.perf_counter()
    of.build(held, folder)
    seconds = time.perf_counter() - start
    of_index = folder / "rows.lance" / "_indices"  # LanceDB keeps the vectors beside the index
    size = machine.size_mb(of_index if of_index.is_dir() else folder)
    found = {"seconds": seconds, "size": size, "peak": machine.peak_mb()}
    (folder / "built.json").write_text(json.dumps(found), "utf-8")
    return found


def search(task: Task) -> Result:
    """One query at a time, k = 10: latencies and recall, by setting; recall@100 beside it."""
    held, of, find, open_s = warm(task)
    allowed, rule, truth = None, {}, held.truth
    if "filter" in task:
        allowed, where, truth = filtered(held, task["filter"])
        rule = {"where": where} if of.library == "lancedb" else {}
    settings = []
    for setting in task.get("settings", of.settings):
        with_rule = {**setting, **rule}
        latencies, answers = timed_queries(held, find, K, with_rule, allowed, task["seconds"])
        n = len(answers)
        found = {"setting": setting, "latencies": latencies, "recall10": recall(answers, truth, K)}
        if not of.exact and allowed is None:
            more = np.concatenate([find(q[None], MANY, with_rule, None) for q in held.queries[:n]])
            found["recall100"] = recall(more, truth, MANY)
        settings.append(found)
    return {
        "open": open_s,
        "settings": settings,
        "peak": machine.peak_mb(),
        "anonymous": machine.anonymous_mb(),
    }


def timed_queries(
    held: Archive, find: Search, k: int, setting: Setting,
    allowed: npt.NDArray[np.bool_] | None, seconds: float,
) -> tuple[list[float], npt.NDArray[np.int64]]:  # fmt: skip
    """Latencies in ms of as many queries as fit in the time, and their answers.

    Each has been asked before, untimed, so that what is mapped has been touched.
    """
    queries = held.queries
    begun, asked = time.perf_counter(), 0
    while asked < len(queries):
        find(queries[asked : asked + 1], k, setting, allowed)
        asked += 1
        if asked >= _FEWEST and time.perf_counter() - begun > seconds:
            break
    latencies, answers = [], []
    for q in range(asked):
        if q >= _FEWEST and sum(latencies) > 1000 * seconds:
            break
        start = time.perf_counter()
        answers.append(find(queries[q : q + 1], k, setting, allowed))
        latencies.append(round(1000 * (time.perf_counter() - start), 4))
    return latencies, np.concatenate(answers)


def recall(answers: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], k: int) -> float:
    """Share of the true k nearest that the answers hold; fewer than k where fewer qualify."""
    real = [set(t[:k][t[:k] >= 0].tolist()) for t in truth[: len(answers)]]
    hit = sum(len(r & set(a[:k].tolist())) for r, a in zip(real, answers, strict=True))
    return hit / sum(map(len, real))


def filtered(held: Archive, rule: str) -> tuple[npt.NDArray[np.bool_], str, npt.NDArray[np.int64]]:
    """The rows that a filter allows, the filter in SQL, and the true neighbours among them.

    A filter is a share, of rows drawn at random, or the name of a cohort ('cohort 20'): rows that
    lie together, and far from most queries.
    """
    if rule.startswith("cohort"):
        where = f"cohort = {rule.split()[1]}"
        allowed = held.cohorts == int(rule.split()[1])
    else:
        where = f"uniform < {rule}"
        allowed = held.uniform < np.float32(rule)
    kept = held.folder / f"truth-{rule.replace(' ', '-')}.npy"
    if not kept.is_file():
        np.save(kept, nearest(held.vectors, held.queries, K, allowed))
    return allowed, where, np.load(kept)


def batch(task: Task) -> Result:
    """Throughput of batches of 64 queries, k = 100: queries a second, one figure a batch."""
    held, of, find, open_s = warm(task)
    queries = held.queries[:BATCH_OF]
    k = min(BATCH_K, held.rows)
    rates: list[float] = []
    find(queries[:2], k, of.settings[-1], None)
    start = time.perf_counter()
    while len(rates) < 2 or (time.perf_counter() - start < task["seconds"] and len(rates) < 20):
        one = time.perf_counter()
        answers = find(queries, k, of.settings[-1], None)
        rates.append(len(queries) / (time.perf_counter() - one))
    right = recall(answers, held.truth, k)
    return {"open": open_s, "rates": rates, "recall100": right, "peak": machine.peak_mb()}


def ranking(task: Task) -> Result:
    """A full ranking: every row, sorted; latencies, and whether the order is right."""
    held, of, find, open_s = warm(task)
    latencies, answers = timed_queries(
        held, find, held.rows, of.settings[-1], None, task["seconds"]
    )
    order = answers[0]
    scores = held.vectors[order] @ held.queries[0]
    return {
        "open": open_s,
        "latencies": latencies,
        "rows": len(np.unique(order)),
        # how far a score may stand below a later one: 0, or rounding of float16
        "disorder": float((np.maximum.accumulate(scores[::-1])[::-1] - scores).max()),
        "peak": machine.peak_mb(),
    }


def limit(task: Task) -> Result:
    """Read bandwidth of the memory in GB/s, over the vectors of the archive."""
    held = archive(Path(task["work"]), task["kind"], task["rows"])
    return {"rates": machine.read_bandwidth(held.matrix(), rounds=8)}


def product(task: Task) -> Result:
    """The matrix product of a batch alone, by NumPy's BLAS: batches a second that allows."""
    held = archive(Path(task["work"]), task["kind"], task["rows"])
    vectors, queries = held.matrix(), held.queries[:BATCH_OF]
    rates = []
    for _ in range(4):
        start = time.perf_counter()
        for first in range(0, len(vectors), 50_000):
            _ = queries @ vectors[first : first + 50_000].T
        rates.append(len(queries) / (time.perf_counter() - start))
    return {"rates": rates, "flop": 2 * vectors.size}


MEASURES: dict[str, Callable[[Task], Result]] = {
    f.__name__: f for f in (make, build, search, batch, ranking, limit, product)
}


def main() -> None:
    """Measure what the argument says."""
    task = json.loads(sys.argv[1])
    if task["measure"] not in MEASURES:
        from benchmarks.scale import whole

        MEASURES.update(whole.MEASURES)
    print(json.dumps(MEASURES[task["measure"]](task)))


if __name__ == "__main__":
    main()
