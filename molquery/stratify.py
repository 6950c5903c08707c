"""Scores to strata: cut points are fitted and written down first, and applied afterwards.

Pure functions on arrays. A score above a cut point belongs to the upper stratum; a score equal to
it belongs to the lower, so that equal scores always stay together. Rules join the strata of several
signatures into one. How sure a stratum is follows from the errors of held-out predictions
(`confidence`). Reading and writing cut files is in `export/cutfile.py`, tests in `associate`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from molquery.errors import InputError, some
from molquery.vectors import Float, Ints, Strings

Labels: TypeAlias = Sequence[str | None] | npt.NDArray[Any]

#: The key of the cut points of a pooled cut.
POOLED = "all"

SPECS = "tertiles, median, quantiles:0.25,0.75, value:0.5, mixture or mixture:3"

QUANTILES = {"median": (0.5,), "tertiles": (1 / 3, 2 / 3)}

#: n q is counted as whole when it is so but for rounding: 0.7 * 10 is 7.000000000000001.
ROUNDING = 1e-9

#: How many Gaussians the Bayesian information criterion chooses among; more are hardly ever told
#: apart in one dimension.
MOST_COMPONENTS = 5
#: Scores per Gaussian that a mixture needs at least.
PER_COMPONENT = 20
#: Ashman's D of neighbouring Gaussians above which they are called separate
#: (doi:10.1086/117248).
SEPARATE = 2.0

#: The stratum of what no rule fits.
OTHER = "other"
#: What `call` holds where a stratum is not sure enough.
UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut points, as they are written down before anything is labelled.

    `Cut(**cut.as_dict())` makes it again, from JSON too.

    Attributes:
        method: the specification, such as `tertiles`.
        scope: `pooled` (one set of cut points, key `all`) or `cohort` (one per cohort).
        points: scope key -> cut points, increasing, in the unit of the scores.
        labels: names of the strata from low to high, one more than there are cut points.
        remarks: what a reader of the strata must know about how they were cut.
    """

    method: str
    scope: Literal["pooled", "cohort"]
    points: Mapping[str, tuple[float, ...]]
    labels: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        points = {str(k): tuple(float(p) for p in v) for k, v in self.points.items()}
        object.__setattr__(self, "points", MappingProxyType(points))
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "remarks", tuple(self.remarks))

    def as_dict(self) -> dict[str, Any]:
        """The cut as plain values, for provenance."""
        return {
            "method": self.method,
            "scope": self.scope,
            "points": {key: list(points) for key, points in self.points.items()},
            "labels": list(self.labels),
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """A stratum that is defined by the strata of several signatures, all of which must fit.

    Attributes:
        label: the name of the stratum.
        conditions: (signature, its stratum), such as `("HALLMARK_HYPOXIA", "high")`.
    """

    label: str
    conditions: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.label}: " + " and ".join(
            f"{name} {label}" for name, label in self.conditions
        )


#: Immune and stromal sets of the quadrants, after the four microenvironments of Bagaev et al. 2021
#: (doi:10.1016/j.ccell.2021.04.014): the names are theirs, the classifier is not. T-cell genes
#: stand for immune infiltration; the mesenchymal set, which is mostly collagens and other matrix
#: genes, for fibrosis.
IMMUNE, FIBROSIS = (
    "HALLMARK_ALLOGRAFT_REJECTION", "HALLMARK_EPITHELIAL_MESENCHYMAL_TRANSITION"
)  # fmt: skip
READY_RULES = {
    "tme": (
        Rule("immune-enriched", ((IMMUNE, "high"), (FIBROSIS, "low"))),
        Rule("immune-enriched fibrotic", ((IMMUNE, "high"), (FIBROSIS, "high"))),
        Rule("fibrotic", ((IMMUNE, "low"), (FIBROSIS, "high"))),
        Rule("depleted", ((IMMUNE, "low"), (FIBROSIS, "low"))),
    )
}


