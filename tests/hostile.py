"""Hostile ids, filters, gene sets and files, thrown at the command line in this process.

    python tests/hostile.py --count 10000

Every command must end with status 0, 1 or 2 and a message, in bounded time; it may write to the
database and the output that it was given and nowhere else; and it must show no control character
and no mark that reverses text. Bad input must leave the database as it was.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from molquery import synth
from molquery.cli.main import run as command_line
from molquery.genesets import collections

#: Seconds after which a command counts as hanging.
PATIENCE = 60
MARKS = "\x00\x07\x1b\x7f\x9b\u200f\u202e\u2066\u2028\ufeff"
PIECES = (
    "a", "TCGA-AA-0001", "HALLMARK_HYPOXIA", "..", "../../../escape", "/etc/passwd", "\n", "\r\n",
    "\t", "'", '"', "''", "\\", "`", ";", "--", "/*", "*/", "%", "%s", "{0}", "{nlist}", "${HOME}",
    "$(touch escape)", "|touch escape", "=cmd|' /C calc'!A1", "+1", "-1", "@SUM(1)", "<script>",
    "</td>", "&amp;", "\x00", "\x1b[2J", "\x1b]0;t\x07", "\u202e", "\u2066", "\ufeff", "é", "ß",
    "한", "🧬", "NaN", "inf", "-inf", "1e999", "0", "-0.0", "null", "None", "true", "#", ",", ":",
    "=", " or 1=1", "cohort", "slide_id", "patient_id", "score", "rank", "vector", "(", ")", "[",
    "]", "(((((", "x" * 300, "CON", "nul", " ", "", "file://", "s3://", "http://localhost:1/", "~",
    "A1BG", "SEPT9", "MARCH1", "PGK1", "CA9", "-CA9", "CA9:2", "CA9:nan", "CA9:1e400",
)  # fmt: skip
FILTERS = (
    "cohort = 'C0'", "age > 50", "slide_id LIKE '%1%'", "cohort IN ('C0', 'C1')", "true", "false",
    "age IS NULL", "NOT (age < 3)", "age / 0 = 1", "repeat(slide_id, 1000000000) = 'a'",
    "cast(age AS string) = '5'", "vector IS NOT NULL", "slide_id = (SELECT 1)", "slide_id = $1",
    "? = slide_id", "lpad(slide_id, 2000000000) = ''", "1 = " + "1 + " * 20_000 + "1",
    "slide_id = " + "'a' || " * 9_000 + "'b'", "cohort" + " IS NULL" * 9_000, "(" * 9_000 + "true",
    "CAST(" * 6_000 + "1" + " AS INT)" * 6_000 + " = 1", " OR ".join(["age = 1"] * 9_000),
    "array_length(range(0, 10000000000)) > 1", "site IN (" + ",".join(["'a'"] * 9_000) + ")",
)  # fmt: skip


def text(chance: random.Random, most: int = 4) -> str:
    """Some pieces side by side; rarely ten million characters."""
    if most == 4 and chance.random() < 0.002:
        return chance.choice(PIECES[:5]) * 2_000_000
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(1, most)))


class Hang(BaseException):
    """A command took too long."""


@contextmanager
def bounded() -> Any:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Stream(io.TextIOWrapper):
    """A stream as a terminal's log has it: text to bytes, strictly."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]


