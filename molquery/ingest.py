"""Files into the database: read, validate, upsert, and report every row.

Everything is validated before anything is written, and each table changes in one commit: an ingest
that fails leaves the database exactly as it was. Rows are hashed by content, so the same command
twice changes nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from molquery import genes, readers, rna, scales, schema
from molquery import keys as keyed
from molquery.barcodes import has_barcodes, is_normal, patient_of, site_of
from molquery.database import (
    Database,
    UpsertCounts,
    content_hash,
    list_to_matrix,
    matrix_to_list,
)
from molquery.encoders import FEATURES_KIND, encoder_kind
from molquery.errors import (
    ColumnError,
    DuplicateIdError,
    InputError,
    MismatchError,
    NotReadyError,
    some,
)
from molquery.metadata import check_text, storable
from molquery.progress import Progress
from molquery.records import IngestReport, MetadataReport
from molquery.resume import Resume, resuming
from molquery.schema import PROFILES, SLIDES, TableSpec
from molquery.space import SharedSpace, current_space, project_rows, project_slides
from molquery.threads import Mapper, ahead
from molquery.vectors import Matrix, check_rows

#: Bytes of vectors that an ingest holds in memory; more are written while they are read.
HELD_BYTES = 128 << 20
_ALONE = (
    "{n} {table} name no patient: each counts as a patient of its own "
    "(splits are by patient, so say --id or add a patient_id column if that is wrong)"
)
_MISSING = (
    "{values} missing feature values in {slides} slides are kept as missing; the space imputes them"
)
#: A later file must hold this share of the database's gene panel, or it is another kind of file.
_PANEL_SHARE = 0.5


def ingest_slides(
    database: Database,
    paths: Sequence[Path],
    *,
    options: readers.Options,
    encoder: str | None = None,
    kind: str | None = None,
    skip_invalid: bool = False,
    progress: Progress | None = None,
    mapper: Mapper | None = None,
) -> IngestReport:
    """Upsert slide embeddings from files, directories, globs or lists; see `molquery.readers`.

    Files are read one at a time and kept as one vector per slide. An ingest that was interrupted
    does not read unchanged files again (`molquery.resume`).

    Args:
        encoder: name of the slide encoder, where the files do not say it themselves.
        kind: 'embedding' or 'features' (NaN allowed), where the encoder's name does not tell.
        skip_invalid: leave out rows with NaN, infinite or all-zero vectors, and report them.
        mapper: who reads the files; this process when left out.

    Raises:
        InputError: something is wrong with the files; the database is as it was.
    """
    options = replace(options, encoder=encoder)
    with resuming(database.path, options) as resume:
        sources = readers.find_slides(paths, options)
        found = _read_slides(sources, options, resume, encoder, progress, mapper=mapper)
        parts: list[readers.Slides] = []
        size = 0
        for part in found:
            parts.append(part)
            size += part.vectors.nbytes
            if size > HELD_BYTES and any(p.ids for p in parts):
                return _stream_slides(
                    database, _popped(parts, found), paths, encoder, kind, skip_invalid
                )
        return _commit_slides(database, parts, paths, encoder, kind, skip_invalid)


def _popped(
    parts: list[readers.Slides], more: Iterator[readers.Slides]
) -> Iterator[readers.Slides]:
    """The parts and what comes after them; none is held any longer than it is needed."""
    parts.reverse()
    while parts:
        yield parts.pop()
    yield from more


def _read_slides(
    sources: Sequence[readers.Source],
    options: readers.Options,
    resume: Resume,
    encoder: str | None,
    progress: Progress | None,
    spec: TableSpec = SLIDES,
    mapper: Mapper | None = None,
) -> Iterator[readers.Slides]:
    """What the files hold, one by one; the first that does not go with the others ends it.

    Reading may take hours, so that what can be known early is said early: another encoder, another
    dimension, an id that was there already.
    """
    place: dict[str, str] = {}
    first: readers.Slides | None = None
    read = Read(options)
    elsewhere: Iterator[tuple[readers.Source, readers.Slides]] = iter(())
    if mapper is not None:
        away = [s for s in sources if not resume.has(s.path) and not read.in_batches(s)]
        elsewhere = zip(away, mapper(read, away), strict=True)
    for done, (source, came) in enumerate(_joined(sources, elsewhere), 1):
        rows = 0
        if came is not None:
            resume.put(source.path, came)
        for part, total in [(came, None)] if came else _parts(source, read, resume):
            if part.ids:
                first = first or replace(part, vectors=part.vectors[:1].copy(), ids=part.ids[:1])
                _one_encoder([first, part], encoder)
                if part.vectors.shape[1] != first.vectors.shape[1]:
                    raise MismatchError(
                        "the files hold vectors of different dimensions",
                        found=f"{first.source}: {first.vectors.shape[1]}, "
                        f"{part.source}: {part.vectors.shape[1]}",
                        hint="ingest one encoder's files at a time",
                    )
                _check_unique(part.ids, spec.noun)
                _check_new(part, place, spec.noun)
            yield part
            rows += len(part.ids) + sum(map(len, part.skipped.values()))
            if progress and total is not None:
                progress(f"reading {Path(part.source).name}", rows, total)
        if progress:
            progress(f"reading {spec.name}", done, len(sources))


@dataclass(frozen=True)
class Read:
    """What reads the slides of a file."""

    options: readers.Options

    def __call__(self, source: readers.Source) -> readers.Slides:
        """All that the file holds."""
        return readers.read_source(source, self.options)

    def in_batches(self, source: readers.Source) -> readers.Stream | None:
        """What a large table holds, to be read in batches; None for other files."""
        return readers.stream(source.path, self.options)


def _joined(
    sources: Sequence[readers.Source], elsewhere: Iterator[tuple[readers.Source, readers.Slides]]
) -> Iterator[tuple[readers.Source, readers.Slides | None]]:
    """Every source, with what it holds where that was read elsewhere, which has the same order."""
    nothing = (None, None)
    coming, part = next(elsewhere, nothing)
    for source in sources:
        if source is coming:
            yield source, part
            coming, part = next(elsewhere, nothing)
        else:
            yield source, None


def _parts(
    source: readers.Source, read: Read, resume: Resume
) -> Iterator[tuple[readers.Slides, int | None]]:
    """What a file holds: a large table in batches, with the number of its rows."""
    part = resume.get(source.path)
    if part is None:
        if large := read.in_batches(source):
            for piece in ahead(large.parts):
                yield piece, large.total
            return
        part = read(source)
        resume.put(source.path, part)
    yield part, None


def _check_new(part: readers.Slides, place: dict[str, str], noun: str) -> None:
    """Refuse ids that an earlier file has; `place` tells the file of every id so far."""
    if not place.keys().isdisjoint(part.ids):
        key = next(key for key in part.ids if key in place)
        if place[key] == part.source:
            _check_unique([key, key], noun)
        raise DuplicateIdError(
            f"{noun} {key} is in two files",
            found=f"{place[key]} and {part.source}",
            hint=f"every {noun} needs an id of its own: rename one, or ingest one folder",
        )
    place.update(dict.fromkeys(part.ids, part.source))


def _commit_slides(
    database: Database,
    parts: list[readers.Slides],
    paths: Sequence[Path],
    encoder: str | None,
    kind: str | None,
    skip_invalid: bool,
) -> IngestReport:
    """Validate all slides together, and upsert them in one commit."""
    skipped = _left_out(parts)
    parts = [part for part in parts if part.ids]
    if not parts:
        raise InputError(
            "no slide was found in the files given",
            found="; ".join(f"{reason}: {some(v)}" for reason, v in skipped.items()) or some(paths),
        )
    encoder = _one_encoder(parts, encoder)
    kind = encoder_kind(encoder, kind)
    ids = [i for part in parts for i in part.ids]
    vectors = np.concatenate([part.vectors for part in parts])
    facts = {"encoder": encoder, "kind": kind, "dim": vectors.shape[1]}
    _check_facts(database, SLIDES, facts)
    keep, invalid = check_rows(
        vectors, ids, allow_nan=kind == FEATURES_KIND, skip_invalid=skip_invalid, noun="slide"
    )
    metadata = pa.concat_tables(
        [_with_rows(part.metadata, len(part.ids)) for part in parts], promote_options="permissive"
    ).combine_chunks()
    metadata, notes = storable(metadata)
    rows, alone = _rows(SLIDES, ids, vectors, metadata, keep)
    if alone:
        notes.append(_ALONE.format(n=alone, table=SLIDES.name))
    if kind == FEATURES_KIND and (missing := int(np.isnan(vectors[keep]).sum())):
        affected = int(np.isnan(vectors[keep]).any(axis=1).sum())
        notes.append(_MISSING.format(values=missing, slides=affected))
    counts = _upsert(database, SLIDES, rows, facts)
    return IngestReport(
        table=SLIDES.name,
        inserted=counts.inserted,
        updated=counts.updated,
        unchanged=counts.unchanged,
        skipped={**skipped, **invalid},
        sources=len(parts),
        facts={k: str(v) for k, v in facts.items()},
        notes=tuple(notes),
    )


def _stream_slides(
    database: Database,
    parts: Iterator[readers.Slides],
    paths: Sequence[Path],
    encoder: str | None,
    kind: str | None,
    skip_invalid: bool,
) -> IngestReport:
    """As `_commit_slides`, of more slides than are held in memory: written while they are read.

    The first that cannot be used ends it, and nothing of what was written becomes part of the
    table. The write lock is held from the first batch on.
    """
    tally = _Tally()
    while not (first := next(parts)).ids:
        tally.skip(first)
    tally.skip(first)
    encoder = _one_encoder([first], encoder)
    kind = encoder_kind(encoder, kind)
    facts = {"encoder": encoder, "kind": kind, "dim": first.vectors.shape[1]}
    with database.writing(f"ingest {SLIDES.name}") as draft:
        _check_facts(database, SLIDES, facts)
        space = current_space(database)
        old: dict[str, str] = {}
        changed: list[pa.Table] = []
        if database.has(SLIDES):
            held = database.read(SLIDES, [SLIDES.key, schema.CONTENT_HASH]).to_pydict()
            old = dict(zip(held[SLIDES.key], held[schema.CONTENT_HASH], strict=True))
        sample, _ = _prepared(first, kind, skip_invalid, _Tally())
        told = _project(sample.slice(0, 1), SLIDES, space).schema
        with ExitStack() as stack:
            appender = None
            for part in itertools.chain([first], parts):
                if part is not first:
                    tally.skip(part)
                if not part.ids:
                    continue
                rows, hashes = _prepared(part, kind, skip_invalid, tally)
                keys = rows[SLIDES.key].to_pylist() if old else []
                there = np.array([key in old for key in keys], dtype=bool)
                if there.any():
                    same = [old.get(k) == h for k, h in zip(keys, hashes, strict=True)]
                    tally.unchanged += sum(same)
                    differ = rows.filter(pa.array(there & ~np.array(same)))
                    if len(differ):
                        changed.append(differ)
                        if sum(table.nbytes for table in changed) > HELD_BYTES // 4:
                            tally.count(_update(database, changed, space, facts))
                    rows = rows.filter(pa.array(~there))
                if len(rows):
                    _same_columns(rows.schema, told, part.source)
                    if appender is None:
                        appender = stack.enter_context(database.appending(SLIDES, told, facts))
                    appender.put(_project(rows, SLIDES, space))
                    tally.inserted += len(rows)
        tally.count(_update(database, changed, space, facts))
        if tally.inserted or tally.updated:
            draft["details"] = f"{tally.inserted} slides inserted, {tally.updated} updated"
    return IngestReport(
        table=SLIDES.name,
        inserted=tally.inserted,
        updated=tally.updated,
        unchanged=tally.unchanged,
        skipped=tally.skipped,
        sources=len(tally.sources),
        facts={k: str(v) for k, v in facts.items()},
        notes=tuple(tally.notes()),
    )


@dataclass
class _Tally:
    """What has become of the slides so far."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    missing: int = 0
    affected: int = 0
    alone: int = 0
    other: dict[str, None] = field(default_factory=dict)

    def skip(self, part: readers.Slides) -> None:
        """Count what a file had that gave no vector."""
        if part.ids:
            self.sources.add(part.source)
        self.add(part.skipped)

    def add(self, skipped: Mapping[str, tuple[str, ...]]) -> None:
        for reason, ids in skipped.items():
            self.skipped[reason] = (*self.skipped.get(reason, ()), *ids)

    def count(self, counts: UpsertCounts) -> None:
        self.updated += counts.updated
        self.unchanged += counts.unchanged

    def notes(self) -> list[str]:
        notes = list(self.other)
        if self.alone:
            notes.append(_ALONE.format(n=self.alone, table=SLIDES.name))
        if self.missing:
            notes.append(_MISSING.format(values=self.missing, slides=self.affected))
        return notes


