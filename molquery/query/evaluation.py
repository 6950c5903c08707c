"""The whole evaluation of a database's current space: every number of the report, in one record.

Retrieval and prediction are judged on held-out patients, and on held-out sites where sites are
known, beside baselines on the same folds and galleries. Intervals are 95 % bootstrap intervals over
patients, and all statistics share one set of resamples, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from molquery import schema
from molquery.align import adapt
from molquery.align.pairs import MIN_PAIRS
from molquery.errors import InputError
from molquery.evaluate import metrics, resample
from molquery.evaluate.held_out import MIN_COHORT, SPECTRUM_GENES, HeldOutPairs
from molquery.evaluate.metrics import optional
from molquery.evaluate.resample import Drawn, Estimate, Resamples, estimate
from molquery.genesets import collections
from molquery.predict import COHORT_SCHEME, PATIENT_SCHEME, SITE_SCHEME, read_paired
from molquery.query import baselines, calibrate, folds, methods, refit, validation
from molquery.query.engine import Engine
from molquery.query.folds import DIRECTIONS, OURS, SCOPES, FoldResult, Standing
from molquery.query.tasks import Tasks
from molquery.records import Provenance
from molquery.reference import Scored
from molquery.space import need_space
from molquery.threads import parallel
from molquery.vectors import Float, Strings

#: Called with (stage, steps done, steps in all, what to show beside it).
Progress = Callable[[str, int, int, str], None]

#: Quality figures of the spectrum, with patients and with sites held out.
FIGURES = ("r2", "r", "within_r", "site_r2", "site_r", "site_within_r")
#: Baselines whose predictions do not vary within a fold and cohort: their correlation there would
#: only say that the mean of the other folds is low where that of a fold is high.
_FLAT = ("random", "cohort")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an evaluation may vary.

    Attributes:
        seed: of resamples and random gene sets.
        resamples: of the bootstrap.
        random_sets: matched random gene sets for each gene set.
        learning_curve: fit models on fewer patients too.
        adaptation_curve: leave out cohorts, and fit models with a few of their pairs.
    """

    seed: int = 0
    resamples: int = resample.RESAMPLES
    random_sets: int = 100
    learning_curve: bool = False
    adaptation_curve: bool = False


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One direction of retrieval in one gallery, by all methods on the same folds.

    Attributes:
        gallery: mean number of candidates a query.
        figures: method -> figure of `resample.FIGURES` -> estimate; `molquery` is the space.
        gains: baseline -> figure -> the space less the baseline, paired.
        by_cohort: cohort of the queries -> figure -> estimate, for the space.
    """

    scheme: str
    direction: str
    scope: str
    n_queries: int
    gallery: int
    figures: Mapping[str, Mapping[str, Estimate]]
    gains: Mapping[str, Mapping[str, Estimate]]
    by_cohort: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, slots=True)
class RandomSets:
    """Held-out correlation of random gene sets of the same size and mean expression.

    The correlation is the one within cohorts where it can be measured, else the pooled one.

    Attributes:
        mean, low, high: mean, 5th and 95th percentile over the random sets.
        share: of the random sets that are predicted at least as well as the gene set.
        specificity: the correlation of the gene set less the mean of the random sets.
    """

    n: int
    mean: float
    low: float
    high: float
    share: float
    specificity: float


@dataclass(frozen=True, slots=True)
class SetQuality:
    """How well a gene set is predicted from H&E in held-out patients, and in held-out sites.

    Figures are named as in `records.Predictability`; `spearman` is pooled, patients held out.
    """

    n_genes: int
    figures: Mapping[str, Estimate]
    by_cohort: Mapping[str, Estimate]
    spearman: float | None
    random: RandomSets | None


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """How often 90 % prediction intervals hold the measured score of patients they never saw.

    Attributes:
        cohort: of the patients.
        basis: `own`, bounds from other patients of the cohort; `left out`, bounds and predictions
            from other cohorts alone, as for a cohort without RNA.
        coverage: mean over gene sets; lowest and highest: over gene sets.
        half_width: median over gene sets, in standard deviations of the measured score in the
            cohort.
    """

    cohort: str
    basis: str
    n_patients: int
    coverage: Estimate
    lowest: float
    highest: float
    half_width: float


@dataclass(frozen=True, slots=True)
class DomainRow:
    """How often slides of a cohort are flagged as unlike those that the model learned from.

    `basis`: `held out`, slides of patients with RNA, flagged by bounds of other folds: a false
    alarm; `no RNA`, slides of a cohort without any RNA.
    """

    cohort: str
    basis: str
    n_slides: int
    flagged: Estimate


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every number of an evaluation.

    Attributes:
        data: what the database holds, by cohort.
        retrieval: '<scheme>.<direction>[.within_cohort]' -> all methods.
        spectrum: Hallmark set -> quality, best within cohorts first.
        medians: method -> figure -> median over the spectrum; gains: baseline -> figure -> the
            space less the baseline, paired.
        random_above: how many sets of the spectrum are predicted better than 95 % of random sets.
        methods: ways to predict from one signature, compared; None without a spectrum.
        geometry: scheme -> hubness and modality gap of the space, means over the folds.
        adaptation: how predictions of a cohort that was left out improve with pairs of it.
        hold_out: how patients are predicted whose RNA the alignment left out; None where it left
            out none.
        not_measured: what could not be measured -> why.
    """

    data: Mapping[str, Any]
    retrieval: Mapping[str, Retrieval]
    spectrum: Mapping[str, SetQuality]
    medians: Mapping[str, Mapping[str, Estimate]]
    gains: Mapping[str, Mapping[str, Estimate]]
    random_above: int | None
    methods: methods.Comparison | None
    geometry: Mapping[str, Mapping[str, float | None]]
    coverage: tuple[CoverageRow, ...]
    domain: tuple[DomainRow, ...]
    validation: validation.Validation
    learning_curve: tuple[refit.CurvePoint, ...]
    adaptation: tuple[adapt.Curve, ...]
    hold_out: Mapping[str, Any] | None
    not_measured: Mapping[str, str]
    baselines: Mapping[str, str]
    split_on: str
    settings: Settings
    provenance: Provenance

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain values."""
        return asdict(self)


def evaluate(
    engine: Engine,
    settings: Settings | None = None,
    tasks: Tasks | None = None,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure everything; about a minute for 1,700 pairs on two processors.

    Args:
        tasks: what to validate beside retrieval and gene sets, from `tasks.plan`.
        progress: told about every step.

    Raises:
        InputError: the settings are not possible.
    """
    settings = settings or Settings()
    if settings.resamples < 100 or settings.random_sets < 20:
        raise InputError(
            "too few to make an interval or a null of",
            found=f"{settings.resamples} resamples, {settings.random_sets} random sets",
            hint="at least 100 resamples and 20 random sets",
        )
    tell = progress or (lambda stage, done, total, text: None)
    missing: dict[str, str] = {}
    scored = _spectrum_sets(engine)
    if not scored.signatures:
        missing["predictability of Hallmark sets"] = (
            f"no Hallmark set has {SPECTRUM_GENES} genes in this database"
        )
    results = _over_folds(engine, scored.scores, tell)
    if SITE_SCHEME not in results:
        missing["sites held out"] = (
            "the space has no folds by site: sites are not known of every slide, or are fewer "
            "than five"
        )
    known = sorted(set(engine.pairs.cohorts.tolist()) - {""})
    if not known:
        missing["within cohorts"] = "no slide with RNA names a cohort"
    elif len(known) == 1:
        missing["between cohorts"] = (
            f"all patients with RNA are of {known[0]}: within-cohort and pooled figures are one"
        )
    resamples = Resamples(np.unique(engine.groups), n=settings.resamples, seed=settings.seed)
    retrieval = _retrieval(results, resamples, tell)
    spectrum, medians, gains = _spectrum(engine, scored, results, resamples, settings, tell)
    if known and spectrum and all(not q.by_cohort for q in spectrum.values()):
        missing["within cohorts"] = f"no cohort has {MIN_COHORT} patients with RNA"
    with_random = [q.random for q in spectrum.values() if q.random]
    coverage = _coverage(engine, scored, resamples, missing) if spectrum else ()
    domain = _domain(engine, resamples)
    tell("comparing methods", 0, 1, "")
    compared = methods.compare_methods(engine) if spectrum else None
    tell("comparing methods", 1, 1, "")
    validated = _validate(engine, tasks or Tasks(), settings, tell)
    missing.update(validated.not_measured)
    curve: list[refit.CurvePoint] = []
    if not settings.learning_curve:
        missing["learning curve"] = "--learning-curve was not given"
    elif spectrum:
        curve = refit.learning_curve(
            engine, scored.scores, seed=settings.seed,
            done=lambda done, total: tell("learning curve", done, total, ""),
        )  # fmt: skip
        if len(curve) < 2:
            curve = []
            missing["learning curve"] = "too few patients with RNA to leave some out"
    adaptation: tuple[adapt.Curve, ...] = ()
    if not settings.adaptation_curve:
        missing["adaptation to a new cohort"] = "--adaptation-curve was not given"
    elif spectrum:
        adaptation = _adaptation(engine, missing, tell)
    return Evaluation(
        data=_data(engine),
        retrieval=retrieval,
        spectrum=spectrum,
        medians=medians,
        gains=gains,
        random_above=sum(r.share <= 0.05 for r in with_random) if with_random else None,
        methods=compared,
        geometry={scheme: _geometry(result) for scheme, result in results.items()},
        coverage=coverage,
        domain=domain,
        validation=validated,
        learning_curve=tuple(curve),
        adaptation=adaptation,
        hold_out=_hold_out(engine),
        not_measured=missing,
        baselines=baselines.LABELS,
        split_on=str(engine.facts["split_on"]),
        settings=settings,
        provenance=engine.provenance("evaluation", asdict(settings)),
    )


