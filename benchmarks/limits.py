"""What limits predictions on a real paired cohort, and how many pairs a new cohort needs.

    python benchmarks/limits.py DIRECTORY [learning] [ceiling] [cohorts] [adapt]

learning  figures of held-out patients by the number of training pairs, and a power law through them
ceiling   reliability of measured scores and of predictions: the noise that no model can remove
cohorts   every cohort left out in turn (as `align --hold-out` and `adapt --curve` do), beside ridge
          regression on the raw features, tested on the same patients
adapt     every cohort left out, with 0 to 128 pairs of it, in other ways than `adapt` goes about it

All figures are medians over the Hallmark sets with at least 10 genes in the panel. Each part takes
some minutes on two processors.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from molquery import predict
from molquery.align import adapt
from molquery.align.left_out import Yardstick
from molquery.align.pairs import Pairs, groups_where, load_pairs
from molquery.align.train import AlignSettings, align, fit_model
from molquery.database import Database
from molquery.encoders import EMBEDDING_KIND
from molquery.evaluate import metrics
from molquery.evaluate.held_out import SPECTRUM_GENES, HeldOutPairs
from molquery.evaluate.splits import folds_by_group
from molquery.evaluate.unseen import medians, retrieved
from molquery.genesets import collections
from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
from molquery.predict import PATIENT_SCHEME, build_operator
from molquery.query.engine import Engine
from molquery.readers import Options
from molquery.schema import SLIDES
from molquery.space import Fold, Model, SharedSpace
from molquery.threads import parallel
from molquery.vectors import Matrix, group_means, same_key

Array = npt.NDArray[np.float64]

PARTS = ("learning", "ceiling", "cohorts", "adapt")
COUNTS = (100, 200, 400, 800, 1300)
DRAWS = 2  # of the training patients, in each of the five folds
SEEDS = 4  # of the halves that cohorts are divided into
HALVES = 50  # random halves of each gene set


def main() -> int:
    cohort = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    parts: dict[str, Any] = {
        "learning": learning, "ceiling": ceiling, "cohorts": cohorts, "adapt": adaptations,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        database = ingested(cohort, Path(scratch) / "tcga.mq")
        if database is None:
            return 0
        pairs = load_pairs(database, pair_on="patient_id", split_on="patient_id")
        for name in sys.argv[2:] or PARTS:
            print(f"\n{name}", flush=True)
            parts[name](database, pairs)
    return 0


def ingested(cohort: Path, path: Path) -> Database | None:
    """A new database of the cohort's files; None, with a word why, where they are not there."""
    needed = ["slides.parquet", "rna.parquet", "clinical.parquet"]
    missing = [name for name in needed if not (cohort / name).is_file()]
    if missing:
        print(f"skipped: {cohort} has no {', '.join(missing)} (see benchmarks/README.md)")
        return None
    database = Database.create(path)
    options = Options(id="slide_id", vector="features")
    ingest_slides(database, [cohort / "slides.parquet"], options=options, encoder="pathai-hif")
    options = Options(id="patient_id")
    ingest_profiles(database, [cohort / "rna.parquet"], options=options, scale="log2")
    ingest_metadata(database, [cohort / "clinical.parquet"], on="patient_id")
    return database


# The learning curve ------------------------------------------------------------------------------


