""".h5ad by anndata, GeoJSON by the rules of QuPath, R by R where it is there, streamed Parquet."""

import json
import math
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace

import anndata
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from molquery import export
from molquery.errors import ColumnError, GeneSetError, OutputError
from molquery.export import r as r_script
from molquery.genesets.read import read_sets
from molquery.query import batch, cohort
from molquery.query.engine import Engine

PROVENANCE = {"space_id": "abc", "parameters": {"gene_sets": {"SET_A": "1", "SET-B": "2"}}}


def strata():
    codes = pa.DictionaryArray.from_arrays(
        pa.array([1, 0, None], pa.int32()), pa.array(["low", "mid", "high"]), ordered=True
    )
    return pa.table({
        "slide_id": ["s1", 's"2', "s\\3"],
        "patient_id": ["p1", None, "Ünï\n\u2028☃𝄞"],
        "score": [0.1, -1e-300, None],
        "SET_A": [1.0, 2.0, 3.0],
        "SET-B": [0.5, -0.5, 0.0],
        "stratum": codes,
        "n": pa.array([1, None, 2**40]),
        "few": pa.array([1, None, 3], pa.int32()),
        "good": [True, None, False],
        "=formula": ["=1+1", "a,b", ""],
        "x": [0.0, 10.5, 3.0], "y": [1.0, 2.0, 3.0],
    })  # fmt: skip


# .h5ad --------------------------------------------------------------------------------------------


def test_anndata_opens_scores_and_strata(tmp_path):
    export.write(strata(), PROVENANCE, tmp_path / "a.h5ad", "h5ad")
    data = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert data.obs_names.tolist() == ["s1", 's"2', "s\\3"]
    assert data.var_names.tolist() == ["SET_A", "SET-B"]
    np.testing.assert_array_equal(data.X, [[1.0, 0.5], [2.0, -0.5], [3.0, 0.0]])
    assert data.obs["stratum"].cat.categories.tolist() == ["low", "mid", "high"]
    assert data.obs["stratum"].cat.ordered
    assert data.obs["stratum"].tolist()[:2] == ["mid", "low"]
    assert data.obs["patient_id"].isna().tolist() == [False, True, False]
    assert data.obs["score"].to_numpy()[:2].tolist() == [0.1, -1e-300]
    assert math.isnan(data.obs["score"].iloc[2])
    assert data.obs["good"].tolist()[0] is True
    assert json.loads(data.uns["molquery"]) == PROVENANCE


def test_a_table_without_ids_or_with_an_id_twice_has_no_h5ad(tmp_path):
    for table, said in ((strata().drop_columns(["slide_id", "patient_id"]), "without ids"),
                        (strata().drop_columns(["slide_id"]), "every row"),
                        (pa.concat_tables([strata(), strata()]), "only once")):  # fmt: skip
        with pytest.raises(ColumnError, match=said):
            export.write(table, {}, tmp_path / "a.h5ad", "h5ad")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_h5ad(cli, aligned, engine, files, tmp_path):
    out = tmp_path / "scores.h5ad"
    result = cli("--db", aligned, "score", files.gene_sets, "-o", out)
    assert result.code == 0, result.err
    data = anndata.read_h5ad(out)
    table = cohort.score(engine, read_sets(files.gene_sets)).table
    assert data.obs_names.tolist() == table["slide_id"].to_pylist()
    for name in data.var_names:
        np.testing.assert_array_equal(data[:, name].X[:, 0], table[name].to_numpy())
    told = json.loads(data.uns["molquery"])
    assert told["space_id"] == engine.space_id
    assert set(told["parameters"]["gene_sets"]) == set(data.var_names)
    assert told["command"].startswith("molquery ")


# GeoJSON ------------------------------------------------------------------------------------------


def test_geojson_is_what_the_standard_and_qupath_want(tmp_path):
    table = strata().append_column("diameter", pa.array([4.0, 4.0, 4.0]))
    export.write(table, PROVENANCE, tmp_path / "a.geojson", "geojson")
    document = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    assert document["type"] == "FeatureCollection"
    assert document["molquery"] == PROVENANCE
    rows = table.to_pylist()
    assert len(document["features"]) == 3
    for feature, row in zip(document["features"], rows, strict=True):
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["name"] == row["slide_id"]
        ring = np.array(feature["geometry"]["coordinates"])
        assert feature["geometry"]["type"] == "Polygon"
        assert ring.shape == (1, 33, 2)
        assert ring[0, 0].tolist() == ring[0, -1].tolist()  # closed
        turn = np.diff(ring[0], axis=0)
        area = (ring[0, :-1, 0] * ring[0, 1:, 1] - ring[0, 1:, 0] * ring[0, :-1, 1]).sum() / 2
        assert area == pytest.approx(math.pi * 4, rel=0.01)  # counter-clockwise, RFC 7946
        assert np.hypot(*turn.T).max() < 0.5
        np.testing.assert_allclose(ring[0, :-1].mean(axis=0), [row["x"], row["y"]], atol=1e-9)
        assert all(isinstance(v, float | int) for v in properties["measurements"].values())
        assert properties["measurements"]["SET_A"] == row["SET_A"]
    assert document["features"][0]["properties"]["classification"]["name"] == "mid"
    assert "classification" not in document["features"][2]["properties"]
    assert "score" not in document["features"][2]["properties"]["measurements"]
    colour = document["features"][1]["properties"]["classification"]["color"]
    assert len(colour) == 3
    assert all(0 <= c <= 255 for c in colour)
    assert len({f["id"] for f in document["features"]}) == 3


