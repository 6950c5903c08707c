"""A toy archive with planted signal, of any size, for tests and benchmarks.

Every patient has a latent activity of a few pathways. The activity drives expression (each pathway
raises the genes of its gene set) and, for the pathways that are visible in H&E, slide embeddings
(through a random linear map). Cohorts shift activity and embeddings, sites shift embeddings, as
tissue types and scanners do. Some patients have slides only, some profiles only, some several
slides. The truth comes with the arrays, so that whoever uses the archive can be held to it.

Not here: real data (`examples/`), reading files (`molquery.readers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from molquery.errors import InputError
from molquery.vectors import Float, Ints, Matrix, Strings

#: Mean log2 expression of the genes lies in this range, well above zero, so nothing is clipped.
_BASE = (6.0, 12.0)
_COHORT_SHIFT = 1.5  # of cohorts in embedding space: tissue type dominates, as in real archives
_SITE_SHIFT = 0.3


@dataclass(frozen=True, slots=True)
class Toy:
    """The settings of a toy archive.

    Attributes:
        patients: how many; cohorts and sites are spread over them evenly.
        pathways: latent factors, each with a gene set of its own.
        visible: how many of the pathways, the first ones, leave a trace in slides.
        set_genes: genes of each pathway; background: genes of no pathway.
        dim: values of a slide embedding.
        noise: standard deviation of the noise of embeddings; one pathway adds a vector of about
            unit length.
        slides_only, profiles_only, several: shares of the patients without a profile, without a
            slide, and with more than one slide.
        cohort_activity: standard deviation of the cohorts' mean activity, beside 1 within them.
    """

    patients: int = 200
    cohorts: int = 3
    sites: int = 8
    pathways: int = 4
    visible: int = 3
    set_genes: int = 20
    background: int = 60
    dim: int = 32
    noise: float = 0.1
    slides_only: float = 0.1
    profiles_only: float = 0.1
    several: float = 0.15
    cohort_activity: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Archive:
    """A toy archive and the truth behind it.

    Attributes:
        patients: (n_patients,) ids; cohorts and sites of the same length.
        activity: (n_patients, n_pathways) the latent truth.
        slide_ids: (n_slides,) sorted; slide_patient: (n_slides,) positions in `patients`.
        embeddings: (n_slides, dim) float32.
        profile_ids: (n_profiles,) sorted; profile_patient: positions in `patients`.
        genes: (n_genes,) names; expression: (n_profiles, n_genes) float32, log2 scale.
        gene_sets: pathway name -> its genes, in the order of the columns of `activity`.
        visible: the pathways that leave a trace in slides.
    """

    patients: Strings
    cohorts: Strings
    sites: Strings
    activity: Float
    slide_ids: Strings
    slide_patient: Ints
    embeddings: Matrix
    profile_ids: Strings
    profile_patient: Ints
    genes: tuple[str, ...]
    expression: Matrix
    gene_sets: Mapping[str, tuple[str, ...]]
    visible: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Where `write_files` put an archive."""

    slides: Path
    profiles: Path
    metadata: Path
    gene_sets: Path


def make(
    settings: Toy | None = None, gene_sets: Mapping[str, Sequence[str]] | None = None
) -> Archive:
    """A toy archive, the same for the same settings.

    Args:
        settings: sizes, noise and seed.
        gene_sets: names and genes of the pathways, such as real gene sets that overlap, in place
            of `settings.pathways` sets of made-up genes.

    Raises:
        InputError: more pathways should be visible than there are.

    Example:
        >>> archive = make(Toy(patients=50, seed=1))
        >>> archive.embeddings.shape[1], len(archive.gene_sets)
        (32, 4)
    """
    s = settings or Toy()
    rng = np.random.default_rng(s.seed)
    sets = _sets(s) if gene_sets is None else {k: tuple(v) for k, v in gene_sets.items()}
    if not 0 <= s.visible <= len(sets):
        raise InputError("visible pathways must be among the pathways", found=str(s.visible))
    genes = (*dict.fromkeys(g for members in sets.values() for g in members),
             *(f"BACKGROUND{i:04d}" for i in range(s.background)))  # fmt: skip

    names = np.array([f"P{i:06d}" for i in range(s.patients)])
    cohort = rng.permutation(np.arange(s.patients) % s.cohorts)
    site = rng.permutation(np.arange(s.patients) % s.sites)
    mean = rng.normal(0.0, s.cohort_activity, (s.cohorts, len(sets)))
    activity = rng.normal(size=(s.patients, len(sets))) + mean[cohort]

    order = rng.permutation(s.patients)
    n_slides_only, n_profiles_only = (
        round(x * s.patients) for x in (s.slides_only, s.profiles_only)
    )
    with_profile = np.sort(order[n_slides_only:])
    with_slide = np.sort(
        np.concatenate([order[:n_slides_only], order[n_slides_only + n_profiles_only :]])
    )
    counts = np.ones(len(with_slide), dtype=np.int64)
    more = rng.random(len(with_slide)) < s.several
    counts[more] = rng.integers(2, 4, int(more.sum()))
    slide_patient = np.repeat(with_slide, counts)
    number = np.concatenate([np.arange(c) for c in counts]) if len(counts) else counts

    return Archive(
        patients=names,
        cohorts=np.array([f"COHORT-{chr(65 + c % 26)}{c // 26 or ''}" for c in cohort]),
        sites=np.array([f"S{i:02d}" for i in site]),
        activity=activity,
        slide_ids=np.array(
            [f"{names[i]}-S{j + 1}" for i, j in zip(slide_patient, number, strict=True)]
        ),
        slide_patient=slide_patient,
        embeddings=_embeddings(s, activity, cohort, site, slide_patient, rng),
        profile_ids=np.array([f"{names[i]}-R1" for i in with_profile]),
        profile_patient=with_profile,
        genes=genes,
        expression=_expression(sets, genes, activity[with_profile], rng),
        gene_sets=sets,
        visible=tuple(sets)[: s.visible],
    )


