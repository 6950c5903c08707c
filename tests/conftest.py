"""One small archive with planted signal, aligned once; tests that change it get a copy."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest import mock

# The arrays are small: threads would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from pyarrow import parquet

from molquery import synth
from molquery.align.train import AlignSettings, align
from molquery.cli.main import run as command_line
from molquery.database import Database
from molquery.genesets import collections
from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes
from molquery.readers import Options
from molquery.recipes import load_recipe

# How long an example takes says how busy the machine is, not whether it is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SEEN = ("HALLMARK_INTERFERON_GAMMA_RESPONSE", "HALLMARK_E2F_TARGETS", "HALLMARK_HYPOXIA")
UNSEEN = "HALLMARK_OXIDATIVE_PHOSPHORYLATION"  # in the expression, without a trace in the slides
ENCODER = "toy-encoder"


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Captured(StringIO):
    """A text stream that is no terminal and has a file number, as a pipe has."""

    def isatty(self) -> bool:
        return False


Cli = Callable[..., Result]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run a command in this process. Only the errors that the command line catches are caught."""

    def run(*arguments: object) -> Result:
        out, err = Captured(), Captured()
        words = ["molquery", *(str(a) for a in arguments)]
        with mock.patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
            try:
                command_line()
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
        return Result(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(autouse=True)
def _no_database_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOLQUERY_DB", raising=False)


@pytest.fixture(scope="session")
def archive() -> synth.Archive:
    """240 patients; three pathways that slides show, one that they do not."""
    sets = {name: collections.find(name).genes[:30] for name in (*SEEN, UNSEEN)}
    return synth.make(synth.Toy(patients=240, noise=0.15, seed=7), sets)


@pytest.fixture(scope="session")
def files(archive: synth.Archive, tmp_path_factory: pytest.TempPathFactory) -> synth.Files:
    return synth.write_files(archive, tmp_path_factory.mktemp("files"))


def ingest_all(database: Database, files: synth.Files) -> None:
    ingest_slides(database, [files.slides], options=Options(), encoder=ENCODER)
    ingest_profiles(database, [files.profiles], options=Options(), scale="log2")
    ingest_metadata(database, [files.metadata], on="patient_id")


@pytest.fixture(scope="session")
def ingested(files: synth.Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with slides, profiles and metadata and no space. Read it, do not write to it."""
    path = tmp_path_factory.mktemp("ingested") / "toy.mq"
    ingest_all(Database.create(path), files)
    return path


@pytest.fixture(scope="session")
def aligned(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, aligned and with a flat index. Read it, do not write to it."""
    path = tmp_path_factory.mktemp("aligned") / "toy.mq"
    shutil.copytree(ingested, path)
    database = Database.open(path)
    align(database, AlignSettings(method="cca"))
    engine = Engine(database)
    build_indexes(engine, load_recipe("flat"))
    assert engine.prepared.spectrum is not None  # computed and stored before the tree is compared
    return path


@pytest.fixture(scope="session")
def engine(aligned: Path) -> Engine:
    return Engine(Database.open(aligned))


@pytest.fixture(scope="session")
def clinical(
    aligned: Path, archive: synth.Archive, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The aligned database with survival that the first pathway drives, and columns of noise."""
    path = tmp_path_factory.mktemp("clinical") / "toy.mq"
    shutil.copytree(aligned, path)
    rng = np.random.default_rng(11)
    active, n = archive.activity[:, 0], len(archive.patients)
    death = rng.exponential(800 / np.exp(1.2 * (active - active.mean())))
    lost = rng.exponential(1500, n)
    table = pa.table({
        "patient_id": archive.patients.tolist(),
        "os_days": np.where(rng.random(n) < 0.03, np.nan, np.ceil(np.minimum(death, lost))),
        "OS_STATUS": np.where(death <= lost, "1:DECEASED", "0:LIVING").tolist(),
        "follow_up": np.ceil(np.minimum(death, lost)) - 20,
        "same": ["Alive"] * n,
        "code": (1 + (death <= lost)).astype(np.int64),
        "odd": rng.choice(["A", "B"], n).tolist(),
        "area": rng.uniform(1, 9, n),
        "activity": active,
        "grade": rng.integers(1, 4, n),
    })  # fmt: skip
    file = path.parent / "clinical.parquet"
    parquet.write_table(table, file)
    ingest_metadata(Database.open(path), [file], on="patient_id")
    return path


@pytest.fixture
def ingested_copy(ingested: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ingested, tmp_path / "ingested.mq"))


@pytest.fixture
def aligned_copy(aligned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(aligned, tmp_path / "aligned.mq"))


def tree_hash(path: Path) -> str:
    """One hash over the names and bytes of everything under a directory."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        digest.update(str(file.relative_to(path)).encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def unchanged() -> Iterator[Callable[[Path], None]]:
    """Name the directories that must hold the same bytes after the test as before it."""
    before: dict[Path, str] = {}

    def watch(path: Path) -> None:
        before[path] = tree_hash(path)

    yield watch
    assert before, "the test named no directory to watch"
    for path, digest in before.items():
        assert tree_hash(path) == digest, f"{path} has changed"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what an interrupted ingest leaves out of the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
