"""Cohorts held out of a space, and what a few of their pairs give."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ENCODER, Cli, ingest_all
from pyarrow import parquet

from molquery import synth
from molquery.align import adapt as adapting
from molquery.align.adapt import CurvePoint, adapt, adaptation_curve
from molquery.align.left_out import Yardstick
from molquery.align.pairs import load_pairs
from molquery.align.train import AlignSettings, align
from molquery.database import Database
from molquery.errors import ColumnError, InputError, MolqueryError, NotReadyError, SpaceError
from molquery.evaluate import metrics
from molquery.genesets import collections
from molquery.ingest import ingest_profiles, ingest_slides
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME
from molquery.query.engine import Engine
from molquery.readers import Options
from molquery.schema import PROFILES, SLIDES
from molquery.space import need_space

RULE = "cohort=COHORT-B"
HELD_OUT = AlignSettings(method="cca", hold_out=RULE)


@pytest.fixture(scope="module")
def held_out(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy archive, aligned without the RNA of one cohort. Read it, do not write to it."""
    path = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("held") / "toy.mq"))
    align(Database.open(path), HELD_OUT)
    assert Engine(Database.open(path)).prepared.spectrum  # stored before the tree is compared
    return path


@pytest.fixture
def held_out_copy(held_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(held_out, tmp_path / "held.mq"))


@pytest.fixture(scope="module")
def never_measured(files: synth.Files, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """The same archive without any RNA of that cohort."""
    place = tmp_path_factory.mktemp("never")
    table = parquet.read_table(files.profiles)
    keep = np.array(table["cohort"].to_pylist()) != "COHORT-B"
    assert 0 < keep.sum() < len(keep)
    parquet.write_table(table.filter(keep), place / "profiles.parquet")
    database = Database.create(place / "toy.mq")
    ingest_all(database, replace(files, profiles=place / "profiles.parquet"))
    align(database, AlignSettings(method="cca"))
    return database


# Holding out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [PATIENT_SCHEME, SITE_SCHEME, "cohort"])
def test_a_cohort_held_out_is_as_if_its_rna_had_never_been_measured(
    held_out: Path, never_measured: Database, engine: Engine, scheme: str
) -> None:
    here, there = Engine(Database.open(held_out)), Engine(never_measured)
    np.testing.assert_array_equal(here.slide_ids, there.slide_ids)
    assert here.reference.genes == there.reference.genes
    np.testing.assert_allclose(here.reference.moments.mean, there.reference.moments.mean)
    sets = [(np.arange(3, 20), np.ones(17)), (np.arange(40, 60), np.linspace(-1, 2, 20))]
    # But for the schemes that measure quality, whose operators are of the slides with RNA.
    covered = [e.operators[scheme].rows for e in (here, there, engine)]
    common = np.intersect1d(np.intersect1d(covered[0], covered[1]), covered[2])
    assert len(common) == (len(here.slide_ids) if scheme == PATIENT_SCHEME else len(covered[1]))
    mine, other, usual = (
        e.operators[scheme].apply(e.reference.matrix(sets), common) for e in (here, there, engine)
    )
    np.testing.assert_allclose(mine, other, atol=1e-4)
    assert np.abs(usual - other).max() > 0.05, "the RNA of the cohort makes no difference here"
    every = np.arange(len(here.slide_ids))
    assert here.basis(every) == there.basis(every)
    for name in ("r2", "within_r"):
        a, b = (next(iter(e.spectrum.values())) for e in (here, there))
        assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-4)