def slide_table(archive: Archive) -> pa.Table:
    """Slides as `molquery ingest slides` reads them: ids, patient, cohort, site, vectors."""
    at = archive.slide_patient
    flat = pa.array(archive.embeddings.reshape(-1))
    return pa.table(
        {
            "slide_id": archive.slide_ids.tolist(),
            "patient_id": archive.patients[at].tolist(),
            "cohort": archive.cohorts[at].tolist(),
            "site": archive.sites[at].tolist(),
            "features": pa.FixedSizeListArray.from_arrays(flat, archive.embeddings.shape[1]),
        }
    )


def profile_table(archive: Archive) -> pa.Table:
    """Profiles as `molquery ingest profiles` reads them: a column per gene."""
    at = archive.profile_patient
    columns: dict[str, object] = {
        "profile_id": archive.profile_ids.tolist(),
        "patient_id": archive.patients[at].tolist(),
        "cohort": archive.cohorts[at].tolist(),
        "site": archive.sites[at].tolist(),
    }
    columns |= {gene: archive.expression[:, j] for j, gene in enumerate(archive.genes)}
    return pa.table(columns)


def metadata_table(archive: Archive) -> pa.Table:
    """A clinical table: one row per patient, with an age, a sex and a subtype.

    The subtype is 'high' where the first pathway is more active than its median.
    """
    rng = np.random.default_rng(len(archive.patients))
    first = archive.activity[:, 0]
    return pa.table(
        {
            "patient_id": archive.patients.tolist(),
            "age": rng.integers(30, 90, len(archive.patients)),
            "sex": rng.choice(["female", "male"], len(archive.patients)).tolist(),
            "subtype": np.where(first > np.median(first), "high", "low").tolist(),
        }
    )


def write_files(archive: Archive, directory: Path) -> Files:
    """Write the archive as three Parquet files and a GMT file that the command line can read."""
    from pyarrow import parquet

    directory.mkdir(parents=True, exist_ok=True)
    files = Files(*(directory / name for name in (
        "slides.parquet", "profiles.parquet", "metadata.parquet", "pathways.gmt"
    )))  # fmt: skip
    parquet.write_table(slide_table(archive), files.slides)
    parquet.write_table(profile_table(archive), files.profiles)
    parquet.write_table(metadata_table(archive), files.metadata)
    lines = ["\t".join([name, "planted", *genes]) for name, genes in archive.gene_sets.items()]
    files.gene_sets.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def _sets(s: Toy) -> dict[str, tuple[str, ...]]:
    return {
        f"PATHWAY_{p + 1}": tuple(f"TOY{p + 1}G{i:03d}" for i in range(s.set_genes))
        for p in range(s.pathways)
    }


def _embeddings(
    s: Toy, activity: Float, cohort: Ints, site: Ints, patient: Ints, rng: np.random.Generator
) -> Matrix:
    """(n_slides, dim): visible activity through a random map, shifts of cohort and site, noise."""
    to_slide = rng.normal(size=(s.visible, s.dim)) / np.sqrt(s.dim)
    shift = rng.normal(size=(s.cohorts, s.dim)) * _COHORT_SHIFT / np.sqrt(s.dim)
    batch = rng.normal(size=(s.sites, s.dim)) * _SITE_SHIFT / np.sqrt(s.dim)
    signal = activity[:, : s.visible] @ to_slide + shift[cohort] + batch[site]
    values = rng.standard_normal((len(patient), s.dim), dtype=np.float32)
    values *= np.float32(s.noise)
    values += signal.astype(np.float32)[patient]
    return np.asarray(values, dtype=np.float32)


def _expression(
    sets: Mapping[str, tuple[str, ...]],
    genes: tuple[str, ...],
    activity: Float,
    rng: np.random.Generator,
) -> Matrix:
    """(n_profiles, n_genes): a base level, the activity of each set that holds the gene, noise."""
    column = {gene: j for j, gene in enumerate(genes)}
    loadings = np.zeros((len(sets), len(genes)))
    for p, members in enumerate(sets.values()):
        at = [column[g] for g in members]
        loadings[p, at] = rng.uniform(0.6, 1.0, len(at))
    base = rng.uniform(*_BASE, len(genes))
    noise = rng.standard_normal((len(activity), len(genes)), dtype=np.float32)
    values = base + activity @ loadings + 0.7 * noise
    return np.asarray(np.maximum(values, 0.0), dtype=np.float32)
