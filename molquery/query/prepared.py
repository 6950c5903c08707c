"""What queries need and can be computed once per database state: made, stored, loaded.

The prediction weights, the reference's gene means and standard deviations, and the Hallmark
spectrum are derived from the tables and the space. They are kept in one file under `indexes/`,
named in the manifest with the state that they belong to and their sha256; a file of another state,
or a damaged one, is computed anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from molquery import predict
from molquery.database import Database
from molquery.evaluate.held_out import SPECTRUM_GENES, HeldOutPairs, predictabilities
from molquery.genesets import collections
from molquery.predict import Operator
from molquery.records import Predictability
from molquery.reference import Moments, Reference
from molquery.schema import PROFILES, SLIDES
from molquery.space import DEFAULT_SPACE, SharedSpace

_SECTION = "predictions"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Derived state of a database.

    Attributes:
        operators: prediction weights by fold scheme.
        moments: of every gene over the reference.
        spectrum: predictability of the Hallmark sets with enough genes, best first.
    """

    operators: Mapping[str, Operator]
    moments: Moments
    spectrum: Mapping[str, Predictability]


def state(database: Database, space_id: str) -> str:
    """The database state, and the version of the formulas, that prepared results belong to."""
    versions = [database.vectors_version(spec) for spec in (SLIDES, PROFILES)]
    return json.dumps([predict.SETTINGS, space_id, *versions])


def load(database: Database, space_id: str) -> Prepared | None:
    """What is stored for the database as it is now, or None when nothing usable is."""
    found = database.derived(_SECTION, DEFAULT_SPACE)
    if found is None or found[0]["state"] != state(database, space_id):
        return None
    _, path = found
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        told = json.loads(file.metadata()["molquery"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    operators = {
        scheme: Operator(**{f.name: arrays[f"{scheme}.{f.name}"] for f in fields(Operator)})
        for scheme in told["schemes"]
    }
    moments = Moments(*(arrays[f"moments.{f.name}"] for f in fields(Moments)))
    spectrum = {name: Predictability(**values) for name, values in told["spectrum"].items()}
    return Prepared(operators, moments, spectrum)


def compute(
    database: Database,
    space: SharedSpace,
    reference: Reference,
    pairs_of: Callable[[Operator], HeldOutPairs],
) -> Prepared:
    """Everything anew; takes seconds for thousands of slides.

    `pairs_of` gives the held-out pairs of an operator by patient.
    """
    operators = predict.compute_operators(database, space)
    scored = reference.score(collections.hallmark())
    keep = [i for i, m in enumerate(scored.matches) if len(m.positions) >= SPECTRUM_GENES]
    spectrum: dict[str, Predictability] = {}
    if keep:
        pairs = pairs_of(operators[predict.PATIENT_SCHEME])
        found = predictabilities(operators, pairs, scored.scores[:, keep])
        named = zip([scored.signatures[i].name for i in keep], found, strict=True)
        spectrum = dict(sorted(named, key=lambda item: (-standing(item[1]), item[0])))
    return Prepared(operators, reference.moments, spectrum)


def store(database: Database, space_id: str, prepared: Prepared) -> None:
    """Save what was computed and name it in the manifest with its state."""
    from safetensors.numpy import save

    arrays = {
        f"{scheme}.{f.name}": np.ascontiguousarray(getattr(operator, f.name))
        for scheme, operator in prepared.operators.items()
        for f in fields(Operator)
    }
    arrays |= {f"moments.{f.name}": getattr(prepared.moments, f.name) for f in fields(Moments)}
    told = {
        "schemes": list(prepared.operators),
        "spectrum": {name: asdict(p) for name, p in prepared.spectrum.items()},
    }
    blob = save(arrays, metadata={"molquery": json.dumps(told)})
    entry = {"state": state(database, space_id)}
    database.store_derived(
        _SECTION, DEFAULT_SPACE, entry, "predictions.safetensors", lambda p: p.write_bytes(blob)
    )


def standing(p: Predictability) -> float:
    """What the spectrum is ordered by: the within-cohort correlation, or the pooled one."""
    return -2.0 if p.headline_r is None else p.headline_r
