"""Scores to strata: cut points are fitted and written down first, and applied afterwards.

Pure functions on arrays. A score above a cut point belongs to the upper stratum; a score equal to
it belongs to the lower, so that equal scores always stay together. Writing the strata to a file is
in `export/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from molquery.errors import InputError, some
from molquery.vectors import Float, Strings

Labels: TypeAlias = Sequence[str | None] | npt.NDArray[Any]

#: The key of the cut points of a pooled cut.
POOLED = "all"

SPECS = "tertiles, median, quantiles:0.25,0.75 or value:0.5"

QUANTILES = {"median": (0.5,), "tertiles": (1 / 3, 2 / 3)}

#: n q is counted as whole when it is so but for rounding: 0.7 * 10 is 7.000000000000001.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut points, as they are written down before anything is labelled.

    `Cut(**cut.as_dict())` makes it again, from JSON too.

    Attributes:
        method: the specification, such as `tertiles`.
        scope: `pooled` (one set of cut points, key `all`) or `cohort` (one per cohort).
        points: scope key -> cut points, increasing, in the unit of the scores.
        labels: names of the strata from low to high, one more than there are cut points.
    """

    method: str
    scope: Literal["pooled", "cohort"]
    points: Mapping[str, tuple[float, ...]]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        points = {str(k): tuple(float(p) for p in v) for k, v in self.points.items()}
        object.__setattr__(self, "points", MappingProxyType(points))
        object.__setattr__(self, "labels", tuple(self.labels))

    def as_dict(self) -> dict[str, Any]:
        """The cut as plain values, for provenance."""
        return {
            "method": self.method,
            "scope": self.scope,
            "points": {key: list(points) for key, points in self.points.items()},
            "labels": list(self.labels),
        }


def fit_cuts(scores: npt.ArrayLike, cohorts: Labels | None, spec: str) -> Cut:
    """The cut points of `scores` (n,), within each cohort when `cohorts` (n,) are given.

    Quantile q of n sorted scores lies between the k-th and the next, k = ceil(n q): at the k-th
    when n q is not whole, half-way when it is (type 2 of doi:10.1080/00031305.1996.10473566, the
    textbook median). Without ties the strata then hold k scores up to each cut point.

    Args:
        scores: finite numbers.
        cohorts: a cohort per score, or None to pool all scores.
        spec: `tertiles`, `median`, `quantiles:Q,...` or `value:V,...`, increasing.

    Raises:
        InputError: the spec is unknown, a score is not finite, a cohort is missing, or, for
            quantiles, scores are too few, all equal, or so tied that a stratum would be empty.

    Example:
        >>> fit_cuts([1.0, 2.0, 3.0, 4.0], None, "median").points["all"]
        (2.5,)
    """
    quantiles, values = _parse(spec)
    numbers = _finite(scores)
    scopes = _scopes(cohorts, len(numbers))
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
    patients: Labels, scores: npt.ArrayLike, how: Literal["mean", "max"] = "mean"
) -> tuple[Strings, Float]:
    """One score per patient: the patients, sorted, and the mean or highest score of their slides.

    Raises:
        InputError: a row has no patient, a score is not finite, or `how` is unknown.
    """
    numbers = _finite(scores)
    _complete(patients, len(numbers), "patient")
    if how not in ("mean", "max"):
        raise InputError(f"slides of a patient cannot be joined by {how!r}", hint="mean or max")
    names, codes = np.unique(
        np.array([str(p) for p in patients], dtype=np.str_), return_inverse=True
    )
    joined = np.full(len(names), -np.inf)
    np.maximum.at(joined, codes, numbers)
    if how == "mean":
        joined = np.bincount(codes, weights=numbers, minlength=len(names)) / np.bincount(codes)
    return names, joined


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
