"""TITAN and PRISM pickles: a dict with `filenames` (or `filename`) and `embeddings` (N, D).

Arrays are rebuilt here from their bytes; numpy's own reconstruction is not called by the pickle.
"""

from __future__ import annotations

import mmap
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from molquery.errors import FileFormatError, some
from molquery.readers import unpickle
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.guard import reading
from molquery.readers.matrix import slides_from_matrix
from molquery.readers.unpickle import RefusedError, Stand

IDS = ("filenames", "filename", "slide_ids", "slide_id", "ids")
VECTORS = ("embeddings", "embedding", "features", "vectors")

_PLAIN = re.compile(r"[<>=|]?(?:[fiub]\d{1,2}|[US]\d{1,6}|O8?)")


class _Dtype:
    """What a pickle says of a dtype: its code, and (as state) its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not _PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"arrays of type {code!r}")
        self.code = code.lstrip("<>=|")
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """An array of a pickle; `value` is the numpy array once its state is known."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if fortran else "C")


def _from_bytes(content: Any, dtype: _Dtype, shape: Any, order: str = "C") -> Any:
    if dtype.code.startswith("O"):
        values = np.empty(len(content), dtype=object)
        values[:] = content
    else:
        if isinstance(content, str):  # bytes, as Python 2 wrote them
            content = content.encode("latin1")
        values = np.frombuffer(content, dtype.numpy())
    # reshape refuses a shape that the content cannot fill, before anything is allocated.
    return values.reshape(shape, order="F" if order == "F" else "C")


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, order: str) -> Any:
    array = _Array()
    array.value = _from_bytes(content, dtype, shape, order)
    return array


def _scalar(dtype: _Dtype, content: Any) -> Any:
    return _from_bytes(content, dtype, ()).item()


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {codec!r}")
    return bytes(str(text).encode("latin1"))


_ARRAY = Stand("numpy.ndarray")

NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): Stand("numpy.dtype", _Dtype),
    ("_codecs", "encode"): Stand("_codecs.encode", _encode),
    **{
        (f"numpy.{core}.{module}", name): Stand(name, call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


def sniff(_: Path, head: bytes) -> bool:
    """True for a pickle of protocol 2 or later; older ones have no mark of their own."""
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def load(path: Path, _: Options) -> Slides:
    """The slides of a dict of file names and embeddings.

    Raises:
        FileFormatError: the pickle would run code, is damaged, or holds something else.
    """
    try:
        with (
            reading(path, "a Python pickle"),
            path.open("rb") as file,
            # A memory map gives no more than there is, whatever length a damaged file asks for.
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            try:
                found = unpickle.load(content, NAMES)  # type: ignore[arg-type]
            except RefusedError as error:
                raise unpickle.refusal(path, error, "numpy arrays and lists") from error
    except RecursionError as error:
        raise FileFormatError(f"{path} is a pickle nested too deeply to be slides") from error
    if not isinstance(found, dict):
        raise _other(path, f"a {type(found).__name__}")
    ids = next((found[key] for key in IDS if key in found), None)
    vectors = next((found[key] for key in VECTORS if key in found), None)
    if ids is None or vectors is None:
        raise _other(path, f"a dict with {some(found) or 'nothing in it'}")
    return slides_from_matrix(path, _plain(ids), _matrix(path, vectors), encoder=None)


def _plain(value: Any) -> list[Any]:
    value = value.value if isinstance(value, _Array) else value
    return value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)


def _matrix(path: Path, value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    rows = [v.value if isinstance(v, _Array) else v for v in value]
    with reading(path, "a pickle of embeddings"):
        return np.stack([np.asarray(row, dtype=np.float32).reshape(-1) for row in rows])


def _other(path: Path, what: str) -> FileFormatError:
    return FileFormatError(
        f"{path} is a Python pickle without slide embeddings",
        found=what,
        hint="molquery reads a dict with 'filenames' and 'embeddings', as TITAN and PRISM write",
    )


READER = Reader(
    "Python pickle of TITAN or PRISM (.pkl)",
    sniff,
    load,
    (Input("TITAN, PRISM", "a pickle: dict of `filenames`, `embeddings`",
           "embeddings.pkl --encoder titan"),),
)  # fmt: skip
