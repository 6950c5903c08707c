"""What an evaluation validates beside retrieval and gene sets: named by the user, or by default.

A file of tasks is TOML:

    [[contrast]]                     # does a signature tell two groups apart?
    signature = "NSCLC_SQUAMOUS_MARKERS"
    minus = "NSCLC_ADENO_MARKERS"    # optional: genes that count the other way
    column = "cohort"
    high = "TCGA-LUSC"
    low = "TCGA-LUAD"

    [[gene_groups]]                  # does a predicted signature rise with a measured gene?
    signature = "HALLMARK_INTERFERON_GAMMA_RESPONSE"
    gene = "CD274"

    [[labels]]                       # does a signature tell each label from the others?
    column = "archetype"
    signatures = ["HALLMARK_INTERFERON_GAMMA_RESPONSE"]

    [[survival]]                     # do predicted strata differ in survival?
    time = "os_days"
    event = "os_event"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from molquery.errors import ColumnError, GeneSetError, InputError, some
from molquery.genesets import collections
from molquery.genesets.registered import registered
from molquery.query.engine import Engine
from molquery.records import Signature
from molquery.schema import COHORT, SLIDES

#: What stands for immune infiltrate, fibrosis and proliferation where nothing else is named.
SIGNATURES = (
    "HALLMARK_INTERFERON_GAMMA_RESPONSE",
    "HALLMARK_ALLOGRAFT_REJECTION",
    "HALLMARK_EPITHELIAL_MESENCHYMAL_TRANSITION",
    "FIBROBLAST_TGFB_RESPONSE",
    "HALLMARK_E2F_TARGETS",
    "HALLMARK_HYPOXIA",
)
#: Signed signatures of the squamous against the adenocarcinoma subtype of lung cancer: the
#: published one, and one made of the same cohorts for panels without keratins.
_LUNG = (
    ("NSCLC_SQUAMOUS_MARKERS", "NSCLC_ADENO_MARKERS"),
    ("DERIVED_LUSC_HIGH_12", "DERIVED_LUAD_HIGH_12"),
)
_IMMUNE, _CHECKPOINT = "HALLMARK_INTERFERON_GAMMA_RESPONSE", "CD274"


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two groups that a signature should tell apart: `high` above `low` in a column of slides."""

    signature: Signature
    column: str
    high: str
    low: str
    caution: str = ""


