"""Random single-byte corruptions of a database: each must be found, or change no answer.

    python benchmarks/soak_corruption.py --count 1000 --seed 0 [--db DATABASE]

Each time one byte of a fresh copy of the database is changed, at random, in a file of a kind that
is chosen at random. Then the copy is asked everything that reads it: searches of three kinds, with
and without a filter, retrieval in both directions, scores, an export of the tables, the registered
gene sets, and a restore. Every answer must be the one that the whole database gives, byte for byte,
or be refused with a message. At the end doctor is asked. The outcomes:

    refused    some question was refused; the others were answered as before
    fallback   every answer as before, with a note that something was not used, or doctor finds it
    harmless   every answer as before, and doctor finds nothing
    WRONG      some answer differs, or an exception is not a message to the user

Exit 1 if anything was WRONG. Without --db a synthetic archive is made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("LANCE_LOG", "error")

from molquery import doctor, history
from molquery.database import Database
from molquery.errors import MolqueryError
from molquery.genesets import collections
from molquery.genesets.registered import register, registered
from molquery.query.cohort import score
from molquery.query.engine import Engine
from molquery.query.retrieve import retrieve
from molquery.query.search import search
from molquery.records import Signature
from molquery.schema import PROFILES, SLIDES

#: kind of file -> the files of a database that are of it.
KINDS = {
    "manifest": ("manifest.json",),
    "version": ("versions/*.json",),
    "space": ("spaces/*/*/*",),
    "index": ("indexes/*.faiss", "indexes/*-flat*.safetensors"),
    "sums": ("indexes/*.sums",),
    "sidecar": ("indexes/*.arrow",),
    "predictions": ("indexes/predictions-*.safetensors",),
    "gene sets": ("genesets/*.json",),
    "Lance data": ("*.lance/data/*",),
    "Lance manifest": ("*.lance/_versions/*.manifest",),
    "Lance deletions": ("*.lance/_deletions/*",),
    "Lance, other": ("*.lance/_transactions/*", "*.lance/_versions/*.json"),
}
SIGNATURES = ("HALLMARK_HYPOXIA", "HALLMARK_E2F_TARGETS")

Answers = dict[str, tuple[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What one changed byte did."""

    kind: str
    file: str
    offset: int
    verdict: str
    told: str