def test_without_a_diameter_a_region_is_a_point(tmp_path):
    export.write(strata(), {}, tmp_path / "a.geojson", "geojson")
    (first, *_) = json.loads((tmp_path / "a.geojson").read_text("utf-8"))["features"]
    assert first["geometry"] == {"type": "Point", "coordinates": [0.0, 1.0]}
    assert first["properties"]["objectType"] == "annotation"


def test_geojson_needs_every_position(tmp_path):
    with pytest.raises(ColumnError, match="needs a position"):
        export.write(strata().drop_columns(["x"]), {}, tmp_path / "a.geojson", "geojson")
    lost = strata().set_column(10, "x", pa.array([None, 1.0, math.inf]))
    with pytest.raises(ColumnError, match="2 coordinates are missing"):
        export.write(lost, {}, tmp_path / "a.geojson", "geojson")
    assert list(tmp_path.iterdir()) == []


# R ------------------------------------------------------------------------------------------------


def literals(text):
    """The vectors of the script by the name of their column, as Python values."""
    texts = {"NA_character_": None, "NA_real_": None, "NA_integer_": None, "NA": None,
             "TRUE": True, "FALSE": False, "Inf": math.inf, "-Inf": -math.inf}  # fmt: skip

    def value(token):
        if token in texts:
            return texts[token]
        if token.startswith('"'):
            body = re.sub(r"\\[uU]\{([0-9a-f]+)\}", lambda m: chr(int(m[1], 16)), token[1:-1])
            return re.sub(r'\\(["\\])', r"\1", body)
        return int(token[:-1]) if token.endswith("L") else float(token)

    token = r'"(?:[^"\\]|\\.)*"|[^\s,()]+'
    vectors = {
        name: [value(t) for t in re.findall(token, body)]
        for name, body in re.findall(
            rf"  (v\d+) <- (?:factor\()?c\(((?:(?:{token})[,\s]*)*)\)", text
        )
    }
    names = re.search(r"data\.frame\((.*), check\.names", text)[1]
    return {n: vectors[v] for n, v in re.findall(r"(\S+) = (v\d+)", names)}


def test_the_r_script_holds_the_values():
    text = "".join(r_script.script(strata(), {"k": 1}))
    assert text.isascii()
    found = literals(text)
    table = strata()
    assert list(found) == r_script.names(table.column_names)
    for name, column in zip(found, table.column_names, strict=True):
        assert found[name] == table[column].to_pylist(), column
    assert 'levels = c("low", "mid", "high"), ordered = TRUE' in text
    assert '"=formula"' in text  # the name before


def test_r_names_are_safe_and_different():
    made = r_script.names(["a", "a", "a.1", "2", "_x", ".2", "é", "if", "T", "x y", "x-y"])
    assert made == ["a", "a.1", "a.1.1", "X2", "X_x", "X.2", "X.", "if.", "T", "x.y", "x.y.1"]


