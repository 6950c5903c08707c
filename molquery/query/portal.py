"""What a cBioPortal study of predicted scores holds, gathered from a database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.errors import GeneSetError, some
from molquery.export.cbioportal import Study
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.outcomes import Survival
from molquery.query import calibrate
from molquery.query.answer import answer
from molquery.query.engine import Engine
from molquery.query.methods import DEFAULT_METHOD
from molquery.query.strata import COLUMNS, Strata
from molquery.records import Provenance, Signature
from molquery.reference import DEFAULT_SCORING
from molquery.vectors import Strings

#: Days of a month, as in cBioPortal's own studies.
_DAYS = {"days": 30.4375, "weeks": 30.4375 / 7, "months": 1.0, "years": 1 / 12}
#: What the portal wants its own outcomes to be called.
_STATUS = {"OS": ("0:LIVING", "1:DECEASED"), "DFS": ("0:DiseaseFree", "1:Recurred/Progressed")}
_SLIDE, _RNA = "H&E slide, scores predicted", "RNA, measured"


def study_of(
    engine: Engine,
    signatures: Sequence[Signature],
    *,
    study_id: str,
    cancer_type: str = "mixed",
    where: str | None = None,
    strata: Strata | None = None,
    method: str = DEFAULT_METHOD,
    scoring: str = DEFAULT_SCORING,
    null: int = calibrate.DEFAULT_NULL,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> tuple[Study, Provenance, tuple[str, ...]]:
    """A study of predicted scores, where it comes from, and what is to be known about it.

    Args:
        signatures: the gene sets; those with too few genes are left out and named in the notes.
        study_id: of the study in the portal; cancer_type: its OncoTree code, or `mixed`.
        where: SQL filter over the slides' metadata.
        strata: written as clinical attributes, of slides or of patients; the study then holds their
            rows alone, and the survival that they were tested against.
        null: number of random gene sets behind p.

    Raises:
        GeneSetError: no gene set has enough genes.
    """
    allowed = engine.slides_where(where)
    by_patient = strata is not None and "slide_id" not in strata.table.column_names
    if strata is not None:
        kept = strata.table["patient_id" if by_patient else "slide_id"].to_pylist()
        allowed &= np.isin(engine.patients if by_patient else engine.slide_ids, kept)
    rows = np.flatnonzero(allowed)
    kept, answers, skipped = [], [], {}
    for signature in signatures:
        try:
            one = answer(
                engine, signature, method=method, scoring=scoring, null=null, min_genes=min_genes,
                min_fraction=min_fraction,
            )  # fmt: skip
        except GeneSetError as error:
            skipped[signature.name] = error.found or error.what
            continue
        if not one.has_p:
            skipped[signature.name] = "no p can be given, and the portal wants one"
            continue
        kept.append(signature)
        answers.append(one)
    if not kept:
        raise GeneSetError(
            "no gene set can be scored in this database", found=some(skipped.items())
        )
    slides, patients = engine.slide_ids[rows], engine.patients[rows]
    owners = np.where(patients == "", slides, patients)
    profiles = np.flatnonzero(np.isin(engine.reference.patients, patients[patients != ""]))
    both = np.isin(engine.reference.ids[profiles], slides).any()
    rna = [f"{i}-RNA" if both else str(i) for i in engine.reference.ids[profiles]]
    at = np.unique(np.concatenate([one.match.positions for one in answers]))
    names, first = np.unique(owners, return_index=True)
    notes = [f"left out: {name} ({why})" for name, why in skipped.items()]
    lone = int((patients == "").sum())
    if lone:
        notes.append(f"{lone} slides have no patient: each is a patient of its own in the study")
    sample, patient = _attributes(strata, by_patient, slides, names)
    cohorts = engine.cohorts[rows]
    of_rna = [*engine.reference.cohorts[profiles]]
    study = Study(
        study_id=study_id,
        name=f"{engine.database.path.name}: predicted from H&E",
        description=f"Gene-set scores predicted from H&E by molquery, in space "
        f"{engine.space_id[:12]}. For research use only.",
        cancer_type=cancer_type,
        samples=_table(
            {
                "sample_id": [*slides.tolist(), *rna],
                "patient_id": [*owners.tolist(), *engine.reference.patients[profiles].tolist()],
                "sample_class": [_SLIDE] * len(slides) + [_RNA] * len(rna),
                "cohort": [c or None for c in (*cohorts, *of_rna)],
            },
            {name: [*v, *[None] * len(rna)] for name, v in sample.items()},
        ),
        patients=_table({"patient_id": names.tolist(), "patient_cohort": cohorts[first].tolist()},
                        patient),
        gene_sets=tuple(s.name for s in kept),
        scored=tuple(slides.tolist()),
        scores=np.stack([one.predicted[rows] for one in answers]),
        p_values=np.stack([one.p(rows) for one in answers]),
        gene_set_version="molquery",
        genes=tuple(engine.reference.genes[int(j)] for j in at),
        measured=tuple(rna),
        expression=engine.reference.expression[np.ix_(profiles, at)].T.astype(np.float64),
        z=engine.reference.z[np.ix_(profiles, at)].T.astype(np.float64),
    )  # fmt: skip
    provenance = strata.provenance if strata else engine.provenance(
        method,
        {
            "scoring": scoring, "where": where, "null": null,
            "gene_sets": {s.name: s.sha256 for s in kept},
            "genes_found": {
                s.name: len(a.match.positions) for s, a in zip(kept, answers, strict=True)
            },
            "skipped": skipped,
        },
    )  # fmt: skip
    notes.append(f"gene sets must be known to the portal: {some(study.gene_sets)}")
    return study, provenance, tuple(notes)


def _attributes(
    strata: Strata | None, by_patient: bool, slides: Strings, patients: Strings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The strata as attributes of samples or patients: values in the order of each."""
    if strata is None:
        return {}, {}
    key = "patient_id" if by_patient else "slide_id"
    place = {k: i for i, k in enumerate(strata.table[key].to_pylist())}
    order = [place[str(k)] for k in (patients if by_patient else slides)]
    left = [
        c for c in strata.table.column_names if c not in ("slide_id", "patient_id", "cohort")
    ]  # fmt: skip
    columns = {}
    for c in left:
        values = strata.table[c].to_pylist()
        columns[f"HE_{c}"] = [values[i] for i in order]
    if by_patient and strata.associations and strata.associations.survival:
        for name, values in _followed(strata.associations.survival).items():
            columns[name] = [values[i] for i in order]
    return ({}, columns) if by_patient else (columns, {})


