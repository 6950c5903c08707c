"""Versions, tags, going back, deleting without a trace, compacting, snapshots; each interrupted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molquery import backup, doctor, history
from molquery.align.train import AlignSettings, align
from molquery.database import Database, manifest, tables
from molquery.errors import (
    ConflictError,
    DatabaseError,
    FilterError,
    InputError,
    MolqueryError,
    OutputError,
)
from molquery.genesets import collections
from molquery.genesets.registered import register, registered
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes
from molquery.query.retrieve import retrieve
from molquery.query.search import search
from molquery.recipes import load_recipe
from molquery.records import Signature
from molquery.schema import PROFILES, SLIDES

HYPOXIA = collections.find("HALLMARK_HYPOXIA")
Cli = Callable[..., Any]


def ids(database: Database, spec: Any = SLIDES) -> list[str]:
    return list(database.read(spec, [spec.key])[spec.key].to_pylist())


def top(database: Database, k: int = 5) -> list[Any]:
    return list(search(Engine(database), HYPOXIA, k=k, null=0).hits.to_pylist())


def paired_slide(database: Database) -> tuple[str, str]:
    """A slide whose patient has a profile, and the patient."""
    patients = set(database.read(PROFILES, ["patient_id"])["patient_id"].to_pylist())
    rows = database.read(SLIDES, [SLIDES.key, "patient_id"]).to_pylist()
    found = next(row for row in rows if row["patient_id"] in patients)
    return found[SLIDES.key], found["patient_id"]


def lone_slide(database: Database) -> str:
    """A slide whose patient has no profile."""
    patients = set(database.read(PROFILES, ["patient_id"])["patient_id"].to_pylist())
    rows = database.read(SLIDES, [SLIDES.key, "patient_id"]).to_pylist()
    return str(next(row[SLIDES.key] for row in rows if row["patient_id"] not in patients))


def remove(database: Database, *keys: str, purge: bool = False) -> history.Deleted:
    listed = ", ".join(f"'{key}'" for key in keys)
    plan = history.plan_deletion(database, SLIDES, f"slide_id IN ({listed})")
    assert set(plan.ids) == set(keys)
    return history.delete(database, plan, purge=purge)


# History and tags --------------------------------------------------------------------------------


def test_history_says_what_each_command_did(aligned: Path) -> None:
    database = Database.open(aligned)
    found = history.versions(database)
    assert [v.command for v in found] == [
        "init", "ingest slides", "ingest profiles", "ingest metadata", "align"
    ]  # fmt: skip
    assert [v.version for v in found] == [0, 1, 2, 3, 4]
    n_slides, n_profiles = database.count(SLIDES), database.count(PROFILES)
    assert [v.slides for v in found] == [0] + [n_slides] * 4
    assert [v.profiles for v in found] == [0, 0] + [n_profiles] * 3
    assert found[1].details == f"{n_slides} slides inserted"
    assert [bool(v.space) for v in found] == [False] * 4 + [True]
    assert [v.current for v in found] == [False] * 4 + [True]
    assert [v.time for v in found] == sorted(v.time for v in found)


def test_what_is_derived_makes_no_version(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    build_indexes(Engine(database), load_recipe("ivf"))
    assert history.versions(database)[-1].version == 4


def test_tags(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    assert history.tag(database, "paper") == 4
    assert history.tag(database, "raw", 2) == 2
    with pytest.raises(OutputError, match="version 2 has the tag raw"):
        history.tag(database, "raw", 3)
    history.tag(database, "raw", 3, overwrite=True)
    assert {v.version: v.tags for v in history.versions(database)}[3] == ("raw",)
    history.untag(database, "raw")
    with pytest.raises(InputError, match="no tag raw"):
        history.restore(database, tag="raw")
    for bad in ("", "7", "a b", "../x", "x" * 65):
        with pytest.raises(InputError, match="cannot be a tag"):
            history.tag(database, bad)
    with pytest.raises(DatabaseError, match="no version 99"):
        history.tag(database, "late", 99)


# Restore -----------------------------------------------------------------------------------------


def test_restore_brings_everything_back_and_can_be_undone(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    before, answer = ids(database), top(database)
    vectors = database.matrix(SLIDES, SLIDES.vector)
    space = database.manifest()["spaces"]
    remove(database, before[0], before[3])
    register(database, "mine", [Signature("A", {"CA9": 1.0})], origin="test")
    assert len(ids(database)) == len(before) - 2
    done = history.restore(database, 4)
    assert (done.source, done.version, done.slides) == (4, 7, len(before))
    assert ids(database) == before
    np.testing.assert_array_equal(database.matrix(SLIDES, SLIDES.vector), vectors)
    assert database.manifest()["spaces"] == space
    assert registered(database) == ()
    assert top(database) == answer
    held = database.manifest()["indexes"]["default-slides-flat"]
    assert held["rows"] == len(before), "it went with the rows, and came again with the answer"
    history.restore(database, 6)
    assert len(ids(database)) == len(before) - 2
    assert [s.name for s in registered(database)] == ["A"]


def test_restore_to_before_the_alignment(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    done = history.restore(database, 2)
    assert "site" in database.metadata_columns(SLIDES)
    assert not any(c.startswith("shared_") for c in database.dataset(SLIDES).schema.names)
    assert "indexes that are not of this version" in done.notes[0]
    with pytest.raises(MolqueryError, match="no shared space"):
        Engine(database)
    history.restore(database, 0)
    assert not database.has(SLIDES)
    assert not database.has(PROFILES)
    history.restore(database, 4)
    assert len(top(database)) == 5


def test_restore_of_the_current_state_changes_nothing(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    assert history.restore(database, 4).version is None
    history.tag(database, "x")
    assert history.restore(database, tag="x").version is None
    history.restore(database, 3)
    again = history.restore(database, 3)
    assert again.version is None


def test_a_damaged_version_is_not_restored(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    history.restore(database, 3)
    heads = next(aligned_copy.glob("spaces/*/*/heads.safetensors"))
    blob = bytearray(heads.read_bytes())
    blob[100] ^= 4
    heads.write_bytes(bytes(blob))
    before = manifest.read(aligned_copy)
    with pytest.raises(DatabaseError, match=r"heads\.safetensors is damaged"):
        history.restore(database, 4)
    assert manifest.read(aligned_copy) == before
    record = manifest.record_path(aligned_copy, 2)
    record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(DatabaseError, match=r"version 2 of .* cannot be read"):
        history.restore(database, 2)
    listed = {v.version: v for v in history.versions(database)}
    assert (listed[2].damaged, listed[3].damaged) == (True, False)


@pytest.mark.parametrize("damage", ["first bytes", "middle", "cut", "empty", "missing"])
def test_restore_is_the_way_out_when_the_newest_version_is_damaged(
    aligned_copy: Path, damage: str
) -> None:
    """Lance's own file of the current version; it cannot even be opened, and Lance may panic."""
    database = Database.open(aligned_copy)
    before, answer = ids(database), top(database)
    remove(database, before[0])
    version = database.version(SLIDES)
    file = aligned_copy / "slides.lance" / tables.manifest_file(version)
    blob = bytearray(file.read_bytes())
    if damage == "first bytes":
        blob[:4] = b"\xff\xff\xff\x1d"
    elif damage == "middle":
        blob[len(blob) // 2] ^= 255
    else:
        blob = blob[: 40 if damage == "cut" else 0]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(bytes(blob))
    with pytest.raises(DatabaseError, match="is damaged"):
        ids(Database.open(aligned_copy))
    (found,) = [f for f in doctor.examine(aligned_copy).findings if f.check == "tables"]
    assert "molquery restore --version 4, or " in found.remedy
    assert history.restore(Database.open(aligned_copy), 4).version == 6
    database = Database.open(aligned_copy)
    assert (ids(database), top(database)) == (before, answer)
    # Lance may give the same number again: what was derived before must not pass for current.
    remove(database, before[1])
    assert database.vectors_version(SLIDES) == 7
    assert [h["slide_id"] for h in top(database, 10_000)] != before
    assert not {f.check for f in doctor.examine(aligned_copy).findings if f.severity == "error"}


# Deleting ----------------------------------------------------------------------------------------


def traces(root: Path, text: str, vectors: list[bytes]) -> set[str]:
    """Files in which the text, or sixteen bytes in a row of one of the vectors, stands."""
    needles = [text.encode(), *(v[i : i + 16] for v in vectors for i in range(0, len(v) - 15, 16))]
    return {
        str(file.relative_to(root))
        for file in root.rglob("*")
        if file.is_file() and any(needle in file.read_bytes() for needle in needles)
    }


def test_a_purged_slide_leaves_no_trace(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    slide = lone_slide(database)
    row = ids(database).index(slide)
    shared = next(c for c in database.dataset(SLIDES).schema.names if c.startswith("shared_"))
    vectors = [database.matrix(SLIDES, c)[row].tobytes() for c in (SLIDES.vector, shared)]
    kinds = {name.split("/")[0] for name in traces(aligned_copy, slide, vectors)}
    assert kinds == {"slides.lance", "indexes"}, "the test would find a trace"
    near = str(ids(database, PROFILES)[0])
    others = [i for i in ids(database) if i != slide]

    done = remove(database, slide)
    assert (done.rows, done.left, done.version) == (1, len(others), 5)
    assert ids(database) == others
    assert not any("slides" in f.name for f in (aligned_copy / "indexes").iterdir())
    engine = Engine(database)
    ranking = search(engine, HYPOXIA, k=10_000, null=0)
    assert slide not in ranking.hits["slide_id"].to_pylist()
    hits = retrieve(engine, near, to="slides", source="profiles", k=10_000).hits
    assert sorted(hits["slide_id"].to_pylist()) == others
    assert any(n.startswith("slides.lance") for n in traces(aligned_copy, slide, vectors))

    history.compact(database, purge=True)
    build_indexes(Engine(database), load_recipe("flat"))
    assert traces(aligned_copy, slide, vectors) == set()
    assert [v.version for v in history.versions(database)] == [6]
    assert ids(database) == others
    diagnosis = doctor.examine(aligned_copy)
    assert diagnosis.healthy, diagnosis.findings


def test_purging_a_patient_removes_the_space_learned_from_them(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    slide, patient = paired_slide(database)
    history.tag(database, "old")
    plan = history.plan_deletion(database, SLIDES, f"patient_id = '{patient}'")
    assert plan.learned
    assert plan.elsewhere == 1
    done = history.delete(database, plan, purge=True)
    assert any("molquery align" in note for note in done.notes)
    assert any("1 profiles as well" in note for note in done.notes)
    history.delete(
        database, history.plan_deletion(database, PROFILES, f"patient_id = '{patient}'"), purge=True
    )
    assert traces(aligned_copy, patient, []) == set()
    assert traces(aligned_copy, slide, []) == set()
    (left,) = history.versions(database)
    assert left.details == "1 profiles deleted for good"
    assert left.tags == ()
    assert not list(aligned_copy.glob("spaces/*/*"))
    align(database, AlignSettings(method="cca"))
    assert len(top(database)) == 5


def test_a_table_that_lost_its_last_row_is_empty(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    done = history.delete(database, history.plan_deletion(database, SLIDES, "true"))
    assert (done.left, database.has(SLIDES), database.has(PROFILES)) == (0, False, True)
    with pytest.raises(MolqueryError, match="holds no slides yet"):
        Engine(database)
    history.restore(database, 4)
    assert len(top(database)) == 5


def test_without_pairs_nothing_is_claimed(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    patients = [p for p in database.read(PROFILES, ["patient_id"])["patient_id"].to_pylist() if p]
    listed = ", ".join(f"'{p}'" for p in patients)
    plan = history.plan_deletion(database, SLIDES, f"patient_id IN ({listed})")
    history.delete(database, plan)
    with pytest.raises(MolqueryError, match=r"no slide .* has a profile of its own patient"):
        top(database)


def test_a_plan_that_no_longer_holds_deletes_nothing(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    plan = history.plan_deletion(database, SLIDES, "cohort = 'COHORT-A'")
    remove(database, plan.ids[0])
    before = manifest.read(aligned_copy)
    with pytest.raises(DatabaseError, match="have changed meanwhile"):
        history.delete(database, plan)
    assert manifest.read(aligned_copy) == before
    with pytest.raises(FilterError, match="nowhere"):
        history.plan_deletion(database, SLIDES, "nowhere = 1")


# Compacting --------------------------------------------------------------------------------------


def test_compacting_keeps_what_history_promises(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    history.tag(database, "first", 2)
    before = ids(database)
    remove(database, before[0])
    after, answer = ids(database), top(database)
    done = history.compact(database, keep=2)
    assert done.kept == (2, 6, 7)
    assert done.dropped == (0, 1, 3, 4, 5)
    assert [v.version for v in history.versions(database)] == [2, 6, 7]
    assert ids(database) == after
    assert top(database) == answer
    with pytest.raises(DatabaseError, match="no version 4"):
        history.restore(database, 4)
    history.restore(database, tag="first")
    assert ids(database) == before
    history.restore(database, 7)
    assert top(database) == answer
    assert not [f for f in doctor.examine(aligned_copy).findings if f.severity == "error"]
    with pytest.raises(InputError, match="--keep"):
        history.compact(database, keep=0)


def test_compacting_twice_changes_nothing(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    history.compact(database)
    before = manifest.read(aligned_copy)
    done = history.compact(database)
    assert (done.dropped, done.files, done.bytes) == ((), 0, 0)
    assert manifest.read(aligned_copy) == before


def test_a_reader_whose_version_was_dropped_is_told(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    reader = database.pinned()
    remove(database, ids(database)[0])
    assert len(ids(reader)) == len(ids(database)) + 1
    history.compact(database, purge=True)
    reader = Database.open(aligned_copy).pinned()
    old = database.pinned()
    old._pinned = {**manifest.empty(), **reader.manifest(), "version": 4}
    old._pinned["tables"]["slides"]["files"] = {"_versions/18446744073709551611.manifest": "x"}
    old._pinned["tables"]["slides"]["version"] = 4
    with pytest.raises(ConflictError, match=r"version 4 .* was removed while it was being read"):
        ids(old)


@pytest.mark.parametrize(
    "read",
    [
        lambda db: db.read(SLIDES, ["site"]),
        lambda db: db.read(SLIDES, ["site"], where="site IS NOT NULL"),
        lambda db: list(db.batches(SLIDES, ["site"])),
    ],
)
def test_a_version_may_go_after_its_files_were_checked(
    aligned_copy: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Database], object]
) -> None:
    """Lance then says that a file is not there: neither the table nor the filter is to blame."""
    database = Database.open(aligned_copy)
    reader = database.pinned()
    remove(database, ids(database)[0])
    check = tables.check_columns

    def dropped(*words: Any) -> None:
        check(*words)
        monkeypatch.setattr(tables, "check_columns", check)
        history.compact(database, purge=True)
        for file in (aligned_copy / "slides.lance" / "data").iterdir():
            file.unlink()

    monkeypatch.setattr(tables, "check_columns", dropped)
    with pytest.raises(ConflictError, match="was removed while it was being read"):
        read(reader)


def test_a_command_whose_version_was_dropped_is_run_again(
    aligned_copy: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = [ConflictError("version 4 of it was removed while it was being read")]

    def counted(*words: Any, **named: Any) -> Any:
        if raised:
            raise raised.pop()
        return counts(*words, **named)

    counts = Database.metadata_columns
    monkeypatch.setattr(Database, "metadata_columns", counted)
    monkeypatch.setattr("time.sleep", lambda _: None)
    done = cli("--db", aligned_copy, "info", "--format", "json")
    assert (done.code, raised) == (0, [])
    assert "being read; it is run again (2 of 3)" in done.err
    assert json.loads(done.out)


# Interrupted -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


#: Where a command can die: before the versions are kept, before the manifest, before it clears up.
POINTS = (
    "molquery.database.tables.entry_of",
    "molquery.database.manifest.write_record",
    "molquery.database.manifest.write",
    "molquery.database.leftovers.remove",
)
COMMANDS: dict[str, Callable[[Database], object]] = {
    "restore": lambda db: history.restore(db, 2),
    "delete": lambda db: remove(db, ids(db)[0]),
    "purge": lambda db: remove(db, ids(db)[0], purge=True),
    "compact": lambda db: history.compact(db, keep=1),
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_is_before_or_after(
    aligned_copy: Path, monkeypatch: pytest.MonkeyPatch, command: str, point: str
) -> None:
    database = Database.open(aligned_copy)
    every = ids(database)
    remove(database, every[0])  # so that there is something to restore and to compact
    before = every[1:]
    after = {"restore": every, "compact": before}.get(command, before[1:])

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(point, die)
        with pytest.raises(Killed):
            COMMANDS[command](database)
    database = Database.open(aligned_copy)
    held = ids(database)
    assert held in (before, after)
    assert len(database.matrix(SLIDES, SLIDES.vector)) == len(held)
    diagnosis = doctor.examine(aligned_copy)
    assert "error" not in {f.severity for f in diagnosis.findings}, diagnosis.findings
    assert next(f for f in diagnosis.findings if f.check == "writer").severity == "note"
    # The next command needs no repair by hand, and clears up.
    COMMANDS[command](database)
    assert ids(database) == (held[1:] if command in ("delete", "purge") else after)
    diagnosis = doctor.examine(aligned_copy)
    assert not {f.check for f in diagnosis.findings if f.severity == "warning"} - {"indexes"}
    assert "writer" not in {f.check for f in diagnosis.findings}


# Snapshots ---------------------------------------------------------------------------------------


def test_a_snapshot_answers_as_the_database_did(aligned_copy: Path, tmp_path: Path) -> None:
    database = Database.open(aligned_copy)
    before, answer = ids(database), top(database)
    made = backup.snapshot(database, tmp_path / "copies" / "one.mq")
    remove(database, *before[:3])
    copy = Database.open(made.path)
    assert (ids(copy), top(copy), made.left_out) == (before, answer, ())
    assert doctor.examine(made.path).healthy
    # The way back: a snapshot of the snapshot takes the place of the database.
    shutil.rmtree(aligned_copy)
    backup.snapshot(copy, aligned_copy)
    assert top(Database.open(aligned_copy)) == answer
    remove(Database.open(aligned_copy), before[0])


def test_a_snapshot_is_of_one_version_while_others_write(
    aligned_copy: Path, tmp_path: Path
) -> None:
    database = Database.open(aligned_copy)
    before = ids(database)
    written = []

    def write(stage: str, done: int, total: int) -> None:
        if done == 2:
            written.append(remove(Database.open(aligned_copy), before[0]))

    made = backup.snapshot(database, tmp_path / "one.mq", progress=write)
    assert len(written) == 1
    assert (made.version, ids(Database.open(made.path))) == (4, before)


def test_a_snapshot_begins_again_when_its_version_is_dropped(
    aligned_copy: Path, tmp_path: Path
) -> None:
    database = Database.open(aligned_copy)
    before = ids(database)
    purged = []

    def purge(stage: str, done: int, total: int) -> None:
        if done == 1 and not purged:
            purged.append(remove(Database.open(aligned_copy), before[0], purge=True))

    made = backup.snapshot(database, tmp_path / "one.mq", progress=purge)
    assert ids(Database.open(made.path)) == before[1:]
    assert traces(made.path, before[0], []) == set()


def test_a_snapshot_of_damaged_truth_is_refused(aligned_copy: Path, tmp_path: Path) -> None:
    database = Database.open(aligned_copy)
    index_file = next(aligned_copy.glob("indexes/*-flat-*"))
    index_file.write_bytes(b"x" + index_file.read_bytes()[1:])
    made = backup.snapshot(database, tmp_path / "one.mq")
    assert made.left_out == (f"indexes/{index_file.name}",)
    assert doctor.examine(made.path).healthy
    file = next(aligned_copy.glob("slides.lance/data/*"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(DatabaseError, match="is damaged: no snapshot"):
        backup.snapshot(database, tmp_path / "two.mq")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aligned.mq", "one.mq"]


def test_a_snapshot_replaces_nothing(aligned_copy: Path, tmp_path: Path) -> None:
    database = Database.open(aligned_copy)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "thesis", tmp_path / "file", aligned_copy):
        with pytest.raises(OutputError, match="not empty"):
            backup.snapshot(database, target)
    with pytest.raises(OutputError, match="lies in the database"):
        backup.snapshot(database, aligned_copy / "copy")
    with pytest.raises(OutputError, match="cannot write"):
        backup.snapshot(database, tmp_path / "file" / "copy")
    (tmp_path / "empty").mkdir()
    backup.snapshot(database, tmp_path / "empty")
    assert ids(Database.open(tmp_path / "empty")) == ids(database)


# The command line --------------------------------------------------------------------------------


def test_the_commands(cli: Cli, aligned_copy: Path, tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return cli("--db", aligned_copy, *words)

    document = json.loads(run("history", "--format", "json").out)
    assert [v["version"] for v in document["versions"]] == [0, 1, 2, 3, 4]
    assert run("history", "tag", "paper").code == 0
    where = ("--where", "cohort = 'COHORT-A'")
    count = Database.open(aligned_copy).count(SLIDES, "cohort = 'COHORT-A'")
    asked = run("delete", "slides", *where)
    assert asked.code == 1
    assert f"{count} of " in asked.err
    assert "add --yes" in asked.err
    assert Database.open(aligned_copy).count(SLIDES, "cohort = 'COHORT-A'") == count
    assert f"{count} slides deleted" in run("delete", "slides", *where, "--yes").out
    again = run("delete", "slides", *where, "--yes")
    assert (again.code, "no slides satisfy" in again.err) == (1, True)
    assert run("delete", "slides", "--yes").code == 2
    empty = run("delete", "slides", "--where", "", "--yes")
    assert (empty.code, "--where" in empty.err, "Traceback" in empty.err) == (1, True, False)
    assert "version 4 is back, as version 7" in run("restore", "--tag", "paper").out
    assert "nothing to do" in run("restore", "--version", 4).err
    assert run("restore").code == 1
    assert "no version 99" in run("restore", "--version", 99).err
    assert run("snapshot", tmp_path / "copy.mq").code == 0
    assert cli("--db", tmp_path / "copy.mq", "info").code == 0
    assert "not empty" in run("snapshot", tmp_path / "copy.mq").err
    assert "add --yes" in run("compact", "--keep", 2).err
    assert "versions dropped, 3 kept" in run("compact", "--keep", 2, "--yes").out
    rows = run("history", "--format", "tsv").out.splitlines()
    assert [row.split("\t")[0] for row in rows] == ["version", "4", "6", "7"]
    assert run("history", "untag", "paper").code == 0
    assert run("history", "untag", "paper").code == 1