def _spectrum_sets(engine: Engine) -> Scored:
    """The Hallmark sets with enough genes, and their measured scores."""
    found = engine.reference.score(collections.hallmark())
    keep = [
        i
        for i, m in enumerate(found.matches)
        if len(m.positions) >= SPECTRUM_GENES and found.scores[:, i].std() > 0
    ]
    return Scored(
        tuple(found.signatures[i] for i in keep),
        tuple(found.matches[i] for i in keep),
        found.scores[:, keep],
        found.skipped,
    )


def _over_folds(engine: Engine, scores: Float, tell: Progress) -> dict[str, list[FoldResult]]:
    """Retrieval and baselines of every fold, by scheme."""
    space = need_space(engine.database)
    at, slides, profiles = read_paired(engine.database, space)
    engine.prepared  # noqa: B018  computed before the processors are shared out
    stage, total = "folds and baselines", len(space.folds)
    tell(stage, 0, total, "")
    results = parallel(
        lambda fold: folds.fold_result(space, fold, slides, profiles, scores),
        space.folds,
        lambda done: tell(stage, done, total, ""),
    )
    out: dict[str, list[FoldResult]] = {}
    for fold, result in zip(space.folds, results, strict=True):
        if result is not None:
            found = replace(result, slides=at[result.slides])
            out.setdefault(fold.scheme, []).append(found)
    return out


