"""What other ways to predict give, on inner folds of a real paired cohort.

    python benchmarks/attempts.py DIRECTORY [--seeds SEED ...] [--only NAME ...]

A fifth of the patients (the first of five folds) is put aside and never tested. The others are
divided into five folds by patient, again into five by site, and by cohort, each left out in turn.
Every attempt learns from the same pairs and predicts the same patients. One line an attempt, as a
table in Markdown: medians over the Hallmark sets with at least 10 genes in the panel (and the mean
over sets), means over the seeds of the folds; patients / sites / cohorts held out. In a cohort
without pairs `align` predicts by the ridge alone, and so do attempts at the rest of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from limits import ingested, progress

from molquery import predict
from molquery.align.cca import CCA, fit_cca
from molquery.align.left_out import Yardstick
from molquery.align.pairs import Pairs, load_pairs
from molquery.align.train import fit_model, plan_folds
from molquery.database import Database
from molquery.evaluate import metrics
from molquery.evaluate.held_out import quality
from molquery.evaluate.splits import folds_by_group
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME, build_operator, soft_weights
from molquery.schema import SLIDES
from molquery.space import Fold, Model, SharedSpace, run_head
from molquery.threads import parallel
from molquery.vectors import Ints, Matrix, group_means, unit

Array = npt.NDArray[np.float64]
#: Predictions of the tested slides (n_test, S), and slide-to-RNA fold@10 among the tested.
Answer = tuple[Array, float]

SEEDS = (201, 202)
COHORTS = "cohort"
SHRINK = 5.0  # slides at which a site's mean counts half, as in `align`


class Split:
    """One fold: `pairs` are those to learn from, `test` the positions of the slides to predict."""

    def __init__(self, whole: Pairs, yardstick: Yardstick, held: set[str], kind: str) -> None:
        self.pairs = whole.without(held, "a fold")
        self.kind, self.scores = kind, yardstick.scores
        self.slides, self.profiles = yardstick.slides, yardstick.profiles
        self.model = fit_model(self.pairs, set(), kind, "cca", 0)
        mine = whole.of_groups(held)
        self.test = np.unique(whole.slide[mine])
        self.slide_of = np.searchsorted(self.test, whole.slide[mine])
        self.profile_of = whole.profile[mine]
        self.gallery = np.unique(self.profile_of)
        self.positive = np.zeros((len(self.test), len(self.gallery)), dtype=bool)
        self.positive[self.slide_of, np.searchsorted(self.gallery, self.profile_of)] = True
        self.known = np.flatnonzero(~self.pairs.unused)
        self.trained = np.unique(self.pairs.slide)
        self.keys = self.slides.keys[self.pairs.slide]
        self.standard = self.model.slide_input.standardise(self.slides.vectors)
        self.z = self.model.profile_input(self.profiles.vectors)
        groups = frozenset(self.pairs.groups.tolist())
        space = SharedSpace(
            "", "", {"hold_out": {"groups": sorted(self.pairs.left_out)}}, self.model,
            (Fold(PATIENT_SCHEME, groups, self.model),),
        )  # fmt: skip
        only = np.zeros(len(self.slides.keys), dtype=bool)
        only[self.test] = True
        self.operator = build_operator(space, PATIENT_SCHEME, self.slides, self.profiles, only)
        self.linear = self.operator.linear(self.scores.astype(np.float32))
        self.seen = np.isin(self.slides.cohorts[self.test], self.pairs.cohorts)

    def blend(self, soft: Array, linear: Array | None = None, share: float = 0.7) -> Array:
        """Soft average and ridge together; the ridge alone in cohorts without pairs."""
        linear = self.linear if linear is None else linear
        return np.where(self.seen[:, None], share * soft + (1 - share) * linear, linear)

    def offsets(self, shrink: float, rows: Ints) -> tuple[Matrix, Matrix]:
        """(n_slides, d) means of cohorts, and of the sites of some slides shrunk to them."""
        of_cohort = self.model.slide_input.cohort_means(self.slides.cohorts.tolist())
        of_site = of_cohort.copy()
        labels = [f"{c}\t{s}" for c, s in zip(self.slides.cohorts, self.slides.sites, strict=True)]
        places, code = np.unique(labels, return_inverse=True)
        for k, place in enumerate(places):
            mine = np.flatnonzero(code == k)
            used = np.intersect1d(mine, rows) if np.isin(mine, rows).any() else mine
            if not place.endswith("\t"):
                share = len(used) / (len(used) + shrink)
                apart = self.standard[used].mean(axis=0) - of_cohort[mine[0]]
                of_site[mine] += np.float32(share) * apart
        return of_cohort, of_site

    def units(self, inputs: Matrix) -> tuple[Matrix, Matrix]:
        """Inputs and expression of the training patients, one row each."""
        z = self.z[self.pairs.profile]
        a, b = (group_means(self.keys, v)[1] for v in (inputs[self.pairs.slide], z))
        return a.astype(np.float32), b.astype(np.float32)

    def space(self, inputs: Matrix, settings: CCA, some: Ints | None = None) -> tuple[Matrix, ...]:
        """Shared vectors of all slides, whose inputs are given, and of all profiles."""
        x, z = self.units(inputs)
        if some is not None:
            x, z = x[some], z[some]
        a, b, _ = fit_cca(x, z, self.z[self.known], settings)
        return unit(run_head(a, inputs)), unit(run_head(b, self.z))

    def soft(self, x: Matrix, r: Matrix, *, hubness: bool = True) -> Answer:
        """The soft average over neighbours in a space."""
        hubs = np.zeros(len(r), np.float32)
        if hubness:
            about = self.model
            hubs = Model(
                about.slide_input, about.profile_input, (), (), (), x[self.trained]
            ).hubness(r)
        weights = soft_weights(x[self.test], r[self.known], hubs[self.known])
        similarity = x[self.test] @ r[self.gallery].T - hubs[self.gallery]
        found = metrics.retrieval(similarity, self.positive)
        return (weights @ self.scores[self.known]).astype(np.float64), found.fold10

    def kernel_ridge(
        self, values: Matrix, kernel: Callable[[Array, Array], Array], penalty: float
    ) -> Array:
        """Kernel ridge of measured scores, with slopes and levels of cohorts as `align` has."""
        names, x = group_means(self.keys, values[self.pairs.slide].astype(np.float64))
        _, y = group_means(self.keys, self.scores[self.pairs.profile])
        first = np.unique(self.keys, return_index=True)[1]
        cohorts, centre = self.pairs.cohorts[first], x.mean(axis=0)

        def gram(a: Array, labels: npt.NDArray[np.str_]) -> Array:
            same = (labels[:, None] == cohorts[None, :]).astype(np.float64)
            slopes = (1 + predict.OWN_SLOPE * same) / (1 + predict.OWN_SLOPE)
            inner = kernel(a - centre, x - centre) * slopes
            return np.asarray(inner + predict.LEVEL * same + predict.GRAND)

        inner = gram(x, cohorts) + penalty * np.eye(len(names))
        level = y.mean(axis=0)
        dual = np.linalg.solve(inner, y - level)
        new = values[self.test].astype(np.float64)
        return np.asarray(gram(new, self.slides.cohorts[self.test]) @ dual + level)


# The attempts ------------------------------------------------------------------------------------


def default(s: Split) -> Answer:
    cohorts, sites = s.slides.cohorts.tolist(), s.slides.sites.tolist()
    x = s.model.project_standardised(s.standard, cohorts, sites)
    _, fold = s.soft(x, s.model.project_profiles(s.profiles.vectors))
    return s.operator.apply(s.scores), fold


def soft_alone(s: Split) -> Answer:
    return s.operator.soft(s.scores.astype(np.float32)), default(s)[1]


def blocks(*names: str, shrink: float = SHRINK, every: bool = False) -> Callable[[Split], Answer]:
    """CCA on some blocks of columns. `every`: means of sites are over all slides, not those that
    are learned from."""

    def attempt(s: Split) -> Answer:
        soft, fold = s.soft(*s.space(inputs(s, names, shrink, every), CCA()))
        return s.blend(soft), fold

    return attempt


def inputs(s: Split, names: Sequence[str], shrink: float = SHRINK, every: bool = False) -> Matrix:
    of_cohort, of_site = s.offsets(shrink, np.arange(len(s.standard)) if every else s.trained)
    made = {
        "values": s.standard,
        "cohort": s.standard - of_cohort,
        "site": s.standard - of_site,
    }
    return np.hstack([made[name] for name in names])


ALL = ("cohort", "values", "site")


def parts(count: int) -> Callable[[Split], Answer]:
    """Spaces learned from 80 % of the patients each, joined."""

    def attempt(s: Split) -> Answer:
        x, n = inputs(s, ALL), len(np.unique(s.keys))
        draws = [np.random.default_rng(i).permutation(n)[: int(0.8 * n)] for i in range(count)]
        found = [s.space(x, CCA(), draw) for draw in draws]
        a, b = (unit(np.hstack([space[side] for space in found])) for side in (0, 1))
        soft, fold = s.soft(a, b)
        return s.blend(soft), fold

    return attempt


def plain(s: Split) -> Answer:
    x = np.sign(s.slides.vectors) * np.log1p(np.abs(s.slides.vectors))
    mean, sd = np.nanmean(x[s.trained], axis=0), np.nanstd(x[s.trained], axis=0)
    x = np.nan_to_num((x - mean) / np.where(sd > 1e-6, sd, 1.0)).astype(np.float32)
    return s.soft(*s.space(x, CCA()), hubness=False)


def ridge_alone(s: Split) -> Answer:
    return s.linear, np.nan


def rbf(share: float) -> Callable[[Split], Answer]:
    """`share` of a kernel ridge with exp(-|a - b|² / 2 d), the rest soft-kNN."""

    def kernel(a: Array, b: Array) -> Array:
        apart = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
        return np.asarray(np.exp(-apart / (2 * a.shape[1])))

    def attempt(s: Split) -> Answer:
        found = s.kernel_ridge(s.standard, kernel, 0.3)
        return (found, np.nan) if share == 1 else with_soft(s, found, share)

    return attempt


def with_soft(s: Split, linear: Array, share: float) -> Answer:
    """`share` of another regression beside soft-kNN."""
    soft, fold = soft_alone(s)
    return s.blend(soft, linear, 1 - share), fold


def linear_kernel(a: Array, b: Array) -> Array:
    return np.asarray(a @ b.T / a.shape[1])


def site_ridge(s: Split) -> Answer:
    """The ridge too sees slides with the mean of their site (but not of their cohort) off."""
    of_cohort, of_site = s.offsets(SHRINK, s.trained)
    values = s.standard - of_site + of_cohort
    return with_soft(s, s.kernel_ridge(values, linear_kernel, predict.RIDGE), 0.3)


def own_cohort(s: Split) -> Answer:
    """Neighbours from the slide's own cohort alone, half and half with those from all."""
    cohorts, sites = s.slides.cohorts.tolist(), s.slides.sites.tolist()
    x = s.model.project_standardised(s.standard, cohorts, sites)
    r = s.model.project_profiles(s.profiles.vectors)
    hubs = s.model.hubness(r)
    soft, fold = soft_alone(s)
    for cohort in np.unique(s.pairs.cohorts):
        mine = s.slides.cohorts[s.test] == cohort
        known = s.known[s.profiles.cohorts[s.known] == cohort]
        if mine.any():
            weights = soft_weights(x[s.test[mine]], r[known], hubs[known])
            soft[mine] = 0.5 * soft[mine] + 0.5 * weights @ s.scores[known]
    return s.blend(soft), fold


