"""Doctor: every kind of damage is found with its remedy, and repair mends what is derived."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from molquery import doctor, environment, history, schema
from molquery.database import Database, manifest
from molquery.errors import DatabaseError
from molquery.genesets import collections
from molquery.query.engine import Engine
from molquery.query.search import search
from molquery.schema import PROFILES, SLIDES

Cli = Callable[..., Any]
HYPOXIA = collections.find("HALLMARK_HYPOXIA")


def flip(file: Path, at: float = 0.5) -> None:
    blob = bytearray(file.read_bytes())
    blob[int(at * (len(blob) - 1))] ^= 1
    file.write_bytes(bytes(blob))


def top(path: Path) -> list[Any]:
    return list(search(Engine(Database.open(path)), HYPOXIA, k=5, null=0).hits.to_pylist())


def bad(diagnosis: doctor.Diagnosis) -> dict[str, doctor.Finding]:
    return {f.check: f for f in diagnosis.findings if f.severity in ("warning", "error")}


# Sound -------------------------------------------------------------------------------------------


def test_a_sound_database(aligned: Path) -> None:
    found = doctor.examine(aligned)
    assert found.healthy, bad(found)
    assert {f.check for f in found.findings if f.severity == "ok"} >= {
        "FAISS", "libraries", "disk", "manifest", "versions", "files", "slides", "profiles",
        "space", "shared vectors", "indexes", "predictions", "sidecars", "gene table", "leftovers",
    }  # fmt: skip


def test_an_empty_database_and_one_that_is_not_aligned(tmp_path: Path, ingested: Path) -> None:
    Database.create(tmp_path / "new.mq")
    assert doctor.examine(tmp_path / "new.mq").healthy
    found = doctor.examine(ingested)
    assert found.healthy
    assert [f.remedy for f in found.findings if f.check == "space"] == ["molquery align"]


def test_nothing_is_written_by_looking(
    aligned_copy: Path, unchanged: Callable[[Path], None]
) -> None:
    unchanged(aligned_copy)
    doctor.examine(aligned_copy)


def test_no_database_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DatabaseError, match=r"no database|not a molquery database"):
            doctor.examine(path)
        with pytest.raises(DatabaseError):
            doctor.repair(path)
    assert list(tmp_path.iterdir()) == []


# Damage ------------------------------------------------------------------------------------------

#: What is damaged -> the check that finds it, its severity, and whether repair mends it.
DAMAGE = {
    "manifest.json": ("manifest", "error", True),
    "versions/000004.json": ("versions", "warning", True),
    "versions/000002.json": ("versions", "warning", False),
    "indexes/*-slides-flat-*": ("indexes", "warning", True),
    "indexes/slides-*.arrow": ("sidecars", "warning", True),
    "indexes/predictions-*": ("predictions", "warning", True),
    "spaces/*/*/heads.safetensors": ("space", "error", False),
    "spaces/*/*/space.json": ("space", "error", False),
    "slides.lance/_versions/*.manifest": ("tables", "error", False),
}


@pytest.mark.parametrize("pattern", DAMAGE)
@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
def test_damage_is_found_and_the_derived_is_mended(
    aligned_copy: Path, aligned: Path, pattern: str, how: str
) -> None:
    check, severity, mends = DAMAGE[pattern]
    if (pattern, how) == ("versions/000002.json", "missing"):
        pytest.skip("a version that was dropped is not kept: nothing is wrong")
    file = min(aligned_copy.glob(pattern))
    if how == "flipped":
        flip(file)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        file.unlink()
    found = bad(doctor.examine(aligned_copy))
    assert found[check].severity == severity
    assert found[check].remedy
    assert found[check].mends is mends
    truth = {
        f.relative_to(aligned_copy): f.read_bytes()
        for pattern in ("*.lance/**/*", "spaces/*/*/*")
        for f in aligned_copy.glob(pattern)
        if f.is_file()
    }
    after = doctor.repair(aligned_copy)
    assert after.healthy is mends
    assert bool(after.repaired) is mends
    for name, content in truth.items():
        assert (aligned_copy / name).read_bytes() == content, "repair wrote to the truth"
    if mends:
        assert top(aligned_copy) == top(aligned)


def test_a_damaged_data_file_names_the_way_back(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    files = {n for n in manifest.table_files(database.manifest()) if n.startswith("slides.lance/d")}
    only_shared = {f"slides.lance/{n}" for n in database.only_shared(SLIDES)}
    assert len(files) > len(only_shared) == 1
    for name in files - only_shared:
        flip(aligned_copy / name)
    found = bad(doctor.repair(aligned_copy))
    assert "ingest the files into a new database" in found["tables"].remedy
    assert not found["tables"].mends
    with pytest.raises(DatabaseError, match="is damaged: nothing is read"):
        database.matrix(SLIDES, SLIDES.vector)


def test_damaged_shared_vectors_are_projected_anew(aligned_copy: Path, aligned: Path) -> None:
    database = Database.open(aligned_copy)
    (name,) = database.only_shared(SLIDES)
    flip(aligned_copy / "slides.lance" / name)
    assert bad(doctor.examine(aligned_copy))["shared vectors"].mends
    for stored in aligned_copy.glob("indexes/default-*"):
        stored.unlink()  # else nothing needs the file
    with pytest.raises(DatabaseError, match="is damaged"):
        _ = Engine(Database.open(aligned_copy)).slide_vectors
    after = doctor.repair(aligned_copy)
    # The version before holds the damaged file, and cannot be restored.
    assert set(bad(after)) == {"versions"}
    assert top(aligned_copy) == top(aligned)
    history.compact(Database.open(aligned_copy), keep=1)
    assert doctor.examine(aligned_copy).healthy


def test_a_manifest_and_its_copy_both_damaged(aligned_copy: Path) -> None:
    flip(aligned_copy / "manifest.json")
    flip(aligned_copy / "versions" / "000004.json")
    found = bad(doctor.repair(aligned_copy))
    assert "backup" in found["manifest"].remedy, "an older version is not passed off as this one"
    with pytest.raises(DatabaseError, match="cannot be made anew"):
        Database.recover(aligned_copy)


# Mismatches --------------------------------------------------------------------------------------


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    Database.open(path).update_manifest(edit)


def test_rows_without_shared_vectors(aligned_copy: Path, aligned: Path) -> None:
    database = Database.open(aligned_copy)
    column = schema.shared_column(database.manifest()["spaces"]["default"]["space_id"])
    vectors = database.matrix(SLIDES, column)
    vectors[3:5] = np.nan
    keys = database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist()
    of = dict(zip(keys, vectors, strict=True))
    reads = [SLIDES.key]
    database.set_vectors(
        SLIDES, column, vectors.shape[1], reads,
        lambda rows: np.array([of[key] for key in rows[SLIDES.key].to_pylist()]),
    )  # fmt: skip
    found = bad(doctor.examine(aligned_copy))["shared vectors"]
    assert found.what == "2 slides have none in the space"
    assert doctor.repair(aligned_copy).healthy
    assert top(aligned_copy) == top(aligned)
    database = Database.open(aligned_copy)
    database.drop_shared(keep="")
    assert bad(doctor.examine(aligned_copy))["shared vectors"].severity == "error"
    assert doctor.repair(aligned_copy).healthy


def test_a_space_of_another_encoder(aligned_copy: Path, aligned: Path) -> None:
    held = Database.open(aligned).facts(SLIDES)
    real = Database.facts

    class Other(Database):
        def facts(self, spec: Any) -> dict[str, Any]:
            told = real(self, spec)
            return {**told, "encoder": "uni"} if spec is SLIDES else {**told, "dim": 7}

    (found,) = doctor._space(Other(aligned_copy), [SLIDES, PROFILES])
    assert found.severity == "error"
    assert f"encoder {held['encoder']}, where the slides have uni" in found.what
    assert "where the profiles have 7" in found.what


def test_the_same_id_twice_is_found(aligned_copy: Path) -> None:
    import lance

    path = aligned_copy / "slides.lance"
    dataset = lance.dataset(str(path))
    lance.write_dataset(dataset.to_table(limit=2), str(path), mode="append")
    # As if a writer without a lock had done it: the manifest takes the version as it is.
    database = Database.open(aligned_copy)
    with database.writing("test"):
        database._record(SLIDES)
    found = bad(doctor.examine(aligned_copy))["slides"]
    assert (found.severity, "2 ids are there twice" in found.what) == ("error", True)


def test_an_index_of_an_earlier_state(aligned_copy: Path) -> None:
    def older(state: dict[str, Any]) -> None:
        state["indexes"]["default-slides-flat"]["vectors_version"] -= 1

    change(aligned_copy, older)
    found = bad(doctor.examine(aligned_copy))["indexes"]
    assert "slides have changed" in found.what
    assert doctor.repair(aligned_copy).healthy

    def fewer(state: dict[str, Any]) -> None:
        state["indexes"]["default-slides-flat"]["rows"] -= 1

    change(aligned_copy, fewer)
    assert "it covers" in bad(doctor.examine(aligned_copy))["indexes"].what


def test_what_a_killed_writer_leaves(aligned_copy: Path) -> None:
    """A process that dies while it holds the lock, with a file half written."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from molquery.database import Database\n"
        "from molquery.files import temporary_file\n"
        "from molquery.schema import SLIDES\n"
        "database = Database.open(sys.argv[1])\n"
        "with database.writing('ingest slides'):\n"
        "    database._head(SLIDES).delete('true')\n"
        "    with temporary_file(database.path / 'indexes' / 'x.faiss') as half:\n"
        "        os._exit(9)\n"
    )
    before = Database.open(aligned_copy).count(SLIDES)
    died = subprocess.run([sys.executable, "-c", code, str(aligned_copy)], check=False)
    assert died.returncode == 9
    found = bad(doctor.examine(aligned_copy))
    assert "molquery ingest slides, process" in found["writer"].what
    assert "which has ended" in found["writer"].what
    assert ".x.faiss" in found["leftovers"].what
    assert Database.open(aligned_copy).count(SLIDES) == before
    after = doctor.repair(aligned_copy)
    assert after.healthy, bad(after)
    assert any("removed" in line for line in after.repaired)
    import lance

    assert lance.dataset(str(aligned_copy / "slides.lance")).count_rows() == before


