"""Matching the genes of a signature to the columns of an expression panel."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from molquery import genes
from molquery.errors import DuplicateIdError, GeneSetError, printable, some
from molquery.records import Coverage, Signature
from molquery.vectors import Float, Ints

# Fewer genes than this say more about themselves than about the set. Smaller signatures, such as
# one marker gene, need half of their genes.
MIN_GENES = 5
# Admits the sparsest Hallmark set in a panel of 1,300 genes (4.5 %), with a margin.
MIN_FRACTION = 0.025


@dataclass(frozen=True, slots=True)
class Match:
    """Where a signature's genes are in an expression panel.

    Attributes:
        positions: (m,) int64, distinct columns of the panel, in the order of the signature.
        weights: (m,) float64, the weight of each.
        coverage: every gene of the signature is in exactly one of its `found` and `missing`.
            `found` may be longer than m: two names of one gene are one column.
        lost: 'up' or 'down' when the signature has genes of that direction and none was found,
            so that the score answers another question than was asked; else ''.
    """

    positions: Ints
    weights: Float
    coverage: Coverage
    lost: str = ""


def match(
    signature: Signature,
    panel: Sequence[str] | Mapping[str, int],
    *,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
    uninformative: Collection[str] = (),
) -> Match:
    """The panel columns and weights of a signature's genes.

    A gene is looked up in the panel as it is written, then as the current symbol that
    `genes.resolve` gives. Two genes of the signature that are one column (an old and a new name)
    count once, with the weight of the first.

    Args:
        signature: the gene set.
        panel: gene symbols in column order, or symbol -> column. A mapping may leave columns out,
            such as genes that are constant over the reference (`scoring.usable`).
        min_genes: how many columns must match, at least; for a set of fewer than twice as many
            genes, half of its genes suffice.
        min_fraction: share of the signature's genes that must match, in [0, 1].
        uninformative: genes that were measured but left out of the panel, for the message.

    Raises:
        GeneSetError: too few genes match (the message lists what is missing), or two names of one
            gene have weights of opposite sign.
        DuplicateIdError: `panel` is a sequence that names a gene twice.
    """
    columns = panel if isinstance(panel, Mapping) else _columns(panel)
    # All genes are resolved together: whether a number is an Entrez id depends on the others.
    absent = any(gene not in columns for gene in signature.weights)
    resolved = genes.resolve(signature.genes) if absent else None
    symbols = resolved.symbols if resolved else signature.genes

    found: list[str] = []
    missing: list[str] = []
    constant: list[str] = []
    renamed: dict[str, str] = {}
    first: dict[int, tuple[str, float]] = {}
    for (gene, weight), symbol in zip(signature.weights.items(), symbols, strict=True):
        name = gene if gene in columns else symbol
        if name is None or name not in columns:
            missing.append(gene)
            if gene in uninformative or symbol in uninformative:
                constant.append(gene)
            continue
        found.append(gene)
        if name != gene:
            renamed[gene] = name
        earlier, sign = first.setdefault(columns[name], (gene, weight))
        if sign * weight < 0:
            raise GeneSetError(
                f"{printable(signature.name)} has one gene as both up and down",
                found=f"{printable(earlier)} and {printable(gene)} are both {name}",
                hint="delete one of the two names",
            )

    matched, total = len(first), len(first) + len(missing)
    enough = max(1, min(min_genes, math.ceil(total / 2)))
    sparse = total > 0 and matched / total < min_fraction
    if matched < enough or sparse:
        bar = f"{enough} are needed" if matched < enough else f"{min_fraction:.1%} are needed"
        ambiguous = resolved.ambiguous if resolved else {}
        raise GeneSetError(
            f"only {matched} of the {total} genes of {printable(signature.name)} are in the "
            f"expression panel of {len(columns):,} genes; at least {bar}",
            found=_absent([g for g in missing if g not in constant], constant, ambiguous),
            hint=_hint(matched, known=any(symbols) if resolved else True, sparse=sparse),
        )
    weights = np.array([weight for _, weight in first.values()], dtype=np.float64)
    return Match(
        positions=np.array(list(first), dtype=np.int64),
        weights=weights,
        coverage=Coverage(tuple(found), tuple(missing), renamed),
        lost=_lost(signature, weights),
    )


def _columns(panel: Sequence[str]) -> dict[str, int]:
    columns = {gene: column for column, gene in enumerate(panel)}
    if len(columns) < len(panel):
        twice = [gene for column, gene in enumerate(panel) if columns[gene] != column]
        raise DuplicateIdError("the expression panel names genes twice", found=some(twice))
    return columns


def _lost(signature: Signature, weights: Float) -> str:
    """The direction whose genes are all missing, or ''."""
    given = signature.weights.values()
    if any(weight > 0 for weight in given) and not (weights > 0).any():
        return "up"
    return "down" if any(weight < 0 for weight in given) and not (weights < 0).any() else ""


def _absent(
    missing: Sequence[str], constant: Sequence[str], ambiguous: Mapping[str, tuple[str, ...]]
) -> str:
    parts = []
    if missing:
        parts.append("not in the panel: " + some((_why(g, ambiguous) for g in missing), 15))
    if constant:
        parts.append("constant or mostly missing in the profiles: " + some(constant, 15))
    return "; ".join(parts)


def _why(gene: str, ambiguous: Mapping[str, tuple[str, ...]]) -> str:
    return f"{gene} (may be {' or '.join(ambiguous[gene][:3])})" if gene in ambiguous else gene


def _hint(matched: int, *, known: bool, sparse: bool) -> str:
    if not known and not matched:
        return "these are not human gene symbols, Ensembl ids or Entrez ids; check the gene set"
    if sparse or not matched:
        return "ingest profiles that measure more of these genes; --min-genes cannot mend this"
    return f"--min-genes {matched} lowers the bar"