def _prepared(
    part: readers.Slides, kind: str, skip_invalid: bool, tally: _Tally
) -> tuple[pa.Table, list[str]]:
    """The rows of one part for the table, and their content hashes."""
    features = kind == FEATURES_KIND
    keep, invalid = check_rows(
        part.vectors, part.ids, allow_nan=features, skip_invalid=skip_invalid, noun="slide"
    )
    tally.add(invalid)
    metadata, notes = storable(_with_rows(part.metadata, len(part.ids)))
    rows, alone = _rows(SLIDES, part.ids, part.vectors, metadata, keep)
    tally.other |= dict.fromkeys(notes)
    tally.alone += alone
    if features:
        nan = np.isnan(part.vectors[keep])
        tally.missing += int(nan.sum())
        tally.affected += int(nan.any(axis=1).sum())
    return rows, rows[schema.CONTENT_HASH].to_pylist()


def _update(
    database: Database, held: list[pa.Table], space: SharedSpace | None, facts: Mapping[str, Any]
) -> UpsertCounts:
    """Update rows of ids that are there already; the list is empty afterwards."""
    if not held:
        return UpsertCounts(0, 0, 0)
    rows = pa.concat_tables(held, promote_options="permissive")
    held.clear()
    rows = _project(_keep_joined(database, SLIDES, rows), SLIDES, space)
    return database.upsert(SLIDES, rows, facts)


