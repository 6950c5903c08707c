"""The training data of an alignment: slides, profiles, and which of them belong together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from molquery import schema
from molquery.barcodes import is_normal, pair_key_array
from molquery.database import Database, list_to_matrix
from molquery.errors import ColumnError, InputError, SpaceError, some
from molquery.schema import PROFILES, SLIDES, TableSpec
from molquery.space import Model
from molquery.texts import Groups, Texts
from molquery.vectors import Bools, Ints, Matrix, Strings, as_text, same_key, spaced

#: Fewer pairs than this teach nothing that could be told from noise.
MIN_PAIRS = 30
#: Slides whose mean is that of a cohort, or of a site, at most: the mean of more is hardly another.
COHORT_SLIDES, SITE_SLIDES = 2_000, 200


@dataclass(frozen=True, slots=True)
class Side:
    """Rows of one table, in key order. Missing text is the empty string."""

    ids: Strings
    vectors: Matrix
    pair_keys: Strings
    groups: Strings
    cohorts: Strings
    sites: Strings

    def project(self, model: Model, rows: Ints) -> Matrix:
        """(n_rows, dim) shared vectors of some rows, which are slides."""
        cohorts, sites = self.cohorts[rows].tolist(), self.sites[rows].tolist()
        return model.project_slides(self.vectors[rows], cohorts, sites)


@dataclass(frozen=True, slots=True)
class Places:
    """Slides that stand for all of a cohort or of a site, evenly spaced ones of many.

    Attributes:
        cohorts: cohort -> positions of its slides.
        sites: (cohort, site) -> how many slides it has, and positions of some of them.
    """

    cohorts: Mapping[str, Ints] = field(default_factory=dict)
    sites: Mapping[tuple[str, str], tuple[int, Ints]] = field(default_factory=dict)

    @classmethod
    def of(cls, cohort: Groups, site: Groups) -> Places:
        """From the cohort and the site of every slide (n_slides,)."""
        names, sites = cohort.names.tolist(), site.names.tolist()
        by_cohort = _members(np.asarray(cohort.code))
        both = _members(cohort.code.astype(np.int64) * len(sites) + site.code)
        return cls(
            {names[c]: rows[spaced(len(rows), COHORT_SLIDES)] for c, rows in by_cohort if names[c]},
            {
                (names[b // len(sites)], sites[b % len(sites)]): (
                    len(rows),
                    rows[spaced(len(rows), SITE_SLIDES)],
                )
                for b, rows in both
                if sites[b % len(sites)]
            },
        )

    def rows(self) -> list[Ints]:
        """The positions of all of them."""
        return [*self.cohorts.values(), *(rows for _, rows in self.sites.values())]

    def among(self, rows: Ints) -> Places:
        """The same slides by their positions among ascending rows that hold them."""
        return Places(
            {c: np.searchsorted(rows, at) for c, at in self.cohorts.items()},
            {p: (n, np.searchsorted(rows, at)) for p, (n, at) in self.sites.items()},
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Profiles, the slides that an alignment uses, and the pairs between them.

    Those are the slides with a profile and, of every cohort and site, some others: so that a few
    thousand are in memory, however many the archive holds.

    Attributes:
        slide, profile: (n_pairs,) positions in `slides` and `profiles`.
        split_on: the column that keeps rows together in a split (`patient_id`).
        places: slides of every cohort and site, with RNA or without.
        left_out: groups whose RNA must not be used; none of the pairs is theirs.
    """

    slides: Side
    profiles: Side
    slide: Ints
    profile: Ints
    split_on: str
    places: Places
    left_out: frozenset[str] = frozenset()

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

    @property
    def unused(self) -> Bools:
        """(n_profiles,) profiles of the groups left out, and those paired with their slides."""
        slides = np.isin(self.slides.groups, sorted(self.left_out))
        keys = np.unique(self.slides.pair_keys[slides & (self.slides.pair_keys != "")])
        mine = np.isin(self.profiles.groups, sorted(self.left_out))
        return np.asarray(mine | np.isin(self.profiles.pair_keys, keys))

    def of_groups(self, groups: Collection[str]) -> Bools:
        """(n_pairs,) mask of the pairs in any of these groups."""
        return np.isin(self.groups, sorted(groups))

    def without(self, groups: Collection[str], why: str) -> Pairs:
        """These pairs but those of some groups, whose RNA is then left out altogether.

        Raises:
            SpaceError: too few pairs are left to learn from; `why` says what was held out.
        """
        out = replace(self, left_out=self.left_out | frozenset(groups))
        keep = ~out.of_groups(out.left_out) & ~out.unused[out.profile]
        left = replace(out, slide=self.slide[keep], profile=self.profile[keep])
        if len(left) < MIN_PAIRS:
            raise SpaceError(
                f"without {why} too few pairs are left to learn from",
                found=f"{len(left)} of {len(self)} pairs; an alignment needs {MIN_PAIRS}",
                hint="hold out less, or add pairs of other cohorts",
            )
        return left


