"""Ingest of 1,000,000 x 512 float32 vectors, beside a raw write of the same bytes.

    python benchmarks/ingest_million.py [SLIDES] [--format arrow|parquet|npy] [--rounds 1]

The file to ingest is made first and is in the system's memory when the ingest begins. The raw write
is a loop of `write` and one `fsync`; Lance's is the same number of rows, nothing checked or summed,
and an `fsync` of its files. The three take turns, and the shares are of medians. Nothing is removed
before the end: on a virtual disk, blocks that were written before are several times faster to write
than new ones. Memory is the peak of a new process that does the ingest alone, libraries included. A
second ingest of the same file must change nothing. Needs 2.1 GB of disk for a million slides, and
6.2 GB a round.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from molquery.files import sync

DIM, CLUSTERS, ROWS = 512, 1_000, 16_384


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("slides", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("arrow", "parquet", "npy"), default="arrow")
    parser.add_argument("--in", dest="folder", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    settings = parser.parse_args()
    n = settings.slides
    raw, lance, whole, peaks = [], [], [], []
    with tempfile.TemporaryDirectory(dir=settings.folder) as scratch:
        folder = Path(scratch)
        file = made_up(folder, n, settings.format)
        for i in range(settings.rounds):
            database = folder / f"archive-{i}.mq"
            raw.append(raw_write(folder / f"raw-{i}", n))
            seconds, peak, said = ingest(database, file)
            whole.append(seconds)
            peaks.append(peak)
            if f"{n} inserted" not in said:
                raise SystemExit(f"not what was expected:\n{said}")
            lance.append(lance_write(folder / f"plain-{i}.lance", n))
        again, _, told = ingest(database, file)
        size = sum(p.stat().st_size for p in database.rglob("*") if p.is_file())
    if f"{n} unchanged" not in told:
        raise SystemExit(f"not what was expected:\n{told}")

    def line(what: str, seconds: list[float]) -> None:
        each = " ".join(f"{s:.1f}" for s in seconds)
        print(f"{what:<38}{median(seconds):>7.1f}  ({each})")

    print(f"{n:,} slides x {DIM} float32, {n * DIM * 4 / 1e9:.2f} GB, as {settings.format}")
    line("raw write and fsync, s", raw)
    line("Lance write and fsync, s", lance)
    line("ingest, s", whole)
    print(f"slides a second                       {n / median(whole):>7,.0f}")
    print(f"rate as a share of the raw write's    {median(raw) / median(whole):>7.0%}")
    print(f"rate as a share of Lance's            {median(lance) / median(whole):>7.0%}")
    print(f"peak memory of the process, MB        {max(peaks):>7,.0f}")
    print(f"the same file again, s                {again:>7.1f}")
    print(f"database, GB                          {size / 1e9:>7.2f}")


def batches(n: int) -> tuple[pa.Schema, object]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, DIM), dtype=np.float32)

    def one(start: int) -> pa.RecordBatch:
        rows = min(ROWS, n - start)
        vectors = centres[rng.integers(0, CLUSTERS, rows)]
        vectors += np.float32(0.5) * rng.standard_normal((rows, DIM), dtype=np.float32)
        at = range(start, start + rows)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        return pa.record_batch(
            {
                "slide_id": [f"SLIDE-{i:08d}" for i in at],
                "patient_id": [f"P-{i // 2:08d}" for i in at],
                "cohort": [f"COHORT-{i % 10}" for i in at],
                "vector": lists,
            }
        )

    return one(0).schema, (one(start) for start in range(0, n, ROWS))


def made_up(folder: Path, n: int, kind: str) -> Path:
    schema, parts = batches(n)
    file = folder / f"slides.{kind}"
    if kind == "npy":
        out = np.lib.format.open_memmap(file, "w+", np.float32, (n, DIM))
        with (folder / "slides.txt").open("w") as ids:
            start = 0
            for part in parts:
                out[start : start + len(part)] = part["vector"].values.to_numpy().reshape(-1, DIM)
                ids.writelines(f"{i}\n" for i in part["slide_id"].to_pylist())
                start += len(part)
        out.flush()
    elif kind == "parquet":
        with parquet.ParquetWriter(file, schema) as writer:
            for part in parts:
                writer.write_batch(part)
    else:
        with pa.ipc.new_file(file, schema) as writer:
            for part in parts:
                writer.write_batch(part)
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        while stream.read(1 << 24):
            pass
    return file


def raw_write(path: Path, n: int) -> float:
    block = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    start = time.perf_counter()
    with path.open("wb") as stream:
        for first in range(0, n, ROWS):
            stream.write(block[: min(ROWS, n - first)].data)
        stream.flush()
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - start
    return seconds


def lance_write(path: Path, n: int) -> float:
    import lance

    schema, parts = batches(min(n, ROWS))
    (block,) = parts
    again = (block.slice(0, n - first) for first in range(0, n, ROWS))
    start = time.perf_counter()
    lance.write_dataset(again, str(path), schema=schema)
    for file in path.rglob("*.lance"):
        sync(file)
    return time.perf_counter() - start


def ingest(database: Path, file: Path) -> tuple[float, float, str]:
    """Seconds, peak memory in MB, and what the command said, in a process of its own."""
    program = (
        "import resource, sys\n"
        "from molquery.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", program, "--db", str(database)]
    if not database.exists():
        subprocess.run([*command, "init"], check=True, capture_output=True)
    words = [*command, "ingest", "slides", str(file), "--encoder", "made-up"]
    start = time.perf_counter()
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    found = re.search(r"PEAK ([\d.]+)", done.stdout)
    assert found
    return seconds, float(found[1]), done.stdout


if __name__ == "__main__":
    main()
