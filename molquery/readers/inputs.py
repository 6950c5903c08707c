"""The table of slide formats in `docs/inputs.md`, made from the registry so that it cannot drift.

`python -m molquery.readers.inputs docs/inputs.md` writes it anew between its two marks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from molquery.readers.registry import SLIDE_READERS

BEGIN = "<!-- slides: made by python -m molquery.readers.inputs -->"
END = "<!-- end of slides -->"


def slide_table() -> str:
    """A Markdown section per tool: what it writes, and the two lines that take it in."""
    parts = []
    for reader in SLIDE_READERS:
        for known in reader.inputs:
            parts.append(
                f"### {known.tool}\n\nReads {known.layout}.\n\n```\n"
                f"molquery --db archive init\n"
                f"molquery --db archive ingest slides {known.arguments}\n```\n"
            )
    return "\n".join(parts)


def updated(text: str) -> str:
    """A page with the table between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{slide_table()}\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(updated(page.read_text("utf-8")), "utf-8")