def load_pairs(database: Database, *, pair_on: str, split_on: str) -> Pairs:
    """Every profile, and the slides with one, as pairs that share a value of `pair_on`.

    A slide with several profiles of its patient makes several pairs, and the other way round.
    Normal tissue, by TCGA barcode, is paired with normal tissue only.

    Raises:
        SpaceError: nothing is shared between slides and profiles, or too few pairs.
        ColumnError: a table lacks one of the columns.
    """
    table = _texts(database, SLIDES, pair_on, split_on)
    keys = _pair_keys(table, SLIDES, pair_on)
    rna = _texts(database, PROFILES, pair_on, split_on, PROFILES.vector)
    own = _pair_keys(rna, PROFILES, pair_on)
    slide, profile = same_key(keys, own)
    if len(slide) == 0:
        raise SpaceError(
            f"no slide and profile share a {pair_on}",
            found=f"slides have {some(keys[:3])}; profiles have {some(own[:3])}",
            hint="molquery ingest metadata to give both the same patient ids, or "
            "align --pair-on another column that both tables hold",
        )
    if len(slide) < MIN_PAIRS:
        raise SpaceError(
            f"an alignment needs at least {MIN_PAIRS} pairs of slide and profile",
            found=f"{len(slide)} pairs in {database.name}",
            hint="add profiles of patients whose slides are here; with fewer pairs only "
            "slide-to-slide similarity means anything",
        )
    places = Places.of(*(Texts(table[c]).groups for c in (schema.COHORT, schema.SITE)))
    rows = np.unique(np.concatenate([slide, *places.rows()]))
    vectors = database.take(SLIDES, [SLIDES.vector], rows)[SLIDES.vector]
    return Pairs(
        slides=_side(table.take(pa.array(rows)), SLIDES, split_on, keys[rows], vectors),
        profiles=_side(rna, PROFILES, split_on, own, rna[PROFILES.vector]),
        slide=np.searchsorted(rows, slide),
        profile=profile,
        split_on=split_on,
        places=places.among(rows),
    )


