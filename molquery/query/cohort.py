"""Scores of every slide for many signatures. Strata are in `strata`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.errors import GeneSetError, some
from molquery.evaluate.held_out import describe
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.predict import PATIENT_SCHEME
from molquery.query import calibrate
from molquery.query.answer import FLOOR
from molquery.query.engine import Engine
from molquery.query.methods import DEFAULT_METHOD, check, predict
from molquery.records import Provenance, Signature
from molquery.reference import DEFAULT_SCORING


@dataclass(frozen=True)
class Scores:
    """Predicted scores, one row per slide and one column per signature, ready to write."""

    table: pa.Table
    skipped: dict[str, str]
    provenance: Provenance
    notes: tuple[str, ...]


def score(
    engine: Engine,
    signatures: Sequence[Signature],
    *,
    where: str | None = None,
    method: str = DEFAULT_METHOD,
    scoring: str = DEFAULT_SCORING,
    intervals: bool = False,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> Scores:
    """The predicted score of every slide for every signature, in the units of the scoring.

    Signatures with too few genes in the database are left out and reported in `skipped`.

    Args:
        method: what predicts the scores, one of `molquery.query.methods.METHODS`.
        scoring: how reference profiles are scored: 'mean_z', 'ssgsea' or 'rank'.
        intervals: add `<set>_low` and `<set>_high` after each signature's column, the prediction
            interval at `calibrate.LEVEL`, and each slide's basis and domain as last columns.

    Raises:
        GeneSetError: no signature has enough genes, or two columns would have one name.
        InputError: the method or scoring is not known.
    """
    check(method)
    allowed = engine.slides_where(where)
    rows = np.flatnonzero(allowed)
    scored = engine.reference.score(
        signatures, method=scoring, min_genes=min_genes, min_fraction=min_fraction
    )
    if not scored.signatures:
        raise GeneSetError(
            "no gene set can be scored in this database",
            found="; ".join(f"{k}: {v}" for k, v in list(scored.skipped.items())[:3]),
            hint="molquery genesets check, or --min-genes",
        )
    sets = [(m.positions, m.weights) for m in scored.matches]
    predicted = predict(engine, method, scored.scores, sets)
    columns: dict[str, Any] = _identity(engine, rows)

    def add(name: str, values: Any) -> None:
        if name in columns:
            raise GeneSetError(
                f"a gene set is called {name}, as a column of the score table is",
                hint="rename it in the GMT file",
            )
        columns[name] = values

    notes: list[str] = []
    for s, signature in enumerate(scored.signatures):
        add(signature.name, predicted[rows, s])
        if intervals:
            ends = engine.intervals(predicted[:, s], scored.scores[:, s], method=method)
            notes = engine.interval_note(int(np.isnan(ends[0][rows]).sum()))
            for end, values in zip(("low", "high"), ends, strict=True):
                chosen = values[rows]
                add(f"{signature.name}_{end}", pa.array(chosen, mask=np.isnan(chosen)))
    if intervals:
        add("basis", engine.basis(rows))
        add("domain", engine.domain(rows))
    pairs = engine.pairs
    quality = describe({PATIENT_SCHEME: pairs.average(predicted)}, pairs, scored.scores)
    held_out = {s.name: p.headline_r for s, p in zip(scored.signatures, quality, strict=True)}
    weak = [name for name, r in held_out.items() if r is None or r < FLOOR]
    if weak:
        notes.append(
            f"{len(weak)} of {len(held_out)} gene sets are hardly predictable from H&E here "
            f"(held-out correlation below {FLOOR}): {some(weak)}"
        )
    provenance = engine.provenance(
        method,
        {
            "scoring": scoring,
            "where": where,
            "interval": calibrate.LEVEL if intervals else None,
            "gene_sets": {s.name: s.sha256 for s in scored.signatures},
            "genes_found": {
                s.name: len(m.positions)
                for s, m in zip(scored.signatures, scored.matches, strict=True)
            },
            "held_out_r": held_out,
            "skipped": dict(scored.skipped),
        },
    )
    notes += [*engine.unseen_note(allowed), *engine.domain_notes(allowed), *engine.notices]
    return Scores(pa.table(columns), scored.skipped, provenance, tuple(notes))


def _identity(engine: Engine, rows: Any) -> dict[str, Any]:
    return {
        "slide_id": engine.slide_ids[rows].tolist(),
        "patient_id": engine.patients[rows].tolist(),
        "cohort": [c or None for c in engine.cohorts[rows].tolist()],
    }