def questions(path: Path, past: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Everything that reads the database, by name. Each opens it anew, as a command does.

    `past` is the version that the last of them restores.
    """

    def engine() -> Engine:
        return Engine(Database.open(path))

    hypoxia, e2f = (collections.find(name) for name in SIGNATURES)
    asked: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("search", hypoxia, {"null": 100}),
        ("search --where", e2f, {"null": 0, "where": "cohort LIKE '%A%'"}),
        ("search --method vector", hypoxia, {"null": 0, "method": "vector", "use_index": True}),
    )
    for name, signature, options in asked:
        yield name, lambda s=signature, o=options: ranked(search(engine(), s, k=10, **o))
    yield "retrieve", lambda: ranked(_retrieve(engine(), "slides"))
    yield "retrieve, back", lambda: ranked(_retrieve(engine(), "profiles"))
    yield "score", lambda: (score(engine(), [hypoxia, e2f]).table.to_pylist(), ())
    yield "tables", lambda: (_tables(path), ())
    yield "gene sets", lambda: ([s.sha256 for s in registered(Database.open(path))], ())
    yield "history", lambda: ([v.version for v in history.versions(Database.open(path))], ())
    yield "restore", lambda: (_restored(path, past), ())


def ranked(found: Any) -> tuple[Any, tuple[str, ...]]:
    """The rows of a ranking, and its notes."""
    return found.hits.to_pylist(), found.notes


def _retrieve(engine: Engine, source: str) -> Any:
    if source == "slides":
        return retrieve(engine, str(engine.slide_ids[0]), to="profiles", source="slides", k=5)
    return retrieve(engine, str(engine.reference.ids[0]), to="slides", source="profiles", k=5)


def _tables(path: Path) -> dict[str, str]:
    """A digest of every value of both tables."""
    database = Database.open(path).pinned()
    out = {}
    for spec in (SLIDES, PROFILES):
        table = database.read(spec, database.dataset(spec).schema.names)
        digest = hashlib.sha256()
        for name in table.schema.names:
            for value in table[name].to_pylist():
                digest.update(json.dumps([name, value], default=str).encode())
        out[spec.name] = digest.hexdigest()
    return out


def _restored(path: Path, past: int) -> Any:
    history.restore(Database.open(path), past)
    return _tables(path)


def first_filled(path: Path) -> int:
    """The first version in which both tables hold rows."""
    found = history.versions(Database.open(path))
    return min(v.version for v in found if v.slides and v.profiles)


def ask(path: Path, past: int) -> tuple[Answers, list[str]]:
    """Every answer as ('answer', its JSON), ('refused', the message) or ('broken', what broke)."""
    answers: Answers = {}
    notes: list[str] = []
    for name, question in questions(path, past):
        try:
            value, said = question()
            answers[name] = ("answer", json.dumps(value, sort_keys=True, default=str))
            notes += [note for note in said if "instead of an index" in note]
        except MolqueryError as error:
            answers[name] = ("refused", f"{error.what}: {error.found}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            answers[name] = ("broken", f"{type(error).__name__}: {error}")
    return answers, notes


def corruptions(database: Path, count: int, seed: int) -> Iterator[tuple[str, str, int, int]]:
    """(kind, file, offset, what the byte is changed by), `count` of them."""
    draw = random.Random(seed)
    files = {
        kind: sorted(
            str(f.relative_to(database))
            for pattern in patterns
            for f in database.glob(pattern)
            if f.is_file() and f.stat().st_size
        )
        for kind, patterns in KINDS.items()
    }
    kinds = [kind for kind in KINDS if files[kind]]
    for i in range(count):
        kind = kinds[i % len(kinds)]
        file = draw.choice(files[kind])
        offset = draw.randrange((database / file).stat().st_size)
        yield kind, file, offset, draw.randrange(1, 256)


def soak(
    database: Path, scratch: Path, count: int, seed: int, tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """Corrupt `count` copies of a database, and judge what each answers."""
    copy = scratch / "copy.mq"

    def fresh() -> Path:
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(database, copy))

    past = first_filled(database)
    right, _ = ask(fresh(), past)
    if bad := {k: v for k, v in right.items() if v[0] != "answer"}:
        raise SystemExit(f"the whole database does not answer: {bad}")
    if not doctor.examine(fresh()).healthy:
        raise SystemExit("doctor finds the whole database unhealthy")
    outcomes = []
    for kind, file, offset, change in corruptions(database, count, seed):
        target = fresh() / file
        blob = bytearray(target.read_bytes())
        blob[offset] ^= change
        target.write_bytes(bytes(blob))
        outcome = _judge(copy, past, right, kind, file, offset)
        outcomes.append(outcome)
        tell(outcome)
    return outcomes


def _judge(copy: Path, past: int, right: Answers, kind: str, file: str, offset: int) -> Outcome:
    try:
        healthy = doctor.examine(copy).healthy  # before anything writes
    except MolqueryError:
        healthy = False
    except Exception as error:
        return Outcome(kind, file, offset, "WRONG", f"doctor: {type(error).__name__}: {error}")
    answers, notes = ask(copy, past)
    differ = [k for k, v in answers.items() if v[0] == "answer" and v != right[k]]
    broken = [f"{k}: {v[1]}" for k, v in answers.items() if v[0] == "broken"]
    refused = [k for k, v in answers.items() if v[0] == "refused"]
    if differ or broken:
        verdict, told = "WRONG", "; ".join(differ + broken)
    elif refused:
        verdict, told = "refused", ", ".join(refused)
    elif notes or not healthy:
        verdict, told = "fallback", "; ".join(sorted(set(notes))) or "doctor"
    else:
        verdict, told = "harmless", ""
    if refused and healthy:
        verdict, told = "WRONG", f"refused {told}, and doctor finds nothing"
    return Outcome(kind, file, offset, verdict, told)


def synthetic(path: Path) -> None:
    """A small database with a bit of everything: a past, deleted rows, gene sets, an index."""
    from molquery import synth
    from molquery.align.train import AlignSettings, align
    from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
    from molquery.query.indexes import build_indexes
    from molquery.readers import Options
    from molquery.recipes import load_recipe

    names = (*SIGNATURES, "HALLMARK_INTERFERON_GAMMA_RESPONSE", "HALLMARK_ANGIOGENESIS")
    sets = {name: collections.find(name).genes[:20] for name in names}
    archive = synth.make(synth.Toy(patients=150, seed=1), sets)
    (path.parent / "files").mkdir()
    files = synth.write_files(archive, path.parent / "files")
    database = Database.create(path)
    ingest_slides(database, [files.slides], options=Options(), encoder="toy")
    ingest_profiles(database, [files.profiles], options=Options(), scale="log2")
    ingest_metadata(database, [files.metadata], on="patient_id")
    align(database, AlignSettings(method="cca"))
    enrich(path)
    build_indexes(Engine(database), load_recipe("flat"))


def enrich(path: Path) -> None:
    """Give a database gene sets, deleted rows and a tag, so that every kind of file is there."""
    database = Database.open(path)
    register(database, "mine", [Signature("A", {"CA9": 1.0, "VEGFA": -1.0})], origin="soak")
    first = database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist()[0]
    plan = history.plan_deletion(database, SLIDES, f"slide_id = '{first}'")
    history.delete(database, plan)
    history.tag(database, "after")
    _ = Engine(database).prepared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--db", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        database = options.db
        if database is None:
            database = Path(scratch) / "toy.mq"
            synthetic(database)

        def tell(outcome: Outcome) -> None:
            if outcome.verdict == "WRONG":
                print(outcome, flush=True)

        outcomes = soak(database, Path(scratch), options.count, options.seed, tell)
    counts = Counter((o.kind, o.verdict) for o in outcomes)
    verdicts = ("refused", "fallback", "harmless", "WRONG")
    print(f"{'file':<16}{'changed':>9}" + "".join(f"{v:>10}" for v in verdicts))
    for kind in KINDS:
        row = [counts[kind, v] for v in verdicts]
        if sum(row):
            print(f"{kind:<16}{sum(row):>9}" + "".join(f"{n:>10}" for n in row))
    total = [sum(counts[kind, v] for kind in KINDS) for v in verdicts]
    print(f"{'all':<16}{sum(total):>9}" + "".join(f"{n:>10}" for n in total))
    print(f"{time.monotonic() - start:.0f} s, seed {options.seed}")
    return 1 if total[-1] else 0


if __name__ == "__main__":
    sys.exit(main())
