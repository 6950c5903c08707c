"""Bad input: one clear message on stderr, exit code 1, and a database that holds the same bytes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyarrow import parquet

from molquery import schema, synth
from molquery.database import Database
from molquery.schema import SLIDES

Cli = Callable[..., Any]
Watch = Callable[[Path], None]
DIM = 32


def refused(result: Any, *said: str) -> None:
    """Exit code 1 and one message that holds these words; nothing on stdout, no traceback."""
    assert result.code == 1, (result.code, result.out, result.err)
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.count("molquery: ") == 1, result.err
    for words in said:
        assert words in result.err, f"{words!r} is not in:\n{result.err}"


def vectors(n: int = 6, dim: int = DIM) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)


def slide_file(path: Path, values: Any, ids: Any = None, **columns: Any) -> Path:
    ids = [f"X{i}" for i in range(len(values))] if ids is None else list(ids)
    table = {"slide_id": ids, **columns, "features": [[float(x) for x in v] for v in values]}
    parquet.write_table(pa.table(table), path)
    return path


SLIDES_IN = ("ingest", "slides")
ENCODER = ("--encoder", "toy-encoder")


# The wrong file ----------------------------------------------------------------------------------


def wrong_files(folder: Path) -> dict[str, Path]:
    """Files that are not what `ingest slides` takes, by kind."""
    out = {name: folder / name for name in ("photo.jpg", "empty.parquet", "text.parquet", "a.gmt")}
    out["photo.jpg"].write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)))
    out["empty.parquet"].write_bytes(b"")
    out["text.parquet"].write_text("this is no parquet file\n")
    out["a.gmt"].write_text("SET\tdescription\tCD8A\tCXCL9\n")
    return out


@pytest.mark.parametrize("name", ["photo.jpg", "empty.parquet", "text.parquet", "a.gmt"])
@pytest.mark.parametrize(
    "command",
    [(*SLIDES_IN, *ENCODER), ("ingest", "profiles", "--scale", "log2"),
     ("ingest", "metadata", "--on", "patient_id")],
)  # fmt: skip
def test_a_file_of_the_wrong_kind(
    cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path, name: str, command: tuple[str, ...]
) -> None:
    unchanged(aligned)
    path = wrong_files(tmp_path)[name]
    refused(cli("--db", aligned, *command, path), name)


@pytest.mark.parametrize("where", ["slides", "profiles", "metadata"])
def test_a_truncated_file(
    cli: Cli, aligned: Path, unchanged: Watch, files: synth.Files, tmp_path: Path, where: str
) -> None:
    unchanged(aligned)
    whole = getattr(files, where).read_bytes()
    path = tmp_path / "cut.parquet"
    path.write_bytes(whole[: len(whole) // 2])
    more = {"slides": ENCODER, "profiles": ("--scale", "log2"), "metadata": ("--on", "patient_id")}
    refused(cli("--db", aligned, "ingest", where, path, *more[where]), "cut.parquet")


def test_a_file_that_does_not_exist(
    cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path
) -> None:
    unchanged(aligned)
    missing = tmp_path / "nothing.parquet"
    refused(cli("--db", aligned, *SLIDES_IN, missing, *ENCODER), "nothing.parquet")
    refused(cli("--db", aligned, "ingest", "metadata", missing, "--on", "patient_id"), "nothing")
    refused(cli("--db", aligned, "score", tmp_path / "nothing.gmt"), "nothing.gmt")
    refused(cli("--db", aligned, "search", "--geneset", "nothing.gmt#A"), "nothing.gmt")


def test_a_gmt_file_that_is_none(cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path) -> None:
    unchanged(aligned)
    path = tmp_path / "sets.gmt"
    path.write_text('["CD8A"]\n')
    refused(cli("--db", aligned, "score", path), "is not a GMT file", "JSON")
    refused(cli("--db", aligned, "search", "--geneset", path), "is not a GMT file")


def test_a_gene_set_called_like_a_column(
    cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path, archive: synth.Archive
) -> None:
    unchanged(aligned)
    path = tmp_path / "sets.gmt"
    path.write_text("\t".join(["cohort", "mine", *archive.genes[:20]]) + "\n")
    refused(cli("--db", aligned, "score", path), "a gene set is called cohort")


# Columns and ids ---------------------------------------------------------------------------------


def test_a_missing_column_lists_those_that_are_there(
    cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path
) -> None:
    unchanged(aligned)
    path = slide_file(tmp_path / "s.parquet", vectors(), stain=["H&E"] * 6)
    refused(cli("--db", aligned, *SLIDES_IN, path, *ENCODER, "--id", "barcode"),
            "'barcode'", "slide_id, stain, features")  # fmt: skip
    refused(cli("--db", aligned, *SLIDES_IN, path, *ENCODER, "--vector", "embedding"),
            "'embedding'", "slide_id, stain, features")  # fmt: skip
    refused(cli("--db", aligned, "ingest", "metadata", path, "--on", "patient_id"),
            "no column patient_id", "slide_id, stain")  # fmt: skip


def test_duplicate_ids(cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path) -> None:
    unchanged(aligned)
    path = slide_file(tmp_path / "s.parquet", vectors(5), "abcab")
    refused(cli("--db", aligned, *SLIDES_IN, path, *ENCODER), "2 slide ids", "a, b")
    one, other = (slide_file(tmp_path / f"{n}.parquet", vectors(1), "c") for n in "tu")
    refused(cli("--db", aligned, *SLIDES_IN, one, other, *ENCODER), "slide c is in two files")


# Vectors -----------------------------------------------------------------------------------------


def bad() -> npt.NDArray[np.float32]:
    v = vectors(8)
    v[1, 3], v[2, 0], v[4], v[5] = np.nan, -np.inf, 0.0, np.nan
    return v


def test_bad_vectors_are_counted_and_named(
    cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path
) -> None:
    unchanged(aligned)
    path = slide_file(tmp_path / "s.parquet", bad())
    refused(
        cli("--db", aligned, *SLIDES_IN, path, *ENCODER),
        "4 of 8", "2 with NaN values: X1, X5", "1 with infinite values: X2",
        "1 with all zeros: X4", "--skip-invalid",
    )  # fmt: skip


def test_skip_invalid_says_what_it_skipped(cli: Cli, aligned_copy: Path, tmp_path: Path) -> None:
    path = slide_file(tmp_path / "s.parquet", bad())
    before = Database.open(aligned_copy).count(SLIDES)
    result = cli("--db", aligned_copy, *SLIDES_IN, path, *ENCODER, "--skip-invalid")
    assert result.code == 0, result.err
    assert "4 inserted" in result.out
    assert "skipped 2 with NaN values: X1, X5" in result.out
    assert "skipped 1 with all zeros: X4" in result.out
    assert Database.open(aligned_copy).count(SLIDES) == before + 4


def test_another_dimension_or_encoder(
    cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path
) -> None:
    unchanged(aligned)
    path = slide_file(tmp_path / "s.parquet", vectors(dim=DIM + 1))
    refused(cli("--db", aligned, *SLIDES_IN, path, *ENCODER), "dim 33", "32 in the database")
    path = slide_file(tmp_path / "t.parquet", vectors())
    refused(cli("--db", aligned, *SLIDES_IN, path, "--encoder", "titan"),
            "encoder titan", "toy-encoder in the database")  # fmt: skip
    refused(cli("--db", aligned, *SLIDES_IN, path), "encoder", "--encoder NAME")


def test_profiles_on_another_scale(
    cli: Cli, aligned: Path, unchanged: Watch, files: synth.Files
) -> None:
    unchanged(aligned)
    refused(cli("--db", aligned, "ingest", "profiles", files.profiles, "--scale", "tpm"),
            "scale log2-tpm", "log2 in the database")  # fmt: skip


# Alignment ---------------------------------------------------------------------------------------


def test_no_shared_patients_show_three_ids_of_each(
    cli: Cli, files: synth.Files, tmp_path: Path, unchanged: Watch
) -> None:
    db = tmp_path / "a.mq"
    assert cli("--db", db, "init").code == 0
    path = slide_file(tmp_path / "s.parquet", vectors(40), patient_id=[f"A{i}" for i in range(40)])
    assert cli("--db", db, *SLIDES_IN, path, *ENCODER).code == 0
    assert cli("--db", db, "ingest", "profiles", files.profiles, "--scale", "log2").code == 0
    unchanged(db)
    result = cli("--db", db, "align")
    refused(result, "no slide and profile share a patient_id", "P0000")
    shown = result.err.split("slides have")[1]
    assert shown.count("A") >= 3
    assert shown.split("profiles have")[1].count("P0000") >= 3


@pytest.mark.parametrize(
    "command",
    [("search", "--geneset", "HALLMARK_HYPOXIA"), ("retrieve", "P000001-S1", "--to", "slides"),
     ("stratify", "--geneset", "HALLMARK_HYPOXIA"), ("evaluate",), ("index", "build"),
     ("genesets", "check")],
)  # fmt: skip
def test_before_align_the_message_says_what_to_run(
    cli: Cli, ingested: Path, unchanged: Watch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    unchanged(ingested)
    refused(cli("--db", ingested, *command), "no shared space yet", "molquery align")
    empty = tmp_path / "empty.mq"
    assert cli("--db", empty, "init").code == 0
    unchanged(empty)
    refused(cli("--db", empty, *command), "molquery ingest slides, molquery ingest profiles")


def test_align_before_ingest(cli: Cli, tmp_path: Path, unchanged: Watch) -> None:
    db = tmp_path / "a.mq"
    assert cli("--db", db, "init").code == 0
    unchanged(db)
    refused(cli("--db", db, "align"), "holds no slides yet", "molquery ingest slides")


# Signatures and filters --------------------------------------------------------------------------


def test_an_unknown_gene_set_suggests_the_nearest(
    cli: Cli, aligned: Path, unchanged: Watch
) -> None:
    unchanged(aligned)
    refused(cli("--db", aligned, "search", "--geneset", "HALLMARK_INTERFERON_GAMA_RESPONSE"),
            "HALLMARK_INTERFERON_GAMMA_RESPONSE")  # fmt: skip
    refused(cli("genesets", "show", "hypoxa"), "HALLMARK_HYPOXIA")


def test_too_few_genes_list_the_missing(cli: Cli, aligned: Path, unchanged: Watch) -> None:
    unchanged(aligned)
    refused(cli("--db", aligned, "search", "--genes", "ALB,INS,TTN,-GCG"),
            "only 0 of the 4 genes", "ALB, INS, TTN, GCG")  # fmt: skip


@pytest.mark.parametrize(
    "given", [(), ("--genes", "CD8A", "--geneset", "HALLMARK_HYPOXIA"), ("--genes", "CD8A,CD8A"),
              ("--genes", "CD8A:x"), ("--genes", ",")]
)  # fmt: skip
def test_a_signature_that_cannot_be_read(
    cli: Cli, aligned: Path, unchanged: Watch, given: tuple[str, ...]
) -> None:
    unchanged(aligned)
    refused(cli("--db", aligned, "search", *given), "gene")


@pytest.mark.parametrize(
    "command",
    [("search", "--geneset", "HALLMARK_HYPOXIA"), ("retrieve", "P000210-S1", "--to", "slides"),
     ("stratify", "--geneset", "HALLMARK_HYPOXIA")],
)  # fmt: skip
def test_an_unknown_column_in_where_lists_the_columns(
    cli: Cli, aligned: Path, unchanged: Watch, archive: synth.Archive, command: tuple[str, ...]
) -> None:
    unchanged(aligned)
    command = tuple(str(archive.slide_ids[0]) if w == "P000210-S1" else w for w in command)
    refused(cli("--db", aligned, *command, "--where", "kohort = 'X'"), "kohort",
            "slide_id, patient_id, cohort, site, age, sex, subtype")  # fmt: skip
    refused(cli("--db", aligned, *command, "--where", "cohort ="), "--where")


def test_strict_refuses(cli: Cli, aligned: Path, unchanged: Watch) -> None:
    unchanged(aligned)
    refused(cli("--db", aligned, "search", "--geneset", "HALLMARK_OXIDATIVE_PHOSPHORYLATION",
                "--strict"), "hardly predictable", "the floor is")  # fmt: skip


@pytest.mark.parametrize("cut", ["thirds", "quantiles:0.9,0.1", "value:x", "quantiles:2"])
def test_a_cut_that_is_none(cli: Cli, aligned: Path, unchanged: Watch, cut: str) -> None:
    unchanged(aligned)
    refused(
        cli("--db", aligned, "stratify", "--geneset", "HALLMARK_HYPOXIA", "--cut", cut),
        "tertiles, median, quantiles:0.25,0.75, value:0.5, mixture or mixture:3",
    )


# Databases ---------------------------------------------------------------------------------------

READERS = (
    ("info",), ("align",), ("evaluate",), ("index", "list"), ("index", "build"),
    ("search", "--geneset", "HALLMARK_HYPOXIA"), ("retrieve", "x", "--to", "slides"),
    ("stratify", "--geneset", "HALLMARK_HYPOXIA"), ("genesets", "check"),
)  # fmt: skip


@pytest.mark.parametrize("command", READERS)
def test_a_database_that_does_not_exist_is_never_made(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    refused(cli("--db", tmp_path / "typo.mq", *command), "there is no database at", "init")
    assert list(tmp_path.iterdir()) == []


def test_ingest_makes_no_database(cli: Cli, tmp_path: Path, files: synth.Files) -> None:
    db = tmp_path / "typo.mq"
    refused(cli("--db", db, *SLIDES_IN, files.slides, *ENCODER), "there is no database")
    refused(cli("--db", db, "score", files.gene_sets), "there is no database")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READERS)
def test_no_database_at_all(cli: Cli, command: tuple[str, ...]) -> None:
    refused(cli(*command), "which database?", "--db PATH", "MOLQUERY_DB")


def test_a_folder_that_is_no_database(cli: Cli, tmp_path: Path, unchanged: Watch) -> None:
    (tmp_path / "thesis.doc").write_text("chapter 1")
    unchanged(tmp_path)
    refused(cli("--db", tmp_path, "info"), "is not a molquery database")
    refused(cli("--db", tmp_path, "init"), "not empty")


def test_init_twice(cli: Cli, tmp_path: Path, unchanged: Watch) -> None:
    assert cli("--db", tmp_path / "a.mq", "init").code == 0
    unchanged(tmp_path)
    refused(cli("--db", tmp_path / "a.mq", "init"), "already")


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 99}', '{"format_version": 0}'])
def test_a_manifest_that_cannot_be_used(
    cli: Cli, ingested_copy: Path, unchanged: Watch, content: str
) -> None:
    (ingested_copy / "manifest.json").write_text(content)
    unchanged(ingested_copy)
    refused(cli("--db", ingested_copy, "info"), "ingested.mq")


@pytest.mark.parametrize(
    "content", [f'{{"format_version": {schema.FORMAT_VERSION}}}', '{"format_version": "2"}']
)
def test_a_manifest_with_missing_parts(
    cli: Cli, ingested_copy: Path, unchanged: Watch, content: str
) -> None:
    (ingested_copy / "manifest.json").write_text(content)
    unchanged(ingested_copy)
    refused(cli("--db", ingested_copy, "info"), "manifest", "damaged")


def test_a_read_only_database(aligned_copy: Path, unchanged: Watch, tmp_path: Path) -> None:
    """Root is bound by permissions only without its capability to override them."""
    path = slide_file(tmp_path / "s.parquet", vectors())
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    if os.geteuid():
        bound = []
    elif shutil.which("setpriv") is None:
        pytest.skip("no setpriv to take root's rights away")

    def bare(*words: object) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "from molquery.cli.main import main; main()"]
        command = [*bound, *program, "--db", aligned_copy, *words]
        return subprocess.run([str(w) for w in command], capture_output=True, text=True)

    shutil.rmtree(aligned_copy / "indexes")  # a search that would store what it computes
    unchanged(aligned_copy)
    folders = [aligned_copy, *(p for p in aligned_copy.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        done = bare(*SLIDES_IN, path, *ENCODER)
        assert (done.returncode, "cannot be written" in done.stderr) == (1, True), done.stderr
        found = bare("search", "--geneset", "HALLMARK_HYPOXIA", "--null", 0, "-k", 2)
        assert (found.returncode, len(found.stdout.splitlines())) == (0, 3), found.stderr
        assert "could not be stored" in found.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("column", ["slide_id", "cohort", "note"])
def test_text_of_megabytes_is_refused(
    cli: Cli, ingested_copy: Path, unchanged: Watch, tmp_path: Path, column: str
) -> None:
    text = {"slide_id": "x" * 10_000_000, "cohort": "x" * 501, "note": "x" * 100_001}[column]
    long = {column: [text, *(f"Y{i}" for i in range(5))]}
    path = slide_file(tmp_path / "s.parquet", vectors(), **long)
    unchanged(ingested_copy)
    result = cli("--db", ingested_copy, *SLIDES_IN, path, *ENCODER)
    refused(result, column, "too long", f"{len(text):,} characters")
    path = slide_file(tmp_path / "s.parquet", vectors(), **{column: [*"abcde", "a\0b"]})
    refused(cli("--db", ingested_copy, *SLIDES_IN, path, *ENCODER), column, "NUL", "a\\x00b")
    assert len(result.err) < 1_000


def test_column_names_lose_what_cannot_be_seen(
    cli: Cli, ingested_copy: Path, tmp_path: Path
) -> None:
    path = slide_file(tmp_path / "s.parquet", vectors(), **{"a\x00b\n\u202e": [1] * 6})
    assert cli("--db", ingested_copy, *SLIDES_IN, path, *ENCODER).code == 0
    assert Database.open(ingested_copy).count(SLIDES, "a_b__ = 1") == 6


def test_a_database_that_cannot_be_locked(
    cli: Cli, aligned_copy: Path, unchanged: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a read-only directory does, for tests that run as root."""
    path = slide_file(tmp_path / "s.parquet", vectors())

    class Locked:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> None:
            raise PermissionError(13, "Permission denied")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("filelock.FileLock", Locked)
    unchanged(aligned_copy)
    refused(cli("--db", aligned_copy, *SLIDES_IN, path, *ENCODER), "cannot be written")


