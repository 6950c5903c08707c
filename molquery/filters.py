"""What a `--where` may hold: one SQL condition, nothing of which is passed over in silence."""

from __future__ import annotations

import re

from molquery.errors import FilterError, printable

#: Longer conditions are slower to parse than a list of ids in a metadata column is to join.
LONGEST = 100_000
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")
_REFUSED = {
    ";": "more than one statement: what follows the ; would be ignored",
    "--": "a comment: what follows it would be ignored",
    "/*": "a comment: what it encloses would be ignored",
}
_CHANGING = re.compile(r"\b(random|uuid|now|today|current_\w+)\b\s*\(", re.IGNORECASE)


def check_filter(where: str) -> None:
    """Refuse a condition that would select other rows than it seems to, or not the same ones again.

    Raises:
        FilterError: it is empty or too long, holds a second statement or a comment, or a function
            whose value changes from call to call.
    """
    bare = _QUOTED.sub("''", where)
    problem = next((why for mark, why in _REFUSED.items() if mark in bare), None)
    if not where.strip():
        problem = "nothing at all"
    elif len(where) > LONGEST:
        problem = f"{len(where):,} characters, more than {LONGEST:,}"
    elif problem is None and (call := _CHANGING.search(bare)):
        problem = f"{call[1]}(), whose value changes from call to call"
    if problem:
        raise FilterError(
            f"--where holds {problem}",
            found=f"--where {printable(where)}",
            hint="give one condition over the metadata, such as cohort = 'TCGA-LUAD' AND age > 60",
        )
