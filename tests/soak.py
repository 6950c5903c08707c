"""Kill commands and look at what they left behind; let several processes work on one database.

    python tests/soak.py --kills 500 --minutes 5

A fault is one run of one command in a process of its own, killed (SIGKILL) after a random time, or
at a chosen moment: just before or after the n-th time that the command makes something durable
(a rename, an fsync, a Lance commit). Afterwards the database must open, every row must be there
exactly once, in its old or its new state, a search must give the old or the new answer, the same
command must then run to its end, and what the database holds must equal what an undisturbed run
left. Files that are in neither of the two must not be there. `tests/test_faults.py` runs a few
faults of each kind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from molquery import synth
from molquery.database import Database
from molquery.genesets import collections as gene_sets
from molquery.schema import PROFILES, SLIDES

SET = "HALLMARK_HYPOXIA"
#: Seconds that an undisturbed command may take before it counts as hanging.
PATIENCE = 120.0
_SPAWN = multiprocessing.get_context("forkserver")
_SPAWN.set_forkserver_preload(["numpy", "pyarrow", "scipy.linalg", "molquery.cli.main", "faiss"])


# Running commands --------------------------------------------------------------------------------


def _command(arguments: list[str], log: str, kill_at: tuple[int, str] | None) -> None:
    """In a process of its own: run a command, and die at a chosen moment."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    if kill_at is not None:
        _die(*kill_at)
    from molquery.cli.main import main

    sys.argv = ["molquery", *arguments]
    main()


