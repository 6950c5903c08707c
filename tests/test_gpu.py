"""The GPU path without a GPU: a fake of the small part of FAISS's GPU interface that is used.

The fake keeps indexes where they are, and the rules of the real one: at most 2,048 neighbours, no
filters, cuVS for CAGRA, types that cannot be moved. So both paths' logic runs and is compared.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from molquery import index
from molquery.database import Database
from molquery.errors import IndexFileError
from molquery.index import library
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes
from molquery.query.retrieve import retrieve
from molquery.recipes import load_recipe
from molquery.schema import SLIDES
from molquery.vectors import Matrix, unit


class GpuIndex:
    """An index "on the GPU": the CPU's, with the limits of a GPU."""

    def __init__(self, inner: Any, device: int = 0) -> None:
        self.inner, self.device = inner, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def search(self, queries: Matrix, k: int, params: Any = None) -> Any:
        assert k <= 2048, "GPU index only supports k <= 2048"
        assert params is None or params.sel is None, "GPU index takes no filter"
        return self.inner.search(queries, k, params=params)


class GpuIndexFlatIP(GpuIndex):
    made: list[tuple[int, bool]] = []  # noqa: RUF012

    def __init__(self, resources: object, d: int, config: Any) -> None:
        super().__init__(faiss.IndexFlatIP(d), config.device)
        self.made.append((config.device, config.useFloat16))


class Shards:
    def __init__(self, d: int, threaded: bool, successive: bool) -> None:
        assert successive
        self.shards: list[GpuIndex] = []

    def add_shard(self, shard: GpuIndex) -> None:
        self.shards.append(shard)

    @property
    def ntotal(self) -> int:
        return sum(s.ntotal for s in self.shards)

    def search(self, queries: Matrix, k: int, params: Any = None) -> Any:
        first = np.cumsum([0, *(s.ntotal for s in self.shards)])
        found = [s.search(queries, min(k, s.ntotal)) for s in self.shards]
        scores = np.hstack([f[0] for f in found])
        at = np.hstack([f[1] + o for f, o in zip(found, first, strict=False)])
        order = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(at, order, 1)


class Options:
    """GpuClonerOptions, GpuIndexFlatConfig and their like: fields that are set."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Two GPUs; what was moved to them is counted."""
    seen = {"moved": 0, "copies": 0, "back": 0}

    def move(resources: object, device: int, handle: Any, options: Any) -> GpuIndex:
        assert options.useFloat16
        if isinstance(handle, faiss.IndexIVFRaBitQ | faiss.IndexHNSW):
            raise RuntimeError("Error in clone: Error: not a type that a GPU has at /src/Clone.cpp")
        seen["moved"] += 1
        return GpuIndex(handle, device)

    def copies(resources: list[Any], handle: Any, options: Any, devices: list[int]) -> GpuIndex:
        assert options.shard is False
        seen["copies"] += len(devices)
        return GpuIndex(handle)

    def back(handle: Any) -> Any:
        seen["back"] += 1
        return handle.inner if isinstance(handle, GpuIndex) else handle

    GpuIndexFlatIP.made.clear()
    for name, value in {
        "get_num_gpus": lambda: 2, "StandardGpuResources": object, "GpuClonerOptions": Options,
        "GpuMultipleClonerOptions": Options, "GpuIndexFlatConfig": Options,
        "GpuIndexFlatIP": GpuIndexFlatIP, "IndexShards": Shards, "index_cpu_to_gpu": move,
        "index_cpu_to_gpu_multiple_py": copies, "index_gpu_to_cpu": back,
    }.items():  # fmt: skip
        monkeypatch.setattr(faiss, name, value, raising=False)
    library._resources.cache_clear()
    yield seen
    library._resources.cache_clear()


def points(n: int, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(12, 24))
    return unit(centres[rng.integers(0, 12, n)] + 0.4 * rng.normal(size=(n, 24)))


@pytest.mark.parametrize("devices", [(0,), (0, 1)])
def test_gpu_flat_answers_as_the_cpu_does(gpus: dict[str, int], devices: tuple[int, ...]) -> None:
    vectors, queries = points(3000), points(7, seed=1)
    halves = vectors.astype(np.float16)
    gpu, recall = index.assemble(load_recipe("gpu-flat"), halves, truth=vectors, devices=devices)
    assert GpuIndexFlatIP.made == [(device, True) for device in devices]
    assert recall > 0.98
    cpu = index.Searcher(halves)
    rng = np.random.default_rng(2)
    for share in (1.0, 0.5, 0.01, 0.0):
        allowed = None if share == 1 else rng.random(3000) < share
        for k in (1, 10, 700):
            one, other = gpu.search(queries, k, allowed), cpu.search(queries, k, allowed)
            assert one[1].tolist() == other[1].tolist()
            np.testing.assert_allclose(one[0], other[0], atol=1e-6)


