"""Coverage of the intervals, the domain flag, specificity and the methods, on a real database.

    python benchmarks/calibration.py DATABASE

DATABASE is any aligned archive with several cohorts; the figures of
`docs/decisions/0003-calibration.md` are of the cohort that `benchmarks/tcga_hif.py` describes.
Nothing is written. Every figure is about patients (sites, cohorts) that had no part in the bound or
threshold that is tested on them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from molquery import predict
from molquery.database import Database
from molquery.genesets import collections
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME
from molquery.query import calibrate
from molquery.query.answer import answer
from molquery.query.engine import Engine
from molquery.query.methods import compare_methods
from molquery.space import need_space
from molquery.texts import Groups
from molquery.vectors import Float, Ints, Strings

SEEDS = range(20)


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "manifest.json").is_file():
        print("usage: python benchmarks/calibration.py DATABASE (see benchmarks/README.md)")
        return 2
    start = time.perf_counter()
    engine = Engine(Database.open(sys.argv[1]))
    sets = [collections.find(name) for name in engine.spectrum]
    scores = engine.reference.score(sets).scores
    print(f"{len(engine.pairs.profiles)} pairs, {len(sets)} Hallmark sets, {len(SEEDS)} splits")
    coverage(engine, scores)
    variants(engine, scores)
    unseen_cohorts(engine, scores)
    domain(engine)
    specificity(engine)
    methods(engine)
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table with its title, numbers to three places."""
    text = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    width = [max(len(r[i]) for r in [list(head), *text]) for i in range(len(head))]
    print(f"\n{title}")
    for row in [list(head), *text]:
        print("  ".join(v.rjust(w) if i else v.ljust(w)
                        for i, (v, w) in enumerate(zip(row, width, strict=True))))  # fmt: skip


def halves(groups: Strings) -> Iterator[np.ndarray]:
    """Masks of the rows of a random half of the groups, one for each seed."""
    names = np.unique(groups)
    for seed in SEEDS:
        chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
        yield np.isin(groups, chosen)


def half_widths(errors: Float, cohorts: Strings, groups: Strings, level: float) -> Float:
    """(n_cohorts,) bounds in the order of the cohorts' names."""
    return np.array(
        [calibrate.conformal_bound(errors[cohorts == c], groups[cohorts == c], level)
         for c in np.unique(cohorts)]
    )  # fmt: skip


def coverage(engine: Engine, scores: Float) -> None:
    """Bounds of half of the patients (or sites), coverage of the slides of the other half."""
    slide, profile = engine.pairs.slide, engine.pairs.profile
    cohorts, patients = engine.cohorts[slide], engine.groups[slide]
    measured = scores[profile]
    by_patient = engine.operators[PATIENT_SCHEME].apply(scores, slide)
    spread = np.stack([engine.spread(s)[slide] for s in scores.T], axis=1)
    tests = [("patients", patients, by_patient)]
    if SITE_SCHEME in engine.operators:
        site = engine.slide_column("site")[slide]
        # The bounds are those of a database: from patients held out. They meet other sites.
        tests.append(("sites", site, engine.operators[SITE_SCHEME].apply(scores, slide)))
    names = np.unique(cohorts)
    for what, units, tested in tests:
        found: dict[str, list[Float]] = {str(c): [] for c in names}
        for known in halves(units):
            for s in range(scores.shape[1]):
                u = spread[:, s]
                errors = np.abs(measured[:, s] - by_patient[:, s]) / u
                bound = half_widths(errors[known], cohorts[known], patients[known], 0.9)
                half = bound[np.searchsorted(names, cohorts)] * u
                inside = np.abs(measured[:, s] - tested[:, s]) <= half
                for name in names:
                    mine = ~known & (cohorts == name)
                    p = tested[mine, s]
                    top, bottom = p >= np.quantile(p, 0.8), p <= np.quantile(p, 0.2)
                    width = half[mine].mean() / measured[cohorts == name, s].std()
                    found[str(name)].append(np.array([
                        inside[mine].mean(), inside[mine][top].mean(), inside[mine][bottom].mean(),
                        width,
                    ]))  # fmt: skip
        rows = []
        for name, values in found.items():
            each = np.array(values).reshape(len(SEEDS), scores.shape[1], 4)
            of_set = each[:, :, 0].mean(axis=0)
            rows.append([name, *each.mean(axis=(0, 1)), float(of_set.min()), float(of_set.max())])
        table(
            f"90 % intervals, {what} held out: share of slides inside",
            ["cohort", "all", "top fifth", "bottom fifth", "half width / SD", "least set",
             "most set"],
            [[r[0], *map(float, r[1:])] for r in rows],
        )  # fmt: skip


