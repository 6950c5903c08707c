"""Third-party errors, re-raised as molquery's own with the file's name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molquery.errors import FileFormatError, MolqueryError, printable


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns whatever a third-party decoder raises into a FileFormatError that names the file.

    Decoders raise anything on damaged input (ArrowException, OSError, KeyError, RuntimeError), so
    everything is caught, MemoryError included: a damaged length asks for more than there is. The
    block holds the decoder's call alone, never molquery's own logic.
    """
    try:
        yield
    except MolqueryError:
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise FileFormatError(
            f"{path} looks like {what} but cannot be read",
            found=printable(text, 200) or type(error).__name__,
            hint="the file may be truncated or damaged: fetch or write it again",
        ) from error


def memory() -> int:
    """Bytes of memory that the machine has."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
