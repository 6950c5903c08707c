"""A cBioPortal study: clinical files, gene-set scores and p-values, case lists.

A directory that cBioPortal's `metaImport.py` takes, by the rules of its validator and of
https://docs.cbioportal.org/file-formats. Slides are samples of their patients. Gene-set scores are
written as GSVA-like scores, which the portal wants between -1 and 1: all of them are divided by one
number, which the profile's description tells. The portal admits such scores only beside the
expression that they stem from, so the measured RNA of the sets' genes is written too, as samples of
its own. Gene sets must be known to the portal: `gene_sets.txt` lists those used.

Ids may hold letters, digits, points, hyphens and underscores. Any other byte of an id is written as
`_xHH`, its value in hexadecimal, and the underscore of such a text in the id itself as `_x5F`, so
that `unescape` gives the id back; a sample id of more than 63 characters is cut, and ends in a
hash. Names of gene sets are in upper case, as the portal wants them. `molquery_ids.tsv` lists every
id that was changed.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.errors import ColumnError, InputError, some
from molquery.export.document import to_json
from molquery.files import atomic_directory
from molquery.vectors import Float

PROVENANCE = "molquery_provenance.json"
IDS = "molquery_ids.tsv"
MAX_SAMPLE_ID = 63
_ALLOWED = re.compile(r"[A-Za-z0-9._-]")
_ESCAPED = re.compile(r"_x([0-9A-F]{2})")
#: An id of two parts with a month among them is taken for a date that a spreadsheet made.
_MONTHS = frozenset(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov",
                     "dec"])  # fmt: skip
#: Ids that mean "no value" to the portal.
_NULL = frozenset({
    "", "na", "n/a", "nan", "null", "[not applicable]", "[not available]", "[pending]",
    "[discrepancy]", "[completed]", "[null]",
})  # fmt: skip
#: Attributes that the portal computes, or gives a meaning of its own.
_TAKEN = frozenset({
    "PATIENT_ID", "SAMPLE_ID", "MUTATION_COUNT", "FRACTION_GENOME_ALTERED", "OTHER_SAMPLE_ID",
})  # fmt: skip
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Study:
    """What a study directory is made of.

    Attributes:
        study_id: lower-case letters, digits and underscores.
        name, description: for people.
        cancer_type: an OncoTree code that the portal knows, or `mixed`.
        samples: `sample_id`, `patient_id`, and attributes of the samples.
        patients: `patient_id`, and attributes of the patients.
        gene_sets: names of the S sets.
        scored: ids of the m samples with scores, in the order of the columns of
        scores: (S, m) predicted scores; p_values: (S, m), above 0 and at most 1.
        gene_set_version: what the portal calls the version of its gene sets.
        genes: symbols of the G genes; measured: ids of the k samples with RNA.
        expression: (G, k) log2 values; z: (G, k) z-scores of them; NaN where not measured.
    """

    study_id: str
    name: str
    description: str
    cancer_type: str
    samples: pa.Table
    patients: pa.Table
    gene_sets: tuple[str, ...]
    scored: tuple[str, ...]
    scores: Float
    p_values: Float
    gene_set_version: str
    genes: tuple[str, ...]
    measured: tuple[str, ...]
    expression: Float
    z: Float


def escape(identifier: str) -> str:
    """An id of letters, digits, points, hyphens and underscores that stands for `identifier`.

    Example:
        >>> escape("P 1/a"), unescape(escape("P 1/a"))
        ('P_x201_x2Fa', 'P 1/a')
    """
    out = []
    for i, c in enumerate(identifier):
        if c == "_" and _ESCAPED.match(identifier, i):
            out.append("_x5F")
        elif _ALLOWED.match(c):
            out.append(c)
        else:
            out.append("".join(f"_x{byte:02X}" for byte in c.encode()))
    text = "".join(out)
    parts = text.split("-")
    if len(parts) == 2 and "." not in text and any(p.lower() in _MONTHS for p in parts):
        text = text.replace("-", "_x2D")
    if text.lower() in _NULL and text:
        text = f"_x{ord(text[0]):02X}{text[1:]}"
    return text


def unescape(text: str) -> str:
    """The id that `escape` was given."""
    raw = re.sub(rb"_x([0-9A-F]{2})", lambda found: bytes([int(found.group(1), 16)]), text.encode())
    return raw.decode()


def sample_id(identifier: str) -> str:
    """`escape`, cut to the 63 characters of a sample id; what is cut ends in a hash."""
    text = escape(identifier)
    if len(text) <= MAX_SAMPLE_ID:
        return text
    return f"{text[: MAX_SAMPLE_ID - 9]}-{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"


def attribute(name: str) -> str:
    """The name of a clinical attribute for a column.

    Example:
        >>> attribute("T-cell score")
        'T_CELL_SCORE'
    """
    text = re.sub(r"[^A-Z0-9_]", "_", name.upper())
    return text if re.match(r"[A-Z]", text) and text not in _TAKEN else f"M_{text}"


def write(
    study: Study, provenance: Mapping[str, Any], target: Path, *, overwrite: bool = False
) -> list[tuple[str, str, str]]:
    """Write the study to a directory, whole or not at all.

    Returns:
        (what, id, id in the study) of every id that had to be changed.

    Raises:
        OutputError: `target` exists and may not be replaced, or it cannot be written.
        InputError: the study's id is not allowed, or two ids would become one.
        ColumnError: two columns would become one attribute.
    """
    if not re.fullmatch(r"[a-z0-9_]+", study.study_id):
        raise InputError(
            f"{study.study_id!r} cannot be the id of a study",
            hint="lower-case letters, digits and underscores: --study-id brca_predicted",
        )
    sample = _renamed(study.samples["sample_id"].to_pylist(), sample_id, "sample")
    patient = _renamed(study.patients["patient_id"].to_pylist(), escape, "patient")
    sets = _renamed(study.gene_sets, lambda name: escape(name).upper(), "gene set")
    changed = [
        (noun, old, new)
        for noun, names in (("sample", sample), ("patient", patient), ("gene set", sets))
        for old, new in names.items()
        if old != new
    ]
    head = {"cancer_study_identifier": study.study_id}
    with atomic_directory(target, mark=PROVENANCE, overwrite=overwrite) as folder:
        _meta(folder / "meta_study.txt", {
            "type_of_cancer": study.cancer_type, **head, "name": study.name,
            "description": study.description, "add_global_case_list": "false",
        })  # fmt: skip
        for level, table in (("sample", study.samples), ("patient", study.patients)):
            _meta(folder / f"meta_clinical_{level}.txt", {
                **head, "genetic_alteration_type": "CLINICAL",
                "datatype": f"{level.upper()}_ATTRIBUTES",
                "data_filename": f"data_clinical_{level}.txt",
            })  # fmt: skip
            lines = _clinical(table, sample, patient)
            _lines(folder / f"data_clinical_{level}.txt", lines)
        _gene_sets(folder, study, head, sample, sets)
        _expression(folder, study, head, sample)
        _case_lists(folder, study, sample)
        _quoted(folder / IDS, [("what", "id", "id in the study"), *changed])
        (folder / PROVENANCE).write_text(
            to_json(
                {
                    **provenance,
                    "ids_changed": len(changed),
                    "scores_divided_by": _divisor(study.scores),
                }
            ),
            encoding="utf-8",
        )
    return changed


def _renamed(ids: Iterable[str], rename: Any, noun: str) -> dict[str, str]:
    """Every id and what it becomes; no two may become one."""
    names = {identifier: rename(identifier) for identifier in ids}
    if "" in names:
        raise InputError(f"a {noun} has no id")
    owner: dict[str, str] = {}
    for old, new in names.items():
        # the portal's database does not tell letter cases apart
        other = owner.setdefault(new.upper(), old)
        if other != old:
            raise InputError(
                f"two {noun}s would have one id in cBioPortal", found=f"{other} and {old}: {new}"
            )
    return names


def _meta(path: Path, values: Mapping[str, str]) -> None:
    lines = [f"{key}: {' '.join(value.split())}\n" for key, value in values.items()]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _lines(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines("\t".join(row) + "\n" for row in rows)


def _quoted(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Rows with ids as they are: one with a tab or a line break in it is quoted."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(rows)


def _clinical(
    table: pa.Table, sample: Mapping[str, str], patient: Mapping[str, str]
) -> Iterable[list[str]]:
    """The four lines of definitions, the names, and the rows."""
    renames = {"sample_id": ("SAMPLE_ID", sample), "patient_id": ("PATIENT_ID", patient)}
    columns: list[tuple[str, str, str, str, list[str]]] = []
    for field in table.schema:
        values = table[field.name].to_pylist()
        shown = re.sub(r"^HE_", "H&E ", field.name).replace("_", " ")
        told = (field.metadata or {}).get(b"description", shown.encode()).decode()
        name, kind = attribute(field.name), "STRING"
        if field.name in renames:
            name, ids = renames[field.name]
            texts = [ids[v] for v in values]
        elif pa.types.is_boolean(field.type):
            kind, texts = "BOOLEAN", ["NA" if v is None else str(v).upper() for v in values]
        elif pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
            kind, texts = "NUMBER", [_number(v) for v in values]
        else:
            texts = [_text(v) for v in values]
        columns.append((name, shown, told, kind, texts))
    names = [name for name, *_ in columns]
    if len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ColumnError("two columns would be one clinical attribute", found=some(twice))
    yield _hashed([_text(shown) for _, shown, _, _, _ in columns])
    yield _hashed([_text(told) for _, _, told, _, _ in columns])
    yield _hashed([kind for _, _, _, kind, _ in columns])
    yield _hashed(["1"] * len(columns))
    yield names
    yield from (list(row) for row in zip(*(texts for *_, texts in columns), strict=True))


def _hashed(cells: list[str]) -> list[str]:
    return [f"#{cells[0]}", *cells[1:]]


def _number(value: float | None) -> str:
    return "NA" if value is None or not math.isfinite(value) else f"{value:.{_DIGITS}g}"


def _text(value: Any) -> str:
    """One line of text; a value that the portal would take for a date gets a space in it."""
    text = " ".join(str(value).split()) if value is not None else ""
    parts = text.split("-")
    if len(parts) == 2 and not any(c in text for c in ",.:;") and any(
        p.lower() in _MONTHS for p in parts
    ):  # fmt: skip
        text = " - ".join(parts)
    return text or "NA"


def _gene_sets(
    folder: Path,
    study: Study,
    head: Mapping[str, str],
    sample: Mapping[str, str],
    sets: Mapping[str, str],
) -> None:
    """Scores and p-values, alike in rows and columns."""
    divisor = _divisor(study.scores)
    scale = f", divided by {divisor:g}" if divisor != 1 else ""
    _meta(folder / "meta_gsva_scores.txt", {
        **head, "genetic_alteration_type": "GENESET_SCORE", "datatype": "GSVA-SCORE",
        "stable_id": "gsva_scores", "source_stable_id": "rna_seq_mrna",
        "profile_name": "Gene-set scores predicted from H&E",
        "profile_description": f"Predicted from H&E slides{scale}. {study.description}",
        "data_filename": "data_gsva_scores.txt", "show_profile_in_analysis_tab": "true",
        "geneset_def_version": study.gene_set_version,
    })  # fmt: skip
    _meta(folder / "meta_gsva_pvalues.txt", {
        **head, "genetic_alteration_type": "GENESET_SCORE", "datatype": "P-VALUE",
        "stable_id": "gsva_pvalues", "source_stable_id": "gsva_scores",
        "profile_name": "p of gene-set scores predicted from H&E",
        "profile_description": "Share of random gene sets of like size and expression that score "
        "as high in the same slide.",
        "data_filename": "data_gsva_pvalues.txt", "geneset_def_version": study.gene_set_version,
    })  # fmt: skip
    columns = ["geneset_id", *(sample[s] for s in study.scored)]
    for name, matrix in (("scores", study.scores / divisor), ("pvalues", study.p_values)):
        rows = (
            [sets[s], *map(_number, row)]
            for s, row in zip(study.gene_sets, matrix.tolist(), strict=True)
        )
        _lines(folder / f"data_gsva_{name}.txt", [columns, *rows])
    _quoted(folder / "gene_sets.txt", [[sets[s], s] for s in study.gene_sets])


def _divisor(scores: Float) -> float:
    """What brings all scores between -1 and 1: 1, or the least round number that does."""
    top = float(np.abs(scores).max(initial=0.0))
    if top <= 1:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(top)) - 1)
    return math.ceil(top / unit * (1 + 1e-9)) * unit


def _expression(
    folder: Path, study: Study, head: Mapping[str, str], sample: Mapping[str, str]
) -> None:
    """The measured RNA that the scores stem from, and its z-scores."""
    for kind, stable, name, matrix in (
        ("CONTINUOUS", "rna_seq_mrna", "expression", study.expression),
        ("Z-SCORE", "rna_seq_mrna_median_Zscores", "expression_zscores", study.z),
    ):
        source = {"source_stable_id": "rna_seq_mrna"} if kind == "Z-SCORE" else {}
        _meta(folder / f"meta_{name}.txt", {
            **head, "genetic_alteration_type": "MRNA_EXPRESSION", "datatype": kind,
            "stable_id": stable, **source,
            "show_profile_in_analysis_tab": "true" if kind == "Z-SCORE" else "false",
            "profile_name": "Measured RNA, " + ("z-scores" if source else "log2"),
            "profile_description": "RNA of the reference profiles, genes of the scored sets only"
            + (", z-scores over the reference profiles" if source else ""),
            "data_filename": f"data_{name}.txt",
        })  # fmt: skip
        columns = ["Hugo_Symbol", *(sample[s] for s in study.measured)]
        rows = (
            [gene, *map(_number, row)]
            for gene, row in zip(study.genes, matrix.tolist(), strict=True)
        )
        _lines(folder / f"data_{name}.txt", [columns, *rows])


def _case_lists(folder: Path, study: Study, sample: Mapping[str, str]) -> None:
    lists = (
        ("all", "all_cases_in_study", "All samples", study.samples["sample_id"].to_pylist()),
        ("gsva", "all_cases_with_gsva_data", "Slides with predicted scores", study.scored),
        ("rna_seq_mrna", "all_cases_with_mrna_rnaseq_data", "Samples with RNA", study.measured),
    )
    (folder / "case_lists").mkdir()
    for suffix, category, name, ids in lists:
        if not len(ids):
            continue
        # not _meta: the ids are parted by tabs
        values = {
            "cancer_study_identifier": study.study_id, "stable_id": f"{study.study_id}_{suffix}",
            "case_list_name": name, "case_list_description": f"{name} ({len(ids)})",
            "case_list_category": category, "case_list_ids": "\t".join(sample[s] for s in ids),
        }  # fmt: skip
        (folder / "case_lists" / f"cases_{suffix}.txt").write_text(
            "".join(f"{key}: {value}\n" for key, value in values.items()), encoding="utf-8"
        )