def _retrieval(
    results: Mapping[str, list[FoldResult]], resamples: Resamples, tell: Progress
) -> dict[str, Retrieval]:
    found: dict[str, Retrieval] = {}
    stage, total = "bootstrap", len(results) * len(DIRECTIONS) * len(SCOPES)
    for done, (scheme, direction, scope) in enumerate(
        (s, d, c) for s in results for d in DIRECTIONS for c in SCOPES
    ):
        tell(stage, done, total, "retrieval")
        standings = {
            name: [r.standings[direction, scope, name] for r in results[scheme]
                   if (direction, scope, name) in r.standings]
            for name in (OURS, *baselines.LABELS)
        }  # fmt: skip
        ours = standings[OURS]
        if not ours:
            continue
        replicates = {name: _replicates(parts, resamples) for name, parts in standings.items()}
        key = f"{scheme}.{direction}" + ("" if scope == SCOPES[0] else f".{scope}")
        weight = [len(s.ranks.query) for s in ours]
        gallery = np.average([s.ranks.gallery.mean() for s in ours], weights=weight)
        found[key] = Retrieval(
            scheme=scheme, direction=direction, scope=scope,
            n_queries=sum(weight), gallery=round(float(gallery)),
            figures={m: {f: estimate(v) for f, v in r.items()} for m, r in replicates.items()},
            gains={
                m: {f: estimate(replicates[OURS][f] - r[f]) for f in r}
                for m, r in replicates.items() if m != OURS
            },
            by_cohort=_by_cohort(ours, resamples),
        )  # fmt: skip
    tell(stage, total, total, "")
    return found


