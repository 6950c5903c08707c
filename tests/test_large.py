"""An archive that is large to all limits: what is said of single slides is what all of it says."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from molquery import barcodes, predict
from molquery.database import Database
from molquery.database.mapped import Rows
from molquery.errors import DatabaseError
from molquery.evaluate.metrics import within_cohort_r
from molquery.files import write_bytes
from molquery.genesets import collections
from molquery.predict import Operator
from molquery.query import calibrate, prepared
from molquery.query.engine import Engine
from molquery.query.search import Ranking, search
from molquery.query.vector import signature_vector
from molquery.schema import SLIDES

HYPOXIA = collections.find("HALLMARK_HYPOXIA")
SAMPLE = 40


@pytest.fixture
def large(aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The toy archive of a few hundred slides, with limits that it is beyond."""
    shutil.copytree(aligned, tmp_path / "copy.mq")
    monkeypatch.setattr(predict, "_DENSE_CELLS", 0)
    monkeypatch.setattr(predict, "_BLOCK", 64)
    monkeypatch.setattr(predict, "_ROUGH_BLOCK", 32)
    monkeypatch.setattr(predict, "_WORTH_SOLVING", 20)
    monkeypatch.setattr(prepared, "_LARGE", 0)
    monkeypatch.setattr(calibrate, "WHOLE", 100)
    monkeypatch.setattr(calibrate, "SAMPLE", SAMPLE)
    monkeypatch.setattr(calibrate, "_FEW_GROUPS", 1)
    return Engine(Database.open(tmp_path / "copy.mq"))