def learning(database: Database, pairs: Pairs) -> None:
    """Figures of patients held out in five folds, from some of the other patients alone."""
    yardstick = Yardstick.of(database, pairs)
    groups = np.unique(pairs.groups)
    cohort_of = dict(zip(pairs.groups.tolist(), pairs.cohorts.tolist(), strict=True))
    fold = folds_by_group(groups.tolist(), n_folds=5, seed=0, strata=[cohort_of[g] for g in groups])
    jobs = [(n, draw, k) for n in COUNTS for draw in range(DRAWS) for k in range(5)]

    def job(item: tuple[int, int, int]) -> Any:
        n, draw, k = item
        tested = set(groups[fold == k].tolist())
        pool = np.random.default_rng([draw, k]).permutation(groups[fold != k])
        mine = pairs.without(tested | set(pool[n:].tolist()), "a fold")
        model = fit_model(mine, set(), "features", "cca", 0)
        held, predicted = yardstick.predict(mine, model, tested)
        fold10 = retrieved(model, held, yardstick.slides, yardstick.profiles)
        return fold10, held.profiles, predicted, held.cohorts

    found = parallel(job, jobs, lambda done: progress(done, len(jobs)))
    print("pairs  within-cohort r     R²   fold@10")
    table = []
    for n in COUNTS:
        rows = []
        for draw in range(DRAWS):
            mine = [f for f, j in zip(found, jobs, strict=True) if j[:2] == (n, draw)]
            profiles, predicted, labels = (np.concatenate([f[i] for f in mine]) for i in (1, 2, 3))
            within, r2 = medians(predicted, yardstick.scores[profiles], labels)
            rows.append((within, r2, np.mean([f[0] for f in mine])))
        table.append(np.mean(rows, axis=0))
        print(f"{n:5d}  {table[-1][0]:15.3f}  {table[-1][1]:5.3f}  {table[-1][2]:8.1f}")
    curve = np.array(table)
    for column, name, target in ((0, "within-cohort r", 0.45), (1, "R²", 0.36), (2, "fold@10", 22)):
        limit, a, b = power_law(np.array(COUNTS, float), curve[:, column])
        at = ", ".join(f"{n}: {limit - a * n**-b:.3f}" for n in (1647, 3000, 10_000))
        needed = (a / (limit - target)) ** (1 / b) if limit > target else np.inf
        print(f"{name} = {limit:.3f} - {a:.2f} n^-{b:.2f}; {at}; {target} at n = {needed:,.0f}")


def power_law(n: Array, y: Array) -> tuple[float, float, float]:
    """The limit, a and b of y = limit - a n^-b, by least squares over a grid of b."""
    best = None
    for b in np.arange(0.05, 1.5, 0.01):
        design = np.stack([np.ones_like(n), -(n**-b)], axis=1)
        solution, *_ = np.linalg.lstsq(design, y, rcond=None)
        error = float(((design @ solution - y) ** 2).sum())
        if best is None or error < best[0]:
            best = (error, solution[0], solution[1], b)
    assert best is not None
    return float(best[1]), float(best[2]), float(best[3])


# The noise ceiling -------------------------------------------------------------------------------


def ceiling(database: Database, pairs: Pairs) -> None:
    """Reliability of both sides of the within-cohort correlation, and what it leaves."""
    align(database, AlignSettings(method="cca"))
    engine = Engine(database)
    scored = engine.reference.score(collections.hallmark())
    keep = [i for i, m in enumerate(scored.matches) if len(m.positions) >= SPECTRUM_GENES]
    held = engine.pairs
    predicted = held.predicted(engine.operator, scored.scores[:, keep])
    measured = scored.scores[np.ix_(held.profiles, keep)]
    within, _ = metrics.within_cohort_r(predicted, measured, held.cohorts.tolist())

    z = engine.reference.z[held.profiles].astype(np.float64)
    rng = np.random.default_rng(0)
    halves = []
    for i in keep:
        genes = scored.matches[i].positions
        found = []
        for _ in range(HALVES):
            order = rng.permutation(genes)
            a, b = (z[:, part].mean(axis=1) for part in np.array_split(order, 2))
            r, _ = metrics.within_cohort_r(a, b, held.cohorts.tolist())
            found.append(2 * float(r) / (1 + float(r)))  # Spearman-Brown: of the whole set
        halves.append(float(np.mean(found)))
    of_genes = np.array(halves)
    of_slides, patients = between_slides(engine, scored.scores[:, keep])
    attained = np.median(within)
    # A set whose halves do not agree has no reliability to speak of: it counts as 0.05.
    of_genes, of_slides = np.maximum(of_genes, 0.05), np.maximum(of_slides, 0.05)
    both = np.median(within / np.sqrt(of_genes * of_slides))
    print(f"within-cohort r, held-out patients                        {attained:.3f}")
    print(f"reliability of measured scores, split halves of the genes {np.median(of_genes):.3f}")
    print(f"reliability of predictions, slides of one patient         {np.median(of_slides):.3f}"
          f" ({patients} patients)")  # fmt: skip
    print(f"  r that a perfect predictor would show, sqrt of the first  "
          f"{np.median(np.sqrt(of_genes)):.3f}")  # fmt: skip
    print(f"  of both                                                 "
          f"{np.median(np.sqrt(of_genes * of_slides)):.3f}")  # fmt: skip
    print(f"  attained, corrected for the noise of both sides         {both:.3f}")