def _replicates(standings: list[Standing], resamples: Resamples) -> dict[str, Float]:
    return resample.retrieval([(s.ranks, resamples.of(s.groups)) for s in standings])


def _by_cohort(
    standings: list[Standing], resamples: Resamples
) -> dict[str, Mapping[str, Estimate]]:
    """Figures of the queries of each cohort with enough of them."""
    out: dict[str, Mapping[str, Estimate]] = {}
    for cohort in np.unique(np.concatenate([s.cohorts[s.ranks.query] for s in standings])):
        parts = []
        for s in standings:
            mine = s.cohorts[s.ranks.query] == cohort
            if mine.any():
                parts.append((s.ranks.take(mine), resamples.of(s.groups)))
        if cohort and sum(len(ranks.query) for ranks, _ in parts) >= MIN_COHORT:
            found = resample.retrieval(parts)
            out[str(cohort)] = {name: estimate(v) for name, v in found.items()}
    return out


def _spectrum(
    engine: Engine,
    scored: Scored,
    results: Mapping[str, list[FoldResult]],
    resamples: Resamples,
    settings: Settings,
    tell: Progress,
) -> tuple[
    dict[str, SetQuality], dict[str, Mapping[str, Estimate]], dict[str, Mapping[str, Estimate]]
]:
    """Quality of every set, and medians over the sets for the space and the baselines."""
    if not scored.signatures:
        return {}, {}, {}
    pairs = engine.pairs
    measured = scored.scores[pairs.profiles]
    drawn = resamples.of(validation.profile_groups(engine))
    ours: dict[str, Float] = {}
    by_cohort: dict[str, Float] = {}
    medians: dict[str, dict[str, Float]] = {}
    for name in (OURS, *baselines.LABELS):
        tell("bootstrap of gene sets", len(medians), len(baselines.LABELS) + 1, name)
        replicates: dict[str, Float] = {}
        for scheme, prefix in ((PATIENT_SCHEME, ""), (SITE_SCHEME, "site_")):
            if scheme not in results:
                continue
            if name == OURS:
                predicted = pairs.predicted(engine.operators[scheme], scored.scores)
            else:
                predicted = pairs.join(_gathered(pairs, results[scheme], name))
            found, each = _figures(predicted, measured, pairs.cohorts, drawn)
            for figure, values in found.items():
                if not (name in _FLAT and figure != "r2" and (name, figure) != ("cohort", "r")):
                    replicates[prefix + figure] = values
            if name == OURS and not prefix:
                by_cohort = each
                ours_predicted = predicted
        if name == OURS:
            ours = replicates
        medians[name] = {f: _median(v) for f, v in replicates.items()}
    tell("bootstrap of gene sets", len(medians), len(medians), "")
    spearman = metrics.spearman(ours_predicted, measured)
    random = _random(engine, scored, ours, settings, tell)
    qualities = {
        signature.name: SetQuality(
            n_genes=len(scored.matches[s].positions),
            figures={f: estimate(v[:, s]) for f, v in ours.items()},
            by_cohort={c: estimate(v[:, s]) for c, v in by_cohort.items()},
            spearman=optional(spearman[s]),
            random=random[s],
        )
        for s, signature in enumerate(scored.signatures)
    }

    def standing(item: tuple[str, SetQuality]) -> tuple[float, str]:
        figures = item[1].figures
        value = figures["within_r"].value
        value = figures["r"].value if value is None else value
        return (-(-2.0 if value is None else value), item[0])

    return (
        dict(sorted(qualities.items(), key=standing)),
        {m: {f: estimate(v) for f, v in r.items()} for m, r in medians.items()},
        {m: {f: estimate(medians[OURS][f] - v) for f, v in r.items()}
         for m, r in medians.items() if m != OURS},
    )  # fmt: skip


