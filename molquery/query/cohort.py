"""Whole-cohort answers: scores of every slide for many signatures, and strata of one signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from molquery import stratify
from molquery.errors import GeneSetError, InputError
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.query import calibrate
from molquery.query.engine import Engine
from molquery.query.search import signature_notes
from molquery.records import Coverage, Predictability, Provenance, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.schema import COHORT


@dataclass(frozen=True)
class Scores:
    """Predicted scores, one row per slide and one column per signature, ready to write."""

    table: pa.Table
    skipped: dict[str, str]
    provenance: Provenance
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Strata:
    """Slides with their predicted score and stratum, and the cut points that made the strata."""

    table: pa.Table
    cut: stratify.Cut
    counts: dict[str, int]
    predictability: Predictability
    coverage: Coverage
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


def stratify_cohort(
    engine: Engine,
    signature: Signature,
    *,
    cut: str = "tertiles",
    within: str | None = None,
    where: str | None = None,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> Strata:
    """Strata of the slides by their predicted score; the cut points are part of the result.

    Args:
        cut: 'tertiles', 'median', 'quantiles:…' or 'value:…' (see `molquery.stratify`).
        within: 'cohort' to cut inside each cohort, None to cut the pooled scores.

    Raises:
        InputError: the cut is not possible, such as in a cohort with too few slides.
    """
    if within not in (None, COHORT):
        raise InputError("strata are cut pooled or within cohort", found=f"--within {within}")
    match, measured = engine.reference.score_one(
        signature, min_genes=min_genes, min_fraction=min_fraction
    )
    quality = engine.predictability(measured)
    notes = signature_notes(signature, match.coverage, match.lost, quality, strict=False)
    predicted = engine.predict(measured)[:, 0]
    allowed = engine.slides_where(where)
    if within:
        lost = int((allowed & (engine.cohorts == "")).sum())
        if lost:
            notes.append(f"{lost} slides have no cohort: left out of strata within cohort")
        allowed &= engine.cohorts != ""
    rows = np.flatnonzero(allowed)
    if len(rows) == 0:
        raise InputError("no slide satisfies the filter", found=f"--where {where}")
    scores = predicted[rows]
    cohorts = engine.cohorts[rows].tolist() if within else None
    fitted = stratify.fit_cuts(scores, cohorts, cut)
    labels = stratify.apply_cuts(scores, cohorts, fitted)
    percentiles, standard = calibrate.within_groups(scores, engine.cohorts[rows])
    columns = _identity(engine, rows)
    columns["score"] = scores
    columns["percentile"] = calibrate.percentile(scores)
    columns["cohort_percentile"] = pa.array(percentiles, mask=np.isnan(percentiles))
    columns["cohort_z"] = pa.array(standard, mask=np.isnan(standard))
    columns["stratum"] = labels.tolist()
    columns["basis"] = engine.basis(rows)
    if not within:
        notes += engine.unseen_note(allowed)
    provenance = engine.provenance(
        "soft-knn",
        {"cut": fitted.as_dict(), "where": where, "within": within},
        signature=signature.name,
        signature_sha256=signature.sha256,
        genes_found=match.coverage.found,
        genes_missing=match.coverage.missing,
        notes=tuple(notes),
    )
    counts = {label: int((labels == label).sum()) for label in fitted.labels}
    return Strata(
        pa.table(columns), fitted, counts, quality, match.coverage, provenance,
        tuple([*notes, *engine.notices]),
    )  # fmt: skip


def _identity(engine: Engine, rows: Any) -> dict[str, Any]:
    return {
        "slide_id": engine.slide_ids[rows].tolist(),
        "patient_id": engine.patients[rows].tolist(),
        "cohort": [c or None for c in engine.cohorts[rows].tolist()],
    }
