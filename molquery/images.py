"""H&E images in formats that every library reads (PNG, JPEG, TIFF): a part of one, in grey.

Whole-slide formats are not read here: export the slide at a lower resolution first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from molquery.errors import FileFormatError
from molquery.vectors import Float

_PIXELS = 1600  # of the longer side are kept: what a figure can show
_WINDOW = 15  # pixels around a point that say whether it lies on tissue


@dataclass(frozen=True, slots=True)
class Grey:
    """A part of an image, shrunk where it is large.

    Attributes:
        values: (height, width) float32, 0 black to 1 white.
        left, top, right, bottom: which part it is, in pixels of the whole image.
        size: (width, height) of the whole image in pixels.
    """

    values: npt.NDArray[np.float32]
    left: float
    top: float
    right: float
    bottom: float
    size: tuple[int, int]

    def blank(self, x: Float, y: Float) -> float:
        """The share of points (n,), in pixels of the whole image, that lie on blank background.

        Tissue and background are told apart by the threshold that separates grey values best
        (Otsu, doi:10.1109/TSMC.1979.4310076), in the mean grey around each point.
        """
        from scipy.ndimage import uniform_filter

        height, width = self.values.shape
        column = (x - self.left) / (self.right - self.left) * width
        row = (y - self.top) / (self.bottom - self.top) * height
        smooth = uniform_filter(self.values, _WINDOW)
        here = smooth[
            np.clip(row.astype(np.int64), 0, height - 1),
            np.clip(column.astype(np.int64), 0, width - 1),
        ]
        return float((here > _otsu(self.values)).mean())


def grey(path: Path, box: tuple[float, float, float, float] | None = None) -> Grey:
    """The part of an image inside `box` (left, top, right, bottom), or all of it.

    Raises:
        FileFormatError: there is no such file, it is no image, or one too large to be read.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                left, top, right, bottom = box or (0, 0, width, height)
                left, top = max(0, int(left)), max(0, int(top))
                right, bottom = min(width, int(right) + 1), min(height, int(bottom) + 1)
                if right <= left or bottom <= top:
                    left, top, right, bottom = 0, 0, width, height
                shrink = min(1.0, _PIXELS / max(right - left, bottom - top))
                part = image.convert("L").resize(
                    (max(1, round((right - left) * shrink)),
                     max(1, round((bottom - top) * shrink))),
                    Image.Resampling.BILINEAR, (left, top, right, bottom), reducing_gap=3.0,
                )  # fmt: skip
                values = np.asarray(part, dtype=np.float32) / np.float32(255)
    except FileNotFoundError as error:
        raise FileFormatError(f"there is no image {path}", hint="--image FILE") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileFormatError(
            f"{path} cannot be read as an image",
            found=str(error),
            hint="a PNG, JPEG or TIFF of at most 170 million pixels: a smaller copy of the slide, "
            "with --image-scale",
        ) from error
    return Grey(values, left, top, right, bottom, (width, height))


def _otsu(values: npt.NDArray[np.float32]) -> float:
    """The grey value that separates two classes with the largest variance between them."""
    counts, edges = np.histogram(values, bins=256, range=(0.0, 1.0))
    n, moment = np.cumsum(counts), np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    rest = n[-1] - n
    between = np.where(rest > 0, (moment[-1] * n / n[-1] - moment) ** 2, 0.0)
    between /= np.maximum(n * np.maximum(rest, 1), 1)
    return float(edges[1:][np.argmax(between)])
