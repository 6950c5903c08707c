"""Retrieval in all four directions against plain numpy, by id and by file."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyarrow import parquet

from molquery import synth
from molquery.database import Database
from molquery.errors import FilterError, InputError, VectorError
from molquery.query.engine import Engine
from molquery.query.retrieve import Neighbours, retrieve
from molquery.readers import Options
from molquery.schema import PROFILES, SLIDES, shared_column
from molquery.space import need_space

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def shared(aligned: Path) -> dict[str, tuple[list[str], Array]]:
    """Ids and shared vectors of both tables, and the hubness of profiles."""
    database = Database.open(aligned)
    space = need_space(database)
    column = shared_column(space.space_id)
    out = {}
    for spec in (SLIDES, PROFILES):
        ids = database.read(spec, [spec.key])[spec.key].to_pylist()
        out[spec.name] = (ids, database.matrix(spec, column))
    out["hubs"] = ([], space.final.hubness(out["profiles"][1]))
    return out


def brute_force(
    shared: dict[str, tuple[list[str], Array]], vector: Array, source: str, to: str
) -> list[tuple[str, float]]:
    ids, rows = shared[to]
    similarity = [float(np.dot(row, vector)) for row in rows]
    if (source, to) == ("slides", "profiles"):
        similarity = [s - float(h) for s, h in zip(similarity, shared["hubs"][1], strict=True)]
    return sorted(zip(ids, similarity, strict=True), key=lambda item: (-item[1], item[0]))


def hits(found: Neighbours, key: str) -> list[tuple[str, float]]:
    rows = found.hits.to_pylist()
    assert [r["rank"] for r in rows] == list(range(1, len(rows) + 1))
    return [(r[key], r["similarity"]) for r in rows]


def agree(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [i for i, _ in found] == [i for i, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-5)


@pytest.mark.parametrize("use_index", [True, False])
@pytest.mark.parametrize("to", ["slides", "profiles"])
@pytest.mark.parametrize("source", ["slides", "profiles"])
def test_every_direction_equals_brute_force(
    engine: Engine, shared: dict[str, tuple[list[str], Array]], source: str, to: str,
    use_index: bool,
) -> None:  # fmt: skip
    ids, vectors = shared[source]
    key = {"slides": "slide_id", "profiles": "profile_id"}[to]
    for row in (0, 17, len(ids) - 1):
        found = retrieve(engine, ids[row], to=to, k=8, use_index=use_index)
        expected = brute_force(shared, vectors[row], source, to)
        expected = [item for item in expected if source != to or item[0] != ids[row]]
        agree(hits(found, key), expected[:8])
        assert (found.provenance.index is not None) == use_index
        assert set(found.hits["query"].to_pylist()) == {ids[row]}


def test_a_slide_never_finds_itself_and_says_who_is_of_its_patient(
    engine: Engine, archive: synth.Archive
) -> None:
    patient = next(i for i in archive.slide_patient if (archive.slide_patient == i).sum() > 1)
    name = str(archive.patients[patient])
    found = retrieve(engine, f"{name}-S1", to="slides", k=10_000).hits.to_pylist()
    assert len(found) == len(archive.slide_ids) - 1
    assert {r["slide_id"] for r in found if r["same_patient"]} == {
        f"{name}-S{j}" for j in range(2, (archive.slide_patient == patient).sum() + 1)
    }
    assert found[0]["same_patient"], "two slides of one patient are near"


def test_training_pairs_come_with_a_warning(engine: Engine, archive: synth.Archive) -> None:
    paired = np.intersect1d(archive.slide_patient, archive.profile_patient)[0]
    found = retrieve(engine, f"{archive.patients[paired]}-S1", to="profiles", k=10_000)
    assert any("training pairs" in note for note in found.notes)


def test_filter_applies_before_the_k_nearest(
    engine: Engine, shared: dict[str, tuple[list[str], Array]]
) -> None:
    ids, vectors = shared["slides"]
    table = engine.database.read(SLIDES, ["slide_id", "age"]).to_pylist()
    young = {r["slide_id"] for r in table if r["age"] < 40}
    for use_index in (True, False):
        found = retrieve(engine, ids[0], to="slides", k=6, where="age < 40", use_index=use_index)
        expected = [item for item in brute_force(shared, vectors[0], "slides", "slides")
                    if item[0] in young and item[0] != ids[0]]  # fmt: skip
        assert len(expected) >= 6
        agree(hits(found, "slide_id"), expected[:6])
    nothing = retrieve(engine, ids[0], to="slides", where="age > 1000")
    assert nothing.hits.num_rows == 0
    assert nothing.notes[-1] == "no other slide satisfies the filter"
    with pytest.raises(FilterError, match="columns are"):
        retrieve(engine, ids[0], to="profiles", where="nothing = 1")


def test_a_file_of_slides(
    engine: Engine, archive: synth.Archive, shared: dict[str, tuple[list[str], Array]],
    tmp_path: Path,
) -> None:  # fmt: skip
    rows = [3, 30]
    cohorts = archive.cohorts[archive.slide_patient[rows]].tolist()
    sites = [archive.sites[archive.slide_patient[rows[0]]], None]
    table = {"slide_id": ["Q1", "Q2"], "cohort": cohorts, "site": sites,
             "features": archive.embeddings[rows].tolist()}  # fmt: skip
    path = tmp_path / "query.parquet"
    parquet.write_table(pa.table(table), path)
    vectors = need_space(engine.database).project_slides(archive.embeddings[rows], cohorts, sites)
    for to, key in (("slides", "slide_id"), ("profiles", "profile_id")):
        found = retrieve(engine, str(path), to=to, k=4)
        assert found.hits["query"].to_pylist() == ["Q1"] * 4 + ["Q2"] * 4
        for q, vector in enumerate(vectors):
            part = [(r[key], r["similarity"]) for r in found.hits.to_pylist()[4 * q : 4 * q + 4]]
            agree(part, brute_force(shared, vector, "slides", to)[:4])
    # The same vector is in the archive: a file's slide may find it, and it comes first.
    first = retrieve(engine, str(path), to="slides", k=1).hits.to_pylist()
    assert [r["slide_id"] for r in first] == archive.slide_ids[rows].tolist()


def test_a_file_of_profiles(
    engine: Engine, archive: synth.Archive, shared: dict[str, tuple[list[str], Array]],
    tmp_path: Path,
) -> None:  # fmt: skip
    order = np.random.default_rng(0).permutation(len(archive.genes))
    table: dict[str, object] = {"profile_id": ["Q"]}
    table |= {archive.genes[j]: archive.expression[[5], j] for j in order}
    path = tmp_path / "query.parquet"
    parquet.write_table(pa.table(table), path)
    vector = shared["profiles"][1][5]
    for to, key in (("slides", "slide_id"), ("profiles", "profile_id")):
        found = retrieve(
            engine, str(path), to=to, k=5, source="profiles", options=Options(genes_in="columns")
        )
        agree(hits(found, key), brute_force(shared, vector, "profiles", to)[:5])
        assert any("scale, log2" in note for note in found.notes)


def test_a_query_file_is_judged_as_an_ingest_is(engine: Engine, tmp_path: Path) -> None:
    dim = engine.facts["slide_dim"]
    path = tmp_path / "query.parquet"
    parquet.write_table(pa.table({"slide_id": ["a"], "features": [[0.0] * dim]}), path)
    with pytest.raises(VectorError, match="1 with all zeros: a"):
        retrieve(engine, str(path), to="slides")
    parquet.write_table(pa.table({"slide_id": ["a"], "features": [[1.0] * (dim + 1)]}), path)
    with pytest.raises(InputError, match=f"dimension {dim}"):
        retrieve(engine, str(path), to="slides", source="slides")
    named = pa.table({"slide_id": ["a"], "features": [[1.0] * dim], "encoder": ["titan"]})
    parquet.write_table(named, path)
    with pytest.raises(InputError, match="titan"):
        retrieve(engine, str(path), to="slides")


def test_an_unknown_id_suggests_the_nearest(engine: Engine) -> None:
    with pytest.raises(InputError, match="did you mean P000010-S1"):
        retrieve(engine, "P000010-s1", to="slides")
    with pytest.raises(InputError, match="neither a slide, a profile, nor a file"):
        retrieve(engine, "/nowhere/at/all", to="slides")
    with pytest.raises(InputError, match="slides or profiles"):
        retrieve(engine, "P000010-S1", to="genes")
