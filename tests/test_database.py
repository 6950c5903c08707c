"""The database on disk: upserts, metadata, versions, the manifest, damage, and two writers."""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from molquery import schema
from molquery.database import Database, list_to_matrix, matrix_to_list
from molquery.errors import ColumnError, DatabaseError, FilterError
from molquery.schema import PROFILES, SLIDES
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


def test_two_processes_that_insert_the_same_keys_make_no_duplicates(database: Database) -> None:
    counts(database, rows(["s1"], vectors(1)))
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
    assert len(ids) == len(set(ids)) == 51
    # Each row is wholly one writer's: the last one won all of them.
    held = database.matrix(SLIDES, SLIDES.vector)[:50]
    assert any(np.array_equal(held, vectors(50, seed)) for seed in (1, 2))


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
    assert database.vectors_version(SLIDES) == database.version(SLIDES) > before


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
        database.set_vectors(SLIDES, "shared_x", vectors(2))
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
    manifest = json.loads(path.read_text())
    manifest["format_version"] += change
    path.write_text(json.dumps(manifest))
    with pytest.raises(DatabaseError, match=f"{word} on-disk format") as caught:
        Database.open(database.path)
    assert f"reads format {schema.FORMAT_VERSION}" in str(caught.value)


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
