"""Gene sets held against a database: coverage and predictability of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from molquery.errors import GeneSetError, some
from molquery.evaluate.held_out import predictabilities
from molquery.genesets import collections, read
from molquery.genesets.match import match
from molquery.query.engine import Engine
from molquery.records import Provenance, Signature


@dataclass(frozen=True)
class Checked:
    """One row per gene set; `missing` names missing genes when a single set was checked."""

    table: pa.Table
    provenance: Provenance
    missing: str | None


def read_sets(name: str | None, extra: Sequence[Signature] = ()) -> tuple[Signature, ...]:
    """All sets, those of one collection or one file, or one named set.

    `extra` are the sets registered in the database.
    """
    known = (*extra, *collections.shipped())
    if name is None:
        return known
    if os.path.isfile(name):
        return read.read_sets(name)
    if collection := tuple(s for s in known if s.source == name):
        return collection
    return (collections.find(name, extra),)


def check_sets(engine: Engine, signatures: Sequence[Signature]) -> Checked:
    """Coverage of each set in the database, and held-out predictability where it can be scored."""
    scored = engine.reference.score(signatures)
    found = predictabilities(engine.operators, engine.pairs, scored.scores)
    quality = {s.name: p for s, p in zip(scored.signatures, found, strict=True)}
    rows: list[dict[str, Any]] = []
    missing = None
    for signature in signatures:
        try:
            coverage = match(
                signature, engine.reference.panel, min_genes=1, min_fraction=0
            ).coverage
            held, absent = len(coverage.found), coverage.missing
        except GeneSetError:  # none of its genes is here
            held, absent = 0, signature.genes
        p = quality.get(signature.name)
        rows.append(
            {
                "name": signature.name,
                "genes": len(signature.genes),
                "found": held,
                "r2": p.r2 if p else None,
                "r": p.r if p else None,
                "within_cohort_r": p.within_r if p else None,
                "usable": "yes" if p else "no: too few genes",
            }
        )
        if len(signatures) == 1 and absent:
            missing = f"Missing: {some(absent, 40)}"
    names = ("name", "genes", "found", "r2", "r", "within_cohort_r", "usable")
    table = pa.table({n: [row[n] for row in rows] for n in names})
    return Checked(table, engine.provenance("held-out", {}), missing)
