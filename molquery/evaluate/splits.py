"""Folds and hold-outs that keep every patient, or every tissue-source site, on one side.

What a group is, the caller says: patient ids for the usual split, sites (field 2 of a TCGA
barcode) for a split across hospitals, doi:10.1038/s41467-021-24698-1. To leave one cohort out needs
no function: `cohorts == name`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from molquery.errors import InputError, SpaceError, some
from molquery.vectors import Bools, Float, Ints

Labels: TypeAlias = Sequence[str | None] | npt.NDArray[Any]


def folds_by_group(
    groups: Labels, *, n_folds: int, seed: int, strata: Labels | None = None
) -> Ints:
    """The fold of every row, int64 (n,) in [0, n_folds); rows of one group share a fold.

    Greedy: stratum by stratum, large groups first and equal ones in seeded order, each group goes
    where it raises sum over folds f of (sum over strata c of n_fc² / N_c) + n_f² / N the least,
    with n_fc the rows of stratum c in fold f. Sizes of folds differ by no more than the largest
    group without strata, and by no more than one row overall and in every stratum when each group
    is one row. The answer depends on the labels only: permuting the rows permutes it alike.

    Args:
        groups: (n,) patients or sites.
        n_folds: number of folds, at least 2.
        seed: of the order among groups of one size.
        strata: (n,) cohorts to spread over the folds; None is a stratum of its own.

    Raises:
        SpaceError: there are fewer groups than folds.
        InputError: a row has no group, or the lengths differ.
    """
    if n_folds < 2:
        raise InputError("a split needs at least 2 folds", found=str(n_folds))
    names, codes, counts = _counts(groups, strata)
    if len(names) < n_folds:
        possible = f"at most {len(names)} folds" if len(names) > 1 else "pairs of more patients"
        raise SpaceError(
            f"{n_folds} folds need at least {n_folds} groups (patients or sites)",
            found=f"{len(names)}: {some(names)}" if names else "none",
            hint=possible,
        )
    shares = np.full(n_folds, 1.0 / n_folds)
    return _assign(counts, shares, _order(counts, seed))[codes]


def holdout_by_group(
    groups: Labels, *, fraction: float, seed: int, strata: Labels | None = None
) -> Bools:
    """True for the rows to hold out, bool (n,): about `fraction` of all rows and of each stratum.

    Whole groups, chosen as in `folds_by_group`; each side holds at least one group.

    Raises:
        SpaceError: there are fewer than two groups.
        InputError: `fraction` is not between 0 and 1, a row has no group, or the lengths differ.
    """
    if not 0 < fraction < 1:
        raise InputError("a held-out fraction lies between 0 and 1", found=str(fraction))
    names, codes, counts = _counts(groups, strata)
    if len(names) < 2:
        raise SpaceError(
            "to hold out rows takes at least 2 groups (patients or sites)",
            found=some(names) if names else "none",
            hint="pairs of more patients",
        )
    order = _order(counts, seed)
    side = _assign(counts, np.array([1.0 - fraction, fraction]), order)
    if side.min() == side.max():
        side[order[-1]] = 1 - side[order[-1]]
    return np.asarray(side[codes] == 1)


def _counts(groups: Labels, strata: Labels | None) -> tuple[list[str], Ints, Ints]:
    """Sorted group names, the group of every row (n,), and rows by group and stratum (g, c)."""
    missing = sum(g is None or g == "" for g in groups)
    if missing:
        raise InputError(
            f"{missing} of {len(groups)} rows have no group to split by",
            hint="give every row a patient (or site)",
        )
    if strata is not None and len(strata) != len(groups):
        raise InputError("rows and strata differ", found=f"{len(groups)} and {len(strata)}")
    names, codes = np.unique([str(g) for g in groups], return_inverse=True)
    kinds = (
        ["" if s is None else str(s) for s in strata] if strata is not None else [""] * len(codes)
    )
    kind_names, kind_codes = np.unique(kinds, return_inverse=True)
    counts = np.zeros((len(names), len(kind_names)), dtype=np.int64)
    np.add.at(counts, (codes, kind_codes), 1)
    return [str(name) for name in names], codes.astype(np.int64), counts


def _order(counts: Ints, seed: int) -> Ints:
    """Groups by stratum (that with the largest group first), size, and a seeded shuffle."""
    size = counts.sum(axis=1)
    stratum = counts.argmax(axis=1)
    coarse = np.zeros(counts.shape[1], dtype=np.int64)
    np.maximum.at(coarse, stratum, size)
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    return np.lexsort((shuffled, -size, stratum, -coarse[stratum])).astype(np.int64)


def _assign(counts: Ints, shares: Float, order: Ints) -> Ints:
    """The part of every group (g,), parts filling up in proportion to `shares`."""
    rows = np.hstack([counts, counts.sum(axis=1, keepdims=True)]).astype(np.float64)
    weighted = rows / rows.sum(axis=0)
    filled = np.zeros((len(shares), rows.shape[1]))
    part = np.zeros(len(counts), dtype=np.int64)
    for group in order:
        # the rise of n² is 2 v n + v²; half of it, in units of each part's share
        cost = ((filled + rows[group] / 2) @ weighted[group]) / shares
        part[group] = np.argmin(cost)
        filled[part[group]] += rows[group]
    return part
