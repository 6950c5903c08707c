"""What queries need and can be computed once per database state: made, stored, mapped.

The prediction weights, the reference's gene means and standard deviations, and the Hallmark
spectrum are derived from the tables and the space. They are kept in one file under `indexes/`,
named in the manifest with the state that they belong to and their sha256; a file of another state,
or a damaged one, is computed anew; what is damaged in a large one is an error of the query that
reads it. The weights of a million slides are gigabytes, so they are
written some slides at a time and read through a memory map; of slides that came since, where
nothing else has changed, only theirs are computed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np

from molquery import predict
from molquery.database import Database
from molquery.database.drafts import Draft, read_arrays
from molquery.database.mapped import SUMS, Arrays, Checked, Rows, row_sums
from molquery.database.store import BATCH
from molquery.errors import DatabaseError
from molquery.evaluate.held_out import SPECTRUM_GENES, HeldOutPairs, predictabilities
from molquery.genesets import collections
from molquery.predict import BY_SLIDE, PATIENT_SCHEME, Excerpt, Fitted, Operator, is_small
from molquery.progress import Progress
from molquery.query import calibrate
from molquery.records import Predictability
from molquery.reference import Moments, Reference
from molquery.schema import PROFILES, SLIDES
from molquery.space import DEFAULT_SPACE, SharedSpace
from molquery.threads import Mapper
from molquery.vectors import Ints

#: The stage: fitting the models and computing the weights of all slides.
STAGE = "prediction weights"
_SECTION = "predictions"
_CONTENT = "slides"  # the array that tells which slides have not changed
#: Bytes up to which a file is checked before anything of it is used.
_LARGE = 1 << 28
_AHEAD = 8_192  # rows that are checked at a time
#: What of a larger one is checked as it is read.
_LATER = {f"{PATIENT_SCHEME}.{name}" for name in ("neighbours", "weights", "components")}
#: Rows of a large archive's operator that every query reads: those of the slides with RNA, and of
#: the slides that stand for all (`calibrate.sampled`).
_EXCERPT = "excerpt"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Derived state of a database.

    Attributes:
        operators: prediction weights by fold scheme.
        moments: of every gene over the reference.
        spectrum: predictability of the Hallmark sets with enough genes, best first.
        later: arrays of which rows are checked as they are taken.
    """

    operators: Mapping[str, Operator]
    moments: Moments
    spectrum: Mapping[str, Predictability]
    later: tuple[Rows, ...] = ()

    def check_ahead(self) -> None:
        """Begin to check the weights, while what does not need them is computed."""
        if self.later:
            Thread(target=self._check, daemon=True).start()

    def _check(self) -> None:
        with suppress(DatabaseError):  # who takes the damaged rows is told
            # From the end, since they will be taken from the beginning: nothing is checked twice.
            for start in reversed(range(0, len(self.later[0]), _AHEAD)):
                for array in self.later:
                    array.check(slice(start, start + _AHEAD))


def state(database: Database, space_id: str) -> str:
    """The database state, and the version of the formulas, that prepared results belong to."""
    versions = [database.vectors_version(spec) for spec in (SLIDES, PROFILES)]
    return json.dumps([predict.SETTINGS, space_id, *versions])


def load(database: Database, space_id: str) -> Prepared | None:
    """What is stored for the database as it is now, or None when nothing usable is.

    Its arrays are memory-mapped. Of a large file the weights are checked as they are read.
    """
    found = database.mapped(_SECTION, DEFAULT_SPACE)
    if found is None or found[0]["state"] != state(database, space_id):
        return None
    try:
        return _read(Arrays(found[1]))
    except DatabaseError:
        return None


