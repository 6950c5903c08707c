"""FAISS indexes and recipes: against brute force, damaged, stale, filtered, and ill described."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from molquery import index, synth
from molquery.database import Database
from molquery.errors import IndexFileError
from molquery.genesets import collections
from molquery.ingest import ingest_metadata, ingest_slides
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes, index_states
from molquery.query.retrieve import retrieve
from molquery.query.search import search
from molquery.readers import Options
from molquery.recipes import Recipe, load_recipe
from molquery.schema import PROFILES, SLIDES
from molquery.space import DEFAULT_SPACE
from molquery.vectors import Bools, Matrix, unit

HYPOXIA = collections.find("HALLMARK_HYPOXIA")
RECIPES = ("flat", "ivf")


def points(n: int = 3000, d: int = 16, seed: int = 0) -> Matrix:
    """Clustered unit vectors, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, d))
    return unit(centres[rng.integers(0, 20, n)] + 0.4 * rng.normal(size=(n, d)))


def brute_force(
    vectors: Matrix, query: Matrix, k: int, allowed: Bools | None = None
) -> list[list[int]]:
    scores = query.astype(np.float64) @ vectors.T.astype(np.float64)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return [[int(j) for j in np.argsort(-row, kind="stable")[:k] if np.isfinite(row[j])]
            for row in scores]  # fmt: skip


@pytest.fixture(scope="module")
def built(aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, index.Index]:
    """Both shipped recipes, built over 3,000 points and read back from disk."""
    path = tmp_path_factory.mktemp("index") / "a.mq"
    shutil.copytree(aligned, path)
    database = Database.open(path)
    entry = database.manifest()["spaces"][DEFAULT_SPACE]
    space = {"name": DEFAULT_SPACE, "space_id": entry["space_id"]}
    out = {}
    for name in RECIPES:
        index.build(database, SLIDES, load_recipe(name), points(), space)
        out[name] = index.load(database, index.index_key(DEFAULT_SPACE, SLIDES, name))
    return out


# Answers -----------------------------------------------------------------------------------------


def test_flat_equals_brute_force(built: dict[str, index.Index]) -> None:
    queries = points(10, seed=1)
    scores, found = built["flat"].search(queries, 12)
    assert found.tolist() == brute_force(points(), queries, 12)
    np.testing.assert_allclose(scores[0], points()[found[0]] @ queries[0], atol=1e-6)
    assert index.exact(points(), queries, 12, None)[1].tolist() == found.tolist()
    assert built["flat"].entry["recall_at_10"] == 1.0


def test_ivf_says_its_recall_and_keeps_to_it(built: dict[str, index.Index]) -> None:
    ivf = built["ivf"]
    assert ivf.entry["n_probe"] == max(1, round(0.1 * load_recipe("ivf").n_lists(3000)))
    queries = points()[::7]
    truth = brute_force(points(), queries, 10)
    _, found = ivf.search(queries, 10)
    recall = np.mean([len(set(t) & set(f)) / 10 for t, f in zip(truth, found.tolist(),
                                                               strict=True)])  # fmt: skip
    assert ivf.entry["recall_at_10"] == pytest.approx(recall, abs=0.05)
    assert recall > 0.7


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02, 0.004])
@pytest.mark.parametrize("name", RECIPES)
def test_a_filter_returns_k_rows_whenever_k_qualify(
    built: dict[str, index.Index], name: str, share: float
) -> None:
    allowed = np.random.default_rng(3).random(3000) < share
    n = int(allowed.sum())
    queries = points(5, seed=2)
    for k in (1, 10, n):
        _, found = built[name].search(queries, k, allowed)
        assert found.shape == (5, k)
        assert (found >= 0).all(), "a row that qualifies was not found"
        assert allowed[found].all()
        if name == "flat" or n < 50 * k:  # then every list is scanned, and the answer is exact
            assert found.tolist() == brute_force(points(), queries, k, allowed)


@pytest.mark.parametrize("name", RECIPES)
def test_more_than_there_are_is_padded(built: dict[str, index.Index], name: str) -> None:
    allowed = np.zeros(3000, dtype=bool)
    allowed[[7, 2000]] = True
    scores, found = built[name].search(points(1, seed=4), 5, allowed)
    assert sorted(found[0, :2].tolist()) == [7, 2000]
    assert found[0, 2:].tolist() == [-1, -1, -1]
    assert np.isneginf(scores[0, 2:]).all()
    assert built[name].search(points(0), 5)[1].shape == (0, 0)


# Derived, and checked ----------------------------------------------------------------------------


def state(database: Database, key: str = "default-slides-flat") -> str:
    return next(s["state"] for s in index_states(database, checksums=True) if s["index"] == key)


def test_a_current_index_is_ok(aligned: Path) -> None:
    states = index_states(Database.open(aligned), checksums=True)
    assert [(s["index"], s["state"]) for s in states] == [
        ("default-profiles-flat", "ok"), ("default-slides-flat", "ok")
    ]  # fmt: skip


@pytest.mark.parametrize("where", [0, -1, 0.5])
def test_one_flipped_byte_is_found_and_the_exact_path_answers(
    aligned_copy: Path, engine: Engine, where: float
) -> None:
    file = next((aligned_copy / "indexes").glob("default-slides-flat-*"))
    blob = bytearray(file.read_bytes())
    blob[int(where * len(blob)) if where == 0.5 else int(where)] ^= 1
    file.write_bytes(bytes(blob))
    database = Database.open(aligned_copy)
    assert "sha256" in state(database)
    with pytest.raises(IndexFileError, match="damaged"):
        index.load(database, "default-slides-flat")
    query = str(engine.slide_ids[0])
    damaged, whole = (retrieve(e, query, to="slides") for e in (Engine(database), engine))
    assert any("exact scan" in note and "damaged" in note for note in damaged.notes)
    assert damaged.hits["slide_id"].to_pylist() == whole.hits["slide_id"].to_pylist()
    assert damaged.provenance.index is None
    vector = search(Engine(database), HYPOXIA, method="vector", null=0, k=5)
    assert any("damaged" in note for note in vector.notes)


