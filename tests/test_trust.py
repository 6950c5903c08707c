"""Short, seeded forms of what `make soak` does at length; and that the same gives the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import pyarrow as pa
import pytest
import soak
from pyarrow import parquet

import molquery
from molquery import synth
from molquery.errors import FilterError
from molquery.filters import LONGEST, check_filter


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[soak.Scene], Path]:
    scratch = tmp_path_factory.mktemp("soak")
    return soak.scenes(scratch), scratch


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests leave things in the cache that all share."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_whatever_is_killed_nothing_is_lost_and_the_next_run_ends(
    scenes: tuple[list[soak.Scene], Path],
) -> None:
    tally = soak.faults("kill", len(scenes[0]), 5, scenes[1], scenes[0])
    assert tally.faults == tally.reruns == len(scenes[0]) == 16
    assert tally.hit >= 6, "nothing was killed: the harness tests nothing"


def test_ctrl_c_leaves_a_whole_database(scenes: tuple[list[soak.Scene], Path]) -> None:
    long = [s for s in scenes[0] if s.name in ("ingest profiles", "align half", "export")]
    tally = soak.faults("interrupt", len(long), 3, scenes[1], long)
    assert tally.faults == tally.reruns == 3
    assert tally.hit, "nothing was interrupted"


#: On a small disk of its own: commands with too little room change nothing and say why.
DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import soak
from molquery import history, index
from molquery.database import Database
from molquery.errors import MolqueryError
from molquery.ingest import ingest_slides
from molquery.query.engine import Engine
from molquery.readers import Options
from molquery.recipes import load_recipe
from molquery.schema import SLIDES

def held(path):
    # Lance's hint at the newest version may be of one that has gone; it looks for itself then.
    return {(str(p), p.read_bytes()) for p in path.rglob("*")
            if p.is_file() and p.name != "latest_version_hint.json"}

def ingest(database):
    ingest_slides(database, [Path(sys.argv[4])], options=Options(), encoder="toy-encoder")

commands = {
    "ingest": ingest,
    "index": lambda database: index.build(
        database, Engine(database).source(SLIDES), load_recipe("flat16")
    ),
    "restore": lambda database: history.restore(database, 2),
    "compact": lambda database: history.compact(database, keep=1),
    "tag": lambda database: history.tag(database, "x"),
}
with soak.small_disk(Path(sys.argv[2])) as disk:
    for name, command in commands.items():
        for room in (0, 5_000, 9_000, 20_000, 41_000):
            path = soak.copy(Path(sys.argv[1]), disk / "db")
            (path / "indexes").mkdir(exist_ok=True)
            before = held(path)
            with soak.filled(disk, room):
                try:
                    command(Database.open(path))
                    print(name, room, "done")
                except MolqueryError as error:
                    assert "No space left" in str(error), str(error)
                    changed = set(held(path)) ^ set(before)
                    assert not changed, f"{name} with {room} bytes: {changed} {error}"
                    print(name, room, "refused")
"""