def groups_where(database: Database, pairs: Pairs, rule: str) -> frozenset[str]:
    """The groups (patients) with a slide or profile that a rule COLUMN=VALUE names.

    Raises:
        InputError: the rule is not of that form, nothing has the value, or nothing that has it is
            a pair.
        ColumnError: neither table has the column.
    """
    column, equals, value = (part.strip() for part in rule.partition("="))
    if not (column and equals and value):
        raise InputError(
            "what to hold out is given as COLUMN=VALUE",
            found=rule,
            hint="--hold-out cohort=TCGA-STAD",
        )
    held = {spec: database.metadata_columns(spec) for spec in (SLIDES, PROFILES)}
    if not any(column in names for names in held.values()):
        raise ColumnError(
            f"neither slides nor profiles have a column {column}", found=some(held[SLIDES], 20)
        )
    groups: set[str] = set()
    values: set[str] = set()
    for spec in (SLIDES, PROFILES):
        if column in held[spec]:
            table = database.read(spec, [column, pairs.split_on])
            text, owners = as_text(table[column]), as_text(table[pairs.split_on])
            groups |= set(owners[text == value].tolist())
            values |= set(text.tolist()) - {""}
    if value not in values:
        near = difflib.get_close_matches(value, sorted(values), n=1)
        raise InputError(
            f"no slide or profile has {column} {value}",
            found=some(sorted(values), 10),
            hint=f"--hold-out {column}={near[0]}" if near else None,
        )
    groups.discard("")
    if not pairs.of_groups(groups).any():
        raise InputError(
            f"{column} {value} has no pair of slide and RNA to hold out",
            hint="without RNA it is an unseen cohort as it is: molquery align",
        )
    return frozenset(groups)


def normal_tissue(pairs: Pairs) -> list[str]:
    """A note on profiles of normal tissue, where there are any."""
    n = sum(map(is_normal, pairs.profiles.ids.tolist()))
    if not n:
        return []
    return [
        f"{n} profiles are of normal tissue by their TCGA barcodes: they are paired with slides of "
        "normal tissue only, never with those of the tumour"
    ]


def constant_columns(pairs: Pairs) -> list[str]:
    """Notes on slide values and genes that are the same in every pair, so that they teach nothing.

    Raises:
        SpaceError: nothing varies on one of the two sides.
    """
    notes = []
    for noun, values in (
        ("slide values", pairs.slides.vectors[np.unique(pairs.slide)]),
        ("genes", pairs.profiles.vectors[np.unique(pairs.profile)]),
    ):
        varies = np.fmax.reduce(values, axis=0) > np.fmin.reduce(values, axis=0)
        if not varies.any():
            raise SpaceError(
                f"all {len(varies)} {noun} are constant over the {len(values)} rows with a pair: "
                "there is nothing to learn",
                hint="check the files that were ingested",
            )
        if not varies.all():
            lost = int((~varies).sum())
            notes.append(f"{lost} of {len(varies)} {noun} are constant or missing in every pair")
    return notes


def _texts(
    database: Database, spec: TableSpec, pair_on: str, split_on: str, *more: str
) -> pa.Table:
    """What an alignment reads of a table beside its vectors, and `more` columns."""
    held = database.metadata_columns(spec)
    for column in (pair_on, split_on):
        if column not in held:
            raise ColumnError(f"{spec.name} have no column {column}", found=some(held, 20))
    wanted = [spec.key, pair_on, split_on, schema.COHORT, schema.SITE, *more]
    return database.read(spec, list(dict.fromkeys(wanted)))


def _pair_keys(table: pa.Table, spec: TableSpec, pair_on: str) -> Strings:
    return pair_key_array(as_text(table[spec.key]), as_text(table[pair_on]))


def _side(
    table: pa.Table, spec: TableSpec, split_on: str, keys: Strings, vectors: pa.ChunkedArray
) -> Side:
    """Rows of a table from their `_texts`, pair keys (n,) and vectors."""
    return Side(
        ids=as_text(table[spec.key]),
        vectors=list_to_matrix(vectors),
        pair_keys=keys,
        groups=as_text(table[split_on]),
        cohorts=as_text(table[schema.COHORT]),
        sites=as_text(table[schema.SITE]),
    )


def _members(codes: Ints) -> list[tuple[int, Ints]]:
    """(code, ascending positions (n,) of the rows that have it), of every code (n_rows,)."""
    order = np.argsort(codes, kind="stable")
    present, count = np.unique(codes, return_counts=True)
    return list(zip(present.tolist(), np.split(order, np.cumsum(count)[:-1]), strict=True))
