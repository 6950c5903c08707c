"""How fast slides are read: 10,000 TRIDENT slide files, and patch files beside plain h5py.

    python benchmarks/readers.py FOLDER [--slides 10000] [--patch-files 1000] [--distinct 50]

Files are made in FOLDER and removed. `--distinct` patch files of 5,000 x 1,024 float32 (20 MB) are
written and the rest are hard links to them, because 1,000 need 20 GB: reads then come from the page
cache, which is the harder case for the ratio to h5py, since no disk hides the work of pooling. Two
layouts: contiguous (h5py's default), and TRIDENT's own, one row a chunk.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from molquery.database import Database
from molquery.ingest import ingest_slides
from molquery.readers import Options

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


def raw(folder: Path) -> float:
    start = time.perf_counter()
    for path in sorted(folder.iterdir()):
        with h5py.File(path) as file:
            file["features"][()]
    return time.perf_counter() - start


def ingest(root: Path, path: Path) -> float:
    start = time.perf_counter()
    report = ingest_slides(Database.create(root / "db"), [path], options=Options())
    seconds = time.perf_counter() - start
    print(f"  {report.inserted} inserted of {report.sources} files", file=sys.stderr)
    shutil.rmtree(root / "db")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--patch-files", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        root = Path(made)
        seconds = ingest(root, slide_files(root / "job", args.slides))
        print(f"{args.slides} TRIDENT slide files\t{seconds:.1f} s", flush=True)
        for name, chunks in (("contiguous", None), ("a row a chunk", (1, D))):
            folder = patch_files(root / name, args.patch_files, args.distinct, chunks)
            ours, plain = ingest(root, folder), raw(folder)
            gigabytes = args.patch_files * N * D * 4 / 1e9
            print(
                f"{args.patch_files} patch files, {name}\t"
                f"{ours:.1f} s, {gigabytes / ours:.2f} GB/s\t"
                f"h5py alone {plain:.1f} s, {gigabytes / plain:.2f} GB/s\t"
                f"ratio {plain / ours:.2f}",
                flush=True,
            )
            shutil.rmtree(root / name)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"peak memory\t{peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