def run(arguments: list[str]) -> tuple[int, str, str]:
    """One command in this process: exit code, stdout, stderr. Lets through what is a bug."""
    out, err = _Stream(), _Stream()
    with (
        mock.patch.object(sys, "argv", ["molquery", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        bounded(),
    ):
        try:
            command_line()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return code, out.text(), err.text()


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    """Every file under a directory, with its size and time of change."""
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file()
    }


class Attack:
    """Hostile commands against copies of one aligned database."""

    def __init__(self, aligned: Path, scratch: Path, seed: int) -> None:
        self.aligned = aligned
        self.scratch = scratch
        self.chance = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.write = 0
        self.database = scratch / "db"
        self.files = scratch / "files"
        self.out = scratch / "out"
        for folder in (self.files, self.out):
            folder.mkdir(parents=True)
        self.renew()

    def renew(self) -> None:
        shutil.rmtree(self.database, ignore_errors=True)
        shutil.copytree(self.aligned, self.database)

    # Commands ------------------------------------------------------------------------------------

    def ask(self) -> list[str]:
        """A question with a hostile part."""
        c = self.chance
        words = [c.choice(["search", "score", "stratify", "retrieve", "genesets"])]
        if words[0] == "genesets":
            return [*words, c.choice(["check", "show"]), text(c)]
        if words[0] == "retrieve":
            return [*words, text(c), "--to", c.choice(["slides", "profiles"])]
        if words[0] == "score":
            words.append(self.gmt())
        else:
            kind = c.randint(0, 2)
            words += (
                ["--geneset", text(c)] if kind == 0
                else ["--genes", text(c, 8)] if kind == 1
                else ["--geneset", "HALLMARK_HYPOXIA"]
            )  # fmt: skip
        if c.random() < 0.7:
            words += ["--where", c.choice(FILTERS) if c.random() < 0.4 else text(c, 6)]
        if words[0] == "stratify" and c.random() < 0.5:
            words += ["--cut", text(c, 2)]
        if words[0] == "search":
            words += ["--null", "0"]
        return [*words, "--format", c.choice(["table", "tsv", "csv", "json"])]

    def gmt(self) -> str:
        """A gene-set file of hostile text."""
        c = self.chance
        path = self.files / f"sets.{c.choice(['gmt', 'gmx', 'json', 'csv', 'tsv', 'txt', 'grp'])}"
        lines = ["\t".join(text(c, 2) for _ in range(c.randint(0, 12))) for _ in range(5)]
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        return str(path)

    def table(self) -> list[str]:
        """Slides with hostile ids, columns and values, into the database."""
        c = self.chance
        n = c.randint(1, 5)
        columns: dict[str, Any] = {
            c.choice(["slide_id", text(c, 2) or "x"]): [text(c) for _ in range(n)],
            "vector": list(np.random.default_rng(c.randint(0, 99)).normal(size=(n, 32))
                           .astype(np.float32)),
        }  # fmt: skip
        for _ in range(c.randint(0, 3)):
            columns[text(c, 2) or "y"] = [text(c) for _ in range(n)]
        path = self.files / "slides.parquet"
        parquet.write_table(pa.table(columns), path)
        return ["ingest", "slides", str(path), "--encoder", c.choice(["toy-encoder", text(c, 2)])]

    def metadata(self) -> list[str]:
        """A clinical table of hostile text."""
        c = self.chance
        names = [c.choice(["patient_id", "slide_id"]), *(text(c, 2) for _ in range(3))]
        rows = [[c.choice(["P000001", text(c, 2)]), *(text(c, 2) for _ in range(3))]
                for _ in range(4)]  # fmt: skip
        path = self.files / c.choice(["clinical.tsv", "clinical.csv", "clinical.txt"])
        mark = c.choice(["\t", ","])
        lines = [mark.join(row) for row in [names, *rows]]
        path.write_bytes("\n".join(lines).encode())
        return ["ingest", "metadata", str(path), "--on", names[0]]

    def anything(self) -> list[str]:
        """A file of random bytes or hostile text under a hostile name."""
        c = self.chance
        name = text(c, 2).replace("/", "_").replace("\x00", "")[:80] or "f"
        ending = c.choice(["", ".h5", ".pt", ".npy", ".parquet", ".csv", ".h5ad", ".gct", ".gz"])
        path = self.files / (name.strip(".") + ending)
        content = c.randbytes(c.randint(0, 400)) if c.random() < 0.5 else text(c, 50).encode()
        try:
            path.write_bytes(content)
        except OSError:  # a name that this file system does not take
            path = self.files / "plain"
            path.write_bytes(content)
        self.made = path
        return ["ingest", c.choice(["slides", "profiles", "metadata"]), str(path)]

    def export(self) -> list[str]:
        """An export of whatever hostile rows are in the database by now."""
        c = self.chance
        kind = c.choice(["csv", "tsv", "json", "jsonl", "parquet"])
        return ["search", "--geneset", "HALLMARK_HYPOXIA", "--null", "0", "-k", "1000",
                "--output", str(self.out / f"o.{kind}"), "--overwrite"]  # fmt: skip

    # One attack ----------------------------------------------------------------------------------

    def strike(self) -> None:
        make = self.chance.choices(
            [self.ask, self.table, self.metadata, self.anything, self.export], [6, 1, 1, 3, 1]
        )[0]
        self.made: Path | None = None
        words = make()
        arguments = ["--db", str(self.database), *words]
        outside = self.outside()
        before = snapshot(self.database)
        try:
            code, out, err = run(arguments)
        except Hang:
            raise AssertionError(f"hangs: {words!r}") from None
        except Exception as error:
            last = traceback.format_exc()[-1500:]
            raise AssertionError(f"{words!r}: {type(error).__name__}: {error}\n{last}") from error
        told = f"{words!r}\nstatus {code}\n{out[-500:]}\n{err[-1000:]}"
        assert code in (0, 1, 2), told
        assert code == 0 or err.strip(), f"no message: {told}"
        assert "Traceback" not in err, told
        # A terminal must not be driven by what is shown. TSV (which is what a pipe gets) and JSON
        # are for programs, which need ids as they are.
        person = words[-1] == "table" or words[0] == "ingest"
        shown = out + err if person else err
        bad = [m for m in MARKS if m in shown]
        assert not bad, f"shows {bad!r}: {told}"
        assert self.outside() == outside, f"wrote elsewhere: {told}"
        if code != 0:
            after = snapshot(self.database)
            derived = {p for p in set(after) ^ set(before) if "/indexes/" not in p}
            assert not {p for p in derived if ".lance/" in p or "manifest" in p}, told
        self.seen[f"{words[0]} {code}"] += 1
        if self.made is not None:
            self.made.unlink(missing_ok=True)
        if make in (self.table, self.metadata) and code == 0:
            self.write += 1
            if self.write % 10 == 0:
                self.renew()

    def outside(self) -> dict[str, Any]:
        own = (str(self.database), str(self.files), str(self.out))
        held = snapshot(self.scratch)
        here = sorted(os.listdir("."))
        return {**{p: s for p, s in held.items() if not p.startswith(own)}, ".": here}


def _database(scratch: Path) -> Path:
    """A small aligned database, made by the commands of a user."""
    sets = {"HALLMARK_HYPOXIA": collections.find("HALLMARK_HYPOXIA").genes[:30]}
    toy = synth.make(synth.Toy(patients=90, pathways=1, visible=1, seed=3), sets)
    (scratch / "toy").mkdir()
    made = synth.write_files(toy, scratch / "toy")
    path = scratch / "aligned"
    for words in (
        ["init"],
        ["ingest", "slides", str(made.slides), "--encoder", "toy-encoder"],
        ["ingest", "profiles", str(made.profiles), "--scale", "log2", "--genes-in", "columns"],
        ["ingest", "metadata", str(made.metadata), "--on", "patient_id"],
        ["align", "--method", "cca"],
    ):
        code, _, err = run(["--db", str(path), *words])
        assert code == 0, err
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "cache")
        attack = Attack(_database(Path(name)), Path(name) / "attack", given.seed)
        start = time.monotonic()
        for n in range(given.count):
            attack.strike()
            if (n + 1) % 500 == 0:
                print(f"{n + 1} of {given.count}, {time.monotonic() - start:.0f} s", flush=True)
        print(f"{given.count} hostile commands, 0 tracebacks, 0 hangs, 0 writes elsewhere: "
              f"{dict(sorted(attack.seen.items()))}")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
