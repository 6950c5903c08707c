"""Embeddings of an RNA model: kept beside the expression and exported, never scored in."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import Cli
from pyarrow import parquet

from molquery import rna, synth
from molquery.database import Database
from molquery.errors import (
    ColumnError,
    DuplicateIdError,
    InputError,
    MismatchError,
    NotReadyError,
    VectorError,
)
from molquery.export.archive import export_database
from molquery.ingest import ingest_embeddings, ingest_profiles, ingest_slides
from molquery.readers import Options
from molquery.records import IngestReport
from molquery.schema import EMBEDDING, PROFILES

GENES = ("TP53", "EGFR", "HLA-A", "KRT5", "CXCL9", "CD8A", "MKI67", "ESR1", "CCN2", "STAT1")
IDS = ("TCGA-AA-0001-01", "TCGA-AA-0002-01", "TCGA-AA-0003-01", "TCGA-AA-0004-11")
RNG = np.random.default_rng(0)
EXPRESSION = RNG.gamma(2, 2, (4, len(GENES))).astype(np.float32)
VECTORS = RNG.normal(size=(4, 12)).astype(np.float32)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """Four profiles with expression, from `rna.h5ad`, which holds their embeddings as well."""
    data = anndata.AnnData(
        EXPRESSION, pd.DataFrame(index=list(IDS)), pd.DataFrame(index=list(GENES)),
        obsm={"X_bulkformer": VECTORS, "X_pca": VECTORS[:, :2]},
    )  # fmt: skip
    data.write_h5ad(tmp_path / "rna.h5ad")
    made = Database.create(tmp_path / "db")
    report = ingest_profiles(made, [tmp_path / "rna.h5ad"], options=Options(), scale="log2")
    assert any("obsm holds X_bulkformer, not read" in note for note in report.notes)
    assert rna.held(made) is None
    return made


def add(database: Database, path: Path, **more: object) -> IngestReport:
    told = {"options": Options(), "encoder": "bulkformer", **more}
    return ingest_embeddings(database, [path], **told)  # type: ignore[arg-type]


def numbers(report: IngestReport) -> tuple[int, int, int]:
    return report.inserted, report.updated, report.unchanged


def listed(path: Path, ids: tuple[str, ...], vectors: np.ndarray) -> Path:
    table = {"sample_id": list(ids), "v": [v.tolist() for v in vectors]}
    parquet.write_table(pa.table(table).rename_columns(["id", "v"]), path)
    return path


def test_expression_and_embeddings_of_one_file(database: Database, tmp_path: Path) -> None:
    before = database.matrix(PROFILES, PROFILES.vector)
    assert numbers(add(database, tmp_path / "rna.h5ad")) == (4, 0, 0)
    np.testing.assert_array_equal(database.matrix(PROFILES, EMBEDDING), VECTORS)
    np.testing.assert_array_equal(database.matrix(PROFILES, PROFILES.vector), before)
    assert rna.held(database) == rna.Held("bulkformer", 12)
    version = database.version(PROFILES)
    assert numbers(add(database, tmp_path / "rna.h5ad")) == (0, 0, 4)
    assert database.version(PROFILES) == version
    again = ingest_profiles(database, [tmp_path / "rna.h5ad"], options=Options(), scale="log2")
    assert numbers(again) == (0, 0, 4)
    with pytest.raises(ColumnError, match="'X_scgpt'"):
        add(database, tmp_path / "rna.h5ad", options=Options(vector="X_scgpt"))


def test_arrays_with_a_list_of_ids_in_another_order(database: Database, tmp_path: Path) -> None:
    np.save(tmp_path / "bulkformer.npy", VECTORS[::-1])
    (tmp_path / "bulkformer.txt").write_text("\n".join(IDS[::-1]))
    add(database, tmp_path / "bulkformer.npy")
    np.testing.assert_array_equal(database.matrix(PROFILES, EMBEDDING), VECTORS)


def test_ids_that_match_in_part(database: Database, tmp_path: Path) -> None:
    path = listed(tmp_path / "v", (IDS[2], "elsewhere"), VECTORS[:2])
    report = add(database, path)
    assert numbers(report) == (1, 0, 0)
    assert report.skipped == {"no expression of that id in the database": ("elsewhere",)}
    held = database.matrix(PROFILES, EMBEDDING)
    np.testing.assert_array_equal(held[2], VECTORS[0])
    assert np.isnan(held[[0, 1, 3]]).all()
    path = listed(tmp_path / "v", IDS, VECTORS)
    assert numbers(add(database, path)) == (3, 1, 0)
    with pytest.raises(InputError, match=r"nobody(?s:.*)TCGA-AA-0001-01"):
        add(database, listed(tmp_path / "v", ("nobody",), VECTORS[:1]))


def test_aliquot_barcodes_match_and_patients_of_two_samples_do_not(
    database: Database, tmp_path: Path
) -> None:
    aliquots = tuple(f"{i}A-11R-A1B2-07" for i in IDS)
    report = add(database, listed(tmp_path / "v", aliquots, VECTORS))
    assert numbers(report) == (4, 0, 0)
    assert any("first 15 characters" in note for note in report.notes)
    path = tmp_path / "p.parquet"
    more = pa.table({"id": ["TCGA-AA-0001-11"], **{g: [1.5] for g in GENES}})
    parquet.write_table(more, path)
    ingest_profiles(database, [path], options=Options(), scale="log2")
    patients = tuple(i[:12] for i in IDS)
    with pytest.raises(DuplicateIdError, match="TCGA-AA-0001"):
        add(database, listed(tmp_path / "v", patients, VECTORS))


def test_what_is_refused(database: Database, tmp_path: Path) -> None:
    path = listed(tmp_path / "v", IDS, VECTORS)
    with pytest.raises(NotReadyError, match="no profiles yet"):
        add(Database.create(tmp_path / "empty"), path)
    bad = VECTORS.copy()
    bad[1, 2] = np.nan
    with pytest.raises(VectorError, match="TCGA-AA-0002-01"):
        add(database, listed(tmp_path / "w", IDS, bad))
    assert rna.held(database) is None
    report = add(database, tmp_path / "w", skip_invalid=True)
    assert report.skipped == {"NaN values": ("TCGA-AA-0002-01",)}
    for encoder, vectors in (("scgpt", VECTORS), ("bulkformer", VECTORS[:, :5])):
        with pytest.raises(MismatchError, match="another model"):
            add(database, listed(tmp_path / "v", IDS, vectors), encoder=encoder)
    # Expression is no embedding, and says so.
    frame = pd.DataFrame(EXPRESSION, columns=list(GENES))
    frame.insert(0, "id", IDS)
    frame.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ColumnError, match="are genes"):
        add(database, tmp_path / "x.csv")
    with pytest.raises(ColumnError, match="are genes"):
        ingest_slides(
            Database.create(tmp_path / "s"), [tmp_path / "x.csv"], options=Options(), encoder="e"
        )


@pytest.mark.parametrize("suffix", ["parquet", "h5ad"])
def test_out_and_in_again(database: Database, tmp_path: Path, suffix: str) -> None:
    add(database, listed(tmp_path / "v", IDS[:3], VECTORS[:3]))
    export_database(database, tmp_path / "out")
    path = tmp_path / "out" / f"profiles.{suffix}"
    if suffix == "h5ad":
        obsm = anndata.read_h5ad(path).obsm["X_rna_embedding"]
        np.testing.assert_array_equal(obsm, database.matrix(PROFILES, EMBEDDING))
    again = Database.create(tmp_path / "again")
    ingest_profiles(again, [path], options=Options())
    for column in (EMBEDDING, PROFILES.vector):
        ours, theirs = (d.matrix(PROFILES, column) for d in (database, again))
        np.testing.assert_array_equal(ours, theirs)
    assert rna.held(again) == rna.held(database)
    assert database.metadata_columns(PROFILES) == again.metadata_columns(PROFILES)
    version = again.version(PROFILES)
    assert numbers(ingest_profiles(again, [path], options=Options())) == (0, 0, 4)
    assert again.version(PROFILES) == version


def test_align_and_search_use_the_expression_and_say_so(
    cli: Cli, aligned_copy: Path, archive: synth.Archive, tmp_path: Path
) -> None:
    search = ("--db", aligned_copy, "search", "--geneset", "HALLMARK_HYPOXIA", "--format", "tsv")
    before = cli(*search).out
    ids = Database.open(aligned_copy).read(PROFILES, [PROFILES.key])[PROFILES.key].to_pylist()
    vectors = np.random.default_rng(1).normal(size=(len(ids), 16))
    path = listed(tmp_path / "v.parquet", tuple(ids), vectors)
    result = cli("--db", aligned_copy, "ingest", "profiles", path, "--encoder", "bulkformer")
    assert result.code == 0, result.err
    assert f"RNA embeddings: {len(ids)} inserted" in result.out
    assert "align and search use the expression" in result.err
    assert cli(*search).out == before
    facts = json.loads(cli("--db", aligned_copy, "info", "--format", "json").out)
    told = f"bulkformer, 16 dimensions, of {len(ids)} profiles"
    assert facts["profiles: RNA embeddings"] == told
    result = cli("--db", aligned_copy, "align", "--method", "cca")
    assert "the bulkformer embeddings of the profiles are not used" in result.err
    assert cli(*search).out == before
    for wrong in (("--vector", "v"), ("--encoder", "b", "--scale", "log2")):
        assert cli("--db", aligned_copy, "ingest", "profiles", path, *wrong).code == 2


def test_the_missing_genes_of_bulkformer_are_missing(tmp_path: Path) -> None:
    from molquery.readers import read_profiles

    values = EXPRESSION.copy()
    values[:, 3] = -10
    frame = pd.DataFrame(values, columns=list(GENES), index=list(IDS))
    frame.to_csv(tmp_path / "x.csv")
    got = read_profiles(tmp_path / "x.csv")
    assert np.isnan(got.values[:, 3]).all()
    assert np.isfinite(np.delete(got.values, 3, axis=1)).all()
    assert any("values of -10" in note for note in got.notes)
    values[0, 0] = -9.5  # not the only negative value: then it is a value
    pd.DataFrame(values, columns=list(GENES), index=list(IDS)).to_csv(tmp_path / "x.csv")
    assert not np.isnan(read_profiles(tmp_path / "x.csv").values).any()
