"""Whole commands: ingest, a first answer from the shell, and a gene set over every slide.

A result is a list of lines: a name, and a time (`median_ms`) or a rate (`per_s`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.scale import machine
from benchmarks.scale.archive import Archive, Matrix, archive
from benchmarks.scale.measure import Result, Task, folder_of, method

PROFILES, GENES = 2_000, 2_000  # of the paired reference
NEIGHBOURS, SETS = 200, 50
_ASKED = "HALLMARK_HYPOXIA"
_LOOK = 0.02  # seconds after which the memory of a command is looked at again
_RIVALS = ("FAISS IVF-RaBitQ, refined", "LanceDB IVF_PQ", "LanceDB, no index")


def ingest(task: Task) -> Result:
    """`molquery ingest slides` of a Parquet file beside a plain file and a Lance table.

    Nothing is removed before the end: a virtual disk writes blocks that were used before several
    times faster than new ones.
    """
    from benchmarks.scale.methods import write_lance

    held = _archive(task)
    source = _slides_file(held)
    vectors = held.matrix()
    raw, lance, ours, peaks = [], [], [], []
    database = held.folder / "archive.mq"
    shutil.rmtree(database, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=held.folder) as scratch:
        for name in ("one", "two"):
            folder = Path(scratch) / name
            folder.mkdir()
            raw.append(machine.raw_write(folder, vectors))
            seconds = machine.timed(lambda to=folder: write_lance(held, to))  # type: ignore[misc]
            lance.append(vectors.nbytes / 1e9 / seconds)
            written = folder / "archive.mq"
            molquery(written, "init")
            os.sync()
            start = time.perf_counter()
            spent = molquery(written, "ingest", "slides", str(source), "--encoder", "made-up")
            peaks.append(spent.peak)
            os.sync()
            ours.append(vectors.nbytes / 1e9 / (time.perf_counter() - start))
        written.rename(database)
    rates = {"raw": np.median(raw), "Lance": np.median(lance), "molquery": np.median(ours)}
    return {
        "lines": [
            {"method": "plain file, flushed", "per_s": rates["raw"], "setting": "GB/s"},
            {"method": "Lance table", "per_s": rates["Lance"], "setting": "GB/s"},
            {"method": "molquery ingest slides", "per_s": rates["molquery"], "setting": "GB/s",
             "peak_mb": max(peaks)},
            {"method": "share of the plain file", "per_s": rates["molquery"] / rates["raw"]},
        ]
    }  # fmt: skip


def start(task: Task) -> Result:
    """Commands in new processes on a database of that many slides, and a first query in Python.

    What made the database ready is told as well: once, before anything else.
    """
    held = _archive(task)
    database, once = _aligned(held)
    slide = _slide_id(held.rows // 2)
    commands: dict[str, Sequence[str]] = {
        "molquery search --geneset": ("search", "--geneset", _ASKED, "-k", "10"),
        "molquery search --geneset --index": ("search", "--geneset", _ASKED, "-k", "10", "--index"),
        "molquery retrieve ID --to slides": ("retrieve", slide, "--to", "slides", "-k", "10"),
        "molquery info": ("info",),
    }
    times: dict[str, list[float]] = {}
    used: dict[str, list[Used]] = {}
    for turn in range(6):  # the first one warms the disk
        for name, command in commands.items():
            begun = time.perf_counter()
            used.setdefault(name, []).append(molquery(database, *command))
            times.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
        for name, call in (
            ("Python: open and first search", f"search({_ASKED!r}, k=10)"),
            ("Python: open and first retrieve", f"retrieve({slide!r}, to='slides', k=10)"),
        ):
            wall, cpu, peak = map(
                float, _python(_FIRST.format(path=str(database), call=call)).split()
            )
            times.setdefault(name, []).append(wall)
            used.setdefault(name, []).append(Used(cpu, peak))
        for name in _RIVALS:
            asked = {**task, "measure": "once", "method": name}
            if (folder_of(method(name), asked) / "built.json").is_file():
                begun = time.perf_counter()
                _python(_ONCE.format(task=json.dumps(asked)))
                times.setdefault(f"one query: {name}", []).append(
                    1000 * (time.perf_counter() - begun)
                )
        if turn == 0:
            times.clear()
            used.clear()
    return {
        "lines": once + [
            {"method": name, "median_ms": float(np.median(t)), "p99_ms": max(t),
             "quiet_ms": min(t), "queries": len(t)}
            | ({"cpu_ms": float(np.median([u.cpu for u in used[name]])),
                "peak_mb": max(u.peak for u in used[name])} if name in used else {})
            for name, t in times.items()
        ]
    }  # fmt: skip


_FIRST = """
import time
import molquery
from benchmarks.scale.machine import peak_mb
start, used = time.perf_counter(), time.process_time()
molquery.open({path!r}).{call}
print(1000 * (time.perf_counter() - start), 1000 * (time.process_time() - used), peak_mb())
"""
_ONCE = """
from benchmarks.scale.measure import opened
held, of, find, _ = opened({task})
find(held.queries[:1], 10, of.settings[-1], None)
"""


def scoring(task: Task) -> Result:
    """One gene set, and many, over every slide: the operator's product beside the memory."""
    from molquery.predict import COMPONENTS, SOFT_SHARE, Operator

    n = task["rows"]
    rng = np.random.default_rng(0)
    weights = rng.random((n, NEIGHBOURS), dtype=np.float32)
    operator = Operator(
        rows=np.arange(n),
        neighbours=rng.integers(0, PROFILES, (n, NEIGHBOURS), dtype=np.int32),
        weights=weights,
        soft_share=np.full(n, SOFT_SHARE, np.float32),
        model=np.full(n, -1),
        components=rng.standard_normal((n, COMPONENTS + 1), dtype=np.float32),
        group=np.zeros(n, np.int64),
        solvers=rng.standard_normal((1, COMPONENTS + 1, PROFILES), dtype=np.float32),
        distance=np.empty((0, 2), np.float32),
    )
    scores = rng.standard_normal((PROFILES, SETS))
    operator.apply(scores)  # untimed: memory that is touched for the first time
    one, many, limit = [], [], []
    for _ in range(7):
        limit += machine.read_bandwidth(weights, rounds=2)
        one.append(1000 * machine.timed(lambda: operator.apply(scores[:, :1])))
        many.append(1000 * machine.timed(lambda: operator.apply(scores)))
    read = (operator.neighbours.nbytes + weights.nbytes + operator.components.nbytes) / 1e9
    bandwidth = float(np.median(limit))
    return {
        "lines": [
            _line("one gene set", one, machine.peak_mb()),
            _line(f"{SETS} gene sets", many, machine.peak_mb()),
            {"method": f"limit: {read:.2f} GB read once", "median_ms": 1000 * read / bandwidth},
            {"method": "share of read bandwidth, one set",
             "per_s": read / (np.median(one) / 1000) / bandwidth},
            {"method": f"ratio of {SETS} sets to one", "per_s": np.median(many) / np.median(one)},
        ]
    }  # fmt: skip


