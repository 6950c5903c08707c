"""Patients whose RNA an alignment leaves out: what is stored of them, how they are predicted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from molquery.align.pairs import Pairs
from molquery.database import Database
from molquery.evaluate.held_out import SPECTRUM_GENES, HeldOutPairs
from molquery.evaluate.unseen import Unseen, predict_unseen, unseen_quality
from molquery.genesets import collections
from molquery.predict import PATIENT_SCHEME, Rows
from molquery.reference import Reference
from molquery.space import Fold, Model, SharedSpace
from molquery.vectors import Float


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What predictions of the patients left out are held against.

    Attributes:
        slides, profiles: all rows of the database.
        scores: (n_profiles, S) measured scores of the Hallmark sets with enough genes, in units
            of the reference without the patients left out.
    """

    slides: Rows
    profiles: Rows
    scores: Float

    @classmethod
    def of(cls, database: Database, pairs: Pairs) -> Yardstick:
        """For the groups that these pairs leave out."""
        reference = Reference(database, pairs.profiles.ids[pairs.unused].tolist())
        scored = reference.score(collections.hallmark())
        keep = [i for i, m in enumerate(scored.matches) if len(m.positions) >= SPECTRUM_GENES]
        slides, profiles = (
            Rows(side.vectors, side.pair_keys, side.groups, side.cohorts, side.sites)
            for side in (pairs.slides, pairs.profiles)
        )
        return cls(slides, profiles, scored.scores[:, keep])

    def measure(self, pairs: Pairs, model: Model, groups: Collection[str]) -> Unseen:
        """How a model of these pairs predicts groups that they leave out."""
        space = _space(pairs, model)
        return unseen_quality(space, self.slides, self.profiles, self.scores, groups)

    def predict(
        self, pairs: Pairs, model: Model, groups: Collection[str]
    ) -> tuple[HeldOutPairs, Float]:
        """What a model of these pairs predicts for groups that they leave out."""
        space = _space(pairs, model)
        return predict_unseen(space, self.slides, self.profiles, self.scores, groups)


def _space(pairs: Pairs, model: Model) -> SharedSpace:
    """A space that is not stored, with one model and no RNA of the groups left out."""
    seen = Fold(PATIENT_SCHEME, frozenset(pairs.groups.tolist()), model)
    return SharedSpace("", "", {"hold_out": {"groups": sorted(pairs.left_out)}}, model, (seen,))


def describe_left_out(database: Database, pairs: Pairs, model: Model, rule: str) -> dict[str, Any]:
    """What a space says of the patients left out: the rule, who they are, how they are predicted.

    Args:
        model: fitted without them.
        rule: COLUMN=VALUE, or another word for them.
    """
    quality = Yardstick.of(database, pairs).measure(pairs, model, pairs.left_out)
    return {
        "rule": rule,
        "groups": sorted(pairs.left_out),
        "profiles": sorted(pairs.profiles.ids[pairs.unused].tolist()),
        "quality": asdict(quality),
    }
