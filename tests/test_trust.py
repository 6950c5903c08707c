"""Short, seeded forms of what `make soak` does at length; and that the same gives the same."""

import os
import random
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
import soak

from molquery import synth
from molquery.errors import FilterError
from molquery.filters import LONGEST, check_filter


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[soak.Scene], Path]:
    scratch = tmp_path_factory.mktemp("soak")
    return soak.scenes(scratch), scratch


def test_whatever_is_killed_nothing_is_lost_and_the_next_run_ends(
    scenes: tuple[list[soak.Scene], Path],
) -> None:
    tally, chance = soak.Tally(), random.Random(5)
    for scene in scenes[0]:
        soak.fault(scene, scenes[1], chance, tally)
    assert tally.faults == tally.reruns == len(scenes[0]) == 9
    assert tally.killed >= 5, "nothing was killed: the harness tests nothing"


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
    ["true; drop table slides", "true -- and age > 60", "true /* and age > 60 */", " ",
     "random() < 0.5", "recruited < now ()", "age > 60" + " " * LONGEST],
)  # fmt: skip
def test_a_filter_that_hides_something_is_refused(where: str) -> None:
    with pytest.raises(FilterError, match="--where holds"):
        check_filter(where)


@pytest.mark.parametrize(
    "where", ["site = 'a;b'", "note = 'it''s -- fine'", '"random" = 1', "`a;b` < 2", "a - -1 > 0"]
)
def test_quoted_text_is_text(where: str) -> None:
    check_filter(where)


def test_the_same_input_gives_the_same_bytes_on_one_thread_or_two(
    files: synth.Files, tmp_path: Path
) -> None:
    found = []
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
            program = "from molquery.cli.main import main; main()"
            done = subprocess.run(
                [sys.executable, "-c", program, "--db", database, *words],
                env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
                capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        found.append(out.read_bytes())
    assert found[0] == found[1]
    assert len(found[0].splitlines()) > 200
