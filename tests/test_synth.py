"""The toy archive keeps what it promises: sizes, shares, a planted signal, and its seed."""

import doctest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from molquery import synth
from molquery.errors import InputError
from molquery.genesets.gmt import read_gmt
from molquery.readers import Options, read_profiles, read_slides
from molquery.synth import Archive, Toy, make


def explained(archive: Archive, values: np.ndarray, patient: np.ndarray) -> list[float]:
    """R² of each pathway's activity from a linear regression on `values`, on the other half."""
    x = np.column_stack([values, np.ones(len(values))]).astype(np.float64)
    y = archive.activity[patient]
    train, test = x[::2], x[1::2]
    fitted = test @ np.linalg.lstsq(train, y[::2], rcond=None)[0]
    residual = ((y[1::2] - fitted) ** 2).sum(axis=0)
    return list(1 - residual / ((y[1::2] - y[1::2].mean(axis=0)) ** 2).sum(axis=0))


def test_slides_show_visible_pathways_and_profiles_show_all() -> None:
    archive = make(Toy(patients=800, cohorts=1, cohort_activity=0.0))
    *visible, hidden = explained(archive, archive.embeddings, archive.slide_patient)
    assert min(visible) > 0.8
    assert hidden < 0.05
    assert min(explained(archive, archive.expression, archive.profile_patient)) > 0.9


@pytest.mark.parametrize("patients", [40, 501])
def test_shares_and_sizes(patients: int) -> None:
    toy = Toy(patients=patients, cohorts=4, sites=5, slides_only=0.2, profiles_only=0.1, dim=7)
    archive = make(toy)
    slides, profiles = set(archive.slide_patient.tolist()), set(archive.profile_patient.tolist())
    assert len(slides - profiles) == round(0.2 * patients)
    assert len(profiles - slides) == round(0.1 * patients)
    assert slides | profiles == set(range(patients))
    assert archive.embeddings.shape == (len(archive.slide_ids), 7)
    assert archive.embeddings.dtype == archive.expression.dtype == np.float32
    assert len(np.unique(archive.cohorts)) == 4
    for ids in (archive.slide_ids, archive.profile_ids):
        assert ids.tolist() == sorted(set(ids.tolist()))
    assert (np.bincount(archive.slide_patient) > 1).any()
    assert archive.expression.min() >= 0


def test_the_seed_decides() -> None:
    toy = Toy(patients=30)
    a, b, c = make(toy), make(toy), make(replace(toy, seed=1))
    np.testing.assert_array_equal(a.embeddings, b.embeddings)
    np.testing.assert_array_equal(a.expression, b.expression)
    assert not np.array_equal(a.activity, c.activity)


def test_files_are_read_back_as_they_were_made(tmp_path: Path) -> None:
    archive = make(Toy(patients=30))
    files = synth.write_files(archive, tmp_path)
    (slides,) = read_slides(files.slides, Options())
    np.testing.assert_array_equal(slides.vectors, archive.embeddings)
    assert slides.ids == tuple(archive.slide_ids)
    profiles = read_profiles(files.profiles, Options(genes_in="columns"))
    np.testing.assert_array_equal(profiles.values, archive.expression)
    assert profiles.genes == archive.genes
    assert {s.name: s.genes for s in read_gmt(files.gene_sets)} == dict(archive.gene_sets)
    assert parquet.read_table(files.metadata).num_rows == 30


def test_overlapping_sets_of_ones_own_and_a_mistake() -> None:
    archive = make(Toy(patients=20, visible=1, background=0), {"A": ["X", "Y"], "B": ["Y", "Z"]})
    assert archive.genes == ("X", "Y", "Z")
    assert archive.visible == ("A",)
    with pytest.raises(InputError, match="visible"):
        make(Toy(patients=20, visible=3), {"A": ["X"]})


def test_the_example_in_the_docstring_runs() -> None:
    result = doctest.testmod(synth)
    assert result.attempted >= 2
    assert result.failed == 0