def variants(engine: Engine, scores: Float) -> None:
    """Other shapes of interval on the same halves: constant width, and both tails by themselves."""
    slide, profile = engine.pairs.slide, engine.pairs.profile
    cohorts, patients = engine.cohorts[slide], engine.groups[slide]
    predicted, measured = engine.predict(scores)[slide], scores[profile]
    names, code = np.unique(cohorts, return_inverse=True)
    far = farness(engine)
    found: dict[str, list[list[float]]] = {}
    for known in halves(patients):
        for s in range(scores.shape[1]):
            spread = engine.spread(scores[:, s])[slide]
            place = calibrate.within_groups(predicted[:, s], Groups.of(cohorts))[0]
            off = measured[:, s] - predicted[:, s]
            for name, u in (("constant width", np.ones(len(off))), ("by spread (chosen)", spread)):
                own = (off / u)[known], cohorts[known], patients[known]
                both = half_widths(np.abs(own[0]), *own[1:], 0.9)[code] * u
                ends = {name: (-both, both)}
                low, high = (half_widths(sign * own[0], *own[1:], 0.95)[code] * u
                             for sign in (-1, 1))  # fmt: skip
                ends[f"{name.split(' (')[0]}, tails apart"] = (-low, high)
                for which, (below, above) in ends.items():
                    inside = (off >= below) & (off <= above)
                    left_out = (known, place > 20, place <= 80, far <= 95)
                    found.setdefault(which, []).append(
                        [*(float(inside[~(p | known)].mean()) for p in left_out),
                         float((above - below)[~known].mean() / 2 / measured[:, s].std())]
                    )  # fmt: skip
    table(
        f"Variants of the interval ({len(names)} cohorts together)",
        ["variant", "all", "bottom fifth", "top fifth", "farthest 5 %", "half width / pooled SD"],
        [[name, *map(float, np.mean(values, axis=0))] for name, values in found.items()],
    )


def farness(engine: Engine) -> Float:
    """The larger percentile, within the cohort, of the two distances of every pair's slide."""
    slide = engine.pairs.slide
    cohorts = Groups.of(engine.cohorts[slide])
    each = [
        calibrate.within_groups(d.astype(np.float64)[slide], cohorts)[0]
        for d in engine.operator.distance.T
    ]
    return np.asarray(np.max(each, axis=0))


def unseen_cohorts(engine: Engine, scores: Float) -> None:
    """One cohort without RNA: bounds from leaving out the others in turn, coverage in it."""
    space = need_space(engine.database)
    _, slides, profiles = predict.read_paired(engine.database, space, np.arange(engine.n_slides))
    slide, profile = engine.pairs.slide, engine.pairs.profile
    cohorts, patients = engine.cohorts[slide], engine.groups[slide]
    measured = scores[profile]
    rows = []
    for cohort in np.unique(cohorts):
        mine = cohorts == cohort
        gone = (profiles.cohorts == cohort) | np.isin(profiles.keys, slides.keys[slide[mine]])
        fewer = replace(profiles, keys=np.where(gone, "", profiles.keys))
        operator = predict.build_left_out(space, slides, fewer)
        if operator is None:
            print("\none cohort alone cannot be left out")
            return
        errors = np.abs(measured - operator.apply(scores, slide))
        bounds = np.array(
            [max(half_widths(e[~mine], cohorts[~mine], patients[~mine], 0.9)) for e in errors.T]
        )
        inside = (errors <= bounds)[mine].mean(axis=0)
        sd = measured[mine].std(axis=0)
        rows.append([str(cohort), float(inside.mean()), float(np.median(inside)),
                     float(inside.min()), float((inside < 0.8).mean()),
                     float(np.median(bounds / sd))])  # fmt: skip
    table(
        "90 % intervals of a cohort without RNA",
        ["cohort", "all sets", "median set", "least set", "sets under 0.8", "half width / SD"],
        rows,
    )


def domain(engine: Engine) -> None:
    """How often ordinary slides are flagged, and how often planted and real strangers are."""
    operator, held_out = engine.operator, engine.held_out
    distance = operator.distance
    rows = []
    for cohort in np.unique(engine.cohorts[held_out]):
        alarms = []
        for known in halves(engine.groups):
            at = np.flatnonzero(held_out & known)
            flagged = calibrate.outlying(distance, at, engine.by_cohort, engine.groups[at])
            alarms.append(flagged[held_out & ~known & (engine.cohorts == cohort)].mean())
        mine = ~held_out & (engine.cohorts == cohort)
        alarm = float(engine.out_of_domain[mine].mean()) if mine.any() else float("nan")
        rows.append([str(cohort), float(np.mean(alarms)), alarm, int(mine.sum())])
    table(
        f"Domain: ordinary slides that are flagged (meant: {calibrate.FALSE_ALARM})",
        ["cohort", "held-out half", "slides without RNA", "of"],
        rows,
    )
    strangers(engine)
    errors_by_distance(engine)


