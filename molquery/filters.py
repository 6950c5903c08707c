"""What a `--where` may hold: one SQL condition, nothing of which is passed over in silence."""

from __future__ import annotations

import re

from molquery.errors import FilterError, printable

#: Longer conditions are slower to parse than a list of ids in a metadata column is to join.
LONGEST = 100_000
#: Each makes the parsed condition deeper; Lance ends the process where it runs out of stack, at
#: about a thousand. A list, IN (…), is one.
MOST_OPERATORS = 500
_OPERATORS = re.compile(
    r"[-+*/%|&^<>=!~:#@]+|\[|\b(and|or|not|is|in|i?like|rlike|regexp|similar|between|collate|at|div"
    r"|xor)\b",
    re.IGNORECASE,
)
DEEPEST = 40
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")
_REFUSED = {
    ";": "more than one statement: what follows the ; would be ignored",
    "--": "a comment: what follows it would be ignored",
    "/*": "a comment: what it encloses would be ignored",
    "?": "a ?, which stands for a value that is not given",
    "$": "a $, which stands for a value that is not given",
}
_CHANGING = re.compile(r"\b(random|uuid|now|today|current_\w+)\b\s*\(", re.IGNORECASE)
#: A short condition with one of them can take all the memory there is.
_GROWING = re.compile(
    r"\b(repeat|[lr]pad|space|(?:regexp_)?replace|range|generate_series"
    r"|(?:array|list)_(?:repeat|resize))\b\s*\(",
    re.IGNORECASE,
)


def check_filter(where: str) -> None:
    """Refuse a condition that would select other rows than it seems to, or not the same ones again.

    Nor one that Lance cannot be given without harm.

    Raises:
        FilterError: it is empty, too long or too deep, holds a second statement or a comment, or a
            function whose value changes from call to call or can be of any size.
    """
    bare = _QUOTED.sub("''", where)
    problem = next((why for mark, why in _REFUSED.items() if mark in bare), None)
    if not where.strip():
        problem = "nothing at all"
    elif len(where) > LONGEST:
        problem = f"{len(where):,} characters, more than {LONGEST:,}"
    elif problem is None and (call := _CHANGING.search(bare)):
        problem = f"{call[1]}(), whose value changes from call to call"
    elif problem is None and (call := _GROWING.search(bare)):
        problem = f"{call[1]}(), whose value can be of any size"
    elif problem is None and _depth(bare) > DEEPEST:
        problem = f"brackets in brackets, more than {DEEPEST} deep"
    elif problem is None and sum(1 for _ in _OPERATORS.finditer(bare)) > MOST_OPERATORS:
        problem = f"more than {MOST_OPERATORS} operators (many values go into one list, IN (…))"
    if problem:
        raise FilterError(
            f"--where holds {problem}",
            found=f"--where {printable(where)}",
            hint="give one condition over the metadata, such as cohort = 'TCGA-LUAD' AND age > 60",
        )


def _depth(bare: str) -> int:
    """How many brackets are open at once, at the most."""
    deepest = now = 0
    for character in bare:
        now += (character in "([{") - (character in ")]}")
        deepest = max(deepest, now)
    return deepest