def _line(name: str, times: list[float], peak: float) -> Result:
    return {
        "method": name, "median_ms": float(np.median(times)), "quiet_ms": min(times),
        "queries": len(times), "peak_mb": peak,
    }  # fmt: skip


MEASURES: dict[str, Callable[[Task], Result]] = {f.__name__: f for f in (ingest, start, scoring)}


# A database to ask.


def _archive(task: Task) -> Archive:
    return archive(Path(task["work"]), task["kind"], task["rows"])


def _slide_id(row: int) -> str:
    return f"S{row:08d}"


def _patient_id(row: int) -> str:
    return f"P{row:08d}"


def _slides_file(held: Archive) -> Path:
    """The archive as a Parquet file of slides."""
    path = held.folder / "slides.parquet"
    if not path.is_file():
        blocks = (slice(begin, begin + 20_000) for begin in range(0, held.rows, 20_000))
        write_slides(path, ((np.asarray(held.vectors[b]), held.cohorts[b]) for b in blocks))
    return path


def write_slides(path: Path, blocks: Iterable[tuple[Matrix, npt.NDArray[np.int64]]]) -> None:
    """A Parquet file of slides: ids, patients, cohorts and embeddings.

    Args:
        blocks: embeddings (n, d) float32 and the numbers of the cohorts (n,).
    """
    import pyarrow as pa
    from pyarrow import parquet

    part, first, writer = path.with_suffix(".part"), 0, None
    for vectors, cohorts in blocks:
        rows = range(first, first + len(vectors))
        table = pa.table({
            "slide_id": [_slide_id(i) for i in rows],
            "patient_id": [_patient_id(i) for i in rows],
            "cohort": [f"C{c:02d}" for c in cohorts],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), vectors.shape[1]
            ),
        })  # fmt: skip
        if writer is None:
            writer = parquet.ParquetWriter(
                part, table.schema, compression="none", use_dictionary=False
            )
        writer.write_table(table)
        first = rows.stop
    assert writer is not None
    writer.close()
    os.replace(part, path)


