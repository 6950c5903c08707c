"""Does a predicted signature mean what its name says? Groups, genes, labels and survival.

Rows are patients: the scores of several slides of a patient are averaged. Every score is one that
was predicted by a model that has not seen the patient's RNA. Tests are those of
`molquery.associate`; differences that are not there are reported as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from molquery import associate, outcomes, stratify
from molquery.associate import Association
from molquery.errors import GeneSetError, InputError, some
from molquery.evaluate import metrics, resample
from molquery.evaluate.metrics import optional
from molquery.evaluate.resample import Estimate, Resamples, estimate
from molquery.query import calibrate, refit
from molquery.query.engine import Engine
from molquery.query.tasks import Contrast, GeneGroups, Labels, Outcome, Tasks
from molquery.records import Signature
from molquery.schema import COHORT
from molquery.texts import Groups
from molquery.vectors import Bools, Float, Ints, Strings, group_means

#: A class, or a group of a cohort, with fewer patients is not compared.
MIN_CLASS = 10
_TERTILES = ("low", "mid", "high")
_CURVE_POINTS = 101

#: Called with what is being done.
Tell = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ContrastResult:
    """How a signature tells two groups apart, in held-out patients with RNA.

    Attributes:
        auc: of the predicted score; for groups that are cohorts, of models that were not told
            which of the two a slide is of.
        told_auc: of the scores that a search shows, whose model knows the cohort; else None.
        measured_auc: of the measured score.
        random_auc: AUCs of matched random gene sets, predicted in the same way: 5th, 50th and
            95th percentile of the larger of AUC and 1 - AUC.
        random_share: share of the random sets that tell the groups apart at least as well.
        curve: ROC curve: false and true positive rates.
    """

    signature: str
    column: str
    high: str
    low: str
    n_high: int
    n_low: int
    n_genes: int
    auc: Estimate
    told_auc: Estimate | None
    measured_auc: Estimate
    random_auc: tuple[float, float, float]
    random_share: float
    n_random: int
    curve: tuple[tuple[float, ...], tuple[float, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A predicted signature over tertiles of a measured gene in one cohort.

    Attributes:
        trend: Kendall's trend test over the tertiles.
        difference: mean of the high less that of the low tertile, in the cohort's standard
            deviations of the predicted score.
        quartiles: of the predicted score in each tertile, in standard deviations from the cohort's
            mean: 5th, 25th, 50th, 75th and 95th percentile.
        random_tau: 95th percentile of tau-b of matched random gene sets.
    """

    cohort: str
    trend: Association
    difference: Estimate
    quartiles: dict[str, tuple[float, ...]]
    random_tau: float