def fit_cuts(scores: npt.ArrayLike, cohorts: Labels | None, spec: str) -> Cut:
    """The cut points of `scores` (n,), within each cohort when `cohorts` (n,) are given.

    Quantile q of n sorted scores lies between the k-th and the next, k = ceil(n q): at the k-th
    when n q is not whole, half-way when it is (type 2 of doi:10.1080/00031305.1996.10473566, the
    textbook median). Without ties the strata then hold k scores up to each cut point.

    A mixture of k Gaussians (scikit-learn, always the same for the same scores) is cut where one
    component becomes more probable than the one below it. Without k, the Bayesian information
    criterion chooses it; where it prefers one Gaussian there is nothing to cut.

    Args:
        scores: finite numbers.
        cohorts: a cohort per score, or None to pool all scores.
        spec: `tertiles`, `median`, `quantiles:Q,...`, `value:V,...` (increasing), `mixture` or
            `mixture:K`.

    Raises:
        InputError: the spec is unknown, a score is not finite, a cohort is missing, or, for
            quantiles, scores are too few, all equal, or so tied that a stratum would be empty, or,
            for a mixture, scores are too few or look like one group, or, within cohorts, like
            another number of groups in each.

    Example:
        >>> fit_cuts([1.0, 2.0, 3.0, 4.0], None, "median").points["all"]
        (2.5,)
    """
    numbers = _finite(scores)
    scopes = _scopes(cohorts, len(numbers))
    if spec.partition(":")[0] == "mixture":
        return _fit_mixture(numbers, scopes, spec, pooled=cohorts is None)
    quantiles, values = _parse(spec)
    labels = _names(len(quantiles or values))
    points: dict[str, tuple[float, ...]] = {}
    if not len(numbers):
        raise InputError("there are no scores to stratify")
    small = [f"{k} ({len(rows)})" for k, rows in scopes.items() if len(rows) < len(labels)]
    if quantiles and small:
        raise InputError(
            f"{spec} makes {len(labels)} strata and needs as many scores"
            + (" in every cohort" if cohorts is not None else ""),
            found=some(small),
            hint="ask for fewer strata"
            + (", pool the cohorts, or leave these out" if cohorts is not None else ""),
        )
    for key, rows in scopes.items():
        points[key] = _quantiles(numbers[rows], quantiles, spec, key) if quantiles else values
    return Cut(spec, "pooled" if cohorts is None else "cohort", points, labels)


def apply_cuts(scores: npt.ArrayLike, cohorts: Labels | None, cut: Cut) -> Strings:
    """The stratum of every score (n,), from `cut.labels`: a step up for each cut point below it.

    `cohorts` are needed, and looked at, only for a cut of scope `cohort`.

    Raises:
        InputError: a score is not finite, or a cohort is missing or unknown to the cut.
    """
    numbers = _finite(scores)
    if cut.scope == "cohort" and cohorts is None:
        raise InputError("these cut points are per cohort", hint="give a cohort for every score")
    scopes = _scopes(cohorts if cut.scope == "cohort" else None, len(numbers))
    unknown = [key for key in scopes if key not in cut.points]
    if unknown:
        raise InputError(
            f"no cut points for {len(unknown)} of {len(scopes)} cohorts: {some(unknown)}",
            found=f"cut points for {some(cut.points)}",
            hint="fit the cut on these cohorts, or pool the cohorts",
        )
    step = np.zeros(len(numbers), dtype=np.int64)
    for key, rows in scopes.items():
        if len(rows):
            step[rows] = np.searchsorted(cut.points[key], numbers[rows], side="left")
    return np.asarray(cut.labels, dtype=np.str_)[step]


def by_patient(
    patients: Labels,
    scores: npt.ArrayLike,
    how: Literal["mean", "max", "weighted"] = "mean",
    weights: npt.ArrayLike | None = None,
) -> tuple[Strings, Float]:
    """One score per patient: the patients, sorted, and the mean or highest score of their slides.

    `weighted` is the mean weighted by `weights` (n,), such as the area of tissue.

    Raises:
        InputError: a row has no patient, a score is not finite, `how` is unknown, or a weight is
            missing, negative, or 0 for all slides of a patient.
    """
    numbers = _finite(scores)
    _complete(patients, len(numbers), "patient")
    if how not in ("mean", "max", "weighted") or (how == "weighted") != (weights is not None):
        raise InputError(
            f"slides of a patient cannot be joined by {how!r}", hint="mean, max, or a weight column"
        )
    names, codes = np.unique(
        np.array([str(p) for p in patients], dtype=np.str_), return_inverse=True
    )
    if how == "max":
        joined = np.full(len(names), -np.inf)
        np.maximum.at(joined, codes, numbers)
        return names, joined
    share = np.ones(len(numbers)) if weights is None else _weights(weights, len(numbers))
    total = np.bincount(codes, weights=share, minlength=len(names))
    if (total == 0).any():
        none = names[total == 0]
        raise InputError(f"{len(none)} patients have slides of weight 0 only", found=some(none))
    return names, np.bincount(codes, weights=numbers * share, minlength=len(names)) / total


