"""The database on disk: upserts, metadata, versions, the manifest, damage, and two writers."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from make_archive import ARCHIVES, contents

from molquery import doctor, history, ingest, processes, schema
from molquery.align.train import AlignSettings, align
from molquery.database import Database, list_to_matrix, lock, manifest, matrix_to_list
from molquery.errors import (
    ColumnError,
    DatabaseError,
    FilterError,
    MismatchError,
    OutputError,
)
from molquery.files import write_bytes
from molquery.genesets import collections
from molquery.ingest import ingest_slides
from molquery.query import prepared
from molquery.query.engine import Engine
from molquery.query.search import search
from molquery.readers import Options
from molquery.schema import PROFILES, SLIDES
from molquery.space import current_space
from molquery.vectors import Matrix

DIM = 4
FACTS = {"encoder": "toy", "kind": "embedding", "dim": DIM}


def vectors(n: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def rows(ids: list[str], values: Matrix, **more: list[Any]) -> pa.Table:
    """Slides as ingest hands them to the database; the hash stands for the vector."""
    table = pa.table(
        {
            SLIDES.key: ids,
            schema.PATIENT: [i[:2] for i in ids],
            schema.COHORT: ["A"] * len(ids),
            schema.SITE: pa.nulls(len(ids), pa.string()),
            schema.CONTENT_HASH: [v.tobytes().hex() for v in values],
            SLIDES.vector: matrix_to_list(values),
        },
        schema=SLIDES.schema(DIM),
    )
    for name, column in more.items():
        table = table.append_column(name, pa.array(column))
    return table


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.create(tmp_path / "a.mq")


def counts(database: Database, table: pa.Table) -> tuple[int, int, int]:
    done = database.upsert(SLIDES, table, FACTS)
    return done.inserted, done.updated, done.unchanged


# Upsert ------------------------------------------------------------------------------------------


def test_upsert_counts_every_row_once(database: Database) -> None:
    v = vectors(5)
    ids = ["s1", "s2", "s3", "s4", "s5"]
    assert counts(database, rows(ids[:3], v[:3])) == (3, 0, 0)
    version = database.version(SLIDES)
    assert counts(database, rows(ids[:3], v[:3])) == (0, 0, 3)
    assert database.version(SLIDES) == version, "an upsert of nothing new is not a new version"
    v[1] += 1
    assert counts(database, rows(ids[1:], v[1:])) == (2, 1, 1)
    held = database.read(SLIDES, [SLIDES.key, SLIDES.vector])
    assert held[SLIDES.key].to_pylist() == ids
    np.testing.assert_array_equal(list_to_matrix(held[SLIDES.vector]), v)
    assert database.facts(SLIDES) == FACTS


def test_rows_come_in_key_order_however_they_were_written(database: Database) -> None:
    v = vectors(4)
    counts(database, rows(["d", "b"], v[:2]))
    counts(database, rows(["c", "a"], v[2:]))
    np.testing.assert_array_equal(database.matrix(SLIDES, SLIDES.vector), v[[3, 1, 2, 0]])


def test_an_upsert_may_bring_new_columns_and_lack_old_ones(database: Database) -> None:
    v = vectors(3)
    counts(database, rows(["s1"], v[:1], stain=["H&E"]))
    counts(database, rows(["s2"], v[1:2], scanner=["X"]))
    counts(database, rows(["s1", "s3"], v[[2, 2]], scanner=["Y", "Z"]))
    held = database.read(SLIDES, [SLIDES.key, "stain", "scanner"]).to_pydict()
    assert held == {
        SLIDES.key: ["s1", "s2", "s3"], "stain": ["H&E", None, None], "scanner": ["Y", "X", "Z"]
    }  # fmt: skip


def test_a_column_of_another_type_is_refused_and_nothing_written(database: Database) -> None:
    counts(database, rows(["s1"], vectors(1), age=[50]))
    version = database.version(SLIDES)
    with pytest.raises(ColumnError, match="age"):
        counts(database, rows(["s2"], vectors(1), age=["fifty"]))
    assert (database.version(SLIDES), database.count(SLIDES)) == (version, 1)


def test_missing_values_of_features_survive_and_missing_vectors_are_nan() -> None:
    v = vectors(3)
    v[0, 0] = np.nan
    v[1] = np.nan
    column = matrix_to_list(v)
    assert column.is_valid().to_pylist() == [True, False, True]
    back = list_to_matrix(pa.chunked_array([column.slice(0, 1), column.slice(1)]))
    np.testing.assert_array_equal(back, v)


def write_same_keys(path: str, barrier: Any, seed: int) -> None:
    database = Database.open(path)
    ids = [f"n{i:03d}" for i in range(50)]
    table = rows(ids, vectors(50, seed))
    barrier.wait(timeout=60)
    counts(database, table)


@pytest.mark.parametrize("before", [["s1"], []], ids=["table", "no table yet"])
def test_two_processes_that_insert_the_same_keys_make_no_duplicates(
    database: Database, before: list[str]
) -> None:
    if before:
        counts(database, rows(before, vectors(1)))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=write_same_keys, args=(str(database.path), barrier, seed))
        for seed in (1, 2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=100)
    assert [writer.exitcode for writer in writers] == [0, 0]
    ids = database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist()
    assert len(ids) == len(set(ids)) == 50 + len(before)
    assert lancedb.connect(str(database.path)).open_table("slides").count_rows() == len(ids)
    # Each row is wholly one writer's: the last one won all of them.
    held = database.matrix(SLIDES, SLIDES.vector)[:50]
    assert any(np.array_equal(held, vectors(50, seed)) for seed in (1, 2))


@pytest.mark.parametrize("error", [OSError("No space left on device (os error 28)"), None])
def test_what_cannot_be_written_is_said_and_sets_nothing_aside(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    """A full disk must not pass for a damaged file, which Lance's restore would make way for."""
    counts(database, rows(["s1"], vectors(1)))
    counts(database, rows(["s2"], vectors(1)))
    before = {p for p in database.path.rglob("*") if p.is_file()}

    def full(*_: object) -> None:
        raise error or OSError("LanceError(IO): No space left on device, /home/x/y.rs:1")

    with monkeypatch.context() as patch:
        patch.setattr("lance.LanceDataset.restore", full)
        with pytest.raises(DatabaseError, match="nothing has changed") as caught:
            history.restore(database, 1)
    assert "No space left on device" in str(caught.value)
    assert "/home" not in str(caught.value)
    assert {p for p in database.path.rglob("*") if p.is_file()} == before
    assert doctor.examine(database.path).healthy
    history.restore(database, 1)
    assert database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist() == ["s1"]