def test_a_full_disk_changes_nothing(aligned: Path, archive: synth.Archive, tmp_path: Path) -> None:
    alone = ["unshare", "-Urm"]
    try:
        subprocess.run([*alone, "mount", "-t", "tmpfs", "none", tmp_path], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a file system")
    new = pa.table({"slide_id": [f"n{i}" for i in range(100)],
                    "features": list(archive.embeddings[:100])})  # fmt: skip
    parquet.write_table(new, tmp_path / "new.parquet")
    words = [sys.executable, "-c", DISK, aligned, tmp_path, Path(__file__).parent,
             tmp_path / "new.parquet"]  # fmt: skip
    done = subprocess.run([*alone, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line.split() for line in done.stdout.splitlines()]
    assert len(said) == 25
    assert {name for name, _, end in said if end == "refused"} == {
        "ingest", "index", "restore", "compact", "tag"
    }  # fmt: skip


def test_writers_and_readers_at_once(scenes: tuple[list[soak.Scene], Path]) -> None:
    told = soak.crowd(6.0, scenes[1] / "crowd", scenes[0], writers=2, readers=1)
    assert told["writes"] >= 2
    assert told["reads"] >= 1
    assert told["rows"] > 100


def test_hostile_input_is_answered_with_a_message(aligned: Path, tmp_path: Path) -> None:
    attack = hostile.Attack(aligned, tmp_path / "attack", seed=11)
    for _ in range(150):
        attack.strike()
    assert sum(attack.seen.values()) == 150
    assert len({name.split()[0] for name in attack.seen}) >= 6, "too few commands were tried"


@pytest.mark.parametrize(
    "where",
    ["slide_id = $1", "? = 1", "lpad(slide_id, 2000000000) = ''", "1 = " + "1 + " * 600 + "1",
     "site = " + "'a' || " * 600 + "'b'", "site" + " IS NULL" * 600, "(" * 60 + "true" + ")" * 60,
     "CAST(" * 60 + "1" + " AS INT)" * 60 + " = 1", "array_length(range(0, 10000000000)) > 1",
     "replace(replace(site, 'a', 'aaaa'), 'a', 'aaaa') = ''",
     "true; drop table slides", "true -- and age > 60", "true /* and age > 60 */", " ",
     "random() < 0.5", "recruited < now ()", "age > 60" + " " * LONGEST],
)  # fmt: skip
def test_a_filter_that_hides_something_is_refused(where: str) -> None:
    with pytest.raises(FilterError, match="--where holds"):
        check_filter(where)


@pytest.mark.parametrize(
    "where",
    [
        "site = 'a;b'",
        "note = 'it''s -- fine'",
        '"random" = 1',
        "`a;b` < 2",
        "a - -1 > 0",
        "site IN (" + ", ".join(["'a?'"] * 9_000) + ")",
        " OR ".join(["age = 1"] * 240),
    ],
)
def test_quoted_text_is_text(where: str) -> None:
    check_filter(where)


def run_with(threads: str, *words: object) -> str:
    """What a command prints, run on so many threads."""
    program = [sys.executable, "-c", "from molquery.cli.main import main; main()"]
    done = subprocess.run(
        [*program, *(str(w) for w in words)],
        env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_input_gives_the_same_bytes_on_one_thread_or_two(
    files: synth.Files, tmp_path: Path
) -> None:
    """From the files to scores, a ranking, and neighbours in the flat index; and from Python."""
    scores, rankings, nearest = [], [], []
    for threads in ("1", "2"):
        database, out = tmp_path / f"{threads}.mq", tmp_path / f"{threads}.tsv"
        for words in (
            ["init"],
            ["ingest", "slides", files.slides, "--encoder", "toy"],
            ["ingest", "profiles", files.profiles, "--scale", "log2", "--genes-in", "columns"],
            ["align", "--method", "cca"],
            ["index", "build"],
            ["score", files.gene_sets, "--output", out],
        ):
            run_with(threads, "--db", database, *words)
        scores.append(out.read_bytes())
        one = molquery.open(database).engine.slide_ids[0]
        for words, answers in (
            (["search", "--geneset", "HALLMARK_HYPOXIA", "-k", 50, "--null", 100], rankings),
            (["retrieve", one, "--to", "profiles", "-k", 50], nearest),
        ):
            told = run_with(threads, "--db", database, *words, "--format", "json")
            answers.append(json.loads(told)["hits"])
    assert scores[0] == scores[1]
    assert len(scores[0].splitlines()) > 200
    assert rankings[0] == rankings[1]
    assert nearest[0] == nearest[1]
    database = molquery.open(tmp_path / "1.mq")
    found = database.search("HALLMARK_HYPOXIA", k=50, null=100).hits.to_pylist()
    assert json.loads(json.dumps(found)) == rankings[0]
    for use_index in (True, False):
        found = database.retrieve(one, to="profiles", k=50, use_index=use_index).hits.to_pylist()
        assert found == nearest[0]
    assert len(nearest[0]) == len(rankings[0]) == 50