def parse_rule(text: str) -> Rule:
    """The rule that a text such as `inflamed: HALLMARK_A high and HALLMARK_B low` states.

    Without a label before the colon it is called `match`. Several rules of one label join by or.

    Raises:
        InputError: the text is no such rule.

    Example:
        >>> parse_rule("hot: A high and B low").conditions
        (('A', 'high'), ('B', 'low'))
    """
    usage = "--rule 'inflamed: HALLMARK_A high and HALLMARK_B low', or --rule tme"
    label, body = "match", text.strip()
    if named := re.fullmatch(r"([^:]+):\s+(.*)", body, re.DOTALL):
        label, body = named.group(1).strip(), named.group(2).strip()
    if re.search(r"\s(or|not)\s", f" {body} ", re.IGNORECASE):
        raise InputError(
            "the conditions of a rule are joined by and", found=text,
            hint="for or, give --rule twice with one label; for not, name the other stratum",
        )  # fmt: skip
    if label in (OTHER, UNCERTAIN):
        raise InputError(f"a rule cannot be called {label}", found=text, hint=usage)
    conditions = []
    for part in re.split(r"\s+and\s+", body, flags=re.IGNORECASE):
        found = re.fullmatch(r"(.+?)\s+(\S+)", part.strip())
        if not found or found.group(2).lower() == "and":
            raise InputError(f"{part.strip()!r} is no condition of a rule", found=text, hint=usage)
        conditions.append((found.group(1), found.group(2)))
    return Rule(label, tuple(conditions))


def apply_rules(
    rules: Sequence[Rule], strata: Mapping[str, Strings], sure: Mapping[str, Float]
) -> tuple[Strings, Float]:
    """The label of the first rule that fits each row, and how sure that is.

    Args:
        rules: in order; a row that fits none is `other`.
        strata: signature -> (n,) its strata; sure: signature -> (n,) their `confidence`.

    Returns:
        labels (n,), and the confidence (n,) of the least sure condition that decided: those of the
        rule that fits, and of every rule before it (all rules, for `other`) the surest condition
        that fails.
    """
    n = len(next(iter(strata.values())))
    width = max(len(OTHER), *(len(rule.label) for rule in rules))
    labels = np.full(n, OTHER, dtype=f"<U{width}")
    certain, open_ = np.ones(n), np.ones(n, dtype=bool)
    for rule in rules:
        holds = np.stack([strata[name] == label for name, label in rule.conditions])
        each = np.stack([sure[name] for name, _ in rule.conditions])
        fits = holds.all(axis=0)
        fails = np.where(holds, -np.inf, each).max(axis=0)
        decided = np.where(fits, each.min(axis=0), fails)
        certain[open_] = np.minimum(certain, decided)[open_]
        labels[open_ & fits] = rule.label
        open_ &= ~fits
    return labels, certain


def confidence(
    scores: npt.ArrayLike,
    points: Sequence[float],
    errors: Sequence[npt.ArrayLike],
    scale: npt.ArrayLike = 1.0,
) -> Float:
    """How probable it is that the measured score lies on the same side of the nearest cut point.

    The measured score of a row is its score plus its scale u times an error; the errors e of m
    held-out predictions give P(score + u e > c) = #{u e > c - score} / (m + 1), and P(<= c)
    likewise: the predictive distribution of conformal inference (doi:10.1007/s10994-018-5755-8),
    the mass 1 / (m + 1) of the unknown counted against. With cut points on both sides, the lower of
    the two counts.

    Args:
        scores: (n,) finite; points: the cut points that they were cut at.
        errors: one or more lists of (measured - predicted) / scale of held-out rows; the least
            favourable list counts.
        scale: (n,) positive, the size of error to be expected of each row.

    Returns:
        (n,) between 0 and 1; NaN where there are no errors. 0.5 is a coin toss.
    """
    numbers, cuts = _finite(scores), np.asarray(points, dtype=np.float64)
    unit = np.broadcast_to(np.asarray(scale, dtype=np.float64), numbers.shape)
    sure = np.full(len(numbers), np.nan)
    for several in errors:
        ordered = np.sort(np.asarray(several, dtype=np.float64))
        if not len(ordered):
            continue
        step = np.searchsorted(cuts, numbers, side="left")
        here = np.ones(len(numbers))
        for rows, cut, above in (
            (step > 0, cuts[np.maximum(step - 1, 0)], True),
            (step < len(cuts), cuts[np.minimum(step, len(cuts) - 1)], False),
        ):
            upto = np.searchsorted(ordered, (cut - numbers) / unit, side="right")
            share = (len(ordered) - upto if above else upto) / (len(ordered) + 1)
            here = np.where(rows, np.minimum(here, share), here)
        sure = np.fmin(sure, here)
    return sure


