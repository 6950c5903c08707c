"""Exports read back with other readers: csv, json, polars, pyarrow."""

import csv
import datetime
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from molquery import export
from molquery.errors import ColumnError, InputError, OutputError
from molquery.export.delimited import harmless

PROVENANCE = {"database": "db", "table_versions": {"slides": 3}, "k": np.int64(20), "gap": math.nan}
PLAIN = {"database": "db", "table_versions": {"slides": 3}, "k": 20, "gap": None}


def example():
    return pa.table(
        {
            "slide_id": ["s1", 'Müller, "A"', "two\nlines", "tab\there", None],
            "score": pa.array([0.1, 1e-300, -2.5, math.nan, None]),
            "small": pa.array([0.1, 1 / 3, 1e-8, 16777216.0, None], pa.float32()),
            "n": pa.array([1, -2, 2**62, 0, None]),
            "good": pa.array([True, False, None, True, False]),
            "genes": pa.array([["A", "B"], [], None, ["C"], ["D"]]),
            "cohort": pa.array(["x", "y", "x", "y", None]).dictionary_encode(),
            "seen": pa.array([datetime.date(2024, 1, 2)] * 5),
        }
    )


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_text_reads_back(format, delimiter):
    text = export.to_text(example(), format)
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    assert header == example().column_names
    assert [row[0] for row in rows] == ["s1", 'Müller, "A"', "two\nlines", "tab\there", ""]
    assert [row[1] for row in rows] == ["0.1", "1e-300", "-2.5", "", ""]
    small = example()["small"].to_numpy(zero_copy_only=False)
    assert [np.float32(row[2]) for row in rows[:4]] == small[:4].tolist()
    assert rows[0][2] == "0.1"
    assert [row[3] for row in rows] == ["1", "-2", str(2**62), "0", ""]
    assert [row[4] for row in rows] == ["true", "false", "", "true", "false"]
    assert [row[5] for row in rows] == ['["A", "B"]', "[]", "", '["C"]', '["D"]']
    assert [row[6] for row in rows] == ["x", "y", "x", "y", ""]
    assert rows[0][7] == "2024-01-02"


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_polars_reads_the_file(tmp_path, format, delimiter):
    table = example().drop_columns(["genes", "small"])
    target = tmp_path / f"out.{format}"
    export.write(table, PROVENANCE, target, format)
    frame = pl.read_csv(target, separator=delimiter, try_parse_dates=True)
    expected = pl.from_arrow(table).with_columns(
        pl.col("cohort").cast(pl.String), pl.col("score").fill_nan(None)
    )
    assert frame.equals(expected)
    assert b"\r" not in target.read_bytes()


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            st.floats(allow_nan=False),
        ),
        max_size=8,
    )
)
def test_any_text_and_any_float_survive(rows):
    texts, floats = [t for t, _ in rows], [f for _, f in rows]
    table = pa.table({"text": pa.array(texts, pa.string()), "x": pa.array(floats, pa.float64())})
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        text = export.to_text(table, format)
        back = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        assert [row[0] for row in back[1:]] == [harmless(t) for t in texts]
        assert [float(row[1]) for row in back[1:]] == floats


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_one_column_keeps_its_empty_rows(format):
    text = export.to_text(pa.table({"a": ["x", None, ""]}), format)
    assert len(list(csv.reader(io.StringIO(text)))) == 4


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_of_text_is_a_formula(start):
    table = pa.table(
        {
            f"{start}name": [f"{start}cmd|' /C calc'!A0"],
            "coded": pa.array([f"{start}HYPERLINK()"]).dictionary_encode(),
            "score": [-1.5],
        }
    )
    text = export.to_text(table, "csv")
    header, row = csv.reader(io.StringIO(text, newline=""))
    assert header[0] == f"'{start}name"
    assert row[0] == f"'{start}cmd|' /C calc'!A0"
    assert row[1] == f"'{start}HYPERLINK()"
    assert row[2] == "-1.5"
    assert json.loads(export.to_text(table, "jsonl"))[f"{start}name"].startswith(start)


@pytest.mark.parametrize("number", ["-1", "+2.5", "-.5", "-1e-5", "-3."])
def test_numbers_written_as_text_stay(number):
    assert harmless(number) == number


@pytest.mark.parametrize("text", ["-", "-1+1", "+", "-1e", "-inf", "-1\n", "--1"])
def test_what_only_looks_like_a_number_does_not(text):
    assert harmless(text) == f"'{text}"


