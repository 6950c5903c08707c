"""The reference: the expression profiles that gene sets are scored in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from molquery import schema
from molquery.database import Database, facts_of, list_to_matrix
from molquery.errors import GeneSetError, InputError
from molquery.genesets import scoring
from molquery.genesets.match import MIN_FRACTION, MIN_GENES, Match, match
from molquery.records import Signature
from molquery.schema import PROFILES
from molquery.texts import Texts
from molquery.vectors import Bools, Float, Matrix, Strings

DEFAULT_SCORING = "mean_z"
#: A gene measured in fewer of the profiles than this is treated as missing.
_MEASURED = 0.5


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of signatures in the reference.

    Attributes:
        signatures: the S signatures that could be scored.
        matches: where each one's genes are in the panel.
        scores: (n_reference, S) float64, in the units of the scoring method.
        skipped: name -> why, for those that could not be scored.
    """

    signatures: tuple[Signature, ...]
    matches: tuple[Match, ...]
    scores: Float
    skipped: dict[str, str]


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and standard deviation of every gene (n_genes,), and the share of profiles with it."""

    mean: Float
    sd: Float
    measured: Float


class Reference:
    """The expression profiles of a database, in key order, ready to score gene sets in."""

    #: What is read of the profiles.
    COLUMNS = (PROFILES.key, schema.PATIENT, schema.COHORT, PROFILES.vector)

    def __init__(
        self,
        database: Database,
        left_out: Collection[str] = (),
        known: Callable[[], Moments | None] = lambda: None,
    ) -> None:
        """`left_out` names profiles that are scored but on whose values no scale is based; `known`
        gives the moments where they have been computed already."""
        self._database, self._left_out, self._known = database, frozenset(left_out), known
        table = database.read_sidecar(PROFILES, self.COLUMNS[:-1])
        self.texts = {name: Texts(table[name]) for name in self.COLUMNS[:-1]}
        self.genes: list[str] = list(facts_of(table.schema)["genes"])

    def __len__(self) -> int:
        return len(self.texts[PROFILES.key])

    @property
    def ids(self) -> Strings:
        """(n_reference,) in order."""
        return self.texts[PROFILES.key].all

    @property
    def patients(self) -> Strings:
        """(n_reference,) their patients."""
        return self.texts[schema.PATIENT].all

    @property
    def cohorts(self) -> Strings:
        """(n_reference,) their cohorts."""
        return self.texts[schema.COHORT].all

    @cached_property
    def expression(self) -> Matrix:
        """(n_reference, n_genes) on the scale of the database; missing values are NaN."""
        column = self._database.read_sidecar(PROFILES, self.COLUMNS)[PROFILES.vector]
        return list_to_matrix(column)

    @cached_property
    def moments(self) -> Moments:
        """Of every gene over the reference, without profiles that are left out."""
        if (known := self._known()) is not None:
            return known
        used = self.expression
        if self._left_out:
            used = used[~np.isin(self.ids, sorted(self._left_out))]
        mean, sd = scoring.gene_z(used)
        return Moments(mean, sd, (~np.isnan(used)).mean(axis=0))

    @cached_property
    def usable(self) -> Bools:
        """(n_genes,) genes that vary and are measured in most profiles; others cannot inform."""
        return np.asarray((self.moments.sd > 0) & (self.moments.measured >= _MEASURED))

    @cached_property
    def panel(self) -> dict[str, int]:
        """Usable gene -> column."""
        return {gene: j for j, gene in enumerate(self.genes) if self.usable[j]}

    @cached_property
    def uninformative(self) -> frozenset[str]:
        """Genes that are not usable."""
        return frozenset(self.genes) - self.panel.keys()

    def match(self, signature: Signature, *, min_genes: int, min_fraction: float) -> Match:
        """Where a signature's genes are in the panel; see `genesets.match.match`."""
        return match(
            signature,
            self.panel,
            min_genes=min_genes,
            min_fraction=min_fraction,
            uninformative=self.uninformative,
        )

    @cached_property
    def z(self) -> Matrix:
        """(n_reference, n_genes) float32 z-scores, 0 for unusable genes; missing values are NaN."""
        scale = np.where(self.usable, self.moments.sd, np.inf).astype(np.float32)
        return np.asarray((self.expression - self.moments.mean.astype(np.float32)) / scale)

    @property
    def _complete(self) -> bool:
        return bool((self.moments.measured == 1).all())

    def score(
        self,
        signatures: Sequence[Signature],
        *,
        method: str = DEFAULT_SCORING,
        min_genes: int = MIN_GENES,
        min_fraction: float = MIN_FRACTION,
    ) -> Scored:
        """Scores of many signatures; those that cannot be scored are left out and say why."""
        done: list[tuple[Signature, Match]] = []
        skipped: dict[str, str] = {}
        for signature in signatures:
            try:
                found = self.match(signature, min_genes=min_genes, min_fraction=min_fraction)
            except GeneSetError as error:
                skipped[signature.name] = error.found or error.what
                continue
            done.append((signature, found))
        scores = self.matrix([(m.positions, m.weights) for _, m in done], method)
        kept = []
        for s, (signature, _) in enumerate(done):
            if why := _unusable(scores[:, s]):
                skipped[signature.name] = why
            else:
                kept.append(s)
        return Scored(
            tuple(done[s][0] for s in kept),
            tuple(done[s][1] for s in kept),
            scores[:, kept],
            skipped,
        )

    def score_one(
        self,
        signature: Signature,
        *,
        method: str = DEFAULT_SCORING,
        min_genes: int = MIN_GENES,
        min_fraction: float = MIN_FRACTION,
    ) -> tuple[Match, Float]:
        """Where a signature's genes are, and its scores (n_reference, 1).

        Raises:
            GeneSetError: too few genes are in the panel, or the score does not vary.
        """
        found = self.match(signature, min_genes=min_genes, min_fraction=min_fraction)
        scores = self.matrix([(found.positions, found.weights)], method)
        if why := _unusable(scores[:, 0]):
            raise GeneSetError(
                f"{signature.name} cannot be scored in the reference profiles",
                found=why,
                hint="molquery genesets check shows which of its genes vary here",
            )
        return found, scores

    def matrix(self, sets: Sequence[scoring.GeneSet], method: str = DEFAULT_SCORING) -> Float:
        """(n_reference, S) scores of sets given as (positions, weights).

        Raises:
            InputError: the scoring method is not known.
        """
        if not sets:
            return np.empty((len(self), 0))
        if method == DEFAULT_SCORING:
            if len(sets) == 1 and self._complete:
                positions, weights = sets[0]
                centred = self.expression[:, positions] - self.moments.mean[positions]
                chosen = centred / self.moments.sd[positions]
                return np.asarray(chosen @ weights / np.abs(weights).sum())[:, None]
            weights_matrix = scoring.memberships(sets, len(self.genes))
            if self._complete:
                shares = weights_matrix / np.abs(weights_matrix).sum(axis=0)
                return np.asarray(self.z @ shares.astype(np.float32), dtype=np.float64)
            return scoring.mean_z_matrix(self.z, weights_matrix, usable=self.usable)
        known = {m.name: m for m in scoring.METHODS}
        if method not in known:
            raise InputError(f"{method} is not a scoring method", hint=", ".join(known))
        return scoring.score_sets(self.expression, sets, known[method])


def _unusable(scores: Float) -> str:
    """Why scores (n_reference,) of a signature cannot be used; empty when they can."""
    missing = int(np.isnan(scores).sum())
    if missing:
        return f"no score in {missing} of {len(scores)} profiles, which lack its genes"
    return "" if scores.max() > scores.min() else "the same score in every profile"
