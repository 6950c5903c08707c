"""What a query works out of one signature before it filters, ranks or cuts.

Scores of every slide with their intervals, percentiles and p, how well held-out patients say the
signature is predicted, and what a user must know before trusting it. An engine remembers answers,
so that the same signature asked again costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from molquery.errors import GeneSetError, InputError
from molquery.evaluate.held_out import correlation
from molquery.evaluate.metrics import optional, spearman
from molquery.genesets.match import MIN_FRACTION, MIN_GENES, Match
from molquery.genesets.scoring import GeneSet
from molquery.query import calibrate
from molquery.query.engine import Engine
from molquery.query.methods import DEFAULT_METHOD, predict
from molquery.query.vector import signature_vector
from molquery.records import Coverage, Predictability, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.vectors import Float

#: Held-out correlation (within cohort) under which a signature is called hardly predictable.
FLOOR = 0.2
#: Signatures whose answers an engine remembers: some arrays of one number per slide each.
_REMEMBERED = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a signature in every slide; arrays (n_slides,), notes for the user.

    Attributes:
        predicted: scores by the method, in the units of the scoring.
        low, high: prediction interval at `calibrate.LEVEL`; NaN where none can be given.
        percentile, cohort_percentile, cohort_z: of the scores, in the archive and the cohort.
        p: share of random sets that score as high; None where no null was asked for.
        vector: (dim,) of the shared space, whose inner product with slides follows the scores;
            agreement: the rank correlation of the two.
    """

    match: Match
    predictability: Predictability
    predicted: Float
    low: Float
    high: Float
    percentile: Float
    cohort_percentile: Float
    cohort_z: Float
    p: Float | None
    vector: Float
    agreement: float | None
    notes: tuple[str, ...]


