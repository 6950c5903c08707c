"""The command line: help, formats, exit codes, streams, and the commands of the README in order."""

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from molquery import __version__, doctor, synth
from molquery.cli.main import COMMANDS
from molquery.cli.main import cli as root
from molquery.database import Database
from molquery.query.engine import Engine
from molquery.schema import SLIDES

Cli = Callable[..., Any]
SEARCH = ("search", "--geneset", "HALLMARK_HYPOXIA")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that is there, as words; one that is not written yet is left to its issue."""
    for name in group.list_commands(click.Context(group)):
        try:
            command = group.get_command(click.Context(group), name)
        except ModuleNotFoundError:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ALL = list(commands(root))


# Help --------------------------------------------------------------------------------------------


def test_the_commands_that_the_readme_names_are_there() -> None:
    words = {" ".join(path) for path in ALL}
    assert {
        "init", "ingest slides", "ingest profiles", "ingest metadata", "align", "index build",
        "index list", "index check", "search", "retrieve", "score", "stratify", "evaluate",
        "genesets list", "genesets show", "genesets check", "info",
    } <= words  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_ends_with_an_example_of_the_command(cli: Cli, path: tuple[str, ...]) -> None:
    result = cli(*path, "--help")
    assert result.code == 0
    *_, example = result.out.strip().split("Example:\n")
    lines = [line.strip() for line in example.splitlines()]
    assert lines[0].startswith("molquery ")
    assert " ".join(path) in example
    # The options of the example are options of the command, so that it can run.
    command: Any = root
    for word in path:
        command = command.get_command(click.Context(command), word)
    known = {o for p in (*command.params, *root.params) for o in p.opts}
    used = set(re.findall(r"(?<= )--?[a-z][a-z-]*", " ".join(lines)))
    assert used <= known


def test_main_help_lists_every_command_in_one_line_each(cli: Cli) -> None:
    result = cli("--help")
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", result.out, re.MULTILINE), name
    assert result.out.rstrip().splitlines()[-1].strip().startswith("molquery ")


def test_version(cli: Cli) -> None:
    assert __version__ in cli("--version").out


# Exit codes and streams --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("serch",), ("search", "--no-such-option"), ("retrieve", "x"), ("search", "-k", "0"),
     ("search", "-k", "three"), ("score",), ("ingest", "slides"), ("search", "--format", "xml")],
)  # fmt: skip
def test_wrong_usage_is_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = cli("--db", "x", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert "Usage:" in result.err or "No such command" in result.err


def test_a_typo_in_a_command_suggests_the_nearest(cli: Cli) -> None:
    assert "Did you mean search?" in cli("serch").err


def test_results_on_stdout_and_notices_on_stderr(cli: Cli, aligned: Path) -> None:
    result = cli("--db", aligned, *SEARCH, "-k", 3)
    assert result.code == 0
    assert len(result.out.splitlines()) == 4
    assert "H&E-predicted, for research use only" in result.err
    assert "Genes: 3" in result.err
    assert "Predictability" in result.err
    assert "\x1b" not in result.out + result.err


def test_the_environment_names_the_database(
    cli: Cli, aligned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLQUERY_DB", str(aligned))
    assert cli("info").code == 0


def test_a_closed_pipe_is_no_error(aligned: Path) -> None:
    program = [sys.executable, "-c", "from molquery.cli.main import main; main()"]
    words = [*program, "--db", str(aligned), "genesets", "check", "--format", "json"]
    whole = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert whole.stdout is not None
    assert whole.stderr is not None
    whole.stdout.close()  # as `| head` does when it has seen enough, but at once
    err = whole.stderr.read().decode()
    whole.stderr.close()
    assert whole.wait(60) == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@pytest.mark.parametrize(
    ("streams", "code", "says"),
    [(">&-", 0, ""), ("2>&-", 0, ""), (">&- 2>&- <&-", 0, ""), ("2> >(exec true)", 0, ""),
     (">/dev/full", 1, "molquery: the result cannot be written to stdout"),
     ("2>/dev/full", 0, "")],
)  # fmt: skip
def test_streams_that_are_closed_or_full_do_no_harm(
    aligned_copy: Path, tmp_path: Path, streams: str, code: int, says: str
) -> None:
    """The work is done whatever becomes of its notices; a result that is lost is an error."""
    new = pa.table({"slide_id": ["n1"], "features": [[0.5] * 32]})
    parquet.write_table(new, tmp_path / "s.parquet")
    program = f"{sys.executable} -c 'from molquery.cli.main import main; main()'"
    words = f"--db {aligned_copy} ingest slides {tmp_path}/s.parquet --encoder toy-encoder"
    done = subprocess.run(
        ["bash", "-c", f"{program} {words} {streams}"], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert Database.open(aligned_copy).count(SLIDES, "slide_id = 'n1'") == 1
    assert doctor.examine(aligned_copy).findings
    assert not [f for f in doctor.examine(aligned_copy).findings if f.severity == "error"]


def test_a_ctrl_c_where_python_can_raise_nothing_is_not_lost() -> None:
    """Python drops what is raised in the callback of a weak reference, and prints it."""
    program = """
