"""What all figures share: colours, type sizes, and how they are written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from molquery.errors import InputError
from molquery.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Even in lightness, and the same order for colour-blind eyes and in grey print.
COLOURS = "viridis"
#: Eight colours that colour-blind eyes can tell apart (Okabe and Ito, 2008).
CATEGORIES = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000",
)  # fmt: skip
DPI = 150
FORMATS = ("png", "svg", "pdf")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, readable when it fills a slide.

    It draws with Agg and leaves pyplot and its global state alone.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save(figure: Figure, path: Path, *, overwrite: bool = True) -> None:
    """Write a figure as PNG, SVG or PDF, as the name of `path` says, whole or not at all.

    The same figure is the same file: no date and no version of the software is in it.

    Raises:
        InputError: the suffix is of none of these formats.
        OutputError: the file exists and `overwrite` is false, or it cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InputError(
            f"{path.name} is not a name for a figure", hint="end it in .png, .svg or .pdf"
        )
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(_bytes(figure, kind))


def svg(figure: Figure) -> str:
    """A figure as the text of one `<svg>` element, for a page; the same figure, the same text."""
    text = _bytes(figure, "svg").decode("utf-8")
    return text[text.index("<svg") :]


def _bytes(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context

    nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    nothing["pdf"] = {"CreationDate": None, "Creator": None, "Producer": None}
    out = io.BytesIO()
    # Text stays text in SVG: it can be searched and edited; ids do not change between runs.
    with rc_context({"svg.hashsalt": "molquery", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(out, format=kind, metadata=nothing[kind])
    return out.getvalue()