def test_a_writer_at_work_is_no_fault(aligned_copy: Path) -> None:
    with Database.open(aligned_copy).writing("align"):
        found = doctor.examine(aligned_copy)
    assert found.healthy
    (writer,) = [f for f in found.findings if f.check == "writer"]
    assert f"molquery align, process {os.getpid()} on" in writer.what


def test_other_files_are_named_and_left(aligned_copy: Path) -> None:
    (aligned_copy / "notes.txt").write_text("mine")
    (aligned_copy / "indexes" / "default-slides-flat-0123456789ab.faiss").write_bytes(b"old")
    found = doctor.examine(aligned_copy)
    assert "default-slides-flat-0123456789ab.faiss" in bad(found)["leftovers"].what
    (other,) = [f for f in found.findings if f.check == "other files"]
    assert "notes.txt" in other.what
    assert doctor.repair(aligned_copy).healthy
    assert (aligned_copy / "notes.txt").read_text() == "mine"
    assert not (aligned_copy / "indexes" / "default-slides-flat-0123456789ab.faiss").exists()


def test_a_gene_table_of_another_day(aligned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("molquery.genes.table_version", lambda: "HGNC 2031-01-01")
    (found,) = [f for f in doctor.examine(aligned).findings if f.check == "gene table"]
    assert (found.severity, "HGNC 2031-01-01" in found.what) == ("note", True)


# The installation --------------------------------------------------------------------------------


def test_two_faiss_distributions_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "faiss", lambda: ["faiss-cpu", "faiss-gpu"])
    found = bad(doctor.examine(None))
    assert "faiss-cpu, faiss-gpu" in found["FAISS"].what
    monkeypatch.setattr(environment, "faiss", lambda: [])
    assert "no distribution" in bad(doctor.examine(None))["FAISS"].what