def test_a_change_that_cannot_be_committed_leaves_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts(database, rows(["s1"], vectors(1)))
    before = {p for p in database.path.rglob("*") if p.is_file()}

    def full(*_: object) -> None:
        raise OutputError("cannot write manifest.json", found="No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        with pytest.raises(OutputError):
            counts(database, rows(["s2"], vectors(1)))
    assert {p for p in database.path.rglob("*") if p.is_file()} == before
    assert counts(database, rows(["s2"], vectors(1))) == (1, 0, 0)


def test_what_a_killed_process_left_beside_an_output_goes_with_the_next(tmp_path: Path) -> None:
    machine, dead = processes.machine(), 2**22 + 1
    left = [f".a.tsv.{machine}-{dead}.x.tmp", f".b.tsv.{machine}-{dead}.x.tmp",
            f".a.tsv.{machine}-{os.getpid()}.x.tmp", ".a.tsv.other.tmp"]  # fmt: skip
    for name in left:
        (tmp_path / name).touch()
    write_bytes(tmp_path / "a.tsv", b"1")
    assert {p.name for p in tmp_path.iterdir()} == {"a.tsv", *left[1:]}


# Metadata and versions ---------------------------------------------------------------------------


def test_metadata_leave_the_vectors_version_alone(database: Database) -> None:
    counts(database, rows(["s1", "s2"], vectors(2)))
    before = database.vectors_version(SLIDES)
    for ages in ([40, 50], [41, 51]):  # a new column, then new values of it
        database.set_columns(SLIDES, SLIDES.key, pa.table({SLIDES.key: ["s1", "s2"], "age": ages}))
        assert database.read(SLIDES, ["age"])["age"].to_pylist() == ages
    assert database.version(SLIDES) > before
    assert database.vectors_version(SLIDES) == before
    counts(database, rows(["s3"], vectors(1)))
    assert database.vectors_version(SLIDES) == database.manifest()["version"] > before


# Vector columns that are computed from the rows ---------------------------------------------------


def turned(table: pa.Table) -> Matrix:
    """Two values that tell a vector from every other, and would tell a wrong row."""
    return list_to_matrix(table[SLIDES.vector])[:, [2, 0]] * np.float32(2)


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides in several files of several batches, some deleted, some moved by an update."""
    database = Database.create(tmp_path_factory.mktemp("worn") / "a.mq")
    ids = np.random.default_rng(5).permutation([f"s{i:05}" for i in range(36_000)]).tolist()
    v = vectors(len(ids))
    counts(database, rows(ids[:20_000], v[:20_000]))
    for some in (slice(20_000, 20_010), slice(20_010, 36_000)):
        counts(database, rows(ids[some], v[some]))
    assert database.delete_rows(SLIDES, "slide_id LIKE '%7' OR slide_id < 's00100'") > 3000
    left = [i for i in range(len(ids)) if ids[i][-1] == "3"][::97]
    assert counts(database, rows([ids[i] for i in left], v[left] + 1)) == (0, len(left), 0)
    fragments = database.dataset(SLIDES).get_fragments()
    assert sum(f.deletion_file() is not None for f in fragments) > 1
    stored = database.dataset(SLIDES).to_table(columns=[SLIDES.key])[SLIDES.key].to_pylist()
    assert stored != sorted(stored)
    return database.path


def whole(database: Database, column: str) -> dict[str, list[float] | None]:
    table = database.read(SLIDES, [SLIDES.key, column])
    return dict(zip(table[SLIDES.key].to_pylist(), table[column].to_pylist(), strict=True))


def test_a_vector_column_is_of_the_rows_that_it_was_computed_from(
    worn: Path, tmp_path: Path
) -> None:
    database = Database.open(shutil.copytree(worn, tmp_path / "a.mq"))
    held = whole(database, SLIDES.vector)
    right = {key: [2 * v[2], 2 * v[0]] for key, v in held.items() if v is not None}
    sizes: list[int] = []

    def some(table: pa.Table) -> Matrix:
        sizes.append(len(table))
        return turned(table)

    database.set_vectors(SLIDES, "shared_x", 2, [SLIDES.vector], some, told={"by": "hand"})
    assert len(sizes) > 3
    assert sum(sizes) == len(held) == len(right)
    assert whole(database, "shared_x") == right
    assert database.dataset(SLIDES).schema.field("shared_x").metadata == {b"by": b"hand"}

    def fewer(table: pa.Table) -> Matrix:  # of another width, and not of every slide
        first = list_to_matrix(table[SLIDES.vector])[:, :1]
        return np.where(first > 0, first, np.nan)

    database.set_vectors(SLIDES, "shared_x", 1, [SLIDES.vector], fewer)
    right = {key: v[:1] for key, v in held.items() if v is not None and v[0] > 0}
    there = {key: v for key, v in whole(database, "shared_x").items() if v is not None}
    assert there == right
    assert whole(database, SLIDES.vector) == held
    assert doctor.examine(database.path).healthy


@pytest.mark.parametrize("error", [MismatchError("no such cohort"), KeyboardInterrupt()])
@pytest.mark.parametrize("column", ["shared_x", "shared_new"])
def test_vectors_that_fail_half_way_leave_the_database_as_it_was(
    worn: Path, tmp_path: Path, error: BaseException, column: str
) -> None:
    database = Database.open(shutil.copytree(worn, tmp_path / "a.mq"))
    database.set_vectors(SLIDES, "shared_x", 2, [SLIDES.vector], turned)
    held, state = whole(database, "shared_x"), database.manifest()
    done: list[int] = []

    def failing(table: pa.Table) -> Matrix:
        done.append(len(table))
        if len(done) == 3:
            raise error
        return turned(table) + 1

    with pytest.raises(type(error)) as raised:
        database.set_vectors(SLIDES, column, 2, [SLIDES.vector], failing)
    assert raised.value is error
    assert database.manifest() == state
    assert whole(database, "shared_x") == held
    database.set_vectors(SLIDES, column, 2, [SLIDES.vector], turned)
    assert whole(database, column) == held
    assert not database.sweep()


def test_vectors_of_another_number_than_the_rows_are_refused(database: Database) -> None:
    counts(database, rows(["s1", "s2", "s3"], vectors(3)))
    for change in (lambda v: v[1:], lambda v: np.vstack([v, v])):
        with pytest.raises(DatabaseError, match="cannot be written: nothing has changed"):
            database.set_vectors(
                SLIDES, "shared_x", 2, [SLIDES.vector], lambda t, c=change: c(turned(t))
            )
        assert "shared_x" not in database.dataset(SLIDES).schema.names


@pytest.mark.parametrize("then", ["nothing", "metadata", "shared vectors"])
def test_killed_between_table_and_manifest_is_the_state_before(
    database: Database, then: str
) -> None:
    counts(database, rows(["s1", "s2"], vectors(2)))
    derived = database.vectors_version(SLIDES)  # what an index built now would record
    old = (database.path / schema.MANIFEST).read_bytes()
    counts(database, rows(["s1", "s3"], vectors(2, seed=9)))
    (database.path / schema.MANIFEST).write_bytes(old)  # as if killed before the second write
    if then == "metadata":
        database.set_columns(SLIDES, SLIDES.key, pa.table({SLIDES.key: ["s1"], "age": [1]}))
    if then == "shared vectors":
        database.set_vectors(SLIDES, "shared_x", 2, [SLIDES.vector], turned)
    assert database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist() == ["s1", "s2"]
    np.testing.assert_array_equal(database.matrix(SLIDES, SLIDES.vector), vectors(2))
    assert database.vectors_version(SLIDES) == derived
    assert counts(database, rows(["s1", "s3"], vectors(2, seed=9))) == (1, 1, 0)
    assert database.vectors_version(SLIDES) != derived
    assert lancedb.connect(str(database.path)).open_table("slides").count_rows() == 3


def test_a_table_without_a_manifest_entry_is_made_anew(database: Database) -> None:
    old = (database.path / schema.MANIFEST).read_bytes()
    counts(database, rows(["lost"], vectors(1)))
    (database.path / schema.MANIFEST).write_bytes(old)  # killed while the table was made
    assert not database.has(SLIDES)
    assert counts(database, rows(["s1"], vectors(1))) == (1, 0, 0)
    assert database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist() == ["s1"]


def test_a_reader_keeps_its_version(database: Database) -> None:
    counts(database, rows(["s1"], vectors(1)))
    reader = database.pinned()
    counts(database, rows(["s2"], vectors(1)))
    assert reader.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist() == ["s1"]
    assert (reader.is_current(), database.is_current()) == (False, True)


def test_lancedb_opens_the_tables(aligned: Path) -> None:
    table = lancedb.connect(str(aligned)).open_table("slides")
    assert table.count_rows() == Database.open(aligned).count(SLIDES)
    shared = [name for name in table.schema.names if name.startswith(schema.SHARED_PREFIX)]
    assert len(shared) == 1
    row = table.search().where("cohort = 'COHORT-A'").limit(1).to_arrow().to_pylist()[0]
    assert row["cohort"] == "COHORT-A"
    assert np.linalg.norm(row[shared[0]]) == pytest.approx(1, abs=1e-5)


# Filters -----------------------------------------------------------------------------------------


def test_a_filter_is_sql_over_the_metadata(database: Database) -> None:
    counts(database, rows(["s1", "s2", "s3"], vectors(3), who=["O'Brien", "x", None]))
    assert database.count(SLIDES, "who = 'O''Brien' OR who IS NULL") == 2
    assert database.count(SLIDES, "slide_id IN ('s2')") == 1
    assert database.count(SLIDES, "who = 'nobody'") == 0


@pytest.mark.parametrize(
    "where", ["kohort = 'A'", "cohort ='", "cohort = A", "1 +", "cohort > 3 4"]
)
def test_a_filter_that_fails_lists_the_columns(database: Database, where: str) -> None:
    counts(database, rows(["s1"], vectors(1)))
    with pytest.raises(FilterError) as caught:
        database.read(SLIDES, [SLIDES.key], where=where)
    text = str(caught.value)
    assert "patient_id, cohort, site" in text
    assert "rust" not in text.lower()
    assert "embedding" not in text


# Opening and creating ----------------------------------------------------------------------------


def test_open_never_creates(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no database"):
        Database.open(tmp_path / "nothing.mq")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DatabaseError, match="is not a molquery database"):
        Database.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_typo_suggests_the_database_beside_it(tmp_path: Path) -> None:
    Database.create(tmp_path / "archive.mq")
    with pytest.raises(DatabaseError, match=r"--db .*archive\.mq"):
        Database.open(tmp_path / "archve.mq")


def test_create_refuses_what_is_there(tmp_path: Path) -> None:
    Database.create(tmp_path / "a.mq")
    with pytest.raises(DatabaseError, match="already"):
        Database.create(tmp_path / "a.mq")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("chapter 1")
    with pytest.raises(DatabaseError, match="not empty"):
        Database.create(tmp_path / "full")
    with pytest.raises(DatabaseError, match="not empty"):
        Database.create(tmp_path / "full" / "thesis.doc")
    with pytest.raises(DatabaseError, match="cannot make"):
        Database.create(tmp_path / "full" / "thesis.doc" / "db")
    assert (tmp_path / "full" / "thesis.doc").read_text() == "chapter 1"
    (tmp_path / "empty").mkdir()
    assert not Database.create(tmp_path / "empty").has(SLIDES)


@pytest.mark.parametrize(("change", "word"), [(1, "newer"), (-1, "older")])
def test_another_format_version_is_refused(database: Database, change: int, word: str) -> None:
    path = database.path / schema.MANIFEST
    content = json.loads(path.read_text())
    content["format_version"] += change
    path.write_text(json.dumps(content))
    with pytest.raises(DatabaseError, match=f"{word} on-disk format") as caught:
        Database.open(database.path)
    assert f"reads format {schema.FORMAT_VERSION}" in str(caught.value)


@pytest.mark.parametrize("archive", sorted(ARCHIVES.glob("*.zip")), ids=lambda p: p.stem)
def test_an_archived_database_is_read(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.mq"
    with zipfile.ZipFile(archive) as file:
        file.extractall(path)
    wanted = json.loads(archive.with_suffix(".json").read_text())
    found = json.loads(json.dumps(contents(path)))
    for name in ("format_version", "tables", "history", "gene sets"):
        assert found[name] == wanted[name], name
    assert [i for i, _ in found["retrieve"]] == [i for i, _ in wanted["retrieve"]]
    near = [similarity for _, similarity in found["retrieve"]]
    assert near == pytest.approx([similarity for _, similarity in wanted["retrieve"]], abs=1e-5)
    assert doctor.examine(path).healthy
    # What is stored answers as what is computed anew from the tables and the space.
    signature = Engine(Database.open(path)), collections.find("HALLMARK_HYPOXIA")
    stored = search(*signature, k=5, null=0, min_genes=2, min_fraction=0).hits.to_pylist()
    shutil.rmtree(path / "indexes")
    signature = Engine(Database.open(path)), collections.find("HALLMARK_HYPOXIA")
    anew = search(*signature, k=5, null=0, min_genes=2, min_fraction=0).hits.to_pylist()
    assert [h["slide_id"] for h in stored] == [h["slide_id"] for h in anew]
    assert [h["score"] for h in stored] == pytest.approx([h["score"] for h in anew], abs=1e-5)


def another_reader(path: Path) -> tuple[Matrix, Matrix]:
    """Stored shared vectors of slides, and those projected from the files as docs/format.md says.

    Nothing of molquery is used.
    """
    import hashlib

    import lance
    from safetensors.numpy import load_file

    def sha256(name: str) -> str:
        return hashlib.sha256((path / name).read_bytes()).hexdigest()

    told = json.loads((path / "manifest.json").read_bytes())
    digest = told.pop("sha256")
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    entry = told["tables"]["slides"]
    assert all(sha256(f"slides.lance/{f}") == d for f, d in entry["files"].items())
    assert f"_versions/{2**64 - 1 - entry['version']:020d}.manifest" in entry["files"]
    table = lance.dataset(str(path / "slides.lance"), version=entry["version"]).to_table()
    assert table.num_rows == entry["rows"]
    space_id = told["spaces"]["default"]["space_id"]
    folder = path / "spaces" / "default" / space_id[:12]
    told = json.loads((folder / "space.json").read_bytes())
    text = json.dumps({k: told[k] for k in ("facts", "folds", "models")}, sort_keys=True)
    blob = (folder / "heads.safetensors").read_bytes()
    assert hashlib.sha256(blob + text.encode()).hexdigest() == space_id
    arrays, layout = load_file(folder / "heads.safetensors"), told["models"]["final"]
    e = np.array(table["embedding"].to_pylist(), np.float32)
    x = (e - arrays["final.slide.mean"]) / arrays["final.slide.scale"]
    offsets = dict(zip(layout["cohorts"], arrays["final.slide.offsets"], strict=True))
    cohorts, sites = table["cohort"].to_pylist(), table["site"].to_pylist()
    mine = np.array([offsets.get(c, np.zeros(x.shape[1])) for c in cohorts])
    places = [tuple(place) for place in layout["sites"]]
    assert places, "the archive has cohorts of several sites"
    of_site = dict(zip(places, arrays["final.slide.site_offsets"], strict=True))
    at_site = np.array(
        [of_site.get(place, mine[i]) for i, place in enumerate(zip(cohorts, sites, strict=True))]
    )
    blocks = []
    for i, weight in enumerate(layout["weights"]):
        out = np.hstack([x - mine, x, x - at_site])
        for j, gelu in enumerate(layout["gelu"][f"slide_heads.{i}"]):
            name = f"final.slide_heads.{i}.{j}"
            out = out @ arrays[f"{name}.weight"] + arrays[f"{name}.bias"]
            assert not gelu
        blocks.append(weight * out / np.linalg.norm(out, axis=1, keepdims=True))
    shared = np.hstack(blocks)
    shared /= np.linalg.norm(shared, axis=1, keepdims=True)
    return np.array(table[f"shared_{space_id[:12]}"].to_pylist()), shared


def test_the_format_page_is_enough_to_write_another_reader(aligned: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVES / f"format-{schema.FORMAT_VERSION}.zip") as file:
        file.extractall(tmp_path)
    for path in (aligned, tmp_path):
        stored, projected = another_reader(path)
        assert len(stored) > 40
        np.testing.assert_allclose(projected, stored, atol=1e-5)


def test_the_newest_format_is_archived() -> None:
    assert (ARCHIVES / f"format-{schema.FORMAT_VERSION}.zip").is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": "x"}', "null"])
def test_a_damaged_manifest_is_a_database_error(database: Database, content: str) -> None:
    (database.path / schema.MANIFEST).write_text(content)
    with pytest.raises(DatabaseError, match="manifest"):
        Database.open(database.path)
    assert (database.path / schema.MANIFEST).read_text() == content


def test_an_empty_table_says_what_to_ingest(database: Database) -> None:
    with pytest.raises(DatabaseError, match="molquery ingest profiles"):
        database.dataset(PROFILES)


def test_a_damaged_table_is_a_database_error(ingested_copy: Path) -> None:
    database = Database.open(ingested_copy)
    for file in (ingested_copy / "slides.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DatabaseError, match="is damaged: nothing is read from it"):
        database.read(SLIDES, [SLIDES.key])
    shutil.rmtree(ingested_copy / "slides.lance")
    with pytest.raises(DatabaseError, match=r"slides\.lance.* is damaged") as caught:
        database.read(SLIDES, [SLIDES.key])
    assert "it is missing" in str(caught.value)


# The manifest ------------------------------------------------------------------------------------


def test_every_byte_of_a_manifest_counts(database: Database) -> None:
    """Each byte flipped: refused, or read as the very same content."""
    counts(database, rows(["s1"], vectors(1)))
    path = database.path / schema.MANIFEST
    blob, content = path.read_bytes(), database.manifest()
    harmless = 0
    for at in range(len(blob)):
        path.write_bytes(blob[:at] + bytes([blob[at] ^ (1 + at % 255)]) + blob[at + 1 :])
        try:
            assert Database.open(database.path).manifest() == content, f"byte {at}"
            harmless += 1
        except DatabaseError:
            pass
    assert harmless < 0.2 * len(blob), "only blanks may change"


def test_what_a_block_changes_takes_effect_at_its_end(database: Database) -> None:
    other = Database.open(database.path)
    with database.writing("two steps"):
        counts(database, rows(["s1"], vectors(1)))
        counts(database, rows(["s2"], vectors(1)))
        assert (database.count(SLIDES), other.path, other.manifest()["version"]) == (
            2, database.path, 0,
        )  # fmt: skip
        seen: list[bool] = []
        reader = threading.Thread(target=lambda: seen.append(Database.open(other.path).has(SLIDES)))
        reader.start()
        reader.join()
        assert seen == [False]
    made = manifest.read(database.path)
    assert (made["version"], made["command"]) == (1, "two steps")
    assert made["details"] == "1 slides inserted; 1 slides inserted, 0 updated"


def test_an_error_in_a_block_changes_nothing_and_leaves_nothing(database: Database) -> None:
    counts(database, rows(["s1"], vectors(1)))
    before = {p for p in database.path.rglob("*") if p.is_file()}

    def fail() -> None:
        with database.writing("fails"):
            counts(database, rows(["s2"], vectors(1)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {p for p in database.path.rglob("*") if p.is_file()} == before
    assert database.count(SLIDES) == 1
    counts(database, rows(["s3"], vectors(1)))
    assert database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist() == ["s1", "s3"]


def test_what_another_program_writes_is_not_taken_for_ours(database: Database) -> None:
    counts(database, rows(["s1"], vectors(1)))
    lancedb.connect(str(database.path)).open_table("slides").delete("true")
    assert database.count(SLIDES) == 1
    assert "nothing needs" in str(doctor.examine(database.path).findings)
    counts(database, rows(["s2"], vectors(1)))
    assert database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist() == ["s1", "s2"]


def test_columns_that_pairs_and_folds_are_made_of_make_derived_files_stale(
    database: Database,
) -> None:
    counts(database, rows(["s1"], vectors(1), spot=["a"], age=[50]))
    entry = {"space_id": "0" * 64, "sha256": {}, "reads": ["patient_id", "spot"]}
    database.update_manifest(lambda m: m["spaces"].update(default=entry))
    before = database.vectors_version(SLIDES)
    database.set_columns(SLIDES, SLIDES.key, pa.table({SLIDES.key: ["s1"], "age": [51]}))
    assert database.vectors_version(SLIDES) == before
    database.set_columns(SLIDES, SLIDES.key, pa.table({SLIDES.key: ["s1"], "spot": ["b"]}))
    assert database.vectors_version(SLIDES) == database.manifest()["version"] > before


def test_a_derived_file_of_a_state_that_has_passed_is_not_stored(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    view = database.pinned()
    database.set_columns(SLIDES, SLIDES.key, pa.table({SLIDES.key: ["x"], "age": [1]}))
    with pytest.raises(DatabaseError, match="has changed while"):
        view.write_sidecar(SLIDES, ["cohort"])


def test_a_derived_file_that_goes_while_it_is_read_is_read_all_the_same(
    aligned_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its being opened and its use, another process has built it anew."""
    database = Database.open(aligned_copy)
    space_id = database.manifest()["spaces"]["default"]["space_id"]
    right = database.read(SLIDES, [SLIDES.key])
    real = Database.mapped

    def gone(self: Database, section: str, key: str) -> Any:
        found = real(self, section, key)
        assert found is not None
        found[1].path.unlink()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Database, "mapped", gone)
        assert database.read_sidecar(SLIDES, [SLIDES.key]).equals(right)
        assert prepared.load(database, space_id) is not None
    assert database.read_sidecar(SLIDES, [SLIDES.key]).to_pydict() == right.to_pydict()
    assert prepared.load(database, space_id) is None, "it is not there any more"


