"""Every command on an archive of millions of made-up slides: seconds and peak memory.

    python -m benchmarks.large_archive [SLIDES] [--dim 64] [--in FOLDER]

Memory is told without and with what is mapped from files, which can be given back. Slides of 30
cohorts, 2,000 of them with RNA. The commands run one after the other, those that ask run twice: the
first time they read what has left the memory. Of `search --index` it is told how many of its ten
slides are among the ten that `search` ranks highest. Ten million slides of 64 values take a quarter
of an hour and 30 GB of disk, most of it for the prediction weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.scale.archive import COHORTS, Matrix
from benchmarks.scale.whole import PROFILES, molquery, write_profiles, write_slides

BLOCK = 50_000
ASKED = ("INTERFERON_GAMMA_RESPONSE", "HYPOXIA", "G2M_CHECKPOINT", "ANGIOGENESIS")


def main() -> None:
    """Make the files, run the commands, tell what they took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("slides", nargs="?", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--in", dest="folder", type=Path)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=settings.folder) as scratch:
        folder = Path(scratch)
        write_slides(folder / "slides.parquet", made_up(settings.slides, settings.dim))
        first, _ = next(made_up(settings.slides, settings.dim))
        write_profiles(folder / "profiles.parquet", first[:PROFILES])
        database = folder / "archive.mq"
        print(f"{settings.slides:,} slides x {settings.dim}, {PROFILES:,} with RNA")

        def run(*command: str) -> str:
            begun = time.perf_counter()
            used = molquery(database, *command)
            seconds = time.perf_counter() - begun
            said = " ".join(Path(word).name for word in command)
            print(
                f"{said:<72}{seconds:>8.2f} s{used.anonymous:>9,.0f} MB{used.peak:>9,.0f} MB",
                flush=True,
            )
            return used.output

        run("init")
        run("ingest", "slides", str(folder / "slides.parquet"), "--encoder", "made-up")
        run("ingest", "profiles", str(folder / "profiles.parquet"), "--scale", "log2")
        run("align", "--method", "cca")
        for _ in range(2):
            run("info")
            run("retrieve", "S00000005", "--to", "slides")
            run("search", "--geneset", f"HALLMARK_{ASKED[0]}", "-k", "10", "--index")
            run("search", "--geneset", f"HALLMARK_{ASKED[0]}", "-k", "10")
        for name in ASKED:
            ask = ("search", "--geneset", f"HALLMARK_{name}", "-k", "10", "--null", "0")
            best, found = (ids_of(run(*ask, *more)) for more in ((), ("--index",)))
            print(f"  of the ten highest {len(best & found)} are found with --index")


def made_up(n: int, dim: int) -> Iterator[tuple[Matrix, npt.NDArray[np.int64]]]:
    """Unit vectors about the means of cohorts, and their cohorts, some slides at a time."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((COHORTS, dim), dtype=np.float32)
    for first in range(0, n, BLOCK):
        cohorts = rng.integers(0, COHORTS, min(BLOCK, n - first))
        x = centres[cohorts] + rng.standard_normal((len(cohorts), dim), dtype=np.float32)
        yield x / np.linalg.norm(x, axis=1, keepdims=True), cohorts


def ids_of(output: str) -> set[str]:
    """The slides of a ranking, written as TSV."""
    header, *lines = (line.split("\t") for line in output.splitlines())
    return {line[header.index("slide_id")] for line in lines}


if __name__ == "__main__":
    main()