def test_little_disk_is_a_warning(aligned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())
    assert "only 0.0 GB are free" in bad(doctor.examine(aligned))["disk"].what


# The command line --------------------------------------------------------------------------------


def test_the_command(cli: Cli, aligned_copy: Path) -> None:
    sound = cli("--db", aligned_copy, "doctor")
    assert (sound.code, sound.out.splitlines()) == (0, ["severity\tcheck\twhat\tremedy"])
    assert "faiss: faiss-cpu" in sound.err
    assert len(cli("--db", aligned_copy, "doctor", "--all").out.splitlines()) > 10
    flip(next(aligned_copy.glob("indexes/*-slides-flat-*")))
    found = cli("--db", aligned_copy, "doctor", "--format", "json")
    assert found.code == 1
    document = json.loads(found.out)
    assert document["healthy"] is False
    (finding,) = [f for f in document["findings"] if f["severity"] == "warning"]
    assert (finding["check"], finding["mends"]) == ("indexes", True)
    repaired = cli("--db", aligned_copy, "doctor", "--repair")
    assert repaired.code == 0
    assert "repaired: index flat made anew" in repaired.err
    assert cli("doctor").code == 0
    assert cli("doctor", "--repair").code == 1
    flip(aligned_copy / "manifest.json", at=0.3)
    refused = cli("--db", aligned_copy, "info")
    assert (refused.code, "doctor --repair" in refused.err) == (1, True)
    assert cli("--db", aligned_copy, "doctor").code == 1
    assert cli("--db", aligned_copy, "doctor", "--repair").code == 0
    assert cli("--db", aligned_copy, "info").code == 0