def _followed(survival: Survival) -> dict[str, list[Any]]:
    """The pair of attributes that the portal draws survival curves of; none without a unit."""
    if survival.unit not in _DAYS:
        return {}
    word = re.split(r"[^A-Za-z0-9]", survival.name)[0].upper() or "OS"
    no, yes = _STATUS.get(word, ("0:CENSORED", "1:EVENT"))
    months = survival.time / _DAYS[survival.unit]
    return {
        f"{word}_STATUS": [
            (yes if e else no) if k else None
            for e, k in zip(survival.event.tolist(), survival.known.tolist(), strict=True)
        ],
        f"{word}_MONTHS": [
            float(m) if k else None for m, k in zip(months, survival.known, strict=True)
        ],
    }


def _table(fixed: dict[str, Any], more: dict[str, Any]) -> pa.Table:
    """A table whose columns carry what they mean."""
    table = pa.table({**fixed, **more})
    fields = []
    for field in table.schema:
        name = field.name.removeprefix("HE_")
        told = next((t for c, t in COLUMNS.items() if name == c or name.endswith(f"_{c}")), "")
        text = f"Predicted from H&E: {told}" if told and field.name != name else field.name
        fields.append(field.with_metadata({b"description": text.encode()}))
    return table.cast(pa.schema(fields))
