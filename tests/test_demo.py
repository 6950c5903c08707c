"""The demo on the shipped cohort: it runs, its numbers are sane, and its commands work."""

import json
import shlex
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from molquery.cli.main import cli
from molquery.demo import INPUTS, clear, commands
from molquery.errors import OutputError
from molquery.figures.style import DPI

EXAMPLE = files("molquery.examples.her2st")


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words), catch_exceptions=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Result]:
    """The directory and the output of one run, off a terminal."""
    directory = tmp_path_factory.mktemp("demo run") / "molquery demo"
    return directory, run("demo", str(directory))


def typed(output: str) -> list[list[str]]:
    """The commands that the demo printed, without `molquery`."""
    lines = [line.strip()[2:] for line in output.splitlines() if line.strip().startswith("$ ")]
    return [shlex.split(line)[1:] for line in lines]


def test_the_demo_runs_and_says_what_its_numbers_mean(made):
    directory, result = made
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    for words in (
        "predicted from H&E",
        "held-out sections",
        "Only two patients",
        "research use only",
        "What not to conclude",
        "Andersson et al.",
        "CC BY 4.0",
    ):
        assert words in told
    strata = pyarrow.csv.read_csv(directory / "strata.csv")
    assert strata.num_rows == 1193
    assert set(strata["stratum"].to_pylist()) == {"low", "mid", "high"}


def test_the_readme_shows_what_the_demo_prints(made):
    """All but the numbers, whose last digits differ between processors."""
    directory, result = made
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    readme = readme[readme.index("1. Make a database") : readme.index("## On your own cohort")]
    shown = [[w.replace("demo", str(directory), 1) if w[:4] == "demo" else w for w in words]
             for words in typed(readme)]  # fmt: skip
    assert shown == typed(result.stdout)
    titles = [line for line in result.stdout.splitlines() if line[:1].isdigit()]
    assert [line for line in readme.splitlines() if line[:1].isdigit()] == titles


def test_held_out_sections_are_predicted(made):
    directory, _ = made
    checked = run(
        "--db", str(directory), "genesets", "check", "HALLMARK_ALLOGRAFT_REJECTION",
        "--format", "json",
    )  # fmt: skip
    row = json.loads(checked.stdout)["rows"][0]
    assert row["found"] > 100
    assert 0.3 < row["r"] < 0.8


def test_the_picture_is_no_blank_page(made):
    with Image.open(made[0] / "tissue.png") as picture:
        assert picture.size[0] == 12 * DPI
        assert picture.size[1] > 500
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 20
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def test_the_printed_commands_run_on_the_database(made):
    directory, result = made
    printed = typed(result.stdout)
    assert [words[2] for words in printed] == [
        "init", "ingest", "ingest", "align", "index", "search", "retrieve", "stratify",
        "heatmap", "info", "genesets",
    ]  # fmt: skip
    assert all(words[:2] == ["--db", str(directory)] for words in printed)
    picture = (directory / "tissue.png").read_bytes()
    for words in printed:
        if words[2] in ("init", "align"):
            continue  # there is a database, and a space took most of the demo's time
        again = run(*words)
        assert again.exit_code == 0, again.output
        if words[2] == "ingest":
            assert "0 inserted, 0 updated" in again.stdout
    assert (directory / "tissue.png").read_bytes() == picture  # heatmap has painted it anew
    # The demo's own settings are what its align command would use.
    facts = json.loads(next((directory / "spaces").rglob("space.json")).read_text())
    facts = facts.get("facts", facts)
    align = next(words for words in printed if words[2] == "align")
    for option in ("method", "pair_on", "split_on"):
        at = align.index("--" + option.replace("_", "-"))
        assert facts["settings"][option] == align[at + 1]


def test_the_commands_build_the_database_anew(tmp_path):
    """The printed commands from `init` to the ingests, in an empty place."""
    directory = tmp_path / "new"
    steps = commands(directory, "C6_1x1-HE")
    assert run(*shlex.split(steps["init"])[1:]).exit_code == 0
    (directory / "input").mkdir()
    (directory / "input" / "spots.parquet").write_bytes((EXAMPLE / "spots.parquet").read_bytes())
    result = run(*shlex.split(steps["slides"])[1:])
    assert result.stdout.startswith("slides: 1193 inserted")
    with pytest.raises(OutputError, match="not made by molquery demo"):
        clear(directory, overwrite=True)  # a user's own database


def test_only_a_demo_is_ever_replaced(tmp_path, made):
    foreign = tmp_path / "results"
    foreign.mkdir()
    (foreign / "paper.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="was not made by molquery demo"):
            clear(foreign, overwrite=overwrite)
    (foreign / "manifest.json").write_text('{"format_version": 1, "tables": {}}')
    with pytest.raises(OutputError, match="was not made by molquery demo"):
        clear(foreign, overwrite=True)
    assert (foreign / "paper.txt").read_text() == "years of work"

    old = tmp_path / "old"
    (old / "input").mkdir(parents=True)
    (old / "manifest.json").write_text('{"demo": true}')
    with pytest.raises(OutputError, match="--overwrite"):
        clear(old, overwrite=False)
    for name in ("notes.txt", "input/mine.csv"):
        (old / name).touch()
        with pytest.raises(OutputError, match="did not make") as caught:
            clear(old, overwrite=True)
        assert name in str(caught.value)
        (old / name).unlink()
    link = tmp_path / "link"
    link.symlink_to(old)
    with pytest.raises(OutputError, match="was not made"):
        clear(link, overwrite=True)
    clear(old, overwrite=True)
    assert not old.exists()
    # Everything that a real run leaves behind counts as the demo's.
    with pytest.raises(OutputError, match="an earlier demo"):
        clear(made[0], overwrite=False)


def test_the_example_files_agree_and_name_their_licence():
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    for words in ("CC BY 4.0", "Andersson et al.", "Changes made", "two patients"):
        assert words in readme
    assert all((EXAMPLE / name).is_file() for name in INPUTS)
    size = sum(len(f.read_bytes()) for f in EXAMPLE.iterdir() if f.is_file())
    assert size < 8_000_000
    with (EXAMPLE / "spots.parquet").open("rb") as stream:
        spots = pq.read_table(stream, columns=["spot_id", "section", "slide_id"])
    with (EXAMPLE / "counts.tsv.gz").open("rb") as stream:
        counts = pyarrow.csv.read_csv(
            pyarrow.input_stream(stream, compression="gzip"),
            pyarrow.csv.ReadOptions(block_size=1 << 26),
            pyarrow.csv.ParseOptions(delimiter="\t"),
        )
    assert counts.num_rows == 1015
    with_rna = [s for s in spots["spot_id"].to_pylist() if not s.startswith("C6")]
    assert sorted(counts["spot_id"].to_pylist()) == sorted(with_rna)
