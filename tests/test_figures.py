"""Figures: they show the data, at the size that was asked for, and refuse what they cannot show."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from molquery.errors import FileFormatError, InputError, OutputError
from molquery.figures import style
from molquery.figures.tissue import tissue_map


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "tissue.jpg"
    Image.new("RGB", (400, 300), (230, 180, 210)).save(path)
    return path


def spots(n: int = 5):
    x, y = (a.ravel().astype(float) for a in np.meshgrid(np.arange(n), np.arange(n)))
    return 60 + 50 * x, 40 + 50 * y, x / n, y / n


def draw(image: Path, x, y, predicted, measured):
    return tissue_map(
        image, x, y, predicted, measured, title="r = 0.12", label="score",
        um_per_pixel=4.0, pitch_um=200.0,
    )  # fmt: skip


def test_a_tissue_map_shows_both_scores_in_one_colour_scale(image, tmp_path):
    figure = draw(image, *spots())
    left, right, bar = figure.axes
    assert [left.get_title(), right.get_title()] == ["Predicted from H&E", "Measured RNA"]
    assert bar.get_ylabel() == "score"
    assert figure.get_suptitle() == "r = 0.12"
    colours = [axes.collections[0].get_facecolors() for axes in (left, right)]
    by_x = colours[0].reshape(5, 5, 4)
    np.testing.assert_array_equal(by_x, colours[1].reshape(5, 5, 4).transpose(1, 0, 2))
    assert len(np.unique(colours[0], axis=0)) == 5
    # 1 mm is 250 pixels of 4 um.
    assert np.ptp(left.lines[0].get_xdata()) == pytest.approx(250)

    path = tmp_path / "map.png"
    style.save(figure, path)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert saved.size == tuple(round(s * style.DPI) for s in figure.get_size_inches())
        assert np.asarray(saved.convert("L")).std() > 10
    with pytest.raises(OutputError, match="exists already"):
        style.save(figure, path, overwrite=False)


def test_missing_scores_leave_their_spots_out(image):
    x, y, predicted, measured = spots()
    predicted[:3] = np.nan
    figure = draw(image, x, y, predicted, measured)
    assert len(figure.axes[0].collections[0].get_offsets()) == 22
    assert len(figure.axes[1].collections[0].get_offsets()) == 25


def test_what_cannot_be_drawn_is_an_error(image, tmp_path):
    x, y, predicted, measured = spots()
    with pytest.raises(InputError, match="one position and two scores"):
        draw(image, x, y, predicted[1:], measured)
    with pytest.raises(InputError, match="needs scores"):
        draw(image, x, y, predicted * np.nan, measured)
    damaged = tmp_path / "no.jpg"
    damaged.write_text("text")
    with pytest.raises(FileFormatError, match="cannot be read as an image"):
        draw(damaged, x, y, predicted, measured)


def test_the_same_figure_is_the_same_file_in_every_format(image, tmp_path):
    for kind in style.FORMATS:
        paths = [tmp_path / f"{n}.{kind}" for n in (1, 2)]
        for path in paths:
            style.save(draw(image, *spots()), path)
        assert paths[0].read_bytes() == paths[1].read_bytes(), kind
    assert style.svg(draw(image, *spots())).startswith("<svg")
    with pytest.raises(InputError, match="not a name for a figure"):
        style.save(draw(image, *spots()), tmp_path / "map.gif")