def _same_columns(found: pa.Schema, told: pa.Schema, source: str) -> None:
    fresh = [name for name in found.names if name not in told.names]
    if fresh:
        raise ColumnError(
            f"{source} has columns that the files before it lack: {some(fresh)}",
            found=some(told.names, 12),
            hint="more slides than fit in memory are written as they are read, so their columns "
            "must be the same: ingest these files by themselves",
        )


def ingest_profiles(
    database: Database,
    paths: Sequence[Path],
    *,
    options: readers.Options,
    scale: str | None = None,
    skip_invalid: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Upsert expression profiles; the first ingest fixes the database's gene panel and scale.

    Gene identifiers become current symbols (`molquery.genes`). Counts, TPM and FPKM are stored as
    log2(x + 1), and the report says so; a natural or decimal logarithm is rescaled to base 2.

    Files that hold the same genes are taken together, so that files of one sample each keep the
    same copy of a repeated gene. Where panels differ, that of the most samples is kept.

    Args:
        scale: one of `scales.SCALES`, the scale that the values are in; told from the values when
            left out, and an error where they admit two readings.

    Raises:
        InputError: something is wrong with the files; the database is as it was.
    """
    known = (*scales.SCALES, *scales.STORED)
    if scale is not None and scale not in known:
        raise InputError(f"{scale} is not a known scale", hint=f"--scale {'|'.join(scales.SCALES)}")
    options = replace(options, scale=scale)
    files = [file for path in paths for file in readers.profile_files(path)]
    parts = []
    for file in files:
        parts.append(readers.read_profiles(file, options))
        if progress:
            progress("reading profiles", len(parts), len(files))
    ids = [i for part in parts for i in part.ids]
    if not ids:
        raise InputError("no profile was found in the files given", found=some(paths))
    _check_unique(ids, "profile")
    sources = len(parts)
    embeddings = _embeddings_of(parts)
    if embeddings:
        rna.check(database, embeddings[0], embeddings[2].shape[1])
    parts = _together(parts)
    ids = [i for part in parts for i in part.ids]
    scale, notes = _scale_of(parts, scale)
    notes += dict.fromkeys(note for part in parts for note in part.notes)

    held = database.facts(PROFILES)["genes"] if database.has(PROFILES) else None
    current: list[tuple[list[str], Matrix]] = []
    for part in parts:
        names, matrix, said = current_symbols(
            part.genes, part.values, kind=options.gene_id or "auto"
        )
        notes += said
        current.append((names, matrix))
    panel: list[str] = held or max(current, key=lambda c: (len(c[1]), len(c[0]), sorted(c[0])))[0]
    raw = [
        onto_panel(names, matrix, panel, part.source, notes)
        for part, (names, matrix) in zip(parts, current, strict=True)
    ]
    metadata = pa.concat_tables(
        [_with_rows(part.metadata, len(part.ids)) for part in parts], promote_options="permissive"
    )
    del parts, current  # the matrices as they were read: half of what is held now
    whole = raw.pop() if len(raw) == 1 else np.concatenate(raw)
    raw.clear()
    expression, stored, said = scales.to_stored(whole, scale)
    del whole
    notes += said
    facts = {"encoder": "expression", "scale": stored, "dim": len(panel), "genes": panel,
             "gene_table": genes.table_version()}  # fmt: skip
    _check_facts(database, PROFILES, facts)
    keep, invalid = check_rows(
        expression, ids, allow_nan=True, skip_invalid=skip_invalid, noun="profile"
    )
    metadata, more = storable(metadata)
    rows, alone = _rows(PROFILES, ids, expression, metadata, keep)
    said = [_ALONE.format(n=alone, table=PROFILES.name)] if alone else []
    said += more
    if normal := [i for i in rows[PROFILES.key].to_pylist() if is_normal(i)]:
        said.append(
            f"{len(normal)} profiles are of normal tissue by their barcodes ({some(normal, 3)}): "
            "they are paired with slides of normal tissue only, never with those of the tumour"
        )
    with database.writing("ingest profiles"):
        counts = _upsert(database, PROFILES, rows, facts)
        if embeddings:
            encoder, of, vectors = embeddings
            kept = set(rows[PROFILES.key].to_pylist())
            there = [i for i, key in enumerate(of) if key in kept]
            rna.keep(database, [of[i] for i in there], vectors[there], encoder)
            said.append(f"{len(there)} embeddings of {encoder} kept beside them")
    return IngestReport(
        table=PROFILES.name,
        inserted=counts.inserted,
        updated=counts.updated,
        unchanged=counts.unchanged,
        skipped=invalid,
        sources=sources,
        facts={"genes": str(len(panel)), "scale": stored, "read as": scale},
        notes=tuple(notes + said),
    )


def _upsert(
    database: Database, spec: TableSpec, rows: pa.Table, facts: Mapping[str, Any]
) -> UpsertCounts:
    """Write rows with their shared vectors, for the database as it is once the lock is held."""
    with database.writing(f"ingest {spec.name}"):
        _check_facts(database, spec, facts)
        if database.has(spec) and database.facts(spec).get("genes") != facts.get("genes"):
            raise MismatchError(
                "profiles of another gene panel were ingested meanwhile",
                hint="run the same command again",
            )
        rows = _keep_joined(database, spec, rows)
        return database.upsert(spec, _project(rows, spec, current_space(database)), facts)


def _embeddings_of(parts: Sequence[readers.Profiles]) -> tuple[str, list[str], Matrix] | None:
    """Model, ids and vectors of the embeddings that exported files hold, without missing rows.

    Raises:
        MismatchError: the files hold those of several models.
    """
    told = [(part.ids, *part.embeddings) for part in parts if part.embeddings]
    if not told:
        return None
    models = sorted({(encoder, vectors.shape[1]) for _, encoder, vectors in told})
    if len(models) > 1:
        raise MismatchError(
            "the files hold embeddings of several RNA models",
            found=", ".join(f"{encoder}: {dim} dimensions" for encoder, dim in models),
        )
    vectors = np.concatenate([v for _, _, v in told])
    there = ~np.isnan(vectors).any(axis=1)
    ids = [i for part, _, _ in told for i in part]
    return models[0][0], [i for i, t in zip(ids, there, strict=True) if t], vectors[there]


def ingest_embeddings(
    database: Database,
    paths: Sequence[Path],
    *,
    options: readers.Options,
    encoder: str,
    skip_invalid: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Keep embeddings of an RNA model beside the expression of the same profiles.

    Every format of slide vectors is read; the ids are those of profiles, or TCGA barcodes of
    another length (`molquery.keys`). Rows of other ids are skipped and reported: nothing can be
    scored in a profile without expression.

    Args:
        encoder: the RNA model, such as 'bulkformer'; a database keeps the embeddings of one.

    Raises:
        InputError: something is wrong with the files, or none of their ids is a profile's; the
            database is as it was.
        NotReadyError: the database holds no profiles.
    """
    if not database.has(PROFILES):
        raise NotReadyError(
            f"{database.name} holds no profiles yet, to keep embeddings beside",
            hint="molquery ingest profiles EXPRESSION first",
        )
    options = replace(options, encoder=encoder)
    sources = readers.find_slides(paths, options)
    parts = list(_read_slides(sources, options, Resume(None, options), encoder, progress, PROFILES))
    skipped = _left_out(parts)
    parts = [part for part in parts if part.ids]
    if not parts:
        raise InputError("no embedding was found in the files given", found=some(paths))
    ids = [i for part in parts for i in part.ids]
    vectors = np.concatenate([part.vectors for part in parts])
    rna.check(database, encoder, vectors.shape[1])
    keep, invalid = check_rows(
        vectors, ids, allow_nan=False, skip_invalid=skip_invalid, noun="profile"
    )
    with database.writing("ingest embeddings"):
        found, alone, notes = _profiles_of(database, ids)
        pairs = [(key, row) for key, row in found.items() if keep[row]]
        rows = [row for _, row in pairs]
        counts = rna.keep(database, [key for key, _ in pairs], vectors[rows], encoder)
    if alone:
        skipped["no expression of that id in the database"] = alone
    return IngestReport(
        table="RNA embeddings",
        inserted=counts.inserted,
        updated=counts.updated,
        unchanged=counts.unchanged,
        skipped={**skipped, **invalid},
        sources=len(parts),
        facts={"encoder": encoder, "dim": str(vectors.shape[1])},
        notes=(*notes, "kept and exported; align and search use the expression"),
    )


def _profiles_of(
    database: Database, ids: Sequence[str]
) -> tuple[dict[str, int], tuple[str, ...], tuple[str, ...]]:
    """The row of `ids` for each profile that has one, the ids of no profile, and notes.

    Raises:
        InputError: none of the ids is a profile's.
        DuplicateIdError: an id may be that of several profiles.
    """
    held = database.read(PROFILES, [PROFILES.key])[PROFILES.key].to_pylist()
    found = keyed.match_keys(ids, held)
    used = Counter(row for row in found.rows if row is not None)
    if not used:
        raise InputError(
            "no id of the embeddings is that of a profile",
            found=f"in the file {some(ids, 3)}; in the database {some(held, 3)}",
            hint="--id COLUMN names another column of ids",
        )
    if shared := [ids[row] for row, n in used.items() if n > 1]:
        raise DuplicateIdError(
            f"{len(shared)} ids of the embeddings may belong to several profiles each",
            found=some(shared, 3),
            hint="give each embedding the id of its own profile",
        )
    rows = {key: row for key, row in zip(held, found.rows, strict=True) if row is not None}
    return rows, tuple(i for row, i in enumerate(ids) if row not in used), found.notes


def _left_out(parts: Sequence[readers.Slides]) -> dict[str, tuple[str, ...]]:
    """What the readers skipped, by reason."""
    skipped: dict[str, tuple[str, ...]] = {}
    for reason, ids in ((r, i) for part in parts for r, i in part.skipped.items()):
        skipped[reason] = (*skipped.get(reason, ()), *ids)
    return skipped


def _together(parts: Sequence[readers.Profiles]) -> list[readers.Profiles]:
    """The parts with those of the same genes and scale joined, whatever the order of the genes."""
    groups: dict[tuple[tuple[str, ...], str | None], list[readers.Profiles]] = {}
    seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    for part in parts:
        key = seen.setdefault(part.genes, tuple(sorted(part.genes)))
        groups.setdefault((key, part.scale), []).append(part)
    joined = []
    for (key, _), group in groups.items():
        first = group[0]
        if len(group) == 1:
            joined.append(first)
            continue
        aligned = []
        for part in group:
            values = part.values
            if part.genes != first.genes:
                ours = sorted(range(len(key)), key=first.genes.__getitem__)
                theirs = sorted(range(len(key)), key=part.genes.__getitem__)
                values = np.empty_like(part.values)
                values[:, ours] = part.values[:, theirs]
            aligned.append(values)
        metadata = [_with_rows(part.metadata, len(part.ids)) for part in group]
        joined.append(
            replace(
                first,
                ids=tuple(i for part in group for i in part.ids),
                values=np.concatenate(aligned),
                metadata=pa.concat_tables(metadata, promote_options="permissive"),
                notes=tuple(dict.fromkeys(note for part in group for note in part.notes)),
                source=f"{first.source} and {len(group) - 1} more files",
            )
        )
    return joined


def _scale_of(parts: Sequence[readers.Profiles], forced: str | None) -> tuple[str, list[str]]:
    """The scale of all parts, checked against their values, and notes that say how it is known."""
    notes: list[str] = []
    found: dict[str, str] = {}
    for part in parts:
        facts = scales.facts_of(part.values)
        scale = forced or part.scale
        if part.scale and forced and part.scale != forced:
            raise MismatchError(
                f"{part.source} is in {part.scale}, not in {forced}", hint=f"--scale {part.scale}"
            )
        if scale is None:
            scale, why = scales.detect(facts, part.source)
            notes.append(f"scale read as {scale}: {why} (--scale says another)")
        notes += scales.check(facts, scale, part.source)
        found[scale] = part.source
    if len(found) > 1:
        raise MismatchError(
            "the files hold expression in different scales",
            found=", ".join(f"{source}: {scale}" for scale, source in found.items()),
            hint="ingest one scale at a time, into one database each",
        )
    return next(iter(found)), notes


def ingest_metadata(
    database: Database, paths: Sequence[Path], *, on: str | None = None
) -> MetadataReport:
    """Join the columns of tables to slides and profiles that share a key.

    `on` is a column of the file: `slide_id`, `profile_id`, `patient_id`, any column that both
    sides hold, or a column of TCGA barcodes, which are matched to the ids of the database by the
    rule of `molquery.keys`. Left out, it is the first column that is called like ids. The columns
    patient_id, cohort and site only fill gaps: a value that differs is kept as it is and counted.

    Raises:
        InputError: the key is missing or repeated, or nothing matches; the database is as it was.
    """
    table = pa.concat_tables(
        [readers.read_table(path) for path in paths], promote_options="permissive"
    )
    with database.writing("ingest metadata"):
        return _join_metadata(database, table, on)


def _join_metadata(database: Database, table: pa.Table, on: str | None) -> MetadataReport:
    names = table.schema.names
    notes: list[str] = []
    if on is None:
        on, told = _key_column(names)
        notes.append(told)
    if on not in names:
        same = [name for name in names if readers.columns.normal(name) == on.lower()]
        if len(same) != 1:
            raise ColumnError(
                f"the metadata have no column {on}",
                found=some(names, 20),
                hint="--on COLUMN names the column to join by",
            )
        table = table.rename_columns([on if name == same[0] else name for name in names])
        names = table.schema.names
    keys = table[on].cast(pa.string())
    table = table.set_column(table.schema.get_field_index(on), on, keys)
    table = table.filter(keys.is_valid())
    _check_unique(table[on].to_pylist(), on, option="--on")
    table, changes = storable(_own_names(table, on), keep=[on])
    notes += changes
    specs = [s for s in schema.TABLES.values() if database.has(s)]
    columns = [c for c in table.schema.names if c not in (on, SLIDES.key, PROFILES.key)]
    joined: dict[str, tuple[list[str], pa.Table, int]] = {}
    used: set[int] = set()
    for spec in specs:
        if found := _match(database, spec, table[on].to_pylist(), on):
            target, rows, said = found
            notes += [f"{spec.name}: {note}" for note in said]
            joined[spec.name] = _join(database, spec, table, target, rows, columns, notes)
            used.update(row for row in rows if row is not None)
    if not joined:
        raise ColumnError(
            f"neither slides nor profiles have a column {on}",
            found=some({c for s in specs for c in database.metadata_columns(s)}, 20),
            hint="--on slide_id or --on patient_id; ingest slides or profiles first",
        )
    in_file = table[on].to_pylist()
    if not used:
        held = sorted({key for lost, _, _ in joined.values() for key in lost})
        raise InputError(
            f"no {on} of the metadata is in the database",
            found=f"in the file {some(sorted(in_file), 3)}; in the database {some(held, 3)}",
        )
    for spec in specs:
        if spec.name in joined and joined[spec.name][2]:
            database.set_columns(spec, spec.key, joined[spec.name][1])
    if SLIDES.name in joined and joined[SLIDES.name][2]:
        _project_again(database, set(joined[SLIDES.name][1].schema.names))
    lost = sorted(key for i, key in enumerate(in_file) if i not in used)
    alone = sorted({key for missing, _, _ in joined.values() for key in missing})
    return MetadataReport(
        columns=tuple(columns),
        matched={
            name: (n, database.count(schema.TABLES[name])) for name, (_, _, n) in joined.items()
        },
        unmatched_file=tuple(lost[:3]),
        unmatched_database=tuple(alone[:3]),
        n_unmatched_file=len(lost),
        n_unmatched_database=len(alone),
        notes=tuple(notes),
    )


#: Columns of ids in clinical tables, normalised, from the finest to the coarsest.
_KEYS = (
    "slide_id", "profile_id", "sample_id", "sampleid", "sample", "sample_barcode",
    "bcr_sample_barcode", "patient_id", "patient", "patientid", "_patient",
    "bcr_patient_barcode", "submitter_id", "cases_submitter_id", "case_submitter_id", "case_id",
)  # fmt: skip


def _key_column(names: Sequence[str]) -> tuple[str, str]:
    at = readers.columns.first_of(names, _KEYS)
    if at is None:
        raise ColumnError(
            "no column of the metadata is called like ids of slides, samples or patients",
            found=some(names, 20),
            hint="--on COLUMN names the column to join by",
        )
    return names[at], f"joined by column {names[at]} (--on says another)"


def _own_names(table: pa.Table, on: str) -> pa.Table:
    """The table with PATIENT_ID, Cohort and the like called as molquery calls them."""
    own = (schema.PATIENT, schema.COHORT, schema.SITE)
    names = table.schema.names
    for wanted in own:
        same = [n for n in names if readers.columns.normal(n) == wanted and n != on]
        if wanted not in names and len(same) == 1:
            names = [wanted if n == same[0] else n for n in names]
    return table.rename_columns(names)


def _match(
    database: Database, spec: TableSpec, keys: list[str], on: str
) -> tuple[str, tuple[int | None, ...], tuple[str, ...]] | None:
    """Column of a table that the keys belong to, the row for each of its rows, and notes.

    The column of the same name, whole; else the table's ids or patients, whichever match the most.
    """
    there = database.metadata_columns(spec)
    named = [c for c in dict.fromkeys((on, readers.columns.normal(on))) if c in there]
    best: tuple[int, str, keyed.Matched] | None = None
    for target in dict.fromkeys([*named, spec.key, schema.PATIENT]):
        held = database.read(spec, [target])[target]
        if not pa.types.is_string(held.type):
            held = held.cast(pa.string())
        found = keyed.match_keys(keys, held.to_pylist())
        n = sum(row is not None for row in found.rows)
        if best is None or n > best[0]:
            best = (n, target, found)
        if n and target in named:
            break
    assert best is not None
    n, target, found = best
    if not n and not named:
        return None
    said = found.notes
    if target != on:
        said = (f"{on} of the file is matched to {target}", *said)
    return target, found.rows, said


def _project_again(database: Database, changed: Set[str]) -> None:
    """Slides are projected by cohort and site: project them anew when those were filled."""
    space = current_space(database)
    if space is not None and changed & {schema.COHORT, schema.SITE}:
        project_slides(database, space)


def _join(
    database: Database, spec: TableSpec, table: pa.Table, target: str,
    rows: tuple[int | None, ...], columns: list[str], notes: list[str],
) -> tuple[list[str], pa.Table, int]:  # fmt: skip
    """Keys that no row matches, the columns to set on matched rows, and how many rows match."""
    recognised = [c for c in (schema.PATIENT, schema.COHORT, schema.SITE) if c in columns]
    held = database.read(spec, list(dict.fromkeys([spec.key, target, *recognised])))
    matched = pa.array([row is not None for row in rows])
    chosen = table.take(pa.array([row for row in rows if row is not None], pa.int64()))
    values: dict[str, Any] = {spec.key: held[spec.key].filter(matched)}
    for column in columns:
        fresh = chosen[column]
        if column in recognised:
            old = held[column].filter(matched).to_pylist()
            if column == schema.PATIENT:  # a row that counts as a patient of its own names none
                own = values[spec.key].to_pylist()
                old = [None if a == k else a for a, k in zip(old, own, strict=True)]
            new = [None if v is None else str(v) for v in fresh.to_pylist()]
            check_text(column, pa.array(new, pa.string()))
            differ = sum(
                a is not None and b is not None and a != b for a, b in zip(old, new, strict=True)
            )
            if differ:
                notes.append(
                    f"{column} differs for {differ} {spec.name}: kept as ingested with them"
                )
            kept = held[column].filter(matched).to_pylist()
            filled = [
                c if b is None else b if a is None else a
                for a, b, c in zip(old, new, kept, strict=True)
            ]
            if filled == kept:
                continue
            fresh = pa.array(filled, pa.string())
        values[column] = fresh
    keys = zip(held[target].to_pylist(), rows, strict=True)
    lost = [str(key) for key, row in keys if row is None and key is not None]
    return lost, pa.table(values), len(chosen)


def _one_encoder(parts: Sequence[readers.Slides], encoder: str | None) -> str:
    named = sorted({part.encoder for part in parts if part.encoder})
    if encoder is None and len(named) == 1 and all(part.encoder for part in parts):
        return named[0]
    places = {part.encoder: part.source for part in reversed(parts)}
    found = ", ".join(f"{name} in {places[name]}" for name in named) or "no encoder name"
    apart = "ingest the files of one encoder: a folder, a glob in quotes, or a list of paths"
    if len(named) > 1:
        raise MismatchError(
            "the files hold embeddings of several encoders", found=found, hint=apart
        )
    if encoder is None:
        raise MismatchError(
            "the files do not say which encoder made the vectors" if not named
            else f"some files do not say which encoder made the vectors: {places[None]}",
            found=found,
            hint=f"--encoder {named[0] if named else 'NAME'}, if that is what made them all",
        )  # fmt: skip
    if any(name.lower() != encoder.lower() for name in named):
        raise MismatchError(f"--encoder {encoder} is not what the files say", found=found,
                            hint=f"leave out --encoder, or {apart}")  # fmt: skip
    return encoder


def _check_unique(ids: Sequence[str], noun: str, option: str = "--id") -> None:
    if len(set(ids)) != len(ids):
        twice = [i for i, n in Counter(ids).items() if n > 1]
        raise DuplicateIdError(
            f"{len(twice)} {noun.removesuffix('_id')} ids appear more than once",
            found=some(twice, 3),
            hint=f"every row needs an id of its own; {option} COLUMN chooses another column",
        )


def _check_facts(database: Database, spec: TableSpec, facts: Mapping[str, Any]) -> None:
    if not database.has(spec):
        return
    held = database.facts(spec)
    for name in ("encoder", "kind", "scale", "dim"):
        if name in facts and held.get(name) != facts[name]:
            raise MismatchError(
                f"the {spec.name} of this database have another {name}",
                found=f"{name} {facts[name]} in the file; {held.get(name)} in the database",
                hint="one database holds one encoder and one scale: make another with "
                "molquery --db OTHER init",
            )


def check_vectors(vectors: Matrix, ids: Sequence[str], *, kind: str) -> None:
    """Refuse slide vectors that hold NaN (unless they are features), infinity or only zeros."""
    check_rows(vectors, ids, allow_nan=kind == FEATURES_KIND, skip_invalid=False, noun="slide")


def _with_rows(metadata: pa.Table, n: int) -> pa.Table:
    """The metadata with at least one column, so that its row count is kept."""
    return (
        metadata if metadata.num_columns else pa.table({schema.PATIENT: pa.nulls(n, pa.string())})
    )


def _rows(
    spec: TableSpec, ids: Sequence[str], vectors: Matrix, metadata: pa.Table, keep: Any
) -> tuple[pa.Table, int]:
    """The table's rows from ids, vectors and metadata; ids and barcodes fill what is missing.

    Also how many name no patient and count as one of their own.
    """
    keys = pa.array(ids, pa.string())

    def text(column: str) -> pa.Array:
        if column not in metadata.schema.names:
            return pa.nulls(len(ids), pa.string())
        held = metadata[column]
        if pa.types.is_string(held.type):
            return held.combine_chunks()
        return pa.array([None if v is None else str(v) for v in held.to_pylist()], pa.string())

    patients, sites = text(schema.PATIENT), text(schema.SITE)
    own = 0
    if patients.null_count or has_barcodes(patients):
        patients, sites, own = _by_barcodes(ids, patients.to_pylist(), sites.to_pylist())
    own_columns = (spec.key, schema.PATIENT, schema.COHORT, schema.SITE)
    extra = [c for c in metadata.schema.names if c not in (*own_columns, SLIDES.key, PROFILES.key)]
    columns: dict[str, Any] = {
        spec.key: keys,
        schema.PATIENT: patients,
        schema.COHORT: text(schema.COHORT),
        schema.SITE: sites,
    }
    for name in own_columns:
        check_text(name, columns[name])
    told = pa.table({**columns, **{c: metadata[c] for c in extra}})
    columns[schema.CONTENT_HASH] = pa.array(_hashes(told, vectors), pa.string())
    columns[spec.vector] = matrix_to_list(vectors)
    rows = pa.table(columns, schema=spec.schema(vectors.shape[1]))
    for name in extra:
        rows = rows.append_column(name, metadata[name])
    return rows if keep.all() else rows.filter(pa.array(keep)), own


def _by_barcodes(
    ids: Sequence[str], patients: Sequence[str | None], sites: Sequence[str | None]
) -> tuple[pa.Array, pa.Array, int]:
    """Patients and sites, as far as they are missing those that TCGA barcodes name, or the id.

    Also how many name no patient.
    """
    own = 0
    if None in patients:
        barcodes = [patient_of(i) for i in ids]
        own = sum(p is None and b is None for p, b in zip(patients, barcodes, strict=True))
        patients = [p or b or i for p, b, i in zip(patients, barcodes, ids, strict=True)]
    # A column of patients may hold the barcodes of samples: two samples are one patient.
    patients = [patient_of(p or "") or p for p in patients]
    sites = [s or site_of(p or "") for s, p in zip(sites, patients, strict=True)]
    return pa.array(patients, pa.string()), pa.array(sites, pa.string()), own


def _hashes(told: pa.Table, vectors: Matrix) -> list[str]:
    """A content hash per row, over its metadata as text and the bytes of its vector."""
    columns = [told[name].to_pylist() for name in told.schema.names]
    names = repr(told.schema.names).encode()
    width = vectors.shape[1] * vectors.itemsize
    content = memoryview(vectors.reshape(-1).view(np.uint8).data)
    return [
        content_hash(content[at : at + width], names + repr(row).encode())
        for at, row in zip(itertools.count(0, width), zip(*columns, strict=True))
    ]


def _keep_joined(database: Database, spec: TableSpec, rows: pa.Table) -> pa.Table:
    """The rows with the cohorts and sites that a metadata join gave them, where files say none.

    Likewise the patient, of rows that otherwise count as a patient of their own.
    """
    if not database.has(spec):
        return rows
    held = database.read(spec, [spec.key, schema.PATIENT, schema.COHORT, schema.SITE]).to_pydict()
    at = {key: i for i, key in enumerate(held[spec.key])}
    keys = rows[spec.key].to_pylist()
    for column in (schema.PATIENT, schema.COHORT, schema.SITE):
        values = [
            held[column][at[key]] if key in at and value in (None, key) else value
            for key, value in zip(keys, rows[column].to_pylist(), strict=True)
        ]
        position = rows.schema.get_field_index(column)
        rows = rows.set_column(position, rows.schema.field(column), pa.array(values, pa.string()))
    return rows


def _project(rows: pa.Table, spec: TableSpec, space: SharedSpace | None) -> pa.Table:
    """The rows with their shared-space vectors, where the database has a space already."""
    if space is None:
        return rows
    if spec is SLIDES:
        shared = project_rows(rows, space)
    else:
        shared = space.project_profiles(list_to_matrix(rows[spec.vector]))
    return rows.append_column(schema.shared_column(space.space_id), matrix_to_list(shared))


def current_symbols(
    names: Sequence[str], values: Matrix, *, kind: str = "auto"
) -> tuple[list[str], Matrix, list[str]]:
    """Current gene symbols, one column each.

    Of columns with the same current symbol, one that carries it already is kept before a renamed
    one (the other may be a gene of its own that was merged since), then the higher mean.
    """
    resolved = genes.resolve(names, kind=kind)
    unresolved = sum(symbol is None for symbol in resolved.symbols)
    if kind != "auto" and unresolved == len(names):
        raise InputError(
            f"none of the {len(names)} gene names is known as --gene-id {kind}",
            found=some(names, 3),
            hint="leave out --gene-id: the kind is told from the names",
        )
    notes = [
        f"genes read as {resolved.kind} identifiers: {len(names) - unresolved} of {len(names)} are "
        f"known ({genes.table_version()})"
    ]
    current = [s or n for s, n in zip(resolved.symbols, names, strict=True)]
    dropped = set(resolved.dropped)
    usable = [i for i, n in enumerate(names) if n not in dropped and n]
    best: dict[str, int] = {}
    means = _means(values)
    preference = [(n not in resolved.renamed, means[i]) for i, n in enumerate(names)]
    for i in usable:
        kept = best.get(current[i])
        if kept is None or preference[i] > preference[kept]:
            best[current[i]] = i
    order = sorted(best.values())
    if resolved.renamed:
        pairs = [f"{old} -> {new}" for old, new in resolved.renamed.items()]
        notes.append(f"{len(pairs)} genes renamed to current symbols: {some(pairs, 3)}")
    if len(order) < len(usable):
        several = [gene for gene, n in Counter(current[i] for i in usable).items() if n > 1]
        notes.append(
            f"{len(usable) - len(order)} gene columns are duplicates of another after renaming "
            f"({some(several, 3)}): one of each is kept (the current name first, then the higher "
            "mean)"
        )
    if sum(n == s.capitalize() for n, s in resolved.renamed.items()) > len(names) / 2:
        notes.append(
            "WARNING: the genes are written as those of the mouse are (Cd8a): they are read as the "
            "human genes of the same letters"
        )
    if dropped:
        notes.append(f"{len(dropped)} pseudo-autosomal (_PAR_Y) gene columns left out")
    if resolved.ambiguous:
        notes.append(
            f"{len(resolved.ambiguous)} ambiguous gene names kept as they are: "
            f"{some(resolved.ambiguous, 3)}"
        )
    if resolved.unknown:
        notes.append(
            f"{len(resolved.unknown)} gene names unknown to the gene table kept as they are: "
            f"{some(resolved.unknown, 3)}"
        )
    if resolved.date_damaged:
        notes.append(
            f"WARNING: {len(resolved.date_damaged)} gene names look like dates (damaged by a "
            f"spreadsheet): {some(resolved.date_damaged, 5)}"
        )
    return [current[i] for i in order], np.ascontiguousarray(values[:, order]), notes


def _means(values: Matrix) -> npt.NDArray[np.float64]:
    """Mean of every column without its missing values, 0 where all are; a block of rows at once."""
    total, count = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for start in range(0, len(values), 64):
        block = values[start : start + 64].astype(np.float64)
        seen = ~np.isnan(block)
        total += np.where(seen, block, 0).sum(axis=0)
        count += seen.sum(axis=0)
    means: npt.NDArray[np.float64] = total / np.maximum(count, 1)
    return means


def onto_panel(
    names: list[str], values: Matrix, panel: list[str], source: str, notes: list[str]
) -> Matrix:
    """Values in the order of the database's gene panel; genes that the file lacks are NaN."""
    if names == panel:
        return values
    position = {name: i for i, name in enumerate(names)}
    shared = [(i, position[g]) for i, g in enumerate(panel) if g in position]
    if len(shared) < _PANEL_SHARE * len(panel):
        raise MismatchError(
            f"{source} holds only {len(shared)} of the {len(panel)} genes of this database",
            found=f"in the file {some(names, 3)}; in the database {some(panel, 3)}",
            hint="profiles of another gene panel need a database of their own",
        )
    out = np.full((len(values), len(panel)), np.nan, dtype=np.float32)
    ours, theirs = (list(x) for x in zip(*shared, strict=True))
    out[:, ours] = values[:, theirs]
    lacking, extra = len(panel) - len(shared), len(names) - len(shared)
    if lacking or extra:
        notes.append(
            f"{source}: {lacking} genes of the database's panel are missing from it (stored as "
            f"missing), {extra} genes outside the panel left out"
        )
    return out
