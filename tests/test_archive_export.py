"""The whole database out and in again, and metadata joined by ids of other lengths."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molquery.database import Database, list_to_matrix, matrix_to_list
from molquery.errors import InputError, MolqueryError, OutputError
from molquery.export.archive import export_database
from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
from molquery.keys import match_keys
from molquery.readers import Options
from molquery.schema import CONTENT_HASH, PROFILES, SLIDES, TableSpec

N, D, GENES = 6, 9, ("TP53", "EGFR", "HLA-A", "KRT5")
IDS = [f"TCGA-AA-000{i}" for i in range(N)]
RNG = np.random.default_rng(0)


def build(folder: Path) -> Database:
    database = Database.create(folder / "db")
    slides = pa.table(
        {
            "slide_id": [f"{i}-01Z-00-DX1" for i in IDS],
            "cohort": ["A", None, "B", "B", "A", "A"],
            "grade": pa.array([1, None, 3, 2, 2, 1]),
            "alive": pa.array([True, None, False, True, True, True]),
            "age": [1.5, None, 3.25, 4.0, 5.0, 6.0],
            "remark": pa.array([None] * N, pa.string()),
            "v": matrix_to_list(RNG.normal(size=(N, D)).astype(np.float32)),
        }
    )
    pq.write_table(slides, folder / "s.parquet")
    ingest_slides(database, [folder / "s.parquet"], options=Options(), encoder="titan")
    values = RNG.gamma(2, 20, size=(N, len(GENES))).round(3)
    values[0, 1] = np.nan
    columns = {g: values[:, j] for j, g in enumerate(GENES)}
    pq.write_table(pa.table({"id": [f"{i}-01" for i in IDS], **columns}), folder / "p.parquet")
    ingest_profiles(database, [folder / "p.parquet"], options=Options(), scale="fpkm")
    database.set_vectors(
        SLIDES, "shared_abc", 3, [SLIDES.key],
        lambda rows: RNG.normal(size=(len(rows), 3)).astype(np.float32),
    )  # fmt: skip
    return database


def rows(database: Database, spec: TableSpec) -> dict[str, Any]:
    names = [
        c
        for c in database.dataset(spec).schema.names
        if c != CONTENT_HASH and not c.startswith("shared_")
    ]
    held = database.read(spec, sorted(names)).to_pydict()
    return {k: [repr(v) for v in values] for k, values in held.items()}


@pytest.mark.parametrize("suffix", ["parquet", "h5ad"])
def test_export_and_ingest_give_the_same_content(tmp_path: Path, suffix: str) -> None:
    database = build(tmp_path)
    out = tmp_path / "out"
    files = export_database(database, out)
    assert {f.name for f in files} == {
        "slides.parquet", "slides.h5ad", "profiles.parquet", "profiles.h5ad"
    }  # fmt: skip
    again = Database.create(tmp_path / "again")
    ingest_slides(again, [out / f"slides.{suffix}"], options=Options())
    ingest_profiles(again, [out / f"profiles.{suffix}"], options=Options())
    for spec in (SLIDES, PROFILES):
        assert rows(again, spec) == rows(database, spec)
        assert again.facts(spec) == database.facts(spec)
    with pytest.raises(OutputError, match="not empty"):
        export_database(database, out)
    export_database(database, out, overwrite=True)


@pytest.mark.parametrize("suffix", ["parquet", "h5ad"])
def test_an_export_changes_nothing_in_its_own_database(tmp_path: Path, suffix: str) -> None:
    database = build(tmp_path)
    joined = pa.table({"patient_id": IDS, "smoker": [True, None, False, True, None, True]})
    pq.write_table(joined, tmp_path / "m.parquet")
    ingest_metadata(database, [tmp_path / "m.parquet"])
    export_database(database, tmp_path / "out")
    before = [database.version(spec) for spec in (SLIDES, PROFILES)]
    for ingest, spec in ((ingest_slides, SLIDES), (ingest_profiles, PROFILES)):
        path = tmp_path / "out" / f"{spec.name}.{suffix}"
        report = ingest(database, [path], options=Options())
        assert (report.inserted, report.updated, report.unchanged) == (0, 0, N)
    assert [database.version(spec) for spec in (SLIDES, PROFILES)] == before


def test_one_changed_value_of_an_export_is_one_update(tmp_path: Path) -> None:
    database = build(tmp_path)
    export_database(database, tmp_path / "out")
    path = tmp_path / "out" / "slides.parquet"
    table = pq.read_table(path)
    grade = pa.array([9, *table["grade"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.column_names.index("grade"), "grade", grade), path)
    report = ingest_slides(database, [path], options=Options())
    assert (report.inserted, report.updated, report.unchanged) == (0, 1, N - 1)
    assert database.read(SLIDES, ["grade"])["grade"].to_pylist() == grade.to_pylist()
    pq.write_table(pq.read_table(path).append_column("new", pa.array([None, 1] + [None] * 4)), path)
    assert ingest_slides(database, [path], options=Options()).updated == 1


def test_exported_h5ad_opens_in_anndata(tmp_path: Path) -> None:
    database = build(tmp_path)
    export_database(database, tmp_path / "out", formats=("h5ad",))
    data = anndata.read_h5ad(tmp_path / "out" / "slides.h5ad")
    np.testing.assert_array_equal(data.X, database.matrix(SLIDES, SLIDES.vector))
    np.testing.assert_array_equal(
        data.obsm["X_molquery_shared"], database.matrix(SLIDES, "shared_abc")
    )
    assert list(data.obs_names) == database.read(SLIDES, ["slide_id"])["slide_id"].to_pylist()
    assert data.uns["encoder"] == "titan"
    assert list(anndata.read_h5ad(tmp_path / "out" / "slides.h5ad").obs["cohort"].cat.categories)


def test_clinical_tables_of_xena_and_cbioportal(tmp_path: Path) -> None:
    database = build(tmp_path)
    xena = tmp_path / "xena.tsv"
    lines = [
        "sampleID\tsubtype",
        *(f"{i}-11\tnormal" for i in IDS),
        *(f"{i}-01\tLumA" for i in IDS),
    ]
    xena.write_text("\n".join([*lines, "TCGA-ZZ-9999-01\tx"]) + "\n")
    report = ingest_metadata(database, [xena])
    assert report.matched == {"slides": (N, N), "profiles": (N, N)}
    assert any("first 15 characters" in note for note in report.notes)
    assert report.unmatched_file[0].startswith("TCGA-")
    for spec in (SLIDES, PROFILES):
        assert database.read(spec, ["subtype"])["subtype"].to_pylist() == ["LumA"] * N
    clinical = tmp_path / "data_clinical_patient.txt"
    clinical.write_text(
        "#Patient\tStatus\n#id\tos\n#STRING\tSTRING\n#1\t1\nPATIENT_ID\tOS_STATUS\n"
        + "".join(f"{i}\t0:LIVING\n" for i in IDS[:4])
    )
    report = ingest_metadata(database, [clinical])
    assert report.matched == {"slides": (4, N), "profiles": (4, N)}
    assert report.n_unmatched_database == 2
    clinical.write_text("PATIENT_ID,x\nnobody,1\n")
    with pytest.raises(InputError, match="nobody"):
        ingest_metadata(database, [clinical])


@pytest.mark.parametrize(
    ("keys", "held", "rows"),
    [
        (["a", "b"], ["b", None, "c"], (1, None, None)),
        (["TCGA-AA-0001-01A-11R-A1B2-07"], ["TCGA-AA-0001"], (0,)),
        (["TCGA-AA-0001-01A-11R-A1B2-07"], ["TCGA-AA-0001-01"], (0,)),
        (["TCGA-AA-0001-11A", "TCGA-AA-0001-01A"], ["TCGA-AA-0001"], (1,)),
        (["TCGA-AA-0001-11A", "TCGA-AA-0001-01A"], ["TCGA-AA-0001-11"], (0,)),
        (["TCGA.AA.0001.01"], ["tcga-aa-0001"], (0,)),
        (["TCGA-AA-0001"], ["TCGA-AA-0002-01"], (None,)),
        (["x1"], ["TCGA-AA-0001"], (None,)),
    ],
)
def test_keys(keys: list[str], held: list[str], rows: tuple[int | None, ...]) -> None:
    assert match_keys(keys, held).rows == rows


def test_damaged_exports_are_refused(tmp_path: Path) -> None:
    export_database(build(tmp_path), tmp_path / "out")
    path = tmp_path / "out" / "profiles.parquet"
    table = pq.read_table(path)
    cut = matrix_to_list(list_to_matrix(table["expression"])[:, :2])
    at = table.column_names.index("expression")
    pq.write_table(table.set_column(at, "expression", cut), path)
    with pytest.raises(MolqueryError):
        ingest_profiles(Database.create(tmp_path / "x"), [path], options=Options())
