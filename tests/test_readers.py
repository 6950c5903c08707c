"""Readers: every file is written by the library that owns the format, from arrays known here."""

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molquery.errors import ColumnError, FileFormatError, InputError, MismatchError
from molquery.genes import resolve
from molquery.readers import (
    PROFILE_READERS,
    SLIDE_READERS,
    Options,
    Profiles,
    Reader,
    Slides,
    columns,
    read_profiles,
    read_slides,
    read_table,
    slide_table,
)

N, D = 5, 12
IDS = ("007", "S-b", "S-c", "S-d", "S-e")
# Multiples of 1/64 are exact in float32 and in decimal text of a few digits.
VECTORS = (np.arange(N * D, dtype=np.float32).reshape(N, D) - 20) / 64
COHORT = ["BRCA", "BRCA", "LUAD", None, "LUAD"]

GENES = ("TP53", "EGFR", "CXCL9", "KRT5", "HLA-A", "NKX2-1", "ESR1", "CD8A", "NOVEL-1")
VALUES = (np.arange(N * len(GENES), dtype=np.float32).reshape(N, -1) + 3) / 32
VALUES[1, 2] = np.nan


def one(path: Path, options: Options | None = None) -> Slides:
    slides = list(read_slides(path, options or Options()))
    assert len(slides) == 1
    return slides[0]


def list_table(kind: pa.DataType) -> pa.Table:
    return pa.table(
        {
            "slide_id": list(IDS),
            "cohort": pa.array(COHORT).dictionary_encode(),
            "n_tiles": pa.array(range(N), pa.int16()),
            "features": pa.array(VECTORS.tolist(), kind),
        }
    )


def wide_frame() -> pd.DataFrame:
    frame = pd.DataFrame(VECTORS, columns=[f"f{j}" for j in range(D)])
    frame.insert(0, "slide_id", IDS)
    frame.insert(1, "cohort", COHORT)
    frame["n_tiles"] = range(N)
    return frame


def matrix_frame() -> pd.DataFrame:
    return pd.DataFrame(VALUES, index=pd.Index(IDS), columns=list(GENES))


# Slides


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32(), D),
        pa.list_(pa.float64(), D),
        pa.list_(pa.float32()),
        pa.large_list(pa.float16()),
    ],
    ids=str,
)
@pytest.mark.parametrize("write", ["parquet", "feather", "stream", "file"])
def test_vectors_in_a_list_column(tmp_path: Path, kind: pa.DataType, write: str) -> None:
    table, path = list_table(kind), tmp_path / "slides.bin"
    if write == "parquet":
        if pa.types.is_large_list(kind):
            table = table.set_column(
                3, "features", table["features"].cast(pa.large_list(pa.float32()))
            )
        pq.write_table(table, path, row_group_size=2)
    elif write == "feather":
        pyarrow.feather.write_feather(table, path)
    else:
        new = pa.ipc.new_stream if write == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    slides = one(path)
    assert slides.ids == IDS
    assert slides.vectors.dtype == np.float32
    assert slides.vectors.flags.c_contiguous
    np.testing.assert_array_equal(slides.vectors, VECTORS)
    assert slides.metadata.column_names == ["cohort", "n_tiles"]
    assert slides.metadata["cohort"].type == pa.string()
    assert slides.metadata["cohort"].to_pylist() == COHORT
    assert slides.metadata["n_tiles"].to_pylist() == list(range(N))
    assert slides.source == str(path)
    assert not slides.skipped
    assert slides.encoder is None


def test_a_sliced_list_column_with_nulls_keeps_its_rows(tmp_path: Path) -> None:
    rows = [[9.0] * 3, [1.0, 2.0, 3.0], None, [4.0, None, 6.0], [9.0] * 3]
    expected = [[1, 2, 3], [np.nan] * 3, [4, np.nan, 6]]
    for kind in (pa.list_(pa.float32(), 3), pa.list_(pa.float32())):
        table = pa.table({"id": list("abcde"), "v": pa.array(rows, kind)}).slice(1, 3)
        slides = slide_table.slides_from_table(table, tmp_path / "x", Options())
        np.testing.assert_array_equal(slides.vectors, np.array(expected, np.float32))
        assert slides.ids == ("b", "c", "d")