def test_what_r_cannot_hold():
    with pytest.raises(ColumnError, match="NUL"):
        "".join(r_script.script(pa.table({"slide_id": ["a\0b"]}), {}))
    many = pa.table({"slide_id": pa.array(["s"] * (r_script.MOST_ROWS + 1))})
    with pytest.raises(ColumnError, match="too many"):
        "".join(r_script.script(many, {}))


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_r_itself_reads_it(tmp_path):
    export.write(strata(), {"k": 1}, tmp_path / "strata.R", "r")
    program = tmp_path / "read.R"
    program.write_text(
        'options(digits = 17); source("strata.R"); d <- molquery_table\n'
        "cat(nrow(d), ncol(d), is.ordered(d$stratum), as.integer(d$stratum), '\\n')\n"
        "cat(class(d$n), class(d$few), class(d$good), d$n[3] == 2^40, '\\n')\n"
        "cat(d$score == c(0.1, -1e-300, NA), '\\n')\n"
        "cat(utf8ToInt(d$patient_id[3]), '\\n'); cat(d$slide_id, '\\n')\n"
        "cat(names(d), '\\n'); cat(nchar(attr(d, 'provenance')), '\\n')\n",
        encoding="utf-8",
    )
    done = subprocess.run(["Rscript", program.name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "3 12 TRUE 2 1 NA"
    assert lines[1] == "numeric integer logical TRUE"
    assert lines[2] == "TRUE TRUE NA"
    assert lines[3] == " ".join(str(ord(c)) for c in "Ünï\n\u2028☃𝄞")
    assert lines[4] == 's1 s"2 s\\3'
    assert lines[5] == " ".join(r_script.names(strata().column_names))


# Spreadsheets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_no_cell_of_text_can_start_a_formula(format):
    text = export.to_text(strata(), format)
    assert "'=1+1" in text
    assert "'=formula" in text
    assert not re.search(r"(^|[,\t\n])=", text)
    assert "-0.5" in text  # numbers are never changed


# Streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", batch.METHODS)
def test_streamed_scores_are_those_of_the_table(engine, files, tmp_path, method):
    sets = read_sets(files.gene_sets)
    whole = cohort.score(engine, sets, method=method)
    streamed = batch.score_batches(engine, sets, method=method, size=50)
    assert streamed.n_rows == len(engine.slide_ids)
    target = tmp_path / "scores.parquet"
    export.write_batches(streamed.rows, streamed.schema, {"k": 1}, target)
    back = parquet.read_table(target)
    assert parquet.ParquetFile(target).num_row_groups == math.ceil(len(engine.slide_ids) / 50)
    assert back.column_names == whole.table.column_names
    told, expected = streamed.provenance.parameters, whole.provenance.parameters
    for name in back.column_names:
        if name in told["gene_sets"]:
            values = whole.table[name].to_numpy()
            np.testing.assert_allclose(back[name].to_numpy(), values, atol=2e-6)
        else:
            assert back[name].to_pylist() == whole.table[name].to_pylist()
    assert json.loads(back.schema.metadata[b"molquery.provenance"]) == {"k": 1}
    assert told["held_out_r"] == pytest.approx(expected["held_out_r"], abs=1e-5)
    assert {k: v for k, v in told.items() if k != "held_out_r"} == {
        k: v for k, v in expected.items() if k != "held_out_r"
    }
    assert streamed.notes == whole.notes


def test_a_large_archive_is_scored_in_parts(engine, files, monkeypatch):
    """By the sparse product, as where the weights do not fit into one dense matrix."""
    monkeypatch.setattr("molquery.predict._DENSE_CELLS", 0)
    fresh = Engine(engine.database)
    sets = read_sets(files.gene_sets)
    parts = list(batch.score_batches(fresh, sets, where="cohort = 'COHORT-A'", size=7).rows)
    assert {len(p) for p in parts[:-1]} == {7}
    table = pa.Table.from_batches(parts)
    whole = cohort.score(engine, sets, where="cohort = 'COHORT-A'").table
    assert table["slide_id"].to_pylist() == whole["slide_id"].to_pylist()
    for name in table.column_names[3:]:
        np.testing.assert_allclose(table[name].to_numpy(), whole[name].to_numpy(), atol=2e-6)


def test_sets_that_cannot_be_streamed(engine, files):
    sets = read_sets(files.gene_sets)
    with pytest.raises(GeneSetError, match="called slide_id"):
        batch.score_batches(engine, [replace(sets[0], name="slide_id")])
    with pytest.raises(GeneSetError, match="no gene set"):
        batch.score_batches(engine, [replace(sets[0], weights={"NOPE": 1.0})])


def test_a_stream_that_breaks_leaves_nothing(tmp_path):
    schema = pa.schema([("a", pa.int64())])

    def rows():
        yield pa.record_batch({"a": pa.array([1, 2])})
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"cannot write(.|\n)*No space left"):
        export.write_batches(rows(), schema, {}, tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_command_streams_parquet(cli, aligned, engine, files, tmp_path):
    out = tmp_path / "scores.parquet"
    result = cli("--db", aligned, "score", files.gene_sets, "-o", out)
    assert result.code == 0, result.err
    assert f"{len(engine.slide_ids)} rows written" in result.err
    told = json.loads(parquet.read_schema(out).metadata[b"molquery.provenance"])
    assert told["command"].startswith("molquery ")
    assert told == json.loads((tmp_path / "scores.parquet.provenance.json").read_text("utf-8"))
    assert cli("--db", aligned, "score", files.gene_sets, "-o", out).code == 1


# A full disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["csv", "parquet", "h5ad", "geojson", "r", "jsonl"])
def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path, format):
    program = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numpy as np, pyarrow as pa
from pathlib import Path
from molquery import export
from molquery.errors import OutputError
import anndata, pandas
n = 4000
rng = np.random.default_rng(0)
table = pa.table({{"slide_id": [f"s{{i}}" for i in range(n)], "x": rng.normal(size=n),
                  "y": rng.normal(size=n), "z": rng.normal(size=n)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    export.write(table, {{}}, Path({str(tmp_path / "out.x")!r}), {format!r})
except OutputError as error:
    print(error.what)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot write"), done.stdout
    assert list(tmp_path.iterdir()) == []