ATTEMPTS: Mapping[str, Callable[[Split], Answer]] = {
    "default": default,
    "without the site block": blocks("cohort", "values"),
    "site block, shrunk by 2 slides": blocks(*ALL, shrink=2.0),
    "site block, shrunk by 15": blocks(*ALL, shrink=15.0),
    "site block, means over all slides": blocks(*ALL, every=True),
    "site block in place of the cohort block": blocks("values", "site"),
    "site block alone": blocks("site"),
    "cohort block alone": blocks("cohort"),
    "values alone": blocks("values"),
    "soft-kNN alone": soft_alone,
    "ridge alone": ridge_alone,
    "ridge on values less site means": site_ridge,
    "RBF kernel ridge alone": rbf(1.0),
    "RBF kernel ridge in place of the ridge": rbf(0.3),
    "half soft-kNN, half RBF": rbf(0.5),
    "half the neighbours from the own cohort": own_cohort,
    "three spaces on 80 % of the patients, joined": parts(3),
    "plain CCA (signed log), no hubness": plain,
}


# The table ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over sets of R² and within-cohort r, the mean of the latter, and fold@10."""

    r2: float
    within_r: float
    mean_r: float
    fold10: float


def measure(
    database: Database, names: Iterable[str], seeds: Sequence[int]
) -> dict[str, dict[str, Figures]]:
    """Scheme (patient, site, cohort) -> attempt -> figures, means over the seeds."""
    whole = load_pairs(database, pair_on="patient_id", split_on="patient_id")
    groups, first = np.unique(whole.groups, return_index=True)
    fold = folds_by_group(
        groups.tolist(), n_folds=5, seed=0, strata=[c or None for c in whole.cohorts[first]]
    )
    whole = whole.without(set(groups[fold == 0].tolist()), "the outer fold")
    yardstick = Yardstick.of(database, whole)
    kind = str(database.facts(SLIDES)["kind"])
    plan = [(scheme, seed, held) for seed in seeds for scheme, held in plan_folds(whole, seed, [])]
    for cohort in np.unique(whole.cohorts):
        plan.append((COHORTS, seeds[0], set(whole.groups[whole.cohorts == cohort].tolist())))
    names = list(names)

    def job(item: tuple[str, int, set[str]]) -> dict[str, tuple[Ints, Array, float, int]]:
        split = Split(whole, yardstick, item[2], kind)
        out = {}
        for name in names:
            predicted, fold10 = ATTEMPTS[name](split)
            profiles, values = group_means(split.profile_of, predicted[split.slide_of])
            out[name] = (profiles, values, fold10, len(split.test))
        return out

    found = parallel(job, plan, lambda done: progress(done, len(plan)))
    cohort_of = dict(zip(whole.profile.tolist(), whole.cohorts.tolist(), strict=True))
    out: dict[str, dict[str, Figures]] = {}
    for scheme in dict.fromkeys(item[0] for item in plan):
        out[scheme] = {}
        for name in names:
            rows = []
            for seed in seeds if scheme != COHORTS else seeds[:1]:
                mine = [
                    f[name] for f, p in zip(found, plan, strict=True) if p[:2] == (scheme, seed)
                ]
                profiles, values = (np.concatenate([m[i] for m in mine]) for i in (0, 1))
                cohorts = np.array([cohort_of[i] for i in profiles.tolist()])
                told = quality(values, yardstick.scores[profiles], cohorts)
                within = told["within_r"]
                fold10 = np.average([m[2] for m in mine], weights=[m[3] for m in mine])
                rows.append((np.median(told["r2"]), np.median(within), np.mean(within), fold10))
            out[scheme][name] = Figures(*(float(v) for v in np.mean(rows, axis=0)))
    return out


def markdown(found: Mapping[str, Mapping[str, Figures]]) -> str:
    """The table; schemes side by side in every cell."""
    schemes = [s for s in (PATIENT_SCHEME, SITE_SCHEME, COHORTS) if s in found]
    lines = [
        f"| {' / '.join(schemes)} held out | median R² | median within-cohort r | mean | fold@10 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in found[schemes[0]]:
        cells = [
            " / ".join(_number(getattr(found[s][name], figure), digits) for s in schemes)
            for figure, digits in (("r2", 3), ("within_r", 4), ("mean_r", 4), ("fold10", 1))
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", choices=list(ATTEMPTS), default=list(ATTEMPTS))
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        database = ingested(given.directory, Path(scratch) / "tcga.mq")
        if database is None:
            return 0
        print(markdown(measure(database, given.only, given.seeds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
