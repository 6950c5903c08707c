"""Small frozen records that travel between modules: signatures, reports, rankings, provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Signature:
    """A gene set: genes with weights. A plain gene set has all weights 1; down genes are negative.

    Attributes:
        name: how the set is called, such as `HALLMARK_HYPOXIA`.
        weights: gene symbol -> weight, finite and not zero.
        description: free text from the file, usually the source publication.
        source: the collection or file that it was read from.
    """

    name: str
    weights: Mapping[str, float]
    description: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    @property
    def genes(self) -> tuple[str, ...]:
        """The gene symbols, in the order of the file."""
        return tuple(self.weights)

    @property
    def sha256(self) -> str:
        """Hash of the genes and weights alone, whatever their order and the set's name."""
        text = "\n".join(f"{g}\t{float(w)!r}" for g, w in sorted(self.weights.items()))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which genes of a signature the database's expression panel holds."""

    found: tuple[str, ...]
    missing: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Share of the signature's genes that were found, in [0, 1]."""
        total = len(self.found) + len(self.missing)
        return len(self.found) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Predictability:
    """How well a signature is predicted from H&E in held-out patients of this space.

    R² is 1 - SS_res / SS_tot against measured scores; r is Pearson's correlation and spearman that
    of the ranks, over all cohorts. `within_r` is the mean over cohorts of the correlation inside
    each cohort: the honest number where cohorts differ in tissue. None where it cannot be computed
    (a constant score, too few pairs). `rank` is the place among `of` Hallmark sets; `split_on`
    names what was held out together.

    `random_r` is the mean, over random gene sets of like size and expression, of the same
    correlation (within cohorts, or pooled where there is none within); `specificity` is how far the
    signature's lies above it, `specificity_z` the same in standard deviations of the random sets,
    and `specificity_percentile` the share of them that are predicted worse, 0 to 100.
    """

    n_pairs: int
    r2: float | None
    r: float | None
    within_r: float | None
    by_cohort: Mapping[str, float | None]
    site_r2: float | None
    site_within_r: float | None
    spearman: float | None = None
    rank: int | None = None
    of: int | None = None
    split_on: str = "patient_id"
    random_r: float | None = None
    specificity: float | None = None
    specificity_z: float | None = None
    specificity_percentile: float | None = None

    @property
    def headline_r(self) -> float | None:
        """The correlation that counts: within cohorts, or pooled where there is none within."""
        return self.within_r if self.within_r is not None else self.r


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that is needed to say where a result came from and to make it again."""

    database: str
    molquery: str
    table_versions: Mapping[str, int]
    space: str
    space_id: str
    method: str
    parameters: Mapping[str, Any]
    signature: str | None = None
    signature_sha256: str | None = None
    genes_found: tuple[str, ...] = ()
    genes_missing: tuple[str, ...] = ()
    index: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did: every row read is counted in exactly one of the first four fields."""

    table: str
    inserted: int
    updated: int
    unchanged: int
    skipped: Mapping[str, tuple[str, ...]]
    sources: int
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetadataReport:
    """What a metadata join did, with examples of the keys that did not match."""

    columns: tuple[str, ...]
    matched: Mapping[str, tuple[int, int]]
    unmatched_file: tuple[str, ...]
    unmatched_database: tuple[str, ...]
    n_unmatched_file: int
    n_unmatched_database: int
    notes: tuple[str, ...] = ()
