"""Search: a signature ranks the slides of an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from molquery import index
from molquery.errors import GeneSetError, IndexFileError, InputError
from molquery.evaluate.metrics import optional, spearman
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.query import calibrate
from molquery.query.engine import Engine
from molquery.query.vector import signature_vector
from molquery.records import Coverage, Predictability, Provenance, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.schema import COHORT, SLIDES
from molquery.space import DEFAULT_SPACE
from molquery.vectors import Bools, Float, Ints

METHODS = ("soft-knn", "vector")
#: Held-out correlation (within cohort) under which a signature is called hardly predictable.
FLOOR = 0.2
#: How many candidates the index hands to soft-kNN, per answer wanted, and at least.
_CANDIDATES_PER_HIT, _MIN_CANDIDATES = 20, 200


@dataclass(frozen=True)
class Ranking:
    """Slides ranked by a signature. Every score is H&E-predicted.

    Attributes:
        hits: one row per slide, best first, with the columns of `COLUMNS`.
        n_ranked: how many slides were ranked; `hits` holds the first k.
        agreement: Spearman correlation over all slides between the soft-kNN scores and the inner
            product with the signature's vector, which is what an index ranks by.
    """

    hits: pa.Table
    n_ranked: int
    signature: Signature
    coverage: Coverage
    predictability: Predictability
    agreement: float | None
    provenance: Provenance
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values: hits, predictability, coverage, notes, provenance."""
        return {
            "signature": self.signature.name,
            "hits": self.hits.to_pylist(),
            "n_ranked": self.n_ranked,
            "predictability": asdict(self.predictability),
            "coverage": {
                "found": list(self.coverage.found),
                "missing": list(self.coverage.missing),
                "fraction": self.coverage.fraction,
            },
            "vector_agreement": self.agreement,
            "notes": list(self.notes),
            "provenance": asdict(self.provenance),
        }

    def to_polars(self) -> Any:
        """The hits as a polars DataFrame."""
        import polars

        return polars.from_arrow(self.hits)

    def to_pandas(self) -> Any:
        """The hits as a pandas DataFrame."""
        return self.hits.to_pandas()


#: Columns of a ranking and what they mean; the README's table is made from this.
COLUMNS: Mapping[str, str] = {
    "rank": "1 is the highest",
    "slide_id": "the slide",
    "patient_id": "its patient",
    "cohort": "its cohort",
    "score": "predicted activity, in the units of the scoring (mean z over the reference)",
    "percentile": "of the score among all slides of the archive, 0 to 100",
    "cohort_percentile": "of the score among the slides of its cohort",
    "cohort_z": "score minus the cohort's mean, in the cohort's standard deviations",
    "p": "share of random gene sets of like size and expression that score as high in this slide",
    "fdr": "p after Benjamini-Hochberg over the slides ranked",
    "basis": "held-out: the patient has RNA, which was kept out; projected: the patient has none; "
    "unseen cohort: nor has anyone of the cohort, so only the order within it means something",
}


def search(
    engine: Engine,
    signature: Signature,
    *,
    k: int = 20,
    where: str | None = None,
    within: str | None = None,
    method: str = "soft-knn",
    scoring: str = DEFAULT_SCORING,
    null: int = calibrate.DEFAULT_NULL,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
    strict: bool = False,
    use_index: bool = True,
) -> Ranking:
    """Rank the slides of an archive by the predicted activity of a signature.

    Args:
        k: how many slides to return.
        where: SQL filter over the slides' metadata; percentiles still refer to the whole archive.
        within: a metadata column (usually cohort): slides are ranked by their score standardised
            inside their own group.
        method: 'soft-knn' scores every slide; 'vector' lets an index find candidates for the
            signature's vector and scores those.
        null: number of random gene sets behind p and FDR; 0 leaves both out.
        strict: refuse a signature whose held-out correlation is below the floor.

    Raises:
        GeneSetError: too few genes of the signature are in the database, or `strict` refuses.
        FilterError: `where` cannot be evaluated.
    """
    if method not in METHODS:
        raise InputError(f"{method} is not a search method", hint=f"--method {'|'.join(METHODS)}")
    if k < 1:
        raise InputError("k must be at least 1", found=str(k))
    if null < 0 or 0 < null < 100:
        raise InputError("a null needs at least 100 random sets (0 turns it off)", found=str(null))
    allowed = engine.slides_where(where)
    groups = engine.slide_column(within) if within and within != COHORT else engine.cohorts
    found, scores = engine.reference.score_one(
        signature, method=scoring, min_genes=min_genes, min_fraction=min_fraction
    )
    predictability = engine.predictability(scores)
    notes = signature_notes(signature, found.coverage, found.lost, predictability, strict=strict)

    predicted = engine.predict(scores)[:, 0]
    vector = signature_vector(engine.slide_vectors, predicted)
    agreement = optional(spearman(engine.slide_vectors @ vector, predicted))
    cohort_percentile, cohort_z = calibrate.within_groups(predicted, engine.cohorts)
    order_by = predicted
    if within:
        group_percentile, order_by = calibrate.within_groups(predicted, groups)
        if within == COHORT:
            cohort_percentile, cohort_z = group_percentile, order_by
        lost = int((allowed & np.isnan(order_by)).sum())
        if lost:
            notes.append(f"{lost} slides have no {within}, or are alone in theirs: not ranked")
            allowed &= ~np.isnan(order_by)
    index_name = None
    candidates = allowed
    if method == "vector":
        index_name, candidates = _candidates(engine, vector, allowed, k, use_index, notes)
    rows = _top(order_by, candidates, engine, k)

    columns: dict[str, Any] = {
        "rank": np.arange(1, len(rows) + 1),
        "slide_id": engine.slide_ids[rows].tolist(),
        "patient_id": engine.patients[rows].tolist(),
        "cohort": [c or None for c in engine.cohorts[rows].tolist()],
        "score": predicted[rows],
        "percentile": calibrate.percentile(predicted)[rows],
        "cohort_percentile": _nullable(cohort_percentile[rows]),
        "cohort_z": _nullable(cohort_z[rows]),
    }
    if within and within != COHORT:
        columns[f"{within}_z"] = order_by[rows]
    if null:
        p = _null_p(engine, signature, found.positions, found.weights, predicted, null, scoring)
        adjusted = np.full(len(p), np.nan)
        adjusted[allowed] = calibrate.fdr(p[allowed]) if allowed.any() else []
        columns["p"], columns["fdr"] = p[rows], adjusted[rows]
    columns["basis"] = engine.basis(rows)
    if not within:
        notes += engine.unseen_note(allowed)
    if not allowed.any():
        notes.append("no slide satisfies the filter")
    return Ranking(
        hits=pa.table(columns),
        n_ranked=int(allowed.sum()),
        signature=signature,
        coverage=found.coverage,
        predictability=predictability,
        agreement=agreement,
        provenance=engine.provenance(
            method,
            {
                "scoring": scoring,
                "k": k,
                "where": where,
                "within": within,
                "null": null,
                "neighbours": int(engine.operator.neighbours.shape[1]),
            },
            signature=signature.name,
            signature_sha256=signature.sha256,
            genes_found=found.coverage.found,
            genes_missing=found.coverage.missing,
            index=index_name,
        ),
        notes=tuple([*notes, *engine.notices]),
    )


