"""Atomic writes and checksums: a file is there whole, or it is not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
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
    if not overwrite and target.exists():
        raise OutputError(f"{target} exists already", hint="add --overwrite to replace it")
    if target.is_dir():
        raise OutputError(f"{target} is a directory", hint="name a file to write to")
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


@contextmanager
def atomic_directory(target: Path, *, mark: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its place when the block ends well.

    On an error nothing is left of it, and `target` is as it was. With `overwrite` a directory is
    replaced that holds a file called `mark`, which the block must write: only what was made in this
    way before is ever removed.

    Raises:
        OutputError: `target` exists and may not be replaced, or it cannot be written.
    """
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise OutputError(f"{target} exists already", hint="add --overwrite to replace it")
        if target.is_symlink() or not (target / mark).is_file():
            raise OutputError(
                f"{target} was not written by molquery: it is left as it is",
                found=f"no file {mark} in it" if target.is_dir() else "not a directory",
                hint="name another directory",
            )
    parent = target.absolute().parent
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:80]}.", dir=parent))
    except OSError as error:
        raise OutputError(f"cannot write to {parent}", found=error.strerror) from error
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        temporary.chmod(0o777 & ~_umask())
        if target.exists():
            os.rename(target, old)
        os.rename(temporary, target)
    except OSError as error:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise OutputError(f"cannot write {target}", found=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def refuse_existing(targets: Iterable[Path | None], *, overwrite: bool) -> None:
    """Check before any work that no output is there already; None stands for no output.

    Raises:
        OutputError: one is, and `overwrite` is false.
    """
    for target in targets:
        if target is not None and not overwrite and target.exists():
            raise OutputError(f"{target} exists already", hint="add --overwrite to replace it")


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
