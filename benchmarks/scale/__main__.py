"""Measure, keep, report: the command behind `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.scale import machine, plan, report
from benchmarks.scale.measure import Result, Task
from benchmarks.scale.results import Results, key_of

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Measure the parts that are asked for and not there yet, then write the report."""
    options = parse(arguments)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    results = Results.read(work / "measured.json")
    results.machine = machine.describe()
    for part in options.again:
        results.forget(
            key
            for key in list(results.rounds)
            if key.startswith(f"{part} / ")
            and int(key.split(" / ")[1].rsplit("-", 1)[1]) in options.rows
        )
    for rows in sorted(options.rows):
        results.left_out[str(rows)] = plan.left_out(rows, options.slow)
        for name, why in results.left_out[str(rows)].items():
            say(f"left out: {name}: {why}")
        at = {"work": str(work), "kind": "clustered", "rows": rows, "seconds": options.seconds}
        tasks = {part: plan.PARTS[part](at, options.slow) for part in options.parts}
        if options.only:
            tasks = {
                p: [t for t in ts if t.get("method") in options.only] for p, ts in tasks.items()
            }
        failed = run(tasks, results, options.rounds)
        for key, why in failed.items():
            say(f"failed: {key}: {why}")
    report.write(results, options.report, options.indexes)
    print(report.text(results))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {' '.join(plan.PARTS)}; all by default")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3, help="of all methods of a part in turn")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each method and setting")
    parser.add_argument("--slow", action="store_true", help="HNSW graphs at a million rows too")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="leave out all other methods")
    parser.add_argument("--again", nargs="*", default=[], help="parts to measure anew")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--indexes", type=Path, default=ROOT / "indexes" / "README.md",
                        help="the page whose measured part is written anew")  # fmt: skip
    options = parser.parse_args(arguments)
    unknown = sorted({*options.parts, *options.again} - set(plan.PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(plan.PARTS)}")
    options.parts = options.parts or list(plan.PARTS)
    return options


def run(tasks: dict[str, list[Task]], results: Results, rounds: int) -> dict[str, str]:
    """Run what is missing; what failed, and why.

    All methods of a part take their turn before any has a second one, so that what else the machine
    does falls on all alike.
    """
    steps: list[tuple[str, Task]] = []
    begun_already: set[str] = set()
    for part, mine in tasks.items():
        for task in [*plan.archives(mine), *plan.builds(mine)]:
            if str(plan.place_of(task)) not in begun_already:
                begun_already.add(str(plan.place_of(task)))
                steps.append((key_of("build", task), task))
        for turn in range(1 if part in plan.ONCE else rounds):
            for task in mine:
                key = key_of(part, task)
                if len(results.rounds.get(key, [])) <= turn:
                    steps.append((key, task))
    failed: dict[str, str] = {}
    begun = time.monotonic()
    for done, (key, task) in enumerate(steps):
        if key in failed:
            continue
        spent = time.monotonic() - begun
        left = spent / done * (len(steps) - done) if done else 0.0
        say(f"[{done + 1}/{len(steps)}, {spent:.0f} s, about {left:.0f} s left] {key}", end="")
        try:
            found = in_own_process(task)
        except RuntimeError as error:
            failed[key] = str(error)
            continue
        if task["measure"] in ("make", "build"):
            results.forget([key])
        results.add(key, found)
    if steps:
        say("", end="\n")
    return failed


def in_own_process(task: Task) -> Result:
    """The result of a task, measured in a process of its own.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    environment = {**os.environ, "LANCE_LOG": "error", "RUST_LOG": "error"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # commands start as installed ones do
    command = [sys.executable, "-m", "benchmarks.scale.measure", json.dumps(task)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"exit {done.returncode}: {last[:300]}")
    found: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def say(text: str, end: str = "\n") -> None:
    """A line on stderr; on a terminal progress overwrites itself."""
    if end == "" and sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