def _gathered(pairs: HeldOutPairs, results: list[FoldResult], name: str) -> Float:
    """(n_pairs, S) what a baseline predicts, NaN for slides that no fold holds out."""
    rows = np.unique(np.concatenate([pairs.slide, *(result.slides for result in results)]))
    out = np.full((len(rows), results[0].predicted[name].shape[1]), np.nan)
    for result in results:
        out[np.searchsorted(rows, result.slides)] = result.predicted[name]
    return out[np.searchsorted(rows, pairs.slide)]


def _figures(
    predicted: Float, measured: Float, cohorts: Strings, drawn: Drawn
) -> tuple[dict[str, Float], dict[str, Float]]:
    """R², r and within-cohort r in every resample (n + 1, S), and r of every cohort.

    Rows that no fold of the scheme holds out (NaN) are left out.
    """
    rows = np.flatnonzero(np.isfinite(predicted).all(axis=1))
    p, m, own = predicted[rows], measured[rows], drawn.take(rows)
    r2, r = resample.correlations(p, m, own)
    within, each = resample.within_r(p, m, cohorts[rows], own, min_n=MIN_COHORT)
    return {"r2": r2, "r": r, "within_r": within}, each


def _median(values: Float) -> Float:
    """The median (n + 1,) over the sets of values (n + 1, S) that are there; NaN without any."""
    out = np.full(len(values), np.nan)
    some = np.isfinite(values).any(axis=1)
    out[some] = np.nanmedian(values[some], axis=1)
    return out


def _random(
    engine: Engine,
    scored: Scored,
    ours: Mapping[str, Float],
    settings: Settings,
    tell: Progress,
) -> list[RandomSets | None]:
    """Matched random gene sets for every set, predicted in the same held-out patients."""
    pairs = engine.pairs
    figure = "within_r" if np.isfinite(ours["within_r"][0]).any() else "r"
    out: list[RandomSets | None] = []
    for s, (signature, match) in enumerate(zip(scored.signatures, scored.matches, strict=True)):
        tell("random gene sets", s, len(scored.signatures), signature.name)
        sets = calibrate.random_sets(
            engine.reference, match.positions, match.weights, count=settings.random_sets,
            seed=[settings.seed, int(signature.sha256[:8], 16)],
        )  # fmt: skip
        scores = engine.reference.matrix(sets)
        predicted = pairs.predicted(engine.operator, scores)
        measured = scores[pairs.profiles]
        if figure == "within_r":
            labels = [c or None for c in pairs.cohorts.tolist()]
            r, _ = metrics.within_cohort_r(predicted, measured, labels, min_n=MIN_COHORT)
        else:
            r = metrics.pearson(predicted, measured)
        r = r[np.isfinite(r)]
        own = float(ours[figure][0, s])
        if len(r) == 0 or not np.isfinite(own):
            out.append(None)
            continue
        low, high = np.quantile(r, (0.05, 0.95))
        out.append(RandomSets(len(r), float(r.mean()), float(low), float(high),
                              float((r >= own).mean()), own - float(r.mean())))  # fmt: skip
    tell("random gene sets", len(scored.signatures), len(scored.signatures), "")
    return out


