"""What is measured, part by part: lists of tasks for `measure`, in the order of one round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale.measure import Task, folder_of, method
from benchmarks.scale.methods import APPROXIMATE, BATCH, FILTER, FLAT, RANKING, Method
from benchmarks.scale.molquery_methods import ALL

SHARES = ("0.5", "0.1", "0.01", "0.001", "0.0001")
COHORT = "cohort 24"  # about 1.6 % of the rows, far from most queries
_SLOW_ROWS = 300_000  # from here on slow builds are left out unless they are asked for

#: Settings of methods under a filter: the default is what finds 99 % without one.
_FILTER_SETTINGS: dict[str, tuple[dict[str, int], ...]] = {
    "FAISS IVF-Flat": ({"nprobe": 64}, {"nprobe": 512}),
    "FAISS HNSW32": ({"ef": 128},),
    "LanceDB IVF_RQ": ({"nprobes": 32, "refine": 10},),
}
_FEW_ROWS = {"numpy subset": 0.1, "FAISS Flat, id array": 0.01}  # hopeless where more qualify


def chosen(tag: str, rows: int, slow: bool) -> list[Method]:
    """The methods with that tag whose library is installed and whose build is affordable."""
    fits = slow or rows < _SLOW_ROWS
    return [m for m in ALL if tag in m.tags and m.installed and (fits or not m.slow)]


def left_out(rows: int, slow: bool) -> dict[str, str]:
    """The methods that are not measured, and why."""
    out = {m.name: f"{m.library} is not installed" for m in ALL if not m.installed}
    if rows >= _SLOW_ROWS and not slow:
        out |= {m.name: f"slow to build at {rows:,} rows (--slow)" for m in ALL if m.slow}
    return out


def exact(at: Task, slow: bool) -> list[Task]:
    """One query over every row."""
    tasks = [{**at, "measure": "limit"}]
    return tasks + _each(at, "search", FLAT, slow)


def batch(at: Task, slow: bool) -> list[Task]:
    """64 queries at once, k = 100."""
    return [{**at, "measure": "product"}, *_each(at, "batch", BATCH, slow)]


def ranking(at: Task, slow: bool) -> list[Task]:
    """Every row, sorted."""
    return _each(at, "ranking", RANKING, slow)


def approximate(at: Task, slow: bool) -> list[Task]:
    """Indexes: recall, latency, build, size."""
    return _each(at, "search", APPROXIMATE, slow)


def filters(at: Task, slow: bool) -> list[Task]:
    """Filters of five selectivities, and one cohort."""
    tasks = []
    for rule in (*SHARES, COHORT):
        share = 0.016 if rule == COHORT else float(rule)
        if share * at["rows"] < 10:
            continue
        for task in _each(at, "search", FILTER, slow):
            name = task["method"]
            if share > _FEW_ROWS.get(name, 1.0):
                continue
            settings = _FILTER_SETTINGS.get(name)
            tasks.append({**task, "filter": rule, **({"settings": settings} if settings else {})})
    return tasks


def iid(at: Task, slow: bool) -> list[Task]:
    """Indexes on vectors without structure."""
    return approximate({**at, "kind": "iid", "rows": min(at["rows"], 100_000)}, slow)


def ingest(at: Task, slow: bool) -> list[Task]:
    """`molquery ingest` beside a plain write."""
    return [{**at, "measure": "ingest"}]


def start(at: Task, slow: bool) -> list[Task]:
    """Commands in new processes, and a first query in Python."""
    return [{**at, "measure": "start"}]


def scoring(at: Task, slow: bool) -> list[Task]:
    """A gene set over every slide: the sparse product."""
    return [{**at, "measure": "scoring"}]


def _each(at: Task, measure: str, tag: str, slow: bool) -> list[Task]:
    return [{**at, "measure": measure, "method": m.name} for m in chosen(tag, at["rows"], slow)]


PARTS: dict[str, Callable[[Task, bool], list[Task]]] = {
    f.__name__: f
    for f in (exact, batch, ranking, approximate, iid, filters, ingest, start, scoring)
}
ONCE = ("ingest", "start")  # long: measured in one round, with repeats of their own


def builds(tasks: list[Task]) -> list[Task]:
    """The builds that the tasks need and that are not there yet, each once."""
    needed: dict[Path, Task] = {}
    for task in tasks:
        if "method" in task and method(task["method"]).build:
            build = {**_place(task), "measure": "build", "method": task["method"]}
            if not (place_of(build) / "built.json").is_file():
                needed.setdefault(place_of(build), build)
    return list(needed.values())


def archives(tasks: list[Task]) -> list[Task]:
    """The archives that the tasks need and that are not there yet, each once."""
    makes = [{**_place(task), "measure": "make"} for task in tasks]
    needed = {place_of(m): m for m in makes if not (place_of(m) / "made.json").is_file()}
    return list(needed.values())


def place_of(task: Task) -> Path:
    """The folder that a task makes or builds."""
    if "method" in task:
        return folder_of(method(task["method"]), task)
    return Path(task["work"]) / f"{task['kind']}-{task['rows']}"


def _place(task: Task) -> dict[str, Any]:
    return {key: task[key] for key in ("work", "kind", "rows", "seconds")}
