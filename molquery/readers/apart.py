"""HDF5 files are read in a process of their own, which a damaged file may crash or hang.

The HDF5 library follows pointers in the file: one damaged byte can end the process that reads it,
or hold it in a loop that Ctrl-C cannot leave. So one child process serves all HDF5 files of a
command: it does what the functions marked `apart` do, and sends back what they return or raise. A
child that dies, or does not answer in time, is an error that names the file.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import pyarrow as pa

from molquery.errors import FileFormatError, MolqueryError
from molquery.readers.matrix import no_metadata

P = ParamSpec("P")
R = TypeVar("R")

MAGIC = b"\x89HDF\r\n\x1a\n"

#: Seconds that a file may take, and the slowest disk (bytes a second) that a large one may be on.
SECONDS = 120.0
SLOWEST = 1 << 20

_LENGTH = struct.Struct("<Q")


Reading: TypeAlias = Callable[Concatenate[Path, P], R]


def apart(function: Reading[P, R]) -> Reading[P, R]:
    """The function, done in the child process where its first argument is an HDF5 file."""

    @wraps(function)
    def wrapper(path: Path, *args: P.args, **kwargs: P.kwargs) -> R:
        if _CHILD.serving or not _is_hdf5(path):
            return function(path, *args, **kwargs)
        result: R = _CHILD.call(path, (function.__module__, function.__name__), args, kwargs)
        return result

    return cast(Reading[P, R], wrapper)


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class _Child:
    """The process, started with the first HDF5 file and again after it was lost."""

    def __init__(self) -> None:
        self.serving = False
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a fork of this process needs a child of its own
        self._lock = threading.Lock()

    def call(self, path: Path, name: tuple[str, str], args: Any, kwargs: Any) -> Any:
        """What the function returns for `path`.

        Raises:
            FileFormatError: the process died, or took too long.
            MolqueryError: whatever the function raises.
        """
        limit = SECONDS + path.stat().st_size / SLOWEST
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                _send(process.stdin, (os.getcwd(), *name, (path, *args), kwargs))
                if not select.select([process.stdout], [], [], limit)[0]:
                    raise _lost(path, f"no end of it in {limit:.0f} seconds")
                failed, answer = _receive(process.stdout)
            except (EOFError, BrokenPipeError) as error:
                found = _lost(path, f"it ended the HDF5 library ({_how(process)})")
                self.stop()
                raise found from error
            except BaseException:  # an interrupt as well: what the process answers next is unknown
                self.stop()
                raise
        if not failed:
            return answer
        if isinstance(answer, MolqueryError):
            raise answer
        raise RuntimeError(f"reading {path} failed:\n{answer}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self._process

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


_CHILD = _Child()
atexit.register(_CHILD.stop)


def _how(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        return "without a status"
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _lost(path: Path, what: str) -> FileFormatError:
    return FileFormatError(
        f"{path} looks like HDF5 but cannot be read",
        found=what,
        hint="the file is damaged: fetch or write it again",
    )


def serve() -> None:
    """Do what is asked on standard input until it ends."""
    _CHILD.serving = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    _end_with_parent()
    with os.fdopen(os.dup(0), "rb") as asked, os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # nothing that a library prints may come between the answers
        while True:
            try:
                folder, module, name, args, kwargs = _receive(asked)
            except EOFError:
                return
            try:
                os.chdir(folder)
                function = getattr(importlib.import_module(module), name)
                answer = False, function(*args, **kwargs)
            except MolqueryError as error:
                answer = True, error
            except Exception:
                answer = True, traceback.format_exc()
            _send(answers, answer)


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is killed."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, pa.Table) and not value.num_columns:
            return no_metadata, (value.num_rows,)  # Arrow's own pickle forgets the rows
        return NotImplemented


def _send(stream: IO[bytes], value: object) -> None:
    """A pickle, with the content of arrays and tables beside it, not copied into it."""
    buffers: list[pickle.PickleBuffer] = []
    content = io.BytesIO()
    _Pickler(content, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [content.getbuffer(), *(buffer.raw() for buffer in buffers)]
    for number in (len(parts), *(part.nbytes for part in parts)):
        stream.write(_LENGTH.pack(number))
    for part in parts:
        stream.write(part)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """What `_send` sent.

    Raises:
        EOFError: the sender has ended.
    """
    (count,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    lengths = struct.unpack(f"<{count}Q", _exactly(stream, count * _LENGTH.size))
    content, *buffers = (_exactly(stream, length) for length in lengths)
    return pickle.loads(content, buffers=buffers)


def _exactly(stream: IO[bytes], length: int) -> bytearray:
    content = bytearray(length)
    view = memoryview(content)
    while view:
        got = stream.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        view = view[got:]
    return content
