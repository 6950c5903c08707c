"""Figures: what is drawn is the data; what cannot be drawn is refused."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba
from PIL import Image

from molquery.associate import kaplan_meier as curves_of
from molquery.errors import FileFormatError, InputError, OutputError
from molquery.figures import style
from molquery.figures.scores import ranked_scores, scores_by_group
from molquery.figures.signatures import signature_heatmap, spectrum
from molquery.figures.space import plane, space_map
from molquery.figures.survival import kaplan_meier
from molquery.figures.tissue import tissue_map

ORDER = ("low", "mid", "high")
COLOURS = style.strata_colours(ORDER)
HOSTILE = "$x^{2 <script>&\x1b[31m\u202e"


def texts(figure):
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def collection(axes, kind):
    return next(c for c in axes.collections if type(c).__name__ == kind)


def cohort(n=60, seed=0):
    """Scores of two groups, with strata cut at -0.5 and 0.5 in one and at 0 and 1 in the other."""
    rng = np.random.default_rng(seed)
    groups = np.where(np.arange(n) % 3 == 0, "A", "B")
    scores = rng.normal(size=n)
    cuts = {"A": (-0.5, 0.5), "B": (0.0, 1.0)}
    strata = np.array(
        [ORDER[np.searchsorted(cuts[g], s)] for g, s in zip(groups, scores, strict=True)]
    )
    return scores, groups, strata, cuts


# Ranked scores ----------------------------------------------------------------------------------


def test_a_ranking_shows_every_score_its_stratum_its_interval_and_the_cut_points():
    scores, _, _, _ = cohort()
    strata = np.array(ORDER)[np.searchsorted((-0.4, 0.6), scores)]
    low, high = scores - 0.3, scores + 0.7
    figure = ranked_scores(
        scores, strata, {"all": (-0.4, 0.6)}, order=ORDER, name="Immune", low=low, high=high
    )
    (axes,) = figure.axes
    order = np.argsort(-scores)
    drawn = collection(axes, "PathCollection")
    np.testing.assert_array_equal(drawn.get_offsets()[:, 0], np.arange(1, 61))
    np.testing.assert_array_equal(drawn.get_offsets()[:, 1], scores[order])
    assert [to_hex(c).upper() for c in drawn.get_facecolors()] == [
        COLOURS[s].upper() for s in strata[order]
    ]
    bars = collection(axes, "LineCollection").get_segments()
    np.testing.assert_allclose([b[0, 1] for b in bars], low[order])
    np.testing.assert_allclose([b[1, 1] for b in bars], high[order])
    assert [line.get_ydata()[0] for line in axes.lines] == [-0.4, 0.6]
    shown = texts(figure)
    assert {"-0.400", "0.600", "Immune"} <= set(shown)
    for label in ORDER:
        assert f"{label} ({(strata == label).sum()})" in shown
    assert "90 % interval" in shown


def test_cut_points_of_each_group_stand_in_its_own_panel():
    scores, groups, strata, cuts = cohort()
    figure = ranked_scores(scores, strata, cuts, order=ORDER, name="Immune", groups=groups)
    assert [a.get_title(loc="left") for a in figure.axes] == ["A, n = 20", "B, n = 40"]
    for axes, key in zip(figure.axes, "AB", strict=True):
        assert [line.get_ydata()[0] for line in axes.lines] == list(cuts[key])
        drawn = collection(axes, "PathCollection").get_offsets()
        np.testing.assert_array_equal(np.sort(drawn[:, 1]), np.sort(scores[groups == key]))
    many = np.array([f"cohort {i:02d}" for i in np.arange(90) % 15])
    figure = ranked_scores(
        np.arange(90.0), np.full(90, "low"), {g: (1.0,) for g in many}, order=("low", "high"),
        name="x", groups=many,
    )  # fmt: skip
    assert len([a for a in figure.axes if a.get_visible()]) == 12
    assert "the 12 largest of 15" in figure.get_suptitle()


def test_a_long_ranking_keeps_its_shape_in_a_small_file():
    n = 100_000
    scores = np.random.default_rng(1).normal(size=n)
    strata = np.where(scores > 0.2, "high", "low")
    half = np.full(n, 0.5)
    figure = ranked_scores(
        scores, strata, {"all": (0.2,)}, order=("low", "high"), name="x",
        low=scores - half, high=scores + half,
    )  # fmt: skip
    points = collection(figure.axes[0], "PathCollection").get_offsets()
    assert len(points) <= 20_000
    ordered = -np.sort(-scores)
    np.testing.assert_array_equal(points[:, 1], ordered[points[:, 0].astype(int) - 1])
    assert len(style.svg(figure)) < 300_000
    assert f"high ({(strata == 'high').sum()})" in texts(figure)  # all are counted


# Scores by group --------------------------------------------------------------------------------


def test_every_score_stands_in_the_row_of_its_group():
    scores, groups, strata, _ = cohort()
    figure = scores_by_group(scores, groups, strata, order=ORDER, name="Immune")
    (axes,) = figure.axes
    medians = {g: np.median(scores[groups == g]) for g in "AB"}
    rows = sorted("AB", key=lambda g: -medians[g])
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels == [f"{g}\nn = {(groups == g).sum()}" for g in rows]
    clouds = [c for c in axes.collections if type(c).__name__ == "PathCollection"]
    for row, (group, cloud) in enumerate(zip(rows, clouds, strict=True)):
        mine = groups == group
        np.testing.assert_array_equal(cloud.get_offsets()[:, 0], scores[mine])
        assert (np.abs(cloud.get_offsets()[:, 1] - row) <= 0.38).all()
        assert [to_hex(c).upper() for c in cloud.get_facecolors()] == [
            COLOURS[s].upper() for s in strata[mine]
        ]
        bar, tick = axes.lines[2 * row], axes.lines[2 * row + 1]
        np.testing.assert_allclose(bar.get_xdata(), np.quantile(scores[mine], [0.25, 0.75]))
        assert tick.get_xdata()[0] == pytest.approx(medians[group])
    fixed = scores_by_group(
        scores, strata, strata, order=ORDER, group_order=ORDER, name="Immune"
    ).axes[0]
    assert [t.get_text().split("\n")[0] for t in fixed.get_yticklabels()] == list(ORDER)


def test_a_group_of_one_and_equal_scores_are_drawn():
    figure = scores_by_group(
        np.array([1.0, 2.0, 2.0, 2.0]), np.array(["", "b", "b", "b"]), np.full(4, "low"),
        order=("low",), name="x",
    )  # fmt: skip
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["b\nn = 3", "none given\nn = 1"]
    style.svg(figure)


# Survival ---------------------------------------------------------------------------------------


def followed(n=80, seed=3):
    rng = np.random.default_rng(seed)
    time = np.ceil(rng.exponential(900, n))
    event = rng.random(n) < 0.6
    strata = np.array(["low", "high"])[rng.integers(0, 2, n)]
    return time, event, strata


def test_survival_curves_and_the_numbers_at_risk_are_those_of_the_data():
    time, event, strata = followed()
    order = ("low", "high")
    figure = kaplan_meier(
        curves_of(time, event, strata, order), order=order, name="x", unit="days",
        outcome="overall survival",
    )  # fmt: skip
    axes, table = figure.axes
    assert axes.get_ylabel() == "overall survival"
    assert axes.get_xlabel() == "time (years)"
    years = 365.25
    steps = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    for label, line in zip(order, steps, strict=True):
        assert to_hex(line.get_color()).upper() == COLOURS[label].upper()
        # The product-limit estimate, by hand.
        t, e = time[strata == label], event[strata == label]
        estimate = {}
        level = 1.0
        for moment in np.unique(t):
            level *= 1 - (e & (t == moment)).sum() / (t >= moment).sum()
            estimate[moment] = level
        for x, y in zip(line.get_xdata()[1:], line.get_ydata()[1:], strict=True):
            nearest = min(estimate, key=lambda m, x=x: abs(m / years - x))
            assert y == pytest.approx(estimate[nearest])
        assert line.get_label().startswith(f"{label}: {len(t)}, events {e.sum()}")
    ticks = axes.get_xticks()
    counts = [t.get_text() for t in table.texts if t.get_text().isdigit()]
    expected = [
        str((time[strata == label] >= tick * years).sum()) for label in order for tick in ticks
    ]
    assert counts == expected
    # 2 % of 80 rows are 1.6: the axis ends at the second to last time.
    assert axes.get_xlim()[1] == pytest.approx(np.sort(time)[-2] / years)


def test_short_or_unknown_units_stay_as_they_are():
    time, event, strata = followed()
    for unit, told in (("days", "time (days)"), ("", "time")):
        curves = curves_of(time / 10, event, strata, ("low", "high"))
        figure = kaplan_meier(curves, order=("low", "high"), name="x", unit=unit)
        assert figure.axes[0].get_xlabel() == told
    with pytest.raises(InputError, match="at least one stratum"):
        kaplan_meier([], order=("low", "high"), name="x")


# Spectrum and heat map --------------------------------------------------------------------------


def test_the_spectrum_is_ordered_and_marks_the_signature():
    names = [f"SET_{i}" for i in range(8)]
    values = np.array([0.1, 0.7, 0.3, np.nan, 0.5, 0.2, 0.6, 0.4])
    figure = spectrum(names, values, name="MINE", value=0.45, floor=0.2)
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [0.7, 0.6, 0.5, 0.45, 0.4, 0.3, 0.2, 0.1]
    marked = [to_hex(b.get_facecolor()).upper() == style.CATEGORIES[1] for b in axes.patches]
    assert np.flatnonzero(marked).tolist() == [3]
    assert "MINE\n0.45, place 4 of 8" in texts(figure)
    assert axes.lines[0].get_ydata()[0] == 0.2
    # A set of the spectrum is marked where it stands, and not drawn twice.
    again = spectrum(names, values, name="SET_6", value=0.6, floor=0.2).axes[0]
    assert [bar.get_height() for bar in again.patches] == [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert "SET 6\n0.60, place 2 of 7" in texts(again.figure)


def test_a_heat_map_colours_and_writes_its_values():
    values = np.array([[1.0, -1.0], [0.25, np.nan]])
    figure = signature_heatmap(values, ["HALLMARK_A_B", "C"], ["low", "high"], name="x",
                               counts=[5, 7])  # fmt: skip
    axes = figure.axes[0]
    image = axes.images[0]
    np.testing.assert_array_equal(np.asarray(image.get_array().filled(np.nan)), values)
    assert image.get_clim() == (-1.0, 1.0)
    assert [t.get_text() for t in axes.texts] == ["+1.00", "-1.00", "+0.25"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A B", "C"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["low\nn = 5", "high\nn = 7"]
    with pytest.raises(InputError, match="a row per signature"):
        signature_heatmap(values, ["A"], ["low", "high"], name="x")


# The shared space -------------------------------------------------------------------------------


def test_the_plane_is_that_of_the_largest_variance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 10)) * np.array([5, 3, *[0.1] * 8])
    points, shares = plane(vectors)
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(points.std(axis=0) * np.sqrt(200), values[:2])
    np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum())
    np.testing.assert_allclose(points, plane(vectors.copy())[0])
    with pytest.raises(InputError, match="at least three points"):
        plane(vectors[:2])


def test_a_map_colours_numbers_and_categories():
    points = np.random.default_rng(0).normal(size=(30, 2))
    score = np.where(np.arange(30) < 20, np.arange(30.0), np.nan)
    kind = np.where(np.arange(30) < 20, "slide", "RNA")
    figure = space_map(points, {"score": score, "modality": kind}, name="x",
                       shares=np.array([0.5, 0.25]))  # fmt: skip
    left, right = figure.axes[:2]
    pale, coloured = (c for c in left.collections if type(c).__name__ == "PathCollection")
    np.testing.assert_array_equal(pale.get_offsets(), points[20:])
    np.testing.assert_array_equal(coloured.get_offsets(), points[:20])
    np.testing.assert_array_equal(coloured.get_array(), score[:20])
    assert "component 1 (50 % of variance)" in texts(figure)
    drawn = right.collections[0]
    key = right.get_legend()
    legend = {
        t.get_text(): to_hex(h.get_color())
        for t, h in zip(key.get_texts(), key.legend_handles, strict=True)
    }
    assert set(legend) == {"RNA", "slide"}
    shown = zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True)
    of_point = {tuple(p): to_hex(c) for p, c in shown}
    for point, category in zip(points, kind, strict=True):
        assert of_point[tuple(point)] == legend[category]


def test_many_categories_fold_into_other():
    points = np.random.default_rng(0).normal(size=(60, 2))
    names = np.array([f"c{i:02d}" for i in np.arange(60) % 12])
    legend = space_map(points, {"cohort": names}, name="x").axes[0].get_legend()
    labels = [t.get_text() for t in legend.get_texts()]
    assert len(labels) == 8
    assert labels[-1] == "other (5)"
    with pytest.raises(InputError, match="one colour for every point"):
        space_map(points, {"cohort": names[1:]}, name="x")


def test_a_hundred_thousand_points_make_a_small_file():
    points = np.random.default_rng(0).normal(size=(100_000, 2))
    figure = space_map(points, {"score": points[:, 0]}, name="x")
    assert len(style.svg(figure)) < 700_000


# Tissue -----------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "tissue.jpg"
    Image.new("RGB", (400, 300), (230, 180, 210)).save(path)
    return path


def spots(n: int = 5):
    x, y = (a.ravel().astype(float) for a in np.meshgrid(np.arange(n), np.arange(n)))
    return 60 + 50 * x, 40 + 50 * y, x / n, y / n


def draw(image: Path, x, y, predicted, measured, **more):
    settings = {"title": "r = 0.12", "unit": "score", "um_per_pixel": 4.0, **more}
    return tissue_map(image, x, y, predicted, measured, **settings)


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
    # Discs are 0.8 of the distance between neighbours; the view ends 1.5 of it beyond them.
    assert left.collections[0].get_widths()[0] == pytest.approx(40)
    assert left.get_xlim() == pytest.approx((0, 336))
    # The bar is the longest of 1, 2, 5 … that a quarter of the view holds: 84 pixels are 336 um.
    assert np.ptp(left.lines[0].get_xdata()) == pytest.approx(200 / 4)
    assert "200 µm" in texts(figure)

    path = tmp_path / "map.png"
    style.save(figure, path)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert saved.size == tuple(round(s * style.DPI) for s in figure.get_size_inches())
        assert np.asarray(saved.convert("L")).std() > 10
    with pytest.raises(OutputError, match="exists already"):
        style.save(figure, path, overwrite=False)


def test_without_rna_there_is_one_panel_and_without_a_pixel_size_no_bar(image):
    x, y, predicted, _ = spots()
    figure = draw(image, x, y, predicted, None, um_per_pixel=None)
    assert [a.get_title() for a in figure.axes[:-1]] == ["Predicted from H&E"]
    assert len(figure.axes[0].lines) == 0


def test_the_image_lies_under_its_own_regions(tmp_path):
    """A mark in the image stays at its place when a large image is cropped and shrunk."""
    pixels = np.full((4000, 6000), 255, np.uint8)
    pixels[1900:2100, 2900:3100] = 0
    Image.fromarray(pixels).save(tmp_path / "large.png")
    x, y = (a.ravel() for a in np.meshgrid([2000.0, 3000.0, 4000.0], [1500.0, 2000.0, 2500.0]))
    figure = draw(tmp_path / "large.png", x, y, x / 1000, y / 1000)
    shown = figure.axes[0].images[0]
    left, right, bottom, top = shown.get_extent()
    values = np.asarray(shown.get_array())[:, :, 0]
    rows, columns = np.nonzero(values < 0.5)
    at_x = left + (columns.mean() + 0.5) / values.shape[1] * (right - left)
    at_y = top + (rows.mean() + 0.5) / values.shape[0] * (bottom - top)
    assert (at_x, at_y) == (pytest.approx(3000, abs=4), pytest.approx(2000, abs=4))


def test_missing_scores_leave_their_spots_out(image):
    x, y, predicted, measured = spots()
    predicted[:3] = np.nan
    figure = draw(image, x, y, predicted, measured)
    assert len(figure.axes[0].collections[0].get_offsets()) == 22
    assert len(figure.axes[1].collections[0].get_offsets()) == 25


# Files ------------------------------------------------------------------------------------------


def test_what_cannot_be_drawn_is_an_error(image, tmp_path):
    x, y, predicted, measured = spots()
    with pytest.raises(InputError, match="differ in length"):
        draw(image, x, y, predicted[1:], measured)
    with pytest.raises(InputError, match="needs scores"):
        draw(image, x, y, predicted * np.nan, measured)
    with pytest.raises(InputError, match="25 of 25 regions lie outside"):
        draw(image, x + 1000, y, predicted, measured)
    damaged = tmp_path / "no.jpg"
    damaged.write_text("text")
    with pytest.raises(FileFormatError, match="cannot be read as an image"):
        draw(damaged, x, y, predicted, measured)
    with pytest.raises(FileFormatError, match="there is no image"):
        draw(tmp_path / "absent.jpg", x, y, predicted, measured)
    empty = np.array([])
    with pytest.raises(InputError, match="at least one value"):
        ranked_scores(empty, empty.astype(str), {"all": (0.0,)}, order=ORDER, name="x")
    with pytest.raises(InputError, match="2 scores, 1 strata"):
        ranked_scores(np.zeros(2), np.array(["low"]), {"all": (0.0,)}, order=ORDER, name="x")


def test_the_same_figure_is_the_same_file_in_every_format(image, tmp_path):
    for kind in style.FORMATS:
        paths = [tmp_path / f"{n}.{kind}" for n in (1, 2)]
        for path in paths:
            style.save(draw(image, *spots()), path)
        assert paths[0].read_bytes() == paths[1].read_bytes(), kind
    assert style.svg(draw(image, *spots())).startswith("<svg")
    with pytest.raises(InputError, match="not a name for a figure"):
        style.save(draw(image, *spots()), tmp_path / "map.gif")


def test_names_are_text_whatever_they_hold(tmp_path):
    scores, _, _, _ = cohort(12)
    names = np.where(scores > 0, HOSTILE, "$")
    figure = scores_by_group(scores, names, names, order=("$", HOSTILE), name=HOSTILE)
    svg = style.svg(figure)
    root = ElementTree.fromstring(svg)
    words = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    assert sum("$x^{2 <script>&\\x1b[31m" in w for w in words) >= 3
    assert "\x1b" not in svg
    assert "\u202e" not in svg
    for kind in style.FORMATS:
        style.save(figure, tmp_path / f"hostile.{kind}")


def test_svg_for_a_page_needs_nothing_from_outside(image):
    svg = style.svg(draw(image, *spots()))
    root = ElementTree.fromstring(svg)
    fonts = set(re.findall(r"font(?:-family)?: ([^;\"]+)", svg))
    assert fonts
    assert all(font.endswith("sans-serif") for font in fonts), fonts
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.endswith("href"):
                assert value.startswith(("#", "data:image/png;base64,"))
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert not [i for i in ids if re.fullmatch(r"\w+_\d+", i)], "an id that another figure has too"
    assert "<metadata" not in svg


def test_strata_colours_are_told_apart():
    assert COLOURS["low"] != COLOURS["high"]
    five = style.strata_colours([f"q{i}" for i in range(1, 6)])
    assert len(set(five.values())) == 5
    # Even steps of lightness: they stay apart in grey.
    light = [np.dot(to_rgba(c)[:3], [0.2126, 0.7152, 0.0722]) for c in five.values()]
    assert all(b - a > 0.04 for a, b in pairwise(light))
    quadrants = style.strata_colours(["immune", "fibrotic", "both", "desert", "other", "uncertain"])
    assert len(set(quadrants.values())) == 6
    assert style.strata_colours(["low", "uncertain"])["low"] == COLOURS["low"]
