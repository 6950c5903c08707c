"""Files of expression profiles, made to the letter of each format, for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from molquery.genes import _table

N, G = 12, 1200
IDS = tuple(f"TCGA-{i % 3:02d}-{1000 + i}-01" for i in range(N))


def _genes() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Symbols, Ensembl ids and Entrez ids of the same genes, one id each."""
    of: dict[str, dict[str, str]] = {"ensembl": {}, "entrez": {}}
    for row in _table()[1:]:
        kind, key, symbol = row.decode().split("\t")
        if kind in of and "|" not in symbol:
            of[kind].setdefault(symbol, key)
    symbols = [s for s in sorted(of["ensembl"]) if s in of["entrez"]]
    chosen = [*symbols[:: len(symbols) // G][: G - 3], "HLA-A", "NKX2-1", "CCN2"]
    return (
        tuple(chosen),
        tuple(of["ensembl"][s] for s in chosen),
        tuple(of["entrez"][s] for s in chosen),
    )


SYMBOLS, ENSEMBL, ENTREZ = _genes()
_RNG = np.random.default_rng(3)
COUNTS = _RNG.negative_binomial(0.6, 0.0005, size=(N, G)).astype(np.float64)
TPM = COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e6
LOG2 = np.log2(TPM + 1)


def matrix(path: Path, values: np.ndarray, genes: tuple[str, ...], corner: str = "sample") -> Path:
    """Genes in rows, as Xena writes them."""
    lines = ["\t".join([corner, *IDS])]
    lines += ["\t".join([g, *(f"{v:.6g}" for v in values[:, j])]) for j, g in enumerate(genes)]
    path.write_text("\n".join(lines) + "\n")
    return path


def cbioportal(path: Path, values: np.ndarray) -> Path:
    lines = ["\t".join(["Hugo_Symbol", "Entrez_Gene_Id", *IDS])]
    for j, (symbol, entrez) in enumerate(zip(SYMBOLS, ENTREZ, strict=True)):
        shown = "" if j % 100 == 0 else symbol  # a few rows without a symbol, as there are
        lines.append("\t".join([shown, entrez, *(f"{v:.6g}" for v in values[:, j])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def gct(path: Path, values: np.ndarray, *, newer: bool = False) -> Path:
    if newer:
        lines = ["#1.3", f"{G}\t{N}\t1\t2", "\t".join(["id", "pr_gene_symbol", *IDS])]
        lines += ["\t".join(["dose", "na", *("-666" if i else "3" for i in range(N))])]
        lines += ["\t".join(["cohort", "na", *("A" if i % 2 else "B" for i in range(N))])]
    else:
        lines = ["#1.2", f"{G}\t{N}", "\t".join(["Name", "Description", *IDS])]
    for j, (ensembl, symbol) in enumerate(zip(ENSEMBL, SYMBOLS, strict=True)):
        lines.append("\t".join([f"{ensembl}.4", symbol, *(f"{v:.6g}" for v in values[:, j])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def star(folder: Path, sheet: bool = True) -> Path:
    """A GDC download: a folder a file, the reads without a gene first, a `_PAR_Y` copy last."""
    kinds = ("unstranded", "stranded_first", "stranded_second")
    more = ("tpm_unstranded", "fpkm_unstranded", "fpkm_uq_unstranded")
    header = ["gene_id", "gene_name", "gene_type", *kinds, *more]
    rows = ["File ID\tFile Name\tProject ID\tCase ID\tSample ID\tSample Type"]
    for i in range(N):
        inner = folder / f"uuid-{i}"
        inner.mkdir(parents=True)
        name = f"{i:08d}-ab.rna_seq.augmented_star_gene_counts.tsv"
        lines = ["# gene-model: GENCODE v36", "\t".join(header)]
        lines += [
            f"N_{what}\t\t\t{i + 5}\t{i + 6}\t{i + 7}\t\t\t"
            for what in ("unmapped", "multimapping", "noFeature", "ambiguous")
        ]
        for j, (ensembl, symbol) in enumerate(zip(ENSEMBL, SYMBOLS, strict=True)):
            c, t = int(COUNTS[i, j]), TPM[i, j]
            lines.append(
                f"{ensembl}.7\t{symbol}\tprotein_coding\t{c}\t{c}\t{c}\t{t:.4f}\t{t / 2:.4f}\t1"
            )
        lines.append("ENSG00000182378.15_PAR_Y\tPLCXD1\tprotein_coding\t0\t0\t0\t0\t0\t0")
        (inner / name).write_text("\n".join(lines) + "\n")
        rows.append(f"uuid-{i}\t{name}\tTCGA-X\t{IDS[i][:12]}\t{IDS[i]}A\tPrimary Tumor")
    if sheet:
        (folder / "gdc_sample_sheet.2024-01-01.tsv").write_text("\n".join(rows) + "\n")
    return folder


def rsem(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i, sample in enumerate(IDS):
        lines = ["gene_id\ttranscript_id(s)\tlength\teffective_length\texpected_count\tTPM\tFPKM"]
        lines += [
            f"{e}.1_{s}\tENST1,ENST2\t9\t9\t{COUNTS[i, j]:.2f}\t{TPM[i, j]:.4f}\t1.00"
            for j, (e, s) in enumerate(zip(ENSEMBL, SYMBOLS, strict=True))
        ]
        (folder / f"{sample}.genes.results").write_text("\n".join(lines) + "\n")
    return folder


def salmon(folder: Path, tx2gene: Path, *, gencode: bool = False) -> Path:
    """Two transcripts a gene, of a third and two thirds of its expression."""
    names = [(f"ENST{j:011d}.1", f"ENST{j + 500_000:011d}.2") for j in range(G)]
    lines = ["TXNAME,GENEID"]
    lines += [f"{t},{e}.3" for pair, e in zip(names, ENSEMBL, strict=True) for t in pair]
    tx2gene.write_text("\n".join(lines) + "\n")
    for i, sample in enumerate(IDS):
        inner = folder / sample
        inner.mkdir(parents=True)
        rows = ["Name\tLength\tEffectiveLength\tTPM\tNumReads"]
        for j, pair in enumerate(names):
            for share, t in zip((1 / 3, 2 / 3), pair, strict=True):
                name = f"{t}|{ENSEMBL[j]}.3|-|-|x|{SYMBOLS[j]}|9|" if gencode else t
                rows.append(f"{name}\t9\t8.0\t{TPM[i, j] * share:.6f}\t{COUNTS[i, j] * share:.3f}")
        (inner / "quant.sf").write_text("\n".join(rows) + "\n")
    return folder
