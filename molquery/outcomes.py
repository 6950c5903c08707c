"""Outcome columns: what is an event, what is a time, what is a category. Stated, never guessed.

Pure functions on the values of a column, as `column.to_pylist()` gives them. Every answer carries
a sentence that says how the column was read; a coding that could mean two things is an error that
says how to say it. The tests themselves are in `associate`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from molquery.errors import ColumnError, InputError, printable, some
from molquery.vectors import Bools, Float, Strings

Kind = Literal["categorical", "continuous"]

#: Text that stands for a missing value in clinical tables (GDC, cBioPortal, cohort spreadsheets).
MISSING = frozenset({
    "", "na", "n/a", "nan", "null", "unknown", "not reported", "not available", "--", "'--", ".",
    "[not available]", "[not applicable]", "[not evaluated]", "[unknown]", "[discrepancy]",
})  # fmt: skip

#: Words for events and for their absence.
_EVENT = frozenset({
    "dead", "deceased", "died", "death", "event", "recurred", "progressed", "recurred/progressed",
    "progression", "recurrence", "relapse", "relapsed", "metastatic",
})  # fmt: skip
_NO_EVENT = frozenset({
    "alive", "living", "censored", "no event", "disease free", "diseasefree", "disease-free",
    "not progressed", "not recurred", "event free", "event-free",
})  # fmt: skip
#: Truth values; what they are true of, the name of the column says.
_TRUE = {"true": True, "yes": True, "y": True, "t": True,
         "false": False, "no": False, "n": False, "f": False}  # fmt: skip
#: `1:DECEASED`, as cBioPortal writes it.
_CBIOPORTAL = re.compile(r"([01])\s*:\s*(.*)", re.DOTALL)
#: A column called so may well be 1 where nothing happened.
_REVERSED = re.compile(r"alive|living|surviv(?!al)|censor|(?:event|disease|progression)[_ -]?free",
                       re.IGNORECASE)  # fmt: skip
_UNITS = {"days": r"days?", "weeks": r"weeks?", "months": r"months?|mos?", "years": r"years?|yrs?"}
#: Text columns with more different values than this are ids or free text.
MAX_CATEGORIES = 20


@dataclass(frozen=True, slots=True)
class Events:
    """An event column as read.

    Attributes:
        event: (n,) true where the event happened; false where censored or not known.
        known: (n,) true where the column says either.
        coding: what was taken for an event, in words, with counts.
    """

    event: Bools
    known: Bools
    coding: str


@dataclass(frozen=True, slots=True)
class Survival:
    """Times and events of one outcome.

    Attributes:
        time: (n,) follow-up, at least 0; NaN where not known.
        event: (n,) true where the event ended it, false where censored.
        known: (n,) rows with both.
        name: of the event column.
        unit: days, weeks, months or years where the time column says so, else ''.
        notes: how both columns were read, and how many rows are left out.
    """

    time: Float
    event: Bools
    known: Bools
    name: str
    unit: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A column to test or to adjust for.

    Attributes:
        kind: `categorical`, or `continuous`.
        numbers: (n,) values of a continuous column, NaN where not known; else all NaN.
        texts: (n,) values of a categorical column, '' where not known; else all ''.
        levels: the categories, in order; none for a continuous column.
        known: (n,) rows with a value.
        told: how the column was read, in words.
    """

    name: str
    kind: Kind
    numbers: Float
    texts: Strings
    levels: tuple[str, ...]
    known: Bools
    told: str


