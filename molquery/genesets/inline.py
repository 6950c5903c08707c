"""Genes typed on the command line: `CXCL9,CXCL10,-KRT5`, with weights as `KRT5:1.5`."""

from __future__ import annotations

import math
import re

from molquery.errors import GeneSetError, printable, some
from molquery.records import Signature

# Minus signs and dashes that word processors and PDF files put in place of a hyphen.
_HYPHENS = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_HINT = "separate genes by commas: --genes CXCL9,CXCL10:1.5,-KRT5"


def parse_genes(text: str, *, down: str = "", name: str = "custom") -> Signature:
    """A signature from genes separated by commas or space.

    A gene has weight 1, or the number after its colon. A leading `-` makes a gene a down gene (its
    weight is negated); any other hyphen belongs to the symbol, as in HLA-A and NKX2-1.

    Args:
        text: the genes; may be empty when `down` is not.
        down: genes to count as down genes, without the leading `-`.
        name: the name of the signature.

    Raises:
        GeneSetError: no genes; the same gene twice, whatever its letter case; a sign given twice;
            a weight that is not a number, not finite or zero.

    Example:
        >>> dict(parse_genes("CXCL9, HLA-A:2, -KRT5").weights)
        {'CXCL9': 1.0, 'HLA-A': 2.0, 'KRT5': -1.0}
    """
    pairs = [_gene(token) for token in _tokens(text)]
    for token in _tokens(down):
        gene, weight = _gene(token)
        if weight < 0:
            raise GeneSetError(
                f"{printable(token)!r} is marked as down twice",
                hint="leave out the minus sign of genes that are listed as down genes",
            )
        pairs.append((gene, -weight))
    if not pairs:
        raise GeneSetError("no genes are given", hint=_HINT)

    weights: dict[str, float] = {}
    seen: dict[str, float] = {}
    repeated: dict[str, None] = {}
    contradictory: dict[str, None] = {}
    for gene, weight in pairs:
        key = gene.upper()
        if key in seen:
            (contradictory if seen[key] * weight < 0 else repeated)[gene] = None
        seen.setdefault(key, weight)
        weights.setdefault(gene, weight)
    if contradictory:
        raise GeneSetError(
            "genes are given as both up and down", found=some(contradictory, 15), hint=_HINT
        )
    if repeated:
        raise GeneSetError(
            "genes are given more than once", found=some(repeated, 15), hint="name each gene once"
        )
    return Signature(name, weights, "", "inline")


def _tokens(text: str) -> list[str]:
    """The items of a list; space around colons and after a leading minus sign is dropped."""
    text = re.sub(r"\s*:\s*", ":", text.translate(_HYPHENS))
    text = re.sub(r"(^|[,\s])-\s+", r"\1-", text)
    return [token for token in re.split(r"[,\s]+", text) if token]


def _gene(token: str) -> tuple[str, float]:
    """Gene and signed weight of one item: `GENE`, `-GENE`, `GENE:weight` or `-GENE:weight`."""
    minus = token.startswith("-")
    gene, colon, number = token.removeprefix("-").partition(":")
    try:
        weight = float(number) if colon else 1.0
    except ValueError:
        weight = math.nan
    if not gene or gene.startswith("-"):
        raise GeneSetError(f"{printable(token)!r} does not name a gene", hint=_HINT)
    if not math.isfinite(weight) or weight == 0:
        raise GeneSetError(
            f"the weight of {printable(gene)} is not a number other than zero",
            found=printable(number) or "nothing after the colon",
            hint=_HINT,
        )
    if minus and weight < 0:
        raise GeneSetError(
            f"{printable(token)!r} has two minus signs",
            hint=f"write -{printable(gene)}:{-weight:g} for a down gene",
        )
    return gene, -weight if minus else weight
