"""Adapting a space to a cohort that it has not seen, with a few pairs of that cohort.

The pairs join all others and the space is learned anew: everything is closed form, so that takes no
longer than `align`. What it gave on a real cohort, by the number of pairs and beside keeping the
heads or aligning the features, is in docs/decisions/0004-what-the-features-hold.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from molquery.align.left_out import Yardstick
from molquery.align.pairs import Pairs, groups_where, load_pairs
from molquery.align.train import (
    AlignReport,
    AlignSettings,
    Progress,
    check_device,
    fit_model,
    learn,
)
from molquery.database import Database
from molquery.errors import InputError
from molquery.evaluate.held_out import MIN_COHORT
from molquery.evaluate.splits import folds_by_group
from molquery.evaluate.unseen import Unseen, medians
from molquery.space import SharedSpace, need_space
from molquery.threads import parallel

#: Pairs of the new cohort at which an adaptation curve is measured.
COUNTS = (0, 4, 8, 16, 32, 64, 128)
SEEDS = 5
#: Share of the correlation with all pairs that a curve says how many pairs reach.
SHARE = 0.9
_FULL_FOLDS = 5
_LATER = "pairs that came after align"


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What an adaptation did, and how the patients still held out are predicted.

    Attributes:
        rule: which patients were held out: COLUMN=VALUE, or those that came after `align`.
        added: patients whose pairs were added now; total: in this space, with earlier ones.
        before, after: figures of the same patients, those still held out; None where none is left.
    """

    report: AlignReport
    rule: str
    added: int
    total: int
    before: Unseen | None
    after: Unseen | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Figures at one number of pairs: means over the seeds, and their standard deviations.

    `pairs` is None for all pairs of the cohort. See `Unseen` for the figures; None where they
    cannot be measured.
    """

    pairs: int | None
    within_r: float | None
    within_r_sd: float | None
    r2: float | None
    r2_sd: float | None
    fold10: float | None
    fold10_sd: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """How predictions of an unseen cohort improve with pairs of it.

    Attributes:
        n_patients: patients of the cohort; n_tested: half of them, drawn anew with every seed,
            on which every point is measured. The pairs added are of the other half.
        points: by number of pairs; full: trained with four fifths of all patients of the cohort,
            every patient predicted by a model that has not seen them.
        reached: the least number of pairs measured from which on `within_r` is at least `share` of
            that of `full`; None when it is not even with the most pairs.
    """

    rule: str
    n_patients: int
    n_tested: int
    seeds: int
    points: tuple[CurvePoint, ...]
    full: CurvePoint
    share: float
    reached: int | None

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain values."""
        return asdict(self)