def _coverage(
    engine: Engine, scored: Scored, resamples: Resamples, missing: dict[str, str]
) -> tuple[CoverageRow, ...]:
    """Coverage of 90 % intervals whose bounds come from other folds, or from other cohorts."""
    slide, profile = engine.pairs.slide, engine.pairs.profile
    cohorts, groups = engine.cohorts[slide], engine.groups[slide]
    fold = engine.operator.model[slide]
    truth = scored.scores[profile]
    rows: list[CoverageRow] = []

    def row(cohort: str, basis: str, inside: Float, half: Float) -> None:
        mine = np.flatnonzero((cohorts == cohort) & np.isfinite(half).any(axis=1))
        if len(mine) == 0:
            return
        hit, weights = inside[mine].mean(axis=1), resamples.of(groups[mine]).weights
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (weights @ hit) / weights.sum(axis=1)
        each = inside[mine].mean(axis=0)
        spread = truth[mine].std(axis=0)
        wide = np.median(half[mine], axis=0) / np.where(spread > 0, spread, np.nan)
        rows.append(
            CoverageRow(
                cohort or "all", basis, len(np.unique(groups[mine])), estimate(share),
                float(each.min()), float(each.max()), float(np.nanmedian(wide)),
            )
        )  # fmt: skip

    errors = np.abs(truth - engine.operator.apply(scored.scores, slide))
    # As in `Engine.intervals`: errors in units of the spread among a slide's neighbours.
    spread = np.stack([engine.spread(column, slide) for column in scored.scores.T], axis=1)
    half = np.full(errors.shape, np.nan)
    for f in np.unique(fold):
        others, mine = fold != f, fold == f
        for s in range(errors.shape[1]):
            bounds = calibrate.cohort_bounds(
                errors[others, s] / spread[others, s], cohorts[others], groups[others],
                calibrate.LEVEL,
            )  # fmt: skip
            for cohort, bound in bounds.items():
                own = mine & (cohorts == cohort)
                half[own, s] = bound * spread[own, s]
    for cohort in np.unique(cohorts):
        if not np.isfinite(half[cohorts == cohort]).any():
            missing[f"interval coverage in {cohort or 'slides without a cohort'}"] = (
                f"fewer than {calibrate.MIN_PATIENTS} patients with RNA"
            )
        row(str(cohort), "own", (errors <= half).astype(np.float64), half)
    if COHORT_SCHEME not in engine.operators:
        missing["interval coverage in a cohort without RNA"] = "fewer than two cohorts have RNA"
        return tuple(rows)
    left_out = engine.operators[COHORT_SCHEME].apply(scored.scores, slide)
    errors = np.abs(truth - left_out)
    half = np.full(errors.shape, np.nan)
    for cohort in np.unique(cohorts):
        mine = cohorts == cohort
        for s in range(errors.shape[1]):
            bounds = calibrate.cohort_bounds(
                errors[~mine, s], cohorts[~mine], groups[~mine], calibrate.LEVEL
            )
            half[mine, s] = max(bounds.values(), default=np.nan)
        row(str(cohort), "left out", (errors <= half).astype(np.float64), half)
    return tuple(rows)