def _fit_mixture(scores: Float, scopes: Mapping[str, Ints], spec: str, *, pooled: bool) -> Cut:
    """The cut points of a Gaussian mixture in every scope."""
    given = spec.partition(":")[2]
    if spec != "mixture" and not re.fullmatch(r"[2-9]", given):
        raise InputError(f"{spec!r} is not a way to cut scores", hint=SPECS)
    if not len(scores):
        raise InputError("there are no scores to stratify")
    points, remarks = {}, []
    for key, rows in scopes.items():
        where = "" if key == POOLED else f" in cohort {key}"
        points[key], apart = _mixture(scores[rows], int(given) if given else None, where)
        close = [f"{d:.1f}" for d in apart if d < SEPARATE]
        if close:
            remarks.append(
                f"the Gaussians{where} overlap (Ashman's D {', '.join(close)}; {SEPARATE:g} and "
                "more is separate): the cut lies on a slope, not in a gap"
            )
    sizes = {len(p) for p in points.values()}
    if len(sizes) > 1:
        raise InputError(
            "the cohorts do not have the same number of groups",
            found=some(f"{key}: {len(p) + 1}" for key, p in points.items()),
            hint="mixture:K, or pool the cohorts",
        )
    (size,) = sizes
    chosen = spec if given else f"mixture:{size + 1}, by BIC"
    scope: Literal["pooled", "cohort"] = "pooled" if pooled else "cohort"
    return Cut(chosen, scope, points, _names(size), tuple(remarks))


