"""Tests of strata against outcomes that the database holds: metadata columns, measured genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from molquery.associate import Association, Associations, Curve, adjust, associate
from molquery.errors import ColumnError, InputError, some
from molquery.outcomes import Kind, Survival, Variable, survival, variable
from molquery.query.engine import Engine
from molquery.query.units import Called, Units, columns_of, per_unit

#: An outcome that starts so is the measured expression of a gene.
MEASURED = "rna:"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What strata are tested against; names of metadata columns.

    Attributes:
        time, event: columns of follow-up time and of the event, both or neither.
        event_is: values of the event column that are events, where that is not clear.
        tests: columns, or `rna:GENE` for a measured gene; `:categorical` or `:continuous` after
            the name says what it is.
        covariates: columns that Cox models are adjusted for.
        apart: test each cohort by itself.
        certain_only: leave out rows that are called uncertain.
    """

    time: str | None = None
    event: str | None = None
    event_is: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    apart: bool = False
    certain_only: bool = False

    def __bool__(self) -> bool:
        return bool(self.time or self.event or self.tests or self.covariates)


def tests_of(
    engine: Engine, units: Units, sets: Sequence[Called], outcomes: Outcomes
) -> Associations:
    """Every test of every set of strata, with q over all of them.

    Raises:
        InputError: rows share a patient, or an outcome cannot be read or tested.
    """
    names, counts = np.unique(units.patients[units.patients != ""], return_counts=True)
    if (counts > 1).any():
        raise InputError(
            "tests count patients, and here some have several slides",
            found=some(f"{p} ({c})" for p, c in zip(names, counts, strict=True) if c > 1),
            hint="--by patient; a cut file has to be fitted so: --by patient --save-cuts FILE",
        )
    followed, variables, covariates = _read(engine, units, outcomes)
    tests: list[Association] = []
    curves: list[Curve] = []
    notes: list[str] = []
    for one in sets:
        labels = np.where(one.reason == "", one.labels, "") if outcomes.certain_only else one.labels
        found = associate(
            labels, one.order, survival=followed, variables=variables, covariates=covariates,
            cohorts=units.cohorts, apart=outcomes.apart, scores=one.scores, ordered=one.ordered,
        )  # fmt: skip
        tests += [replace(t, strata=one.name) for t in found.tests]
        curves += [replace(c, strata=one.name) for c in found.curves]
        notes += [n for n in found.notes if n not in notes]
        if outcomes.certain_only:
            lost = int((one.reason != "").sum())
            notes.append(f"{one.name}: {lost} uncertain rows are left out of the tests")
    return Associations(tuple(adjust(tests)), tuple(curves), tuple(notes), followed)


def _read(
    engine: Engine, units: Units, outcomes: Outcomes
) -> tuple[Survival | None, list[Variable], list[Variable]]:
    """The outcome columns, one value per row."""
    if bool(outcomes.time) != bool(outcomes.event):
        raise InputError(
            "survival needs a time and an event column",
            found=f"only --{'time' if outcomes.time else 'event'}",
            hint="--time os_days --event os_event",
        )
    wanted: list[tuple[str, Kind | None]] = []
    for text in (*outcomes.tests, *outcomes.covariates):
        name, _, kind = text.rpartition(":")
        if kind == "categorical" or kind == "continuous":
            wanted.append((name, kind))  # type: ignore[arg-type]
        else:
            wanted.append((text, None))
    plain = [n for n, _ in wanted if not n.startswith(MEASURED)]
    columns = columns_of(engine, [*filter(None, (outcomes.time, outcomes.event)), *plain])

    def values(name: str) -> list[Any]:
        return per_unit(units, columns[name], name)

    followed = None
    if outcomes.time and outcomes.event:
        followed = survival(
            values(outcomes.time), values(outcomes.event), time_name=outcomes.time,
            event_name=outcomes.event, event_is=outcomes.event_is,
        )  # fmt: skip
    read = [
        variable(_measured(engine, units, n) if n.startswith(MEASURED) else values(n), n, kind=kind)
        for n, kind in wanted
    ]
    return followed, read[: len(outcomes.tests)], read[len(outcomes.tests) :]


def _measured(engine: Engine, units: Units, name: str) -> list[float | None]:
    """The measured expression of a gene, averaged over the profiles of each row's pairs."""
    gene = name.removeprefix(MEASURED)
    panel = engine.reference.panel
    if gene not in panel:
        raise ColumnError(
            f"no gene {gene} is measured in the profiles here", found=some(sorted(panel)),
            hint="rna:CD274, with the gene's current symbol",
        )  # fmt: skip
    values = engine.reference.expression[:, panel[gene]].astype(np.float64)
    place = np.full(len(engine.slide_ids), -1)
    place[units.rows] = units.code
    slide, profile = engine.pairs.slide, engine.pairs.profile
    used = (place[slide] >= 0) & ~np.isnan(values[profile])
    # A profile counts once for a patient, however many slides it is paired with.
    pairs = np.unique(np.stack([place[slide[used]], profile[used]]), axis=1)
    count = np.bincount(pairs[0], minlength=len(units.ids))
    total = np.bincount(pairs[0], values[pairs[1]], minlength=len(units.ids))
    return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]