def null_of(engine: Engine, count: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Scores of the signature and of its random sets in every slide, and measured ones."""
    match, measured = engine.reference.score_one(HYPOXIA)
    sets = calibrate.random_sets(
        engine.reference, match.positions, match.weights, count=count,
        seed=[0, int(HYPOXIA.sha256[:8], 16)],
    )  # fmt: skip
    random = engine.reference.matrix(sets)
    return engine.predict(measured)[:, 0], engine.predict(random), measured[:, 0], random


@pytest.mark.parametrize("where", [None, "cohort = 'COHORT-A'"])
def test_hits_have_the_values_that_the_whole_archive_gives(
    large: Engine, where: str | None
) -> None:
    found = search(large, HYPOXIA, k=7, null=150, where=where)
    hits = found.hits.to_pylist()
    assert isinstance(large.operator.weights, Rows)
    predicted, null, measured, random = null_of(large, 150)
    allowed = np.ones(len(predicted), bool) if where is None else large.cohorts == "COHORT-A"
    order = [i for i in np.argsort(-predicted, kind="stable") if allowed[i]][:7]
    assert [h["slide_id"] for h in hits] == large.slide_ids[order].tolist()
    low, high = large.intervals(predicted, measured)
    p = (1 + (null >= predicted[:, None]).sum(axis=1)) / 151
    ranked = np.flatnonzero(allowed)
    among = ranked[:: len(ranked) // SAMPLE] if len(ranked) > 100 else ranked
    q = stats.false_discovery_control(p[among], method="bh")
    for hit, i in zip(hits, order, strict=True):
        own = predicted[large.cohorts == large.cohorts[i]]
        assert hit["score"] == predicted[i]
        assert (hit["low"], hit["high"]) == (low[i], high[i])
        assert hit["percentile"] == pytest.approx(
            stats.percentileofscore(predicted, predicted[i], kind="mean"), rel=1e-12
        )
        assert hit["cohort_percentile"] == pytest.approx(
            stats.percentileofscore(own, predicted[i], kind="mean"), rel=1e-12
        )
        assert hit["cohort_z"] == pytest.approx((predicted[i] - own.mean()) / own.std(), rel=1e-12)
        assert hit["p"] == p[i]
        above = q[p[among] >= p[i]]
        assert hit["fdr"] == pytest.approx(above.min() if len(above) else p[i], rel=1e-12)
        assert hit["domain"] == ("out" if large.out_of_domain[i] else "in")
        assert hit["patient_id"] == large.patients[i]
    assert found.n_ranked == allowed.sum()
    specific(large, found, null, random)


def specific(engine: Engine, found: Ranking, null: object, random: object) -> None:
    """Specificity from the predictions of all random sets in all slides."""
    pairs = engine.pairs
    labels = [c or None for c in pairs.cohorts.tolist()]
    each = within_cohort_r(pairs.average(null), random[pairs.profiles], labels, min_n=20)[0]  # type: ignore[arg-type,index]
    quality = found.predictability
    assert quality.random_r == pytest.approx(each.mean(), rel=1e-5)
    assert quality.specificity_percentile == pytest.approx(
        100 * float((each < quality.within_r).mean()), abs=1
    )


def test_a_small_and_a_large_archive_say_the_same(large: Engine, aligned: Path) -> None:
    """But for the sample behind fdr, and rounding."""
    small = search(Engine(Database.open(aligned)), HYPOXIA, k=30, null=150)
    same = search(large, HYPOXIA, k=30, null=150)
    for name in small.hits.column_names:
        a, b = (r.hits[name].to_pylist() for r in (small, same))
        if name == "fdr":
            continue
        if isinstance(a[0], float):
            np.testing.assert_allclose(b, a, rtol=2e-4, err_msg=name)
        else:
            assert a == b


def test_an_excerpt_gives_what_the_whole_gives(large: Engine) -> None:
    """Rows that every question asks for are stored twice; which are read makes no difference."""
    assert large.operator.excerpt is None, "the fixture's were stored when it was a small archive"
    large.database.update_manifest(lambda manifest: manifest["predictions"].clear())
    database = Database.open(large.database.path)
    search(Engine(database), HYPOXIA, k=3, null=0)
    engine = Engine(database)
    excerpt = engine.operator.excerpt
    assert excerpt is not None
    wanted = np.union1d(engine.sample, engine.pairs.slide)
    np.testing.assert_array_equal(excerpt.rows, wanted)
    assert len(wanted) < engine.n_slides
    whole = replace(engine.operator, excerpt=None)
    scores = np.random.default_rng(0).normal(size=(whole.n_reference, 9)).astype(np.float32)
    shuffled = np.random.default_rng(1).permutation(wanted)
    every = np.arange(engine.n_slides)
    for s in (1, 2, 9):
        for part in ("apply", "soft", "linear"):
            one, other = (
                getattr(operator, part)(scores[:, :s], shuffled)
                for operator in (engine.operator, whole)
            )
            np.testing.assert_array_equal(one, other)
            some, all_ = (
                getattr(operator, part)(scores[:, :s], every[::-1])
                for operator in (engine.operator, whole)
            )
            np.testing.assert_allclose(some, all_, rtol=0, atol=1e-6 if s > 7 else 0)
    np.testing.assert_allclose(
        engine.operator.roughly(scores, every), whole.apply(scores), rtol=0, atol=2e-6
    )
    assert (
        search(engine, HYPOXIA, k=9, null=150)
        .hits.drop(["p", "fdr"])
        .equals(search(large, HYPOXIA, k=9, null=150).hits.drop(["p", "fdr"]))
    )


@pytest.mark.parametrize(
    ("where", "least", "lacking"), [(None, 13, 8), ("cohort = 'COHORT-A'", 12, 0)]
)
def test_with_an_index_no_slide_is_scored_that_nobody_asks_about(
    large: Engine, monkeypatch: pytest.MonkeyPatch, where: str | None, least: int, lacking: int
) -> None:
    monkeypatch.setattr(calibrate, "LEAST_OF_GROUP", least)
    monkeypatch.setattr("molquery.query.search._MIN_CANDIDATES", 25)
    monkeypatch.setattr("molquery.query.search._CANDIDATES_PER_HIT", 1)
    predicted, null, measured, _ = null_of(large, 150)
    low, high = large.intervals(predicted, measured)
    p = (1 + (null >= predicted[:, None]).sum(axis=1)) / 151
    every = Operator.apply
    asked: list[int] = []

    def apply(self: Operator, scores: object, slides: object = None) -> object:
        if len(self.rows) == large.n_slides:
            asked.append(large.n_slides if slides is None else len(slides))  # type: ignore[arg-type]
        return every(self, scores, slides)  # type: ignore[arg-type]

    monkeypatch.setattr(Operator, "apply", apply)
    engine = Engine(large.database)
    found = search(engine, HYPOXIA, k=9, null=150, where=where, use_index=True)
    assert asked
    assert max(asked) == len(large.pairs.slide) < large.n_slides
    large.answers.clear()

    sample = large.sample
    allowed = np.ones(len(predicted), bool) if where is None else large.cohorts == "COHORT-A"
    vector = signature_vector(large.slide_vectors[sample], predicted[sample])
    near = np.where(allowed, large.slide_vectors @ vector.astype(np.float32), -np.inf)
    nearest = np.sort(np.argsort(-near, kind="stable")[:25])
    order = nearest[np.argsort(-predicted[nearest], kind="stable")[:9]]
    hits = found.hits.to_pylist()
    assert [h["slide_id"] for h in hits] == large.slide_ids[order].tolist()
    few = 0
    for hit, i in zip(hits, order, strict=True):
        assert hit["score"] == pytest.approx(predicted[i], rel=1e-6)
        assert (hit["low"], hit["high"]) == pytest.approx((low[i], high[i]), rel=1e-6)
        assert hit["p"] == p[i]
        assert hit["percentile"] == pytest.approx(
            stats.percentileofscore(predicted[sample], predicted[i], kind="mean"), abs=1e-9
        )
        own = predicted[sample][large.cohorts[sample] == large.cohorts[i]]
        if len(own) < least:
            few += 1
            assert hit["cohort_percentile"] is None
            assert hit["cohort_z"] is None
        else:
            assert hit["cohort_percentile"] == pytest.approx(
                stats.percentileofscore(own, predicted[i], kind="mean"), abs=1e-9
            )
            z = (predicted[i] - own.mean()) / own.std()
            assert hit["cohort_z"] == pytest.approx(z, rel=1e-5)
    said = "\n".join(found.notes)
    assert "only the 25 slides nearest to the signature's vector are ranked" in said
    assert f"percentiles are among {len(sample)} evenly spaced ones of {len(predicted)}" in said
    assert few == lacking
    assert (f"no cohort_z of {few} slides" in said) == (few > 0)
    assert found.agreement == pytest.approx(
        stats.spearmanr(large.slide_vectors[sample] @ vector, predicted[sample])[0], rel=1e-5
    )


def test_damage_is_found_in_the_rows_that_are_read(large: Engine) -> None:
    first = search(large, HYPOXIA, k=3, null=0)
    database = large.database
    path = database.path / database.manifest()["predictions"]["default"]["file"]
    content = bytearray(path.read_bytes())
    start = content.find(np.ascontiguousarray(large.operator.weights[5:6]).tobytes())
    assert start > 0
    content[start + 3] ^= 1
    write_bytes(path, bytes(content))  # a file of its own: the old one is still mapped
    with pytest.raises(DatabaseError, match="is damaged"):
        search(Engine(Database.open(database.path)), HYPOXIA, k=3, null=0)
    weights = Engine(Database.open(database.path)).operator.weights
    np.testing.assert_array_equal(weights[np.array([4, 6])], large.operator.weights[[4, 6]])
    with pytest.raises(DatabaseError, match=r"row 5 of patient\.weights is not what was written"):
        weights[np.array([4, 5])]
    with pytest.raises(DatabaseError, match=r"bytes \d+ and on"):
        weights[np.arange(len(weights))]
    content[start + 3] ^= 1
    write_bytes(path, bytes(content))
    again = search(Engine(Database.open(database.path)), HYPOXIA, k=3, null=0)
    assert again.hits.equals(first.hits)


def test_texts_in_parts_are_those_of_the_whole(
    large: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = large.database.read(SLIDES, [SLIDES.key, "content_hash", "patient_id", "cohort"])
    whole = predict._content(table, ["patient_id", "cohort"])
    ids = np.array([f"TCGA-AB-{i:04d}-{'11' if i % 3 else '01'}A" for i in range(20)])
    keys = np.array(["" if i == 4 else f"P{'x' * i}" for i in range(20)])
    monkeypatch.setattr(predict, "REMOTE", 7)
    monkeypatch.setattr(barcodes, "_AT_A_TIME", 7)
    np.testing.assert_array_equal(predict._content(table, ["patient_id", "cohort"]), whole)
    assert len(np.unique(whole, axis=0)) == len(table)
    found = barcodes.pair_key_array(ids, keys).tolist()
    assert found == barcodes.pair_keys(ids.tolist(), keys.tolist())
    assert found[4:6] == ["", "Pxxxxx (normal tissue)"]
    assert len(barcodes.pair_key_array(ids[:0], keys[:0])) == 0


def test_the_first_question_tells_how_far_it_is(large: Engine) -> None:
    large.database.update_manifest(lambda manifest: manifest["predictions"].clear())
    told: list[tuple[str, int, int]] = []
    ended = []

    @contextmanager
    def progress() -> Iterator[Callable[[str, int, int], None]]:
        yield lambda *step: told.append(step)
        ended.append(len(told))

    engine = Engine(Database.open(large.database.path), None, progress)
    search(engine, HYPOXIA, k=3, null=0)
    steps = [(done, total) for stage, done, total in told if stage == prepared.STAGE]
    assert steps[0] == (0, engine.n_slides)
    assert steps[-1] == (engine.n_slides, engine.n_slides)
    assert steps == sorted(steps)
    assert ended == [len(told)]
    search(Engine(Database.open(large.database.path), None, progress), HYPOXIA, k=3, null=0)
    assert ended == [len(told)], "what is there needs no progress"
