"""The write lock of a database: one writer at a time, who says who it is.

The lock itself is the kernel's (`flock` on `.lock`): it ends with the process that holds it, so a
writer that was killed blocks nobody. `.writer.json` beside it says who holds it, for those who
wait; a record that is still there when the next writer comes means that the one before did not
finish.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from os import getpid
from pathlib import Path

from molquery import processes, schema
from molquery.errors import DatabaseError, printable
from molquery.files import sync

#: Seconds for which a writer waits for another one.
WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes to a database, and since when (UTC, ISO 8601)."""

    command: str
    pid: int
    host: str
    machine: str
    started: str
    since: str

    @property
    def running(self) -> bool | None:
        """Whether the process still runs; None for one of another machine."""
        if self.machine != processes.machine():
            return None
        return processes.alive(self.pid, self.started)

    def __str__(self) -> str:
        state = {True: "", False: ", which has ended", None: ""}[self.running]
        return (
            f"molquery {printable(self.command)}, process {self.pid} on {printable(self.host)}"
            f"{state}, since {printable(self.since)}"
        )


def writer(root: Path) -> Writer | None:
    """Who holds the lock, or has not finished; None after one who has, or where it is damaged."""
    with suppress(OSError, ValueError, TypeError):
        told = json.loads((root / schema.WRITER).read_bytes())
        found = Writer(**told)
        if isinstance(found.pid, int) and found.pid > 0:
            return found
    return None


@contextmanager
def hold(root: Path, command: str) -> Iterator[bool]:
    """Hold the write lock; True when the writer before did not finish.

    Raises:
        DatabaseError: another process has held it for all of `WAIT` seconds, or the directory
            cannot be written.
    """
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(root / schema.LOCK, timeout=WAIT))
        except Timeout as error:
            other = writer(root)
            raise DatabaseError(
                f"another process has been writing to {root} for over {WAIT:.0f} s",
                found=str(other) if other else None,
                hint="wait for it to end, or end it, then run the same command again",
            ) from error
        except OSError as error:
            raise DatabaseError(
                f"{root} cannot be written", found=error.strerror, hint="check its permissions"
            ) from error
        unfinished = (root / schema.WRITER).exists()
        try:
            _say(root, command)
        except OSError as error:
            if not unfinished:
                with suppress(OSError):
                    finish(root)
            raise DatabaseError(
                f"{root} cannot be written", found=error.strerror, hint="molquery doctor"
            ) from error
        yield unfinished
        finish(root)


def finish(root: Path) -> None:
    """Say that nothing is left to be cleaned up after this writer; the holder of the lock may."""
    (root / schema.WRITER).unlink(missing_ok=True)


def _say(root: Path, command: str) -> None:
    """Write down who holds the lock; in place, as half a record says that somebody began, too."""
    mine = Writer(
        command, getpid(), platform.node(), processes.machine(), processes.started(getpid()),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    (root / schema.WRITER).write_text(json.dumps(asdict(mine)), "utf-8")
    sync(root / schema.WRITER)
    sync(root)
