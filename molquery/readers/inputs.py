"""The formats in `docs/inputs.md`, made from the registry so that they cannot drift.

`python -m molquery.readers.inputs docs/inputs.md` writes them anew between their marks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molquery.readers.base import Input, Reader
from molquery.readers.registry import PROFILE_READERS, SLIDE_READERS
from molquery.readers.tables import TABLE_READERS

#: For each kind of input: the readers in the order of the page, and the two lines that take it in.
_INIT = "molquery --db archive init"
KINDS: dict[str, tuple[Sequence[Reader[Any]], tuple[str, ...]]] = {
    "slides": (SLIDE_READERS, (_INIT, "molquery --db archive ingest slides")),
    "profiles": (PROFILE_READERS, (_INIT, "molquery --db archive ingest profiles")),
    "embeddings": (
        (*PROFILE_READERS, *SLIDE_READERS),
        ("molquery --db archive ingest profiles rna.h5ad", "molquery --db archive ingest profiles"),
    ),
    "metadata": (TABLE_READERS, ("molquery --db archive ingest metadata",)),
}


def known(kind: str) -> list[Input]:
    """What there is of one kind of input."""
    readers, _ = KINDS[kind]
    return list(dict.fromkeys(i for reader in readers for i in reader.inputs if i.kind == kind))


def sections(kind: str) -> str:
    """A Markdown section per tool: what it writes, and the lines that take it in."""
    lines = "\n".join(KINDS[kind][1])
    return "\n".join(
        f"### {one.tool}\n\nReads {one.layout}.{' ' if one.notes else ''}{one.notes}\n\n"
        f"```\n{lines} {one.arguments}\n```\n"
        for one in known(kind)
    )


def marks(kind: str) -> tuple[str, str]:
    """The lines of a page between which the sections of one kind are."""
    return f"<!-- {kind}: made by python -m molquery.readers.inputs -->", f"<!-- end of {kind} -->"


def updated(text: str) -> str:
    """A page with the sections of every kind made anew."""
    for kind in KINDS:
        begin, end = marks(kind)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{sections(kind)}\n{end}{after}"
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(updated(page.read_text("utf-8")), "utf-8")