def between_slides(engine: Engine, scores: Array) -> tuple[Array, int]:
    """Share of the variance of predictions within cohorts that slides of one patient agree on."""
    predicted = engine.predict(scores)
    _, code, counts = np.unique(engine.patients, return_inverse=True, return_counts=True)
    seen = np.isin(engine.cohorts, engine.reference.cohorts)
    for cohort in np.unique(engine.cohorts):
        mine = engine.cohorts == cohort
        predicted[mine] -= predicted[mine].mean(axis=0)
    rows = np.flatnonzero((counts[code] > 1) & seen)
    groups, means = group_means(engine.patients[rows], predicted[rows])
    apart = predicted[rows] - means[np.searchsorted(groups, engine.patients[rows])]
    inside = (apart**2).sum(axis=0) / (len(rows) - len(groups))
    # The whole variance is that of all slides: patients with several are few.
    return np.asarray(1 - inside / predicted[seen].var(axis=0)), len(groups)


# Cohorts left out --------------------------------------------------------------------------------


def cohorts(database: Database, pairs: Pairs) -> None:
    """Adaptation curves of every cohort, and ridge on raw features tested on the same halves."""
    align(database, AlignSettings(method="cca"))
    lines: dict[str, list[tuple[float, ...]]] = {}
    for cohort in sorted(set(pairs.cohorts.tolist())):
        curve = adapt.adaptation_curve(database, hold_out=f"cohort={cohort}", seeds=SEEDS)
        print(f"\n{cohort}: {curve.n_patients} patients, tested on {curve.n_tested}")
        for name, values in curve_table(curve, raw_ridge(database, pairs, cohort)).items():
            lines.setdefault(name, []).append(values)
    print("\nmean over the cohorts")
    for name, found in lines.items():
        print(row(name, np.mean(found, axis=0)))


def curve_table(
    curve: adapt.Curve, raw: dict[int | None, tuple[float, ...]]
) -> dict[str, tuple[float, ...]]:
    """Print a curve beside that of ridge on raw features; every line's figures, by its name."""
    print("pairs   molquery: within r     R²  fold@10   ridge, raw: within r     R²  fold@10")
    lines = {}
    for point in [*curve.points, curve.full]:
        name = "all" if point.pairs is None else str(point.pairs)
        fold = np.nan if point.fold10 is None else point.fold10
        mine = (point.within_r or np.nan, point.r2 or np.nan, fold)
        lines[name] = (*mine, *raw.get(point.pairs, (np.nan,) * 3))
        print(row(name, lines[name]), flush=True)
    reached = "more" if curve.reached is None else curve.reached
    print(f"pairs to {curve.share:.0%} of the r with all pairs: {reached}")
    return lines


def row(name: str, v: Any) -> str:
    left = f"{name:>5}   {v[0]:18.3f} {v[1]:+6.3f} {v[2]:8.1f}"
    return f"{left}   {v[3]:20.3f} {v[4]:+6.3f} {v[5]:8.1f}"


def raw_ridge(database: Database, pairs: Pairs, cohort: str) -> dict[int | None, tuple[float, ...]]:
    """The baseline: features as signed logarithms, standardised; ridge with the penalty that
    generalised cross-validation picks; retrieval by the cosine to the predicted profile."""
    groups = np.unique(pairs.groups[pairs.cohorts == cohort])
    left = pairs.without(set(groups.tolist()), cohort)
    yardstick = Yardstick.of(database, left)
    raw = pairs.slides.vectors.astype(np.float64)
    raw = np.sign(raw) * np.log1p(np.abs(raw))
    expression = pairs.profiles.vectors.astype(np.float64)
    half = len(groups) // 2
    out: dict[int | None, list[tuple[float, ...]]] = {}
    folds = folds_by_group(groups.tolist(), n_folds=5, seed=0)
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(groups)
        tested, pool = set(order[:half].tolist()), order[half:]

        def held(n: int, pool: Any = pool) -> set[str]:
            return set(groups.tolist()) - set(pool[:n].tolist())

        shown = [n for n in adapt.COUNTS if n <= len(pool)]
        jobs: list[tuple[int | None, list[set[str]]]] = [(n, [held(n)]) for n in shown]
        jobs.append((None, [set(groups[folds == k].tolist()) for k in range(5)]))
        for n, parts in jobs:
            found = [baseline(pairs, yardstick, raw, expression, part, tested) for part in parts]
            rows, predicted = (np.concatenate([f[i] for f in found]) for i in (0, 1))
            within, r2 = medians(predicted, yardstick.scores[rows], pairs.profiles.cohorts[rows])
            fold = found[0][2] if n is not None else np.nan
            out.setdefault(n, []).append((within or np.nan, r2 or np.nan, fold))
    return {n: tuple(np.mean(values, axis=0)) for n, values in out.items()}


