"""What long work tells of itself."""

from __future__ import annotations

from collections.abc import Callable

#: Told the stage, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody is told of."""