def test_more_neighbours_than_a_gpu_returns_come_from_the_cpu(gpus: dict[str, int]) -> None:
    vectors = points(3000).astype(np.float16)
    gpu, _ = index.assemble(load_recipe("gpu-flat"), vectors, devices=(0,))
    _, found = gpu.search(points(2, seed=1), 2500)
    assert found.shape == (2, 2500)
    assert (found >= 0).all()
    assert any("more than a GPU index can return (2048)" in n for n in gpu.notices)


@pytest.mark.parametrize("devices", [(1,), (0, 1)])
def test_gpu_ivfpq_is_built_there_and_saved_for_the_cpu(
    gpus: dict[str, int], devices: tuple[int, ...], tmp_path: Path
) -> None:
    vectors, queries = points(3000), points(20, seed=1)
    gpu, recall = index.assemble(load_recipe("gpu-ivfpq"), vectors, devices=devices)
    assert recall >= 0.97
    assert gpus["copies" if len(devices) > 1 else "moved"] == len(devices)
    library.write(gpu.gpu, tmp_path / "index.faiss")
    assert gpus["back"] == 1
    cpu = index.Searcher(vectors, library.read(tmp_path / "index.faiss"), gpu.settings)
    both = [s.by_index(queries, 10, None, 16)[1] for s in (cpu,)]
    same = gpu.search(queries, 10)[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(both[0], same, strict=True)]) >= 9


def test_a_type_that_no_gpu_has_is_searched_by_the_cpu_with_a_notice(
    gpus: dict[str, int], aligned_copy: Path
) -> None:
    database = Database.open(aligned_copy)
    engine = Engine(database)
    build_indexes(engine, load_recipe("ivf-rabitq"), device="cpu")
    loaded = index.load(database, "default-slides-ivf-rabitq", engine.source(SLIDES), devices=(0,))
    assert loaded.searcher.gpu is None
    assert "searched on the CPU, not a GPU: not a type that a GPU has" in loaded.notices[0]
    assert loaded.search(engine.slide_vectors[:1], 3)[1][0, 0] == 0


def test_a_database_is_asked_on_a_gpu_and_says_the_same(
    gpus: dict[str, int], aligned_copy: Path
) -> None:
    database = Database.open(aligned_copy)
    engine = Engine(database)
    entries = build_indexes(engine, load_recipe("gpu-flat"))
    assert [e["told"] for e in entries] == [[], []]
    query = str(engine.slide_ids[3])
    on = {d: retrieve(engine, query, to="slides", k=5, device=d) for d in ("cpu", "gpu", "gpu:1")}
    ids = [found.hits["slide_id"].to_pylist() for found in on.values()]
    assert ids[0] == ids[1] == ids[2]
    assert {device for device, _ in GpuIndexFlatIP.made} == {0, 1}


def test_what_a_device_may_be(gpus: dict[str, int]) -> None:
    assert index.devices("auto") == index.devices("gpu") == (0, 1)
    assert index.devices("gpu:1") == (1,)
    assert index.devices("cpu") == ()
    with pytest.raises(IndexFileError, match="there are 2 GPUs, numbered from 0"):
        index.devices("gpu:2")
    for text in ("tpu", "gpu:x", "cpu:0", ""):
        with pytest.raises(IndexFileError, match="is not known"):
            index.devices(text)


def test_without_a_gpu(aligned_copy: Path, cli: Any) -> None:
    if index.gpus():
        pytest.skip("there is one")
    assert index.devices("auto") == ()
    for command in (
        ["index", "build", "--device", "gpu"],
        ["search", "--geneset", "HALLMARK_HYPOXIA", "--index", "--null", 0, "--device", "gpu:0"],
    ):
        done = cli("--db", aligned_copy, *command)
        assert done.code == 1
        assert "FAISS sees no GPU here" in done.err
        assert "--device cpu" in done.err
    done = cli("--db", aligned_copy, "index", "build", "--recipe", "gpu-flat")
    assert done.code == 0
    assert "gpu-flat without a GPU: built and searched by the CPU" in done.err
    names = [e["recipe"] for e in Database.open(aligned_copy).manifest()["indexes"].values()]
    assert names.count("gpu-flat") == 2