def strangers(engine: Engine) -> None:
    """Flagged among slides without RNA that were altered, and of cohorts that are not known."""
    space = need_space(engine.database)
    _, slides, profiles = predict.read_paired(engine.database, space, np.arange(engine.n_slides))
    seen = np.unique(engine.cohorts[engine.held_out])
    target = np.flatnonzero(~engine.held_out & np.isin(engine.cohorts, seen))
    rows = []
    for name, vectors in altered(slides.vectors[target], slides.vectors):
        changed = slides.vectors.copy()
        changed[target] = vectors
        rows.append([name, *flagged(engine, replace(slides, vectors=changed), profiles, target)])
    for cohort in np.unique(engine.cohorts[~np.isin(engine.cohorts, seen)]):
        mine = np.flatnonzero(engine.cohorts == cohort)
        rows.append([f"{cohort} (no RNA)", *flagged(engine, slides, profiles, mine)])
    for cohort in seen:
        mine = np.flatnonzero(engine.cohorts == cohort)
        gone = (profiles.cohorts == cohort) | np.isin(profiles.keys, slides.keys[mine])
        fewer = replace(profiles, keys=np.where(gone, "", profiles.keys))
        rows.append([f"{cohort} left out", *flagged(engine, slides, fewer, mine)])
    head = ["what", "flagged", "by nearest slides alone", "by distance from the plane alone"]
    table("Domain: strangers that are flagged", head, rows)


def flagged(
    engine: Engine, slides: predict.Rows, profiles: predict.Rows, target: Ints
) -> list[float]:
    """The share of the target slides that are flagged when the database holds these rows.

    By both distances, and by either alone at the same rate of false alarms.
    """
    operator = predict.build_operator(need_space(engine.database), PATIENT_SCHEME, slides, profiles)
    distance, held = operator.distance, np.flatnonzero(operator.model >= 0)
    cohorts, groups = Groups.of(slides.cohorts), slides.groups[held]
    return [
        float(calibrate.outlying(d, held, cohorts, groups)[target].mean())
        for d in (distance, distance[:, :1], distance[:, 1:])
    ]


def altered(vectors: np.ndarray, archive: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Ways in which slides of another scanner, pipeline or tissue differ, by name."""
    rng = np.random.default_rng(0)
    n, d = vectors.shape
    sd = np.nanstd(archive, axis=0)
    sign = rng.choice([-1.0, 1.0], d)
    for size in (0.25, 0.5, 1.0):
        yield f"all features moved by {size} SD", (vectors + size * sign * sd).astype(np.float32)
    noise = rng.normal(size=vectors.shape) * sd
    yield "noise of 0.5 SD", (vectors + 0.5 * noise).astype(np.float32)
    shuffled = np.stack([column[rng.permutation(n)] for column in vectors.T], axis=1)
    yield "features shuffled between slides", shuffled
    some = rng.choice(d, d // 10, replace=False)
    units = vectors.copy()
    units[:, some] *= 10
    yield "a tenth of the features in other units (x 10)", units
    missing = vectors.copy()
    missing[:, rng.choice(d, d // 2, replace=False)] = np.nan
    if np.isnan(archive).any():
        yield "half of the features missing", missing


def errors_by_distance(engine: Engine) -> None:
    """Whether slides that lie far out are predicted worse: coverage among the farthest."""
    sets = [collections.find(name) for name in engine.spectrum]
    scores = engine.reference.score(sets).scores
    slide, profile = engine.pairs.slide, engine.pairs.profile
    predicted = engine.predict(scores)
    place = farness(engine)
    rows = []
    for low, high in ((0, 50), (50, 90), (90, 95), (95, 100)):
        mine = (place > low) & (place <= high)
        inside = []
        for s in range(scores.shape[1]):
            ends = engine.intervals(predicted[:, s], scores[:, s])
            truth = scores[profile, s]
            inside.append(((truth >= ends[0][slide]) & (truth <= ends[1][slide]))[mine].mean())
        rows.append([f"{low}-{high}", int(mine.sum()), float(np.mean(inside))])
    table("Coverage by distance (percentile in the cohort)", ["distance", "slides", "inside"], rows)


def specificity(engine: Engine) -> None:
    """Every Hallmark set against random sets like it."""
    rows = []
    for name in engine.spectrum:
        p = answer(engine, collections.find(name)).predictability
        rows.append([name.removeprefix("HALLMARK_"), p.within_r, p.random_r, p.specificity,
                     p.specificity_z, p.specificity_percentile])  # fmt: skip
    beaten = np.array([row[5] for row in rows], dtype=float)
    rows.sort(key=lambda row: -(row[3] or 0.0))
    table(
        f"Specificity: {(beaten >= 95).sum()} of {len(beaten)} sets are predicted better than 95 % "
        f"of random sets, {(beaten < 50).sum()} worse than half of them",
        ["set", "within r", "random r", "above", "z", "percentile"],
        [*rows[:6], *rows[-6:]],
    )


def methods(engine: Engine) -> None:
    """The comparison that `molquery evaluate` prints."""
    found = compare_methods(engine)
    head = ["method", "R2", "r", "within r", "site R2", "site r", "site within r"]
    rows = [[r.method, r.r2, r.r, r.within_r, r.site_r2, r.site_r, r.site_within_r]
            for r in found.rows]  # fmt: skip
    table(f"Methods, median over {found.n_sets} sets: {found.reason}", head, rows)


if __name__ == "__main__":
    sys.exit(main())
