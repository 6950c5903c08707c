"""What is behind one slide's score: reference profiles, genes and slide features.

The score is linear in the measured scores s of the reference, and these in the genes, so it is a
sum in two ways (`molquery.predict` has the formula):

    y = a sum_j w_j s_j  +  (1 - a) (level + sum_f x_f b_f)       by neighbour j and feature f
    y = sum_g y_g                                                 by gene g

where y_g is the prediction of the part that gene g has in the score of every reference profile.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery import predict
from molquery.encoders import FEATURES_KIND
from molquery.errors import InputError, some
from molquery.genesets.match import MIN_FRACTION, MIN_GENES
from molquery.query.answer import answer, in_words, signature_notes
from molquery.query.engine import Engine
from molquery.records import Coverage, Predictability, Provenance, Signature
from molquery.schema import SLIDES
from molquery.space import need_space
from molquery.vectors import Float, Ints


@dataclass(frozen=True)
class Explanation:
    """The score of one slide, taken apart. Everything is H&E-predicted.

    Attributes:
        score: the predicted score; low, high: its prediction interval, None where there is none.
        percentile, cohort_percentile: of the score in the archive and in the slide's cohort.
        basis, domain: as in a ranking (`molquery.query.search.COLUMNS`).
        neighbour_part, feature_part, level: the three sum to the score. `level` is the share of
            the ridge in what an average training slide gets.
        neighbours: one row per reference profile with weight (none in an unseen cohort), largest
            contribution first: profile_id, patient_id, cohort, weight, measured, contribution.
        genes: one row per gene of the signature: gene, weight, neighbours_z (mean z in the
            neighbours, weighted), contribution. The contributions sum to the score.
        features: one row per slide feature: feature, value (as ingested), z (as the ridge sees
            it, less the training mean), contribution.
    """

    slide_id: str
    patient_id: str
    cohort: str
    signature: Signature
    score: float
    low: float | None
    high: float | None
    percentile: float
    cohort_percentile: float | None
    basis: str
    domain: str
    soft_share: float
    neighbour_part: float
    feature_part: float
    level: float
    neighbours: pa.Table
    genes: pa.Table
    features: pa.Table
    coverage: Coverage
    predictability: Predictability
    provenance: Provenance
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        tables = ("neighbours", "genes", "features")
        plain = ("slide_id", "patient_id", "cohort", "score", "low", "high", "percentile",
                 "cohort_percentile", "basis", "domain", "soft_share", "neighbour_part",
                 "feature_part", "level")  # fmt: skip
        return {
            "signature": self.signature.name,
            **{name: getattr(self, name) for name in plain},
            **{name: getattr(self, name).to_pylist() for name in tables},
            "predictability": asdict(self.predictability),
            "in_words": in_words(self.predictability),
            "notes": list(self.notes),
            "provenance": asdict(self.provenance),
        }

    def to_table(self) -> pa.Table:
        """All contributions in one table; those of neighbours, features and level add up to the
        score, and so do those of genes."""
        parts = {
            "neighbour": (self.neighbours, "profile_id", "measured"),
            "feature": (self.features, "feature", "z"),
            "gene": (self.genes, "gene", "neighbours_z"),
        }
        rows: dict[str, list[Any]] = {"part": [], "name": [], "value": [], "contribution": []}
        for part, (table, name, value) in parts.items():
            rows["part"] += [part] * table.num_rows
            rows["name"] += table[name].to_pylist()
            rows["value"] += table[value].to_pylist()
            rows["contribution"] += table["contribution"].to_pylist()
            if part == "feature":
                for column, cell in zip(rows, ("level", "level", None, self.level), strict=True):
                    rows[column].append(cell)
        return pa.table({**rows, "value": pa.array(rows["value"], pa.float64())})


def explain(
    engine: Engine,
    slide_id: str,
    signature: Signature,
    *,
    feature_names: Sequence[str] | None = None,
    min_genes: int = MIN_GENES,
    min_fraction: float = MIN_FRACTION,
) -> Explanation:
    """What is behind the default prediction (mean z, blend) of one slide's score.

    Args:
        slide_id: a slide of the database.
        feature_names: one per value of a slide's vector; its positions are named otherwise.

    Raises:
        InputError: there is no such slide, or the names do not fit.
        GeneSetError: too few genes of the signature are in the database.
    """
    row = _row(engine, slide_id)
    names = _checked_names(engine, feature_names)
    found = answer(
        engine, signature, null=0, min_genes=min_genes, min_fraction=min_fraction
    )  # what `search` says of this slide
    match, reference, operator = found.match, engine.reference, engine.operator
    only = np.array([row])
    measured = reference.matrix([(match.positions, match.weights)])
    share = float(operator.soft_share[row])

    used = (operator.weights[row] > 0) & (share > 0)
    near: Ints = operator.neighbours[row][used].astype(np.int64)
    weight = operator.weights[row][used].astype(np.float64)
    neighbour_terms = share * weight * measured[near, 0]
    genes = engine.reference.z[:, match.positions].astype(np.float64)
    gene_terms = operator.apply(_gene_scores(genes, match.weights), only)[0]

    space = need_space(engine.database)
    at, slides, profiles = predict.read_paired(engine.database, space, only)
    place = int(np.searchsorted(at, row))
    ridge = predict.ridge_terms(space, slides, profiles, place, measured[:, 0])
    feature_terms = (1 - share) * ridge.values * ridge.slopes
    raw = slides.vectors[place].astype(np.float64)

    by_size = np.argsort(-np.abs(neighbour_terms), kind="stable")
    near, weight, neighbour_terms = near[by_size], weight[by_size], neighbour_terms[by_size]
    neighbours = {
        "profile_id": reference.ids[near].tolist(),
        "patient_id": reference.patients[near].tolist(),
        "cohort": [c or None for c in reference.cohorts[near].tolist()],
        "weight": share * weight,
        "measured": measured[near, 0],
        "contribution": neighbour_terms,
    }
    g = np.argsort(-np.abs(gene_terms), kind="stable")
    near_z = _weighted_columns(genes[near], weight)
    by_gene = {
        "gene": [reference.genes[match.positions[i]] for i in g],
        "weight": match.weights[g],
        "neighbours_z": pa.array(near_z[g], mask=np.isnan(near_z[g])),
        "contribution": gene_terms[g],
    }
    f = np.argsort(-np.abs(feature_terms), kind="stable")
    by_feature = {
        "feature": [names[i] for i in f],
        "value": pa.array(raw[f], mask=np.isnan(raw[f])),
        "z": ridge.values[f],
        "contribution": feature_terms[f],
    }
    quality = found.predictability
    (low,), (high,) = found.interval(only)
    notes = signature_notes(signature, match.coverage, match.lost, quality, strict=False)
    mask = np.zeros(len(engine.slide_ids), dtype=bool)
    mask[row] = True
    notes += engine.unseen_note(mask)
    if share == 0:
        notes.append("no neighbours: in an unseen cohort slide features alone predict")
    if engine.facts["kind"] != FEATURES_KIND:
        notes.append("dimensions of a neural embedding have no meaning of their own")
    return Explanation(
        slide_id=slide_id,
        patient_id=str(engine.patients[row]),
        cohort=str(engine.cohorts[row]),
        signature=signature,
        score=float(found.predicted[row]),
        low=_known(low),
        high=_known(high),
        percentile=float(found.percentile(only)[0]),
        cohort_percentile=_known(found.within_cohort(only)[0][0]),
        basis=engine.basis(only)[0],
        domain=engine.domain(only)[0],
        soft_share=share,
        neighbour_part=float(neighbour_terms.sum()),
        feature_part=float(feature_terms.sum()),
        level=(1 - share) * ridge.level,
        neighbours=pa.table(neighbours),
        genes=pa.table(by_gene),
        features=pa.table(by_feature),
        coverage=match.coverage,
        predictability=quality,
        provenance=engine.provenance(
            "blend",
            {"slide": slide_id},
            signature=signature.name,
            signature_sha256=signature.sha256,
            genes_found=match.coverage.found,
            genes_missing=match.coverage.missing,
        ),
        notes=tuple([*notes, *engine.notices]),
    )


def read_feature_names(path: Path) -> list[str]:
    """Names from a JSON list, or one per line of a text file.

    Raises:
        InputError: the file cannot be read, or is neither.
    """
    try:
        text = path.read_text("utf-8")
        names: Any = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as feature names", found=str(error)) from error
    found = [n.strip() if isinstance(n, str) else "" for n in names]
    if not found or not all(found):
        raise InputError(
            f"{path} is no list of feature names",
            hint="a JSON list of names, or one name per line",
        )
    return found


def _row(engine: Engine, slide_id: str) -> int:
    slides = engine.texts[SLIDES.key]
    found = slides.find(slide_id)
    if found is not None:
        return found
    own = engine.slide_ids[engine.patients == slide_id].tolist()
    if own:
        raise InputError(
            f"{slide_id} is a patient, not a slide", found=f"slides {some(own)}", hint=own[0]
        )
    # Those that begin so are where it would stand.
    first = slides.place(slide_id)
    after = slides.at(np.arange(first, min(first + 3, len(slides)))).tolist()
    near = [i for i in after if slide_id and i.startswith(slide_id)] or slides.near(
        slide_id, 3, 0.6
    )
    raise InputError(
        f"there is no slide {slide_id}",
        found=f"{len(slides)} slides such as {some(slides.at(np.arange(min(3, len(slides)))))}",
        hint=f"did you mean {' or '.join(near)}?" if near else None,
    )


def _checked_names(engine: Engine, names: Sequence[str] | None) -> Sequence[str]:
    dim = int(engine.facts["slide_dim"])
    if names is None:
        noun = "feature" if engine.facts["kind"] == FEATURES_KIND else "dimension"
        return [f"{noun} {i}" for i in range(dim)]
    if len(names) != dim:
        raise InputError(
            f"{SLIDES.name} have {dim} values each", found=f"{len(names)} feature names"
        )
    return names


def _gene_scores(z: Float, weights: Float) -> Float:
    """(n_reference, m): the part of each gene in the mean z score of each profile.

    Args:
        z: (n_reference, m) z-scores; a missing one takes no part, as in `scoring.mean_z`.
        weights: (m,) of the genes.
    """
    total = np.where(np.isnan(z), 0.0, np.abs(weights)).sum(axis=1, keepdims=True)
    return np.asarray(np.nan_to_num(z) * weights / np.where(total > 0, total, np.inf))


def _weighted_columns(values: Float, weights: Float) -> Float:
    """(m,) weighted means of columns (n, m), missing values left out; NaN where nothing is left."""
    share = np.where(np.isnan(values), 0.0, weights[:, None])
    total = share.sum(axis=0)
    sums = (share * np.nan_to_num(values)).sum(axis=0)
    return np.asarray(np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