def signature_notes(
    signature: Signature, coverage: Coverage, lost: str, quality: Predictability, *, strict: bool
) -> list[str]:
    """What a user must know about a signature before trusting its scores.

    Raises:
        GeneSetError: `strict`, and the held-out correlation is below the floor.
    """
    notes = []
    total = len(coverage.found) + len(coverage.missing)
    if coverage.fraction < 0.5:
        notes.append(
            f"only {len(coverage.found)} of {total} genes of {signature.name} are in this database"
        )
    if lost:
        notes.append(
            f"none of the {lost} genes of {signature.name} is in this database: "
            "the score speaks of the other direction alone"
        )
    value = quality.within_r if quality.within_r is not None else quality.r
    if value is None or value < FLOOR:
        text = "cannot be measured" if value is None else f"is r = {value:.2f} within cohorts"
        if strict:
            raise GeneSetError(
                f"{signature.name} is hardly predictable from H&E in this space",
                found=f"held-out correlation {text}; the floor is {FLOOR}",
                hint="leave out --strict to see the ranking all the same",
            )
        notes.append(
            f"hardly predictable from H&E here: held-out correlation {text} (floor {FLOOR})"
        )
    return notes


def _candidates(
    engine: Engine, vector: Float, allowed: Bools, k: int, use_index: bool, notes: list[str]
) -> tuple[str | None, Bools]:
    """The slides nearest to the signature's vector, from the index or an exact scan."""
    wanted = max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * k)
    query = vector.astype(np.float32)[None, :]
    name = None
    try:
        if not use_index:
            raise IndexFileError("the index was not asked for")
        loaded = index.load_current(engine.database, DEFAULT_SPACE, SLIDES)
        name = loaded.key
        _, found = loaded.search(query, wanted, None if allowed.all() else allowed)
    except IndexFileError as error:
        if use_index:
            notes.append(f"exact scan instead of an index: {error.what}")
        _, found = index.exact(engine.slide_vectors, query, wanted, allowed)
    mask = np.zeros(len(allowed), dtype=bool)
    mask[found[0][found[0] >= 0]] = True
    return name, mask


def _top(order_by: Float, candidates: Bools, engine: Engine, k: int) -> Ints:
    """Positions of the k highest values among the candidates; ties break by slide id."""
    rows = np.flatnonzero(candidates)
    # Rows are in id order, so a stable sort breaks ties by id.
    return rows[np.argsort(-order_by[rows], kind="stable")[:k]]


def _nullable(values: Float) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _null_p(
    engine: Engine,
    signature: Signature,
    positions: Ints,
    weights: Float,
    predicted: Float,
    count: int,
    scoring: str,
) -> Float:
    """p (n_slides,) of the predicted scores, remembered per signature."""
    key = (signature.sha256, count, scoring)
    if key not in engine.null_p:
        seed = [0, int(signature.sha256[:8], 16)]
        sets = calibrate.random_sets(engine.reference, positions, weights, count=count, seed=seed)
        null = engine.predict(engine.reference.matrix(sets, scoring))
        engine.null_p[key] = calibrate.null_statistics(predicted, null)[0]
    return engine.null_p[key]
