"""What a query works out of one signature before it filters, ranks or cuts.

Scores of every slide, the intervals, percentiles and p of those that are looked at, how well
held-out patients say the signature is predicted, and what a user must know before trusting it. An
engine remembers answers, so that the same signature asked again costs little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from molquery.errors import GeneSetError, InputError
from molquery.evaluate.held_out import correlation
from molquery.evaluate.metrics import empirical_p, optional, spearman
from molquery.genesets.match import MIN_FRACTION, MIN_GENES, Match
from molquery.genesets.scoring import GeneSet
from molquery.query import calibrate
from molquery.query.engine import Engine, HalfWidths
from molquery.query.methods import DEFAULT_METHOD, predict
from molquery.query.vector import signature_vector
from molquery.records import Coverage, Predictability, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.schema import SLIDES
from molquery.vectors import Bools, Float, Ints, Matrix

#: Held-out correlation (within cohort) under which a signature is called hardly predictable.
FLOOR = 0.2
#: Signatures whose answers an engine remembers: some arrays of one number per slide each.
_REMEMBERED = 32
_P_ROWS = 131_072  # slides that are compared with random sets at a time: 300 MB


class Answer:
    """What is known of a signature in every slide of an archive.

    What is said of slides is worked out where it is asked for. Where `rows` (n_rows,) are positions
    of slides, results have a value for each.

    Attributes:
        match: where its genes are in the panel.
        quality: how well held-out patients say that it is predicted.
        sampled: whether other slides than those asked about are looked at only in a sample: see
            `answer`.
        has_p: whether there are random sets to compare with.
        notes: for the user.
    """

    def __init__(
        self, engine: Engine, signature: Signature, method: str, scoring: str, null: int,
        least: tuple[int, float], sampled: bool,
    ) -> None:  # fmt: skip
        self._engine, self._method, self.sampled = engine, method, sampled
        self.match, self._measured = engine.reference.score_one(
            signature, method=scoring, min_genes=least[0], min_fraction=least[1]
        )
        self.notes: tuple[str, ...] = ()
        self.has_p = False
        if null:  # before the weights are needed: see `Engine.look_ahead`
            self._random = _random(engine, signature, self.match, scoring, null)
            self.notes = tuple(self._random.notes)
            self.has_p = len(self._random.sets) >= calibrate.LEAST_NULL
        self._sets = [(self.match.positions, self.match.weights)]
        self.quality = engine.predictability(self._measured, method=method, sets=self._sets)
        self._above: Predictability | None = None

    @cached_property
    def predicted(self) -> Float:
        """(n_slides,) scores by the method, in the units of the scoring."""
        return predict(self._engine, self._method, self._measured, self._sets)[:, 0]

    def at(self, rows: Ints) -> Float:
        """(n_rows,) `predicted` of some slides."""
        if not self.sampled:
            return self.predicted[rows]
        return predict(self._engine, self._method, self._measured, self._sets, slides=rows)[:, 0]

    def _by_chance(self, rows: Ints) -> Float:
        """(n_rows, n_random) scores of the random sets.

        Of the held-out slides too, where `predictability` waits for them: much of the work does not
        depend on the number of slides.
        """
        engine, random = self._engine, self._random
        pairs = engine.pairs.slide if self._above is None else rows[:0]
        both = np.concatenate([rows, pairs])
        if self._method == DEFAULT_METHOD:
            scores = engine.operator.roughly(random.scores, both).astype(np.float64)
        else:
            scores = predict(engine, self._method, random.scores, random.sets, slides=both)
        if self._above is None:
            self._above = _specificity(engine, self.quality, scores[len(rows) :], random.scores)
        return scores[: len(rows)]

    @property
    def predictability(self) -> Predictability:
        """How well held-out patients say that it is predicted, beside random sets where there are
        any."""
        if self.has_p and self._above is None:
            self._by_chance(np.empty(0, np.int64))
        return self._above or self.quality

    @cached_property
    def _p(self) -> Float:
        """(n_slides,) p of the slides that were asked for; NaN of the others."""
        return np.full(self._engine.n_slides, np.nan)

    def p(self, rows: Ints) -> Float:
        """Share of random sets that score as high."""
        new = np.unique(rows[np.isnan(self._p[rows])])
        for start in range(0, len(new), _P_ROWS):
            some = new[start : start + _P_ROWS]
            self._p[some] = empirical_p(self.at(some), self._by_chance(some))
        return self._p[rows]

    @cached_property
    def _half_widths(self) -> HalfWidths:
        known = self.at(self._engine.pairs.slide)
        return self._engine.half_widths(known, self._measured[:, 0], method=self._method)

    def interval(self, rows: Ints) -> tuple[Float, Float]:
        """Low and high end of the prediction interval at `calibrate.LEVEL`; NaN where none is."""
        half, middle = self._half_widths.at(rows), self.at(rows)
        return middle - half, middle + half

    def without_interval(self, rows: Bools) -> int:
        """How many slides of a mask (n_slides,) have no prediction interval."""
        return self._half_widths.lacking(rows)

    def percentile(self, rows: Ints) -> Float:
        """Of the scores among all slides of the archive, or of the sample."""
        if self.sampled:
            return calibrate.standing(self.at(rows), self._sample[1])
        return calibrate.percentile(self.predicted, rows)

    def within_cohort(self, rows: Ints) -> tuple[Float, Float]:
        """Percentile and standardised score in the slide's cohort, or in those of it that are in
        the sample; NaN where they are too few."""
        cohorts = self._engine.by_cohort
        if not self.sampled:
            return calibrate.within_groups(self.predicted, cohorts, rows)
        known = np.where(cohorts.names == "", -1, np.arange(len(cohorts.names)))
        code = cohorts.code[self._engine.sample]
        return calibrate.standing_in_groups(
            self.at(rows), known[cohorts.code[rows]], self._sample[1], code
        )

    @cached_property
    def vector(self) -> Float:
        """(dim,) of the shared space, whose inner product with slides follows the scores."""
        return signature_vector(*self._sample)

    @property
    def agreement(self) -> float | None:
        """The rank correlation of the scores and that inner product, over `Engine.sample`."""
        vectors, scores = self._sample
        return optional(spearman(vectors @ self.vector, scores))

    @cached_property
    def _sample(self) -> tuple[Matrix, Float]:
        """Shared vectors of the slides of `Engine.sample`, and their scores."""
        rows = self._engine.sample
        return self._engine.shared_rows(SLIDES, rows), self.at(rows)


def answer(
    engine: Engine,
    signature: Signature,
    *,
    method: str = DEFAULT_METHOD,
    scoring: str = DEFAULT_SCORING,
    null: int = calibrate.DEFAULT_NULL,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
    sampled: bool = False,
) -> Answer:
    """The answer for a signature, remembered by the engine.

    Args:
        method: one of `molquery.query.methods.METHODS`.
        scoring: how reference profiles are scored.
        null: number of random gene sets behind p and specificity, at least 100; 0 for none.
        sampled: score no slides but those asked about and those of `Engine.sample`, which
            percentiles are then among.

    Raises:
        GeneSetError: too few genes of the signature are in the database, or it does not vary.
        InputError: the method or scoring is not known, or the null is too small.
    """
    if null < 0 or 0 < null < calibrate.LEAST_NULL:
        raise InputError(
            f"a null needs at least {calibrate.LEAST_NULL} random sets (0 turns it off)",
            found=str(null),
        )
    key = (signature.sha256, method, scoring, null, min_genes, min_fraction, sampled)
    if key in engine.answers:
        return engine.answers[key]  # type: ignore[no-any-return]
    found = Answer(engine, signature, method, scoring, null, (min_genes, min_fraction), sampled)
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
        pairs.join(by_chance),
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