def baseline(
    pairs: Pairs,
    yardstick: Yardstick,
    raw: Array,
    expression: Array,
    held: Collection[str],
    tested: Collection[str],
) -> tuple[Any, Array, float]:
    """Profiles of the tested patients among those held, their predictions, and fold@10."""
    train = ~pairs.of_groups(held)
    rows = pairs.slide[train]
    known = raw[np.unique(rows)]
    middle = np.nanmedian(known, axis=0)
    filled = np.where(np.isnan(raw), middle, raw)
    scale = filled[np.unique(rows)].std(axis=0)
    x = (filled - filled[np.unique(rows)].mean(axis=0)) / np.where(scale > 1e-6, scale, 1.0)
    units, xs = group_means(pairs.profile[train], x[rows])
    mine = pairs.of_groups(set(tested) & set(held))
    profiles, xt = group_means(pairs.profile[mine], x[pairs.slide[mine]])
    mean, sd = expression[units].mean(axis=0), expression[units].std(axis=0)
    z = (expression - mean) / np.where(sd > 0, sd, 1.0)
    predicted = ridge(xs, yardstick.scores[units], xt)
    guess = ridge(xs, z[units], xt)
    a, b = (v - v.mean(axis=0) for v in (guess, z[profiles]))
    cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (
        b / np.linalg.norm(b, axis=1, keepdims=True)
    ).T
    return profiles, predicted, metrics.retrieval(cosine, np.eye(len(profiles), dtype=bool)).fold10


def ridge(x: Array, y: Array, new: Array) -> Array:
    """Ridge regression (n, p) -> (n, s) with one penalty, the best by generalised CV."""
    centre, level = x.mean(axis=0), y.mean(axis=0)
    values, vectors = np.linalg.eigh((x - centre) @ (x - centre).T)
    projected = vectors.T @ (y - level)
    best = None
    for penalty in x.shape[1] * np.array([0.03, 0.1, 0.3, 1.0, 3.0, 10.0]):
        shrunk = penalty / (np.maximum(values, 0) + penalty)
        score = float(((shrunk[:, None] * projected) ** 2).sum() / shrunk.mean() ** 2)
        if best is None or score < best[0]:
            best = (score, penalty)
    assert best is not None
    dual = vectors @ (projected / (np.maximum(values, 0) + best[1])[:, None])
    return np.asarray((new - centre) @ ((x - centre).T @ dual) + level)


# Ways to adapt -----------------------------------------------------------------------------------

DRAWS_OF_PAIRS = 3


