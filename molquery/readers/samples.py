"""Which sample a file of one sample belongs to: from a sample sheet, or from the file's name.

A sample sheet is a table with a column of file names and one of sample ids, such as the
`gdc_sample_sheet.tsv` that the GDC portal offers beside the files. It is looked for beside the
file and in the two folders above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from molquery.errors import ColumnError, some
from molquery.readers import columns
from molquery.readers.base import Options

SHEET = "gdc_sample_sheet*.tsv"
FILES = ("file_name", "file", "filename", "path", "file_id")
SAMPLES = ("sample_id", "sample", "sample_barcode", "sample_submitter_id", "profile_id", "barcode")
#: Sheet columns kept as metadata, and what they are called in the database.
FACTS = {
    "case_id": "patient_id",
    "patient_id": "patient_id",
    "project_id": "cohort",
    "cohort": "cohort",
    "sample_type": "sample_type",
    "tissue_type": "tissue_type",
}
#: File names that say nothing, so that the folder's name is the sample's.
PLAIN = ("quant.sf", "quant.genes.sf")
ENDINGS = (
    ".gz", ".tsv", ".txt", ".rna_seq.augmented_star_gene_counts", ".star_gene_counts",
    ".genes.results", ".genes.sf", ".quant.sf", ".sf",
)  # fmt: skip


def sample_of(path: Path, options: Options) -> tuple[str, Mapping[str, str], tuple[str, ...]]:
    """Sample id of a file, facts about it from the sheet, and notes for the report.

    Raises:
        ColumnError: the sample sheet lacks a column, or does not name the file.
    """
    sheet = options.samples or _nearby(path)
    if sheet is None:
        name = _from_name(path)
        return name, {}, ("sample ids are from the names of files or folders: no sample sheet",)
    rows = _sheet(sheet, sheet.stat().st_mtime_ns if sheet.exists() else 0)
    for key in (path.name, path.name.removesuffix(".gz"), path.parent.name, _from_name(path)):
        if key in rows:
            name, facts = rows[key]
            return name, facts, (f"sample ids are from {sheet.name}",)
    raise ColumnError(
        f"the sample sheet {sheet} does not name {path.name}",
        found=some(rows, 3),
        hint="--samples FILE names another sheet",
    )


def _nearby(path: Path) -> Path | None:
    for folder in list(path.absolute().parents)[:3]:
        if found := sorted(folder.glob(SHEET)):
            return found[0]
    return None


@lru_cache(maxsize=4)
def _sheet(path: Path, _: int) -> dict[str, tuple[str, dict[str, str]]]:
    from molquery.readers.tables import read_table

    table = read_table(path)
    names = table.column_names
    file_at, sample_at = columns.first_of(names, FILES), columns.first_of(names, SAMPLES)
    if file_at is None or sample_at is None:
        raise ColumnError(
            f"{path} is no sample sheet: it needs a column of file names and one of sample ids",
            found=some(names, 12),
            hint="File Name and Sample ID, as in gdc_sample_sheet.tsv",
        )
    rows: dict[str, tuple[str, dict[str, str]]] = {}
    kept = {i: FACTS[k] for i, n in enumerate(names) if (k := columns.normal(n)) in FACTS}
    for row in zip(*(c.to_pylist() for c in table.columns), strict=True):
        key, sample = Path(str(row[file_at] or "")).name, _single(row[sample_at])
        facts = {called: _single(row[i]) for i, called in kept.items() if row[i] is not None}
        if key in rows and rows[key][0] != sample:
            raise ColumnError(
                f"{path} names two samples for {key}", found=f"{rows[key][0]} and {sample}"
            )
        rows[key] = (sample, facts)
    return rows


def _single(value: object) -> str:
    """`A, A` is A: the GDC repeats the id of a sample for each of its portions."""
    parts = list(dict.fromkeys(part.strip() for part in str(value or "").split(",")))
    return ", ".join(parts)


def _from_name(path: Path) -> str:
    if path.name.removesuffix(".gz") in PLAIN:
        return path.absolute().parent.name
    name = path.name
    for ending in ENDINGS:
        if name.endswith(ending) and name != ending:
            name = name.removesuffix(ending)
    return name