@dataclass(frozen=True, slots=True)
class GeneGroupsResult:
    """`GroupRow` of every cohort with enough patients; the gene itself is taken out of the set."""

    signature: str
    gene: str
    dropped: bool
    rows: tuple[GroupRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelRow:
    """How a signature tells one label from all others, in one cohort: AUC and Mann-Whitney."""

    signature: str
    label: str
    cohort: str
    n_label: int
    n_rest: int
    auc: float | None
    low: float | None
    high: float | None
    p: float | None
    q: float | None
    note: str


@dataclass(frozen=True, slots=True)
class LabelsResult:
    """`LabelRow` of every signature, label and cohort, with q over all of them."""

    column: str
    rows: tuple[LabelRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SurvivalRow:
    """One survival test of one signature's tertiles."""

    signature: str
    test: Association


@dataclass(frozen=True, slots=True)
class SurvivalResult:
    """Survival by tertile of the predicted score, cut within each cohort; q over all tests."""

    time: str
    event: str
    rows: tuple[SurvivalRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Validation:
    """Everything that was validated, and what could not be: name -> why."""

    contrasts: tuple[ContrastResult, ...] = ()
    gene_groups: tuple[GeneGroupsResult, ...] = ()
    labels: tuple[LabelsResult, ...] = ()
    survival: tuple[SurvivalResult, ...] = ()
    not_measured: tuple[tuple[str, str], ...] = ()


def validate(
    engine: Engine, tasks: Tasks, *, resamples: int, random_sets: int, seed: int, tell: Tell
) -> Validation:
    """Every task; one that cannot be measured is named with the reason.

    Args:
        resamples: of the bootstrap; random_sets: for each signature; seed: of both.
        tell: called with the name of each task as it begins.
    """
    missing = list(tasks.left_out)

    def attempt(name: str, run: Callable[[], Result]) -> list[Result]:
        tell(name)
        try:
            return [run()]
        except (InputError, GeneSetError) as error:
            missing.append((name, error.what + (f": {error.found}" if error.found else "")))
            return []

    contrasts, groups, told, survived = [], [], [], []
    for c in tasks.contrasts:
        run = partial(contrast, engine, c, resamples, random_sets, seed)
        contrasts += attempt(f"{c.high} against {c.low} by {c.signature.name}", run)
    for g in tasks.gene_groups:
        by_gene = partial(gene_groups, engine, g, resamples, random_sets, seed)
        groups += attempt(f"{g.signature.name} by {g.gene} expression", by_gene)
    for t in tasks.labels:
        told += attempt(f"labels of {t.column}", partial(labels, engine, t))
    for o in tasks.outcomes:
        survived += attempt(f"survival by {o.time} and {o.event}", partial(survival, engine, o))
    return Validation(tuple(contrasts), tuple(groups), tuple(told), tuple(survived), tuple(missing))


def contrast(
    engine: Engine, task: Contrast, resamples: int, random_sets: int, seed: int
) -> ContrastResult:
    """The AUC of a predicted signature between two groups, beside that of random gene sets.

    Raises:
        InputError: a group has too few patients with RNA.
        GeneSetError: too few genes of the signature are in the panel.
    """
    match, scores = engine.reference.score_one(task.signature)
    random = _random_scores(engine, task.signature, match.positions, match.weights,
                            random_sets, seed)  # fmt: skip
    every = np.hstack([scores, random])
    values = engine.slide_column(task.column)
    chosen = engine.held_out & np.isin(values, [task.high, task.low])
    counts = {v: len(np.unique(engine.groups[chosen & (values == v)]))
              for v in (task.high, task.low)}  # fmt: skip
    few = [f"{v} ({n})" for v, n in counts.items() if n < MIN_CLASS]
    if few:
        raise InputError(
            f"a group of {task.column} has fewer than {MIN_CLASS} patients with RNA",
            found=some(few),
        )
    notes = []
    told = None
    rows, high = np.flatnonzero(chosen), values == task.high
    shown = engine.operator.apply(every if task.column != COHORT else scores, rows)
    if task.column == COHORT:
        blind = refit.told_no_cohort(engine, (task.high, task.low))
        predicted = blind.apply(every, rows)
        told = _group_auc(engine, shown[:, 0], high, rows, resamples, seed)[0]
        notes.append(
            "slides of the two groups were processed apart, so part of any difference may be how "
            "the images were made: compare with the random gene sets"
        )
    else:
        predicted = shown
    auc, curve = _group_auc(engine, predicted[:, 0], high, rows, resamples, seed)
    others = np.array([
        metrics.auc(*_patient_rows(engine, p, high, rows)[:2])
        for p in predicted[:, 1:].T
    ])  # fmt: skip
    others = np.maximum(others, 1 - others)
    own = max(auc.value or 0.0, 1 - (auc.value or 0.0))
    slide, profile = engine.pairs.slide, engine.pairs.profile
    measured = np.full(len(values), np.nan)
    measured[slide] = scores[profile, 0]
    known = rows[np.isfinite(measured[rows])]
    measured_auc = _group_auc(engine, measured[known], high, known, resamples, seed)[0]
    if task.caution:
        notes.insert(0, task.caution)
    return ContrastResult(
        signature=task.signature.name, column=task.column, high=task.high, low=task.low,
        n_high=counts[task.high], n_low=counts[task.low], n_genes=len(match.positions),
        auc=auc, told_auc=told, measured_auc=measured_auc,
        random_auc=_percentiles(others, (5, 50, 95)),  # type: ignore[arg-type]
        random_share=float((others >= own).mean()), n_random=len(others), curve=curve,
        notes=tuple(notes),
    )  # fmt: skip


def gene_groups(
    engine: Engine, task: GeneGroups, resamples: int, random_sets: int, seed: int
) -> GeneGroupsResult:
    """A predicted signature over tertiles of a gene's measured expression, cohort by cohort.

    Raises:
        InputError: no cohort has enough patients with RNA, or the gene varies in none.
        GeneSetError: too few genes of the signature are in the panel.
    """
    column = engine.reference.panel[task.gene]
    match, _ = engine.reference.score_one(task.signature)
    kept = match.positions != column
    positions, weights = match.positions[kept], match.weights[kept]
    if len(positions) == 0:
        raise InputError(f"{task.signature.name} is {task.gene} alone")
    scores = engine.reference.matrix([(positions, weights)])
    random = _random_scores(engine, task.signature, positions, weights, random_sets, seed)
    pairs = engine.pairs
    predicted = pairs.predicted(engine.operator, np.hstack([scores, random]))
    expression = engine.reference.expression[pairs.profiles, column].astype(np.float64)
    groups = profile_groups(engine)
    drawn = Resamples(groups, n=resamples, seed=seed).of(groups)
    rows, notes = [], []
    for cohort in np.unique(pairs.cohorts):
        mine = np.flatnonzero((pairs.cohorts == cohort) & np.isfinite(expression))
        if len(mine) < 3 * MIN_CLASS:
            notes.append(f"{cohort or 'no cohort'}: {len(mine)} patients, too few for tertiles")
            continue
        try:
            cut = stratify.fit_cuts(expression[mine], None, "tertiles")
        except InputError as error:
            notes.append(f"{cohort or 'no cohort'}: {error.what}")
            continue
        strata = stratify.apply_cuts(expression[mine], None, cut)
        trend = associate.trend(strata, _TERTILES, predicted[mine, 0], outcome=task.gene)
        taus = [
            associate.trend(strata, _TERTILES, p, outcome=task.gene).estimate or 0.0
            for p in predicted[mine, 1:].T
        ]
        z = (predicted[mine, 0] - predicted[mine, 0].mean()) / predicted[mine, 0].std()
        w = drawn.take(mine).weights
        high, low = (w * (strata == label) for label in ("high", "low"))
        with np.errstate(invalid="ignore", divide="ignore"):
            difference = (high @ z) / high.sum(axis=1) - (low @ z) / low.sum(axis=1)
        rows.append(
            GroupRow(
                cohort=str(cohort) or "all",
                trend=trend,
                difference=estimate(difference),
                quartiles={label: _percentiles(z[strata == label], (5, 25, 50, 75, 95))
                           for label in _TERTILES},
                random_tau=_percentiles(np.array(taus), (95,))[0],
            )
        )  # fmt: skip
    if not rows:
        raise InputError("no cohort can be split into tertiles", found="; ".join(notes) or "none")
    adjusted = associate.adjust([row.trend for row in rows])
    rows = [replace(row, trend=t) for row, t in zip(rows, adjusted, strict=True)]
    return GeneGroupsResult(
        task.signature.name, task.gene, bool((~kept).any()), tuple(rows), tuple(notes)
    )


def labels(engine: Engine, task: Labels) -> LabelsResult:
    """How signatures tell each value of a column from all others, within every cohort.

    Raises:
        InputError: the column has one value only, or too many; no cohort holds two labels with
            enough patients.
        GeneSetError: none of the signatures has enough genes in the panel.
    """
    read = outcomes.variable(_column(engine, task.column), task.column, kind="categorical")
    names, predicted, notes = _predicted(engine, task.signatures)
    patients, first, notes_more = _patients(engine, read.texts)
    notes += [read.told, *notes_more]
    texts, cohorts = read.texts[first], engine.cohorts[first]
    _, scores = group_means(engine.groups[patients], predicted[patients])
    tests: list[tuple[str, str, Association]] = []
    rare: list[str] = []
    for cohort in np.unique(cohorts):
        mine = cohorts == cohort
        for label in read.levels:
            own = texts == label
            n_label, n_rest = int((mine & own).sum()), int((mine & ~own).sum())
            if n_label < MIN_CLASS or n_rest < MIN_CLASS:
                if n_label:
                    rare.append(f"{label} in {cohort or 'all'} ({n_label} against {n_rest})")
                continue
            strata = np.where(own, label, "others")[mine]
            for s, name in enumerate(names):
                order = ("others", label)
                test = associate.continuous(strata, order, scores[mine, s], outcome=task.column)
                tests.append((name, label, replace(test, cohort=str(cohort) or "all")))
    if rare:
        notes.append(f"fewer than {MIN_CLASS} patients on one side, not compared: {some(rare, 12)}")
    if not tests:
        raise InputError(
            f"no cohort has two labels of {task.column} with {MIN_CLASS} patients each",
            found=some(rare, 12),
        )
    rows = []
    adjusted = associate.adjust([t for _, _, t in tests])
    for (name, label, _), t in zip(tests, adjusted, strict=True):
        auc, low, high = (None if v is None else (v + 1) / 2 for v in (t.estimate, t.low, t.high))
        rows.append(LabelRow(name, label, t.cohort, t.n[label], t.n["others"], auc, low, high,
                             t.p, t.q, t.note))  # fmt: skip
    return LabelsResult(task.column, tuple(rows), tuple(notes))


def survival(engine: Engine, task: Outcome) -> SurvivalResult:
    """Survival by tertile of predicted scores, within every cohort and over all of them.

    Raises:
        InputError: times are negative or no numbers, events cannot be told, or no cohort has
            enough patients.
        GeneSetError: none of the signatures has enough genes in the panel.
    """
    read = outcomes.survival(
        _column(engine, task.time), _column(engine, task.event),
        time_name=task.time, event_name=task.event, event_is=task.event_is,
    )  # fmt: skip
    names, predicted, notes = _predicted(engine, task.signatures)
    patients, first, more = _patients(engine, np.where(read.known, "known", ""))
    cohorts = engine.cohorts[first]
    named = (cohorts != "").any()
    enough = np.array([
        (~named or c != "") and int((cohorts == c).sum()) >= 3 * associate.MIN_GROUP
        for c in cohorts
    ])  # fmt: skip
    if not enough.any():
        raise InputError("no cohort has enough patients with survival", found=some(set(cohorts)))
    if not enough.all():
        left = f"{int((~enough).sum())} patients are in cohorts too small for tertiles, or in none"
        more.append(left)
    _, scores = group_means(engine.groups[patients], predicted[patients])
    rows = first[enough]
    own = cohorts[enough]
    outcome = replace(
        read, time=read.time[rows], event=read.event[rows], known=read.known[rows], notes=()
    )
    found: list[tuple[str, Association]] = []
    groups = Groups.of(own if named else np.full(len(own), "all"))
    for s, name in enumerate(names):
        values = scores[enough, s]
        try:
            cut = stratify.fit_cuts(values, own if named else None, "tertiles")
        except InputError as error:
            notes.append(f"{name}: {error.what}")
            continue
        strata = stratify.apply_cuts(values, own if named else None, cut)
        standard = calibrate.within_groups(values, groups)[1]
        for apart in (False, True) if len(set(own.tolist())) > 1 else (False,):
            done = associate.associate(
                strata, _TERTILES, survival=outcome, cohorts=own, apart=apart, scores=standard
            )
            found += [(name, t) for t in done.tests]
    if not found:
        raise InputError("no signature makes strata to compare", found="; ".join(notes))
    adjusted = associate.adjust([t for _, t in found])
    named_rows = zip((name for name, _ in found), adjusted, strict=True)
    return SurvivalResult(
        task.time, task.event, tuple(SurvivalRow(name, t) for name, t in named_rows),
        (*read.notes, *notes, *more, associate.WARNING),
    )  # fmt: skip


def profile_groups(engine: Engine) -> Strings:
    """(n_profiles_paired,) the patient of every row of `HeldOutPairs.average`."""
    pairs = engine.pairs
    _, first = np.unique(pairs.profile, return_index=True)
    return np.asarray(engine.groups[pairs.slide[first]])


def _column(engine: Engine, name: str) -> list[Any]:
    return [None if v == "" else v for v in engine.slide_column(name).tolist()]


def _patients(engine: Engine, texts: Strings) -> tuple[Ints, Ints, list[str]]:
    """Slides of the patients with one known value, the first slide of each, and what is left out.

    Slides without a patient are left out; so are patients whose slides have different values.
    """
    groups = engine.groups
    rows = np.flatnonzero((texts != "") & (groups != ""))
    names, code = np.unique(groups[rows], return_inverse=True)
    values: list[set[str]] = [set() for _ in names]
    for c, text in zip(code, texts[rows], strict=True):
        values[c].add(str(text))
    mixed = np.array([len(v) > 1 for v in values], dtype=bool)
    rows = rows[~mixed[code]] if len(rows) else rows
    notes = []
    if mixed.any():
        notes.append(f"{int(mixed.sum())} patients have slides with different values: left out")
    if len(rows) == 0:
        raise InputError("no patient has a known value")
    first = rows[np.unique(groups[rows], return_index=True)[1]]
    return rows, first, notes


def _predicted(
    engine: Engine, signatures: Sequence[Signature]
) -> tuple[list[str], Float, list[str]]:
    """Names and predicted scores (n_slides, S) of those with enough genes; notes on the others."""
    scored = engine.reference.score(signatures)
    varying = [i for i in range(len(scored.signatures)) if scored.scores[:, i].std() > 0]
    if not varying:
        raise GeneSetError("none of the signatures has enough genes in the panel",
                           found=some(scored.skipped))  # fmt: skip
    notes = [f"{name}: {why}" for name, why in scored.skipped.items()]
    names = [scored.signatures[i].name for i in varying]
    return names, engine.predict(scored.scores[:, varying]), notes


def _random_scores(
    engine: Engine, signature: Signature, positions: Ints, weights: Float, count: int, seed: int
) -> Float:
    """(n_reference, count) measured scores of random gene sets like the signature."""
    key = [seed, int(signature.sha256[:8], 16)]
    sets = calibrate.random_sets(engine.reference, positions, weights, count=count, seed=key)
    return engine.reference.matrix(sets)


def _patient_rows(
    engine: Engine, scores: Float, high: Bools, rows: Ints
) -> tuple[Float, Bools, Strings]:
    """Mean of the scores (n_rows,), class and name of every patient among some slides.

    A patient with slides in both groups is two rows, one in each.
    """
    keys = np.char.add(np.where(high[rows], "+", "-"), engine.groups[rows])
    names, means = group_means(keys, scores[:, None])
    own = np.char.startswith(names, "+")
    return means[:, 0], own, np.array([str(n)[1:] for n in names])


def _group_auc(
    engine: Engine, scores: Float, high: Bools, rows: Ints, resamples: int, seed: int
) -> tuple[Estimate, tuple[tuple[float, ...], tuple[float, ...]]]:
    """The AUC with its interval, and the ROC curve."""
    values, own, groups = _patient_rows(engine, scores, high, rows)
    drawn = Resamples(groups, n=resamples, seed=seed).of(groups)
    order = np.argsort(-values, kind="stable")
    true = np.concatenate([[0.0], np.cumsum(own[order]) / max(1, own.sum())])
    false = np.concatenate([[0.0], np.cumsum(~own[order]) / max(1, (~own).sum())])
    at = np.unique(np.linspace(0, len(true) - 1, _CURVE_POINTS).astype(int))
    curve = tuple(tuple(float(v) for v in axis[at]) for axis in (false, true))
    return estimate(resample.auc(values, own, drawn.weights)), curve  # type: ignore[return-value]


def _percentiles(values: Float, at: tuple[int, ...]) -> tuple[float, ...]:
    known = values[np.isfinite(values)]
    return tuple(optional(v) or 0.0 for v in np.percentile(known, at)) if len(known) else (0.0,)
