"""How fast slides are read: 10,000 TRIDENT slide files, and patch files beside plain h5py.

    python benchmarks/readers.py FOLDER [--slides 10000] [--patch-files 1000] [--distinct 50]

Targets: the slide files in under 60 s on 2 cores; the patch files (5,000 x 1,024 float32, 20 MB
each) in under 1 GB of memory, at more than half of the speed at which h5py alone reads them.

Files are made in FOLDER and removed. `--distinct` patch files are written and the rest are hard
links to them, because 1,000 need 20 GB: reads then come from the page cache, which is the harder
case for the ratio to h5py, since no disk hides the work of pooling. h5py alone reads half of them
before the ingest and half after it, so that a machine that others use slows both. Two layouts:
contiguous (h5py's default), and TRIDENT's own, one row a chunk. Memory is the sum of the peaks of
the command and of the process that reads its HDF5 files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

CHILD = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from molquery.database import Database
from molquery.ingest import ingest_slides
from molquery.readers import Options, apart
report = ingest_slides(Database.create(sys.argv[2]), [Path(sys.argv[1])], options=Options())
seconds = time.perf_counter() - start
apart._CHILD.stop()
peaks = [resource.getrusage(who).ru_maxrss / 1e6
         for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"inserted": report.inserted, "seconds": seconds, "gb": sum(peaks)}))
"""

N, D = 5000, 1024


def slide_files(root: Path, n: int) -> Path:
    folder = root / "20x_512px_0px_overlap" / "slide_features_titan"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        with h5py.File(folder / f"TCGA-{i // 1000:02}-{i % 1000:04}-01Z-00-DX1.h5", "w") as file:
            file["features"] = rng.standard_normal(768, dtype=np.float32)
            file["coords"] = np.zeros((64, 2), np.int64)
    return root


def patch_files(root: Path, n: int, distinct: int, chunks: tuple[int, int] | None) -> Path:
    folder = root / "features_uni_v1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / f"slide-{i:04}.h5"
        if i >= distinct:
            os.link(folder / f"slide-{i % distinct:04}.h5", path)
            continue
        with h5py.File(path, "w") as file:
            values = rng.standard_normal((N, D), dtype=np.float32)
            data = file.create_dataset("features", data=values, chunks=chunks)
            data.attrs["encoder"] = "uni_v1"
            file["coords"] = np.zeros((N, 2), np.int64)
    return folder


def raw(paths: list[Path]) -> float:
    """Seconds in which h5py alone reads the files."""
    start = time.perf_counter()
    for path in paths:
        with h5py.File(path) as file:
            file["features"][()]
    return time.perf_counter() - start


def ingest(root: Path, path: Path) -> dict[str, float]:
    """What one ingest of `path` took, imports and start included."""
    words = [sys.executable, "-c", CHILD, str(path), str(root / "db")]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(root / "db")
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--patch-files", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        root = Path(made)
        if args.slides:
            found = ingest(root, slide_files(root / "job", args.slides))
            assert found["inserted"] == args.slides
            told = f"{found['seconds']:.1f} s\t{found['gb']:.2f} GB of memory"
            print(f"{args.slides} TRIDENT slide files\t{told}", flush=True)
        for name, chunks in (("contiguous", None), ("a row a chunk", (1, D))):
            folder = patch_files(root / name, args.patch_files, args.distinct, chunks)
            paths = sorted(folder.iterdir())
            half = len(paths) // 2
            plain = raw(paths[:half])
            found = ingest(root, folder)
            plain += raw(paths[half:])
            assert found["inserted"] == args.patch_files
            gigabytes = args.patch_files * N * D * 4 / 1e9
            print(
                f"{args.patch_files} patch files, {name}\t"
                f"{found['seconds']:.1f} s, {gigabytes / found['seconds']:.2f} GB/s\t"
                f"h5py alone {plain:.1f} s, {gigabytes / plain:.2f} GB/s\t"
                f"ratio {plain / found['seconds']:.2f}\t{found['gb']:.2f} GB of memory",
                flush=True,
            )
            shutil.rmtree(root / name)


if __name__ == "__main__":
    main()