def adapt(
    database: Database,
    n_pairs: int,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Adaptation:
    """Learn the current space anew with pairs of some patients that it has left out so far.

    Patients are drawn in a seeded order: those of a smaller number are among those of a larger.

    Args:
        n_pairs: how many patients with slide and RNA to add.

    Raises:
        NotReadyError: nothing has been aligned yet.
        InputError: no patient is held out, or fewer than `n_pairs`.
        SpaceError: too few pairs to learn from.
    """
    check_device(device)
    view = database.pinned()
    space = need_space(view)
    pairs, before, rule = _held_out(view, space)
    groups = np.unique(pairs.groups[pairs.of_groups(before.left_out)])
    if not 1 <= n_pairs <= len(groups):
        raise InputError(
            f"{n_pairs} pairs cannot be added",
            found=f"{len(groups)} patients with slide and RNA are held out ({rule})",
            hint=f"--pairs {max(1, len(groups) // 2)}; the others tell how well it went",
        )
    chosen = np.random.default_rng(seed).permutation(groups)[:n_pairs].tolist()
    left = before.left_out - set(chosen)
    tested = set(groups.tolist()) - set(chosen)
    after = replace(pairs, left_out=frozenset())
    old = None
    if tested:
        after = pairs.without(left, rule)
        old = Yardstick.of(view, before).measure(before, space.final, tested)
    earlier = (space.facts.get("adaptation") or {}).get("groups", [])
    added = sorted([*earlier, *chosen])
    told = {
        "rule": rule,
        "seed": seed,
        "groups": added,
        "before": None if old is None else asdict(old),
    }
    settings = replace(_settings(space), hold_out=rule if tested else "")
    report = learn(
        database,
        view,
        after,
        settings,
        device=device,
        progress=progress,
        facts={"adaptation": told},
    )
    now = report.space.facts.get("hold_out")
    quality = None if now is None else Unseen(**now["quality"])
    return Adaptation(report, rule, n_pairs, len(added), old, quality)


def adaptation_curve(
    database: Database,
    *,
    hold_out: str = "",
    counts: Sequence[int] = COUNTS,
    seeds: int = SEEDS,
    device: str = "auto",
    progress: Progress | None = None,
) -> Curve:
    """How predictions of the patients held out improve with pairs of them; stores nothing.

    Args:
        hold_out: COLUMN=VALUE, patients to hold out as well; empty for those of the space alone.
        counts: numbers of pairs; those that half of the patients cannot give are left out.
        seeds: how often the patients are divided anew.

    Raises:
        NotReadyError: nothing has been aligned yet.
        InputError: too few patients are held out, or there is no gene set to measure with.
    """
    check_device(device)
    tell = progress or (lambda stage, done, total, text: None)
    view = database.pinned()
    space = need_space(view)
    pairs, base, rule = _held_out(view, space, hold_out)
    groups = np.unique(pairs.groups[pairs.of_groups(base.left_out)])
    if len(groups) < 2 * MIN_COHORT:
        raise InputError(
            f"a curve needs at least {2 * MIN_COHORT} patients held out: half of them to test on",
            found=f"{len(groups)} ({rule})",
        )
    yardstick = Yardstick.of(view, base)
    if yardstick.scores.shape[1] == 0:
        raise InputError("no Hallmark set has 10 genes in this database to measure a curve with")
    kind, method = space.facts["kind"], space.facts["method"]
    orders = [np.random.default_rng(s).permutation(groups).tolist() for s in range(seeds)]
    half = len(groups) // 2
    tests = [order[:half] for order in orders]
    shown = [n for n in counts if n <= len(groups) - half]
    folds = folds_by_group(groups.tolist(), n_folds=_FULL_FOLDS, seed=0)

    # Every job is what a model leaves out: one without any pair, n pairs of a seed, one fold.
    everyone = set(base.left_out)
    jobs: list[set[str]] = [everyone]
    jobs += [everyone - set(order[half : half + n]) for order in orders for n in shown if n]
    jobs += [set(groups[folds == k].tolist()) for k in range(_FULL_FOLDS)]
    n_partial = len(jobs) - _FULL_FOLDS

    def run(j: int) -> Any:
        mine = pairs.without(jobs[j], rule)
        model = fit_model(mine, set(), kind, method, space.facts["settings"]["seed"], device=device)
        if j >= n_partial:
            return yardstick.predict(mine, model, mine.left_out)
        if j == 0:
            return [yardstick.measure(mine, model, test) for test in tests]
        seed = (j - 1) // max(1, sum(n > 0 for n in shown))
        return yardstick.measure(mine, model, tests[seed])

    def done(count: int) -> None:
        tell("adapting", count, len(jobs), f"{len(shown)} numbers of pairs, {seeds} seeds")

    done(0)
    found = parallel(run, range(len(jobs)), done, sequential=method != "cca")
    positive = [n for n in shown if n]
    by_count: dict[int, list[Unseen]] = {0: found[0]}
    for i, n in enumerate(positive):
        by_count[n] = found[1 + i : n_partial : len(positive)]
    points = tuple(_point(n, by_count[n]) for n in shown)
    full = _full(yardstick, found[n_partial:], tests)
    return Curve(
        rule, len(groups), half, seeds, points, full, SHARE, _reached(points, full.within_r)
    )


def _reached(points: Sequence[CurvePoint], full: float | None) -> int | None:
    """The first number of pairs that has, as all larger ones have, `SHARE` of the correlation with
    all pairs: a few pairs can do worse than none, so the first to have it may be there by luck."""
    if full is None or full <= 0:
        return None
    reached = None
    for p in reversed(points):
        if p.within_r is None or p.within_r < SHARE * full:
            break
        reached = p.pairs
    return reached


def _held_out(
    database: Database, space: SharedSpace, hold_out: str = ""
) -> tuple[Pairs, Pairs, str]:
    """All pairs, those without the patients held out, and the rule for that: `hold_out`, or what
    the space left out or has not seen."""
    settings = _settings(space)
    pairs = load_pairs(database, pair_on=settings.pair_on, split_on=settings.split_on)
    left_out = space.left_out
    rule = settings.hold_out
    if hold_out:
        if left_out:
            pairs = pairs.without(left_out, rule)
        left_out = groups_where(database, pairs, hold_out)
        return pairs, pairs.without(left_out, hold_out), hold_out
    if not left_out:
        in_folds = {g for fold in space.folds for g in fold.held_out}
        left_out = frozenset(pairs.groups.tolist()) - in_folds
        rule = _LATER
    if not pairs.of_groups(left_out).any():
        raise InputError(
            "no patient with slide and RNA is held out of the space, and none came after align",
            hint="molquery align --hold-out cohort=NAME, to see how an unseen cohort would do; "
            "or ingest RNA of the new cohort first",
        )
    return pairs, pairs.without(left_out, rule), rule


def _settings(space: SharedSpace) -> AlignSettings:
    """The settings of a space, with the method that was chosen."""
    return AlignSettings(**{**space.facts["settings"], "method": space.facts["method"]})


def _point(pairs: int | None, figures: Sequence[Unseen]) -> CurvePoint:
    names = ("within_r", "r2", "fold10")
    return CurvePoint(pairs, *(v for n in names for v in _spread([getattr(f, n) for f in figures])))


def _full(yardstick: Yardstick, parts: Sequence[Any], tests: Sequence[Sequence[str]]) -> CurvePoint:
    """The point with all pairs, from the pairs and predictions of every fold."""
    profiles = np.concatenate([pairs.profiles for pairs, _ in parts])
    cohorts = np.concatenate([pairs.cohorts for pairs, _ in parts])
    predicted = np.concatenate([values for _, values in parts])
    measured = yardstick.scores[profiles]
    figures = []
    for test in tests:
        rows = np.isin(yardstick.profiles.groups[profiles], test)
        figures.append(medians(predicted[rows], measured[rows], cohorts[rows]))
    within_r, r2 = (_spread(column) for column in zip(*figures, strict=True))
    return CurvePoint(None, *within_r, *r2, None, None)


def _spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the values that are there."""
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None
