"""What has been measured so far: one JSON file, written after every measurement."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.scale.measure import Result, Task

_NAMES = ("measure", "method", "filter")


@dataclass
class Results:
    """Results by key; a key has one result a round.

    A key is 'part / kind-rows / measure / method / filter', without what does not apply.
    """

    path: Path
    machine: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    rounds: dict[str, list[Result]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """The results in a file, or none."""
        if not path.is_file():
            return cls(path)
        return cls(path, **json.loads(path.read_text("utf-8")))

    def save(self) -> None:
        """Write the file, whole or not at all."""
        content = {"machine": self.machine, "left_out": self.left_out, "rounds": self.rounds}
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(content), "utf-8")
        os.replace(beside, self.path)

    def add(self, key: str, result: Result) -> None:
        """Keep one more round of a measurement, beside what another run has added meanwhile."""
        self.rounds = Results.read(self.path).rounds
        self.rounds.setdefault(key, []).append(result)
        self.save()

    def forget(self, keys: Iterable[str]) -> None:
        """Drop some measurements."""
        gone = set(keys)
        self.rounds = {k: v for k, v in self.rounds.items() if k not in gone}
        self.save()


def key_of(part: str, task: Task) -> str:
    """The key of a task's result."""
    place = f"{task['kind']}-{task['rows']}"
    return " / ".join([part, place, *(task[n] for n in _NAMES if n in task)])
