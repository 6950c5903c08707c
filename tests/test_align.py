"""Alignment: heads against torch and scipy, folds that have not seen what they are tested on."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import tree_hash
from scipy import linalg, stats
from torch.nn import functional

from molquery import predict, synth
from molquery.align import infonce, train
from molquery.align.cca import CCA, fit_cca
from molquery.align.infonce import InfoNCE, _head, _mlp, fit_infonce
from molquery.align.inputs import fit_slide_input
from molquery.align.pairs import Pairs, Places, Side, load_pairs
from molquery.align.train import AlignSettings, align, fit_model
from molquery.database import Database
from molquery.encoders import EMBEDDING_KIND, FEATURES_KIND
from molquery.errors import ColumnError, InputError, SpaceError
from molquery.evaluate import metrics
from molquery.evaluate.held_out import predictabilities
from molquery.genesets import collections
from molquery.ingest import ingest_profiles, ingest_slides
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME, soft_weights
from molquery.query.engine import Engine
from molquery.readers import Options
from molquery.resume import models_directory
from molquery.schema import PROFILES, SLIDES, shared_column
from molquery.space import (
    Head,
    Model,
    SlideInput,
    current_space,
    need_space,
    normal_scores,
    run_head,
)
from molquery.texts import Groups
from molquery.vectors import Strings, same_key, unit


@pytest.fixture(scope="module")
def pairs(ingested: Path) -> Pairs:
    return load_pairs(Database.open(ingested), pair_on="patient_id", split_on="patient_id")


def same_model(a: Model, b: Model) -> bool:
    def arrays(model: Model) -> list[npt.NDArray[np.float32]]:
        heads: list[Head] = [*model.slide_heads, *model.profile_heads]
        found = [x for head in heads for layer in head for x in (layer.weight, layer.bias)]
        return [*found, model.anchors, model.slide_input.mean, model.slide_input.offsets,
                model.slide_input.site_offsets, model.profile_input.mean,
                model.profile_input.scale]  # fmt: skip

    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


# Projection --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 24])
def test_numpy_heads_equal_torch(hidden: int) -> None:
    torch.manual_seed(0)
    net = _mlp(10, InfoNCE(hidden=hidden, dim=6))
    net.eval()
    x = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32) * 3
    with torch.no_grad():
        expected = functional.normalize(net(torch.from_numpy(x)), dim=1).numpy()
    np.testing.assert_allclose(unit(run_head(_head(net), x)), expected, atol=1e-5)


def test_vectors_of_a_space_are_unit_and_the_same_after_reading(aligned: Path) -> None:
    database = Database.open(aligned)
    space = need_space(database)
    column = shared_column(space.space_id)
    slides = database.read(SLIDES, ["embedding", "cohort", "site"])
    raw = database.matrix(SLIDES, SLIDES.vector)
    stored = database.matrix(SLIDES, column)
    cohorts, sites = slides["cohort"].to_pylist(), slides["site"].to_pylist()
    np.testing.assert_allclose(stored, space.project_slides(raw, cohorts, sites), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
    rna = database.matrix(PROFILES, column)
    np.testing.assert_allclose(
        rna, space.project_profiles(database.matrix(PROFILES, PROFILES.vector)), atol=1e-6
    )


def test_hubness_is_the_log_mean_exp_of_its_docstring(aligned: Path) -> None:
    model = need_space(Database.open(aligned)).final
    r = unit(np.random.default_rng(0).normal(size=(7, model.dim)))
    expected = [0.1 * np.log(np.mean([np.exp(float(x @ v) / 0.1) for x in model.anchors]))
                for v in r]  # fmt: skip
    np.testing.assert_allclose(model.hubness(r), expected, atol=1e-5)


def test_normal_scores_of_untied_values_are_normal_quantiles_of_ranks() -> None:
    values = np.random.default_rng(0).gamma(1, size=(101, 1)).astype(np.float32)
    knots = np.sort(values, axis=0)
    expected = stats.norm.ppf((stats.rankdata(values[:, 0]) - 0.5) / 101)
    np.testing.assert_allclose(normal_scores(values, knots)[:, 0], expected, atol=1e-4)


def test_missing_features_become_the_training_mean() -> None:
    x = np.array([[1, 2], [3, np.nan], [5, 4]], dtype=np.float32)
    mean, scale = np.array([3, 3], np.float32), np.array([2, 1], np.float32)
    offsets = np.array([[0.5, 0.25]], np.float32)
    of_site = np.array([[1, 2]], np.float32)
    transform = SlideInput(None, mean, scale, ("A",), offsets, (("A", "S"),), of_site)
    out = transform(x, ["A", "A", "unknown"], ["S", "new", "S"])
    np.testing.assert_allclose(out[:, 2:4], [[-1, -1], [0, 0], [1, 1]])
    np.testing.assert_allclose(out[:, :2], [[-1.5, -1.25], [-0.5, -0.25], [1, 1]])
    np.testing.assert_allclose(out[:, 4:], [[-2, -3], [-0.5, -0.25], [1, 1]])


# CCA ---------------------------------------------------------------------------------------------


def test_cca_without_ridge_solves_the_generalised_eigenproblem() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(4000, 3))
    x = latent @ rng.normal(size=(3, 5)) + rng.normal(size=(4000, 5))
    z = latent @ rng.normal(size=(3, 6)) + rng.normal(size=(4000, 6))
    x, z = (v.astype(np.float32) for v in (x, z))
    settings = CCA(dim=4, components=6, rx=1e-9, rz=1e-9)
    (a,), (b,), found = fit_cca(x, z, z, settings)

    # det [[0, Cxz], [Czx, 0]] - rho [[Cxx, 0], [0, Czz]] = 0: its largest roots.
    xc, zc = (v.astype(np.float64) - v.mean(axis=0, dtype=np.float64) for v in (x, z))
    zero = [np.zeros((len(c.T), len(c.T))) for c in (xc, zc)]
    left = np.block([[zero[0], xc.T @ zc], [zc.T @ xc, zero[1]]])
    right = np.block([[xc.T @ xc, zero[0][:, :1] * np.zeros((1, 6))],
                      [np.zeros((6, 5)), zc.T @ zc]])  # fmt: skip
    roots = linalg.eigh(left, right, eigvals_only=True)[::-1][:4]
    np.testing.assert_allclose(found, roots, atol=1e-4)

    # The heads' outputs have the canonical correlations, and nothing across dimensions.
    u, v = x @ a.weight + a.bias, z @ b.weight + b.bias
    cross = np.corrcoef(u.T, v.T)[:4, 4:]
    np.testing.assert_allclose(cross, np.diag(roots), atol=1e-3)
    # Scaled by the correlations, so that agreeing directions dominate the cosine.
    np.testing.assert_allclose(u.std(axis=0), found, atol=1e-3)


def test_cca_of_more_genes_than_pairs_is_the_same_as_of_their_components() -> None:
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(60, 3))
    x = (latent @ rng.normal(size=(3, 5)) + rng.normal(size=(60, 5))).astype(np.float32)
    wide = (latent @ rng.normal(size=(3, 200)) + rng.normal(size=(60, 200))).astype(np.float32)
    rotation = linalg.qr(rng.normal(size=(200, 200)))[0]
    turned = (wide @ rotation).astype(np.float32)
    settings = CCA(dim=4, components=40)
    plain = fit_cca(x, wide, wide, settings)[2]
    np.testing.assert_allclose(plain, fit_cca(x, turned, turned, settings)[2], atol=1e-4)


# InfoNCE -----------------------------------------------------------------------------------------


def test_infonce_learns_a_planted_alignment_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(200, 8))
    x = (latent @ rng.normal(size=(8, 16)) + 0.1 * rng.normal(size=(200, 16))).astype(np.float32)
    z = (latent @ rng.normal(size=(8, 12)) + 0.1 * rng.normal(size=(200, 12))).astype(np.float32)
    settings = InfoNCE(dim=16, hidden=0, epochs=25, batch=64, dropout=0.0, noise=0.05)
    validation = np.arange(0, 200, 5)
    reports: list[tuple[int, int, float, float]] = []

    def fit(seed: int) -> tuple[Head, Head]:
        return fit_infonce(x, z, np.arange(200), validation, settings, seed=seed,
                           report=lambda *a: reports.append(a))  # fmt: skip

    slides, profiles = fit(0)
    assert reports[0][2] > reports[-1][2], "the loss did not fall"
    u, v = unit(run_head(slides, x)), unit(run_head(profiles, z))
    rank = ((u @ v.T)[validation] >= np.diag(u @ v.T)[validation][:, None]).sum(axis=1)
    assert np.median(rank) <= 5  # of 200: chance is 100
    again = fit(0)
    np.testing.assert_array_equal(again[0][0].weight, slides[0].weight)
    assert not np.array_equal(fit(1)[0][0].weight, slides[0].weight)


# Folds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cca", "infonce"])
def test_a_fold_does_not_see_the_rna_of_held_out_patients(
    pairs: Pairs, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infonce, "InfoNCE", lambda: InfoNCE(epochs=3))
    held = pairs.of_groups(np.unique(pairs.groups)[::5].tolist())
    assert 0 < held.sum() < len(pairs)
    spoiled = pairs.profiles.vectors.copy()
    spoiled[pairs.profile[held]] += 100 * np.random.default_rng(0).normal(
        size=spoiled[pairs.profile[held]].shape
    ).astype(np.float32)
    other = replace(pairs, profiles=replace(pairs.profiles, vectors=spoiled))
    a = fit_model(pairs, set(pairs.groups[held].tolist()), EMBEDDING_KIND, method, 0)
    assert same_model(
        a, fit_model(other, set(pairs.groups[held].tolist()), EMBEDDING_KIND, method, 0)
    )
    if method == "cca":  # the test can fail: a model that trains on them does change
        assert not same_model(
            fit_model(pairs, set(), EMBEDDING_KIND, method, 0),
            fit_model(other, set(), EMBEDDING_KIND, method, 0),
        )


def test_a_fold_does_not_see_the_slides_of_held_out_patients(pairs: Pairs) -> None:
    held = pairs.of_groups(np.unique(pairs.groups)[::5].tolist())
    spoiled = pairs.slides.vectors.copy()
    spoiled[pairs.slide[held]] *= -50
    other = replace(pairs, slides=replace(pairs.slides, vectors=spoiled))
    assert same_model(
        fit_model(pairs, set(pairs.groups[held].tolist()), EMBEDDING_KIND, "cca", 0),
        fit_model(other, set(pairs.groups[held].tolist()), EMBEDDING_KIND, "cca", 0),
    )


def test_every_paired_patient_is_held_out_once_and_no_site_is_split(
    aligned: Path, pairs: Pairs
) -> None:
    space = need_space(Database.open(aligned))
    paired = set(pairs.groups.tolist())
    site_of = dict(zip(pairs.profiles.groups.tolist(), pairs.profiles.sites.tolist(), strict=True))
    for scheme in ("patient", "site"):
        folds = [fold.held_out for fold in space.folds if fold.scheme == scheme]
        assert len(folds) == 5
        assert sorted(g for fold in folds for g in fold & paired) == sorted(paired)
    seen = [{site_of[g] for g in fold.held_out} for fold in space.folds if fold.scheme == "site"]
    assert sum(len(sites) for sites in seen) == len(set(pairs.sites.tolist()))


def test_feature_knots_are_those_of_the_training_slides(pairs: Pairs) -> None:
    train = np.zeros(len(pairs), dtype=bool)
    train[:50] = True
    rows = np.unique(pairs.slide[train])
    transform = fit_slide_input(pairs, train, FEATURES_KIND)
    grid = (np.arange(101) + 0.5) / 101
    expected = np.quantile(pairs.slides.vectors[rows], grid, axis=0)
    assert transform.knots is not None
    np.testing.assert_allclose(transform.knots, expected, rtol=1e-4, atol=1e-5)


def test_site_offsets_are_shrunk_means_of_training_slides_of_the_site(pairs: Pairs) -> None:
    """And of all slides of a site that has no training slide."""
    train = np.zeros(len(pairs), dtype=bool)
    train[:50] = True
    transform = fit_slide_input(pairs, train, EMBEDDING_KIND)
    slides = pairs.slides
    assert len(transform.sites) == len(set(zip(slides.cohorts, slides.sites, strict=True)))
    standard = transform.standardise(slides.vectors).astype(float)
    for (cohort, site), offset in zip(transform.sites, transform.site_offsets, strict=True):
        mine = (slides.cohorts == cohort) & (slides.sites == site)
        trained = mine & np.isin(np.arange(len(mine)), pairs.slide[train])
        mine = standard[trained if trained.any() else mine]
        middle = transform.offsets[transform.cohorts.index(cohort)]
        shrunk = (len(mine) * mine.mean(axis=0) + 5 * middle) / (len(mine) + 5)
        np.testing.assert_allclose(offset, shrunk, atol=1e-5)


def test_of_many_slides_without_rna_evenly_spaced_ones_are_read(
    ingested_copy: Path, archive: synth.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a cohort and of a site that have no training pair stand for all of it."""
    database = Database.open(ingested_copy)
    rng = np.random.default_rng(0)
    values = rng.normal(2, 1, (900, archive.embeddings.shape[1])).astype(np.float32)
    ids = [f"NEW{i:04d}" for i in range(900)]
    place = np.array(["A", "B", "C"])[rng.choice(3, 900, p=[0.7, 0.29, 0.01])]
    new = {"slide_id": ids, "features": values.tolist(), "cohort": ["NEW"] * 900,
           "site": place.tolist()}  # fmt: skip
    pq.write_table(pa.table(new), tmp_path / "s.parquet")
    ingest_slides(database, [tmp_path / "s.parquet"], options=Options(), encoder="toy-encoder")

    monkeypatch.setattr("molquery.align.pairs.COHORT_SLIDES", 100)
    monkeypatch.setattr("molquery.align.pairs.SITE_SLIDES", 20)
    found = load_pairs(database, pair_on="patient_id", split_on="patient_id")
    cohort = np.arange(900)[::9]
    sites = {s: np.flatnonzero(place == s) for s in "ABC"}
    spaced = {s: rows[:: -(-len(rows) // 20)] for s, rows in sites.items()}
    read = sorted({*cohort.tolist(), *np.concatenate(list(spaced.values())).tolist()})
    assert [i for i in found.slides.ids.tolist() if i.startswith("NEW")] == [ids[i] for i in read]

    transform = fit_slide_input(found, np.ones(len(found), dtype=bool), EMBEDDING_KIND)
    standard = transform.standardise(values).astype(float)
    middle = transform.offsets[transform.cohorts.index("NEW")]
    np.testing.assert_allclose(middle, standard[cohort].mean(axis=0), atol=1e-5)
    for site, rows in sites.items():
        n, mean = len(rows), standard[spaced[site]].mean(axis=0)
        offset = transform.site_offsets[transform.sites.index(("NEW", site))]
        np.testing.assert_allclose(offset, (n * mean + 5 * middle) / (n + 5), atol=1e-5)

    monkeypatch.undo()
    everything = load_pairs(database, pair_on="patient_id", split_on="patient_id")
    assert len(everything.slides.ids) > len(found.slides.ids) + 600
    own, others = (pairs.slides.ids[pairs.slide] for pairs in (found, everything))
    np.testing.assert_array_equal(own, others)
    np.testing.assert_array_equal(found.profile, everything.profile)


def at_sites(pairs: Pairs, sites: Strings) -> Pairs:
    """The same pairs, with other sites of the slides."""
    places = Places.of(Groups.of(pairs.slides.cohorts), Groups.of(sites))
    return replace(pairs, slides=replace(pairs.slides, sites=sites), places=places)


def test_without_two_sites_in_a_cohort_there_is_no_block_of_sites(pairs: Pairs) -> None:
    train = np.ones(len(pairs), dtype=bool)
    with_sites = fit_slide_input(pairs, train, EMBEDDING_KIND)
    for sites in (np.full(len(pairs.slides.sites), ""), pairs.slides.cohorts):
        alone = at_sites(pairs, sites)
        transform = fit_slide_input(alone, train, EMBEDDING_KIND)
        assert transform.sites == ()
        some = pairs.slides.vectors[:4]
        inputs = transform(some, alone.slides.cohorts[:4].tolist(), sites[:4].tolist())
        expected = with_sites(some, pairs.slides.cohorts[:4].tolist(), [None] * 4)
        np.testing.assert_array_equal(inputs, expected[:, : inputs.shape[1]])
        assert expected.shape[1] == inputs.shape[1] * 3 / 2


def test_scanners_that_differ_between_sites_cost_little_where_sites_are_known() -> None:
    """Thirty sites, whose shifts spare no direction of the embeddings."""
    archive = synth.make(synth.Toy(patients=480, cohorts=1, sites=30, several=0.0, dim=8))
    patient = archive.slide_patient
    shift = np.random.default_rng(0).normal(0, 1, (30, 8)).astype(np.float32)
    vectors = archive.embeddings + shift[[int(s[1:]) for s in archive.sites[patient]]]
    names = archive.patients
    slides = Side(archive.slide_ids, vectors, names[patient], names[patient],
                  archive.cohorts[patient], archive.sites[patient])  # fmt: skip
    owner = archive.profile_patient
    profiles = Side(archive.profile_ids, archive.expression, names[owner], names[owner],
                    archive.cohorts[owner], archive.sites[owner])  # fmt: skip
    slide, profile = same_key(slides.pair_keys, profiles.pair_keys)
    held = set(names[::4].tolist())

    def within(sites: Strings) -> float:
        pairs = at_sites(Pairs(slides, profiles, slide, profile, "patient_id", Places()), sites)
        model = fit_model(pairs, held, EMBEDDING_KIND, "cca", 0)
        test = np.flatnonzero(np.isin(slides.groups, sorted(held)))
        known = np.flatnonzero(~np.isin(profiles.groups, sorted(held)))
        r = model.project_profiles(profiles.vectors[known])
        weights = soft_weights(pairs.slides.project(model, test), r, model.hubness(r))
        truth = archive.activity[:, :3]
        predicted = weights @ truth[owner[known]]
        cohorts = slides.cohorts[test].tolist()
        return float(metrics.within_cohort_r(predicted, truth[patient[test]], cohorts)[0].mean())

    known, unknown = within(slides.sites), within(np.full(len(patient), ""))
    assert known > unknown + 0.05, (known, unknown)


# The whole ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_space(aligned: Path, ingested_copy: Path) -> None:
    space = current_space(Database.open(aligned))
    again = align(Database.open(ingested_copy), AlignSettings(method="cca")).space
    other = align(Database.open(ingested_copy), AlignSettings(method="cca", seed=1)).space
    assert space is not None
    assert again.space_id == space.space_id != other.space_id
    assert need_space(Database.open(ingested_copy)).space_id == other.space_id
    shared = [c for c in Database.open(ingested_copy).dataset(SLIDES).schema.names
              if c.startswith("shared_")]  # fmt: skip
    assert shared == [shared_column(other.space_id)], "columns of replaced spaces stay behind"


def test_planted_pathways_are_predicted_and_others_are_not(
    engine: Engine, archive: synth.Archive
) -> None:
    seen = [collections.find(name) for name in archive.visible]
    hidden = collections.find(next(n for n in archive.gene_sets if n not in archive.visible))
    scored = engine.reference.score([*seen, hidden]).scores
    *good, bad = predictabilities(engine.operators, engine.pairs, scored)
    for p in good:
        assert p.within_r is not None
        assert p.within_r > 0.75
        assert p.r2 is not None
        assert p.r2 > 0.5
        assert p.site_within_r is not None
        assert p.site_within_r > 0.7
    assert bad.within_r is not None
    assert abs(bad.within_r) < 0.25


def test_shuffled_pairs_predict_nothing(files: synth.Files, tmp_path: Path) -> None:
    """The control: profiles given to other patients of the same cohort leave no held-out signal."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(files.profiles)
    rng = np.random.default_rng(0)
    patients, cohorts = (np.array(table[c].to_pylist()) for c in ("patient_id", "cohort"))
    for cohort in np.unique(cohorts):
        rows = np.flatnonzero(cohorts == cohort)
        patients[rows] = patients[rng.permutation(rows)]
    at = table.schema.get_field_index("patient_id")
    parquet.write_table(table.set_column(at, "patient_id", [patients.tolist()]), tmp_path / "p.pq")
    database = Database.create(tmp_path / "shuffled.mq")
    ingest_slides(database, [files.slides], options=Options(), encoder="toy")
    ingest_profiles(database, [tmp_path / "p.pq"], options=Options(), scale="log2")
    align(database, AlignSettings(method="cca"))
    engine = Engine(database)
    values = [p.within_r for p in engine.spectrum.values() if p.within_r is not None]
    assert len(values) >= 4
    assert abs(np.mean(values)) < 0.15
    retrieval = engine.facts["retrieval"]["patient.slide_to_profile.within_cohort"]
    assert retrieval["fold10"] < 1.25


def test_auto_takes_the_method_that_its_inner_split_prefers(
    ingested_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infonce, "InfoNCE", lambda: InfoNCE(epochs=3, hidden=0))
    told: list[str] = []
    report = align(
        Database.open(ingested_copy), progress=lambda stage, done, total, text: told.append(stage)
    )
    best = max(report.comparison, key=lambda m: report.comparison[m]["within_r"])
    assert set(report.comparison) == {"cca", "infonce"}
    assert report.space.facts["method"] == best
    assert {"choosing the method", "fitting folds", "projecting"} <= set(told)


# Interrupted and resumed -------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from molquery import resume
from molquery.align.train import AlignSettings, align
from molquery.database import Database
put, kept = resume.FittedModels.put, []
def last_words(self, model, *key):
    put(self, model, *key)
    kept.append(key)
    if len(kept) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
resume.FittedModels.put = last_words
align(Database.open(sys.argv[1]), AlignSettings(method="cca"))
"""


def test_a_killed_alignment_goes_on_where_it_was(
    aligned: Path, ingested_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = tree_hash(ingested_copy)
    words = [sys.executable, "-c", KILLED, str(ingested_copy)]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    assert tree_hash(ingested_copy) == before
    directory = models_directory(ingested_copy)
    kept = sorted(f for f in directory.iterdir() if not f.name.startswith("."))
    assert len(kept) >= 4
    kept[0].write_bytes(kept[0].read_bytes()[:-9])  # a damaged file is as none
    (directory / ".half-written").write_bytes(b"x")

    fitted: list[str] = []
    fit = train.fit_model
    monkeypatch.setattr(
        train, "fit_model", lambda *a, **k: fitted.append(str(a[1])) or fit(*a, **k)
    )
    report = align(Database.open(ingested_copy), AlignSettings(method="cca"))
    assert len(fitted) == 11 - (len(kept) - 1)
    assert any(f"{len(kept) - 1} of 11 models" in note for note in report.notes)
    assert report.space.space_id == need_space(Database.open(aligned)).space_id
    assert not directory.exists(), "nothing is left behind"


def test_models_of_other_pairs_or_settings_are_not_taken_up(
    ingested_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(ingested_copy)
    save = train.save_space

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_space", fail)  # every model is fitted, nothing is stored
    with pytest.raises(KeyboardInterrupt):
        align(database, AlignSettings(method="cca"))
    monkeypatch.setattr(train, "save_space", save)
    assert len(list(models_directory(ingested_copy).iterdir())) == 11
    other = align(database, AlignSettings(method="cca", seed=1))
    assert not any("interrupted" in note for note in other.notes)


def test_a_gpu_that_is_not_there_is_said(
    ingested: Path, monkeypatch: pytest.MonkeyPatch, unchanged: Callable[[Path], None]
) -> None:
    unchanged(ingested)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU"):
        align(Database.open(ingested), AlignSettings(method="cca"), device="gpu")
    with pytest.raises(InputError, match="not a device"):
        align(Database.open(ingested), AlignSettings(method="cca"), device="tpu")


@pytest.mark.parametrize(("device", "there", "expected"), [
    ("auto", True, "cuda"), ("gpu", True, "cuda"), ("cpu", True, "cpu"), ("auto", False, "cpu"),
])  # fmt: skip
def test_contrastive_heads_are_trained_where_they_should_be(
    monkeypatch: pytest.MonkeyPatch, device: str, there: bool, expected: str
) -> None:
    asked: list[str] = []

    def place(name: str) -> torch.device:
        asked.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch, "device", place)
    values = np.zeros((4, 2), np.float32)
    groups = np.arange(4)
    with pytest.raises(KeyboardInterrupt):
        fit_infonce(values, values, groups, groups[:1], InfoNCE(), seed=0, device=device)
    assert asked == [expected]


# What cannot be aligned --------------------------------------------------------------------------


def few(tmp_path: Path, patients: int) -> Database:
    toy = synth.Toy(patients=patients, slides_only=0, profiles_only=0, several=0, sites=2)
    return from_archive(synth.make(toy), tmp_path / "few")


def from_archive(archive: synth.Archive, place: Path) -> Database:
    files = synth.write_files(archive, place)
    database = Database.create(place / "toy.mq")
    ingest_slides(database, [files.slides], options=Options(), encoder="toy")
    ingest_profiles(database, [files.profiles], options=Options(genes_in="columns"), scale="log2")
    return database


def test_fewer_than_thirty_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="at least 30 pairs") as caught:
        align(few(tmp_path, 29), AlignSettings(method="cca"))
    assert "29 pairs" in str(caught.value)


def test_thirty_pairs_on_two_sites_are_enough_without_site_folds(tmp_path: Path) -> None:
    database = few(tmp_path, 30)
    report = align(database, AlignSettings(method="cca"))
    assert {fold.scheme for fold in report.space.folds} == {PATIENT_SCHEME}
    assert any("no folds by site" in note for note in report.notes)
    assert SITE_SCHEME not in Engine(database).operators


@pytest.mark.parametrize(
    ("side", "noun"), [("embeddings", "slide values"), ("expression", "genes")]
)
def test_a_side_that_does_not_vary_is_refused(tmp_path: Path, side: str, noun: str) -> None:
    archive = synth.make(synth.Toy(patients=50, slides_only=0, profiles_only=0))
    constant = np.full_like(getattr(archive, side), 7)
    database = from_archive(replace(archive, **{side: constant}), tmp_path / "constant")
    with pytest.raises(SpaceError, match=f"{noun} are constant") as caught:
        align(database, AlignSettings(method="cca"))
    assert "nothing to learn" in str(caught.value)
    assert current_space(database) is None
    constant[:, :9] = getattr(archive, side)[:, :9]
    report = align(
        from_archive(replace(archive, **{side: constant}), tmp_path / "nearly"),
        AlignSettings(method="cca"),
    )
    lost = constant.shape[1] - 9
    assert f"{lost} of {lost + 9} {noun} are constant or missing in every pair" in report.notes
    assert not np.isnan(report.space.final.anchors).any()


def test_wrong_settings_are_refused(ingested_copy: Path) -> None:
    database = Database.open(ingested_copy)
    with pytest.raises(InputError, match="not an alignment method"):
        align(database, AlignSettings(method="magic"))
    with pytest.raises(ColumnError, match="no column tumour"):
        align(database, AlignSettings(method="cca", pair_on="tumour"))
    assert current_space(database) is None


def test_a_damaged_space_is_noticed(aligned_copy: Path) -> None:
    database = Database.open(aligned_copy)
    (heads,) = (aligned_copy / "spaces").rglob("heads.safetensors")
    blob = bytearray(heads.read_bytes())
    blob[-5] ^= 1
    heads.write_bytes(bytes(blob))
    with pytest.raises(SpaceError, match="sha256"):
        current_space(database)
    heads.unlink()
    with pytest.raises(SpaceError, match="missing"):
        current_space(database)


def test_soft_weights_are_a_softmax_over_all_when_profiles_are_few() -> None:
    rng = np.random.default_rng(0)
    x, r = unit(rng.normal(size=(5, 6))), unit(rng.normal(size=(20, 6)))
    hubs = rng.normal(size=20).astype(np.float32) * 0.1
    expected = np.exp((x @ r.T - hubs) / 0.1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict.soft_weights(x, r, hubs), expected, atol=1e-5)


def test_normal_tissue_is_not_paired_with_the_tumour(tmp_path: Path) -> None:
    n = 40
    rng = np.random.default_rng(0)
    patients = [f"TCGA-AA-{i:04d}" for i in range(n)]
    slides = {f"{p}-01Z-00-DX1": p for p in patients} | {f"{patients[0]}-11A-01-TS1": patients[0]}
    profiles = {f"{p}-01": p for p in patients} | {f"{p}-11": p for p in patients[:3]}
    # R's dots, and the barcode of a sample where the patient is meant, are the same patient.
    profiles = {k.replace("-", ".") if i % 2 else k: v for i, (k, v) in enumerate(profiles.items())}
    database = Database.create(tmp_path / "db")
    vectors = rng.normal(size=(len(slides), 16)).astype(np.float32)
    pq.write_table(pa.table({"slide_id": list(slides), "v": list(vectors)}), tmp_path / "s")
    ingest_slides(database, [tmp_path / "s"], options=Options(), encoder="toy")
    genes = [f"{s}" for s in collections.hallmark()[0].genes[:60]]
    values = rng.gamma(2, 2, size=(len(profiles), 60)).astype(np.float32)
    columns = {g: values[:, j] for j, g in enumerate(genes)}
    held = {"sample_id": list(profiles), "patient_id": [f"{v}-01A" for v in profiles.values()]}
    pq.write_table(pa.table({**held, **columns}), tmp_path / "p")
    report = ingest_profiles(database, [tmp_path / "p"], options=Options(), scale="log2")
    assert any("3 profiles are of normal tissue" in note for note in report.notes)
    pairs = load_pairs(database, pair_on="patient_id", split_on="patient_id")
    found = {
        (str(a), str(b).replace(".", "-"))
        for a, b in zip(
            pairs.slides.ids[pairs.slide], pairs.profiles.ids[pairs.profile], strict=True
        )
    }
    tumour = {(f"{p}-01Z-00-DX1", f"{p}-01") for p in patients}
    assert found == tumour | {(f"{patients[0]}-11A-01-TS1", f"{patients[0]}-11")}
