"""What has been measured so far: one JSON file, written after every measurement."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        """Keep one more round of a measurement."""
        self.rounds.setdefault(key, []).append(result)
        self.save()

    def of(self, part: str, place: str, measure: str) -> Iterator[tuple[str, list[Any]]]:
        """(method, or method / filter; rounds) of a part on one archive."""
        prefix = f"{part} / {place} / {measure}"
        for key, rounds in self.rounds.items():
            if key == prefix or key.startswith(prefix + " / "):
                yield key[len(prefix) :].removeprefix(" / "), rounds

    def places(self, part: str) -> list[str]:
        """The archives that a part has been measured on, largest first."""
        found = {key.split(" / ")[1] for key in self.rounds if key.startswith(part + " / ")}
        return sorted(found, key=lambda p: -int(p.rsplit("-", 1)[1]))


def key_of(part: str, task: Task) -> str:
    """The key of a task's result."""
    place = f"{task['kind']}-{task['rows']}"
    return " / ".join([part, place, *(task[n] for n in _NAMES if n in task)])