import signal, sys, time, weakref
from molquery.cli import main as program

class Kept: ...
def work(**_):
    kept = Kept()
    reference = weakref.ref(kept, lambda _: signal.raise_signal(signal.SIGINT))
    del kept
    time.sleep(30)
program.cli.main = work
program.main()
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "molquery: interrupted; the database is whole\n"
    assert time.monotonic() - start < 25


def test_other_errors_keep_their_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("molquery.genesets.collections.find", broken)
    with pytest.raises(ZeroDivisionError):
        cli("genesets", "show", "x")


# Formats -----------------------------------------------------------------------------------------


def rows_of(text: str, format_: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text), delimiter="\t" if format_ == "tsv" else ","))


def test_tsv_when_piped_and_every_format_says_the_same(cli: Cli, aligned: Path) -> None:
    def out(*more: str) -> str:
        return str(cli("--db", aligned, *SEARCH, "-k", 4, "--null", 0, *more).out)

    document = json.loads(out("--format", "json"))
    assert out() == out("--format", "tsv")
    for format_ in ("tsv", "csv"):
        found = rows_of(out("--format", format_), format_)
        assert [r["slide_id"] for r in found] == [h["slide_id"] for h in document["hits"]]
        assert [float(r["score"]) for r in found] == [h["score"] for h in document["hits"]]
    lines = [json.loads(line) for line in out("--format", "jsonl").splitlines()]
    assert [line["slide_id"] for line in lines] == [h["slide_id"] for h in document["hits"]]
    table = out("--format", "table")
    assert all(h["slide_id"] in table for h in document["hits"])


def test_search_json(cli: Cli, aligned: Path) -> None:
    document = json.loads(cli("--db", aligned, *SEARCH, "-k", 10, "--format", "json").out)
    assert len(document["hits"]) == 10
    assert [h["rank"] for h in document["hits"]] == list(range(1, 11))
    provenance = document["provenance"]
    assert provenance["database"] == str(aligned)
    assert provenance["molquery"] == __version__
    assert len(provenance["space_id"]) == len(provenance["signature_sha256"]) == 64
    assert provenance["table_versions"].keys() == {"slides", "profiles"}
    assert document["predictability"]["n_pairs"] > 100
    assert provenance["genes_missing"] == document["coverage"]["missing"]


@pytest.mark.parametrize(
    "command",
    [("evaluate",), ("genesets", "check"), ("info",), ("index", "list"), ("genesets", "list"),
     ("genesets", "show", "HALLMARK_HYPOXIA"),
     ("stratify", "--geneset", "HALLMARK_HYPOXIA")],
)  # fmt: skip
def test_json_of_every_command_parses(cli: Cli, aligned: Path, command: tuple[str, ...]) -> None:
    result = cli("--db", aligned, *command, "--format", "json")
    assert result.code == 0, result.err
    assert json.loads(result.out)


def test_same_question_same_bytes(cli: Cli, aligned: Path) -> None:
    a, b = (cli("--db", aligned, *SEARCH, "--format", "json").out for _ in range(2))
    assert a == b


# Files -------------------------------------------------------------------------------------------


def test_the_score_table_is_wide(
    cli: Cli, aligned: Path, engine: Engine, archive: synth.Archive, files: synth.Files,
    tmp_path: Path,
) -> None:  # fmt: skip
    target = tmp_path / "scores.parquet"
    words = ("--db", aligned, "score", files.gene_sets, "--format", "parquet", "--output", target)
    result = cli(*words)
    assert (result.code, result.out) == (0, "")
    table = parquet.read_table(target)
    assert table.column_names == ["slide_id", "patient_id", "cohort", *archive.gene_sets]
    assert table["slide_id"].to_pylist() == archive.slide_ids.tolist()
    truth = archive.activity[archive.slide_patient]
    for column, name in enumerate(archive.visible):
        assert np.corrcoef(table[name].to_numpy(), truth[:, column])[0, 1] > 0.8
    provenance = json.loads(table.schema.metadata[b"molquery.provenance"])
    assert provenance["space_id"] == engine.space_id
    assert provenance["parameters"]["gene_sets"].keys() == archive.gene_sets.keys()
    assert json.loads((tmp_path / "scores.parquet.provenance.json").read_text()) == provenance
    assert cli(*words).code == 1
    assert cli(*words, "--overwrite").code == 0


def test_scores_are_in_the_units_of_the_reference(
    cli: Cli, aligned: Path, engine: Engine, files: synth.Files, tmp_path: Path
) -> None:
    target = tmp_path / "scores.csv"
    assert cli("--db", aligned, "score", files.gene_sets, "--output", target).code == 0
    found = rows_of(target.read_text(), "csv")
    from molquery.genesets.gmt import read_gmt

    measured = engine.reference.score(read_gmt(files.gene_sets)).scores[:, 0]
    name = next(iter(found[0].keys() - {"slide_id", "patient_id", "cohort"}), "")
    values = np.array([float(r[name]) for r in found])
    assert np.abs(values).max() < 1.5 * np.abs(measured).max()
    assert values.std() > 0.3 * measured.std()