def _domain(engine: Engine, resamples: Resamples) -> tuple[DomainRow, ...]:
    """False alarms among held-out slides, by bounds of other folds; alarms where no RNA is."""
    distance = engine.operator.distance
    fold = engine.operator.model
    flagged = np.zeros(len(fold), dtype=bool)
    for f in np.unique(fold[fold >= 0]):
        others = np.flatnonzero((fold >= 0) & (fold != f))
        found = calibrate.outlying(distance, others, engine.by_cohort, engine.groups[others])
        flagged[fold == f] = found[fold == f]
    rows = []
    for cohort in np.unique(engine.cohorts):
        mine = engine.cohorts == cohort
        held = mine & (fold >= 0)
        for basis, at, flags in (
            ("held out", held, flagged),
            ("no RNA", mine & engine.unseen, engine.out_of_domain),
        ):
            if at.any():
                weights = resamples.of(engine.groups[at]).weights
                with np.errstate(invalid="ignore", divide="ignore"):
                    share = (weights @ flags[at]) / weights.sum(axis=1)
                rows.append(DomainRow(str(cohort) or "all", basis, int(at.sum()), estimate(share)))
    return tuple(rows)


def _geometry(results: list[FoldResult]) -> dict[str, float | None]:
    """Means over the folds, weighted by their slides."""
    weights = [len(result.slides) for result in results]
    return {
        name: optional(np.average([result.lying[name] for result in results], weights=weights))
        for name in results[0].lying
    }


def _validate(
    engine: Engine, tasks: Tasks, settings: Settings, tell: Progress
) -> validation.Validation:
    total = sum(map(len, (tasks.contrasts, tasks.gene_groups, tasks.labels, tasks.outcomes)))
    begun = 0

    def begin(name: str) -> None:
        nonlocal begun
        tell("validation", begun, total, name)
        begun += 1

    found = validation.validate(
        engine, tasks, resamples=settings.resamples, random_sets=settings.random_sets,
        seed=settings.seed, tell=begin,
    )  # fmt: skip
    if total:
        tell("validation", total, total, "")
    return found


def _adaptation(engine: Engine, missing: dict[str, str], tell: Progress) -> tuple[adapt.Curve, ...]:
    """Curves of the patients that the space left out, or of every cohort left out in turn."""
    rules = [""]
    if not engine.facts.get("hold_out"):
        slides = engine.pairs.slide
        cohorts, patients = engine.cohorts[slides], engine.groups[slides]
        rules = []
        for cohort in sorted(set(cohorts.tolist()) - {""}):
            mine = cohorts == cohort
            if (~mine).sum() >= MIN_PAIRS and len(np.unique(patients[mine])) >= 2 * MIN_COHORT:
                rules.append(f"{schema.COHORT}={cohort}")
            else:
                missing[f"adaptation to {cohort}"] = (
                    f"that takes {2 * MIN_COHORT} of its patients with RNA, and {MIN_PAIRS} pairs "
                    "of other cohorts"
                )

    def curve(rule: str) -> adapt.Curve:
        def told(_: str, done: int, total: int, __: str) -> None:
            tell(f"adaptation {rule}".strip(), done, total, "")

        return adapt.adaptation_curve(engine.database, hold_out=rule, progress=told)

    return tuple(map(curve, rules))


def _hold_out(engine: Engine) -> dict[str, Any] | None:
    """What the space says of patients left out of its alignment (`evaluate.unseen.Unseen`)."""
    told = engine.facts.get("hold_out")
    return {"rule": told["rule"], **told["quality"]} if told else None


def _data(engine: Engine) -> dict[str, Any]:
    """What the database holds: slides, patients and pairs, by cohort."""
    paired = engine.pairs.slide
    profiles = engine.reference
    by_cohort = {
        str(c) or "no cohort": {
            "slides": int((engine.cohorts == c).sum()),
            "patients": len(np.unique(engine.groups[engine.cohorts == c])),
            "profiles": int((profiles.cohorts == c).sum()),
            "pairs": len(np.unique(engine.groups[paired][engine.cohorts[paired] == c])),
        }
        for c in np.union1d(engine.cohorts, profiles.cohorts)
    }
    return {
        "slides": len(engine.slide_ids),
        "profiles": len(profiles.ids),
        "genes": len(profiles.genes),
        "patients_with_both": len(np.unique(engine.groups[paired])),
        "encoder": engine.facts["encoder"],
        "method": engine.facts["method"],
        "cohorts": by_cohort,
    }