def test_a_missing_file_is_found(aligned_copy: Path) -> None:
    next((aligned_copy / "indexes").glob("default-slides-flat-*")).unlink()
    assert state(Database.open(aligned_copy)) == "its file is missing"


def test_new_slides_make_an_index_stale_and_metadata_do_not(
    aligned_copy: Path, archive: synth.Archive, tmp_path: Path
) -> None:
    database = Database.open(aligned_copy)
    parquet.write_table(
        pa.table({"slide_id": archive.slide_ids.tolist(), "batch": [1] * len(archive.slide_ids)}),
        tmp_path / "m.parquet",
    )
    ingest_metadata(database, [tmp_path / "m.parquet"], on="slide_id")
    assert state(database) == "ok"
    new = {"slide_id": ["NEW"], "features": [archive.embeddings[0].tolist()]}
    parquet.write_table(pa.table(new), tmp_path / "s.parquet")
    ingest_slides(database, [tmp_path / "s.parquet"], options=Options(), encoder="toy-encoder")
    assert state(database).startswith("slides have changed")
    assert state(database, "default-profiles-flat") == "ok"
    engine = Engine(database)
    found = retrieve(engine, str(archive.slide_ids[0]), to="slides", k=3)
    assert any("slides have changed" in note for note in found.notes)
    assert "NEW" in found.hits["slide_id"].to_pylist()
    build_indexes(engine, load_recipe("flat"))
    assert state(database) == "ok"
    again = retrieve(engine, str(archive.slide_ids[0]), to="slides", k=3)
    assert again.hits["slide_id"].to_pylist() == found.hits["slide_id"].to_pylist()
    assert again.provenance.index == "default-slides-flat"


def test_a_replaced_space_makes_an_index_stale(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)

    def change(manifest: dict[str, dict[str, dict[str, str]]]) -> None:
        manifest["spaces"][DEFAULT_SPACE]["space_id"] = "0" * 64

    database.update_manifest(change)
    assert state(database) == "it was built for a space that has been replaced"
    index.remove_stale(database, {"0" * 64})
    assert index_states(database, checksums=True) == []
    assert not list((aligned_copy / "indexes").glob("*.faiss"))


def test_exact_indexes_are_preferred(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    build_indexes(Engine(database), load_recipe("ivf"))
    assert len(index_states(database, checksums=False)) == 4
    assert index.load_current(database, DEFAULT_SPACE, SLIDES).key == "default-slides-flat"
    next((aligned_copy / "indexes").glob("default-slides-flat-*")).unlink()
    assert index.load_current(database, DEFAULT_SPACE, SLIDES).key == "default-slides-ivf"
    assert index.load_current(database, DEFAULT_SPACE, PROFILES).key == "default-profiles-flat"


def test_the_manifest_describes_an_index(aligned: Path) -> None:
    entry = json.loads((aligned / "manifest.json").read_text())["indexes"]["default-slides-flat"]
    assert entry["rows"] == Database.open(aligned).count(SLIDES)
    assert entry["factory"] == "Flat"
    assert len(entry["sha256"]) == len(entry["space_id"]) == 64


# Recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_are_read(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.when
    assert recipe.description


def test_lists_never_outnumber_what_can_be_trained() -> None:
    recipe = Recipe("r", "IVF{nlist},Flat")
    assert [recipe.n_lists(n) for n in (1, 39, 390, 10_000, 1_000_000)] == [1, 1, 10, 256, 4000]
    assert recipe.factory_for(390) == "IVF10,Flat"


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nfactory = "IVF{nlist},Flat"\n[search]\nprobe_fraction = 0.5\n')
    assert load_recipe(str(path)) == Recipe("mine", "IVF{nlist},Flat", probe_fraction=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "a"\nfactory = "Flat"\nmetric = "l2"\n', "unknown keys metric"),
        ('name = "a"\nfactory = "Flat"\n[search]\nnprobe = 3\n', "unknown keys search.nprobe"),
        ('name = "a"\n', "no factory"),
        ('factory = "Flat"\n', "no name"),
        ('name = "a"\nfactory = "Flat"\n[search]\nprobe_fraction = 0\n', "must lie in"),
        ("name = ", "not valid TOML"),
        ("\x00\x01\x02", "not valid TOML"),
    ],
)
def test_ill_described_recipes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(IndexFileError, match=said):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "text",
    [
        'name = "a"\nfactory = "Flat"\nsearch = 3\n',
        'name = "a"\nfactory = "Flat"\n[search]\nprobe_fraction = "many"\n',
        'name = "a"\nfactory = "IVF{lists},Flat"\n',
        'name = "a"\nfactory = "IVF{nlist"\n',
        'name = "../../x"\nfactory = "Flat"\n',
    ],
)
def test_recipes_with_wrong_values_are_refused(
    aligned_copy: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(IndexFileError):
        build_indexes(Engine(Database.open(aligned_copy)), load_recipe(str(path)))


def test_an_unknown_recipe_lists_the_known(aligned_copy: Path) -> None:
    with pytest.raises(IndexFileError, match=r"one of flat.*ivf"):
        load_recipe("hsnw")
    recipe = Recipe("odd", "NoSuchIndex77")
    with pytest.raises(IndexFileError, match="factory string"):
        build_indexes(Engine(Database.open(aligned_copy)), recipe)