# Any byte ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "soak_corruption.py"
    spec = importlib.util.spec_from_file_location("soak_corruption", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak_corruption"] = module
    spec.loader.exec_module(module)
    return module


def test_one_changed_byte_is_found_or_harmless(
    soak: ModuleType, aligned_copy: Path, tmp_path: Path
) -> None:
    soak.enrich(aligned_copy)
    outcomes = soak.soak(aligned_copy, tmp_path, len(soak.KINDS), 11, lambda _: None)
    assert {o.kind for o in outcomes} == set(soak.KINDS), "a kind of file was not tried"
    assert [o for o in outcomes if o.verdict == "WRONG"] == []
    # What can hold data is never harmless.
    harmless = {o.kind for o in outcomes if o.verdict == "harmless"}
    assert harmless <= {"manifest", "version", "Lance, other"}


def test_the_soak_sees_a_wrong_answer(
    soak: ModuleType, aligned_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the checksums of the tables it must cry: a check that cannot fail proves nothing."""
    monkeypatch.setattr("molquery.database.tables.Checks.check", lambda *_: None)
    monkeypatch.setattr(soak, "_restored", lambda *_: None)  # it would change the database
    right, _ = soak.ask(aligned_copy, 2)
    first = Database.open(aligned_copy).matrix(PROFILES, PROFILES.vector)[0].tobytes()[:16]
    (data,) = [f for f in aligned_copy.glob("profiles.lance/data/*") if first in f.read_bytes()]
    blob = bytearray(data.read_bytes())
    blob[blob.index(first) + 2] ^= 1
    data.write_bytes(bytes(blob))
    outcome = soak._judge(aligned_copy, 2, right, "Lance data", data.name, 0)
    assert (outcome.verdict, outcome.told) == ("WRONG", "tables")