def _die(nth: int, when: str) -> None:
    """Arrange for this process to be killed at the n-th durable step."""
    import lance

    seen = 0

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == nth and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **named)
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, name in (
        (os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rename"), (lance, "write_dataset"),
        (lance.LanceDataset, "merge"), (lance.LanceDataset, "add_columns"),
        (lance.LanceDataset, "drop_columns"),
        (sys.modules["lance.dataset"].MergeInsertBuilder, "execute"),
    ):  # fmt: skip
        setattr(owner, name, wrapped(getattr(owner, name)))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), and what it printed."""

    code: int
    said: str
    seconds: float


def run(
    arguments: list[str],
    scratch: Path,
    *,
    kill_after: float | None = None,
    kill_at: tuple[int, str] | None = None,
) -> Ended:
    """One command in a fresh process, killed if so asked."""
    log = scratch / f"{os.getpid()}.log"
    start = time.monotonic()
    process = _SPAWN.Process(target=_command, args=(arguments, str(log), kill_at))
    process.start()
    process.join(PATIENCE if kill_after is None else kill_after)
    hung = process.is_alive() and kill_after is None
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    said = log.read_text("utf-8", errors="replace") if log.exists() else ""
    if hung:
        raise AssertionError(f"{' '.join(arguments)} did not end in {PATIENCE:.0f} s\n{said}")
    return Ended(int(process.exitcode or 0), said, time.monotonic() - start)


# What a database holds ---------------------------------------------------------------------------


def rows_of(database: Database) -> dict[str, dict[str, str]]:
    """A digest of every row of the tables by key; rows must be there once."""
    held: dict[str, dict[str, str]] = {}
    for spec in (SLIDES, PROFILES):
        held[spec.name] = {}
        if not database.has(spec):
            continue
        columns = [c for c in database.dataset(spec).schema.names if not c.startswith("shared")]
        table = database.read(spec, columns)
        keys = table[spec.key].to_pylist()
        twice = [k for k, n in Counter(keys).items() if n > 1]
        assert not twice, f"{len(twice)} rows of {spec.name} are there twice: {twice[:3]}"
        for key, row in zip(keys, table.select(sorted(columns)).to_pylist(), strict=True):
            text = repr({k: v for k, v in row.items() if v is not None and "ingested" not in k})
            held[spec.name][key] = hashlib.sha256(text.encode()).hexdigest()
    return held


def answer_of(path: Path, scratch: Path) -> str:
    """What a search says: every score, or 'not aligned'."""
    ended = run(
        ["--db", str(path), "search", "--geneset", SET, "-k", "100000", "--format", "tsv"], scratch
    )
    if ended.code == 1 and "align" in ended.said:
        return "not aligned"
    assert ended.code == 0, f"search after a fault: {ended.said}"
    return "\n".join(line for line in ended.said.splitlines() if "\t" in line)


def files_of(path: Path) -> set[str]:
    """The files of a database but Lance's own, whose names are random, and its past versions."""
    names = (str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    # A space is named by its content, which differs by when it was made.
    return {re.sub(r"[0-9a-f]{12,}", "ID", n) for n in names
            if ".lance/" not in n and not n.startswith("versions/")}  # fmt: skip


def orphans_of(database: Database) -> int:
    """Data files of the tables that no version of them names."""
    count = 0
    for spec in (SLIDES, PROFILES):
        folder = database.path / f"{spec.name}.lance"
        if not database.has(spec):
            continue
        newest = database.dataset(spec)
        named: set[str] = set()
        for version in newest.versions():
            for fragment in newest.checkout_version(version["version"]).get_fragments():
                named |= {f.path for f in fragment.data_files()}
        there = {str(p.relative_to(folder / "data")) for p in (folder / "data").rglob("*.lance")}
        count += len(there - named)
    return count


# Scenes ------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A command on a database in a known state, and what an undisturbed run makes of it."""

    name: str
    start: Path
    arguments: Callable[[Path, Path], list[str]]
    seconds: float = 0.0
    old: dict[str, Any] = field(default_factory=dict)
    new: dict[str, Any] = field(default_factory=dict)

    def measure(self, scratch: Path) -> Path:
        """Run undisturbed once; returns the database afterwards."""
        self.old = look(self.start, scratch)
        after = copy(self.start, scratch / f"{self.name}.mq")
        out = scratch / f"{self.name}.out"
        ended = run(self.arguments(after, out), scratch)
        assert ended.code == 0, f"{self.name}: {ended.said}"
        self.seconds = ended.seconds
        self.new = look(after, scratch)
        self.new["files"] = files_of(after)
        self.new["output"] = output_of(out)
        return after


def look(path: Path, scratch: Path) -> dict[str, Any]:
    """Rows and answer of a database."""
    database = Database.open(path)
    return {"rows": rows_of(database), "answer": answer_of(path, scratch)}


def output_of(out: Path) -> list[str]:
    """The names of what a command wrote outside of the database."""
    if not out.parent.exists():
        return []
    return sorted(
        re.sub(r"[0-9a-f]{12,}", "ID", str(p.relative_to(out.parent)))
        for p in out.parent.rglob(f"*{out.name}*")
    )


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def scenes(scratch: Path) -> list[Scene]:
    """Every command that writes, each on the state in which a user would run it."""
    sets = {SET: gene_sets.find(SET).genes[:25]}
    toy = synth.make(synth.Toy(patients=90, pathways=1, visible=1, noise=0.2, seed=3), sets)
    whole = synth.write_files(toy, _made(scratch / "files"))
    half = scratch / "files" / "half.parquet"
    slides = parquet.read_table(whole.slides)
    changed = slides.slice(0, len(slides) // 2)
    parquet.write_table(changed, half)

    def on(*words: object) -> Callable[[Path, Path], list[str]]:
        return lambda db, out: [
            "--db", str(db), *(str(out) if w == "OUT" else str(w) for w in words)
        ]  # fmt: skip

    ingest_slides = on("ingest", "slides", whole.slides, "--encoder", "toy")
    order: list[tuple[str, Callable[[Path, Path], list[str]]]] = [
        ("ingest half", on("ingest", "slides", half, "--encoder", "toy")),
        ("ingest profiles", on("ingest", "profiles", whole.profiles, "--scale", "log2",
                               "--genes-in", "columns")),
        ("align half", on("align", "--method", "cca")),
        ("ingest all", ingest_slides),
        ("ingest metadata", on("ingest", "metadata", whole.metadata, "--on", "patient_id")),
        ("align again", on("align", "--method", "cca", "--seed", "1")),
        ("index", on("index", "build")),
        ("stratify", on("stratify", "--geneset", SET, "--output", "OUT", "--overwrite",
                        "--format", "csv")),
        ("export", on("export", "OUT", "--overwrite")),
    ]  # fmt: skip
    state = scratch / "start.mq"
    assert run(["--db", str(state), "init"], scratch).code == 0
    out: list[Scene] = []
    for name, arguments in order:
        scene = Scene(name, state, arguments)
        state = scene.measure(scratch)
        out.append(scene)
    return out


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


# Faults ------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What happened over many faults."""

    faults: int = 0
    killed: int = 0
    new_state: int = 0
    reruns: int = 0
    orphans: int = 0


def fault(scene: Scene, scratch: Path, chance: random.Random, tally: Tally) -> None:
    """One kill of one command, and every check of what it left behind."""
    database = copy(scene.start, scratch / "fault.mq")
    out = _made(scratch / "fault.out") / "result"
    shutil.rmtree(out.parent)
    _made(out.parent)
    if chance.random() < 0.5:
        at = (chance.randint(1, 24), chance.choice(["before", "after"]))
        told = f"{scene.name}, killed {at[1]} durable step {at[0]}"
        ended = run(scene.arguments(database, out), scratch, kill_at=at)
    else:
        after = chance.uniform(0.0, scene.seconds)
        told = f"{scene.name}, killed after {after:.3f} s"
        ended = run(scene.arguments(database, out), scratch, kill_after=after)
    tally.faults += 1
    tally.killed += ended.code == -signal.SIGKILL
    try:
        _check(scene, database, out, scratch, ended, tally)
    except Exception as error:
        raise AssertionError(f"{told}: {error}\n{ended.said[-2000:]}") from error


def _check(scene: Scene, path: Path, out: Path, scratch: Path, ended: Ended, tally: Tally) -> None:
    assert ended.code in (0, -signal.SIGKILL), f"exit code {ended.code}"
    database = Database.open(path)
    rows = rows_of(database)
    for table, held in rows.items():
        before, after = scene.old["rows"][table], scene.new["rows"][table]
        lost = set(before) - set(held)
        assert not lost, f"{len(lost)} rows of {table} are lost"
        for key, digest in held.items():
            known = {before.get(key), after.get(key)}
            assert digest in known, f"{table} {key} is in neither its old nor its new state"
    if ended.code == 0:
        assert rows == scene.new["rows"], "the command said that it was done, and it was not"
    answer = answer_of(path, scratch)
    # Between a change of the tables and the next align a search may answer from all rows.
    if rows == scene.old["rows"] == scene.new["rows"]:
        assert answer in (scene.old["answer"], scene.new["answer"]), "an answer of neither state"
    tally.new_state += rows == scene.new["rows"]
    again = run(scene.arguments(path, out), scratch)
    tally.reruns += 1
    assert again.code == 0, f"the same command afterwards: {again.said[-2000:]}"
    left = look(path, scratch)
    assert left["rows"] == scene.new["rows"], "rows differ from those of an undisturbed run"
    assert left["answer"] == scene.new["answer"], "scores differ from those of an undisturbed run"
    extra = files_of(path) - scene.new["files"] - {"indexes/predictions.safetensors"}
    extra -= {f"indexes/{t}.arrow" for t in ("slides", "profiles")}
    assert not extra, f"files are left over: {sorted(extra)}"
    tally.orphans += orphans_of(Database.open(path))


def kills(count: int, seed: int, scratch: Path) -> Tally:
    """`count` faults over all scenes, in a seeded order."""
    chance = random.Random(seed)
    all_scenes = scenes(scratch)
    tally = Tally()
    start = time.monotonic()
    for n in range(count):
        fault(all_scenes[n % len(all_scenes)], scratch, chance, tally)
        if (n + 1) % 25 == 0:
            print(f"{n + 1} of {count} faults, {time.monotonic() - start:.0f} s", flush=True)
    return tally


# Several at once ---------------------------------------------------------------------------------


def _writer(path: str, number: int, until: float, report: str) -> None:
    with _told(report):
        chance = random.Random(number)
        scratch = Path(report).parent
        ids: list[str] = []
        done = conflicts = 0
        while time.time() < until:
            new = [f"w{number}-{done:04d}-{i}" for i in range(chance.randint(1, 20))]
            shared = [f"shared-{i}" for i in range(5)]
            table = pa.table({
                "slide_id": new + shared,
                "vector": list(np.random.default_rng(done).normal(size=(len(new) + 5, 32))
                               .astype(np.float32)),
            })  # fmt: skip
            file = scratch / f"w{number}.parquet"
            parquet.write_table(table, file)
            ended = run(["--db", path, "ingest", "slides", str(file), "--encoder", "toy"], scratch)
            if ended.code == 0:
                ids += new
                done += 1
            else:
                assert "another" in ended.said or "Conflict" in ended.said, ended.said
                conflicts += 1
            if chance.random() < 0.1:
                kind = chance.choice([["align", "--method", "cca"], ["index", "build"]])
                ended = run(["--db", path, *kind], scratch)
                if ended.code:
                    assert "Traceback" not in ended.said, ended.said
                    conflicts += 1
        Path(report).write_text(json.dumps({"ids": ids, "runs": done, "conflicts": conflicts}))


def _reader(path: str, number: int, until: float, report: str) -> None:
    with _told(report):
        scratch = Path(report).parent
        done = conflicts = 0
        while time.time() < until:
            ended = run(
                ["--db", path, "search", "--geneset", SET, "-k", "100000", "--format", "json"],
                scratch,
            )
            if ended.code == 0:
                text = ended.said[ended.said.index("{") : ended.said.rindex("}") + 1]
                found = json.loads(text)
                names = [hit["slide_id"] for hit in found["hits"]]
                assert len(names) == len(set(names)) == found["n_ranked"], "a torn read"
                done += 1
            else:
                assert "Traceback" not in ended.said, ended.said
                conflicts += 1
        Path(report).write_text(json.dumps({"runs": done, "conflicts": conflicts}))


@contextlib.contextmanager
def _told(report: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        Path(report + ".error").write_text(traceback.format_exc())
        raise


def crowd(
    seconds: float, scratch: Path, among: list[Scene], *, writers: int = 4, readers: int = 4
) -> dict[str, int]:
    """Writers and readers on one database at once; counts of what they did."""
    _made(scratch)
    start = next(s for s in among if s.name == "index")
    path = copy(start.start, scratch / "crowd.mq")
    before = set(rows_of(Database.open(path))["slides"])
    until = time.time() + seconds
    jobs = []
    for n in range(writers + readers):
        target = _writer if n < writers else _reader
        report = str(_made(scratch / f"crowd{n}") / "report.json")
        job = multiprocessing.get_context("spawn").Process(
            target=target, args=(str(path), n, until, report)
        )
        job.start()
        jobs.append((job, report, n < writers))
    told = {"writes": 0, "reads": 0, "conflicts": 0, "rows": 0}
    promised: set[str] = set()
    for job, report, writes in jobs:
        job.join(seconds + 4 * PATIENCE)
        error = Path(report + ".error")
        assert not error.exists(), error.read_text()
        assert job.exitcode == 0, f"exit code {job.exitcode}"
        found = json.loads(Path(report).read_text())
        told["writes" if writes else "reads"] += found["runs"]
        told["conflicts"] += found["conflicts"]
        promised |= set(found.get("ids", ()))
    held = set(rows_of(Database.open(path))["slides"])  # each of them once
    shared = {f"shared-{i}" for i in range(5)} if promised else set()
    assert held == before | promised | shared, "rows are lost, or nobody wrote them"
    told["rows"] = len(held)
    answer_of(path, scratch)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "cache")
        if given.kills:
            tally = kills(given.kills, given.seed, _made(Path(name) / "kills"))
            print(f"kills: {tally.faults} faults, {tally.killed} of them killed the command, "
                  f"{tally.new_state} after its rows were in; {tally.reruns} reruns, each ended "
                  f"as if undisturbed; 0 rows lost or doubled; {tally.orphans} files of Lance that "
                  "no version names")  # fmt: skip
        if given.minutes:
            among = scenes(_made(Path(name) / "before"))
            told = crowd(60 * given.minutes, Path(name) / "crowd", among)
            print(f"crowd: {told}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