def _read(arrays: Arrays) -> Prepared:
    told = json.loads(arrays.metadata["molquery"])
    large = len(arrays.file.content) > _LARGE

    def array(name: str) -> Any:
        later = large and name in _LATER
        return Rows(arrays, name) if later else arrays.whole(name)

    def rows_of(scheme: str) -> dict[str, Any]:
        return {name: array(f"{scheme}.{name}") for name in BY_SLIDE}

    operators = {
        scheme: Operator(**rows_of(scheme), solvers=array(f"{scheme}.solvers"))
        for scheme in told["schemes"]
    }
    if f"{_EXCERPT}.rows" in arrays:
        every = operators[PATIENT_SCHEME]
        excerpt = Excerpt(**rows_of(_EXCERPT), solvers=every.solvers)
        operators[PATIENT_SCHEME] = replace(every, excerpt=excerpt)
    moments = Moments(*(array(f"moments.{f.name}") for f in fields(Moments)))
    spectrum = {name: Predictability(**values) for name, values in told["spectrum"].items()}
    held = (getattr(operators[PATIENT_SCHEME], name) for name in BY_SLIDE)
    later = tuple(array for array in held if isinstance(array, Rows))
    return Prepared(operators, moments, spectrum, later)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to prepare: all of `Prepared` but the weights of all slides, which may be many."""

    fitted: Fitted
    moments: Moments
    spectrum: Mapping[str, Predictability]


def plan(
    database: Database,
    space: SharedSpace,
    reference: Reference,
    pairs_of: Callable[[Operator], HeldOutPairs],
) -> Plan:
    """Everything anew; takes seconds for thousands of slides with RNA.

    `pairs_of` gives the held-out pairs of an operator by patient.
    """
    fitted = predict.fit(database, space)
    scored = reference.score(collections.hallmark())
    keep = [i for i, m in enumerate(scored.matches) if len(m.positions) >= SPECTRUM_GENES]
    spectrum: dict[str, Predictability] = {}
    if keep:
        pairs = pairs_of(fitted.measured[predict.PATIENT_SCHEME])
        found = predictabilities(fitted.measured, pairs, scored.scores[:, keep])
        named = zip([scored.signatures[i].name for i in keep], found, strict=True)
        spectrum = dict(sorted(named, key=lambda item: (-standing(item[1]), item[0])))
    return Plan(fitted, reference.moments, spectrum)


def store(
    database: Database,
    space_id: str,
    planned: Plan,
    mapper: Mapper | None = None,
    progress: Progress | None = None,
) -> None:
    """Write what was planned, and name it in the manifest with its state.

    `mapper` is as in `Fitted.batches`; `progress` is told how many slides are done.

    Raises:
        DatabaseError, OutputError: as `Database.store_derived`.
    """
    entry = {"state": state(database, space_id), "basis": planned.fitted.basis}
    database.store_derived(
        _SECTION, DEFAULT_SPACE, entry, "predictions.safetensors",
        lambda path: _write(path, database, planned, mapper, progress),
    )  # fmt: skip


def aside(database: Database, planned: Plan, progress: Progress | None = None) -> Prepared:
    """What was planned, from a temporary file that goes with this process."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.safetensors"
        _write(path, database, planned, None, progress)
        return _read(Arrays(Checked(path, None)))


