"""salmon `quant.sf`: one sample a file, transcripts summed to genes.

GENCODE's transcript names (`ENST…|ENSG…|…`) hold the gene; other transcripts need a table of
transcript and gene (`--tx2gene`). `quant.genes.sf` holds genes already.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from molquery.errors import ColumnError, FileFormatError, InputError, some
from molquery.readers import body, columns, orientation, samples
from molquery.readers.base import Input, Options, Profiles, Reader

WHAT = "a salmon quant.sf file"
COLUMNS = {"tpm": "TPM", "counts": "NumReads"}
GENCODE = re.compile(r"[^|]+\|(ENSG\d{11}[^|]*)\|")
VERSION = re.compile(r"\.\d+$")
TRANSCRIPTS = ("tx", "txname", "tx_id", "transcript", "transcript_id", "target_id", "name")


def sniff(_: Path, head: bytes) -> bool:
    """True for salmon's header."""
    return body.first_line(head).startswith("name\tlength\teffectivelength\ttpm")


def load(path: Path, options: Options) -> Profiles:
    """The sample, in the scale that is asked for, or in TPM.

    Raises:
        InputError: the scale is neither TPM nor counts; or the ids are transcripts, and no table
            says to which genes they belong.
        FileFormatError: the file is damaged.
    """
    scale = options.scale or "tpm"
    if scale not in COLUMNS:
        raise InputError(f"{WHAT} holds no {scale} values: {path}", hint="--scale tpm|counts")
    names = body.lines(path, WHAT, 1)[0]
    types = {"Name": pa.string(), COLUMNS[scale]: pa.float64()}
    table = body.columns(path, WHAT, 1, names, types)
    ids = [(v or "").strip() for v in table["Name"].to_pylist()]
    genes, notes = _genes(ids, path, options)
    values = columns.as_float32(table[COLUMNS[scale]]).astype(np.float64)
    unique = list(dict.fromkeys(gene for gene in genes if gene))
    at = {gene: i for i, gene in enumerate(unique)}
    known = np.array([bool(gene) for gene in genes])
    sums = np.zeros(len(unique))
    np.add.at(sums, [at[gene] for gene in genes if gene], values[known])
    if not known.all():
        lost = float(np.nansum(values[~known]) / max(float(np.nansum(values)), 1e-12))
        notes.append(
            f"WARNING: {int((~known).sum())} of {len(ids)} transcripts are not in the table of "
            f"transcripts and are left out, with {lost:.2%} of the expression"
        )
    name, facts, said = samples.sample_of(path, options)
    summed = pa.table({"gene": pa.array(unique, pa.string()), "value": sums})
    return body.one_sample(path, WHAT, (name, facts), summed, (*said, *notes), scale)


def _genes(ids: list[str], path: Path, options: Options) -> tuple[list[str], list[str]]:
    """The gene of each row, '' where it is not known, and notes."""
    if options.tx2gene is not None:
        table = _tx2gene(options.tx2gene, options.tx2gene.exists())
        genes = [table.get(i) or table.get(VERSION.sub("", i), "") for i in ids]
        if sum(map(bool, genes)) <= len(ids) / 2:
            raise ColumnError(
                f"{options.tx2gene} does not know most of the transcripts of {path}",
                found=f"in the file {some(ids, 3)}; in the table {some(table, 3)}",
            )
        return genes, [f"transcripts are summed to genes by {options.tx2gene.name}"]
    matches = [GENCODE.match(i) for i in ids]
    if all(matches):
        return [m[1] for m in matches if m], ["transcripts are summed to the genes in their names"]
    if options.gene_id is not None or orientation.known_share(ids) > orientation.MOST:
        return ids, []
    raise FileFormatError(
        f"the ids of {path}, a salmon quant.sf file, are no genes",
        found=f"transcripts such as {some(ids, 3)}",
        hint="--tx2gene FILE: a table of transcript ids and gene ids",
    )


@lru_cache(maxsize=2)
def _tx2gene(path: Path, _: bool) -> dict[str, str]:
    """Transcript -> gene, of a table of two columns; transcripts also without their version."""
    top = body.lines(path, "a table of transcripts and genes", 1) if path.is_file() else []
    if not top:
        raise InputError(f"there is no table of transcripts at {path}")
    mark = "\t" if len(top[0]) > 1 else ","
    found: dict[str, str] = {}
    for number, row in enumerate(body.lines(path, "a table of transcripts and genes", 10_000_000)):
        fields = [f.strip().strip('"') for f in (row if mark == "\t" else row[0].split(","))]
        if len(fields) < 2 or (number == 0 and columns.normal(fields[0]) in TRANSCRIPTS):
            continue
        found[fields[0]] = fields[1]
        found.setdefault(VERSION.sub("", fields[0]), fields[1])
    return found


READER = Reader(
    "salmon quant.sf",
    sniff,
    load,
    (
        Input(
            "salmon",
            "`<sample>/quant.sf`",
            "quants/ --tx2gene tx2gene.tsv",
            "profiles",
            "GENCODE's transcript names hold the gene and need no table. TPM is read; "
            "`--scale counts` reads the counts.",
        ),
    ),
)