def test_empty_lists_are_skipped_by_name(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", "c"], "v": [[1.0, 2.0], [], [3.0, 4.0]]})
    pq.write_table(table, tmp_path / "t")
    slides = one(tmp_path / "t")
    assert slides.ids == ("a", "c")
    assert slides.skipped == {"empty vector": ("b",)}
    assert slides.metadata.num_rows == 2
    np.testing.assert_array_equal(slides.vectors, [[1, 2], [3, 4]])


def test_one_list_column_of_float32_is_not_copied(tmp_path: Path) -> None:
    table = list_table(pa.list_(pa.float32(), D))
    slides = slide_table.slides_from_table(table, tmp_path, Options())
    address = table["features"].chunk(0).values.buffers()[1].address
    assert slides.vectors.__array_interface__["data"][0] == address


def writers() -> dict[str, Callable[[pd.DataFrame, Path], None]]:
    def anything(frame: pd.DataFrame) -> pl.DataFrame:
        return pl.from_pandas(frame)

    def bom_crlf(frame: pd.DataFrame, path: Path) -> None:
        path.write_bytes(frame.to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig"))

    return {
        "pandas csv": lambda f, p: f.to_csv(p, index=False),
        "pandas csv with row numbers": lambda f, p: f.to_csv(p),
        "pandas tsv.gz": lambda f, p: f.to_csv(p, index=False, sep="\t", compression="gzip"),
        "pandas quoted": lambda f, p: f.to_csv(p, index=False, quoting=1),
        "semicolon": lambda f, p: f.to_csv(p, index=False, sep=";"),
        "semicolon, decimal comma": lambda f, p: f.to_csv(p, index=False, sep=";", decimal=","),
        "BOM and CRLF": bom_crlf,
        "polars csv": lambda f, p: anything(f).write_csv(p),
        "pyarrow csv": lambda f, p: pyarrow.csv.write_csv(pa.Table.from_pandas(f), p),
        "pandas parquet": lambda f, p: f.to_parquet(p),
        "polars parquet": lambda f, p: anything(f).write_parquet(p),
        "polars ipc": lambda f, p: anything(f).write_ipc(p),
        "pandas feather": lambda f, p: f.to_feather(p),
    }


@pytest.mark.filterwarnings("ignore:Feather V1")
def test_feather_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "old.feather"
    try:
        pyarrow.feather.write_feather(wide_frame(), path, version=1)
    except (TypeError, ValueError):
        pytest.skip("this Arrow no longer writes version 1")
    np.testing.assert_array_equal(one(path).vectors, VECTORS)


@pytest.mark.parametrize("how", writers())
def test_vectors_in_numeric_columns(tmp_path: Path, how: str) -> None:
    path = tmp_path / "slides.txt"  # the extension tells nothing
    writers()[how](wide_frame(), path)
    slides = one(path)
    assert slides.ids == IDS
    np.testing.assert_array_equal(slides.vectors, VECTORS)
    assert slides.metadata["cohort"].to_pylist() == COHORT
    assert slides.metadata["n_tiles"].to_pylist() == list(range(N))


def test_numbered_columns_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    frame = wide_frame()
    frame["blur"] = 0.5
    shuffled = frame[sorted(frame.columns, reverse=True)].sample(frac=1, random_state=3)
    shuffled.to_csv(tmp_path / "x", index=False)
    slides = one(tmp_path / "x")
    order = [IDS.index(i) for i in slides.ids]
    assert order != list(range(N))
    np.testing.assert_array_equal(slides.vectors, VECTORS[order])
    assert set(slides.metadata.column_names) == {"cohort", "n_tiles", "blur"}


def test_a_pattern_chooses_columns(tmp_path: Path) -> None:
    wide_frame().to_csv(tmp_path / "x", index=False)
    np.testing.assert_array_equal(
        one(tmp_path / "x", Options(vector="f1*")).vectors, VECTORS[:, [1, 10, 11]]
    )
    with pytest.raises(ColumnError, match="no numeric column"):
        one(tmp_path / "x", Options(vector="g*"))


def test_patient_id_as_id_stays_in_the_metadata(tmp_path: Path) -> None:
    frame = wide_frame().rename(columns={"slide_id": "patient_id"})
    frame.to_parquet(tmp_path / "x")
    slides = one(tmp_path / "x", Options(id="patient_id"))
    assert slides.ids == tuple(slides.metadata["patient_id"].to_pylist()) == IDS


def test_the_encoder_is_told_by_the_file(tmp_path: Path) -> None:
    table = list_table(pa.list_(pa.float32(), D))
    pq.write_table(table.replace_schema_metadata({"encoder": "titan"}), tmp_path / "a")
    pq.write_table(table.append_column("encoder", [["prism"] * N]), tmp_path / "b")
    pq.write_table(table.append_column("encoder", [["x", "x", "x", "y", "y"]]), tmp_path / "c")
    assert one(tmp_path / "a").encoder == "titan"
    assert one(tmp_path / "b").encoder == "prism"
    with pytest.raises(MismatchError, match="several encoders"):
        one(tmp_path / "c")


def write_trident(folder: Path, name: str, vector: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["features"] = vector
        file["coords"] = np.zeros((4, 2), np.int64)
    return folder / f"{name}.h5"


def test_trident_file_and_directory(tmp_path: Path) -> None:
    folder = tmp_path / "20x_512px_0px_overlap" / "slide_features_titan"
    for i in reversed(range(N)):
        write_trident(folder, IDS[i], VECTORS[i])
    write_trident(folder, "zz.empty", np.empty((0,), np.float32))
    (folder / "_logs.txt").write_text("a log")
    (folder / "zz.h5.lock").touch()
    single = one(folder / "007.h5")
    assert (single.ids, single.encoder) == (("007",), "titan")
    assert single.metadata.num_rows == 1
    np.testing.assert_array_equal(single.vectors, VECTORS[:1])

    slides = list(read_slides(folder))
    assert [s.ids for s in slides] == [*((i,) for i in IDS), (), ()]
    assert [s.skipped for s in slides[N:]] == [
        {"empty slide (no features)": ("zz.empty",)},
        {"no slide vectors: an empty file": ("zz.h5.lock",)},
    ]
    assert slides[N].vectors.shape == (0, 0)
    np.testing.assert_array_equal(np.concatenate([s.vectors for s in slides[:N]]), VECTORS)
    # The job's directory leads to the same files.
    assert [s.ids for s in read_slides(tmp_path)] == [s.ids for s in slides]


@pytest.mark.parametrize("inside", [True, False])
def test_trident_encoder_from_the_configuration(tmp_path: Path, inside: bool) -> None:
    path = write_trident(tmp_path / "job" / "mine", "s1", VECTORS[0])
    place = path.parent if inside else path.parent.parent
    assert one(path).encoder is None
    (place / "_config_slide_features_prism.json").write_text(json.dumps({}))
    assert one(path).encoder == "prism"
    (place / "_config_slide_features_titan.json").write_text(json.dumps({}))
    assert one(path).encoder is None


def write_h5ad(path: Path, x: object, **parts: object) -> None:
    obs = pd.DataFrame({"cohort": pd.Categorical(COHORT), "n_tiles": range(N)}, index=list(IDS))
    anndata.AnnData(x, obs=obs, **parts).write_h5ad(path)


def test_h5ad_slides_in_x_or_obsm(tmp_path: Path) -> None:
    write_h5ad(tmp_path / "x", VECTORS, obsm={"X_umap": VECTORS[:, :2]}, uns={"encoder": "titan"})
    write_h5ad(tmp_path / "sparse", scipy.sparse.csr_matrix(VECTORS))
    write_h5ad(tmp_path / "obsm", None, obsm={"titan": VECTORS})
    write_h5ad(tmp_path / "both", VECTORS[:, ::-1], obsm={"titan": VECTORS})
    for slides in (
        one(tmp_path / "x"),
        one(tmp_path / "sparse"),
        one(tmp_path / "obsm"),
        one(tmp_path / "both", Options(vector="titan")),
    ):
        assert slides.ids == IDS
        np.testing.assert_array_equal(slides.vectors, VECTORS)
        assert slides.metadata["cohort"].to_pylist() == COHORT
        assert slides.metadata["cohort"].type == pa.string()
    assert one(tmp_path / "x").encoder == "titan"
    np.testing.assert_array_equal(
        one(tmp_path / "both", Options(vector="X")).vectors, VECTORS[:, ::-1]
    )
    with pytest.raises(ColumnError, match=r"several parts(?s:.*)X, titan"):
        one(tmp_path / "both")
    with pytest.raises(ColumnError, match=r"'prism'(?s:.*)titan"):
        one(tmp_path / "obsm", Options(vector="prism"))


def test_h5ad_ids_from_a_column(tmp_path: Path) -> None:
    obs = pd.DataFrame({"slide_id": IDS, "patient_id": list("abcde")})
    obs.index = obs.index.astype(str)
    anndata.AnnData(VECTORS, obs=obs).write_h5ad(tmp_path / "x")
    assert one(tmp_path / "x").ids == IDS
    assert one(tmp_path / "x").metadata.column_names == ["patient_id"]
    assert one(tmp_path / "x", Options(id="patient_id")).ids == tuple("abcde")


def test_h5ad_without_obs_columns_keeps_its_rows(tmp_path: Path) -> None:
    anndata.AnnData(VECTORS, obs=pd.DataFrame(index=list(IDS))).write_h5ad(tmp_path / "x")
    assert one(tmp_path / "x").metadata.num_rows == N


# Profiles


def check_profiles(got: Profiles, ids: tuple[str, ...] = IDS) -> None:
    assert got.ids == ids
    assert got.genes == GENES
    assert got.values.dtype == np.float32
    assert got.values.flags.c_contiguous
    np.testing.assert_array_equal(got.values, VALUES)
    assert got.metadata.num_rows == N


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", ["", "sample", "gene", "Sample Code"])
@pytest.mark.parametrize("how", [how for how in writers() if "row numbers" not in how])
def test_matrix_in_either_orientation(
    tmp_path: Path, how: str, name: str, transposed: bool
) -> None:
    frame = matrix_frame()
    frame = (frame.T if transposed else frame).reset_index(names=name)
    writers()[how](frame, tmp_path / "x")
    check_profiles(read_profiles(tmp_path / "x"))


def test_r_tables_leave_out_the_first_header(tmp_path: Path) -> None:
    text = matrix_frame().to_csv(sep="\t", na_rep="NA").removeprefix("\t")
    (tmp_path / "x").write_text(text)
    check_profiles(read_profiles(tmp_path / "x"))


def test_metadata_beside_genes(tmp_path: Path) -> None:
    frame = matrix_frame().reset_index(names="patient_id")
    frame["cohort"] = COHORT
    frame["age"] = 50.0
    frame["MET"] = ["amplified", "no", "no", "no", "no"]
    frame.to_parquet(tmp_path / "x")
    got = read_profiles(tmp_path / "x", Options(id="patient_id"))
    check_profiles(got)
    assert got.metadata.column_names == ["patient_id", "cohort", "age", "MET"]
    assert got.metadata["patient_id"].to_pylist() == list(IDS)
    assert any("age" in note for note in got.notes)
    assert any("MET" in note for note in got.notes)


def test_gene_annotations_beside_samples(tmp_path: Path) -> None:
    frame = matrix_frame().T.reset_index(names="Hugo_Symbol")
    frame.insert(1, "Entrez_Gene_Id", range(10**9, 10**9 + len(GENES)))
    frame.insert(2, "note", "some text")
    frame.to_csv(tmp_path / "x", sep="\t", index=False)
    got = read_profiles(tmp_path / "x")
    check_profiles(got)
    assert any("Entrez_Gene_Id, note" in note for note in got.notes)


def test_entrez_ids_in_rows(tmp_path: Path) -> None:
    entrez = ["7157", "1956", "4283", "3852", "3105", "7080", "2099", "925", "999999999"]
    frame = matrix_frame().T
    frame.index = pd.Index(entrez)
    frame.to_csv(tmp_path / "x", sep="\t")
    got = read_profiles(tmp_path / "x")
    assert got.ids == IDS
    assert got.genes == tuple(entrez)


def test_numbered_samples_are_not_entrez_ids(tmp_path: Path) -> None:
    frame = matrix_frame()
    frame.index = pd.Index(["1", "2", "3", "4", "5"], name="sample")
    frame.to_csv(tmp_path / "x")
    check_profiles(read_profiles(tmp_path / "x"), tuple("12345"))


def test_repeated_genes_sentinels_and_empty_columns(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("id,TP53, EGFR,TP53,KRT5\nu-1,1,-666,3,\nu-2,-666,2.5,4,NA\n")
    got = read_profiles(tmp_path / "x")
    assert got.genes == ("TP53", "EGFR", "TP53", "KRT5")
    nan = np.nan
    np.testing.assert_array_equal(
        got.values, np.array([[1, nan, 3, nan], [nan, 2.5, 4, nan]], np.float32)
    )
    assert any(note.startswith("2 values of -666") for note in got.notes)


def test_samples_may_be_called_like_id_columns(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("Gene,b7_sample,b8_sample\nTP53,1,2\nEGFR,3,4\n")
    got = read_profiles(tmp_path / "x")
    assert got.ids == ("b7_sample", "b8_sample")
    np.testing.assert_array_equal(got.values, [[1, 3], [2, 4]])


def test_rows_without_a_gene_name_are_reported(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("gene\ttumour1\ttumour2\nTP53\t1\t2\n\t9\t9\nEGFR\t3\t4\n")
    got = read_profiles(tmp_path / "x")
    assert got.genes == ("TP53", "EGFR")
    np.testing.assert_array_equal(got.values, [[1, 3], [2, 4]])
    assert any(note.startswith("1 rows without") for note in got.notes)


def test_h5ad_profiles(tmp_path: Path) -> None:
    symbols = pd.DataFrame({"symbol": GENES}, index=[f"row-{i}" for i in range(len(GENES))])
    var = pd.DataFrame(index=list(GENES))
    sparse = np.nan_to_num(VALUES)
    write_h5ad(tmp_path / "dense", VALUES, var=var)
    write_h5ad(tmp_path / "layer", VALUES * 2, var=var, layers={"log": VALUES})
    write_h5ad(tmp_path / "symbols", VALUES, var=symbols)
    write_h5ad(tmp_path / "csr", scipy.sparse.csr_matrix(sparse), var=var)
    write_h5ad(tmp_path / "csc", scipy.sparse.csc_matrix(sparse), var=var)
    check_profiles(read_profiles(tmp_path / "dense"))
    check_profiles(read_profiles(tmp_path / "layer", Options(layer="log")))
    check_profiles(read_profiles(tmp_path / "symbols"))
    check_profiles(read_profiles(tmp_path / "symbols", Options(gene_column="symbol")))
    for name in ("csr", "csc"):
        np.testing.assert_array_equal(read_profiles(tmp_path / name).values, sparse)
    with pytest.raises(ColumnError, match=r"'raw'(?s:.*)log"):
        read_profiles(tmp_path / "layer", Options(layer="raw"))
    anndata.AnnData(VALUES.T, obs=var, var=pd.DataFrame(index=list(IDS))).write_h5ad(tmp_path / "t")
    with pytest.raises(FileFormatError, match=r"adata\.T"):
        read_profiles(tmp_path / "t")


def test_h5ad_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    obs = pd.DataFrame(index=list(IDS))

    def written(x: object) -> h5py.File:
        anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=list(GENES))).write_h5ad(path)
        return h5py.File(path, "r+")

    for shape, says in (((2**50, len(GENES)), "too small"), (VALUES.shape, "never written")):
        with written(VALUES) as file:
            del file["X"]
            data = file.create_dataset("X", shape, np.float32, chunks=(1, 2))
            data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        with pytest.raises(FileFormatError, match=rf"X of (?s:.*){says}"):
            read_profiles(path)
    for shape in ((2**40, len(GENES)), (len(IDS), 2**40)):
        with written(scipy.sparse.csr_matrix(VALUES)) as file:
            file["X"].attrs["shape"] = shape
        with pytest.raises(FileFormatError):
            read_profiles(path)
    with written(VALUES) as file:  # a part of obs
        del file["obs/_index"]
        file["obs"].create_dataset("_index", (2**45,), h5py.string_dtype(), chunks=(1,))
    with pytest.raises(FileFormatError, match=r"obs/_index of (?s:.*)too small"):
        read_profiles(path)
    with written(VALUES) as file:
        file["X"].attrs["encoding-type"] = "dict"
    with pytest.raises(FileFormatError):
        read_profiles(path)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_matrix_reads_the_same_from_every_format(tmp_path: Path, data: st.DataObject) -> None:
    number = st.floats(width=32, allow_nan=True, allow_infinity=False).filter(lambda v: v != -666)
    n = data.draw(st.integers(2, 4))
    rows = st.lists(number, min_size=len(GENES), max_size=len(GENES))
    values = np.array(data.draw(st.lists(rows, min_size=n, max_size=n)), np.float32)
    name = st.text("abcxyz0123456789-_.", min_size=1, max_size=6).map(lambda s: "TCGA-" + s)
    ids = data.draw(st.lists(name, min_size=n, max_size=n, unique=True))
    genes = data.draw(st.permutations(GENES))
    frame = pd.DataFrame(values, index=pd.Index(ids), columns=list(genes))
    long = frame.reset_index(names="sample")
    turned = frame.T.reset_index(names="gene")
    paths = {name: tmp_path / name for name in ("pq", "tsv", "csv", "h5ad", "turned")}
    long.to_parquet(paths["pq"])
    long.to_csv(paths["tsv"], sep="\t", index=False, compression="gzip")
    long.to_csv(paths["csv"], index=False)
    turned.to_csv(paths["turned"], sep="\t", index=False, na_rep="NA")
    obs = pd.DataFrame(index=ids)
    anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=list(genes))).write_h5ad(paths["h5ad"])
    for path in paths.values():
        got = read_profiles(path)
        assert got.ids == tuple(ids), path.name
        assert got.genes == tuple(genes), path.name
        np.testing.assert_array_equal(got.values, values, err_msg=path.name)


# Metadata tables


def test_metadata_keeps_every_column_and_infers_types(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(
        "#Patient Identifier\tAge\n#STRING\tNUMBER\n"
        "PATIENT_ID\tAGE\tZIP\tOS_STATUS\tDEAD\tREMARK\n"
        'P1\t61\t01234\t0:LIVING\ttrue\t"two\nlines, 5"\n'
        "0002\t\t98765\tNA\tfalse\t\n"
    )
    table = read_table(tmp_path / "x")
    assert table.to_pydict() == {
        "PATIENT_ID": ["P1", "0002"],
        "AGE": [61, None],
        "ZIP": ["01234", "98765"],
        "OS_STATUS": ["0:LIVING", None],
        "DEAD": [True, False],
        "REMARK": ["two\nlines, 5", None],
    }


def test_metadata_from_arrow_has_plain_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "patient_id": pa.array(["a", "b"], pa.large_string()),
            "cohort": pa.array(["x", None]).dictionary_encode(),
            "nothing": pa.nulls(2),
            "age": [1.5, None],
        }
    )
    pq.write_table(table, tmp_path / "p")
    pyarrow.feather.write_feather(table, tmp_path / "f")
    for path in (tmp_path / "p", tmp_path / "f"):
        got = read_table(path)
        assert [str(t) for t in got.schema.types] == ["string", "string", "string", "double"]
        assert got.to_pydict() == table.to_pydict()


def test_metadata_columns_that_share_a_name(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("id,age,age\na,1,2\n")
    with pytest.raises(ColumnError, match="share a name"):
        read_table(tmp_path / "x")


# What cannot be read

HTML = b"\n<!DOCTYPE html><html><body>Sign in, please; thank you</body></html>"


def half(write: Callable[[Path], object]) -> Callable[[Path], bytes]:
    def content(path: Path) -> bytes:
        write(path)
        whole = path.read_bytes()
        return whole[: len(whole) // 2]

    return content


def patches(path: Path) -> bytes:
    return write_trident(path.parent, path.stem, np.ones((7, 4), np.float32)).read_bytes()


def other_hdf5(path: Path) -> bytes:
    with h5py.File(path, "w") as file:
        file["weights"] = [1.0]
    return path.read_bytes()


def write_lists(write: Callable[[pa.Table, Path], object]) -> Callable[[Path], object]:
    return lambda path: write(list_table(pa.list_(pa.float32(), D)), path)


def write_long(path: Path) -> None:
    pd.concat([matrix_frame()] * 200).to_csv(path, sep="\t", compression="gzip")


# Name -> content (or what makes it), and what the message must say of it.
BAD: dict[str, tuple[bytes | Callable[[Path], bytes], str]] = {
    "page.h5ad": (HTML, "an HTML page"),
    "page.csv.gz": (gzip.compress(HTML), "gzip of an HTML page"),
    "empty.parquet": (b"", "an empty file"),
    "empty.csv.gz": (gzip.compress(b""), "an empty file"),
    "half.parquet": (half(write_lists(pq.write_table)), "looks like Parquet"),
    "half.arrow": (half(write_lists(pyarrow.feather.write_feather)), "looks like Arrow"),
    "half.tsv.gz": (half(write_long), "looks like delimited text"),
    "crc.tsv.gz": (gzip.compress(b"id\ta\nx\t1\n")[:-8] + b"\0" * 8, "a damaged gzip file"),
    "notgz.csv": (b"\x1f\x8bnonsense", "a damaged gzip file"),
    "half.h5ad": (half(lambda path: write_h5ad(path, VECTORS)), "truncated"),
    "stub.h5": (b"\x89HDF\r\n\x1a\n", "looks like HDF5"),
    "x.pkl": (pickle.dumps({"a": 1}), "a Python pickle"),
    "x.npy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "x.pt": (b"PK\x03\x04....archive/data.pkl", "PyTorch"),
    "x.json": (b'{"a": [1, 2], "b": 3}', "JSON"),
    "x.gct": (b"#1.2\n2\t3\nName\tDescription\ts1\n", "a GCT file"),
    "star.tsv": (b"# gene-model: GENCODE v36\ngene_id\tgene_name\n", "GDC STAR"),
    "quant.sf": (b"Name\tLength\tEffectiveLength\tTPM\tNumReads\nA\t1\t1\t1\t1\n", "salmon"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "prose.txt": (b"Dear reader\n", "text that begins 'Dear reader'"),
    "escape.txt": (b"\x1b[31mred\n", r"x1b"),
    "utf16.csv": ("id,a\nx,1\n".encode("utf-16"), "UTF-16"),
    "latin.csv": ("id,täg\nx,1\n".encode("latin-1"), "not UTF-8"),
    "latin2.csv": (b"id,tag\n" + b"x,1\n" * 20_000 + b"y,\xe4\n", "not UTF-8"),
    "bytes": (bytes(range(8)), "00 01 02"),
    "header.csv": (b"id,a,b\n", "no rows"),
    "headless.csv": (b"s1,0.5,0.25,3\ns2,0.5,0.25,4\n", "no header line"),
    "ragged.csv": (b"id,a,b\nx,1,2\ny,1\nz,1,2\n", "Expected 3 columns"),
    "patch.h5": (patches, r"patch"),
    "other.h5": (other_hdf5, "HDF5 with weights"),
}

READS: dict[str, Callable[[Path], object]] = {
    "slides": lambda path: list(read_slides(path)),
    "profiles": read_profiles,
    "table": read_table,
}


@pytest.mark.parametrize("what", READS)
@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path: Path, name: str, what: str) -> None:
    content, says = BAD[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content(tmp_path / "made.h5"))
    with pytest.raises(FileFormatError, match=says) as caught:
        READS[what](path)
    assert str(path) in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_every_reader_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(HTML)
    readers: tuple[Reader[Slides] | Reader[Profiles], ...] = (*SLIDE_READERS, *PROFILE_READERS)
    for reader in readers:
        assert not reader.sniff(tmp_path / "x", HTML)


def test_a_path_without_a_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "slides.parquet").touch()
    for read in READS.values():
        with pytest.raises(InputError, match=r"no file at(?s:.*)slides\.parquet"):
            read(tmp_path / "slide.parquet")
        with pytest.raises(InputError, match="no folder"):
            read(tmp_path / "nowhere" / "slide.parquet")
    with pytest.raises(InputError, match="is a directory"):
        read_profiles(tmp_path)
    with pytest.raises(FileFormatError, match=r"no files of slide vectors(?s:.*)slides\.parquet"):
        read_slides(tmp_path)


def test_a_damaged_file_in_a_directory_stops_the_reading(tmp_path: Path) -> None:
    folder = tmp_path / "slide_features_titan"
    write_trident(folder, "a", VECTORS[0])
    content = write_trident(folder, "b", VECTORS[1]).read_bytes()
    (folder / "b.h5").write_bytes(content[:-100])
    found = read_slides(folder)
    assert next(found).ids == ("a",)
    with pytest.raises(FileFormatError, match=r"b\.h5"):
        next(found)


def broken(**change: object) -> pa.Table:
    table = list_table(pa.list_(pa.float32()))
    for name, values in change.items():
        table = table.drop_columns([n for n in (name,) if n in table.column_names])
        if values is not None:
            table = table.append_column(name, [values])
    return table


NO_VALUES = broken(features=pa.array([[], [], [], [], None], pa.list_(pa.float32())))


@pytest.mark.parametrize(
    ("table", "options", "says"),
    [
        (broken(slide_id=None), Options(), "--id"),
        (broken(), Options(id="barcode"), r"'barcode'(?s:.*)slide_id, cohort, n_tiles, features"),
        (broken(), Options(vector="embedding"), r"'embedding'(?s:.*)features"),
        (broken(), Options(vector="n_tiles"), "holds no vectors"),
        (broken(), Options(id="features"), "cannot hold ids"),
        (broken(slide_id=["a", None, " ", "d", ""]), Options(), r"3 of 5 ids are missing"),
        (broken(slide_id=[1.5] * 5), Options(), "cannot hold ids"),
        (broken(features=[[1.0, 2.0], [1.0], [2.0, 3.0], None, []]), Options(), "row 2"),
        (NO_VALUES, Options(), "only empty lists"),
        (broken(features=[["a"]] * 5), Options(), "no slide vectors"),
        (broken(features=None), Options(), "only 0 numeric columns"),
        (broken(second=[[1.0]] * 5), Options(), r"several(?s:.*)features, second(?s:.*)--vector"),
    ],
)
def test_slide_tables_that_cannot_be_used(
    tmp_path: Path, table: pa.Table, options: Options, says: str
) -> None:
    pq.write_table(table, tmp_path / "x")
    with pytest.raises(ColumnError, match=says) as caught:
        list(read_slides(tmp_path / "x", options))
    assert str(tmp_path / "x") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "options", "error", "says"),
    [
        ("id,a1z,b1z\nx1z,1,2\ny1z,3,4\n", Options(), FileFormatError, "--genes-in columns"),
        ("id,TP53,EGFR\nKRT5,1,2\nESR1,3,4\n", Options(), FileFormatError, "--genes-in rows"),
        ("id,TP53,EGFR\nx,1,2\n", Options(genes_in="cells"), InputError, "'cells'"),
        ("id,TP53,EGFR\nx,1,2\n", Options(id="sample"), ColumnError, "id, TP53, EGFR"),
        ("id,TP53,EGFR\nx,1,2\n,3,4\n", Options(), ColumnError, "1 of 2 ids"),
        ("id,TP53,EGFR\nu-1,1,2\nu-2,3,4\nu-3,#VALUE!,4\n", Options(), ColumnError, "#VALUE!"),
        ("gene,s1z,s2z\nTP53,1,2\nEGFR,3,4\nESR1,?,1\n", Options(), ColumnError, "'s1z'"),
        ("TP53,EGFR,ESR1\n1,2,3\n", Options(), ColumnError, "no column of sample ids"),
    ],
)
def test_matrices_that_cannot_be_used(
    tmp_path: Path, text: str, options: Options, error: type[Exception], says: str
) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(error, match=says) as caught:
        read_profiles(tmp_path / "x", options)
    assert str(tmp_path / "x") in str(caught.value) or "cells" in says


def test_genes_in_settles_an_ambiguous_matrix(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("id,TP53,EGFR\nKRT5,1,2\nESR1,3,4\n")
    in_rows = read_profiles(tmp_path / "x", Options(genes_in="rows"))
    in_columns = read_profiles(tmp_path / "x", Options(genes_in="columns"))
    assert (in_rows.ids, in_rows.genes) == (("TP53", "EGFR"), ("KRT5", "ESR1"))
    assert (in_columns.ids, in_columns.genes) == (("KRT5", "ESR1"), ("TP53", "EGFR"))
    np.testing.assert_array_equal(in_rows.values.T, in_columns.values)


def test_column_words_never_hide_a_current_gene_symbol() -> None:
    for name in (*columns.KNOWN_METADATA, *columns.NAME_WORDS, *columns.ID_WORDS):
        symbol = resolve([name]).symbols[0]
        assert symbol is None or symbol != name.upper()
