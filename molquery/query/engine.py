"""What every query needs, loaded once for one state of a database.

An engine is a snapshot: it reads each table at one version, so a query sees one consistent state
from start to end, however the database changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from molquery import __version__, index, schema
from molquery.barcodes import pair_keys
from molquery.database import Database, list_to_matrix
from molquery.errors import ColumnError, DatabaseError, InputError, NotReadyError, OutputError, some
from molquery.evaluate.held_out import HeldOutPairs, describe
from molquery.genesets.scoring import GeneSet
from molquery.predict import COHORT_SCHEME, PATIENT_SCHEME, SITE_SCHEME, Operator
from molquery.progress import Progress, silent
from molquery.query import calibrate, methods, prepared
from molquery.query.prepared import Prepared
from molquery.recipes import load_recipe
from molquery.records import Predictability, Provenance
from molquery.reference import DEFAULT_SCORING, Reference
from molquery.schema import PROFILES, SLIDES
from molquery.space import DEFAULT_SPACE, need_space, not_aligned, space_facts
from molquery.texts import Groups, Texts
from molquery.threads import Mapper
from molquery.vectors import Bools, Float, Ints, Matrix, Strings, as_text

if TYPE_CHECKING:
    from molquery.index import Index, Source


@dataclass(frozen=True, slots=True)
class HalfWidths:
    """Half the widths of the prediction intervals of one signature's slide scores.

    Attributes:
        cohorts: of the slides.
        bounds: (n_cohorts,) in units of the spread; NaN for cohorts that are judged by the others.
        elsewhere: half the width in those, not finite where there is none.
        spread: of some slides.
    """

    cohorts: Groups
    bounds: Float
    elsewhere: float
    spread: Callable[[Ints], Float]

    def at(self, rows: Ints | None = None) -> Float:
        """(n_rows,) of all slides, or of some; NaN where there is no interval."""
        rows = np.arange(len(self.cohorts.code)) if rows is None else rows
        bounds = self.bounds[self.cohorts.code[rows]]
        own = ~np.isnan(bounds)
        half = np.full(len(rows), self.elsewhere)
        half[own] = bounds[own] * self.spread(rows[own])
        half[~np.isfinite(half)] = np.nan
        return half

    def lacking(self, rows: Bools) -> int:
        """How many slides of a mask (n_slides,) have no interval."""
        half = np.where(np.isnan(self.bounds), self.elsewhere, self.bounds)
        return int(self.cohorts.counts(rows)[~np.isfinite(half)].sum())


class Engine:
    """A snapshot of a database, ready to answer.

    `mapper` computes prediction weights that are not stored yet, as in `Fitted.batches`; `progress`
    gives what is told about it for as long as it takes.

    Raises:
        NotReadyError: slides, profiles or the space are missing; says what to run.
    """

    def __init__(
        self,
        database: Database,
        mapper: Mapper | None = None,
        progress: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(silent),
    ) -> None:
        self._mapper, self._progress = mapper, progress
        self._looking_ahead = False
        database = database.pinned()
        facts = space_facts(database)
        if facts is None:
            raise not_aligned(database)
        self.database = database
        self.version = int(database.manifest()["version"])
        self.facts: dict[str, Any] = facts
        self.space_id = str(database.manifest()["spaces"][DEFAULT_SPACE]["space_id"])
        self.versions = {spec.name: database.version(spec) for spec in (SLIDES, PROFILES)}
        table = database.read_sidecar(SLIDES, self.slide_columns)
        self.texts = {name: Texts(table[name]) for name in self.slide_columns}
        self.n_slides = len(table)
        self.notices: list[str] = []
        if hold_out := facts.get("hold_out"):
            self.notices.append(
                f"the RNA of {hold_out['quality']['n_patients']} patients is held out of this "
                f"space and not used ({hold_out['rule']})"
            )
        self._views: dict[str, list[methods.View]] = {}
        self._indexes: dict[tuple[str, str, bool], Index] = {}
        #: What searches on this snapshot have computed already (see `molquery.query.search`).
        self.answers: dict[tuple[Any, ...], Any] = {}

    @property
    def slide_ids(self) -> Strings:
        """(n_slides,) in order."""
        return self.texts[SLIDES.key].all

    @property
    def patients(self) -> Strings:
        """(n_slides,) their patients."""
        return self.texts[schema.PATIENT].all

    @property
    def cohorts(self) -> Strings:
        """(n_slides,) their cohorts."""
        return self.texts[schema.COHORT].all

    @property
    def by_cohort(self) -> Groups:
        """The slides by cohort."""
        return self.texts[schema.COHORT].groups

    @property
    def groups(self) -> Strings:
        """(n_slides,) what was held out together when the space was learned, usually patients."""
        return self.texts[self._split_on].all

    @property
    def sample(self) -> Ints:
        """Slides that stand for all in figures about the archive: see `calibrate.sampled`."""
        return calibrate.sampled(np.arange(self.n_slides))

    @property
    def slide_columns(self) -> list[str]:
        """What is read of the slides."""
        used = [SLIDES.key, schema.PATIENT, schema.COHORT]
        return list(dict.fromkeys([*used, self.facts["settings"]["pair_on"], self._split_on]))

    @property
    def _split_on(self) -> str:
        return str(self.facts["split_on"])

    def is_current(self) -> bool:
        """True while the database is in the state of this snapshot."""
        return self.database.is_current()

    @cached_property
    def reference(self) -> Reference:
        """The expression profiles that signatures are scored in."""
        hold_out = self.facts.get("hold_out") or {}
        return Reference(
            self.database,
            hold_out.get("profiles", ()),
            lambda: None if self._stored is None else self._stored.moments,
        )

    @cached_property
    def _stored(self) -> Prepared | None:
        return prepared.load(self.database, self.space_id)

    @cached_property
    def prepared(self) -> Prepared:
        """Prediction weights, gene moments and the Hallmark spectrum: stored, or computed anew."""
        if self._stored is not None:
            return self._stored
        with self._progress() as tell:
            return self._prepare(tell)

    def _prepare(self, tell: Progress) -> Prepared:
        """Compute them, and store them with what else makes the next query quick."""
        tell(prepared.STAGE, 0, self.n_slides)
        space = need_space(self.database)
        planned = prepared.plan(self.database, space, self.reference, self._pairs)
        found = None
        try:
            prepared.store(self.database, self.space_id, planned, self._mapper, tell)
            found = prepared.load(self.database, self.space_id)
            self.database.write_sidecar(SLIDES, self.slide_columns)
            self.database.write_sidecar(PROFILES, Reference.COLUMNS)
            for source in self._sources.values():
                index.build(self.database, source, load_recipe("flat"), progress=tell)
                tell(f"writing vectors of {source.spec.name}", source.n, source.n)
        except (DatabaseError, OutputError):
            self.notices.append("what was computed for this query could not be stored: the next "
                                "one computes it again")  # fmt: skip
        return found or prepared.aside(self.database, planned, tell)

    def look_ahead(self) -> None:
        """Begin to check what scores of all slides will need, if it is stored; once."""
        if self._stored is not None and not self._looking_ahead:
            self._looking_ahead = True
            self._stored.check_ahead()

    @property
    def operators(self) -> Mapping[str, Operator]:
        """The prediction weights by fold scheme."""
        return self.prepared.operators

    @property
    def spectrum(self) -> Mapping[str, Predictability]:
        """Predictability of every Hallmark set with enough genes in the panel, best first."""
        return self.prepared.spectrum

    @property
    def operator(self) -> Operator:
        """The prediction weights of every slide: held out for patients with RNA."""
        return self.operators[PATIENT_SCHEME]

    def predict(self, scores: Float) -> Float:
        """Predicted scores (n_slides, S) from reference scores (n_reference, S)."""
        return self.operator.apply(scores)

    def views(self, scheme: str) -> list[methods.View]:
        """What the models of a fold scheme see in the shared space; kept once computed."""
        if scheme not in self._views:
            self._views[scheme] = methods.views(self, scheme)
        return self._views[scheme]

    @cached_property
    def held_out(self) -> Bools:
        """(n_slides,) slides that a model predicts which has not seen their patient."""
        return np.asarray(self.operator.model >= 0)

    @cached_property
    def unseen(self) -> Bools:
        """(n_slides,) slides of cohorts without a single pair: the level of their scores is
        uncertain (`molquery.predict`)."""
        return np.asarray(self.operator.soft_share == 0)

    def domain(self, rows: Ints) -> list[str]:
        """'in' or 'out': whether each slide is like those that the model has learned from."""
        return ["out" if out else "in" for out in self.out_of_domain[rows]]

    def domain_notes(self, rows: Bools) -> list[str]:
        """A note for every cohort in which far more slides are out of domain than chance allows."""
        ranked = self.by_cohort.counts(rows)
        strange = self.by_cohort.counts(rows & self.out_of_domain)
        return [
            f"{out} of {n} slides of {cohort or 'no cohort'} are unlike "
            "those that the model has learned from (of ordinary slides about "
            f"{calibrate.FALSE_ALARM:.0%}): domain 'out', trust their scores less"
            for cohort, n, out in zip(self.by_cohort.names.tolist(), ranked, strange, strict=True)
            if out >= 5 and out > 3 * calibrate.FALSE_ALARM * n
        ]

    def basis(self, rows: Ints) -> list[str]:
        """What each slide's score rests on: see `molquery.query.search.COLUMNS`."""
        seen = np.where(self.held_out[rows], "held-out", "projected")
        return [str(b) for b in np.where(self.unseen[rows], "unseen cohort", seen)]

    @cached_property
    def out_of_domain(self) -> Bools:
        """(n_slides,) slides unlike those that the model learned from: see `calibrate.outlying`."""
        known = np.flatnonzero(self.held_out)
        patients = self.texts[self._split_on].at(known)
        return calibrate.outlying(self.operator.distance, known, self.by_cohort, patients)

    def intervals(
        self,
        predicted: Float,
        measured: Float,
        level: float = calibrate.LEVEL,
        *,
        method: str = methods.DEFAULT_METHOD,
    ) -> tuple[Float, Float]:
        """Prediction intervals of one signature's slide scores: low and high, each (n_slides,).

        As `half_widths`, of every slide.
        """
        known = predicted[self.pairs.slide]
        half = self.half_widths(known, measured, level, method=method).at()
        return predicted - half, predicted + half

    def half_widths(
        self,
        known: Float,
        measured: Float,
        level: float = calibrate.LEVEL,
        *,
        method: str = methods.DEFAULT_METHOD,
    ) -> HalfWidths:
        """What makes the prediction intervals of one signature's slide scores.

        The measured score of a new patient of a cohort lies inside with probability `level`:
        predicted plus or minus b u, with u the spread of the measured scores among the slide's
        nearest profiles (`spread`), and b the conformal bound on |measured - predicted| / u over
        the cohort's held-out patients (locally weighted split conformal,
        doi:10.1080/01621459.2017.1307116). A cohort with RNA of fewer than
        `calibrate.MIN_PATIENTS` patients, or of none, gets the widest bound on |measured -
        predicted| that any other cohort needs when it is left out as a whole and predicted by the
        rest. NaN where neither can be measured.

        Args:
            known: (n_pairs,) scores by the method of the held-out slides, `pairs.slide`.
            measured: (n_reference,) scores of the same signature in the reference.
            method: what predicted. Cohorts left out are predicted by the ridge, as `blend` does; by
                another method a cohort without enough patients has no interval.

        Raises:
            InputError: `level` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError("the level of an interval lies between 0 and 1", found=str(level))
        slide, profile = self.pairs.slide, self.pairs.profile
        cohorts = self.texts[schema.COHORT].at(slide)
        groups = self.texts[self._split_on].at(slide)
        truth = measured[profile]
        spread = self._spread(measured)
        errors = np.abs(truth - known) / spread(slide)
        bounds = calibrate.cohort_bounds(errors, cohorts, groups, level)
        elsewhere = np.nan
        if COHORT_SCHEME in self.operators and method in ("blend", "ridge"):
            left_out = self.operators[COHORT_SCHEME].apply(measured[:, None], slide)[:, 0]
            errors = np.abs(truth - left_out)
            worst = calibrate.cohort_bounds(errors, cohorts, groups, level).values()
            elsewhere = max(worst, default=calibrate.conformal_bound(errors, groups, level))
        own = [bounds.get(name, np.nan) for name in self.by_cohort.names.tolist()]
        return HalfWidths(self.by_cohort, np.array(own), float(elsewhere), spread)

    def spread(self, measured: Float, rows: Ints | None = None) -> Float:
        """(n_slides,) standard deviation of measured scores (n_reference,) among the nearest
        profiles of each slide, or of some `rows`, by their soft-kNN weights; at least half of its
        median (over `sample`)."""
        return self._spread(measured)(np.arange(self.n_slides) if rows is None else rows)

    def _spread(self, measured: Float) -> Callable[[Ints], Float]:
        """What gives the spread of some slides."""
        unit = measured.std()
        z = (measured - measured.mean()) / unit  # the squares must not drown the differences
        both = np.stack([z, z**2], axis=1).astype(np.float32)

        def found(rows: Ints) -> Float:
            mean, square = self.operator.soft(both, rows).T.astype(float)
            return np.asarray(np.sqrt(np.maximum(square - mean**2, 0.0)))

        least = np.median(found(self.sample)) / 2
        return lambda rows: np.asarray(unit * np.maximum(found(rows), least))

    def interval_note(self, lacking: int) -> list[str]:
        """A note when slides have no interval, else nothing."""
        if not lacking:
            return []
        units = "patients" if self._split_on == schema.PATIENT else f"{self._split_on} values"
        return [
            f"no interval for {lacking} slides: in their cohort RNA of fewer than "
            f"{calibrate.MIN_PATIENTS} {units} was held out, and how far predictions carry over "
            "between cohorts cannot be measured here"
        ]

    def unseen_note(self, rows: Bools) -> list[str]:
        """A warning when slides of unseen cohorts are among those ranked, else nothing."""
        mine = rows & self.unseen
        if not mine.any():
            return []
        named = some(self.by_cohort.within(mine).tolist())
        return [
            f"{int(mine.sum())} slides are of cohorts without any RNA ({named}): trust their order "
            "within the cohort, not their level against other cohorts; their interval is as wide "
            "as any cohort needs when it is left out"
        ]

    @cached_property
    def pairs(self) -> HeldOutPairs:
        """The pairs of slide and profile that were held out in some fold."""
        return self._pairs(self.operator)

    def _pairs(self, operator: Operator) -> HeldOutPairs:
        pair_on = self.facts["settings"]["pair_on"]
        if pair_on == schema.PATIENT:
            keys = self.reference.patients
        else:
            table = self.database.read(PROFILES, [pair_on])
            keys = as_text(table[pair_on])
        rows_of: dict[str, list[int]] = {}
        for j, key in enumerate(pair_keys(self.reference.ids.tolist(), keys.tolist())):
            if key:
                rows_of.setdefault(key, []).append(j)
        known = operator.rows[operator.model >= 0]
        own = self.texts[pair_on].at(known)
        keyed = pair_keys(self.texts[SLIDES.key].at(known).tolist(), own.tolist())
        key_of = dict(zip(known.tolist(), keyed, strict=True))
        both = [(i, j) for i in known.tolist() for j in rows_of.get(key_of[i], [])]
        if not both:  # they were deleted after the space was learned
            raise NotReadyError(
                f"no slide of {self.database.name} has a profile of its own patient any more: "
                "how far to trust a score cannot be measured",
                hint="molquery ingest profiles, or molquery restore; molquery history",
            )
        slide, profile = (np.array(side, dtype=np.int64) for side in zip(*both, strict=True))
        return HeldOutPairs.of(slide, profile, self.texts[schema.COHORT].at(slide))

    def predictability(
        self,
        scores: Float,
        *,
        method: str = methods.DEFAULT_METHOD,
        sets: Sequence[GeneSet] = (),
    ) -> Predictability:
        """Held-out quality of one signature, with its place among the Hallmark sets.

        Args:
            scores: (n_reference, 1) its measured scores.
            method: what predicts it; the place is among Hallmark sets predicted by the default.
            sets: the signature as positions and weights, for methods that need them.
        """
        schemes = [s for s in (PATIENT_SCHEME, SITE_SCHEME) if s in self.operators]
        predicted = {
            scheme: self.pairs.join(
                methods.predict(self, method, scores[:, :1], sets, scheme, self.pairs.slide)
            )
            for scheme in schemes
        }
        found = describe(predicted, self.pairs, scores[:, :1])[0]
        # A Hallmark set must not come after itself, whose scores differ by rounding.
        bar = prepared.standing(found) + 1e-6
        better = sum(prepared.standing(other) > bar for other in self.spectrum.values())
        of = len(self.spectrum)
        # What is predicted worse than all of them, and is none of them, has the last place.
        place = min(better + 1, of) or None
        return replace(found, rank=place, of=of or None, split_on=self._split_on)

    @cached_property
    def slide_vectors(self) -> Matrix:
        """(n_slides, dim) shared vectors of the slides, by the final model."""
        return self._shared(SLIDES)

    @cached_property
    def profile_vectors(self) -> Matrix:
        """(n_reference, dim) shared vectors of the profiles."""
        return self._shared(PROFILES)

    @cached_property
    def profile_index_vectors(self) -> Matrix:
        """(n_reference, dim + 1): profile vectors, and minus their hubness as a last coordinate.

        The inner product with [x, 1] is the hubness-corrected similarity to a slide x, and with
        [r, 0] the cosine to another profile.
        """
        held = index.stored_vectors(self.database, self._sources[PROFILES.name])
        return self._profile_rows() if held is None else held

    def _profile_rows(self) -> Matrix:
        vectors = self._read_shared(PROFILES)
        hubs = need_space(self.database).final.hubness(vectors)
        return np.hstack([vectors, -hubs[:, None]])

    def _shared(self, spec: schema.TableSpec) -> Matrix:
        if spec is PROFILES:
            return np.ascontiguousarray(self.profile_index_vectors[:, :-1])
        held = index.stored_vectors(self.database, self._sources[spec.name])
        return self._read_shared(spec) if held is None else held

    def shared_rows(self, spec: schema.TableSpec, rows: Ints) -> Matrix:
        """(n_rows, dim) shared vectors of some rows, by ascending position."""
        held = index.stored_vectors(self.database, self._sources[spec.name], rows)
        found = self._read_shared(spec, rows) if held is None else held
        return np.ascontiguousarray(found[:, : self.facts["dim"]])

    def _read_shared(self, spec: schema.TableSpec, rows: Ints | None = None) -> Matrix:
        column = schema.shared_column(self.space_id)
        if rows is None:
            return list_to_matrix(self.database.read(spec, [column])[column])
        return list_to_matrix(self.database.take(spec, [column], rows)[column])

    @cached_property
    def _sources(self) -> dict[str, Source]:
        """The rows that indexes are built over."""
        space = {"name": DEFAULT_SPACE, "space_id": self.space_id}
        dim = int(self.facts["dim"])
        slides = index.Source(
            SLIDES, self.n_slides, dim, space, lambda: self.slide_ids,
            lambda rows: self._read_shared(SLIDES, rows),
        )  # fmt: skip
        profiles = index.Source(
            PROFILES, self.database.count(PROFILES), dim + 1, space, lambda: self.reference.ids,
            lambda rows: self._profile_rows()[rows],
        )  # fmt: skip
        return {SLIDES.name: slides, PROFILES.name: profiles}

    def source(self, spec: schema.TableSpec) -> Source:
        """The rows of a table that indexes are built over."""
        return self._sources[spec.name]

    def forget_indexes(self) -> None:
        """Load indexes anew when they are next asked for: others have been built."""
        self._indexes.clear()

    def index(
        self, spec: schema.TableSpec, *, device: str = "auto", approximate: bool = False
    ) -> Index:
        """The best usable index of a table, loaded once.

        Args:
            device: as `index.devices` takes it; with 'auto' a GPU is used by recipes for GPUs.
            approximate: prefer an approximate one even where an exact one is fast.

        Raises:
            IndexFileError: none can be used, or the device is not there.
        """
        at = (spec.name, device, approximate)
        if at not in self._indexes:
            gpus = index.devices(device)
            self._indexes[at] = index.load_current(
                self.database, self.source(spec), devices=gpus, approximate=approximate,
                every_recipe=device != "auto",
            )  # fmt: skip
        return self._indexes[at]

    def slide_column(self, name: str) -> Strings:
        """A metadata column of the slides as text; missing values are the empty string."""
        held = self.database.metadata_columns(SLIDES)
        if name not in held:
            raise ColumnError(f"slides have no column {name}", found=some(held, 30))
        table = self.database.read(SLIDES, [name])
        return as_text(table[name])

    def slides_where(self, where: str | None) -> Bools:
        """(n_slides,) mask of the slides that satisfy a SQL filter over the metadata."""
        if where is None:
            return np.ones(self.n_slides, dtype=bool)
        table = self.database.read(SLIDES, [SLIDES.key], where=where)
        return self.texts[SLIDES.key].are_in(table[SLIDES.key])

    def provenance(self, method: str, parameters: dict[str, Any], **more: Any) -> Provenance:
        """Where a result of this snapshot comes from."""
        return Provenance(
            database=self.database.name,
            molquery=__version__,
            table_versions=dict(self.versions),
            version=self.version,
            space=DEFAULT_SPACE,
            space_id=self.space_id,
            method=method,
            parameters={"scoring": DEFAULT_SCORING, **parameters},
            **more,
        )