def test_jsonl_reads_back(tmp_path):
    target = tmp_path / "out.jsonl"
    export.write(example(), PROVENANCE, target, "jsonl")
    rows = [json.loads(line) for line in target.read_text("utf-8").split("\n")[:-1]]
    assert [row["score"] for row in rows] == [0.1, 1e-300, -2.5, None, None]
    assert rows[0]["small"] == 0.1
    assert rows[2]["slide_id"] == "two\nlines"
    assert rows[0]["genes"] == ["A", "B"]
    assert rows[4]["slide_id"] is None
    assert target.read_text("utf-8") == export.to_text(example(), "jsonl")


def test_parquet_keeps_types_and_provenance(tmp_path):
    target = tmp_path / "out.parquet"
    table = example().replace_schema_metadata({"own": "kept"})
    export.write(table, PROVENANCE, target, "parquet")
    back = parquet.read_table(target)
    assert back.drop_columns("score").equals(table.drop_columns("score"))
    assert math.isnan(back["score"][3].as_py())
    assert back["score"][4].as_py() is None
    assert json.loads(back.schema.metadata[b"molquery.provenance"]) == PLAIN
    assert back.schema.metadata[b"own"] == b"kept"


@pytest.mark.parametrize("format", [f.name for f in export.FORMATS])
def test_every_format_has_a_sidecar_and_refuses_to_overwrite(tmp_path, format):
    target = tmp_path / "out.x"
    places = {"x": pa.array([1.0, 2.0, 3.0, 4.0]), "y": pa.array([0.0] * 4)}
    table = example().slice(0, 4)
    for name, values in places.items():
        table = table.append_column(name, values)
    export.write(table, PROVENANCE, target, format)
    beside = tmp_path / "out.x.provenance.json"
    assert json.loads(beside.read_text("utf-8")) == PLAIN
    before = target.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        export.write(table.slice(0, 1), {"other": 1}, target, format)
    assert target.read_bytes() == before
    assert json.loads(beside.read_text("utf-8")) == PLAIN
    export.write(table.slice(0, 1), {"other": 1}, target, format, overwrite=True)
    assert target.read_bytes() != before
    assert json.loads(beside.read_text("utf-8")) == {"other": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.x", "out.x.provenance.json"]


def test_a_failed_write_leaves_nothing(tmp_path):
    table = pa.table({"blob": pa.array([b"x"])})
    with pytest.raises(ColumnError, match="blob holds bytes"):
        export.write(table, PROVENANCE, tmp_path / "out.csv", "csv")
    with pytest.raises(OutputError, match="cannot write"):
        export.write(example(), PROVENANCE, tmp_path / "missing" / "out.csv", "csv")
    assert list(tmp_path.iterdir()) == []


def test_formats_are_found_by_name_and_suffix():
    assert export.guess(Path("A.TSV")).name == "tsv"
    assert export.guess(Path("a.parquet")).name == "parquet"
    assert export.guess(Path("a.txt")).name == "tsv"
    assert export.guess(Path("a.xlsx")) is None
    with pytest.raises(InputError, match="tsv, csv, parquet, jsonl"):
        export.find("xlsx")
    with pytest.raises(InputError, match="not text"):
        export.to_text(example(), "parquet")
    with pytest.raises(ColumnError, match="unique"):
        export.to_text(pa.table([[1], [2]], names=["a", "a"]), "csv")


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_many_rows_and_none(format):
    many = pa.table({"i": range(40_000)})
    text = export.to_text(many, format)
    assert len(text.splitlines()) == 40_000 + (format != "jsonl")
    empty = export.to_text(many.slice(0, 0), format)
    assert empty == ("" if format == "jsonl" else "i\n")


@dataclass(frozen=True)
class Record:
    weights: MappingProxyType
    path: Path


def test_json_documents_are_strict(tmp_path):
    document = {
        "record": Record(MappingProxyType({"A": np.float32(0.5)}), Path("x")),
        "values": (np.nan, np.inf, 1.5, np.bool_(True), np.str_("é")),
        "array": np.arange(3),
        "set": {"b", "a"},
        "day": datetime.date(2024, 1, 2),
    }
    target = tmp_path / "out.json"
    export.write_json(document, target)

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(target.read_text("utf-8"), parse_constant=refuse) == {
        "record": {"weights": {"A": 0.5}, "path": "x"},
        "values": [None, None, 1.5, True, "é"],
        "array": [0, 1, 2],
        "set": ["a", "b"],
        "day": "2024-01-02",
    }
    with pytest.raises(OutputError, match="exists already"):
        export.write_json({}, target)
    export.write_json({}, target, overwrite=True)
    assert target.read_text() == "{}\n"
    with pytest.raises(TypeError, match="no JSON form"):
        export.to_json(object())