def test_a_view_made_within_a_block_sees_what_the_block_did(database: Database) -> None:
    with database.writing("test"):
        counts(database, rows(["s1"], vectors(1)))
        assert database.pinned().count(SLIDES) == 1


# The lock ----------------------------------------------------------------------------------------

HOLD = (
    "import sys, time\n"
    "from molquery.database import Database\n"
    "with Database.open(sys.argv[1]).writing('align'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    words = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_holds_the_lock_is_said_and_a_killed_holder_blocks_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT", 0.2)
    process = holder(database.path)
    try:
        with pytest.raises(DatabaseError, match="another process has been writing") as caught:
            counts(database, rows(["s1"], vectors(1)))
        assert f"molquery align, process {process.pid} on " in str(caught.value)
        assert "since 20" in str(caught.value)
        assert not database.has(SLIDES), "readers do not wait"
    finally:
        process.kill()
        process.communicate()
    left = lock.writer(database.path)
    assert left is not None
    assert left.running is False
    assert counts(database, rows(["s1"], vectors(1))) == (1, 0, 0)
    assert lock.writer(database.path) is None


def test_a_writer_waits_for_another(database: Database) -> None:
    order: list[str] = []

    def slow() -> None:
        with Database.open(database.path).writing("first"):
            started.set()
            time.sleep(0.3)
            order.append("first")

    started = threading.Event()
    thread = threading.Thread(target=slow)
    thread.start()
    started.wait(10)
    counts(database, rows(["s1"], vectors(1)))
    order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_process_id_used_again_is_another_process() -> None:
    mine = os.getpid()
    assert processes.alive(mine)
    assert processes.alive(mine, processes.started(mine))
    assert not processes.alive(mine, "12")
    assert not processes.alive(2**22 + 1)
    assert not processes.alive(10**30)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff", b"null"])
