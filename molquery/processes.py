"""Who a process is, and whether it still runs: for locks and for unfinished files."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """What process ids belong to: 8 hexadecimal digits of the host, its boot and pid namespace.

    Two containers on one machine have the same processes 1, 2, 3 …, so the host's name will not do.
    """
    told = [platform.node()]
    with suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        told.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def started(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot; '' where that is not known.

    Process ids are used again: with its start, a process has a name of its own.
    """
    with suppress(OSError, IndexError):
        # The second field is the command in brackets, and may hold blanks and brackets itself.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def alive(pid: int, since: str = "") -> bool:
    """True while a process of this machine runs; `since` is what `started` said of it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, and is somebody else's
        pass
    except OverflowError:
        return False
    now = started(pid)
    return not (since and now) or since == now