def _aligned(held: Archive) -> tuple[Path, list[Result]]:
    """A database of the archive with paired expression, aligned, indexed and asked once; and a line
    of each command that made it so."""
    database = held.folder / "archive.mq"
    done = held.folder / "archive-ready.json"
    if done.is_file() and database.is_dir():
        return database, json.loads(done.read_text("utf-8"))
    if not database.is_dir():
        molquery(database, "init")
        molquery(database, "ingest", "slides", str(_slides_file(held)), "--encoder", "made-up")
    lines: list[Result] = []
    for command in (
        ("ingest", "profiles", str(_profiles_file(held)), "--scale", "log2"),
        ("align", "--method", "cca"),
        ("index", "build", "--recipe", "auto"),
        ("search", "--geneset", _ASKED, "-k", "10"),
    ):
        begun = time.perf_counter()
        used = molquery(database, *command)
        spent = 1000 * (time.perf_counter() - begun)
        name = " ".join(word for word in command[:2] if not word.startswith("-"))
        lines.append({"method": f"once: molquery {name}", "median_ms": spent, "quiet_ms": spent,
                      "queries": 1, "cpu_ms": used.cpu, "peak_mb": used.peak})  # fmt: skip
    done.write_text(json.dumps(lines), "utf-8")
    return database, lines


def _profiles_file(held: Archive) -> Path:
    path = held.folder / "profiles.parquet"
    write_profiles(path, np.asarray(held.vectors[: min(PROFILES, held.rows // 2)]))
    return path


def write_profiles(path: Path, vectors: Matrix) -> None:
    """Expression of the first patients, a noisy linear function of their embeddings (n, d)."""
    import pyarrow as pa
    from pyarrow import parquet

    from molquery.genesets import collections

    genes = sorted({g for s in collections.hallmark() for g in s.genes})[:GENES]
    rng = np.random.default_rng(1)
    signal = vectors @ rng.standard_normal((vectors.shape[1], len(genes)), dtype=np.float32)
    values = 8 + signal + 0.5 * rng.standard_normal(signal.shape, dtype=np.float32)
    table = {"patient_id": [_patient_id(i) for i in range(len(vectors))]}
    table |= {g: values[:, j] for j, g in enumerate(genes)}
    parquet.write_table(pa.table(table), path)


@dataclass(frozen=True, slots=True)
class Used:
    """What a command has used: processor time in ms, peak memory in MB, and the most of it that no
    file backed; and what it wrote."""

    cpu: float
    peak: float
    anonymous: float = 0.0
    output: str = ""


def molquery(database: Path, *command: str) -> Used:
    """Run a command of molquery in a new process.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    program = Path(sys.executable).with_name("molquery")
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as wrote:
        process = subprocess.Popen(
            [str(program), "--db", str(database), *command], stdout=wrote, stderr=said
        )
        ended, peaks, own = threading.Event(), [0.0], [0.0]

        def watch() -> None:
            while not ended.wait(_LOOK):
                peaks.append(machine.peak_mb(process.pid))
                own.append(machine.anonymous_mb(process.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        _, status, used = os.wait4(process.pid, 0)
        ended.set()
        watching.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            last = said.read().decode(errors="replace").strip()[-300:]
            raise RuntimeError(f"molquery {' '.join(command)}: {last}")
        wrote.seek(0)
        output = wrote.read().decode(errors="replace")
    return Used(1000 * (used.ru_utime + used.ru_stime), max(peaks), max(own), output)


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    return done.stdout.strip() or "0"
