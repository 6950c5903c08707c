"""Pickles without their power to run code: only the names in a given table are ever called.

A pickle is a program: it names any importable function and has it called. Here the names are
looked up in a table of small stand-ins that the caller gives (`pickled.py` for numpy arrays,
`torch_file.py` for tensors); nothing is imported, and any other name is refused. The interpreter is
Python's own slow one, because the fast one allocates whatever a damaged length asks for.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

from molquery.errors import FileFormatError, printable

Names = Mapping[tuple[str, str], Any]


class Stand:
    """Something that a pickle may name: callable, and closed to a pickle that would alter it."""

    __slots__ = ("_call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name = name
        self._call = call

    def __call__(self, *values: Any) -> Any:
        """What the stand-in makes of the values that a pickle gives."""
        if self._call is None:
            raise pickle.UnpicklingError(f"{self.name} is not to be called")
        return self._call(*values)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f"{self.name} has no state")


class RefusedError(Exception):
    """A pickle names what it must not; the argument is the name."""


def load(stream: IO[bytes], names: Names, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object of a pickle that calls nothing but `names`.

    Args:
        names: (module, name) -> the stand-in for it.
        persistent: gives the object of a persistent id (torch keeps its storages outside).

    Raises:
        RefusedError: the pickle names anything else.
    """

    class _Restricted(pickle._Unpickler):
        dispatch: ClassVar[dict[int, Any]] = {
            **pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _bytearray
        }  # fmt: skip

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in names:
                raise RefusedError(f"{module}.{name}")
            return names[module, name]

        def persistent_load(self, pid: Any) -> Any:
            if persistent is None:
                raise RefusedError("a persistent id")
            return persistent(pid)

    return _Restricted(stream, encoding="latin1").load()


def _bytearray(unpickler: Any) -> None:
    """Bytes of a given length; Python's own allocates them before it looks whether they are there.

    Raises:
        pickle.UnpicklingError: they are not.
    """
    length = int.from_bytes(unpickler.read(8), "little")
    content = unpickler.read(length)
    if len(content) != length:
        raise pickle.UnpicklingError(f"{len(content)} of {length} bytes are there")
    unpickler.append(bytearray(content))


def refusal(path: object, error: RefusedError, wanted: str) -> FileFormatError:
    """The error for a pickle that names something it must not."""
    return FileFormatError(
        f"{path} is a pickle that would run code when opened, so it was not opened",
        found=f"it asks for {printable(str(error))}",
        hint=f"molquery opens pickles of {wanted} only; write .npz, .h5 or .parquet instead",
    )
