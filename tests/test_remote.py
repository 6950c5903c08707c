"""Databases on an object store (a local S3 server); the oracle is the same database on disk."""

import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ENCODER, SEEN, Cli
from moto import server
from test_architecture import modules_after

from molquery import synth
from molquery.database import Database, manifest
from molquery.database.objects import ConditionError, Objects
from molquery.database.remote import Remote
from molquery.errors import DatabaseError
from molquery.history import restore, versions
from molquery.ingest import ingest_slides
from molquery.readers import Options
from molquery.schema import SLIDES

BUCKET = "cohorts"
SEARCH = ("search", "--geneset", SEEN[0], "-k", 5)


class Store:
    """The bucket, and the requests that it has had."""

    def __init__(self, url: str, requests: list[str]) -> None:
        self.url = url
        self.requests = requests
        self.client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        self.client.create_bucket(Bucket=BUCKET)

    def names(self, prefix: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        return [item["Key"].removeprefix(f"{prefix}/") for item in found.get("Contents", [])]

    def get(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)

    def flip(self, name: str) -> None:
        """Change one byte in the middle of an object."""
        content = bytearray(self.get(name))
        content[len(content) // 2] ^= 1
        self.put(name, bytes(content))


class _Count(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.search(r'"([A-Z]+ \S+) HTTP', record.getMessage()):
            self.seen.append(found[1])


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    log, count = logging.getLogger("werkzeug"), _Count()
    log.setLevel(logging.INFO)
    log.addHandler(count)
    log.propagate = False
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=True)
    running.start()
    host, port = running.get_host_and_port()
    yield Store(f"http://{host}:{port}", count.seen)
    running.stop()
    log.removeHandler(count)


@pytest.fixture(autouse=True)
def settings(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("MOLQUERY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def uri(aligned: Path, cli: Cli, request: pytest.FixtureRequest) -> str:
    """The aligned toy archive, published under a name of the test's own."""
    place = f"s3://{BUCKET}/{request.node.name}/toy.mq"
    done = cli("--db", aligned, "snapshot", place)
    assert done.code == 0, done.err
    return place


def copies(tmp_path: Path, pattern: str) -> list[Path]:
    """Files of the cache."""
    return sorted((tmp_path / "cache").rglob(pattern))


def rows(prefix: str, n: int = 3, seed: int = 1) -> Callable[[Path], Path]:
    """A writer of a slide file with rows that the archive does not hold."""

    def write(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        vectors = np.random.default_rng(seed).normal(size=(n, synth.Toy().dim))
        table = pa.table(
            {
                "slide_id": [f"{prefix}-{i}" for i in range(n)],
                "patient_id": [f"{prefix}-{i}" for i in range(n)],
                "embedding": pa.FixedSizeListArray.from_arrays(
                    pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1]
                ),
            }
        )
        path = folder / f"{prefix}.parquet"
        pq.write_table(table, path)
        return path

    return write


def ids(database: Database) -> list[str]:
    return list(database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist())


# Reading ---------------------------------------------------------------------------------------


def test_every_question_has_the_answer_of_the_local_database(
    uri: str, aligned: Path, cli: Cli, tmp_path: Path
) -> None:
    slide = ids(Database.open(aligned))[0]
    for words in (
        (*SEARCH, "--format", "tsv"),
        (*SEARCH, "--where", "cohort IS NOT NULL", "--format", "tsv"),
        (*SEARCH, "--index", "--format", "tsv"),
        ("retrieve", slide, "--to", "profiles", "--format", "tsv"),
        ("explain", slide, "--geneset", SEEN[0]),
        ("stratify", "--geneset", SEEN[0], "--cut", "tertiles"),
        ("index", "check"),
    ):
        here, there = cli("--db", aligned, *words), cli("--db", uri, *words)
        assert (there.code, there.out) == (0, here.out.replace(str(aligned), uri)), (
            words, here.err, there.err
        )  # fmt: skip
    told = cli("--db", uri, "info").out
    assert told == cli("--db", aligned, "info").out.replace(str(aligned), uri)
    assert cli("--db", uri, "history", "--format", "json").code == 0
    healthy = cli("--db", uri, "doctor")
    assert healthy.code == 0, healthy.out
    done = cli("--db", uri, "export", tmp_path / "out", "--only", "parquet")
    assert done.code == 0, done.err
    assert cli("--db", uri, "snapshot", tmp_path / "back.mq").code == 0
    assert cli("--db", tmp_path / "back.mq", *SEARCH).out == cli("--db", aligned, *SEARCH).out


def test_a_second_search_asks_for_the_manifest_alone(uri: str, cli: Cli, store: Store) -> None:
    first = cli("--db", uri, *SEARCH)
    store.requests.clear()
    second = cli("--db", uri, *SEARCH)
    assert second.out == first.out
    assert [r.rpartition("/")[2] for r in store.requests] == ["manifest.json"]


def test_a_search_fetches_no_table(uri: str, cli: Cli, tmp_path: Path) -> None:
    assert cli("--db", uri, *SEARCH).code == 0
    assert copies(tmp_path, "*.safetensors")
    assert not copies(tmp_path, "*.lance/data/*")


def test_search_imports_nothing_heavy(uri: str, aligned: Path) -> None:
    loaded = modules_after("--db", uri, *SEARCH)
    heavy = {"torch", "lancedb", "lance", "polars", "pandas", "boto3", "botocore"}
    assert "obstore" in loaded
    assert sorted(loaded & heavy) == []
    assert "obstore" not in modules_after("--db", aligned, *SEARCH)


def test_a_damaged_copy_is_fetched_anew(uri: str, cli: Cli, tmp_path: Path, store: Store) -> None:
    words = ("search", "--geneset", SEEN[0], "-k", 5, "--where", "cohort IS NOT NULL")
    whole = cli("--db", uri, *words)
    kept = [p for p in copies(tmp_path, "*") if p.is_file() and "versions" not in str(p)]
    touched = [p for p in kept if p.suffix in (".lance", ".safetensors", ".arrow")]
    assert len(touched) >= 4
    for path in touched:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    store.requests.clear()
    again = cli("--db", uri, *words)
    assert (again.code, again.out) == (0, whole.out)
    assert len({r for r in store.requests if "manifest.json" not in r}) >= 3


@pytest.mark.parametrize("section", ["tables", "spaces", "predictions", "manifest"])
def test_a_damaged_object_is_found(
    uri: str, cli: Cli, store: Store, section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = uri.removeprefix(f"s3://{BUCKET}/")
    whole = cli("--db", uri, *SEARCH, "--where", "cohort IS NOT NULL")
    monkeypatch.setenv("MOLQUERY_CACHE", str(tmp_path / "elsewhere"))
    state = Database.open(uri).manifest()
    names = {
        "tables": [n for n in manifest.table_files(state) if n.startswith("slides.lance/data")],
        "spaces": list(manifest.space_files(state)),
        "predictions": [state["predictions"]["default"]["file"]],
        "manifest": ["manifest.json"],
    }[section]
    for name in names:
        store.flip(f"{place}/{name}")
    found = cli("--db", uri, *SEARCH, "--where", "cohort IS NOT NULL")
    if section == "predictions":  # derived: computed anew
        assert (found.code, found.out) == (0, whole.out)
    else:
        assert found.code == 1
        assert uri in found.err
        assert "damaged" in found.err
    if section != "predictions":
        doctor = cli("--db", uri, "doctor")
        assert doctor.code == 1
        assert "damaged" in doctor.out + doctor.err


def test_doctor_mends_what_is_derived_in_the_store(uri: str, cli: Cli, store: Store) -> None:
    place, state = uri.removeprefix(f"s3://{BUCKET}/"), Database.open(uri).manifest()
    whole = cli("--db", uri, *SEARCH)
    for name in manifest.derived_files(state):
        store.flip(f"{place}/{name}")
    found = cli("--db", uri, "doctor")
    assert found.code == 1
    n = sum(len(state[section]) for section in manifest.DERIVED)
    assert found.out.count("damaged") == n == 5
    mended = cli("--db", uri, "doctor", "--repair")
    assert mended.code == 0, mended.out
    assert cli("--db", uri, *SEARCH).out == whole.out


def test_lance_opens_the_tables_where_they_are(uri: str, aligned: Path, store: Store) -> None:
    import lance

    local = Database.open(aligned)
    found: Any = lance.dataset(
        f"{uri}/slides.lance",
        version=local.version(SLIDES),
        storage_options={
            "endpoint": store.url, "allow_http": "true", "region": "us-east-1",
            "access_key_id": "key", "secret_access_key": "secret",
        },
    )  # fmt: skip
    table = found.to_table(columns=["slide_id", "embedding"]).sort_by("slide_id")
    assert table["slide_id"].to_pylist() == ids(local)
    vectors = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert np.array_equal(vectors, local.matrix(SLIDES, "embedding"))


def test_the_python_api_takes_a_uri(uri: str, aligned: Path) -> None:
    import molquery

    there, here = molquery.open(uri), molquery.open(aligned)
    found = there.search(SEEN[0], k=5)
    assert found.hits.equals(here.search(SEEN[0], k=5).hits)
    assert found.provenance.database == uri


# Messages --------------------------------------------------------------------------------------


def message(cli: Cli, uri: str, *words: object) -> str:
    began = time.monotonic()
    done = cli("--db", uri, *(words or SEARCH))
    assert done.code == 1
    assert done.out == ""
    assert time.monotonic() - began < 30
    return done.err


def test_no_database_no_bucket_no_path(cli: Cli, store: Store) -> None:
    told = message(cli, f"s3://{BUCKET}/nothing/there.mq")
    assert f"there is no database at s3://{BUCKET}/nothing/there.mq" in told
    assert "snapshot" in told
    assert "there is no bucket not-mine" in message(cli, "s3://not-mine/a.mq")
    store.put("other/thing.txt", b"x")
    assert "is not a molquery database" in message(cli, f"s3://{BUCKET}/other")
    for wrong in (f"s3://{BUCKET}", "s3://", "http://example.org/a.mq"):
        assert "cannot be a database" in message(cli, wrong)


def test_no_credentials(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    place = f"s3://{BUCKET}/a.mq"
    assert "there are no credentials for" in message(cli, place)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    told = message(cli, place)
    assert f"there are no credentials for {place}" in told
    assert "export AWS_ACCESS_KEY_ID" in told
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert "no such profile" in message(cli, place)
    config = tmp_path / "config"
    config.write_text("[profile lab]\nsso_session = lab\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert "aws configure export-credentials --profile lab" in message(cli, place)


def test_a_profile_of_the_credentials_file(
    uri: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Store
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "keys").write_text(
        "[lab]\naws_access_key_id = key\naws_secret_access_key = secret\n"
    )
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {store.url}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert cli("--db", uri, "info").code == 0


def test_an_endpoint_that_does_not_answer(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    told = message(cli, f"s3://{BUCKET}/a.mq")
    assert "does not answer" in told
    assert "http://127.0.0.1:9" in told
    assert "AWS_ENDPOINT_URL" in told


@pytest.mark.parametrize(
    ("code", "hint"),
    [("InvalidAccessKeyId", "other credentials"), ("AccessDenied", "ask its owner")],
)
def test_a_store_that_refuses(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, code: str, hint: str
) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code></Error>".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    refusing = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{refusing.server_port}")
    told = message(cli, f"s3://{BUCKET}/a.mq")
    refusing.shutdown()
    refusing.server_close()
    assert "refuses access" in told
    assert code in told
    assert hint in told


def test_without_the_library(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert "pip install 'molquery[remote]'" in message(cli, f"s3://{BUCKET}/a.mq")


def test_a_snapshot_replaces_nothing(uri: str, aligned: Path, cli: Cli, store: Store) -> None:
    place = uri.removeprefix(f"s3://{BUCKET}/")
    before = {name: store.get(f"{place}/{name}") for name in store.names(place)}
    told = message(cli, str(aligned), "snapshot", uri)
    assert "is a molquery database already" in told
    assert {name: store.get(f"{place}/{name}") for name in store.names(place)} == before
    store.put("full/thing.txt", b"x")
    told = message(cli, str(aligned), "snapshot", f"s3://{BUCKET}/full")
    assert "is not empty" in told
    told = message(cli, str(aligned), "snapshot", "s3://not-mine/a.mq")
    assert "there is no bucket not-mine" in told


def test_a_cache_that_cannot_be_written(
    uri: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MOLQUERY_CACHE", str(tmp_path / "file"))
    assert "export MOLQUERY_CACHE=DIRECTORY" in message(cli, uri)


def test_an_interrupted_snapshot_is_no_database_and_can_be_made_again(
    aligned: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, put = f"s3://{BUCKET}/interrupted.mq", Objects.put
    sent: list[str] = []

    def stop(self: Objects, name: str, content: Any) -> None:
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(name)
        put(self, name, content)

    with monkeypatch.context() as broken:
        broken.setattr(Objects, "put", stop)
        assert cli("--db", aligned, "snapshot", place).code == 130
    assert "is not a molquery database" in message(cli, place)
    assert cli("--db", aligned, "snapshot", place).code == 0
    assert cli("--db", place, *SEARCH).out == cli("--db", aligned, *SEARCH).out


# Writing ---------------------------------------------------------------------------------------


def test_a_database_made_in_the_store_is_the_one_made_on_disk(
    files: synth.Files,
    ingested: Path,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = f"s3://{BUCKET}/made.mq"
    for words in (
        ("init",),
        ("ingest", "slides", files.slides, "--encoder", ENCODER),
        ("ingest", "profiles", files.profiles, "--scale", "log2"),
        ("ingest", "metadata", files.metadata, "--on", "patient_id"),
        ("align", "--method", "cca"),
        ("index", "build", "--recipe", "flat"),
        ("history", "tag", "first"),
    ):
        done = cli("--db", place, *words)
        assert done.code == 0, (words, done.err)
    local = Path(shutil.copytree(ingested, tmp_path / "local.mq"))
    assert cli("--db", local, "align", "--method", "cca").code == 0
    monkeypatch.setenv("MOLQUERY_CACHE", str(tmp_path / "elsewhere"))
    assert cli("--db", place, *SEARCH).out == cli("--db", local, *SEARCH).out
    assert cli("--db", place, "doctor").code == 0
    slides = ids(Database.open(place))
    done = cli("--db", place, "delete", "slides", "--where", f"slide_id = '{slides[0]}'", "--yes")
    assert done.code == 0, done.err
    assert ids(Database.open(place)) == slides[1:]
    assert cli("--db", place, "restore", "--tag", "first").code == 0
    assert ids(Database.open(place)) == slides
    assert cli("--db", place, *SEARCH).out == cli("--db", local, *SEARCH).out
    assert cli("--db", place, "compact", "--purge", "--yes").code == 0
    assert cli("--db", place, "doctor").code == 0
    assert len(versions(Database.open(place))) == 1


def test_of_two_writers_from_one_version_one_takes_effect(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    here = Database.open(uri)
    monkeypatch.setenv("MOLQUERY_CACHE", str(tmp_path / "elsewhere"))
    there = Database.open(uri)
    before = ids(here)

    def overtaken() -> None:
        with here.writing("both"):
            ingest(here, rows("here")(tmp_path))
            ingest(there, rows("there")(tmp_path))

    with pytest.raises(DatabaseError, match="another process writes"):
        overtaken()
    assert ids(Database.open(uri)) == sorted([*before, *(f"there-{i}" for i in range(3))])
    ingest(here, rows("here")(tmp_path))  # the same command again
    both = [f"{name}-{i}" for name in ("here", "there") for i in range(3)]
    assert ids(Database.open(uri)) == sorted([*before, *both])
    told = [v.details for v in versions(Database.open(uri))][-2:]
    assert told == ["3 slides inserted, 0 updated"] * 2


@pytest.mark.parametrize(("rivals", "code"), [(2, 0), (3, 1)])
def test_a_command_that_others_came_before_is_run_again_a_few_times(
    uri: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rivals: int, code: int
) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("MOLQUERY_CACHE", str(tmp_path / "elsewhere"))
        there = Database.open(uri)
    push, met = Remote.push, list[str]()

    def overtaken(remote: Remote, *words: Any) -> None:
        if remote is not there.remote and len(met) < rivals:
            met.append(f"rival{len(met)}")
            ingest(there, rows(met[-1])(tmp_path / "files"))
        push(remote, *words)

    monkeypatch.setattr(Remote, "push", overtaken)
    monkeypatch.setattr("time.sleep", lambda _: None)
    before = ids(Database.open(uri))
    mine = rows("mine")(tmp_path / "files")
    done = cli("--db", uri, "ingest", "slides", mine, "--encoder", ENCODER)
    assert done.code == code
    assert done.err.count("it is run again") == 2
    assert ("run the same command again" in done.err) == (code == 1)
    new = [f"{name}-{i}" for name in (*met, *["mine"] * (code == 0)) for i in range(3)]
    assert ids(Database.open(uri)) == sorted([*before, *new])


def ingest(database: Database, path: Path) -> None:
    ingest_slides(database, [path], options=Options(), encoder=ENCODER)


def test_three_writers_at_once_lose_and_double_nothing(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids(Database.open(uri))
    writers, turns = 3, 3
    opened = []
    for w in range(writers):
        monkeypatch.setenv("MOLQUERY_CACHE", str(tmp_path / f"machine-{w}"))
        opened.append(Database.open(uri))
    barrier, conflicts, failures = threading.Barrier(writers), [], []

    def work(w: int) -> None:
        try:
            for turn in range(turns):
                path = rows(f"w{w}t{turn}", seed=turn)(tmp_path / f"files-{w}")
                barrier.wait(60)
                while True:
                    try:
                        ingest(opened[w], path)
                        break
                    except DatabaseError as error:
                        if "another process writes" not in str(error):
                            raise
                        conflicts.append(w)
        except BaseException as error:  # for the main thread to see
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(w,)) for w in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert conflicts, "no two writers met"
    wanted = [f"w{w}t{t}-{i}" for w in range(writers) for t in range(turns) for i in range(3)]
    assert ids(Database.open(uri)) == sorted([*before, *wanted])


@pytest.mark.parametrize("at", ["manifest.json", "_versions"])
def test_a_killed_writer_changes_nothing_and_stops_nobody(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, at: str, store: Store
) -> None:
    before, put_if = ids(Database.open(uri)), Objects.put_if

    def die(self: Objects, name: str, content: bytes, tag: Any) -> Any:
        if name == at:
            raise KeyboardInterrupt
        found = put_if(self, name, content, tag)
        if at in name:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as broken:
        broken.setattr(Objects, "put_if", die)
        done = cli("--db", uri, "ingest", "slides", rows("dead")(tmp_path), "--encoder", ENCODER)
        assert done.code == 130
    place = uri.removeprefix(f"s3://{BUCKET}/")
    left = [n for n in store.names(place) if "slides.lance/_versions" in n]
    assert len(left) == 2
    assert ids(Database.open(uri)) == before
    monkeypatch.setenv("MOLQUERY_CACHE", str(tmp_path / "elsewhere"))
    path = rows("next")(tmp_path)
    done = cli("--db", uri, "ingest", "slides", path, "--encoder", ENCODER)
    assert done.code == 0, done.err
    after = sorted([*before, *(f"next-{i}" for i in range(3))])
    assert ids(Database.open(uri)) == after
    assert "objects that nothing needs" in cli("--db", uri, "doctor", "--all").out
    assert cli("--db", uri, "compact").code == 0
    assert "objects that nothing needs" not in cli("--db", uri, "doctor", "--all").out
    assert ids(Database.open(uri)) == after
    first = versions(Database.open(uri))[0].version
    assert restore(Database.open(uri), first).version is not None
    assert ids(Database.open(uri)) == before


def test_a_lost_answer_is_not_taken_for_a_conflict(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_if = Objects.put_if

    def lose(self: Objects, name: str, content: bytes, tag: Any) -> Any:
        found = put_if(self, name, content, tag)
        if name == "manifest.json":
            raise ConditionError(name)  # as the store says to the request that is sent again
        return found

    monkeypatch.setattr(Objects, "put_if", lose)
    before = ids(Database.open(uri))
    ingest(Database.open(uri), rows("sent")(tmp_path))
    assert ids(Database.open(uri)) == sorted([*before, *(f"sent-{i}" for i in range(3))])


def test_a_store_that_heeds_no_conditions_is_not_written(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, store: Store
) -> None:
    def heedless(self: Objects, name: str, content: bytes, tag: Any) -> Any:
        self.put(name, content)
        return {}

    monkeypatch.setattr(Objects, "put_if", heedless)
    place = uri.removeprefix(f"s3://{BUCKET}/")
    before = store.get(f"{place}/manifest.json")
    path = rows("never")(tmp_path)
    told = message(cli, uri, "ingest", "slides", path, "--encoder", ENCODER)
    assert "does not heed conditions" in told
    assert f"molquery --db {uri} snapshot DIRECTORY" in told
    assert store.get(f"{place}/manifest.json") == before


def test_a_purge_leaves_nothing_in_the_store(
    uri: str, cli: Cli, store: Store, tmp_path: Path
) -> None:
    database = Database.open(uri)
    (slide, *_), place = ids(database), uri.removeprefix(f"s3://{BUCKET}/")
    where = f"slide_id = '{slide}'"
    done = cli("--db", uri, "delete", "slides", "--where", where, "--yes", "--purge")
    assert done.code == 0, done.err
    held = {name: store.get(f"{place}/{name}") for name in store.names(place)}
    assert not [name for name, content in held.items() if slide.encode() in content]
    assert slide not in ids(Database.open(uri))