def test_a_damaged_record_of_the_writer_stops_nobody(database: Database, content: bytes) -> None:
    (database.path / schema.WRITER).write_bytes(content)
    assert lock.writer(database.path) is None
    assert counts(database, rows(["s1"], vectors(1))) == (1, 0, 0)


# Commands that run at once -----------------------------------------------------------------------


def slide_file(path: Path, ids: list[str], values: Matrix) -> Path:
    from pyarrow import parquet

    table = pa.table({"slide_id": ids, "features": matrix_to_list(values)})
    parquet.write_table(table, path)
    return path


def test_slides_ingested_while_another_encoder_was(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see an empty table; the second must not mix its vectors into the first's."""
    one = slide_file(tmp_path / "one.parquet", ["a", "b"], vectors(2))
    two = slide_file(tmp_path / "two.parquet", ["c"], vectors(1))
    real = ingest._rows

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(ingest, "_rows", real)
        ingest_slides(database, [one], options=Options(), encoder="uni", kind="embedding")
        return real(*arguments)

    monkeypatch.setattr(ingest, "_rows", meanwhile)
    with pytest.raises(MismatchError, match="another encoder"):
        ingest_slides(database, [two], options=Options(), encoder="conch", kind="embedding")
    assert database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist() == ["a", "b"]


def test_slides_that_come_and_go_while_a_space_is_learned(ingested_copy: Path) -> None:
    database = Database.open(ingested_copy)
    ids = database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist()
    done: list[int] = []

    def meanwhile(stage: str, *_: object) -> None:
        if stage == "projecting" and not done:  # the pairs are read, the rows not yet written
            done.append(database.delete_rows(SLIDES, f"slide_id = '{ids[0]}'"))

    align(database, AlignSettings(method="cca"), progress=meanwhile)
    assert done == [1]
    space = current_space(database)
    assert space is not None
    held = database.read(SLIDES, [schema.COHORT, schema.SITE, SLIDES.vector])
    right = space.project_slides(
        list_to_matrix(held[SLIDES.vector]),
        held[schema.COHORT].to_pylist(),
        held[schema.SITE].to_pylist(),
    )
    stored = database.matrix(SLIDES, schema.shared_column(space.space_id))
    np.testing.assert_allclose(stored, right, atol=1e-6)
    assert len(stored) == len(ids) - 1


def test_an_interrupt_that_lance_reports_as_its_own_error_is_an_interrupt(
    aligned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(aligned)
    dataset = database.dataset(SLIDES)

    def interrupted(*_: object, **__: object) -> None:
        raise OSError("External error: KeyboardInterrupt: ")

    monkeypatch.setattr(type(dataset), "scanner", interrupted)
    with pytest.raises(KeyboardInterrupt):
        database.read(SLIDES, [SLIDES.key])
