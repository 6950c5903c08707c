"""Heat maps of regions: the right scores at the right places, and clear words without them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from PIL import Image

from molquery.database import Database
from molquery.errors import ColumnError, InputError
from molquery.genesets.collections import find
from molquery.images import grey
from molquery.ingest import ingest_metadata
from molquery.query.engine import Engine
from molquery.query.regions import regions
from molquery.query.search import search

SET = "HALLMARK_E2F_TARGETS"
SCALE, UM = 0.5, 0.25


@pytest.fixture(scope="module")
def section(aligned: Path, archive, tmp_path_factory) -> dict[str, Path]:
    """The toy archive with its slides as regions of four tissue sections, and their image.

    own: regions of patients with one region each; shared: both regions of some patients; none:
    regions without RNA; bare: regions without coordinates.
    """
    folder = tmp_path_factory.mktemp("regions")
    path = Path(shutil.copytree(aligned, folder / "regions.mq"))
    patient = archive.slide_patient
    several = np.bincount(patient)[patient] > 1
    with_rna = np.isin(patient, archive.profile_patient)
    names = np.where(with_rna, np.where(several, "shared", "own"), "none").astype(object)
    names[np.flatnonzero(names == "own")[:3]] = "bare"
    spot = np.arange(len(patient))
    columns = {
        "slide_id": archive.slide_ids,
        "slide": names.astype(str),
        "pixel_x": pa.array(
            100.0 + 40 * (spot % 20), mask=(names == "bare") | (spot == np.argmax(names == "own"))
        ),
        "pixel_y": 100.0 + 40 * (spot // 20),
    }
    pyarrow.csv.write_csv(pa.table(columns), folder / "places.csv")
    ingest_metadata(Database.open(path), [folder / "places.csv"], on="slide_id")
    pixels = np.full((400, 500), 235, np.uint8)
    pixels[20:380, 20:480] = 120  # tissue under every region, at half of the coordinates' scale
    Image.fromarray(pixels).save(folder / "tissue.png")
    return {"db": path, "image": folder / "tissue.png", "folder": folder}


@pytest.fixture(scope="module")
def engine(section) -> Engine:
    return Engine(Database.open(section["db"]))


def painted(engine: Engine, section: dict[str, Path], slide: str, **options):
    settings = {"image": section["image"], "image_scale": SCALE, "um_per_pixel": UM, **options}
    return regions(engine, find(SET), slide, **settings)


def test_regions_have_their_own_scores_at_their_own_places(engine, section, archive):
    found = painted(engine, section, "own")
    ranking = search(engine, find(SET), k=len(engine.slide_ids), null=0).hits
    score = dict(zip(ranking["slide_id"].to_pylist(), ranking["score"].to_pylist(), strict=True))
    np.testing.assert_allclose(found.predicted, [score[i] for i in found.ids])
    spot = np.searchsorted(archive.slide_ids, found.ids)
    np.testing.assert_allclose(found.x, SCALE * (100 + 40 * (spot % 20)))
    np.testing.assert_allclose(found.y, SCALE * (100 + 40 * (spot // 20)))
    # Measured: the mean z over the reference of the set's genes, by hand.
    genes = [archive.genes.index(g) for g in find(SET).genes if g in archive.genes]
    x = archive.expression[:, genes].astype(float)
    z = ((x - x.mean(axis=0)) / x.std(axis=0)).mean(axis=1)
    row = {int(p): j for j, p in enumerate(archive.profile_patient)}
    truth = np.array([z[row[int(p)]] for p in archive.slide_patient[spot]])
    np.testing.assert_allclose(found.measured, truth, atol=1e-5)
    assert found.n_measured == len(found.ids) > 50
    assert found.r == pytest.approx(np.corrcoef(found.predicted, truth)[0, 1])
    assert found.r > 0.5
    assert found.um_per_pixel == pytest.approx(UM / SCALE)
    assert found.title.endswith(f"own: r = {found.r:.2f} over {len(found.ids)} regions")
    assert any("1 of" in note and "no coordinates" in note for note in found.notes)


def test_rna_of_a_patient_is_not_the_rna_of_a_region(engine, section):
    shared = painted(engine, section, "shared")
    assert shared.measured is None
    assert any("not of single regions" in note for note in shared.notes)
    none = painted(engine, section, "none")
    assert none.measured is None
    assert none.n_measured == 0
    assert none.r is None


def test_what_is_missing_is_said(engine, section, tmp_path):
    with pytest.raises(InputError, match="no region is of a slide called 'shard'") as caught:
        painted(engine, section, "shard")
    assert caught.value.hint == "--slide shared"
    with pytest.raises(InputError, match="no region of bare has coordinates"):
        painted(engine, section, "bare")
    with pytest.raises(InputError, match="which image shows own"):
        painted(engine, section, "own", image=None)
    with pytest.raises(ColumnError, match="no column z"):
        painted(engine, section, "own", columns={"x": "z"})
    with pytest.raises(ColumnError, match="cohort holds no coordinates"):
        painted(engine, section, "own", columns={"x": "cohort"})
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="must be a number above 0"):
            painted(engine, section, "own", um_per_pixel=value)
    unscaled = painted(engine, section, "own", um_per_pixel=None)
    assert unscaled.um_per_pixel is None
    assert any("--um-per-pixel" in note for note in unscaled.notes)
    dark = tmp_path / "elsewhere.png"
    pixels = np.full((400, 500), 235, np.uint8)
    pixels[:, :160] = 120
    Image.fromarray(pixels).save(dark)
    note = next(n for n in painted(engine, section, "own", image=dark).notes if "blank" in n)
    share = float(note.split(" %")[0])
    found = painted(engine, section, "own")
    assert share == pytest.approx(100 * (found.x > 160).mean(), abs=0.5)
    assert not any("blank" in n for n in found.notes)


def test_a_database_of_whole_slides_has_no_heat_map(aligned, section):
    with pytest.raises(ColumnError, match="holds no regions") as caught:
        regions(Engine(Database.open(aligned)), find(SET), "A", image=section["image"])
    assert "ingest metadata" in caught.value.hint


def test_an_image_may_be_named_by_the_metadata(section, tmp_path):
    path = Path(shutil.copytree(section["db"], tmp_path / "named.mq"))
    told = {"slide": ["own"], "image": [str(section["image"])], "image_scale": [0.5],
            "um_per_pixel": [0.25]}  # fmt: skip
    pyarrow.csv.write_csv(pa.table(told), tmp_path / "images.csv")
    ingest_metadata(Database.open(path), [tmp_path / "images.csv"], on="slide")
    found = regions(Engine(Database.open(path)), find(SET), "own")
    assert found.image == section["image"]
    assert found.um_per_pixel == pytest.approx(0.5)


def test_the_command_paints_and_does_not_replace(cli, section, tmp_path, unchanged):
    unchanged(section["db"])
    output = tmp_path / "map.png"
    words = ["--db", section["db"], "heatmap", "--slide", "own", "--geneset", SET, "--image",
             section["image"], "--image-scale", SCALE, "--um-per-pixel", UM, "-o"]  # fmt: skip
    done = cli(*words, output)
    assert done.code == 0, done.err
    assert done.out == ""
    assert "with measured RNA, r = 0." in done.err
    with Image.open(output) as image:
        assert np.asarray(image.convert("RGB")).std() > 20
    before = output.read_bytes()
    again = cli(*words, output)
    assert again.code == 1
    assert "exists already" in again.err
    assert output.read_bytes() == before
    assert cli(*words, output, "--overwrite").code == 0
    for wrong, said in (("map.gif", "not a name for a figure"), ("no/map.png", "cannot write")):
        done = cli(*words, tmp_path / wrong)
        assert done.code == 1
        assert said in done.err
    scale = words.index("--image-scale")
    done = cli(*words[:scale], *words[scale + 2 :], tmp_path / "out.png")
    assert done.code == 1
    assert "outside of the image" in done.err
    assert "--image-scale" in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.png"]


def test_a_part_of_an_image_is_where_it_was(tmp_path):
    pixels = np.zeros((3000, 4000), np.uint8)
    pixels[1000:1500, 2000:2600] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    whole = grey(tmp_path / "large.png")
    assert whole.values.shape == (1200, 1600)
    assert whole.size == (4000, 3000)
    part = grey(tmp_path / "large.png", (2000.0, 1000.0, 2599.0, 1499.0))
    assert part.values.shape == (500, 600)
    assert part.values.min() == 1.0
    assert (part.left, part.top, part.right, part.bottom) == (2000, 1000, 2600, 1500)
    x, y = np.array([2300.0, 100.0, 2500.0, 3900.0]), np.array([1200.0, 100.0, 1400.0, 2900.0])
    assert whole.blank(x, y) == 0.5