def _mixture(
    scores: Float, k: int | None, where: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Cut points of one scope, and Ashman's D of the components on either side of each."""
    from scipy.optimize import brentq
    from sklearn.mixture import GaussianMixture

    if len(scores) < PER_COMPONENT * (k or 2) or len(np.unique(scores)) < 2 * (k or 2):
        raise InputError(
            f"a mixture of {k or 2} Gaussians needs {PER_COMPONENT * (k or 2)} scores{where}",
            found=f"{len(scores)}, {len(np.unique(scores))} different",
            hint="cut by median or value, or pool the cohorts",
        )
    # In units of their own spread, so that scikit-learn's floor of variances means the same always.
    centre, scale = float(scores.mean()), float(scores.std())
    # Sorted, so that the order of the rows does not matter.
    x = (np.sort(scores - centre) / scale)[:, None]

    def fit(count: int) -> Any:
        # Started from the quantiles and not at random: the same scores, the same cut.
        start = np.quantile(x, (np.arange(count) + 0.5) / count)[:, None]
        model = GaussianMixture(count, means_init=start, random_state=0, max_iter=1000, tol=1e-5)
        return model.fit(x)

    if k is None:
        most = min(MOST_COMPONENTS, len(scores) // PER_COMPONENT)
        models = [fit(count) for count in range(1, most + 1)]
        best = models[int(np.argmin([m.bic(x) for m in models]))]
        if best.n_components == 1:
            raise InputError(
                f"the scores{where} look like one group, not several",
                found="the Bayesian information criterion prefers a single Gaussian",
                hint="cut by tertiles or median, or mixture:2 to cut all the same",
            )
    else:
        best = fit(k)
    order = np.argsort(best.means_[:, 0])
    mean, sd = best.means_[order, 0], np.sqrt(best.covariances_[order, 0, 0])
    weight = best.weights_[order]
    points, apart = [], []
    for i in range(len(order) - 1):

        def ahead(t: float, i: int = i) -> float:
            """Log of how much more probable the upper component is than the lower."""
            z = (t - mean[i : i + 2]) / sd[i : i + 2]
            logs = np.log(weight[i : i + 2] / sd[i : i + 2]) - z**2 / 2
            return float(logs[1] - logs[0])

        if not ahead(mean[i]) < 0 < ahead(mean[i + 1]):
            raise InputError(
                f"two Gaussians{where} lie within each other: there is no point between them",
                found=some(f"mean {centre + scale * m:.3f}" for m in mean[i : i + 2]),
                hint="fewer Gaussians (mixture:2), tertiles or median",
            )
        points.append(centre + scale * float(brentq(ahead, mean[i], mean[i + 1])))
        spread = math.sqrt(float(sd[i] ** 2 + sd[i + 1] ** 2))
        apart.append(math.sqrt(2) * float(mean[i + 1] - mean[i]) / spread)
    return tuple(points), tuple(apart)


def _weights(weights: npt.ArrayLike, n: int) -> Float:
    numbers = np.asarray(weights, dtype=np.float64)
    if numbers.shape != (n,):
        raise InputError("scores and weights differ in number", found=f"{n} and {numbers.shape}")
    bad = int((~(numbers >= 0) | np.isinf(numbers)).sum())
    if bad:
        raise InputError(f"{bad} of {n} slides have no weight, or a negative one")
    return numbers


def _parse(spec: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Quantiles, or values: the other one is empty."""
    if spec in QUANTILES:
        return QUANTILES[spec], ()
    kind, _, text = spec.partition(":")
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    rising = all(a < b for a, b in pairwise(numbers))
    if kind not in ("quantiles", "value") or not numbers:
        raise InputError(f"{spec!r} is not a way to cut scores", hint=SPECS)
    if not rising or not all(math.isfinite(number) for number in numbers):
        raise InputError("cut points must be finite and increase", found=spec, hint=SPECS)
    if kind == "value":
        return (), numbers
    if numbers[0] <= 0 or numbers[-1] >= 1:
        raise InputError("quantiles lie between 0 and 1", found=spec, hint=SPECS)
    return numbers, ()


def _names(n_cuts: int) -> tuple[str, ...]:
    if n_cuts <= 2:
        return ("low", "high") if n_cuts == 1 else ("low", "mid", "high")
    return tuple(f"q{i + 1}" for i in range(n_cuts + 1))


def _quantiles(
    scores: Float, quantiles: tuple[float, ...], spec: str, key: str
) -> tuple[float, ...]:
    ordered = np.sort(scores)
    where = "" if key == POOLED else f" in cohort {key}"
    if ordered[0] == ordered[-1]:
        raise InputError(
            f"all {len(ordered)} scores{where} are equal: there is nothing to cut",
            found=f"{ordered[0]!r}",
        )
    points = tuple(_quantile(ordered, q) for q in quantiles)
    steps = np.searchsorted(points, ordered, side="left")
    if len(set(steps.tolist())) <= len(points):
        raise InputError(
            f"{spec} would leave a stratum empty{where}: too few or too many equal scores",
            found=f"{len(ordered)} scores, {len(set(ordered.tolist()))} different; cuts {points}",
            hint="ask for fewer strata, or name the cut points: value:…",
        )
    return points


def _quantile(ordered: Float, q: float) -> float:
    n = len(ordered)
    k = max(1, math.ceil(n * q - ROUNDING))
    low, high = float(ordered[k - 1]), float(ordered[min(k, n - 1)])
    middle = low + (high - low) / 2
    # neighbouring floats have no middle: the upper score must stay above its cut point
    return middle if abs(n * q - k) <= ROUNDING and middle < high else low


def _finite(scores: npt.ArrayLike) -> Float:
    numbers = np.asarray(scores, dtype=np.float64)
    if numbers.ndim != 1:
        raise InputError("scores must be one list of numbers", found=str(numbers.shape))
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise InputError(f"{bad} of {len(numbers)} scores are NaN or infinite")
    return numbers


def _complete(labels: Labels, n: int, noun: str) -> None:
    if len(labels) != n:
        raise InputError(f"scores and {noun}s differ in number", found=f"{n} and {len(labels)}")
    missing = sum(label is None or label == "" for label in labels)
    if missing:
        raise InputError(f"{missing} of {n} scores have no {noun}")


def _scopes(cohorts: Labels | None, n: int) -> dict[str, npt.NDArray[np.int64]]:
    """Rows by scope key, keys sorted."""
    if cohorts is None:
        return {POOLED: np.arange(n)}
    _complete(cohorts, n, "cohort")
    names = np.array([str(c) for c in cohorts], dtype=np.str_)
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
