"""CLAM `pt_files/<slide>.pt`: a tensor saved by torch, read without torch and mean-pooled.

The file is a zip archive: `data.pkl` describes the tensor and `data/<key>` holds its bytes, stored
as they are. The pickle is opened with `unpickle.py`; the bytes are memory-mapped.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molquery.errors import FileFormatError, some
from molquery.readers import unpickle
from molquery.readers.base import Input, Options, Reader, Slides
from molquery.readers.guard import reading
from molquery.readers.matrix import MAX_DIM, one_slide
from molquery.readers.pooling import mean_of_array, pooled
from molquery.readers.unpickle import RefusedError, Stand

ZIP = b"PK\x03\x04"
BFLOAT16 = "bfloat16"

#: Storage classes of torch, and the numpy type of their values. numpy has no bfloat16.
STORAGES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "BFloat16Storage": BFLOAT16,
}


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def sniff(path: Path, head: bytes) -> bool:
    """True for a zip archive that torch wrote: its first member is `<name>/data.pkl`."""
    if not head.startswith(ZIP):
        return False
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return name.endswith(b"/data.pkl")


def load(path: Path, _: Options) -> Slides:
    """The slide of a tensor (n, d), pooled; (d,) is a slide's own vector.

    Raises:
        FileFormatError: the file is damaged, would run code, or holds something else.
    """
    with reading(path, "a tensor saved by torch"), zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/data.pkl"))[: -len("data.pkl")]
        try:
            with archive.open(f"{root}data.pkl") as stream:
                found = unpickle.load(stream, _names(), _storage)
        except RefusedError as error:
            raise unpickle.refusal(path, error, "plain tensors") from error
        except RecursionError as error:
            raise FileFormatError(f"{path} is nested too deeply to be a tensor") from error
        if not isinstance(found, _Tensor):
            what = f"a dict with {some(found)}" if isinstance(found, dict) else type(found).__name__
            raise FileFormatError(
                f"{path} was saved by torch but is not a tensor", found=what,
                hint="save the features alone: torch.save(features, 'slide.pt')",
            )  # fmt: skip
        array = _view(path, archive, root, found)
        if array.ndim == 1:
            return one_slide(path, np.array(_floats(array)), encoder=None)
        mean, n = _mean(array)
    return pooled(path, mean, n, encoder=None)


def _names() -> dict[tuple[str, str], Any]:
    def rebuild(storage: Any, offset: int, size: Any, stride: Any, *_: object) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        return _Tensor(storage, int(offset), _integers(size), _integers(stride))

    return {
        **{("torch", name): Stand(name) for name in STORAGES},
        ("torch._utils", "_rebuild_tensor_v2"): Stand("_rebuild_tensor_v2", rebuild),
        ("torch._utils", "_rebuild_parameter"): Stand("_rebuild_parameter", lambda data, *_: data),
        # The hooks of a tensor, always empty in a file; and a dict, to be described.
        ("collections", "OrderedDict"): Stand("OrderedDict", lambda *_: {}),
    }


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _storage(pid: Any) -> _Storage:
    label, kind, key, _, numel = pid
    if label != "storage" or not isinstance(kind, Stand):
        raise RefusedError(f"a {label!r} outside the pickle")
    return _Storage(kind.name, str(key), int(numel))


def _view(path: Path, archive: zipfile.ZipFile, root: str, tensor: _Tensor) -> Any:
    """The tensor as a view of the file, once every value of it lies within the storage."""
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise FileFormatError(f"{path} was saved on a big-endian machine")
    member = archive.getinfo(f"{root}data/{tensor.storage.key}")
    kind = STORAGES[tensor.storage.kind]
    dtype = np.dtype("<u2" if kind == BFLOAT16 else kind)
    shape, strides = tensor.shape, tensor.strides
    if len(shape) == 3 and shape[0] == 1:
        shape, strides = shape[1:], strides[1:]
    held = min(member.file_size // dtype.itemsize, tensor.storage.numel)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    fits = min((*shape, *strides, tensor.offset), default=0) >= 0 and (0 in shape or last < held)
    # A stride of 0 would let a small file claim any number of rows.
    honest = np.prod([float(n) for n in shape]) <= held or 0 in shape
    if member.compress_type != zipfile.ZIP_STORED or not (fits and honest):
        raise FileFormatError(
            f"the tensor of {path} is larger than the file",
            found=f"shape {shape}, strides {strides}, storage of {held} values",
            hint="the file may be truncated or damaged: fetch or write it again",
        )
    if len(shape) not in (1, 2) or shape[-1] > MAX_DIM:
        raise FileFormatError(
            f"the tensor of {path} is not one of patch features", found=f"shape {shape}",
            hint="(patches, dimensions) is read",
        )  # fmt: skip
    if 0 in shape:
        return np.empty(shape, dtype).view() if kind != BFLOAT16 else np.empty(shape, np.float32)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    start = (
        member.header_offset + 30
        + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    )  # fmt: skip
    values = np.memmap(path, dtype, "r", offset=start, shape=(held,))
    return np.lib.stride_tricks.as_strided(
        values[tensor.offset :], shape, [s * dtype.itemsize for s in strides], writeable=False
    )


def _floats(array: Any) -> Any:
    """Values that numpy can add: bfloat16 is the upper half of a float32."""
    if array.dtype != np.uint16:
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _mean(array: Any) -> tuple[Any, int]:
    return mean_of_array(array, convert=_floats)


READER = Reader(
    "CLAM tensor (.pt)",
    sniff,
    load,
    (
        Input("CLAM, tensors (mean-pooled)", "`pt_files/<slide>.pt`",
              "clam_out/pt_files --encoder resnet50"),
    ),
)  # fmt: skip