# Outputs -----------------------------------------------------------------------------------------


def test_an_output_is_not_replaced_unasked(
    cli: Cli, aligned: Path, files: synth.Files, tmp_path: Path, unchanged: Watch
) -> None:
    target = tmp_path / "scores.parquet"
    target.write_text("the work of a week")
    unchanged(tmp_path)
    refused(cli("--db", aligned, "score", files.gene_sets, "--output", target), "--overwrite")


@pytest.mark.parametrize("name", ["strata.xlsx", "strata.tsv.gz"])
def test_a_name_that_says_no_format(
    cli: Cli, aligned: Path, unchanged: Watch, tmp_path: Path, name: str
) -> None:
    unchanged(aligned)
    words = ("--db", aligned, "stratify", "--geneset", "HALLMARK_HYPOXIA")
    for option in ("--output", "--tests"):
        result = cli(*words, option, tmp_path / name)
        assert result.code == 1
        assert "does not say how to write it" in result.err
    assert list(tmp_path.iterdir()) == []
    assert cli(*words, "--format", "csv", "--output", tmp_path / name).code == 0


def test_an_output_that_cannot_be_written(
    cli: Cli, aligned: Path, tmp_path: Path, unchanged: Watch
) -> None:
    unchanged(tmp_path)
    search = ("--db", aligned, "search", "--geneset", "HALLMARK_HYPOXIA")
    refused(cli(*search, "--output", tmp_path / "no" / "where.tsv"), "cannot write", "No such")
    refused(cli(*search, "--output", tmp_path, "--format", "tsv"), str(tmp_path))
    refused(cli(*search, "--format", "parquet"), "--output")
