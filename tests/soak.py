"""Kill commands and look at what they left behind; let several processes work on one database.

    python tests/soak.py --kills 500 --interrupts 100 --disks 100 --minutes 5

A fault is one run of one command in a process of its own, which

    kill       is killed (SIGKILL) after a random time, or at a chosen moment: just before or after
               the n-th time that it makes something durable (a rename, an fsync, a Lance commit)
    interrupt  gets a Ctrl-C (SIGINT) after a random time
    disk       has a small file system of its own (tmpfs) with too little room left

Afterwards the database must be in the state before the command or in the one after it, every row
exactly once, with the answer to a search that belongs to it; doctor must find no error; the same
command must then run to its end, and the database must hold what an undisturbed run leaves. Files
that are in neither of the two must not be there. `tests/test_trust.py` runs a few faults of each.

In the crowd, writers ingest, align, index and compact one database while readers search it. A read
must see each ingest wholly or not at all, and at the end every row that a writer was told of must
be there once. A command may fail only with a message that says who was in its way (`CONFLICTS`).
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
import subprocess
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
# It is imported before the fork, and used only after it.
os.environ.setdefault("PYTHONWARNINGS", "ignore:lance is not fork-safe")

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from molquery import doctor, synth
from molquery.database import Database
from molquery.genesets import collections as gene_sets
from molquery.schema import LOCK, PROFILES, SLIDES

SET = "HALLMARK_HYPOXIA"
#: Seconds that an undisturbed command may take before it counts as hanging.
PATIENCE = 180.0
#: What a command may say that gave way to another one.
CONFLICTS = (
    "another process has been writing to",
    "was removed while it was being read",
    "has changed while",
)
#: How doctor says that a disk is full.
_LITTLE_ROOM = "are free; a command may need"
_SPAWN = multiprocessing.get_context("forkserver")
#: Commands start warm: from a process that has imported these, and has never run any of it.
_SPAWN.set_forkserver_preload([
    "__main__", "numpy", "pyarrow", "scipy.linalg", "faiss", "lance", "anndata",
    "molquery.cli.main", "molquery.align.train", "molquery.ingest", "molquery.doctor",
    "molquery.export.archive",
    "molquery.query.search", "molquery.query.strata", "molquery.query.indexes",
])  # fmt: skip


# Running commands --------------------------------------------------------------------------------


def _command(
    arguments: list[str], log: str, kill_at: tuple[int, str] | None, cache: str | None = None
) -> None:
    """In a process of its own: run a command, and die at a chosen moment."""
    if cache is not None:  # the process was forked from one that may know of another
        os.environ["XDG_CACHE_HOME"] = cache
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    # A shell's background jobs, and what they start, begin with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
    interrupt_after: float | None = None,
) -> Ended:
    """One command in a fresh process, killed or interrupted if so asked."""
    log = scratch / f"{os.getpid()}.log"
    log.unlink(missing_ok=True)
    start = time.monotonic()
    process = _SPAWN.Process(
        target=_command, args=(arguments, str(log), kill_at, os.environ.get("XDG_CACHE_HOME"))
    )
    process.start()
    if interrupt_after is not None:
        # Python's own start, and its end, are not ours to catch.
        while not log.exists() and process.is_alive():
            time.sleep(0.002)
        process.join(interrupt_after)
        _send(process, signal.SIGINT)
    process.join(PATIENCE if kill_after is None else kill_after)
    hung = process.is_alive() and kill_after is None
    _send(process, signal.SIGKILL)
    process.join()
    said = log.read_text("utf-8", errors="replace") if log.exists() else ""
    if hung:
        raise AssertionError(f"{' '.join(arguments)} did not end in {PATIENCE:.0f} s\n{said}")
    return Ended(int(process.exitcode or 0), said, time.monotonic() - start)


def _send(process: Any, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        if process.is_alive():
            os.kill(process.pid, what)


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
    words = ["search", "--geneset", SET, "--null", "0", "-k", "100000", "--format", "tsv"]
    ended = run(["--db", str(path), *words], scratch)
    if ended.code == 1 and ("align" in ended.said or "holds no" in ended.said):
        return "not aligned"
    assert ended.code == 0, f"search after a fault: {ended.said}"
    return "\n".join(line for line in ended.said.splitlines() if "\t" in line)


def files_of(path: Path) -> set[str]:
    """The files of a database but Lance's own, whose names are random, and its past versions.

    The empty file of the lock, which the first writer makes, says nothing of the database.
    """
    names = (str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    # A space is named by its content, which differs by when it was made.
    return {re.sub(r"[0-9a-f]{12,}", "ID", n) for n in names
            if ".lance/" not in n and not n.startswith("versions/") and n != LOCK}  # fmt: skip


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
    """A command on a database in a known state, and what an undisturbed run makes of it.

    `done` is what the command says, as an error, when it has been run already; `then` is the write
    that follows in that case, as it says or as a user would.
    """

    name: str
    start: Path
    arguments: Callable[[Path, Path], list[str]]
    done: str | None = None
    then: tuple[str, ...] = ()
    seconds: float = 0.0
    bytes: int = 0
    old: dict[str, Any] = field(default_factory=dict)
    new: dict[str, Any] = field(default_factory=dict)

    def measure(self, scratch: Path) -> Path:
        """Run undisturbed once; returns the database afterwards."""
        self.old = look(self.start, scratch)
        after = copy(self.start, scratch / f"{self.name}.mq")
        out = _made(scratch / f"{self.name}.out") / "result"
        ended = run(self.arguments(after, out), scratch)
        assert ended.code == 0, f"{self.name}: {ended.said}"
        self.seconds = ended.seconds
        self.bytes = max(size_of(after) + size_of(out) - size_of(self.start), 1 << 16)
        self.old["files"] = files_of(self.start)
        self.new = look(after, scratch)
        self.new["files"] = files_of(after)
        self.new["output"] = output_of(out)
        return after


def look(path: Path, scratch: Path) -> dict[str, Any]:
    """Rows and answer of a database."""
    database = Database.open(path)
    return {"rows": rows_of(database), "answer": answer_of(path, scratch)}


def output_of(out: Path) -> list[str]:
    """The names of what a command wrote outside of the database, temporary files included."""
    random_name = re.compile(r"[0-9a-f]{12,}")
    made = (str(p.relative_to(out.parent)) for p in out.parent.rglob("*"))
    return sorted({random_name.sub("ID", name) for name in made})


def size_of(path: Path) -> int:
    """Bytes of the files under a path."""
    return sum(p.stat().st_size for p in (path, *path.rglob("*")) if p.is_file())


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def scenes(scratch: Path) -> list[Scene]:
    """Every command that writes, each on the state in which a user would run it.

    Slides are projected into the space by `ingest all`, and by `repair`, which has none before.
    """
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
    gmt = scratch / "files" / "mine.gmt"
    gmt.write_text("MINE\tna\t" + "\t".join(sets[SET][:8]) + "\n")
    first = slides["slide_id"].to_pylist()[:3]
    some = f"slide_id IN ('{first[0]}', '{first[1]}')"
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
        ("gene sets", on("genesets", "add", gmt, "--name", "mine", "--overwrite")),
        ("snapshot", on("snapshot", "OUT")),
        ("delete", on("delete", "slides", "--where", some, "--yes")),
        ("restore", on("restore", "--version", "4")),
        ("purge", on("delete", "slides", "--where", f"slide_id = '{first[2]}'", "--yes",
                     "--purge")),
        ("compact", on("compact", "--keep", "1", "--yes")),
        ("repair", on("doctor", "--repair")),
    ]  # fmt: skip
    done: dict[str, tuple[str, tuple[str, ...]]] = {
        "snapshot": ("exists and is not empty", ()),
        "delete": ("satisfy the filter", ("index", "build")),
        "purge": ("molquery compact --purge ends", ("compact", "--purge", "--yes")),
        "repair": (_LITTLE_ROOM, ()),  # which is so on the small disk, before and after
    }
    state = scratch / "start.mq"
    assert run(["--db", str(state), "init"], scratch).code == 0
    out: list[Scene] = []
    for name, arguments in order:
        if name == "repair":
            state = copy(scratch / "restore.mq", scratch / "unprojected.mq")
            Database.open(state).drop_shared(keep="")
        scene = Scene(name, state, arguments, *done.get(name, ()))
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
    hit: int = 0
    new_state: int = 0
    reruns: int = 0
    per_scene: Counter[str] = field(default_factory=Counter)


def fault(scene: Scene, scratch: Path, chance: random.Random, tally: Tally, how: str) -> None:
    """One fault of one command, and every check of what it left behind."""
    database = copy(scene.start, scratch / "fault.mq")
    folder = scratch / "fault.out"
    shutil.rmtree(folder, ignore_errors=True)
    out = _made(folder) / "result"
    words = scene.arguments(database, out)
    if how == "kill" and chance.random() < 0.5:
        at = (chance.randint(1, 24), chance.choice(["before", "after"]))
        told = f"killed {at[1]} durable step {at[0]}"
        ended = run(words, scratch, kill_at=at)
    elif how == "kill":
        after = chance.uniform(0.0, scene.seconds)
        told = f"killed after {after:.3f} s"
        ended = run(words, scratch, kill_after=after)
    elif how == "interrupt":
        after = chance.uniform(0.05, scene.seconds)
        told = f"Ctrl-C after {after:.3f} s"
        ended = run(words, scratch, interrupt_after=after)
    else:
        room = int(chance.uniform(0.0, 1.2 * scene.bytes))
        told = f"{room} bytes left on the disk"
        with filled(scratch, room):
            ended = run(words, scratch.parent)
    tally.faults += 1
    hit = {"kill": (-signal.SIGKILL,), "interrupt": (130,), "disk": (1,)}[how]
    tally.hit += ended.code in hit
    tally.per_scene[scene.name] += ended.code in hit
    try:
        assert ended.code in (0, *hit), f"exit code {ended.code}"
        _check(scene, database, out, scratch, ended, tally)
    except Exception as error:
        raise AssertionError(f"{scene.name}, {told}: {error}\n{ended.said[-3000:]}") from error


@contextlib.contextmanager
def filled(disk: Path, room: int) -> Iterator[None]:
    """Leave so many bytes on a file system."""
    filler = disk / "filler"
    try:
        with filler.open("wb") as file:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            os.posix_fallocate(file.fileno(), 0, max(1, free - room))
        yield
    finally:
        filler.unlink()


def _check(scene: Scene, path: Path, out: Path, scratch: Path, ended: Ended, tally: Tally) -> None:
    assert "Traceback" not in ended.said, "a traceback"
    if ended.code == 130:
        assert "interrupted; the database is whole" in ended.said
    if ended.code == 1:  # a full disk
        assert any(text in ended.said for text in ("No space left", _LITTLE_ROOM)), "says not why"
        left = sorted(files_of(path) - scene.old["files"])
        assert not left, f"files are left of what failed: {left}"
    found = look(path, scratch)
    old, new = ({k: s[k] for k in ("rows", "answer")} for s in (scene.old, scene.new))
    for table, held in found["rows"].items():
        before, after = old["rows"][table], new["rows"][table]
        lost = (before.keys() & after.keys()) - held.keys()
        assert not lost, f"{len(lost)} rows of {table} are lost"
        for key, digest in held.items():
            known = {before.get(key), after.get(key)}
            assert digest in known, f"{table} {key} is in neither its old nor its new state"
    if ended.code == 0:
        assert found == new, "the command said that it was done, and it was not"
    assert found in (old, new), "neither the state before the command nor the one after it"
    tally.new_state += found == new != old
    errors = [f for f in doctor.examine(path).findings if f.severity == "error"]
    assert not errors or scene.name == "repair", f"doctor: {errors}"
    again = run(scene.arguments(path, out), scratch)
    tally.reruns += 1
    repeated = scene.done is not None and again.code == 1 and scene.done in again.said
    assert again.code == 0 or repeated, f"the same command afterwards: {again.said[-2000:]}"
    if repeated and scene.then:
        again = run(["--db", str(path), *scene.then], scratch)
        assert again.code == 0, f"the command that follows: {again.said[-2000:]}"
    found = look(path, scratch)
    assert found["rows"] == new["rows"], "rows differ from those of an undisturbed run"
    assert found["answer"] == new["answer"], "scores differ from those of an undisturbed run"
    extra = files_of(path) - scene.new["files"] - {"indexes/predictions.safetensors"}
    extra -= {
        f"indexes/{t}{end}" for t in ("slides", "profiles") for end in (".arrow", "-ID.arrow")
    }
    if scene.then == ("index", "build"):
        extra = {name for name in extra if not name.endswith(".faiss")}
    assert not extra, f"files are left over: {sorted(extra)}"
    assert orphans_of(Database.open(path)) == 0, "Lance files are left that no version names"
    beside = output_of(out)
    assert beside == scene.new["output"], f"beside the output: {beside}"
    assert not left_in_cache(), f"in the cache: {left_in_cache()}"


def left_in_cache() -> list[str]:
    """What is kept of commands that did not end."""
    return [str(p) for p in Path(os.environ["XDG_CACHE_HOME"]).rglob("*") if p.is_file()]


def faults(how: str, count: int, seed: int, scratch: Path, among: list[Scene]) -> Tally:
    """`count` faults of one kind over all scenes, in a seeded order."""
    chance = random.Random(seed)
    tally = Tally()
    start = time.monotonic()
    for n in range(count):
        fault(among[n % len(among)], scratch, chance, tally, how)
        if (n + 1) % 25 == 0:
            print(f"{how}: {n + 1} of {count}, {time.monotonic() - start:.0f} s", flush=True)
    return tally


@contextlib.contextmanager
def small_disk(scratch: Path, megabytes: int = 64) -> Iterator[Path]:
    """A small file system of its own; needs the right to mount one (`unshare -Urm` gives it)."""
    place = _made(scratch / "disk")
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(place)]
    subprocess.run(words, check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# Several at once ---------------------------------------------------------------------------------


#: What writers do beside ingesting.
OTHER_WRITES = (
    ["align", "--method", "cca"], ["index", "build"], ["compact"],
    ["compact", "--keep", "3", "--yes"],
)  # fmt: skip


def _writer(path: str, number: int, until: float, report: str) -> None:
    with _told(report):
        chance = random.Random(number)
        scratch = Path(report).parent
        ids: list[str] = []
        conflicts: list[str] = []
        others: Counter[str] = Counter()
        done = 0
        while time.time() < until:
            size = chance.randint(1, 20)
            new = [f"w{number}-{done:04d}-{i}of{size}" for i in range(size)]
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
                conflicts.append(_conflict(ended))
            if chance.random() < 0.15:
                kind = chance.choice(OTHER_WRITES)
                ended = run(["--db", path, *kind], scratch)
                if ended.code:
                    conflicts.append(_conflict(ended))
                others[kind[0]] += not ended.code
        told = {"ids": ids, "runs": done, "conflicts": conflicts, "others": others}
        Path(report).write_text(json.dumps(told))


def _conflict(ended: Ended) -> str:
    """The conflict that a command has stated."""
    found = [text for text in CONFLICTS if text in ended.said]
    assert ended.code == 1, f"exit code {ended.code}: {ended.said}"
    assert found, ended.said
    return found[0]


def _reader(path: str, number: int, until: float, report: str) -> None:
    with _told(report):
        scratch = Path(report).parent
        conflicts: list[str] = []
        done = 0
        words = ["search", "--geneset", SET, "--null", "0", "-k", "100000", "--format", "json"]
        while time.time() < until:
            ended = run(["--db", path, *words], scratch)
            if ended.code == 0:
                text = ended.said[ended.said.index("{") : ended.said.rindex("}") + 1]
                found = json.loads(text)
                names = [hit["slide_id"] for hit in found["hits"]]
                assert len(names) == len(set(names)) == found["n_ranked"], "a torn read"
                batches = Counter(n.rpartition("-")[0] for n in names if n.startswith("w"))
                wanted = {n.rpartition("-")[0]: int(n.rpartition("of")[2])
                          for n in names if n.startswith("w")}  # fmt: skip
                assert batches == wanted, "half of an ingest"
                done += 1
            else:
                conflicts.append(_conflict(ended))
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
) -> dict[str, Any]:
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
    told: dict[str, Any] = {"writes": 0, "reads": 0, "rows": 0}
    conflicts: Counter[str] = Counter()
    others: Counter[str] = Counter()
    promised: set[str] = set()
    for job, report, writes in jobs:
        job.join(seconds + 4 * PATIENCE)
        error = Path(report + ".error")
        assert not error.exists(), error.read_text()
        assert job.exitcode == 0, f"exit code {job.exitcode}"
        found = json.loads(Path(report).read_text())
        told["writes" if writes else "reads"] += found["runs"]
        conflicts.update(found["conflicts"])
        others.update(found.get("others", {}))
        promised |= set(found.get("ids", ()))
    held = set(rows_of(Database.open(path))["slides"])  # each of them once
    shared = {f"shared-{i}" for i in range(5)} if promised else set()
    assert held == before | promised | shared, "rows are lost, or nobody wrote them"
    told |= {"rows": len(held), "others": dict(others), "conflicts": dict(conflicts)}
    answer_of(path, scratch)
    errors = [f for f in doctor.examine(path).findings if f.severity == "error"]
    assert not errors, f"doctor: {errors}"
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--interrupts", type=int, default=0)
    parser.add_argument("--disks", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
        among = scenes(_made(scratch / "scenes"))
        for how, count in (
            ("kill", given.kills), ("interrupt", given.interrupts), ("disk", given.disks)
        ):  # fmt: skip
            if not count:
                continue
            place = _made(scratch / how)
            if how == "disk":
                place = stack.enter_context(small_disk(scratch))
            tally = faults(how, count, given.seed, place, among)
            print(f"{how}: {tally.faults} faults, {tally.hit} of them stopped the command, "
                  f"{tally.new_state} after its change was made; 0 rows lost or doubled, 0 repairs "
                  f"by hand: {tally.reruns} reruns ended as if undisturbed, 0 files left over\n"
                  f"  stopped: {dict(tally.per_scene)}", flush=True)  # fmt: skip
        if given.minutes:
            told = crowd(60 * given.minutes, scratch / "crowd", among)
            print(f"crowd, {given.minutes:g} minutes: {told}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
