"""Strata of slides or patients by predicted scores: cut, marked where unsure, tested.

How sure a stratum is comes from held-out predictions: `confidence` is the probability that the
measured score lies on the same side of the nearest cut point (`stratify.confidence`), by the errors
of held-out patients of the same cohort. A cohort with RNA of too few patients is judged by the
least favourable of the other cohorts, each left out as a whole. A row is called `uncertain` where
the confidence is below `min_confidence`, where the signature is hardly predictable in its cohort,
or where the slide is unlike those that the model learned from; its stratum always stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from molquery import __version__, stratify
from molquery.associate import Associations
from molquery.errors import InputError, MismatchError, some
from molquery.export.cutfile import CutFile, SignatureCut, reference_hash
from molquery.genesets.match import MIN_FRACTION, MIN_GENES, Match
from molquery.query import calibrate
from molquery.query.answer import FLOOR, signature_notes
from molquery.query.engine import Engine
from molquery.query.methods import DEFAULT_METHOD, check, predict
from molquery.query.tested import Outcomes, tests_of
from molquery.query.units import By, Called, Errors, Units, numbers_of, units_of
from molquery.records import Coverage, Predictability, Provenance, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.schema import COHORT
from molquery.stratify import OTHER, UNCERTAIN, Cut, Rule
from molquery.texts import Groups
from molquery.vectors import Float, Strings

#: Confidence under which a stratum is called uncertain: three to two on the assigned side.
MIN_CONFIDENCE = 0.6
NEAR, HARDLY, UNLIKE, UNKNOWN = (
    "near a cut point", "hardly predictable in its cohort", "unlike the training slides",
    "errors not measured in such cohorts",
)  # fmt: skip

#: Said where one set of cut points holds for several cohorts.
POOLED_CUT = (
    "the cut points pool the cohorts: part of what separates the strata is the type of tissue; "
    "--within cohort cuts inside each"
)

#: Columns of a table of strata and what they mean.
COLUMNS: Mapping[str, str] = {
    "score": "predicted activity, in the units of the scoring; of a patient: over the slides",
    "low": "lower end of the 90 % prediction interval of the measured score",
    "high": "its upper end",
    "percentile": "of the score among the rows of the table, 0 to 100",
    "cohort_percentile": "the same among the rows of its cohort",
    "cohort_z": "score minus the cohort's mean, in the cohort's standard deviations",
    "stratum": "where the score lies among the cut points",
    "confidence": "probability that the measured score lies on the same side of the nearest cut",
    "call": "the stratum, or uncertain",
    "reason": "why it is uncertain",
    "basis": "as in a ranking",
}


@dataclass(frozen=True)
class Part:
    """One signature: its scores, cut and strata; arrays have one value per row of the table."""

    signature: Signature
    coverage: Coverage
    predictability: Predictability
    cut: Cut
    score: Float
    low: Float
    high: Float
    strata: Strings
    confidence: Float


@dataclass(frozen=True)
class Strata:
    """Slides or patients with their strata, and everything that made them.

    Attributes:
        table: one row per slide or patient; see `COLUMNS`. With several signatures each column of
            a signature begins with its name.
        parts: the signatures, with their scores and cuts.
        sets: the strata: one set for each signature, or the one that rules make of them.
        rules: that join the signatures, if any.
        cuts: what a cut file holds.
        associations: tests, where outcomes were asked for.
    """

    table: pa.Table
    parts: tuple[Part, ...]
    sets: tuple[Called, ...]
    rules: tuple[Rule, ...]
    cuts: CutFile
    associations: Associations | None
    provenance: Provenance
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Stratum -> rows, of the first set."""
        return self.sets[0].counts

    @property
    def cut(self) -> Cut:
        """The cut of the first signature."""
        return self.parts[0].cut

    @property
    def predictability(self) -> Predictability:
        """How well held-out patients are predicted, first signature."""
        return self.parts[0].predictability

    @property
    def coverage(self) -> Coverage:
        """Which genes of the first signature the database holds."""
        return self.parts[0].coverage

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "rows": self.table.to_pylist(),
            "signatures": [
                {
                    "signature": p.signature.name, "cut": p.cut.as_dict(),
                    "predictability": asdict(p.predictability), "coverage": asdict(p.coverage),
                }
                for p in self.parts
            ],
            "rules": [str(rule) for rule in self.rules],
            "strata": [
                {"of": s.name, "counts": s.counts, "certain": s.certain, "uncertain": s.uncertain}
                for s in self.sets
            ],
            "associations": self.associations.to_dict() if self.associations else None,
            "notes": list(self.notes),
            "provenance": asdict(self.provenance),
        }  # fmt: skip


