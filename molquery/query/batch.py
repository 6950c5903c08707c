"""Scores of a whole archive, a batch of slides at a time: memory does not grow with the archive.

The weights of an archive are applied to some slides after the other, and each batch is written
before the next is made. `cohort.score` gives the same numbers as one table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.database import Database
from molquery.errors import GeneSetError, some
from molquery.evaluate.held_out import describe
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.predict import PATIENT_SCHEME, Operator
from molquery.query.answer import FLOOR
from molquery.query.engine import Engine
from molquery.records import Provenance, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.threads import Mapper, in_turn
from molquery.vectors import Float, Ints, group_means

#: Slides at a time: with 200 neighbours each about 50 MB of weights.
BATCH = 32_768
#: Methods that apply stored weights, and so need no more than the slides of a batch.
METHODS = ("blend", "soft-knn", "ridge")


@dataclass(frozen=True)
class Batches:
    """Scores to come: one row per slide, one column per signature."""

    schema: pa.Schema
    rows: Iterator[pa.RecordBatch]
    n_rows: int
    skipped: dict[str, str]
    provenance: Provenance
    notes: tuple[str, ...]


def score_batches(
    engine: Engine,
    signatures: Sequence[Signature],
    *,
    where: str | None = None,
    method: str = "blend",
    scoring: str = DEFAULT_SCORING,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
    size: int = BATCH,
    mapper: Mapper | None = None,
) -> Batches:
    """The predicted score of every slide for every signature, as `cohort.score`, in batches.

    Args:
        method: one of `METHODS`.
        size: slides in a batch.
        mapper: who computes the batches, as processes of their own; this one when left out.

    Raises:
        GeneSetError: no signature has enough genes, or two columns would have one name.
    """
    if method not in METHODS:
        raise ValueError(f"{method} is not computed in batches")
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
    fields = [pa.field(name, pa.string()) for name in ("slide_id", "patient_id", "cohort")]
    names = [s.name for s in scored.signatures]
    taken = [n for n in names if n in {f.name for f in fields} or names.count(n) > 1]
    if taken:
        raise GeneSetError(
            f"a gene set is called {taken[0]}, as another column of the score table is",
            hint="rename it in the GMT file",
        )
    schema = pa.schema([*fields, *(pa.field(name, pa.float64()) for name in names)])
    operator = engine.operator

    pairs = engine.pairs
    slides, place = np.unique(pairs.slide, return_inverse=True)
    held = group_means(pairs.profile, Predict(operator, scored.scores, method)(slides)[place])[1]
    quality = describe({PATIENT_SCHEME: np.asarray(held)}, pairs, scored.scores)
    held_out = {name: p.headline_r for name, p in zip(names, quality, strict=True)}
    weak = [name for name, r in held_out.items() if r is None or r < FLOOR]
    notes = []
    if weak:
        notes.append(
            f"{len(weak)} of {len(names)} gene sets are hardly predictable from H&E here "
            f"(held-out correlation below {FLOOR}): {some(weak)}"
        )
    provenance = engine.provenance(
        method,
        {
            "scoring": scoring, "where": where, "interval": None,
            "gene_sets": {s.name: s.sha256 for s in scored.signatures},
            "genes_found": {
                s.name: len(m.positions)
                for s, m in zip(scored.signatures, scored.matches, strict=True)
            },
            "held_out_r": held_out, "skipped": dict(scored.skipped),
        },
    )  # fmt: skip
    notes += [*engine.unseen_note(allowed), *engine.domain_notes(allowed), *engine.notices]

    def batches() -> Iterator[pa.RecordBatch]:
        work: Predict | Remote = Predict(operator, scored.scores, method)
        if mapper is not None:
            work = Remote(engine.database, scored.scores, method)
        for some_rows, predicted in predict_batches(work, rows, size, mapper or in_turn):
            text: list[Any] = [
                engine.slide_ids[some_rows].tolist(),
                engine.patients[some_rows].tolist(),
                [c or None for c in engine.cohorts[some_rows].tolist()],
            ]
            columns = [pa.array(values, pa.string()) for values in text]
            columns += [pa.array(np.ascontiguousarray(column)) for column in predicted.T]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return Batches(schema, batches(), len(rows), scored.skipped, provenance, tuple(notes))


def predict_batches(
    work: Callable[[Ints], Float], rows: Ints, size: int = BATCH, mapper: Mapper = in_turn
) -> Iterator[tuple[Ints, Float]]:
    """Predicted scores of some slides, `size` at a time: their positions, and (n, S) float64.

    Args:
        work: what predicts the scores of slides at some positions.
        rows: positions of the slides.
    """
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return zip(batches, mapper(work, batches), strict=True)


@dataclass(frozen=True)
class Predict:
    """Scores (n, S) of slides at some positions.

    Attributes:
        operator: its arrays may be memory-mapped: only the rows of a batch are read.
        scores: (n_reference, S) of the signatures in the reference.
        method: one of `METHODS`.
    """

    operator: Operator
    scores: Float
    method: str = "blend"

    def __call__(self, rows: Ints) -> Float:
        """(n, S) float64 predicted scores of the slides at positions (n,)."""
        if self.method == "blend":
            return self.operator.apply(self.scores, rows)
        part = self.operator.soft if self.method == "soft-knn" else self.operator.linear
        return np.asarray(part(self.scores.astype(np.float32), rows), dtype=np.float64)


@dataclass(frozen=True)
class Remote:
    """As `Predict`, for another process: it opens the stored weights of the database itself."""

    database: Database
    scores: Float
    method: str

    def __call__(self, rows: Ints) -> Float:
        """(n, S) float64 predicted scores of the slides at positions (n,)."""
        return self._predict(rows)

    @cached_property
    def _predict(self) -> Predict:
        return Predict(Engine(self.database).operator, self.scores, self.method)
