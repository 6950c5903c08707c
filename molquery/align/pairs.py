"""The training data of an alignment: slides, profiles, and which of them belong together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from molquery import schema
from molquery.database import Database, list_to_matrix
from molquery.errors import ColumnError, SpaceError, some
from molquery.schema import PROFILES, SLIDES, TableSpec
from molquery.vectors import Bools, Ints, Matrix, Strings, as_text

#: Fewer pairs than this teach nothing that could be told from noise.
MIN_PAIRS = 30


@dataclass(frozen=True, slots=True)
class Side:
    """The rows of one table, in key order. Missing text is the empty string."""

    ids: Strings
    vectors: Matrix
    pair_keys: Strings
    groups: Strings
    cohorts: Strings
    sites: Strings


@dataclass(frozen=True, slots=True)
class Pairs:
    """Slides, profiles and the pairs between them.

    Attributes:
        slide, profile: (n_pairs,) positions in `slides` and `profiles`.
        split_on: the column that keeps rows together in a split (`patient_id`).
    """

    slides: Side
    profiles: Side
    slide: Ints
    profile: Ints
    split_on: str

    def __len__(self) -> int:
        return len(self.slide)

    @property
    def groups(self) -> Strings:
        """(n_pairs,) the group of each pair."""
        return self.slides.groups[self.slide]

    @property
    def cohorts(self) -> Strings:
        """(n_pairs,) the cohort of each pair's slide."""
        return self.slides.cohorts[self.slide]

    @property
    def sites(self) -> Strings:
        """(n_pairs,) the tissue-source site of each pair's slide; empty where unknown."""
        return self.slides.sites[self.slide]

    def of_groups(self, groups: Collection[str]) -> Bools:
        """(n_pairs,) mask of the pairs in any of these groups."""
        return np.isin(self.groups, sorted(groups))


def load_pairs(database: Database, *, pair_on: str, split_on: str) -> Pairs:
    """Every slide and profile with the pairs that share a value of `pair_on`.

    A slide with several profiles of its patient makes several pairs, and the other way round.

    Raises:
        SpaceError: nothing is shared between slides and profiles, or too few pairs.
        ColumnError: a table lacks one of the columns.
    """
    slides = _side(database, SLIDES, pair_on, split_on)
    profiles = _side(database, PROFILES, pair_on, split_on)
    of_key: dict[str, list[int]] = {}
    for j, key in enumerate(profiles.pair_keys):
        if key:
            of_key.setdefault(str(key), []).append(j)
    pairs = [(i, j) for i, key in enumerate(slides.pair_keys) for j in of_key.get(str(key), [])]
    if not pairs:
        raise SpaceError(
            f"no slide and profile share a {pair_on}",
            found=f"slides have {some(slides.pair_keys[:3])}; "
            f"profiles have {some(profiles.pair_keys[:3])}",
            hint="molquery ingest metadata to give both the same patient ids, or "
            "align --pair-on another column that both tables hold",
        )
    if len(pairs) < MIN_PAIRS:
        raise SpaceError(
            f"an alignment needs at least {MIN_PAIRS} pairs of slide and profile",
            found=f"{len(pairs)} pairs in {database.path}",
            hint="add profiles of patients whose slides are here; with fewer pairs only "
            "slide-to-slide similarity means anything",
        )
    slide, profile = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    return Pairs(slides, profiles, slide, profile, split_on)


def _side(database: Database, spec: TableSpec, pair_on: str, split_on: str) -> Side:
    wanted = [spec.key, spec.vector, pair_on, split_on, schema.COHORT, schema.SITE]
    held = database.metadata_columns(spec)
    for column in (pair_on, split_on):
        if column not in held:
            raise ColumnError(f"{spec.name} have no column {column}", found=some(held, 20))
    table = database.read(spec, list(dict.fromkeys(wanted)))

    return Side(
        ids=as_text(table[spec.key]),
        vectors=list_to_matrix(table[spec.vector]),
        pair_keys=as_text(table[pair_on]),
        groups=as_text(table[split_on]),
        cohorts=as_text(table[schema.COHORT]),
        sites=as_text(table[schema.SITE]),
    )