def stratify_cohort(
    engine: Engine,
    signatures: Signature | Sequence[Signature] = (),
    *,
    cut: str | None = None,
    rules: Sequence[Rule] = (),
    cuts: CutFile | None = None,
    by: By = "slide",
    slides: str = "mean",
    weight: str | None = None,
    within: str | None = None,
    where: str | None = None,
    method: str = DEFAULT_METHOD,
    scoring: str = DEFAULT_SCORING,
    min_confidence: float | None = None,
    outcomes: Outcomes | None = None,
    coordinates: tuple[str, str] | None = None,
    diameter: float | None = None,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> Strata:
    """Strata by predicted scores; the cut points are part of the result.

    Args:
        signatures: one or several; with `rules`, those that the rules name.
        cut: see `stratify.fit_cuts`; tertiles, or the median with rules, by default.
        rules: join the strata of several signatures into one.
        cuts: cut points fitted before: they are applied unchanged, and they say what is scored,
            by what and within what; the options for that must be left alone.
        by: rows are slides, or patients.
        slides: how the slides of a patient are joined: `mean`, `max`, or `weighted` by `weight`.
        weight: a numeric column of the slides, such as the area of tissue.
        within: 'cohort' to cut inside each cohort, None to cut the pooled scores.
        where: SQL filter over the slides' metadata.
        method: what predicts the scores; scoring: how the reference profiles are scored.
        min_confidence: under which a row is called uncertain; 0.6 by default, 0 for never.
        outcomes: what the strata are tested against.
        coordinates: columns of a slide's position, added to the table as x and y.
        diameter: of the round region that a slide stands for, in the same pixels.

    Raises:
        InputError: the cut is not possible, such as in a cohort with too few slides; an outcome
            cannot be read; tests were asked for of slides of which some share a patient.
        MismatchError: `cuts` belong to another space, to other genes or to another signature.
    """
    asked = (signatures,) if isinstance(signatures, Signature) else tuple(signatures)
    if within not in (None, COHORT):
        raise InputError("strata are cut pooled or within cohort", found=f"--within {within}")
    if by not in ("slide", "patient"):
        raise InputError("strata are of slides or of patients", found=by)
    plan: Mapping[str, SignatureCut] = {}
    if cuts is not None:
        asked, plan = _planned(engine, cuts, asked)
        rules, by, slides = cuts.rules, _as_by(cuts.by), cuts.slides
        weight, scoring, method = cuts.weight or None, cuts.scoring, cuts.prediction
        within = COHORT if any(c.cut.scope == COHORT for c in plan.values()) else None
        min_confidence = cuts.min_confidence if min_confidence is None else min_confidence
    bar = MIN_CONFIDENCE if min_confidence is None else min_confidence
    if not 0 <= bar < 1:
        raise InputError("a confidence lies between 0 and 1", found=f"{bar:g}")
    _check_names(asked, rules)
    check(method)
    spec = cut or ("median" if rules else "tertiles")
    notes: list[str] = []
    units = units_of(engine, where, by, slides, weight, within, notes)
    parts = []
    matches: list[Match] = []
    for signature in asked:
        match, measured = engine.reference.score_one(
            signature, method=scoring, min_genes=min_genes, min_fraction=min_fraction
        )
        known = plan.get(signature.sha256)
        members = [(match.positions, match.weights)]
        predicted = predict(engine, method, measured, members)[:, 0]
        quality = engine.predictability(measured, method=method, sets=members)
        told = signature_notes(signature, match.coverage, match.lost, quality, strict=False)
        notes += [t if signature.name in t else f"{signature.name}: {t}" for t in told]
        errors = Errors.of(engine, units, predicted, measured[:, 0], method)
        score = units.join(predicted)
        groups = units.cohorts.tolist() if within else None
        fitted_cut = known.cut if known else stratify.fit_cuts(score, groups, spec)
        parts.append(_part(signature, match, quality, units, score, fitted_cut, errors))
        matches.append(match)
        notes += [f"{signature.name}: {remark}" for remark in parts[-1].cut.remarks]
    cohorts = sorted(set(units.cohorts.tolist()) - {""})
    if cuts is not None:
        notes += _elsewhere(cuts, cohorts)
    if within is None and len(cohorts) > 1:
        notes.append(POOLED_CUT)
    reference = _reference(engine, matches)
    if cuts is not None and cuts.reference != reference:
        notes.append(
            "the reference profiles are not those that the cut points were fitted with: scores are "
            "relative to the reference, so the same score may mean a little more or less here"
        )
    sets = _sets(engine, units, parts, rules, bar)
    for one in sets:
        empty = [label for label, count in one.counts.items() if not count]
        if empty:
            notes.append(f"{one.name}: no member in stratum {some(empty)}")
    found = tests_of(engine, units, sets, outcomes) if outcomes else None
    notes += found.notes if found else ()
    if not within:
        notes += engine.unseen_note(units.allowed)
    notes += engine.domain_notes(units.allowed)
    fitted = CutFile(
        space_id=engine.space_id, prediction=method, scoring=scoring, by=by,
        slides=slides, weight=weight or "",
        signatures=tuple(
            SignatureCut(p.signature, _genes(engine, m), p.cut)
            for p, m in zip(parts, matches, strict=True)
        ),
        rules=tuple(rules), min_confidence=bar, reference=reference,
        made=cuts.made if cuts else {
            "database": engine.database.path.name, "where": where or "",
            "cohorts": cohorts, "rows": len(units.ids), "molquery": __version__,
            **{f"{name}_version": v for name, v in engine.versions.items()},
        },
    )  # fmt: skip
    provenance = engine.provenance(
        method,
        {
            "scoring": scoring, "by": by, "slides": slides if by == "patient" else None,
            "weight": weight, "within": within, "where": where, "min_confidence": bar,
            "cut": parts[0].cut.as_dict() if len(parts) == 1 else None,
            "signatures": {
                p.signature.name: {
                    "sha256": p.signature.sha256, "genes_found": len(p.coverage.found),
                    "cut": p.cut.as_dict(),
                }
                for p in parts
            },
            "rules": [str(rule) for rule in rules],
            "cuts_fitted": not cuts,
            "outcomes": asdict(outcomes) if outcomes else None,
        },
        signature=", ".join(p.signature.name for p in parts),
        signature_sha256=parts[0].signature.sha256 if len(parts) == 1 else None,
        genes_found=parts[0].coverage.found if len(parts) == 1 else (),
        genes_missing=parts[0].coverage.missing if len(parts) == 1 else (),
        notes=tuple(notes),
    )  # fmt: skip
    return Strata(
        table=_table(engine, units, parts, sets, coordinates, diameter),
        parts=tuple(parts), sets=tuple(sets), rules=tuple(rules), cuts=fitted, associations=found,
        provenance=provenance, notes=tuple([*notes, *engine.notices]),
    )  # fmt: skip


def _part(
    signature: Signature,
    match: Match,
    quality: Predictability,
    units: Units,
    score: Float,
    cut: Cut,
    errors: Errors,
) -> Part:
    """Strata, intervals and confidence of one signature."""
    within = cut.scope == COHORT
    strata = stratify.apply_cuts(score, units.cohorts.tolist() if within else None, cut)
    half, sure = np.full(len(score), np.nan), np.full(len(score), np.nan)
    for cohort in np.unique(units.cohorts):
        mine = units.cohorts == cohort
        half[mine] = errors.bound(str(cohort)) * errors.scale(str(cohort), mine)
        sure[mine] = stratify.confidence(
            score[mine], cut.points[str(cohort) if within else stratify.POOLED],
            errors.lists(str(cohort), level=not within), errors.scale(str(cohort), mine),
        )  # fmt: skip
    return Part(
        signature, match.coverage, quality, cut, score, score - half, score + half, strata, sure
    )


def _sets(
    engine: Engine, units: Units, parts: Sequence[Part], rules: Sequence[Rule], bar: float
) -> list[Called]:
    """The strata of every signature, or those that the rules make of them."""
    if not rules:
        return [
            Called(
                p.signature.name, p.cut.labels, True, p.strata, p.confidence,
                _reasons(engine, units, [p], p.confidence, bar), p.score,
            )
            for p in parts
        ]  # fmt: skip
    named = {p.signature.name: p for p in parts}
    for rule in rules:
        for name, label in rule.conditions:
            if label not in named[name].cut.labels:
                raise InputError(
                    f"{name} has no stratum {label}", found=str(rule),
                    hint=f"its strata are {some(named[name].cut.labels)}",
                )  # fmt: skip
    labels, sure = stratify.apply_rules(
        rules, {n: p.strata for n, p in named.items()}, {n: p.confidence for n, p in named.items()}
    )
    order = dict.fromkeys(rule.label for rule in rules)
    if (labels == OTHER).any():
        order[OTHER] = None
    reasons = _reasons(engine, units, parts, sure, bar)
    return [Called("rules", tuple(order), False, labels, sure, reasons, None)]


def _reasons(
    engine: Engine, units: Units, parts: Sequence[Part], sure: Float, bar: float
) -> Strings:
    """Why each row is uncertain, '' where it is not; the gravest reason counts."""
    width = max(map(len, (NEAR, HARDLY, UNLIKE, UNKNOWN)))
    reasons = np.full(len(units.ids), "", dtype=f"<U{width}")
    if bar == 0:
        return reasons
    reasons[sure < bar] = NEAR
    reasons[np.isnan(sure)] = UNKNOWN
    for part in parts:
        quality = part.predictability
        whole = quality.within_r if quality.within_r is not None else quality.r
        for cohort in np.unique(units.cohorts):
            r = quality.by_cohort.get(str(cohort))
            r = whole if r is None else r
            if r is None or r < FLOOR:
                reasons[units.cohorts == cohort] = HARDLY
    reasons[units.any(engine.out_of_domain)] = UNLIKE
    return reasons


def _table(
    engine: Engine,
    units: Units,
    parts: Sequence[Part],
    sets: Sequence[Called],
    coordinates: tuple[str, str] | None,
    diameter: float | None,
) -> pa.Table:
    columns: dict[str, Any] = {}
    if units.by == "slide":
        columns["slide_id"] = units.ids.tolist()
    columns["patient_id"] = [p or None for p in units.patients.tolist()]
    columns["cohort"] = [c or None for c in units.cohorts.tolist()]
    if units.by == "patient":
        columns["n_slides"] = np.bincount(units.code, minlength=len(units.ids))
    if coordinates:
        if units.by == "patient":
            raise InputError("a patient has no coordinates", hint="--by slide")
        for axis, name in zip(("x", "y"), coordinates, strict=True):
            columns[axis] = _nullable(numbers_of(engine, name)[units.rows])
        if diameter:
            columns["diameter"] = np.full(len(units.ids), float(diameter))
    called = {s.name: s for s in sets}
    several = len(parts) > 1
    for part in parts:
        prefix = f"{part.signature.name}_" if several else ""
        percentiles, standard = calibrate.within_groups(part.score, Groups.of(units.cohorts))
        columns |= {
            f"{prefix}score": part.score,
            f"{prefix}low": _nullable(part.low),
            f"{prefix}high": _nullable(part.high),
            f"{prefix}percentile": calibrate.percentile(part.score),
            f"{prefix}cohort_percentile": _nullable(percentiles),
            f"{prefix}cohort_z": _nullable(standard),
            f"{prefix}stratum": _coded(part.strata, part.cut.labels, ordered=True),
            f"{prefix}confidence": _nullable(part.confidence),
        }
        if own := called.get(part.signature.name):
            columns |= _called(own, prefix)
    if joined := called.get("rules"):
        columns["stratum"] = _coded(joined.labels, joined.order, ordered=False)
        columns["confidence"] = _nullable(joined.confidence)
        columns |= _called(joined, "")
    columns["basis"] = _basis(engine, units)
    return pa.table(columns)


def _called(one: Called, prefix: str) -> dict[str, Any]:
    reasons = [r or None for r in one.reason.tolist()]
    return {
        f"{prefix}call": _coded(one.call, (*one.order, UNCERTAIN), ordered=False),
        f"{prefix}reason": pa.array(reasons, pa.string()),
    }


def _coded(labels: Strings, order: Sequence[str], *, ordered: bool) -> pa.DictionaryArray:
    """Labels (n,) as categories in their order, those without a row included."""
    place = {label: i for i, label in enumerate(order)}
    codes = pa.array([place[str(label)] for label in labels], pa.int32())
    return pa.DictionaryArray.from_arrays(codes, pa.array(order, pa.string()), ordered=ordered)


def _basis(engine: Engine, units: Units) -> list[str]:
    """What the score of each row rests on; of a patient, of all of the slides."""
    each = np.array(engine.basis(units.rows))
    if units.by == "slide":
        return [str(b) for b in each]
    seen: list[set[str]] = [set() for _ in units.ids]
    for basis, c in zip(each.tolist(), units.code.tolist(), strict=True):
        seen[c].add(basis)
    return [", ".join(sorted(s)) for s in seen]


def _planned(
    engine: Engine, cuts: CutFile, asked: Sequence[Signature]
) -> tuple[tuple[Signature, ...], dict[str, SignatureCut]]:
    """The signatures of a cut file, once it is known to fit this database and what was asked."""
    if cuts.space_id != engine.space_id:
        raise MismatchError(
            "these cut points belong to another space: their scores are not the scores here",
            found=f"space {cuts.space_id[:12]} in the file, {engine.space_id[:12]} in the database",
            hint="fit the cut points anew, or use the database that holds that space",
        )
    plan = {one.signature.sha256: one for one in cuts.signatures}
    other = [s.name for s in asked if s.sha256 not in plan]
    if other:
        raise MismatchError(
            f"these cut points are not of {some(other)}: its genes are other ones",
            found=f"cut points of {some(one.signature.name for one in cuts.signatures)}",
            hint="leave --geneset out, or give the cut file of that signature",
        )
    for one in cuts.signatures:
        match, _ = engine.reference.score_one(
            one.signature, method=cuts.scoring, min_genes=1, min_fraction=0.0
        )
        here = _genes(engine, match)
        if here != one.genes:
            changed = sorted(set(here) ^ set(one.genes))
            raise MismatchError(
                f"other genes of {one.signature.name} are measured here than where it was cut",
                found=f"{len(one.genes)} there, {len(here)} here; not in both: {some(changed)}",
                hint="fit the cut points anew on this database",
            )
    return tuple(one.signature for one in cuts.signatures), plan


def _elsewhere(cuts: CutFile, cohorts: Sequence[str]) -> list[str]:
    """A note on cohorts that pooled cut points were not fitted in."""
    fitted = cuts.made.get("cohorts")
    pooled = any(one.cut.scope != COHORT for one in cuts.signatures)
    if not isinstance(fitted, list) or not fitted or not pooled:
        return []
    other = [c for c in cohorts if c not in fitted]
    if not other:
        return []
    return [
        f"the cut points were fitted in {some(fitted)}, not in {some(other)}: there the level of "
        "the scores differs by tissue too, so a stratum need not mean the same"
    ]


def _genes(engine: Engine, match: Match) -> tuple[str, ...]:
    """The genes of the panel that a score is made of, sorted."""
    return tuple(sorted(engine.reference.genes[int(j)] for j in match.positions))


def _reference(engine: Engine, matches: Sequence[Match]) -> str:
    """The hash of what the scores are relative to."""
    at = np.unique(np.concatenate([m.positions for m in matches]))
    moments = engine.reference.moments
    genes = [engine.reference.genes[int(j)] for j in at]
    return reference_hash(genes, moments.mean[at].tolist(), moments.sd[at].tolist())


def _check_names(signatures: Sequence[Signature], rules: Sequence[Rule]) -> None:
    names = [s.name for s in signatures]
    if not names:
        raise InputError("there is no signature to stratify by", hint="--geneset HALLMARK_HYPOXIA")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{some(twice)} is asked for twice")
    absent = sorted({n for rule in rules for n, _ in rule.conditions} - set(names))
    if absent:
        raise InputError(
            f"a rule names {some(absent)}, which is not among the signatures", found=some(names)
        )


def _as_by(text: str) -> By:
    return "patient" if text == "patient" else "slide"


def _nullable(values: Float) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))
