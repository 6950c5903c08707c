"""The scale of an expression matrix: told by its values, checked against them, and as stored.

Values are (n, G) float32, samples in rows, NaN where missing. Detection speaks only when one
reading is left; otherwise it raises an error that names the readings that are possible. Gene names
and files play no part here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from molquery.errors import InputError
from molquery.vectors import Float, Matrix

#: Scales that a file may be in; all but the z-score are stored as log2(x + 1).
SCALES = ("log2", "ln", "log10", "counts", "tpm", "fpkm", "zscore")
#: Scales that only molquery's own exports have: how linear values were stored.
STORED = ("log2-cp10k", "log2-tpm", "log2-fpkm")

# No logarithm to base 2 of a count or TPM reaches this: 2^30 is a thousand million reads.
LARGEST_LOG = 30.0
# Sums per sample of TPM and CPM, and of counts per 10,000 (scanpy's habit), with 1 % for rounding
# and for the few genes that exports leave out.
_TOTALS = (1e6, 1e4)
_NEAR = 0.01
# Under this many genes the sum and the largest value say little: the file is a panel.
_MANY_GENES = 1000
# e^x - 1 summing to more than this: no TPM do, and no library has the reads. The base was not e.
_NO_LN = 3e8
# Undone with the right base, logarithms of counts are whole to within this, up to _SMALL (files
# keep three decimals or more); of other values, one in 25 is. _ENOUGH such values are evidence.
_WHOLE, _SMALL, _ENOUGH = 0.02, 30.0, 200
_LOOKED_AT = 2000  # genes, evenly spread
# Depths that differ by more than this factor are no accident of one sequencing run.
_DEPTHS = 1.5
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Facts:
    """What the values say: range, whether whole numbers, sums per sample (n,), centring.

    `offset` is the root mean square of the gene means, `within` the root of the mean variance of a
    gene over samples: z-scores have the first far under the second, logarithms above it. `counts`
    is the logarithm, 'log2' or 'ln', that gives whole numbers when undone, or ''.
    """

    low: float
    high: float
    whole: bool
    genes: int
    sums: Float
    exp2_sums: Float
    exp_sums: Float
    exp10_sums: Float
    offset: float
    within: float
    counts: str


def facts_of(values: Matrix) -> Facts:
    """Facts of a matrix, in one pass over blocks of samples.

    Raises:
        InputError: the matrix holds no finite value, or an infinite one.
    """
    low, high, whole = np.inf, -np.inf, True
    n, g = values.shape
    sums = {base: np.zeros(n) for base in ("1", "2", "e", "10")}
    count, total, squares = np.zeros(g), np.zeros(g), np.zeros(g)
    undone = {"log2": np.zeros(2), "ln": np.zeros(2)}
    spread = slice(None, None, max(1, -(-g // _LOOKED_AT)))
    for start in range(0, n, _BLOCK):
        block = values[start : start + _BLOCK]
        if np.isinf(block).any():
            raise InputError("the expression values hold infinity", hint="mend the file")
        seen = ~np.isnan(block)
        if seen.any():
            low = min(low, float(np.nanmin(block)))
            high = max(high, float(np.nanmax(block)))
        filled = np.where(seen, block, 0).astype(np.float64)
        whole = whole and bool((filled == np.rint(filled)).all())
        count += seen.sum(axis=0)
        total += filled.sum(axis=0)
        squares += (filled**2).sum(axis=0)
        at = slice(start, start + len(block))
        sums["1"][at] = filled.sum(axis=1)
        if low >= 0 and high <= LARGEST_LOG:
            sums["2"][at] = np.expm1(filled * np.log(2)).sum(axis=1)
            sums["e"][at] = np.expm1(filled).sum(axis=1)
            sums["10"][at] = np.expm1(filled * np.log(10)).sum(axis=1)
            for name, seen_so_far in undone.items():
                seen_so_far += _whole(filled[:, spread], name)
    if high < low:
        raise InputError("the expression matrix holds no value at all")
    some = count > 0
    mean = total[some] / count[some]
    variance = np.maximum(squares[some] / count[some] - mean**2, 0)
    counts = "" if whole or low < 0 or high > LARGEST_LOG else next(
        (name for name, (n, of) in undone.items() if of >= _ENOUGH and n >= 0.99 * of), ""
    )  # fmt: skip
    return Facts(
        low, high, whole, g, sums["1"], sums["2"], sums["e"], sums["10"],
        float(np.sqrt((mean**2).mean())), float(np.sqrt(variance.mean())), counts,
    )  # fmt: skip


def _whole(logarithms: Float, name: str) -> Float:
    """How many small values are whole numbers when a logarithm is undone, and of how many."""
    values = np.expm1(logarithms * (np.log(2) if name == "log2" else 1.0))
    values = values[(values > 1.5) & (values < _SMALL)]
    return np.array([(np.abs(values - np.rint(values)) < _WHOLE).sum(), len(values)], dtype=float)


def detect(facts: Facts, source: str) -> tuple[str, str]:
    """The scale that the values are in, and why.

    Raises:
        InputError: more than one reading is possible; it names them.
    """
    if facts.low < 0:
        if facts.offset < facts.within:
            return "zscore", "negative values, and the mean of a gene is near 0"
        raise _unsure(
            source, facts, "zscore (z-scores) or logarithms of small numbers such as "
            "log2(x + 0.001), which must become log2(x + 1) first", ("zscore",)
        )  # fmt: skip
    if facts.high > LARGEST_LOG:
        if _near(facts.sums, _TOTALS[:1]):
            if facts.whole:
                raise _unsure(source, facts, "tpm (rounded) or counts", ("tpm", "counts"))
            return "tpm", "every sample sums to a million"
        if facts.whole:
            return "counts", "whole numbers, with sums that differ"
        if facts.sums.max() > (1 + _NEAR) * _TOTALS[0]:
            raise _unsure(
                source, facts, "counts (expected or normalised, as RSEM's) or fpkm",
                ("counts", "fpkm"),
            )  # fmt: skip
        raise _unsure(
            source, facts, "fpkm, tpm (of a part of the genes) or counts (expected or normalised)",
            ("fpkm", "tpm", "counts"),
        )  # fmt: skip
    if facts.whole:
        raise _unsure(source, facts, "counts (very shallow) or log2 (rounded)", ("counts", "log2"))
    for name, sums in (("log2", facts.exp2_sums), ("ln", facts.exp_sums)):
        if _near(sums, _TOTALS):
            return name, f"undone as {name}(x + 1), every sample sums to {sums[0]:.0e}"
    if _near(facts.exp10_sums, _TOTALS):
        return "log10", "undone as log10(x + 1), every sample sums to the same"
    if facts.counts:
        return facts.counts, f"undone as {facts.counts}(x + 1), the values are whole numbers"
    if np.median(facts.exp_sums) > _NO_LN:
        return "log2", f"values up to {facts.high:.3g}, too large for another base"
    raise _unsure(source, facts, "log2 or ln (or a linear scale of few genes)", ("log2", "ln"))


def check(facts: Facts, scale: str, source: str) -> list[str]:
    """Warnings about a scale that the user or the format names.

    Raises:
        InputError: the values contradict it.
    """
    large = facts.genes >= _MANY_GENES
    if scale == "zscore":
        if facts.low >= 0:
            raise _wrong(source, facts, scale, "no value is negative, so these are no z-scores")
        if len(facts.sums) > 1 and facts.offset > facts.within:
            return [
                f"WARNING: the mean of a gene is not near 0 (typically {facts.offset:.2g}, where "
                f"samples differ by {facts.within:.2g}): z-scores over other samples than these, "
                "or no z-scores but logarithms"
            ]
        return []
    if facts.low < 0:
        raise _wrong(source, facts, scale, "the file has negative values", "--scale zscore")
    if scale in ("log2", "ln", "log10", *STORED):
        if facts.high > 2 * LARGEST_LOG or (facts.whole and facts.high > LARGEST_LOG):
            raise _wrong(
                source, facts, scale, "the values are too large to be logarithms",
                "--scale counts, --scale tpm or --scale fpkm",
            )  # fmt: skip
        for other, sums in (("log2", facts.exp2_sums), ("ln", facts.exp_sums)):
            if other != scale and scale in ("log2", "ln") and _near(sums, _TOTALS) and large:
                own = facts.exp2_sums if scale == "log2" else facts.exp_sums
                if not _near(own, _TOTALS):
                    raise _wrong(
                        source, facts, scale, f"undone as {other}(x + 1), every sample sums to "
                        f"{sums[0]:.0e}", f"--scale {other}"
                    )  # fmt: skip
        if facts.counts and facts.counts != scale:
            raise _wrong(
                source, facts, scale, f"undone as {facts.counts}(x + 1), the values are whole "
                "numbers", f"--scale {facts.counts}"
            )  # fmt: skip
        depths = facts.exp2_sums if scale == "log2" else facts.exp_sums
        if facts.counts and depths.max() > _DEPTHS * depths.min():
            return [
                f"WARNING: these are logarithms of counts, of {depths.min():.2g} to "
                f"{depths.max():.2g} reads a sample: scores follow the depth of sequencing. Better "
                "ingest the counts themselves (--scale counts)"
            ]
        return []
    if facts.high <= LARGEST_LOG and not facts.whole and large:
        raise _wrong(
            source, facts, scale, "no value is over 30: these are logarithms", "log2 or ln"
        )
    notes = []
    if scale == "counts":
        if _near(facts.sums, _TOTALS[:1]) and not facts.whole:
            raise _wrong(source, facts, scale, "every sample sums to a million", "--scale tpm")
        if not facts.whole:
            notes.append("WARNING: the counts are not whole numbers (expected counts?)")
    elif facts.whole and facts.high > LARGEST_LOG and not _near(facts.sums, _TOTALS[:1]):
        raise _wrong(source, facts, scale, "the values are whole numbers", "--scale counts")
    elif scale == "tpm" and (over := facts.sums > (1 + _NEAR) * _TOTALS[0]).any():
        raise _wrong(
            source, facts, scale, f"{int(over.sum())} of {len(over)} samples sum to more than a "
            f"million (up to {facts.sums.max():.4g})", "--scale fpkm or --scale counts"
        )  # fmt: skip
    elif scale == "tpm" and not _near(facts.sums, _TOTALS[:1]):
        notes.append(
            f"WARNING: the samples sum to {facts.sums.min():.4g} to {facts.sums.max():.4g}, not to "
            "a million as TPM of all genes do (are genes left out, or is this FPKM?)"
        )
    elif scale == "fpkm" and _near(facts.sums, _TOTALS[:1]) and large:
        notes.append("WARNING: every sample sums to a million, as TPM do")
    return notes


def to_stored(values: Matrix, scale: str) -> tuple[Matrix, str, list[str]]:
    """Values as they are stored, the name of the stored scale, and what was done to them."""
    if scale in ("zscore", *STORED):
        return values, scale, []
    if scale in ("log2", "ln", "log10"):
        factor = {"log2": 1.0, "ln": 1.0 / np.log(2), "log10": np.log2(10)}[scale]
        if scale == "log2":
            return values, "log2", []
        return values * np.float32(factor), "log2", [f"{scale}(x + 1) rescaled to log2(x + 1)"]
    out = np.empty_like(values)
    for start in range(0, len(values), _BLOCK):  # float64 scratch for one block at a time
        at = slice(start, start + _BLOCK)
        block = values[at].astype(np.float64)
        if scale == "counts":
            whole = np.nansum(block, axis=1, keepdims=True)
            whole[whole == 0] = 1.0
            block *= 1e4 / whole
        out[at] = np.log2(1 + block)
    if scale == "counts":
        return out, "log2-cp10k", ["counts stored as log2(1 + counts per 10,000)"]
    return out, f"log2-{scale}", [f"{scale} stored as log2(1 + {scale})"]


def _near(sums: Float, totals: Iterable[float]) -> bool:
    return any(bool((np.abs(sums / total - 1) < _NEAR).all()) for total in totals)


def _what(facts: Facts) -> str:
    kind = "whole numbers" if facts.whole else "values"
    sums = f", sums per sample {facts.sums.min():.4g} to {facts.sums.max():.4g}"
    return f"{kind} from {facts.low:.3g} to {facts.high:.4g}{sums}"


def _unsure(source: str, facts: Facts, readings: str, scales: Iterable[str]) -> InputError:
    return InputError(
        f"the scale of {source} is not certain: it may be {readings}",
        found=_what(facts),
        hint=" or ".join(f"--scale {scale}" for scale in scales),
    )


def _wrong(source: str, facts: Facts, scale: str, why: str, hint: str | None = None) -> InputError:
    return InputError(f"the scale of {source} is not {scale}: {why}", found=_what(facts), hint=hint)
