"""The short held-out summary that `align` and `evaluate` print, from what is stored: no time.

The whole evaluation, with intervals and baselines, is in `evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from molquery.evaluate.held_out import median
from molquery.query.engine import Engine
from molquery.records import Predictability, Provenance


@dataclass(frozen=True)
class Summary:
    """Held-out figures of a space.

    Attributes:
        retrieval: '<scheme>.<direction>[.within_cohort]' -> figures, means over the folds.
        spectrum: Hallmark set -> predictability, best first.
        medians: over the spectrum.
    """

    retrieval: Mapping[str, Mapping[str, float]]
    spectrum: Mapping[str, Predictability]
    medians: Mapping[str, float | None]
    split_on: str
    provenance: Provenance


def held_out_summary(engine: Engine) -> Summary:
    """The summary of a database's current space, from its stored held-out predictions."""
    spectrum = engine.spectrum
    values = list(spectrum.values())
    medians = {
        "r2": median([p.r2 for p in values]),
        "r": median([p.r for p in values]),
        "within_r": median([p.within_r for p in values]),
        "site_r2": median([p.site_r2 for p in values]),
        "site_within_r": median([p.site_within_r for p in values]),
    }
    provenance = engine.provenance("held-out", {"folds": "by patient and by site"})
    split_on = str(engine.facts["split_on"])
    return Summary(engine.facts["retrieval"], spectrum, medians, split_on, provenance)
