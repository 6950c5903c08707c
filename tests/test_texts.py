"""Text columns, groups, Arrow buffers and sparse products, against plain Python and scipy."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from molquery import arrow, sparse
from molquery.texts import Groups, Texts, coded
from molquery.vectors import as_text

WORDS = ["é", None, "b", "", "ab", "b", "日本", "b", "a"]


@pytest.mark.parametrize(
    ("kind", "start"),
    [("whole", 0), ("whole", 2), ("chunks", 0), ("chunks", 2), ("dictionary", 0), ("long", 2)],
)
def test_texts_are_those_of_the_column(
    kind: str, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "long":  # as if there were gigabytes
        monkeypatch.setattr("molquery.texts._LONG", 0)
    column = pa.chunked_array([WORDS])
    if kind == "chunks":
        column = pa.chunked_array([WORDS[:4], WORDS[4:]])
    elif kind == "dictionary":
        column = coded(pa.table({"w": WORDS * 9}), but="")["w"][: len(WORDS)]
        assert pa.types.is_dictionary(column.type)
    texts = Texts(column[start:])
    words = [w or "" for w in WORDS[start:]]
    assert texts.at(np.array([3, 0])).tolist() == [words[3], words[0]]
    assert texts.at(np.empty(0, np.int64)).tolist() == []
    assert texts.all.tolist() == as_text(column[start:]).tolist() == words
    groups = texts.groups
    assert groups.names.tolist() == sorted(set(words))
    assert groups.names[groups.code].tolist() == words
    rows = np.array([w == "b" or w == "ab" for w in words])
    assert groups.within(rows).tolist() == ["ab", "b"]
    assert groups.counts(rows).tolist() == [
        sum(w == name and r for w, r in zip(words, rows, strict=True)) for name in groups.names
    ]
    assert texts.are_in(pa.array(["ab", "é"])).tolist() == [w in ("ab", "é") for w in words]
    assert sorted(texts.distinct().to_pylist()) == sorted(set(words) - {""})
    plain = Groups.of(np.array(words))
    assert plain.names.tolist() == groups.names.tolist()
    assert plain.code.tolist() == groups.code.tolist()


def test_a_key_is_found_among_sorted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted({f"TCGA-{i * 7 % 1000:03d}" for i in range(300)} | {"Ä1", "a", ""})
    texts = Texts(pa.chunked_array([names]))
    for i, name in enumerate(names):
        assert texts.find(name) == i
    for name in ("TCGA-0000", "Z", "!", "Ä"):
        assert texts.find(name) is None
    wanted = pa.chunked_array([[names[3], "no", names[5]]])
    assert np.flatnonzero(texts.are_in(wanted)).tolist() == [3, 5]
    absent = next(n for n in (f"TCGA-{i:03d}" for i in range(1000)) if n not in names)
    for compared in (10_000, 20):
        monkeypatch.setattr("molquery.texts._COMPARED", compared)
        near = texts.near(absent, 2, 0.8)
        assert len(near) == 2
        assert all(name.startswith("TCGA-") for name in near)
        assert texts.near("entirely different", 2, 0.8) == []


def test_coded_columns_leave_the_key_and_what_is_hardly_repeated() -> None:
    table = pa.table(
        {"id": ["a"] * 8, "few": ["x", None] * 4, "many": list("abcdefgh"), "n": [1] * 8}
    )
    found = coded(table, but="id")
    assert [str(t) for t in found.schema.types] == [
        "string", "dictionary<values=string, indices=int32, ordered=0>", "string", "int64",
    ]  # fmt: skip
    assert as_text(found["few"]).tolist() == ["x", ""] * 4


def test_arrow_arrays_are_those_that_pyarrow_makes() -> None:
    for values in (np.array([1.5, np.nan, -2.0]), np.array([np.nan]), np.empty(0)):
        assert arrow.column(values).equals(pa.array(values, mask=np.isnan(values)))
    assert arrow.column(np.array([3, -1])).equals(pa.array([3, -1]))
    flags = np.arange(11) % 3 == 0
    assert arrow.column(flags).equals(pa.array(flags))
    for words in (WORDS, ["a"], [], [None, None]):
        found = arrow.column(words)
        found.validate(full=True)
        assert found.to_pylist() == words
    for kind in ("float32", "float64", "int32", "int64", "float16"):
        numbers = np.arange(9).astype(kind)
        assert arrow.numbers(pa.array(numbers)[2:7]).tolist() == numbers[2:7].tolist()
    assert arrow.numbers(pa.array([], pa.int32())).tolist() == []


@pytest.mark.parametrize("s", [1, 2, 9])
def test_sparse_products_are_those_of_scipy(s: int) -> None:
    rng = np.random.default_rng(s)
    indices = rng.integers(0, 30, (50, 8), dtype=np.int32)  # some of them twice in a row
    weights, columns = (rng.normal(size=shape).astype(np.float32) for shape in ((50, 8), (30, s)))
    starts = np.arange(0, 401, 8)
    matrix = csr_array((weights.ravel().astype(float), indices.ravel(), starts), shape=(50, 30))
    np.testing.assert_allclose(
        sparse.product(indices, weights, columns), matrix @ columns.astype(float), atol=1e-5
    )
    assert sparse.product(indices[:0], weights[:0], columns).shape == (0, s)