def test_strata(cli: Cli, aligned: Path, tmp_path: Path) -> None:
    target = tmp_path / "strata.csv"
    result = cli(
        "--db", aligned, "stratify", "--geneset", "HALLMARK_E2F_TARGETS", "--cut", "tertiles",
        "--within", "cohort", "--format", "csv", "--output", target,
    )  # fmt: skip
    assert result.code == 0, result.err
    found = rows_of(target.read_text(), "csv")
    provenance = json.loads((tmp_path / "strata.csv.provenance.json").read_text())
    cut = provenance["parameters"]["cut"]
    for cohort in {r["cohort"] for r in found}:
        mine = [r for r in found if r["cohort"] == cohort]
        low, high = cut["points"][cohort]
        for row in mine:
            score = float(row["score"])
            expected = "low" if score <= low else "mid" if score <= high else "high"
            assert row["stratum"] == expected
        sizes = [sum(r["stratum"] == s for r in mine) for s in ("low", "mid", "high")]
        assert max(sizes) - min(sizes) <= 1


def test_retrieve(cli: Cli, aligned: Path, archive: synth.Archive) -> None:
    slide = str(archive.slide_ids[0])
    result = cli("--db", aligned, "retrieve", slide, "--to", "profiles", "-k", 5,
                 "--format", "json")  # fmt: skip
    document = json.loads(result.out)
    assert [h["rank"] for h in document["hits"]] == [1, 2, 3, 4, 5]
    assert document["provenance"]["parameters"]["query"] == slide
    assert document["provenance"]["index"] == "default-profiles-flat (recall@10 1.000)"


# The main job, as the issue types it -------------------------------------------------------------


def test_from_files_to_an_answer(
    cli: Cli, files: synth.Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLQUERY_DB", str(tmp_path / "toy.mq"))

    def ok(*words: object) -> Any:
        result = cli(*words)
        assert result.code == 0, result.err
        return result

    ok("init")
    first = ok("ingest", "slides", files.slides, "--id", "slide_id", "--vector", "features",
               "--encoder", "toy")  # fmt: skip
    n = parquet.read_table(files.slides).num_rows
    assert first.out.startswith(f"slides: {n} inserted, 0 updated, 0 unchanged")
    again = ok("ingest", "slides", files.slides, "--encoder", "toy")
    assert again.out.startswith(f"slides: 0 inserted, 0 updated, {n} unchanged")
    ok("ingest", "profiles", files.profiles, "--id", "profile_id", "--scale", "log2")
    joined = ok("ingest", "metadata", files.metadata, "--on", "patient_id")
    assert f"matched {n} of {n} slides by patient_id" in joined.out
    aligned = ok("align", "--method", "cca")
    assert "Retrieval, patients held out" in aligned.out
    assert "sites held out" in aligned.out
    built = ok("index", "build")
    assert "recall@10 1.000" in built.out
    assert ok("index", "check").out.count("\tok\n") == 2
    hits = rows_of(ok("search", "--genes", "STAT1,IRF1,-MKI67", "--min-genes", 2,
                      "--where", "cohort = 'COHORT-A'", "--within", "cohort", "-k", 5).out,
                   "tsv")  # fmt: skip
    assert {h["cohort"] for h in hits} == {"COHORT-A"}
    printed = ok("evaluate").out
    assert printed.strip() in aligned.out
    facts = json.loads(ok("info", "--format", "json").out)
    assert facts["slides"] == n
    assert facts["space: method"] == "cca"


def test_index_check_fails_on_a_damaged_index(cli: Cli, aligned_copy: Path) -> None:
    file = next((aligned_copy / "indexes").glob("default-slides-flat-*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    result = cli("--db", aligned_copy, "index", "check")
    assert result.code == 1
    assert "damaged" in result.out
    assert "1 of 2 indexes cannot be used" in result.err


def test_ids_that_a_terminal_must_not_see_raw(
    cli: Cli, aligned_copy: Path, archive: synth.Archive, tmp_path: Path
) -> None:
    nasty = "bad\x1b[31m\tid"
    table = {"slide_id": [nasty], "features": [archive.embeddings[0].tolist()]}
    parquet.write_table(pa.table(table), tmp_path / "s.parquet")
    done = cli("--db", aligned_copy, "ingest", "slides", tmp_path / "s.parquet", "--encoder",
               "toy-encoder")  # fmt: skip
    assert done.code == 0
    assert nasty in Database.open(aligned_copy).read(SLIDES, ["slide_id"])["slide_id"].to_pylist()
    shown = cli("--db", aligned_copy, "search", "--geneset", "HALLMARK_HYPOXIA", "-k", 1000,
                "--format", "table")  # fmt: skip
    assert shown.code == 0
    assert "\x1b" not in shown.out + shown.err
