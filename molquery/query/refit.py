"""Models fitted again on other terms than those of the space: for evaluation only, never stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from molquery.align.pairs import Pairs, Side, load_pairs
from molquery.align.train import fit_model
from molquery.evaluate.held_out import median, quality
from molquery.evaluate.metrics import optional
from molquery.evaluate.splits import holdout_by_group
from molquery.predict import PATIENT_SCHEME, Operator, Rows, build_operator, read_paired
from molquery.query.engine import Engine
from molquery.space import Fold, Model, SharedSpace, need_space
from molquery.threads import parallel
from molquery.vectors import Bools, Float, Strings

_Table = TypeVar("_Table", Rows, Side)
#: Numbers of patients on the learning curve, before all of them.
CURVE = (50, 100, 200, 400, 800)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Medians over gene sets of a space learned from some of the patients.

    `n_patients` is how many each model learned from, on average over the folds; the test patients
    are those of the folds by patient, the same for every point.
    """

    n_patients: int
    r2: float | None
    within_r: float | None


def told_no_cohort(engine: Engine, cohorts: Sequence[str]) -> Operator:
    """The operator of models that were never told which of some cohorts a slide with RNA is of.

    The models of the folds are fitted again with these cohorts under one name, and without the
    sites of their slides, which would tell. It speaks of slides that a fold holds out; the others
    are left to the space's final model, which was told.
    """
    space = need_space(engine.database)
    name = "+".join(cohorts)

    def untold(rows: _Table) -> _Table:
        mine = np.isin(rows.cohorts, list(cohorts))
        return replace(
            rows,
            cohorts=np.where(mine, name, rows.cohorts),
            sites=np.where(mine, "", rows.sites),
        )

    pairs = _pairs(engine)
    pairs = replace(pairs, slides=untold(pairs.slides), profiles=untold(pairs.profiles))
    at, *rows = read_paired(engine.database, space)
    slides, profiles = map(untold, rows)
    folds = [fold for fold in space.folds if fold.scheme == PATIENT_SCHEME]
    models = parallel(
        lambda fold: _fit(engine, pairs, fold.held_out), folds, sequential=_torch(engine)
    )
    again = tuple(replace(f, model=m) for f, m in zip(folds, models, strict=True))
    operator = build_operator(replace(space, folds=again), PATIENT_SCHEME, slides, profiles)
    return replace(operator, rows=at)


def learning_curve(
    engine: Engine, scores: Float, *, seed: int, done: Callable[[int, int], None]
) -> list[CurvePoint]:
    """How well gene sets are predicted by models that learned from fewer patients.

    Args:
        scores: (n_reference, S) measured scores of the gene sets.
        seed: of which patients are drawn, in proportion from every cohort.
        done: told how many of how many models are fitted.
    """
    space = need_space(engine.database)
    pairs = _pairs(engine)
    at, slides, profiles = read_paired(engine.database, space)
    folds = [fold for fold in space.folds if fold.scheme == PATIENT_SCHEME]
    groups = np.unique(pairs.groups)
    cohort_of = dict(zip(pairs.groups.tolist(), pairs.cohorts.tolist(), strict=True))
    trains = [groups[~np.isin(groups, sorted(f.held_out))] for f in folds]
    trains = [t[np.isin(t, [g for f in folds for g in f.held_out])] for t in trains]
    sizes = [n for n in CURVE if n < 0.9 * min(len(t) for t in trains)]
    jobs = [(n, f) for n in sizes for f in range(len(folds))]

    def fit(job: tuple[int, int]) -> tuple[Bools, Float]:
        n, f = job
        strata = [cohort_of[g] or None for g in trains[f].tolist()]
        mask = holdout_by_group(
            trains[f].tolist(), fraction=n / len(trains[f]), seed=seed, strata=strata
        )
        chosen = trains[f][mask]
        model = _fit(engine, pairs, set(groups.tolist()) - set(chosen.tolist()))
        return _predict(space, model, folds[f], chosen, slides, profiles, scores)

    told = 0

    def count(finished: int) -> None:
        nonlocal told
        told = finished
        done(told, len(jobs))

    done(0, len(jobs))
    results = parallel(fit, jobs, count, sequential=_torch(engine))
    points = []
    held = engine.pairs
    for n in sizes:
        predicted = np.full((len(at), scores.shape[1]), np.nan)
        for (size, _), (rows, values) in zip(jobs, results, strict=True):
            if size == n:
                predicted[rows] = values
        found = held.join(predicted[np.searchsorted(at, held.slide)])
        points.append(_point(n, found, scores[held.profiles], held.cohorts))
    whole = round(float(np.mean([len(t) for t in trains])))
    predicted = held.predicted(engine.operator, scores)
    return [*points, _point(whole, predicted, scores[held.profiles], held.cohorts)]


def _predict(
    space: SharedSpace,
    model: Model,
    fold: Fold,
    chosen: Strings,
    slides: Rows,
    profiles: Rows,
    scores: Float,
) -> tuple[Bools, Float]:
    """Mask of the fold's slides among those with RNA (n_slides,), and their predictions by a model
    of the chosen."""
    test = sorted(fold.held_out)
    used = np.concatenate([np.array(test, dtype=str), chosen])
    mine = np.isin(slides.groups, used)
    # Profiles of patients without slides stay: RNA alone is no pair.
    known = np.isin(profiles.groups, used) | ~np.isin(profiles.groups, slides.groups)
    folds = tuple(Fold(PATIENT_SCHEME, frozenset(held), model) for held in (test, chosen.tolist()))
    operator = build_operator(
        replace(space, folds=folds), PATIENT_SCHEME, _some(slides, mine), _some(profiles, known)
    )
    rows = mine & np.isin(slides.groups, test)
    return rows, operator.apply(scores[known])[rows[mine]]


def _point(n: int, predicted: Float, measured: Float, cohorts: Strings) -> CurvePoint:
    found = quality(predicted, measured, cohorts)
    r2, within = (median([optional(v) for v in found[key]]) for key in ("r2", "within_r"))
    return CurvePoint(n, r2, within)


def _pairs(engine: Engine) -> Pairs:
    settings, left_out = engine.facts["settings"], engine.facts.get("hold_out")
    pairs = load_pairs(
        engine.database, pair_on=settings["pair_on"], split_on=engine.facts["split_on"]
    )
    return pairs.without(left_out["groups"], left_out["rule"]) if left_out else pairs


def _fit(engine: Engine, pairs: Pairs, held: Collection[str]) -> Model:
    facts = engine.facts
    return fit_model(pairs, held, facts["kind"], facts["method"], facts["settings"]["seed"])


def _torch(engine: Engine) -> bool:
    """True where models draw on torch's random state, which all threads share."""
    return bool(engine.facts["method"] != "cca")


def _some(rows: Rows, mask: Bools) -> Rows:
    return rows.some(np.flatnonzero(mask))
