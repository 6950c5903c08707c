"""GDC STAR counts: one sample a file, with counts, TPM and FPKM side by side.

The four `N_*` rows count reads, not genes, and are dropped. The sample is named by a sample sheet
or by the file's name (`samples.py`).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from molquery.errors import FileFormatError, InputError
from molquery.readers import body, samples
from molquery.readers.base import Input, Options, Profiles, Reader

WHAT = "a GDC STAR counts file"
HEADER = "gene_id\tgene_name\tgene_type\tunstranded"
COLUMNS = {"counts": "unstranded", "tpm": "tpm_unstranded", "fpkm": "fpkm_unstranded"}
DEFAULT = "tpm"


def sniff(_: Path, head: bytes) -> bool:
    """True for the gene-model comment, or the header that follows it."""
    return body.first_line(head).startswith(("# gene-model:", HEADER))


def load(path: Path, options: Options) -> Profiles:
    """The sample, in the scale that is asked for, or in TPM.

    Raises:
        InputError: the file has no column of the scale that is asked for.
        FileFormatError: the file is damaged.
    """
    scale = options.scale or DEFAULT
    if scale not in COLUMNS:
        raise InputError(
            f"{WHAT} holds no {scale} values: {path}", hint=f"--scale {'|'.join(COLUMNS)}"
        )
    top = body.lines(path, WHAT, 2)
    skip = 1 + (len(top[0]) == 1)
    if len(top) < skip or "\t".join(top[skip - 1][:4]) != HEADER:
        raise FileFormatError(f"{path} looks like {WHAT} but has no header line of one")
    key = "gene_name" if options.gene_id == "symbol" else "gene_id"
    types = {"gene_id": pa.string(), key: pa.string(), COLUMNS[scale]: pa.float64()}
    table = body.columns(path, WHAT, skip, top[skip - 1], types)
    table = table.filter(pc.invert(pc.starts_with(table["gene_id"], "N_")))
    name, facts, notes = samples.sample_of(path, options)
    if options.scale is None:
        notes = (*notes, "read the TPM column; --scale counts or fpkm reads another")
    table = table.select([key, COLUMNS[scale]])
    return body.one_sample(path, WHAT, (name, facts), table, notes, scale)


READER = Reader(
    "GDC STAR counts",
    sniff,
    load,
    (
        Input(
            "GDC (STAR counts)",
            "a download of `gdc-client`: `<uuid>/<file>.rna_seq.augmented_star_gene_counts.tsv`",
            "gdc/",
            "profiles",
            "Put `gdc_sample_sheet.tsv` in the folder (or `--samples FILE`): it names samples, "
            "patients and projects. Without one, samples are called like their files, and the "
            "report says so. TPM is read; `--scale counts` or `--scale fpkm` reads another "
            "column. `N_*` rows are dropped.",
        ),
    ),
)
