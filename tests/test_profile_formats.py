"""Expression formats: every file holds the same profiles, and every database must too."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import make_profiles as made
import numpy as np
import pytest

from molquery.database import Database
from molquery.errors import InputError, MolqueryError
from molquery.ingest import current_symbols, ingest_profiles
from molquery.readers import Options, read_profiles
from molquery.records import IngestReport, Signature
from molquery.reference import Reference
from molquery.scales import check, detect, facts_of
from molquery.schema import PROFILES

DATA = Path(__file__).parent / "data"
TRUE = Signature("S", dict.fromkeys([*made.SYMBOLS[5:40], "HLA-A", "CCN2"], 1.0))


def ingest(folder: Path, *paths: Path, **options: object) -> tuple[Database, IngestReport]:
    scale = options.pop("scale", None)
    database = Database.create(folder / f"db{len(list(folder.glob('db*')))}")
    told = Options(**options)  # type: ignore[arg-type]
    return database, ingest_profiles(database, paths, options=told, scale=scale)  # type: ignore[arg-type]


def content(database: Database) -> tuple[list[str], dict[str, np.ndarray]]:
    ids = database.read(PROFILES, [PROFILES.key])[PROFILES.key].to_pylist()
    values = database.matrix(PROFILES, PROFILES.vector)
    return ids, dict(zip(database.facts(PROFILES)["genes"], values.T, strict=True))


def same(database: Database, expected: np.ndarray = made.LOG2, rtol: float = 2e-4) -> None:
    ids, genes = content(database)
    assert [i[:15] for i in ids] == sorted(made.IDS)
    order = np.argsort(made.IDS)
    assert set(genes) == set(made.SYMBOLS)
    for j, symbol in enumerate(made.SYMBOLS):
        np.testing.assert_allclose(genes[symbol], expected[order, j], rtol=rtol, atol=2e-3)


def test_xena_symbols_ensembl_entrez_and_mangled_names_are_one_matrix(tmp_path: Path) -> None:
    old = [{"CCN2": "CTGF"}.get(s, s) for s in made.SYMBOLS]
    mangled = [s.replace("-", ".") for s in made.SYMBOLS]
    both = [f"{s}|{e}" for s, e in zip(made.SYMBOLS, made.ENTREZ, strict=True)]
    floats = [f"{e}.0" for e in made.ENTREZ]
    versioned = [f"{e}.12" for e in made.ENSEMBL]
    scores = []
    for name, genes in {
        "new": made.SYMBOLS, "old": old, "mangled": mangled, "both": both, "floats": floats,
        "ensembl": versioned, "entrez": made.ENTREZ,
    }.items():  # fmt: skip
        path = made.matrix(tmp_path / name, made.LOG2, tuple(genes))
        database, report = ingest(tmp_path, path)
        same(database)
        assert any("scale read as log2" in note for note in report.notes)
        assert any("genes read as" in note for note in report.notes)
        scores.append(Reference(database).score_one(TRUE)[1])
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-5, atol=1e-5)


def test_gct_of_both_versions(tmp_path: Path) -> None:
    values = made.LOG2.copy()
    for newer in (False, True):
        path = made.gct(tmp_path / f"{newer}.gct", values, newer=newer)
        database, _ = ingest(tmp_path, path)
        same(database)
        if newer:
            got = read_profiles(path)
            assert got.metadata["cohort"].to_pylist()[:2] == ["B", "A"]
            assert got.metadata["dose"].to_pylist()[:2] == [3, None]
    values[0, 0] = -666
    got = read_profiles(made.gct(tmp_path / "missing.gct", values))
    assert np.isnan(got.values[0, 0])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:500]))
    with pytest.raises(InputError, match=r"1200 rows(?s:.*)cut short"):
        read_profiles(path)


@pytest.mark.parametrize("name", ["cmappy.gct", "gct12.gct"])
def test_gct_reads_as_cmappy_reads_it(name: str) -> None:
    """Written and read by cmapPy itself: `make_gct.py`."""
    theirs = json.loads((DATA / "cmappy.json").read_text())[name]
    got = read_profiles(DATA / name)
    assert list(got.ids) == theirs["samples"]
    expected = np.array(theirs["values"], dtype=np.float32).T
    expected[expected == -666] = np.nan  # cmapPy leaves it a number
    assert np.isnan(expected).sum() == 1
    np.testing.assert_array_equal(got.values, expected)
    for column, values in theirs["metadata"].items():
        ours = got.metadata[column].to_pylist()
        assert ours == [values[sample] for sample in got.ids], column
    assert got.genes[:3] == ("TP53", "EGFR", "HLA-A")
    rows = got.genes if name == "gct12.gct" else [f"{100 + i}_at" for i in range(10)]
    assert theirs["rows"] == list(rows)


def test_cbioportal_rows_without_symbol_and_z_scores(tmp_path: Path) -> None:
    database, _ = ingest(tmp_path, made.cbioportal(tmp_path / "rsem.txt", made.TPM))
    same(database)
    z = (made.LOG2 - made.LOG2.mean(axis=0)) / np.maximum(made.LOG2.std(axis=0), 1e-9)
    path = made.cbioportal(tmp_path / "z.txt", z)
    database, report = ingest(tmp_path, path)
    assert report.facts["scale"] == "zscore"
    with pytest.raises(InputError, match="negative values"):
        ingest(tmp_path, path, scale="log2")


def test_star_counts_with_a_sheet_in_every_scale(tmp_path: Path) -> None:
    folder = made.star(tmp_path / "gdc")
    database, report = ingest(tmp_path, folder)
    same(database)
    assert report.inserted == made.N
    assert any("_PAR_Y" in note for note in report.notes)
    rows = database.read(PROFILES, [PROFILES.key, "patient_id", "cohort", "sample_type"])
    assert rows["cohort"].to_pylist() == ["TCGA-X"] * made.N
    assert rows["patient_id"].to_pylist() == [i[:12] for i in sorted(made.IDS)]
    database, _ = ingest(tmp_path, folder, scale="counts", gene_id="symbol")
    cp10k = np.log2(1 + made.COUNTS / made.COUNTS.sum(axis=1, keepdims=True) * 1e4)
    _, genes = content(database)
    order = np.argsort(made.IDS)
    np.testing.assert_allclose(genes["HLA-A"], cp10k[order, made.SYMBOLS.index("HLA-A")], rtol=1e-4)


def test_star_without_a_sheet_names_samples_by_file_and_says_so(tmp_path: Path) -> None:
    file = next(made.star(tmp_path / "gdc", sheet=False).rglob("*.tsv"))
    got = read_profiles(file)
    assert got.ids == (file.name.split(".")[0],)
    assert any("no sample sheet" in note for note in got.notes)
    with pytest.raises(InputError, match="holds no log2"):
        read_profiles(file, Options(scale="log2"))


def test_rsem_and_salmon(tmp_path: Path) -> None:
    database, _ = ingest(tmp_path, made.rsem(tmp_path / "rsem"))
    same(database)
    folder = made.salmon(tmp_path / "salmon", tmp_path / "tx2gene.csv")
    with pytest.raises(InputError, match="--tx2gene"):
        ingest(tmp_path, folder)
    database, _ = ingest(tmp_path, folder, tx2gene=tmp_path / "tx2gene.csv")
    same(database)
    gencode = made.salmon(tmp_path / "gencode", tmp_path / "unused.csv", gencode=True)
    database, _ = ingest(tmp_path, gencode)
    same(database)


def test_order_of_files_rows_and_columns_changes_nothing(tmp_path: Path) -> None:
    files = sorted(made.star(tmp_path / "gdc").rglob("*star_gene_counts.tsv"))
    lines = files[0].read_text().splitlines()
    files[0].write_text("\n".join([*lines[:2], *reversed(lines[2:])]) + "\n")
    first, _ = ingest(tmp_path, *files)
    second, _ = ingest(tmp_path, *reversed(files))
    assert content(first)[0] == content(second)[0]
    for gene, values in content(first)[1].items():
        np.testing.assert_array_equal(values, content(second)[1][gene])
    same(first)


def windows(text: bytes) -> bytes:
    return b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("change", [windows, gzip.compress], ids=["BOM and CRLF", "gzip"])
@pytest.mark.parametrize("kind", ["gct", "gct13", "star", "rsem", "cbioportal", "xena"])
def test_windows_text_and_gzip(tmp_path: Path, kind: str, change: Callable[[bytes], bytes]) -> None:
    path = one_file(tmp_path, kind)
    before = read_profiles(path)
    path.write_bytes(change(path.read_bytes()))
    after = read_profiles(path)
    assert (after.ids, after.genes) == (before.ids, before.genes)
    np.testing.assert_array_equal(after.values, before.values)


def one_file(tmp_path: Path, kind: str) -> Path:
    if kind == "star":
        return sorted(made.star(tmp_path / "gdc", sheet=False).rglob("*.tsv"))[0]
    if kind == "rsem":
        return sorted(made.rsem(tmp_path / "rsem").iterdir())[0]
    path = tmp_path / kind
    if kind == "cbioportal":
        return made.cbioportal(path, made.TPM)
    if kind == "xena":
        return made.matrix(path, made.LOG2, made.ENSEMBL)
    return made.gct(path, made.LOG2, newer=kind == "gct13")


@pytest.mark.parametrize("kind", ["gct", "star", "rsem", "cbioportal", "xena"])
def test_a_gzip_cut_short_and_a_page_are_refused(tmp_path: Path, kind: str) -> None:
    path = one_file(tmp_path, kind)
    whole = gzip.compress(path.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MolqueryError):
        read_profiles(path)
    path.write_text("<!DOCTYPE html>\n<html><body>Sign in</body></html>")
    with pytest.raises(MolqueryError, match="HTML page"):
        read_profiles(path)


def test_scales_that_contradict_the_values(tmp_path: Path) -> None:
    counts = made.matrix(tmp_path / "counts", made.COUNTS, made.SYMBOLS)
    tpm = made.matrix(tmp_path / "tpm", made.TPM, made.SYMBOLS)
    logs = made.matrix(tmp_path / "logs", made.LOG2, made.SYMBOLS)
    natural = made.matrix(tmp_path / "ln", np.log(made.TPM + 1), made.SYMBOLS)
    half = made.matrix(tmp_path / "half", made.TPM[:, :700] / 2, made.SYMBOLS[:700])
    assert ingest(tmp_path, counts)[1].facts["scale"] == "log2-cp10k"
    assert ingest(tmp_path, tpm)[1].facts["scale"] == "log2-tpm"
    assert ingest(tmp_path, natural)[1].facts["read as"] == "ln"
    for path, scale, says in (
        (counts, "tpm", "whole numbers"),
        (counts, "log2", "too large"),
        (tpm, "counts", "a million"),
        (logs, "tpm", "logarithms"),
        (logs, "zscore", "no value is negative"),
        (logs, "ln", "--scale log2"),
        (half, None, r"--scale fpkm or --scale tpm"),
    ):
        with pytest.raises(InputError, match=says):
            ingest(tmp_path, path, scale=scale)
    _, report = ingest(tmp_path, half, scale="tpm")
    assert any("WARNING: the samples sum to" in note for note in report.notes)


def test_dates_of_spreadsheets_are_named(tmp_path: Path) -> None:
    genes = ("1-Mar", "9-Sep", *made.SYMBOLS[2:])
    _, report = ingest(tmp_path, made.matrix(tmp_path / "x", made.LOG2, genes))
    assert any("WARNING" in note and "1-Mar, 9-Sep" in note for note in report.notes)


def test_logarithms_of_counts_are_told_by_whole_numbers(tmp_path: Path) -> None:
    deep = made.COUNTS * np.arange(1, made.N + 1)[:, None]  # libraries of other depths
    for name, values in (("ln", np.log1p(deep)), ("log2", np.log2(deep + 1))):
        found = facts_of(values.astype(np.float32))
        assert (found.counts, detect(found, "x")[0]) == (name, name)
        assert any("depth of sequencing" in note for note in check(found, name, "x"))
    with pytest.raises(InputError, match=r"undone as ln(?s:.*)--scale ln"):
        check(facts_of(np.log1p(deep).astype(np.float32)), "log2", "x")
    # Sums of two hundred million, as counts of deep libraries have: not too large for ln.
    odd = np.log1p(made.TPM * 200).astype(np.float32)
    with pytest.raises(InputError, match="log2 or ln"):
        detect(facts_of(odd), "x")


def test_negative_logarithms_are_no_z_scores() -> None:
    z = (made.LOG2 - made.LOG2.mean(0)) / made.LOG2.std(0)
    assert detect(facts_of(z.astype(np.float32)), "x")[0] == "zscore"
    assert check(facts_of(z.astype(np.float32)), "zscore", "x") == []
    toil = facts_of(np.log2(made.TPM + 0.001).astype(np.float32))
    with pytest.raises(InputError, match=r"log2\(x \+ 0.001\)"):
        detect(toil, "x")
    assert "not near 0" in check(toil, "zscore", "x")[0]


def test_row_names_of_pandas_are_ids(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(made.LOG2, index=list(made.IDS), columns=list(made.SYMBOLS))
    for name, one in (("rows", frame), ("columns", frame.T)):
        one.to_parquet(tmp_path / name)  # the index is the last column of the file
        got = read_profiles(tmp_path / name)
        assert (got.ids, got.genes) == (made.IDS, made.SYMBOLS)
        np.testing.assert_array_equal(got.values, made.LOG2.astype(np.float32))
        assert any(f"genes in {'columns' if name == 'rows' else 'rows'}" in n for n in got.notes)


def test_mouse_genes_and_a_wrong_kind_of_gene_are_said() -> None:
    names = [s.capitalize() for s in made.SYMBOLS]
    values = made.LOG2.astype(np.float32)
    assert any("mouse" in note for note in current_symbols(names, values)[2])
    assert not any("mouse" in note for note in current_symbols(list(made.SYMBOLS), values)[2])
    with pytest.raises(InputError, match="known as --gene-id symbol"):
        current_symbols(list(made.ENSEMBL), values, kind="symbol")