def test_stored_quality_is_that_of_the_scores_a_search_gives(held_out: Path) -> None:
    engine = Engine(Database.open(held_out))
    told = engine.facts["hold_out"]
    assert told["rule"] == RULE
    mine = np.flatnonzero(engine.reference.cohorts == "COHORT-B")
    assert set(engine.reference.ids[mine]) == set(told["profiles"])
    scored = engine.reference.score(collections.hallmark())
    keep = [i for i, m in enumerate(scored.matches) if len(m.positions) >= 10]
    assert len(keep) == told["quality"]["n_sets"] >= 4
    predicted = engine.predict(scored.scores[:, keep])
    rows = [[i for i in np.flatnonzero(engine.patients == engine.reference.patients[j])]
            for j in mine]  # fmt: skip
    tested = [j for j, r in zip(mine, rows, strict=True) if r]
    y = np.array([predicted[r].mean(axis=0) for r in rows if r])
    s = scored.scores[np.ix_(tested, keep)]
    assert told["quality"]["n_profiles"] == told["quality"]["n_patients"] == len(tested)
    r = [np.corrcoef(y[:, k], s[:, k])[0, 1] for k in range(len(keep))]
    r2 = 1 - ((s - y) ** 2).sum(axis=0) / ((s - s.mean(axis=0)) ** 2).sum(axis=0)
    assert told["quality"]["within_r"] == pytest.approx(np.median(r), abs=1e-4)
    assert told["quality"]["r2"] == pytest.approx(np.median(r2), abs=1e-4)
    assert told["quality"]["within_r"] > 0.5, "the signal is planted in every cohort"

    vectors = engine.profile_vectors[tested]
    hubs = need_space(engine.database).final.hubness(vectors)
    hits = []
    for at, r_rows in enumerate(r for r in rows if r):
        for i in r_rows:
            cosine = vectors @ engine.slide_vectors[i] - hubs
            hits.append((cosine > cosine[at]).sum() < 10)
    fold = np.mean(hits) / (10 / len(tested))
    assert told["quality"]["fold10"] == pytest.approx(fold, rel=1e-3)


def test_what_was_held_out_is_said_everywhere(held_out: Path, cli: Cli) -> None:
    info = json.loads(cli("--db", held_out, "info", "--format", "json").out)
    assert info["space: held out"] == RULE
    assert info["space: held out: within_r"] > 0.5
    done = cli("--db", held_out, "search", "--geneset", "HALLMARK_HYPOXIA", "-k", 3)
    assert "held out of this space" in done.err
    assert RULE in done.err


def test_align_prints_how_the_held_out_cohort_is_predicted(ingested_copy: Path, cli: Cli) -> None:
    done = cli("--db", ingested_copy, "align", "--method", "cca", "--hold-out", RULE)
    assert done.code == 0
    assert f"Held out: {RULE}" in done.out
    again = cli("--db", ingested_copy, "align", "--method", "cca")
    assert "Held out" not in again.out
    assert "hold_out" not in need_space(Database.open(ingested_copy)).facts


@pytest.mark.parametrize(
    ("rule", "error", "text"),
    [
        ("COHORT-B", InputError, "COLUMN=VALUE"),
        ("cohort=", InputError, "COLUMN=VALUE"),
        ("cohort=COHORT-Q", InputError, "--hold-out cohort=COHORT-"),
        ("tumour=x", ColumnError, "neither slides nor profiles have a column tumour"),
    ],
)
def test_rules_that_name_nothing(
    ingested: Path, unchanged, rule: str, error: type[MolqueryError], text: str
) -> None:
    unchanged(ingested)
    with pytest.raises(error, match=text):
        align(Database.open(ingested), AlignSettings(method="cca", hold_out=rule))


def test_a_cohort_without_pairs_cannot_be_held_out(ingested_copy: Path) -> None:
    database = Database.open(ingested_copy)
    table = database.read(SLIDES, ["slide_id", "patient_id"])
    with_rna = set(database.read(PROFILES, ["patient_id"])["patient_id"].to_pylist())
    lone = [s for s, p in zip(*table.to_pydict().values(), strict=True) if p not in with_rna]
    assert lone
    with pytest.raises(InputError, match="no pair of slide and RNA"):
        align(database, AlignSettings(method="cca", hold_out=f"slide_id={lone[0]}"))


def test_the_only_cohort_cannot_be_held_out(tmp_path: Path) -> None:
    toy = synth.Toy(patients=60, cohorts=1, slides_only=0, profiles_only=0, several=0)
    files = synth.write_files(synth.make(toy), tmp_path / "one")
    database = Database.create(tmp_path / "one.mq")
    ingest_slides(database, [files.slides], options=Options(), encoder=ENCODER)
    ingest_profiles(database, [files.profiles], options=Options(genes_in="columns"), scale="log2")
    with pytest.raises(SpaceError, match="too few pairs are left") as caught:
        align(database, AlignSettings(method="cca", hold_out="cohort=COHORT-A"))
    assert "0 of 60 pairs" in str(caught.value)
    align(database, AlignSettings(method="cca"))  # one cohort is enough to learn from
    with pytest.raises(InputError, match="no patient with slide and RNA is held out"):
        adapt(database, 4)


# Adapting ----------------------------------------------------------------------------------------


