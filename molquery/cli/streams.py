"""Standard streams that are closed, or close while a command runs, do no harm."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper

from molquery.errors import OutputError


class _Notices(TextIOWrapper):
    """stderr: where notices cannot be shown, the work goes on."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


class _Results(TextIOWrapper):
    """stdout: a full disk is an error to the user. A closed pipe is none (see `main`)."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._refused(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> OutputError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # for what is still in the buffer
        return OutputError("the result cannot be written to stdout", found=error.strerror)


def open_streams() -> None:
    """Give every standard stream a file, and say what happens where it cannot be written.

    Python has None for a stream that was closed when it started, and the next file that is opened
    would get its number: a file of the database, into which a library may then write its warnings.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
    for name, kind in (("stdout", _Results), ("stderr", _Notices)):
        told = getattr(sys, name)
        if type(told) is TextIOWrapper and told is getattr(sys, f"__{name}__"):
            wrapped = kind(
                told.buffer, encoding=told.encoding, errors=told.errors,
                line_buffering=told.line_buffering,
            )  # fmt: skip
            setattr(sys, name, wrapped)
