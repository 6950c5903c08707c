"""On a cluster of two local workers every number is that of a single machine."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from molquery import cluster, index
from molquery.database import Database
from molquery.errors import InputError
from molquery.genesets import collections
from molquery.ingest import ingest_slides
from molquery.query import batch, prepared
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes
from molquery.query.prepared import Prepared
from molquery.readers import Options
from molquery.schema import SLIDES
from molquery.threads import Mapper


@pytest.fixture(scope="module")
def mapper() -> Iterator[Mapper]:
    with cluster.connected() as found:
        yield found


def failing() -> Callable[[int], tuple[int, int]]:
    """A function without a module, since workers cannot import this one."""

    def function(item: int) -> tuple[int, int]:
        if item == 7:
            raise InputError("seven cannot be used", found="7", hint="8")
        return item, os.getpid()

    return function


def test_results_come_in_order_from_other_processes(mapper: Mapper) -> None:
    found = list(mapper(failing(), [3, 1, 2, 1]))
    assert [item for item, _ in found] == [3, 1, 2, 1]
    assert os.getpid() not in {process for _, process in found}
    assert list(mapper(failing(), [])) == []


def test_an_error_of_a_worker_is_the_error_of_the_command(mapper: Mapper) -> None:
    with pytest.raises(InputError, match="seven cannot be used") as caught:
        list(mapper(failing(), [1, 7, 2]))
    assert (caught.value.found, caught.value.hint) == ("7", "8")


def _weights_gone(aligned: Path, target: Path) -> Database:
    shutil.copytree(aligned, target)
    database = Database.open(target)
    database.update_manifest(lambda manifest: manifest["predictions"].clear())
    return database


def test_prediction_weights_are_those_of_one_machine(
    aligned: Path, tmp_path: Path, mapper: Mapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molquery.predict.REMOTE", 100)  # several batches
    here = _weights_gone(aligned, tmp_path / "here.mq")
    there = _weights_gone(aligned, tmp_path / "there.mq")
    one, other = Engine(here).prepared, Engine(there, mapper).prepared
    assert isinstance(one, Prepared)
    assert len(one.operators["patient"].weights) > 200
    for scheme, operator in one.operators.items():
        for name in ("neighbours", "model", "group", "soft_share"):
            same = np.array_equal(getattr(operator, name), getattr(other.operators[scheme], name))
            assert same, (scheme, name)
        for name in ("weights", "components", "distance", "solvers"):
            np.testing.assert_allclose(
                getattr(operator, name), getattr(other.operators[scheme], name), atol=1e-5
            )
    # Stored as those of one machine are, so that no later question computes them again.
    assert prepared.load(there, Engine(there).space_id) is not None


def test_scores_are_those_of_one_machine(engine: Engine, mapper: Mapper) -> None:
    signatures = [collections.find(n) for n in ("HALLMARK_HYPOXIA", "HALLMARK_E2F_TARGETS")]
    one = batch.score_batches(engine, signatures, size=50)
    other = batch.score_batches(engine, signatures, size=50, mapper=mapper)
    parts = list(one.rows)
    assert len(parts) > 3
    assert parts == list(other.rows)


def test_files_give_the_slides_of_one_machine(tmp_path: Path, mapper: Mapper) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "20x_256px_0px_overlap" / "features_conch_v15"
    folder.mkdir(parents=True)
    for i in range(6):
        with h5py.File(folder / f"TCGA-AA-{i:04d}-01Z-00-DX1.h5", "w") as file:
            file["features"] = rng.standard_normal((5 + i, 16), dtype=np.float32)
            file["features"].attrs["encoder"] = "conch_v15"
            file["coords"] = rng.integers(0, 1000, (5 + i, 2))
    held = []
    for name, who in (("here", None), ("there", mapper)):
        database = Database.create(tmp_path / f"{name}.mq")
        report = ingest_slides(database, [folder], options=Options(), mapper=who)
        assert (report.inserted, report.sources) == (6, 6)
        names = database.dataset(SLIDES).schema.names
        held.append(database.read(SLIDES, names))
    assert held[0].equals(held[1])
    # The damaged one of several is named, and nothing is taken in.
    (folder / "TCGA-AA-0003-01Z-00-DX1.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    database = Database.create(tmp_path / "broken.mq")
    with pytest.raises(InputError, match="TCGA-AA-0003"):
        ingest_slides(database, [folder], options=Options(), mapper=mapper)
    assert not database.has(SLIDES)


def test_an_index_is_merged_from_shards(
    aligned: Path, tmp_path: Path, mapper: Mapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molquery.index.assembly.SHARD", 60)  # several shards
    found = []
    for name, who in (("here", None), ("there", mapper)):
        shutil.copytree(aligned, tmp_path / name)
        engine = Engine(Database.open(tmp_path / name))
        slides, _ = build_indexes(engine, "ivf", mapper=who)
        assert slides["rows"] == len(engine.slide_ids) > 200
        loaded = index.load(engine.database, "default-slides-ivf", engine.source(SLIDES))
        found.append((slides["recall_at_10"], loaded.search(engine.slide_vectors[::7], 10)))
    (recall, (scores, rows)), (other_recall, (other_scores, other_rows)) = found
    assert recall == other_recall
    np.testing.assert_array_equal(rows, other_rows)
    np.testing.assert_array_equal(scores, other_scores)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", _no_answer)
    for address in ("ray://127.0.0.1:1", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=f"no Ray cluster answers at {address}"):
            cluster.connected().__enter__()


def _no_answer(**_: object) -> None:
    raise ConnectionError("Could not find any running Ray instance")