def test_pairs_added_are_trained_on_and_the_others_tell_how_it_went(held_out_copy: Path) -> None:
    database = Database.open(held_out_copy)
    space = need_space(database)
    before = space.facts["hold_out"]
    found = adapt(database, 12, seed=3)
    now = need_space(database)
    added = set(now.facts["adaptation"]["groups"])
    assert (found.added, found.total, len(added)) == (12, 12, 12)
    assert added <= set(before["groups"])
    assert now.left_out == set(before["groups"]) - added
    assert now.facts["n_groups"] == space.facts["n_groups"] + 12
    assert found.before is not None
    assert found.after is not None
    assert found.before.n_patients == found.after.n_patients
    assert found.after.n_patients == before["quality"]["n_patients"] - 12
    # The figures before are those of the space that was held against the same patients.
    pairs = load_pairs(database, pair_on="patient_id", split_on="patient_id")
    whole = pairs.without(before["groups"], RULE)
    again = Yardstick.of(database, whole).measure(whole, space.final, now.left_out)
    assert found.before == again

    engine = Engine(database)
    held = engine.held_out & (engine.cohorts == "COHORT-B")
    assert set(engine.patients[held].tolist()) == added, "scored by a fold that held them out"
    basis = np.array(engine.basis(np.arange(len(engine.slide_ids))))
    assert "unseen cohort" not in basis

    more = adapt(database, 5)
    assert (more.added, more.total) == (5, 17)
    assert added < set(need_space(database).facts["adaptation"]["groups"])


def test_a_smaller_draw_is_part_of_a_larger_one(held_out: Path, tmp_path: Path) -> None:
    drawn = []
    for n in (4, 9):
        path = Path(shutil.copytree(held_out, tmp_path / f"{n}.mq"))
        adapt(Database.open(path), n, seed=1)
        drawn.append(set(need_space(Database.open(path)).facts["adaptation"]["groups"]))
    assert drawn[0] < drawn[1]


def test_with_all_pairs_the_space_is_that_of_a_plain_align(
    held_out_copy: Path, aligned: Path
) -> None:
    database = Database.open(held_out_copy)
    n = need_space(database).facts["hold_out"]["quality"]["n_patients"]
    found = adapt(database, n)
    assert found.before is None
    assert found.after is None
    mine, plain = need_space(database), need_space(Database.open(aligned))
    assert mine.left_out == frozenset()
    np.testing.assert_array_equal(mine.final.anchors, plain.final.anchors)
    layers = zip(mine.final.slide_heads[0], plain.final.slide_heads[0], strict=True)
    assert all(np.array_equal(a.weight, b.weight) for a, b in layers)


def test_pairs_that_came_after_align_are_added(
    never_measured: Database, files: synth.Files, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(never_measured.path, tmp_path / "later.mq"))
    database = Database.open(path)
    with pytest.raises(InputError, match="none came after align"):
        adapt(database, 4)
    ingest_profiles(database, [files.profiles], options=Options(), scale="log2")
    found = adapt(database, 10)
    assert "came after align" in found.rule
    assert found.after is not None
    assert found.after.n_patients + 10 == len(
        set(database.read(SLIDES, ["patient_id"], where="cohort = 'COHORT-B'")["patient_id"]
            .to_pylist())
        & set(database.read(PROFILES, ["patient_id"])["patient_id"].to_pylist())
    )  # fmt: skip
    assert len(need_space(database).facts["adaptation"]["groups"]) == 10


