"""Atomic writes and checksums: a file is there whole, or it is not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molquery.errors import OutputError


@contextmanager
def atomic_path(target: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends without an error.

    The data are on disk before the name is (fsync, then `os.replace`); on an error the temporary
    file is removed and `target` is as it was.

    Raises:
        OutputError: `target` exists and `overwrite` is false, or it cannot be written.
    """
    check_target(target, overwrite=overwrite)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", dir=target.parent)
    except OSError as error:
        raise OutputError(f"cannot write to {target.parent}", found=error.strerror) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}", found=error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written: before long work, rather than after it.

    Raises:
        OutputError: `target` exists and `overwrite` is false, or is a directory, or is in none.
    """
    if not overwrite and target.exists():
        raise OutputError(f"{target} exists already", hint="add --overwrite to replace it")
    if target.is_dir():
        raise OutputError(f"{target} is a directory", hint="name a file to write to")
    if not os.access(target.parent, os.W_OK):
        there = "may not write there" if target.parent.is_dir() else "no such directory"
        raise OutputError(f"cannot write to {target.parent}", found=there)


def write_bytes(target: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write `content` to `target` atomically (see `atomic_path`)."""
    with atomic_path(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
