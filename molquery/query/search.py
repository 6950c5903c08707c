"""Search: a signature ranks the slides of an archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from molquery import index
from molquery.arrow import column
from molquery.errors import IndexFileError, InputError
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.query import calibrate
from molquery.query.answer import Answer, answer, in_words, signature_notes
from molquery.query.engine import Engine
from molquery.query.methods import DEFAULT_METHOD, check
from molquery.records import Coverage, Predictability, Provenance, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.schema import COHORT, PATIENT, SLIDES
from molquery.texts import Groups
from molquery.vectors import Bools, Float, Ints

#: How many candidates an index hands over to be ranked, per answer wanted, and at least.
_CANDIDATES_PER_HIT, _MIN_CANDIDATES = 250, 5_000


@dataclass(frozen=True)
class Ranking:
    """Slides ranked by a signature. Every score is H&E-predicted.

    Attributes:
        hits: one row per slide, best first, with the columns of `COLUMNS`.
        n_ranked: how many slides were ranked; `hits` holds the first k.
        answer: what is known of the signature in every slide.
    """

    hits: pa.Table
    n_ranked: int
    signature: Signature
    coverage: Coverage
    predictability: Predictability
    answer: Answer
    provenance: Provenance
    notes: tuple[str, ...]

    @property
    def agreement(self) -> float | None:
        """Spearman correlation, over slides of the whole archive, between the scores and the inner
        product with the signature's vector, which is what an index ranks by."""
        return self.answer.agreement

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values: hits, predictability, coverage, notes, provenance."""
        return {
            "signature": self.signature.name,
            "hits": self.hits.to_pylist(),
            "n_ranked": self.n_ranked,
            "predictability": asdict(self.predictability),
            "in_words": in_words(self.predictability),
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
    "low": f"lower end of the {calibrate.LEVEL:.0%} prediction interval of the measured score",
    "high": "its upper end; both are empty where too few patients have RNA to give one",
    "percentile": "of the score among all slides of the archive, 0 to 100; with --index, of "
    f"more than {calibrate.WHOLE:,}, among about {calibrate.SAMPLE:,} evenly spaced ones, as the "
    "next two are",
    "cohort_percentile": "of the score among the slides of its cohort",
    "cohort_z": "score minus the cohort's mean, in the cohort's standard deviations",
    "p": "share of random gene sets of like size and expression that score as high in this slide",
    "fdr": "p after Benjamini-Hochberg over the slides ranked; of more than "
    f"{calibrate.WHOLE:,}, over about {calibrate.SAMPLE:,} evenly spaced ones",
    "basis": "held-out: the patient has RNA, which was kept out; projected: the patient has none; "
    "unseen cohort: nor has anyone of the cohort, so only the order within it means something",
    "domain": "out: the slide is unlike those that the model has learned from (of ordinary slides "
    f"{calibrate.FALSE_ALARM:.0%} are); in: it is not",
}


def search(
    engine: Engine,
    signature: Signature,
    *,
    k: int = 20,
    where: str | None = None,
    within: str | None = None,
    method: str = DEFAULT_METHOD,
    scoring: str = DEFAULT_SCORING,
    null: int = calibrate.DEFAULT_NULL,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
    strict: bool = False,
    use_index: bool = False,
    device: str = "auto",
) -> Ranking:
    """Rank the slides of an archive by the predicted activity of a signature.

    Args:
        k: how many slides to return.
        where: SQL filter over the slides' metadata; percentiles still refer to the whole archive.
        within: a metadata column (usually cohort): slides are ranked by their score standardised
            inside their own group.
        method: what predicts the scores, one of `molquery.query.methods.METHODS`.
        scoring: how reference profiles are scored: 'mean_z', 'ssgsea' or 'rank'.
        null: number of random gene sets behind p, FDR and specificity; 0 leaves them out.
        strict: refuse a signature whose held-out correlation is below the floor.
        use_index: rank only what an index finds for the signature's vector, not every slide. Of
            more than `calibrate.WHOLE` slides, percentiles are then among a sample of them.
        device: where an index is searched: 'auto', 'cpu', 'gpu' or 'gpu:N'.

    Raises:
        GeneSetError: too few genes of the signature are in the database, or `strict` refuses.
        FilterError: `where` cannot be evaluated.
        InputError: the method or scoring is not known, or k or the null is too small.
    """
    check(method)
    if k < 1:
        raise InputError("k must be at least 1", found=str(k))
    sampled = use_index and not within and engine.n_slides > calibrate.WHOLE
    if not sampled:
        engine.look_ahead()
    allowed = engine.slides_where(where)
    found = answer(
        engine,
        signature,
        method=method,
        scoring=scoring,
        null=null,
        min_genes=min_genes,
        min_fraction=min_fraction,
        sampled=sampled,
    )
    coverage = found.match.coverage
    notes = signature_notes(signature, coverage, found.match.lost, found.quality, strict=strict)
    notes += found.notes
    standard: Float | None = None
    if within:
        own = within == COHORT
        groups = engine.by_cohort if own else Groups.of(engine.slide_column(within))
        standard = calibrate.within_groups(found.predicted, groups)[1]
        lost = int((allowed & np.isnan(standard)).sum())
        if lost:
            notes.append(f"{lost} slides have no {within}, or are alone in theirs: not ranked")
            allowed &= ~np.isnan(standard)
    index_name = None
    candidates = allowed
    if use_index:
        index_name, candidates = _candidates(engine, found.vector, allowed, k, device, notes)
    values = found.at if standard is None else standard.__getitem__
    mine = np.flatnonzero(candidates)
    rows = _top(values(mine), mine, k)
    if use_index:
        notes += _what_an_index_misses(rows, mine, None if sampled else values, allowed)

    low, high = found.interval(rows)
    cohort_percentile, cohort_z = found.within_cohort(rows)
    columns: dict[str, Any] = {
        "rank": np.arange(1, len(rows) + 1),
        "slide_id": engine.texts[SLIDES.key].at(rows).tolist(),
        "patient_id": engine.texts[PATIENT].at(rows).tolist(),
        "cohort": [c or None for c in engine.texts[COHORT].at(rows).tolist()],
        "score": found.at(rows),
        "low": low,
        "high": high,
        "percentile": found.percentile(rows),
        "cohort_percentile": cohort_percentile,
        "cohort_z": cohort_z,
    }
    if standard is not None and within != COHORT:
        columns[f"{within}_z"] = standard[rows]
    if sampled:
        n = len(engine.sample)
        notes.append(f"percentiles are among {n} evenly spaced ones of {engine.n_slides} slides")
        if lost := int(np.isnan(cohort_percentile).sum()):
            notes.append(
                f"no cohort_percentile and no cohort_z of {lost} slides: fewer than "
                f"{calibrate.LEAST_OF_GROUP} of these are of their cohort"
            )
    if found.has_p:
        ranked = np.flatnonzero(allowed)
        among = calibrate.sampled(ranked)
        p = found.p(np.concatenate([rows, among]))
        columns["p"] = p[: len(rows)]
        columns["fdr"] = calibrate.fdr(columns["p"], p[len(rows) :])
        if len(among) < len(ranked):
            notes.append(f"fdr is over {len(among)} evenly spaced ones of {len(ranked)} slides")
    columns["basis"] = engine.basis(rows)
    columns["domain"] = engine.domain(rows)
    if not within:
        notes += engine.unseen_note(allowed)
    notes += [*engine.domain_notes(allowed), *engine.interval_note(found.without_interval(allowed))]
    if not allowed.any():
        notes.append("no slide satisfies the filter")
    return Ranking(
        hits=pa.table({name: column(values) for name, values in columns.items()}),
        n_ranked=int(allowed.sum()),
        signature=signature,
        coverage=coverage,
        predictability=found.predictability,
        answer=found,
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
            genes_found=coverage.found,
            genes_missing=coverage.missing,
            index=index_name,
        ),
        notes=tuple([*notes, *engine.notices]),
    )


def _candidates(
    engine: Engine, vector: Float, allowed: Bools, k: int, device: str, notes: list[str]
) -> tuple[str | None, Bools]:
    """The slides nearest to the signature's vector, from the index or an exact scan."""
    wanted = max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * k)
    query = vector.astype(np.float32)[None, :]
    name = None
    try:
        loaded = engine.index(SLIDES, device=device, approximate=True)
        _, found = loaded.search(query, wanted, None if allowed.all() else allowed)
        name = loaded.name
        notes += loaded.notices
    except IndexFileError as error:
        if "--device" in error.what:
            raise
        notes.append(f"exact scan instead of an index: {error.what}")
        _, found = index.exact(engine.slide_vectors, query, wanted, allowed)
    mask = np.zeros(len(allowed), dtype=bool)
    mask[found[0][found[0] >= 0]] = True
    return name, mask


def _what_an_index_misses(
    rows: Ints, candidates: Ints, values: Callable[[Ints], Float] | None, allowed: Bools
) -> list[str]:
    """A note on slides that rank high and are not among the candidates.

    Args:
        rows: the slides that are returned.
        values: what is ranked by; None where it is known of the candidates alone.
    """
    n, every = len(candidates), np.flatnonzero(allowed)
    near = f"the {n} slides nearest to the signature's vector"
    if n == len(every):
        return []
    if values is None:
        return [f"only {near} are ranked: others may score higher (without --index all are ranked)"]
    missed = len(rows) - int(np.isin(rows, _top(values(every), every, len(rows))).sum())
    return [f"{missed} of the {len(rows)} that rank highest are not among {near}"] if missed else []


def _top(values: Float, rows: Ints, k: int) -> Ints:
    """The rows (n,), ascending, of the k highest values (n,); ties break by slide id."""
    if k < len(rows):
        least = -np.partition(-values, k - 1)[k - 1]
        rows, values = rows[values >= least], values[values >= least]
    # Rows are in id order, so a stable sort breaks ties by id.
    return rows[np.argsort(-values, kind="stable")[:k]]