def test_adapting_prints_before_and_after(held_out_copy: Path, cli: Cli) -> None:
    done = cli("--db", held_out_copy, "adapt", "--pairs", 8, "--format", "json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["before"]["n_patients"] == told["after"]["n_patients"]
    assert "8 patients of cohort=COHORT-B added" in done.err
    rows = cli("--db", held_out_copy, "adapt", "--pairs", 1).out.splitlines()
    assert rows[0].split("\t") == ["pairs", "tested", "within_r", "r2", "fold10"]
    assert [row.split("\t")[0] for row in rows[1:]] == ["8", "9"]


def test_what_cannot_be_adapted(
    held_out: Path, aligned: Path, ingested: Path, cli: Cli, unchanged
) -> None:
    for path in (held_out, aligned, ingested):
        unchanged(path)
    with pytest.raises(InputError, match="5000 pairs cannot be added") as caught:
        adapt(Database.open(held_out), 5000)
    assert "--pairs" in str(caught.value)
    with pytest.raises(InputError, match="no patient with slide and RNA is held out"):
        adapt(Database.open(aligned), 4)
    with pytest.raises(NotReadyError, match="no shared space"):
        adapt(Database.open(ingested), 4)
    for words in ([], ["--pairs", 4, "--curve"], ["--pairs", 0]):
        assert cli("--db", held_out, "adapt", *words).code == 2


# Curves ------------------------------------------------------------------------------------------


def test_a_curve_tests_on_patients_that_no_model_has_seen(
    held_out: Path, unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged(held_out)
    told: list[tuple[set[str], set[str]]] = []
    measure, predict = Yardstick.measure, Yardstick.predict

    def watched(self, pairs, model, groups):  # type: ignore[no-untyped-def]
        told.append((set(pairs.groups.tolist()), set(groups)))
        return measure(self, pairs, model, groups)

    def watched_full(self, pairs, model, groups):  # type: ignore[no-untyped-def]
        told.append((set(pairs.groups.tolist()), set(groups)))
        return predict(self, pairs, model, groups)

    monkeypatch.setattr(Yardstick, "measure", watched)
    monkeypatch.setattr(Yardstick, "predict", watched_full)
    curve = adaptation_curve(Database.open(held_out), counts=(0, 8, 24, 500), seeds=2)
    assert all(not seen & tested for seen, tested in told)
    outside = {frozenset(seen) for seen, _ in told if len(seen) == min(len(s) for s, _ in told)}
    assert len(outside) == 1
    (others,) = outside  # the patients of the other cohorts
    added = sorted(len(seen - others) for seen, _ in told)
    n = curve.n_patients
    fifths = [n - len(part) for part in np.array_split(np.arange(n), 5)]
    assert added == sorted([0, 0, 8, 8, 24, 24, *fifths])
    assert [p.pairs for p in curve.points] == [0, 8, 24]
    assert curve.n_tested == n // 2
    *_, most = curve.points
    assert curve.full.within_r is not None
    assert most.r2 is not None
    assert curve.points[0].r2 is not None
    assert most.r2 > curve.points[0].r2, "the level of a cohort is learned from its pairs"
    assert curve.full.within_r > 0.7
    assert curve.reached in (0, 8, 24)


def test_the_full_point_is_a_cross_validation(held_out: Path) -> None:
    """With every pair, each patient is predicted by a model of all others but its fold."""
    database = Database.open(held_out)
    curve = adaptation_curve(database, counts=(0,), seeds=3)
    align_all = Path(shutil.copytree(held_out, held_out.parent / "all.mq"))
    align(Database.open(align_all), AlignSettings(method="cca"))
    engine = Engine(Database.open(align_all))
    scored = engine.reference.score(collections.hallmark())
    keep = [i for i, m in enumerate(scored.matches) if len(m.positions) >= 10]
    predicted = engine.pairs.predicted(engine.operator, scored.scores[:, keep])
    mine = engine.pairs.cohorts == "COHORT-B"
    r = metrics.pearson(predicted[mine], scored.scores[np.ix_(engine.pairs.profiles[mine], keep)])
    assert curve.full.within_r == pytest.approx(float(np.median(r)), abs=0.05)


@pytest.mark.parametrize(
    ("values", "full", "expected"),
    [
        ((0.30, 0.44, 0.46), 0.50, 32),
        ((0.45, 0.40, 0.46), 0.50, 32),
        ((0.45, 0.45, 0.46), 0.50, 0),
        ((0.45, 0.46, 0.40), 0.50, None),
        ((0.30, 0.31, None), 0.50, None),
        ((0.30, 0.31, 0.32), None, None),
        ((-0.1, -0.1, -0.1), -0.1, None),
    ],
)
def test_how_many_pairs_reach_nine_tenths(
    values: tuple[float | None, ...], full: float | None, expected: int | None
) -> None:
    points = [
        CurvePoint(n, value, None, None, None, None, None)
        for n, value in zip((0, 8, 32), values, strict=True)
    ]
    assert adapting._reached(points, full) == expected


def test_a_curve_needs_patients_to_test_on(ingested_copy: Path) -> None:
    database = Database.open(ingested_copy)
    align(database, AlignSettings(method="cca", hold_out="site=S00"))
    with pytest.raises(InputError, match="at least 40 patients held out"):
        adaptation_curve(database)


def test_a_curve_from_the_command_line(held_out: Path, cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "curve.json"
    done = cli("--db", held_out, "adapt", "--curve", "--seeds", 1, "--output", target)
    assert done.code == 0, done.err
    told = json.loads(target.read_text())
    assert told["rule"] == RULE
    assert [p["pairs"] for p in told["points"]][:4] == [0, 4, 8, 16]
    assert told["points"][0]["within_r_sd"] is None  # one seed has no spread
    assert "90% of the within_r with all pairs" in done.err