def is_missing(value: Any) -> bool:
    """True for None, NaN and the words of `MISSING`."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def events(values: Sequence[Any], name: str, *, event_is: Collection[str] = ()) -> Events:
    """Which rows had the event.

    Recognised without help: TRUE/FALSE and yes/no; 1 and 0 (1 is the event); 2 and 1 (2 is the
    event, as in R's survival package); `1:DECEASED` and `0:LIVING`; and words such as dead and
    alive. With `event_is` those values, and no others, are events.

    Raises:
        InputError: the coding is not known or could mean two things, `event_is` names a value that
            does not occur, or all rows are alike.

    Example:
        >>> events(["0:LIVING", "1:DECEASED", None], "OS_STATUS").event.tolist()
        [False, True, False]
    """
    texts = ["" if is_missing(v) else _code(v) for v in values]
    known = np.array([t != "" for t in texts], dtype=bool)
    seen = sorted({t for t in texts if t})
    if not seen:
        raise InputError(f"{name} holds no value", found=f"{len(texts)} rows, all missing")
    meaning, remark = _named(seen, name, event_is) if event_is else _recognised(seen, name)
    event = np.array([bool(t) and meaning[t] for t in texts], dtype=bool)
    if event[known].all() or not event[known].any():
        what = "an event" if event[known].all() else "censored"
        raise InputError(
            f"every row of {name} is {what}: there is nothing to compare",
            found=f"{int(known.sum())} known values, all {some(seen)}",
            hint="another column, or --event-is VALUE if another value is the event",
        )
    words = {True: "an event", False: "censored"}
    parts = [
        f"{printable(t)} is {words[meaning[t]]} ({texts.count(t)})"
        for t in sorted(seen, key=lambda t: (not meaning[t], t))
    ]
    return Events(event, known, f"{name}: {', '.join(parts)}{remark}")


def times(values: Sequence[Any], name: str) -> tuple[Float, str]:
    """Follow-up times (n,), NaN where not known, and their unit by the column's name, or ''.

    Raises:
        ColumnError: a value is no number.
        InputError: a time is negative or infinite, or none is known.
    """
    numbers = _numbers(values, name)
    known = ~np.isnan(numbers)
    if not known.any():
        raise InputError(f"{name} holds no time", found=f"{len(numbers)} rows, all missing")
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        raise InputError(f"{infinite} times in {name} are infinite", hint=f'--where "{name} < …"')
    negative = int((numbers < 0).sum())
    if negative:
        raise InputError(
            f"{negative} times in {name} are negative",
            found=f"{float(np.nanmin(numbers)):g} is the lowest",
            hint=f'mend them, or leave these rows out: --where "{name} >= 0"',
        )
    return numbers, _unit(name)


def survival(
    time: Sequence[Any],
    event: Sequence[Any],
    *,
    time_name: str,
    event_name: str,
    event_is: Collection[str] = (),
) -> Survival:
    """Times and events of the same rows; see `times` and `events` for what is read and refused."""
    numbers, unit = times(time, time_name)
    read = events(event, event_name, event_is=event_is)
    known = read.known & ~np.isnan(numbers)
    if not (known & read.event).any() or not (known & ~read.event).any():
        raise InputError(
            f"rows with both {time_name} and {event_name} are all "
            + ("events" if (known & read.event).any() else "censored, or there are none"),
            found=f"{int(known.sum())} of {len(numbers)} rows have both",
        )
    notes = [read.coding, f"{time_name}: time in {unit}" if unit else
             f"{time_name}: time in a unit that its name does not tell"]  # fmt: skip
    lost = len(numbers) - int(known.sum())
    if lost:
        notes.append(f"{lost} of {len(numbers)} rows have no {time_name} or no {event_name}: "
                     "left out of the survival tests")  # fmt: skip
    return Survival(numbers, read.event, known, event_name, unit, tuple(notes))


def variable(values: Sequence[Any], name: str, *, kind: Kind | None = None) -> Variable:
    """A column as categories or as numbers: numbers with more than two values are continuous.

    Args:
        values: (n,) of a column.
        name: of the column, for messages.
        kind: what it is, where the rule would be wrong (a grade of 1 to 3).

    Raises:
        ColumnError: `continuous` was asked for and a value is no number.
        InputError: all rows are alike or missing, or text has too many different values.
    """
    present = [v for v in values if not is_missing(v)]
    distinct = {_text(v) for v in present}
    if len(distinct) < 2:
        raise InputError(
            f"{name} has " + ("one value only" if distinct else "no values") + ": nothing to test",
            found=f"{some(distinct)} in {len(present)} rows" if distinct else "all missing",
        )
    numeric = all(_number(v) is not None and not isinstance(v, bool) for v in present)
    chosen: Kind = kind or ("continuous" if numeric and len(distinct) > 2 else "categorical")
    n = len(values)
    if chosen == "continuous":
        numbers = _numbers(values, name)
        known = ~np.isnan(numbers)
        if not np.isfinite(numbers[known]).all():
            raise InputError(f"{name} holds infinite values")
        low, high = float(numbers[known].min()), float(numbers[known].max())
        told = f"{name}: continuous, {low:g} to {high:g}{_lost(known)}"
        return Variable(name, chosen, numbers, np.full(n, "", dtype=str), (), known, told)
    if len(distinct) > MAX_CATEGORIES:
        raise InputError(
            f"{name} has {len(distinct)} different values: too many for categories",
            found=some(sorted(distinct)),
            hint=f"test {name}:continuous" if numeric else "a column with fewer categories",
        )
    texts = np.array(["" if is_missing(v) else _text(v) for v in values], dtype=str)
    known = texts != ""
    levels = tuple(sorted(distinct, key=lambda t: (float(t), t)) if numeric else sorted(distinct))
    counted = [f"{printable(level)} {int((texts == level).sum())}" for level in levels]
    told = f"{name}: categorical, {', '.join(counted)}{_lost(known)}"
    return Variable(name, chosen, np.full(n, np.nan), texts, levels, known, told)


def _named(
    seen: Sequence[str], name: str, event_is: Collection[str]
) -> tuple[dict[str, bool], str]:
    """What every value means when the user says which are events."""
    wanted = {_code(v).casefold() for v in event_is}
    absent = wanted - {t.casefold() for t in seen}
    if absent:
        raise InputError(
            f"{name} never is {some(sorted(absent))}", found=some(seen, 10), hint="--event-is VALUE"
        )
    return {t: t.casefold() in wanted for t in seen}, ", as --event-is says"


def _recognised(seen: Sequence[str], name: str) -> tuple[dict[str, bool], str]:
    """What every value means by the known codings."""
    plain = {t.strip().lower(): t for t in seen}
    # No value is suggested: taken at its word, a wrong one turns a hazard ratio upside down.
    hint = "say which of them is the event: --event-is VALUE"
    if set(plain) <= {"0", "1"} or set(plain) <= set(_TRUE):
        if _REVERSED.search(name):
            raise InputError(
                f"{name} could be true where the event happened or where it did not",
                found=some(seen),
                hint=hint,
            )
        return {t: p == "1" or _TRUE.get(p, False) for p, t in plain.items()}, ""
    if set(plain) == {"1", "2"}:
        return {t: p == "2" for p, t in plain.items()}, (
            ", as in R's survival package (if not so: --event-is 1)"
        )
    meaning: dict[str, bool] = {}
    for word, t in plain.items():
        coded = _CBIOPORTAL.fullmatch(word)
        label = coded.group(2).strip() if coded else word
        by_word = True if label in _EVENT else False if label in _NO_EVENT else None
        by_code = coded.group(1) == "1" if coded else None
        if by_word is not None and by_code is not None and by_word != by_code:
            raise InputError(f"{name} contradicts itself", found=printable(t), hint=hint)
        found = by_code if by_word is None else by_word
        if found is None:
            raise InputError(
                f"it is not clear which values of {name} are events", found=some(seen), hint=hint
            )
        meaning[t] = found
    return meaning, ""


def _text(value: Any) -> str:
    """A value as text, a number without a needless fraction."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    number = _number(value)
    if number is not None and math.isfinite(number):
        return str(int(number)) if number == int(number) else repr(number)
    return str(value)


def _code(value: Any) -> str:
    """The same for the code of an event, where '1', '1.0' and 1 are alike."""
    number = None if isinstance(value, bool) else _number(value)
    return _text(value if number is None else number)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _numbers(values: Sequence[Any], name: str) -> Float:
    out = np.full(len(values), np.nan)
    bad = []
    for i, value in enumerate(values):
        if is_missing(value):
            continue
        number = _number(value)
        if number is None or isinstance(value, bool):
            bad.append(_text(value))
        else:
            out[i] = number
    if bad:
        raise ColumnError(f"{len(bad)} values of {name} are no numbers", found=some(bad))
    return out


def _unit(name: str) -> str:
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return next((u for u, p in _UNITS.items() if any(re.fullmatch(p, w) for w in words)), "")


def _lost(known: Bools) -> str:
    lost = int((~known).sum())
    return f"; {lost} missing" if lost else ""