@dataclass(frozen=True, slots=True)
class GeneGroups:
    """A signature that should rise over tertiles of the measured expression of a gene."""

    signature: Signature
    gene: str


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of slides whose every value signatures may tell from all others."""

    column: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Survival columns of slides, and the signatures whose predicted strata are compared."""

    time: str
    event: str
    signatures: tuple[Signature, ...]
    event_is: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tasks:
    """Everything to validate; `left_out` says which default does not apply here, and why."""

    contrasts: tuple[Contrast, ...] = ()
    gene_groups: tuple[GeneGroups, ...] = ()
    labels: tuple[Labels, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


def plan(
    engine: Engine,
    file: Path | None = None,
    *,
    labels: Sequence[str] = (),
    time: str | None = None,
    event: str | None = None,
    event_is: Sequence[str] = (),
) -> Tasks:
    """The tasks of a file, or those that the database's cohorts and genes suggest; and columns.

    Args:
        file: TOML as in the module's description; it replaces the default tasks.
        labels: columns of labels.
        time, event: survival columns; both or neither.
        event_is: values of `event` that are events, where it does not say so itself.

    Raises:
        InputError: the file is no TOML, or a task lacks a key; `time` without `event`.
        ColumnError: slides have no such column.
        GeneSetError: a signature is not known.
    """
    if bool(time) != bool(event):
        raise InputError(
            "survival needs a time and an event",
            found=f"--time {time}" if time else f"--event {event}",
            hint="name both columns: --time os_days --event os_event",
        )
    tasks = _read(engine, file) if file else _defaults(engine)
    usual = tuple(collections.find(name) for name in SIGNATURES)
    more = [Labels(column, usual) for column in labels]
    tasks = replace(tasks, labels=(*tasks.labels, *more))
    if time and event:
        outcome = Outcome(time, event, usual, tuple(event_is))
        tasks = replace(tasks, outcomes=(*tasks.outcomes, outcome))
    columns = [c.column for c in tasks.contrasts] + [t.column for t in tasks.labels]
    columns += [c for o in tasks.outcomes for c in (o.time, o.event)]
    held = engine.database.metadata_columns(SLIDES)
    for column in columns:
        if column not in held:
            raise ColumnError(f"slides have no column {column}", found=some(held, 30))
    return tasks


def _defaults(engine: Engine) -> Tasks:
    cohorts = sorted(set(engine.cohorts.tolist()) - {""})
    left_out: list[tuple[str, str]] = []
    contrasts: tuple[Contrast, ...] = ()
    high, low = (_ending(cohorts, end) for end in ("LUSC", "LUAD"))
    what = "lung cancer subtype from a signature"
    if high and low:
        found = _lung_signature(engine)
        if found:
            contrasts = (Contrast(found[0], COHORT, high, low, found[1]),)
        else:
            left_out.append((what, "too few squamous and adenocarcinoma genes in the panel"))
    else:
        left_out.append((what, "no two cohorts called LUSC and LUAD"))
    groups: tuple[GeneGroups, ...] = ()
    what = f"predicted interferon gamma by {_CHECKPOINT} expression"
    if _CHECKPOINT in engine.reference.panel:
        groups = (GeneGroups(collections.find(_IMMUNE), _CHECKPOINT),)
    else:
        left_out.append((what, f"{_CHECKPOINT} is not in the expression panel, or does not vary"))
    return Tasks(contrasts, groups, left_out=tuple(left_out))


def _lung_signature(engine: Engine) -> tuple[Signature, str] | None:
    for up, down in _LUNG:
        signature = _signed(collections.find(up), collections.find(down))
        parts = [_signed(collections.find(name), None) for name in (up, down)]
        # Both directions are needed: half of the signature would answer another question.
        if not engine.reference.score([signature, *parts]).skipped:
            caution = ""
            if up.startswith("DERIVED"):
                caution = (
                    "the signature was made from median expression of these two cohorts, because "
                    "the panel lacks the published markers: it is not independent of the labels"
                )
            return signature, caution
    return None


def _ending(cohorts: Sequence[str], end: str) -> str | None:
    return next((c for c in cohorts if c.upper().endswith(end)), None)


def _signed(up: Signature, down: Signature | None) -> Signature:
    if down is None:
        return up
    weights = {**up.weights, **{gene: -weight for gene, weight in down.weights.items()}}
    return Signature(f"{up.name} minus {down.name}", weights, up.description, up.source)


def _read(engine: Engine, file: Path) -> Tasks:
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read", found=error.strerror) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML", found=str(error)) from error
    known = registered(engine.database)

    def find(name: Any) -> Signature:
        return collections.find(str(name), known)

    def contrast(t: Mapping[str, Any]) -> Contrast:
        down = find(t["minus"]) if "minus" in t else None
        signature = _signed(find(t["signature"]), down)
        return Contrast(signature, str(t["column"]), str(t["high"]), str(t["low"]))

    def signatures(t: Mapping[str, Any]) -> tuple[Signature, ...]:
        return tuple(find(name) for name in t.get("signatures", SIGNATURES))

    def outcome(t: Mapping[str, Any]) -> Outcome:
        events = tuple(str(v) for v in t.get("event_is", ()))
        return Outcome(str(t["time"]), str(t["event"]), signatures(t), events)

    made: dict[str, list[Any]] = {}
    kinds: dict[str, tuple[set[str], set[str], Callable[[Mapping[str, Any]], Any]]] = {
        "contrast": ({"signature", "column", "high", "low"}, {"minus"}, contrast),
        "gene_groups": ({"signature", "gene"}, set(),
                        lambda t: GeneGroups(find(t["signature"]), str(t["gene"]))),
        "labels": ({"column"}, {"signatures"},
                   lambda t: Labels(str(t["column"]), signatures(t))),
        "survival": ({"time", "event"}, {"event_is", "signatures"}, outcome),
    }  # fmt: skip
    if not content or set(content) - set(kinds):
        raise InputError(
            f"{file} names no task that there is",
            found=some(sorted(set(content) - set(kinds))) if content else "nothing",
            hint=", ".join(f"[[{kind}]]" for kind in kinds),
        )
    for kind, entries in content.items():
        needed, allowed, make = kinds[kind]
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise InputError(f"{kind} in {file} is not a list of tasks", hint=f"[[{kind}]]")
        for entry in entries:
            lacking, strange = needed - set(entry), set(entry) - needed - allowed
            for key in ("signatures", "event_is"):
                if not isinstance(entry.get(key, []), list):
                    raise InputError(f"{key} of [[{kind}]] in {file} is not a list")
            if lacking or strange:
                raise InputError(
                    f"a [[{kind}]] of {file} " + (f"has no {some(sorted(lacking))}" if lacking
                                                  else f"has unknown keys: {some(strange)}"),
                    hint=f"keys: {', '.join(sorted(needed | allowed))}",
                )  # fmt: skip
            made.setdefault(kind, []).append(make(entry))
    for group in made.get("gene_groups", []):
        if group.gene not in engine.reference.panel:
            raise GeneSetError(
                f"{group.gene} is not in the expression panel, or does not vary",
                hint="molquery genesets check",
            )
    return Tasks(
        *(tuple(made.get(kind, ())) for kind in ("contrast", "gene_groups", "labels", "survival"))
    )
