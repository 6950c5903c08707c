"""The whole pipeline on a real paired TCGA cohort, measured beside its targets.

    python benchmarks/tcga_hif.py DIRECTORY

Every step runs as a user would run it: one `molquery` process per command.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MOLQUERY = [str(Path(sys.executable).with_name("molquery"))]
GENESET = "HALLMARK_INTERFERON_GAMMA_RESPONSE"


def main() -> int:
    cohort = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    needed = ["slides.parquet", "rna.parquet", "clinical.parquet"]
    missing = [name for name in needed if not (cohort / name).is_file()]
    if missing:
        print(f"skipped: {cohort} has no {', '.join(missing)} (see benchmarks/README.md)")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(cohort, Path(scratch) / "tcga.mq")
    width = max(len(row[0]) for row in measured)
    print(f"\n{'what'.ljust(width)}  {'target':>10}  {'measured':>10}")
    for what, target, value in measured:
        print(f"{what.ljust(width)}  {target:>10}  {value:>10}")
    return 0


def run(*arguments: str, database: Path) -> str:
    """One command of the user, with its progress on stderr left out."""
    environment = {**os.environ, "MOLQUERY_DB": str(database)}
    done = subprocess.run(
        [*MOLQUERY, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"molquery {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def wall(repeats: int, *arguments: str, database: Path) -> float:
    """The median wall time in seconds of a command, after one run to warm the disk cache."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run(*arguments, database=database)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(cohort: Path, database: Path) -> list[tuple[str, str, str]]:
    steps = [
        ["init"],
        ["ingest", "slides", str(cohort / "slides.parquet"), "--id", "slide_id",
         "--vector", "features", "--encoder", "pathai-hif"],
        ["ingest", "profiles", str(cohort / "rna.parquet"), "--id", "patient_id",
         "--scale", "log2"],
        ["ingest", "metadata", str(cohort / "clinical.parquet"), "--on", "patient_id"],
        ["align"],
        ["index", "build"],
    ]  # fmt: skip
    whole = 0.0
    for step in steps:
        start = time.perf_counter()
        run(*step, database=database)
        seconds = time.perf_counter() - start
        whole += seconds
        print(f"{' '.join(step[:2]):<24} {seconds:6.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    start = time.perf_counter()
    found = json.loads(run("evaluate", "--format", "json", database=database))
    evaluated = time.perf_counter() - start
    pooled, within = (found["retrieval"][f"patient.slide_to_profile{scope}"]
                      for scope in ("", ".within_cohort"))  # fmt: skip
    folds = [r["figures"]["molquery"]["fold10"]["value"] for r in (pooled, within)]
    medians = {name: e["value"] for name, e in found["medians"]["molquery"].items()}
    search = wall(5, "search", "--geneset", GENESET, "--format", "json", database=database)
    start = wall(5, "--help", database=database)
    first, again, other = in_python(database)
    return [
        ("ingest + align + index, wall s", "< 120", f"{whole:.0f}"),
        ("peak memory of any process, GB", "< 2", f"{peak:.2f}"),
        (f"slide-to-RNA fold@10 (gallery {pooled['gallery']})", ">= 18", f"{folds[0]:.1f}"),
        (f"  within cohort (gallery {within['gallery']})", "", f"{folds[1]:.1f}"),
        (f"Hallmark median R², patients held out ({len(found['spectrum'])} sets)", ">= 0.33",
         f"{medians['r2']:.3f}"),
        ("  median within-cohort r", ">= 0.41", f"{medians['within_r']:.3f}"),
        ("  median R², sites held out", ">= 0.32", f"{medians['site_r2']:.3f}"),
        ("  median within-cohort r, sites held out", "", f"{medians['site_within_r']:.3f}"),
        ("evaluate, everything, s", "< 600", f"{evaluated:.0f}"),
        ("search --geneset from the shell, s", "< 0.8", f"{search:.2f}"),
        ("  modules of torch imported by it", "0", torch_modules(database)),
        ("search on an open database, first, ms", "", f"{first:.0f}"),
        ("  the same signature again, ms", "< 20", f"{again:.1f}"),
        ("  a signature not asked before, ms", "", f"{other:.0f}"),
        ("--help from the shell, s", "< 0.2", f"{start:.2f}"),
    ]  # fmt: skip


def in_python(database: Path) -> tuple[float, float, float]:
    """Milliseconds of a search in one process: the first, the median repeat, a new signature."""
    code = f"""
import statistics, time, molquery
db = molquery.open({str(database)!r})
def ms(name):
    start = time.perf_counter(); db.search(name, k=10); return (time.perf_counter() - start) * 1e3
first = ms({GENESET!r})
again = statistics.median(ms({GENESET!r}) for _ in range(20))
names = ['HALLMARK_HYPOXIA', 'HALLMARK_E2F_TARGETS', 'HALLMARK_ANGIOGENESIS']
print(first, again, statistics.median(map(ms, names)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, again, other = map(float, done.stdout.split())
    return first, again, other


def torch_modules(database: Path) -> str:
    """How many modules of torch a search from the shell imports."""
    code = (
        "import sys; from molquery.cli.main import main\n"
        f"sys.argv = ['molquery', '--db', {str(database)!r}, 'search', '--geneset', {GENESET!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sum(m.split('.')[0] == 'torch' for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


if __name__ == "__main__":
    sys.exit(main())
