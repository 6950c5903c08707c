"""Scores of every slide for many signatures. Strata are in `strata`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.errors import GeneSetError
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.query.engine import Engine
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
    scoring: str = DEFAULT_SCORING,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> Scores:
    """The predicted score of every slide for every signature, in the units of the scoring.

    Signatures with too few genes in the database are left out and reported in `skipped`.

    Raises:
        GeneSetError: no signature has enough genes.
    """
    allowed = engine.slides_where(where)
    rows = np.flatnonzero(allowed)
    scored = engine.reference.score(
        signatures, method=scoring, min_genes=min_genes, min_fraction=min_fraction
    )
    if not scored.signatures:
        raise GeneSetError(
            "no gene set has enough genes in this database",
            found="; ".join(f"{k}: {v}" for k, v in list(scored.skipped.items())[:3]),
            hint="molquery genesets check, or --min-genes",
        )
    predicted = engine.predict(scored.scores)[rows]
    columns: dict[str, Any] = _identity(engine, rows)
    for s, signature in enumerate(scored.signatures):
        if signature.name in columns:
            raise GeneSetError(
                f"a gene set is called {signature.name}, as a column of the score table is",
                hint="rename it in the GMT file",
            )
        columns[signature.name] = predicted[:, s]
    provenance = engine.provenance(
        "soft-knn",
        {
            "scoring": scoring,
            "where": where,
            "gene_sets": {s.name: s.sha256 for s in scored.signatures},
            "genes_found": {
                s.name: len(m.positions)
                for s, m in zip(scored.signatures, scored.matches, strict=True)
            },
            "skipped": dict(scored.skipped),
        },
    )
    notes = (*engine.unseen_note(allowed), *engine.notices)
    return Scores(pa.table(columns), scored.skipped, provenance, notes)


def _identity(engine: Engine, rows: Any) -> dict[str, Any]:
    return {
        "slide_id": engine.slide_ids[rows].tolist(),
        "patient_id": engine.patients[rows].tolist(),
        "cohort": [c or None for c in engine.cohorts[rows].tolist()],
    }