def answer(
    engine: Engine,
    signature: Signature,
    *,
    method: str = DEFAULT_METHOD,
    scoring: str = DEFAULT_SCORING,
    null: int = calibrate.DEFAULT_NULL,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> Answer:
    """The answer for a signature, remembered by the engine.

    Args:
        method: one of `molquery.query.methods.METHODS`.
        scoring: how reference profiles are scored.
        null: number of random gene sets behind p and specificity, at least 100; 0 for none.

    Raises:
        GeneSetError: too few genes of the signature are in the database, or it does not vary.
        InputError: the method or scoring is not known, or the null is too small.
    """
    if null < 0 or 0 < null < calibrate.LEAST_NULL:
        raise InputError(
            f"a null needs at least {calibrate.LEAST_NULL} random sets (0 turns it off)",
            found=str(null),
        )
    key = (signature.sha256, method, scoring, null, min_genes, min_fraction)
    if key in engine.answers:
        return engine.answers[key]  # type: ignore[no-any-return]
    match, measured = engine.reference.score_one(
        signature, method=scoring, min_genes=min_genes, min_fraction=min_fraction
    )
    sets = [(match.positions, match.weights)]
    predicted = predict(engine, method, measured, sets)[:, 0]
    quality = engine.predictability(measured, method=method, sets=sets)
    p: Float | None = None
    notes: list[str] = []
    if null:
        random = _random(engine, signature, match, scoring, null)
        if len(random.sets) >= calibrate.LEAST_NULL:
            by_chance = predict(engine, method, random.scores, random.sets)
            p = calibrate.null_statistics(predicted, by_chance)[0]
            quality = _specificity(engine, quality, by_chance, random.scores)
        notes = random.notes
    low, high = engine.intervals(predicted, measured[:, 0], method=method)
    vector = signature_vector(engine.slide_vectors, predicted)
    cohort_percentile, cohort_z = calibrate.within_groups(predicted, engine.cohorts)
    found = Answer(
        match=match,
        predictability=quality,
        predicted=predicted,
        low=low,
        high=high,
        percentile=calibrate.percentile(predicted),
        cohort_percentile=cohort_percentile,
        cohort_z=cohort_z,
        p=p,
        vector=vector,
        agreement=optional(spearman(engine.slide_vectors @ vector, predicted)),
        notes=tuple(notes),
    )
    if len(engine.answers) >= _REMEMBERED:
        engine.answers.pop(next(iter(engine.answers)))
    engine.answers[key] = found
    return found


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
    value = quality.headline_r
    if value is None or value < FLOOR:
        where = "within cohorts" if quality.within_r is not None else "over all slides"
        text = "cannot be measured" if value is None else f"is r = {value:.2f} {where}"
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


def in_words(p: Predictability) -> str:
    """How far to trust a signature's scores, as one plain sentence."""
    value = p.headline_r
    if value is None:
        return "how well it is predicted from H&E cannot be measured here"
    hardly = value < FLOOR
    text = "hardly predicted from H&E" if hardly else "predicted from H&E"
    if p.rank and p.of:
        part = next(name for limit, name in _PARTS if p.rank <= limit * p.of)
        text += f"{', like' if hardly else ' about as well as'} the {part} of Hallmark sets"
    weak = {c: r for c, r in p.by_cohort.items() if r is not None and r < FLOOR}
    if weak and not hardly:
        named = ", ".join(f"{c} (r {r:.2f})" for c, r in sorted(weak.items(), key=lambda i: i[1]))
        text += f"; within {named} it is weak"
    beaten = p.specificity_percentile
    if beaten is not None and beaten >= _SPECIFIC:
        text += f"; better than {min(int(beaten), 99)} % of random gene sets like it"
    elif beaten is not None:
        how = "only somewhat better than" if beaten > 50 else "no better than"
        text += f"; {how} random gene sets like it (than {int(beaten)} % of them)"
    return text


#: Parts of the Hallmark spectrum, by the share of its sets that are predicted at least as well.
_PARTS = ((0.2, "top fifth"), (0.5, "upper half"), (0.8, "lower half"), (1.0, "bottom fifth"))
#: A signature is called better than random sets when it is predicted better than this many, in %.
_SPECIFIC = 95


@dataclass(frozen=True, slots=True)
class _Random:
    """Random gene sets like a signature, and their scores (n_reference, n)."""

    sets: list[GeneSet]
    scores: Float
    notes: list[str]


def _random(
    engine: Engine, signature: Signature, match: Match, scoring: str, count: int
) -> _Random:
    """Random sets, without those that some profile cannot be scored for."""
    seed = [0, int(signature.sha256[:8], 16)]
    sets = calibrate.random_sets(
        engine.reference, match.positions, match.weights, count=count, seed=seed
    )
    scores = engine.reference.matrix(sets, scoring)
    known = np.flatnonzero(~np.isnan(scores).any(axis=0) & (scores.std(axis=0) > 0))
    notes = []
    if len(known) < calibrate.LEAST_NULL:
        notes.append(
            f"no p and no specificity: only {len(known)} of {count} random gene sets can be scored "
            "in every profile"
        )
    own = int(np.isin(sets[0][0], match.positions).sum())
    if own:
        notes.append(
            f"the panel has too few other genes of like expression: {own} of the "
            f"{len(match.positions)} genes of every random set are the signature's own, "
            "so p is too large and specificity too small"
        )
    return _Random([sets[i] for i in known], scores[:, known], notes)


def _specificity(
    engine: Engine, quality: Predictability, by_chance: Float, random_scores: Float
) -> Predictability:
    """Predictability, with how far it stands above that of random sets."""
    pairs = engine.pairs
    random = correlation(
        pairs.average(by_chance),
        random_scores[pairs.profiles],
        pairs.cohorts,
        pooled=quality.within_r is None,
    )
    random = random[~np.isnan(random)]
    value = quality.headline_r
    if value is None or len(random) < calibrate.LEAST_NULL:
        return quality
    mean, sd = float(random.mean()), float(random.std())
    return replace(
        quality,
        random_r=mean,
        specificity=value - mean,
        specificity_z=(value - mean) / sd if sd > 0 else None,
        specificity_percentile=100 * float((random < value).mean()),
    )