def adaptations(database: Database, pairs: Pairs) -> None:
    """Ways to use n pairs of a cohort left out: figures of half of its patients, means over the
    cohorts and draws.

    align anew        all pairs together: what `adapt` does
      all soft        soft-kNN has its whole share from the first pair on; else in proportion to
                      the pairs of the cohort up to 32 of them
      soft from N     up to N
      ridge alone     never
    heads kept        the space is not learned anew; the pairs are in the reference and the ridge
    profiles alone    nor is the ridge: their profiles join the reference
    aligned first     features of the new cohort are given the mean and covariance of the others'
                      (CORAL, doi:10.1609/aaai.v30i1.10306), then all pairs together
    """
    jobs: list[Any] = []
    kind = str(database.facts(SLIDES)["kind"])
    for cohort in sorted(set(pairs.cohorts.tolist())):
        groups = np.unique(pairs.groups[pairs.cohorts == cohort])
        everyone = groups_where(database, pairs, f"cohort={cohort}")
        base = pairs.without(everyone, cohort)
        model, yardstick = fit_model(base, set(), kind, "cca", 0), Yardstick.of(database, base)
        moved = coral(pairs, cohort, model)
        aligned = replace(yardstick, slides=replace(yardstick.slides, vectors=moved))
        for draw in range(DRAWS_OF_PAIRS):
            order = np.random.default_rng(draw).permutation(groups).tolist()
            test, pool = order[: len(order) // 2], order[len(order) // 2 :]
            told = (Tested(yardstick, test), Tested(aligned, test))
            for n in (n for n in adapt.COUNTS if n <= len(pool)):
                jobs.append((n, everyone - set(pool[:n]), base, model, *told))

    def job(item: Any) -> dict[str, tuple[float, ...]]:
        n, left, base, model, tested, moved = item
        mine = pairs.without(left, "a draw")
        anew = tested.parts(mine, fit_model(mine, set(), kind, "cca", 0))
        kept, without = tested.parts(mine, model), tested.parts(base, model)
        mine = replace(mine, slides=replace(mine.slides, vectors=moved.yardstick.slides.vectors))
        coral = moved.parts(mine, fit_model(mine, set(), EMBEDDING_KIND, "cca", 0))

        def share(most: int) -> float:
            return float(predict.SOFT_SHARE * min(1.0, n / most))

        usual = share(predict.SOFT_PAIRS)
        return {
            "align anew": tested.figures(*anew, usual),
            "  all soft": tested.figures(*anew, share(1)),
            "  soft from 16": tested.figures(*anew, share(16)),
            "  soft from 64": tested.figures(*anew, share(64)),
            "  ridge alone": tested.figures(*anew, 0.0),
            "heads kept": tested.figures(*kept, usual),
            "profiles alone": tested.figures(kept[0], without[1], kept[2], usual),
            "aligned first": tested.figures(*coral, usual),
        }

    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    results = parallel(job, jobs, lambda done: progress(done, len(jobs)))
    for item, rows in zip(jobs, results, strict=True):
        for name, values in rows.items():
            found.setdefault((name, item[0]), []).append(values)
    shown = sorted({n for _, n in found})
    for i, figure in enumerate(("median within-cohort r", "median R²", "fold@10")):
        print(f"\n{figure:24}" + "".join(f"{n:>8}" for n in shown))
        for name in dict.fromkeys(name for name, _ in found):
            cells = [np.mean([v[i] for v in found[name, n]]) for n in shown]
            print(f"{name:24}" + "".join(f"{v:8.3f}" for v in cells))


def coral(pairs: Pairs, cohort: str, model: Model) -> Matrix:
    """(n_slides, d) standardised values, those of a cohort with the mean and covariance of all
    others. Both covariances are shrunk by a tenth towards their mean variance."""
    values = model.slide_input.standardise(pairs.slides.vectors).astype(np.float64)
    mine = pairs.slides.cohorts == cohort

    def root(rows: Array, power: float) -> Array:
        covariance = np.cov(rows, rowvar=False)
        level = np.trace(covariance) / len(covariance)
        variances, directions = np.linalg.eigh(
            0.9 * covariance + 0.1 * level * np.eye(len(covariance))
        )
        return np.asarray((directions * variances**power) @ directions.T)

    mean = values[mine].mean(axis=0)
    coloured = (values[mine] - mean) @ root(values[mine], -0.5) @ root(values[~mine], 0.5)
    values[mine] = coloured + values[~mine].mean(axis=0)
    return values.astype(np.float32)


@dataclass(frozen=True)
class Tested:
    """The patients that adaptations are tested on."""

    yardstick: Yardstick
    patients: Collection[str]

    def parts(self, pairs: Pairs, model: Model) -> tuple[Array, Array, float]:
        """(n, S) soft average and ridge, the pairs being the reference, and fold@10."""
        fold = Fold(PATIENT_SCHEME, frozenset(pairs.groups.tolist()), model)
        left_out = {"groups": sorted(pairs.left_out)}
        space = SharedSpace("", "", {"hold_out": left_out}, model, (fold,))
        held, slides, profiles = self.held, self.yardstick.slides, self.yardstick.profiles
        only = np.zeros(len(slides.keys), dtype=bool)
        only[held.slide] = True
        operator = build_operator(space, PATIENT_SCHEME, slides, profiles, only)
        scores = self.yardstick.scores.astype(np.float32)
        soft, linear = (held.join(f(scores, held.slide)) for f in (operator.soft, operator.linear))
        return soft, linear, retrieved(model, held, slides, profiles)

    def figures(
        self, soft: Array, linear: Array, fold10: float, share: float
    ) -> tuple[float, float, float]:
        """Median within-cohort r and R² of a blend, and fold@10."""
        measured = self.yardstick.scores[self.held.profiles]
        within, r2 = medians(share * soft + (1 - share) * linear, measured, self.held.cohorts)
        return within or np.nan, r2 or np.nan, fold10

    @cached_property
    def held(self) -> HeldOutPairs:
        slides, profiles = self.yardstick.slides, self.yardstick.profiles
        slide, profile = same_key(slides.keys, profiles.keys)
        mine = np.isin(slides.groups[slide], list(self.patients))
        return HeldOutPairs.of(slide[mine], profile[mine], slides.cohorts)


def progress(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        print(f"  {done} of {total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