def _write(
    path: Path,
    database: Database,
    planned: Plan,
    mapper: Mapper | None,
    progress: Progress | None,
) -> None:
    """Write the file, some slides at a time. Weights that it held before are copied."""
    done = 0

    def put(part: Operator) -> None:
        nonlocal done
        _put(draft, PATIENT_SCHEME, part, part.rows)
        mine = np.flatnonzero(np.isin(part.rows, often))
        some = replace(part, **{name: getattr(part, name)[mine] for name in BY_SLIDE})
        _put(draft, _EXCERPT, some, np.searchsorted(often, some.rows))
        done += len(part.rows)
        if progress:
            progress(STAGE, done, n)

    fitted = planned.fitted
    n, predictor = len(fitted.slides.keys), fitted.predictor
    small = {
        f"{scheme}.{name}": getattr(operator, name)
        for scheme, operator in fitted.measured.items()
        if scheme != PATIENT_SCHEME
        for name in (*BY_SLIDE, "solvers")
    }
    small |= {f"moments.{f.name}": getattr(planned.moments, f.name) for f in fields(Moments)}
    small |= {f"{PATIENT_SCHEME}.solvers": predictor.solvers, _CONTENT: fitted.content}
    sample = fitted.measured[PATIENT_SCHEME]
    layout = {name: (array.dtype, array.shape) for name, array in small.items()}
    often = np.empty(0, np.int64)
    if n > calibrate.WHOLE and not is_small(n, sample.n_reference):
        often = np.union1d(calibrate.sampled(np.arange(n)), sample.rows)
    for scheme, count in ((PATIENT_SCHEME, n), (_EXCERPT, len(often))):
        for name in BY_SLIDE:
            array = getattr(sample, name)
            if count:
                layout[f"{scheme}.{name}"] = (array.dtype, (count, *array.shape[1:]))
    layout |= {name + SUMS: (np.dtype(np.uint64), (n,)) for name in _LATER}
    told = {
        "schemes": list(fitted.measured),
        "groups": list(predictor.groups),
        "spectrum": {name: asdict(p) for name, p in planned.spectrum.items()},
    }
    with Draft(path, layout, {"molquery": json.dumps(told)}) as draft:
        for name, array in small.items():
            draft.put(name, array)
        held = _held(database, fitted)
        known = np.flatnonzero(held.at >= 0) if held else np.empty(0, np.int64)
        for start in range(0, len(known), BATCH):
            positions = known[start : start + BATCH]
            assert held is not None
            put(held.weights(positions))
        new = np.flatnonzero(held.at < 0) if held else None
        for part in fitted.batches(database, new, mapper):
            put(part)


def _put(draft: Draft, scheme: str, part: Operator, places: Ints) -> None:
    """Write the weights of some slides to ascending places (n_slides,)."""
    # Places that follow one another are written at once.
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    bounds = [0, *breaks.tolist(), len(places)]
    arrays = {f"{scheme}.{name}": np.ascontiguousarray(getattr(part, name)) for name in BY_SLIDE}
    arrays |= {name + SUMS: row_sums(arrays[name]) for name in _LATER & arrays.keys()}
    for name, array in arrays.items():
        for first, last in itertools.pairwise(bounds):
            if last > first:
                draft.put(name, array[first:last], int(places[first]))


@dataclass(frozen=True, slots=True)
class _Held:
    """Weights that are stored already, of slides that have not changed.

    Attributes:
        at: (n_slides,) the row of each slide in what is stored; -1 where it is not there.
        group: (n_groups_stored,) the solver of now for each that was stored.
    """

    operator: Operator
    at: Ints
    group: Ints

    def weights(self, positions: Ints) -> Operator:
        """Those of some slides, as they are to be stored anew."""
        rows = self.at[positions]
        found = {name: getattr(self.operator, name)[rows] for name in BY_SLIDE}
        found |= {"rows": positions, "group": self.group[found["group"]]}
        return Operator(**found, solvers=self.operator.solvers)


def _held(database: Database, fitted: Fitted) -> _Held | None:
    """What of the stored weights can be kept: where nothing that models learn from has changed."""
    entry = database.manifest()[_SECTION].get(DEFAULT_SPACE)
    if entry is None or entry.get("basis") != fitted.basis:
        return None
    found = database.derived(_SECTION, DEFAULT_SPACE)
    if found is None:
        return None
    arrays, metadata = read_arrays(found[1])
    told = json.loads(metadata["molquery"])
    stored: dict[str, Any] = {
        name: arrays[f"{PATIENT_SCHEME}.{name}"] for name in (*BY_SLIDE, "solvers")
    }
    operator = Operator(**stored)
    order = np.argsort(arrays[_CONTENT][:, 0], kind="stable")
    held = arrays[_CONTENT][order]
    at = np.minimum(np.searchsorted(held[:, 0], fitted.content[:, 0]), len(held) - 1)
    same = (held[at] == fitted.content).all(axis=1)
    now = fitted.predictor.groups
    group = np.array([now.get((f, c), -1) for f, c in told["groups"]], dtype=np.int64)
    return _Held(operator, np.where(same, order[at], -1), group)


def standing(p: Predictability) -> float:
    """What the spectrum is ordered by: the within-cohort correlation, or the pooled one."""
    return -2.0 if p.headline_r is None else p.headline_r
