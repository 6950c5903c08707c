"""What the machine can do at best, and what a process has used of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

_GB = 1e9
_CHUNK = 1 << 16  # float32 values that are summed at a time: they fit in the second-level cache


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def read_bandwidth(values: np.ndarray, rounds: int = 5) -> list[float]:
    """GB/s of plain sums over `values` in memory, one part of it a processor; one figure a round.

    Two sums that BLAS reads for, x.1 and x.x; the faster one of each round counts.
    """
    flat = values.reshape(-1)
    ones = np.ones(_CHUNK, np.float32)
    parts = np.array_split(flat, processors())

    def plain(part: np.ndarray) -> float:
        whole = len(part) // _CHUNK * _CHUNK
        return float((part[:whole].reshape(-1, _CHUNK) @ ones).sum())

    def squares(part: np.ndarray) -> float:
        blocks = (part[i : i + 16 * _CHUNK] for i in range(0, len(part), 16 * _CHUNK))
        return float(sum(block @ block for block in blocks))

    best = []
    with threadpool_limits(1), ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(rounds):
            seconds = [
                timed(lambda total=total: list(pool.map(total, parts)))  # type: ignore[misc]
                for total in (plain, squares)
            ]
            best.append(flat.nbytes / _GB / min(seconds))
    return best


def raw_write(folder: Path, values: np.ndarray) -> float:
    """GB/s of writing `values` to a new file and flushing it to the disk."""
    path = folder / "raw.bin"
    os.sync()
    start = time.perf_counter()
    with path.open("wb") as file:
        for part in np.array_split(values, 64):
            file.write(memoryview(np.ascontiguousarray(part)).cast("B"))
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    return values.nbytes / _GB / seconds


def peak_mb(process: int | str = "self") -> float:
    """The most memory that a process has had resident, mapped files included, in MB; 0 if gone.

    Not what `wait4` tells: a process that was forked counts the memory of its parent as well.
    """
    return _status("VmHWM", process)


def anonymous_mb(process: int | str = "self") -> float:
    """Memory of a process now that no file backs, in MB: what it cannot give back; 0 if gone."""
    return _status("RssAnon", process)


def _status(name: str, process: int | str = "self") -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":")]
    if not found and process == "self":
        raise SystemExit("these benchmarks read /proc: Linux only")
    return found[0] if found else 0.0


def into_cache(path: Path) -> None:
    """Read a file, or all files of a folder, so that the system has them in memory."""
    for file in _files(path):
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


def size_mb(path: Path) -> float:
    """The size of a file or of all files in a folder, in MB."""
    return sum(p.stat().st_size for p in _files(path)) / 1e6


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def describe() -> dict[str, str]:
    """Processor, number of them, memory and the versions of what is compared."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {"processor": cpu, "processors": str(processors()), "memory": f"{memory:.0f} GB"}
    for package in ("numpy", "torch", "faiss-cpu", "lancedb", "pylance", "hnswlib", "usearch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def timed(call: Callable[[], object]) -> float:
    """Seconds that `call` takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
