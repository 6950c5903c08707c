"""RSEM `*.genes.results`: one sample a file; gene ids may be `ENSG…_SYMBOL`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from molquery.errors import InputError
from molquery.readers import body, samples
from molquery.readers.base import Input, Options, Profiles, Reader

WHAT = "an RSEM genes.results file"
COLUMNS = {"tpm": "TPM", "counts": "expected_count", "fpkm": "FPKM"}


def sniff(_: Path, head: bytes) -> bool:
    """True for RSEM's header of gene results."""
    return body.first_line(head).startswith("gene_id\ttranscript_id(s)\tlength")


def load(path: Path, options: Options) -> Profiles:
    """The sample, in the scale that is asked for, or in TPM.

    Raises:
        InputError: the file has no column of the scale that is asked for.
        FileFormatError: the file is damaged.
    """
    scale = options.scale or "tpm"
    if scale not in COLUMNS:
        raise InputError(
            f"{WHAT} holds no {scale} values: {path}", hint=f"--scale {'|'.join(COLUMNS)}"
        )
    names = body.lines(path, WHAT, 1)[0]
    types = {"gene_id": pa.string(), COLUMNS[scale]: pa.float64()}
    table = body.columns(path, WHAT, 1, names, types)
    name, facts, notes = samples.sample_of(path, options)
    return body.one_sample(path, WHAT, (name, facts), table, notes, scale)


READER = Reader(
    "RSEM genes.results",
    sniff,
    load,
    (
        Input(
            "RSEM", "`<sample>.genes.results`", "rsem/", "profiles",
            "Ids may be `ENSG…_SYMBOL`. TPM is read; `--scale counts` or `--scale fpkm` reads "
            "another column.",
        ),
    ),
)  # fmt: skip
