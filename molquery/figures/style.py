"""What all figures share: colours, type sizes, and how they are written."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from molquery.errors import InputError, printable
from molquery.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Even in lightness, and the same order for colour-blind eyes and in grey print.
COLOURS = "viridis"
#: From blue over white to red, for values around zero; both ends are told apart in every eye.
DIVERGING = "RdBu_r"
#: Eight colours that colour-blind eyes can tell apart (Okabe and Ito, 2008).
CATEGORIES = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000",
)  # fmt: skip
INK, SOFT, FAINT = "#1B1B1B", "#595959", "#BDBDBD"
DPI = 150
#: Inches, 16:9 as slides are; type sizes in points that are read from the back of a room.
WIDTH, HEIGHT = 10.0, 5.6
TITLE, TEXT, SMALL = 14, 11, 9.5
FORMATS = ("png", "svg", "pdf")
#: More marks than this become pixels inside an SVG or PDF, so that files stay small.
DENSE = 1500
#: The font whose widths the layout is made with, one of the same widths, and whatever there is.
FONTS = ("DejaVu Sans", "Verdana", "sans-serif")

#: Strata that have a colour of their own; all others take turns.
_STRATA = {"low": CATEGORIES[0], "mid": CATEGORIES[6], "high": CATEGORIES[1], "uncertain": FAINT}
_LABEL = 48  # characters of a name that a figure shows
_IDS = re.compile(r'(?<=<g) id="[^"]*"| id="image[0-9a-f]+"')  # nothing refers to these
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_PATH, _DECIMALS = re.compile(r' d="[^"]*"'), re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Drawing:
    """A figure, what it is of (a signature or a cohort), and its caption."""

    of: str
    figure: Figure
    caption: str


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """An empty figure of `width` x `height` inches, readable when it fills a slide.

    It draws with Agg and leaves pyplot and its global state alone.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def label(text: object, limit: int = _LABEL) -> str:
    """A name from a user's data as a figure may show it: no control characters, not too long."""
    return printable(str(text), limit)


def strata_colours(strata: Iterable[str]) -> dict[str, str]:
    """A colour for every stratum, in order: low blue, high red, uncertain pale, others as they
    come; quantile strata (q1, q2 …) go from blue over green to yellow."""
    names = list(dict.fromkeys(strata))
    steps = [n for n in names if re.fullmatch(r"q\d+", n)]
    if steps:
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        scale = colormaps[COLOURS]
        own = {n: to_hex(scale(0.9 * i / max(1, len(steps) - 1))) for i, n in enumerate(steps)}
    else:
        own = {}
    known = {**_STRATA, **own}
    free = [c for c in CATEGORIES if c not in [known[n] for n in names if n in known]]
    others = [n for n in names if n not in known]
    turns = {n: free[i % len(free)] for i, n in enumerate(others)}
    return {n: known.get(n) or turns[n] for n in names}


def plain_axes(axes: Axes, *, grid: Literal["", "x", "y"] = "") -> None:
    """Leave the lines that carry data: no box, and grid lines only along `grid`."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=SMALL)
    if grid:
        axes.grid(axis=grid, color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)


def title(figure: Figure, text: str, below: str = "") -> None:
    """The title of a figure, left, and a softer line below it."""
    figure.suptitle(
        label(text, 100) + (f"\n{label(below, 140)}" if below else ""),
        x=0.01, ha="left", fontsize=TITLE if not below else TEXT + 1, color=INK,
    )  # fmt: skip


def same_length(what: str, **arrays: Sequence[Any] | np.ndarray[Any, Any] | None) -> None:
    """Check that arrays go together and that there is something in them.

    Raises:
        InputError: they differ in length, or are empty.
    """
    sizes = {name: len(values) for name, values in arrays.items() if values is not None}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{n} {name}" for name, n in sizes.items())
        raise InputError(f"the arrays of {what} differ in length", found=found)
    if not all(sizes.values()):
        raise InputError(f"{what} needs at least one value")


def save(figure: Figure, path: Path, *, overwrite: bool = True) -> None:
    """Write a figure as PNG, SVG or PDF, as the name of `path` says, whole or not at all.

    The same figure is the same file: no date and no version of the software is in it.

    Raises:
        InputError: the suffix is of none of these formats.
        OutputError: the file exists and `overwrite` is false, or it cannot be written.
    """
    kind = file_kind(path)
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(_bytes(figure, kind))


def file_kind(path: Path) -> str:
    """The format that the name of a figure's file stands for.

    Raises:
        InputError: it is none of `FORMATS`.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InputError(
            f"{path.name} is not a name for a figure", hint="end it in .png, .svg or .pdf"
        )
    return kind


def svg(figure: Figure) -> str:
    """A figure as the text of one `<svg>` element, for a page; the same figure, the same text.

    The ids that are left name their own content, so several figures can stand in one page. Paths
    are rounded to a hundredth of a point.
    """
    text = _bytes(figure, "svg").decode("utf-8")
    text = _IDS.sub("", _METADATA.sub("", text[text.index("<svg") :]))
    return _PATH.sub(lambda path: _DECIMALS.sub(r"\1", path[0]), text)


def _bytes(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context
    from matplotlib.text import Text

    nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    nothing["pdf"] = {"CreationDate": None, "Creator": None, "Producer": None}
    out = io.BytesIO()
    settings: Any = {
        "svg.hashsalt": "molquery",  # ids do not change between runs
        "svg.fonttype": "none",  # text stays text: it can be searched and edited
        "pdf.fonttype": 42,
        "font.sans-serif": list(FONTS),
        "text.parse_math": False,  # a dollar sign in an id is a dollar sign
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(out, format=kind, metadata=nothing[kind])
    return out.getvalue()
