"""Atomic writes and checksums: a file is there whole, or it is not there."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from molquery import processes
from molquery.errors import OutputError

#: A temporary file says who writes it: machine and process.
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.[^.]+\.tmp", re.DOTALL)
_DAY = 86_400.0


@contextmanager
def atomic_path(target: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends without an error.

    The data are on disk before the name is (fsync, then `os.replace`); on an error the temporary
    file is removed and `target` is as it was.

    Raises:
        OutputError: `target` exists and `overwrite` is false, or it cannot be written.
    """
    if not overwrite and os.path.exists(target):
        raise OutputError(f"{target} exists already", hint="add --overwrite to replace it")
    if os.path.isdir(target):
        raise OutputError(f"{target} is a directory", hint="name a file to write to")
    with temporary_file(target) as temporary:
        yield temporary
        put_in_place(temporary, target)
    sweep(target)


@contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """An empty file beside `target`, which is gone at the end unless it was renamed.

    Raises:
        OutputError: it cannot be made, or the block fails to write.
    """
    try:
        handle, name = tempfile.mkstemp(
            prefix=_prefix(target.name), suffix=".tmp", dir=target.parent
        )
    except OSError as error:
        raise OutputError(f"cannot write to {target.parent}", found=error.strerror) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
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
    target = target.absolute()
    try:
        temporary, old = temporary_directory(target), temporary_directory(target)
    except OSError as error:
        raise OutputError(f"cannot write to {target.parent}", found=error.strerror) from error
    moved = False
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        temporary.chmod(0o777 & ~umask())
        old.rmdir()
        if target.exists():
            os.rename(target, old)
            moved = True
        os.rename(temporary, target)
        moved = False
        sync(target.parent)
        sweep(target)
    except OSError as error:
        if moved:
            os.rename(old, target)
        raise OutputError(f"cannot write {target}", found=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def refuse_existing(targets: Iterable[Path | None], *, overwrite: bool) -> None:
    """Check before any work that no output is there already; None stands for no output.

    Raises:
        OutputError: one is, and `overwrite` is false; or its directory is not there.
    """
    for target in targets:
        if target is not None and not target.parent.is_dir():
            raise OutputError(f"cannot write to {target.parent}", found="no such directory")
        if target is not None and not overwrite and target.exists():
            raise OutputError(f"{target} exists already", hint="add --overwrite to replace it")


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename a temporary file, once its content is on disk."""
    sync(temporary)
    temporary.chmod(0o666 & ~umask())
    os.replace(temporary, target)
    sync(target.parent)


def write_bytes(target: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write `content` to `target` atomically (see `atomic_path`)."""
    with atomic_path(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


def temporary_directory(target: Path) -> Path:
    """A new empty directory beside `target`, named as an unfinished one."""
    return Path(tempfile.mkdtemp(prefix=_prefix(target.name), suffix=".tmp", dir=target.parent))


def _prefix(name: str) -> str:
    return f".{name[:40]}.{processes.machine()}-{os.getpid()}."


def is_uri(place: object) -> bool:
    """True for an address such as s3://bucket/path, which is no path of this machine."""
    return "://" in str(place)


def cache_directory() -> Path:
    """Where what can be made or fetched again is kept: MOLQUERY_CACHE, or ~/.cache/molquery."""
    if named := os.environ.get("MOLQUERY_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "molquery"


def is_temporary(path: Path) -> bool:
    """True for files and directories that are being written, or were when their writer died."""
    return _TEMPORARY.fullmatch(path.name) is not None


def is_left_behind(path: Path) -> bool:
    """True for an unfinished file or directory whose writer has ended.

    The writer is known to have ended if it was a process of this machine; what another machine
    writes counts as left behind after a day.
    """
    found = _TEMPORARY.fullmatch(path.name)
    if found is None:
        return False
    if found[1] == processes.machine():
        return not processes.alive(int(found[2]))
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _DAY
    return False


def sweep(target: Path) -> None:
    """Remove what processes that were killed left beside a file or directory that they wrote."""
    for path in target.parent.glob(f".{glob.escape(target.name[:40])}.*.tmp"):
        if is_left_behind(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # some systems open no directories
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(paths: Iterable[Path]) -> list[str]:
    """As `sha256_file`, of many files, on as many threads as are worth while."""
    wanted = list(paths)
    if len(wanted) < 2:
        return [sha256_file(path) for path in wanted]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1, len(wanted))) as pool:
        return list(pool.map(sha256_file, wanted))


def umask() -> int:
    """The permissions that this process takes off new files."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
