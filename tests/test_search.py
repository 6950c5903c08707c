"""Search: the order, the filters, the calibration and the null, against plain Python and scipy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from molquery import synth
from molquery.database import Database
from molquery.errors import ColumnError, FilterError, GeneSetError, InputError
from molquery.evaluate.metrics import empirical_p
from molquery.genesets import collections
from molquery.genesets.inline import parse_genes
from molquery.query import answer as answering
from molquery.query import calibrate
from molquery.query.engine import Engine
from molquery.query.search import COLUMNS, Ranking, search
from molquery.query.vector import signature_vector
from molquery.records import Signature
from molquery.schema import SLIDES
from molquery.texts import Texts
from molquery.vectors import Float

HYPOXIA = collections.find("HALLMARK_HYPOXIA")


@pytest.fixture(scope="module")
def predicted(engine: Engine) -> Float:
    return engine.predict(engine.reference.score([HYPOXIA]).scores)[:, 0]


@pytest.fixture(scope="module")
def everything(engine: Engine) -> Ranking:
    return search(engine, HYPOXIA, k=10_000, null=100)


def ids(ranking: Ranking) -> list[str]:
    return list(ranking.hits["slide_id"].to_pylist())


# Order and filters -------------------------------------------------------------------------------


def test_order_equals_brute_force(engine: Engine, everything: Ranking, predicted: Float) -> None:
    of_slide = dict(zip(engine.slide_ids.tolist(), predicted.tolist(), strict=True))
    scores = everything.hits["score"].to_pylist()
    assert sorted(ids(everything)) == sorted(of_slide)
    np.testing.assert_allclose(scores, [of_slide[i] for i in ids(everything)], atol=1e-5)
    keys = [(-score, i) for score, i in zip(scores, ids(everything), strict=True)]
    assert keys == sorted(keys)
    assert everything.hits["rank"].to_pylist() == list(range(1, len(of_slide) + 1))
    assert ids(search(engine, HYPOXIA, k=7, null=0)) == ids(everything)[:7]


def test_the_top_slides_are_those_of_active_patients(
    everything: Ranking, archive: synth.Archive
) -> None:
    truth = dict(zip(archive.patients, archive.activity[:, list(archive.gene_sets).index(
        "HALLMARK_HYPOXIA")], strict=True))  # fmt: skip
    active = np.array([truth[p] for p in everything.hits["patient_id"].to_pylist()])
    assert stats.spearmanr(active, everything.hits["score"].to_numpy()).statistic > 0.8
    assert active[:20].mean() > 1


def test_columns_are_those_that_are_documented(everything: Ranking) -> None:
    assert everything.hits.column_names == list(COLUMNS)


def test_where_equals_filtering_in_python(engine: Engine, everything: Ranking) -> None:
    table = engine.database.read(SLIDES, ["slide_id", "age", "sex", "cohort"]).to_pylist()
    keep = {r["slide_id"] for r in table if r["age"] > 60 and r["sex"] == "female"
            and r["cohort"] != "COHORT-B"}  # fmt: skip
    found = search(engine, HYPOXIA, k=10_000, null=0,
                   where="age > 60 AND sex = 'female' AND cohort <> 'COHORT-B'")  # fmt: skip
    assert 0 < len(keep) < len(table)
    assert ids(found) == [i for i in ids(everything) if i in keep]
    assert found.n_ranked == len(keep)
    before = dict(zip(ids(everything), everything.hits["percentile"].to_pylist(), strict=True))
    assert found.hits["percentile"].to_pylist() == [before[i] for i in ids(found)]


def test_where_that_matches_nothing_answers_with_nothing(engine: Engine) -> None:
    found = search(engine, HYPOXIA, where="age > 1000")
    assert ids(found) == []
    assert "no slide satisfies the filter" in found.notes


def test_an_unknown_column_in_where_lists_the_columns(engine: Engine) -> None:
    with pytest.raises(FilterError, match="age, sex, subtype"):
        search(engine, HYPOXIA, where="aeg > 60")


def test_within_ranks_by_cohort_z(engine: Engine, predicted: Float) -> None:
    found = search(engine, HYPOXIA, k=10_000, within="cohort", null=0)
    z = {}
    for cohort in np.unique(engine.cohorts):
        rows = np.flatnonzero(engine.cohorts == cohort)
        z.update(zip(engine.slide_ids[rows], stats.zscore(predicted[rows]), strict=True))
    assert ids(found) == sorted(z, key=lambda i: (-z[i], i))
    np.testing.assert_allclose(found.hits["cohort_z"], [z[i] for i in ids(found)], atol=1e-5)


def test_a_remembered_answer_is_the_same_and_filters_still_apply(engine: Engine) -> None:
    fresh = search(engine, HYPOXIA, k=20)
    again = search(engine, HYPOXIA, k=20)
    assert again.to_dict() == fresh.to_dict()
    cohort = fresh.hits["cohort"][0].as_py()
    some = search(engine, HYPOXIA, k=20, where=f"cohort = '{cohort}'")
    assert set(some.hits["cohort"].to_pylist()) == {cohort}
    assert ids(some) != ids(fresh)


def test_within_any_column(engine: Engine, predicted: Float) -> None:
    found = search(engine, HYPOXIA, k=3, within="sex", null=0)
    assert "sex_z" in found.hits.column_names
    values = found.hits["sex_z"].to_pylist()
    assert values == sorted(values, reverse=True)
    with pytest.raises(ColumnError, match="no column nothing"):
        search(engine, HYPOXIA, within="nothing")


def test_ties_break_by_id(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    level = np.round(engine.predict(engine.reference.score([HYPOXIA]).scores), 0)
    monkeypatch.setattr(answering, "predict", lambda *_: level)
    monkeypatch.setattr(engine, "answers", {})
    found = search(engine, HYPOXIA, k=10_000, null=0).hits
    keys = list(zip((-found["score"].to_numpy()).tolist(), found["slide_id"].to_pylist(),
                    strict=True))  # fmt: skip
    assert len(set(found["score"].to_pylist())) < 12
    assert keys == sorted(keys)


# Calibration -------------------------------------------------------------------------------------


def test_percentiles_equal_scipy(everything: Ranking) -> None:
    scores = everything.hits["score"].to_numpy()
    cohorts = np.array(everything.hits["cohort"].to_pylist())
    for row in everything.hits.slice(0, 60).to_pylist():
        expected = stats.percentileofscore(scores, row["score"], kind="mean")
        assert row["percentile"] == pytest.approx(expected)
        own = scores[cohorts == row["cohort"]]
        expected = stats.percentileofscore(own, row["score"], kind="mean")
        assert row["cohort_percentile"] == pytest.approx(expected)


def test_fdr_equals_scipy_over_the_slides_ranked(engine: Engine) -> None:
    found = search(engine, HYPOXIA, k=10_000, null=100, where="cohort = 'COHORT-A'").hits
    expected = stats.false_discovery_control(found["p"].to_numpy(), method="bh")
    np.testing.assert_allclose(found["fdr"], expected, rtol=1e-12)


def test_p_counts_random_sets_that_score_as_high() -> None:
    null = np.random.default_rng(0).normal(size=(5, 200))
    scores = np.linspace(-3, 3, 5)
    p = empirical_p(scores, null)
    expected = [(1 + sum(x >= s for x in row)) / 201 for s, row in zip(scores, null, strict=True)]
    np.testing.assert_allclose(p, expected)


def test_random_sets_match_size_weights_and_expression(engine: Engine) -> None:
    reference = engine.reference
    positions = np.array([0, 5, 9, 33, 60, 80])
    weights = np.array([1.0, 1, 1, -1, 2, 1])
    sets = calibrate.random_sets(reference, positions, weights, count=300, seed=[1])
    assert len(sets) == 300
    rank = stats.rankdata(reference.expression.mean(axis=0)) / len(reference.genes)
    for drawn, same in sets:
        assert len(set(drawn.tolist())) == len(positions)
        assert not set(drawn.tolist()) & set(positions.tolist())
        assert np.abs(rank[drawn] - rank[positions]).max() <= 0.1 + 2 / len(rank)
        np.testing.assert_array_equal(same, weights)
    assert len({tuple(drawn.tolist()) for drawn, _ in sets}) > 290
    again = calibrate.random_sets(reference, positions, weights, count=300, seed=[1])
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(sets, again, strict=True))


def test_p_of_random_signatures_is_roughly_uniform(engine: Engine) -> None:
    """In one slide, over many random signatures: no more small p than chance allows."""
    generator = np.random.default_rng(5)
    usable = np.flatnonzero(engine.reference.usable)
    rows = [0, 50, 100]
    found = []
    for i in range(60):
        genes = [engine.reference.genes[j] for j in generator.choice(usable, 12, replace=False)]
        signature = Signature(f"R{i}", dict.fromkeys(genes, 1.0))
        match, scores = engine.reference.score_one(signature)
        sets = calibrate.random_sets(
            engine.reference, match.positions, match.weights, count=200, seed=[i]
        )
        null = engine.predict(engine.reference.matrix(sets))[rows]
        found.append(empirical_p(engine.predict(scores)[rows, 0], null))
    p = np.array(found)
    for column in p.T:
        assert stats.kstest(column, "uniform").pvalue > 0.001
    assert (p < 0.1).mean() < 0.22


def test_a_planted_signature_is_significant_at_the_top(everything: Ranking) -> None:
    p = everything.hits["p"].to_numpy()
    assert np.median(p[:10]) < 0.05
    assert np.median(p[-10:]) > 0.9


def test_null_is_off_refused_or_remembered(engine: Engine) -> None:
    assert "p" not in search(engine, HYPOXIA, null=0).hits.column_names
    for count in (-1, 50):
        with pytest.raises(InputError, match="at least 100"):
            search(engine, HYPOXIA, null=count)
    a, b = (search(engine, HYPOXIA, null=150).hits["p"].to_pylist() for _ in range(2))
    engine.answers.clear()
    assert search(engine, HYPOXIA, null=150).hits["p"].to_pylist() == a == b


# Signatures --------------------------------------------------------------------------------------


def test_opposite_weights_turn_the_ranking_round(engine: Engine) -> None:
    up = parse_genes("CXCL9,CXCL10,STAT1,IRF1,PSMB9")
    down = parse_genes("", down="CXCL9,CXCL10,STAT1,IRF1,PSMB9")
    first = search(engine, up, k=10_000, null=0, min_genes=3).hits["score"].to_numpy()
    last = search(engine, down, k=10_000, null=0, min_genes=3).hits["score"].to_numpy()
    np.testing.assert_allclose(first, -last[::-1], atol=1e-5)


@pytest.mark.parametrize("scoring", ["ssgsea", "rank"])
def test_other_scorings_agree_with_the_default(
    engine: Engine, everything: Ranking, scoring: str
) -> None:
    found = search(engine, HYPOXIA, k=10_000, null=0, scoring=scoring)
    assert found.provenance.parameters["scoring"] == scoring
    a = dict(zip(ids(everything), everything.hits["score"].to_pylist(), strict=True))
    b = found.hits["score"].to_pylist()
    assert stats.spearmanr([a[i] for i in ids(found)], b).statistic > 0.8


def test_strict_refuses_what_h_and_e_does_not_show(engine: Engine) -> None:
    unseen = collections.find("HALLMARK_OXIDATIVE_PHOSPHORYLATION")
    assert search(engine, HYPOXIA, k=1, null=0, strict=True).n_ranked > 1
    loose = search(engine, unseen, k=1, null=0)
    assert any("hardly predictable" in note for note in loose.notes)
    with pytest.raises(GeneSetError, match="hardly predictable from H&E"):
        search(engine, unseen, k=1, null=0, strict=True)


def test_too_few_genes_list_the_missing(engine: Engine) -> None:
    with pytest.raises(GeneSetError) as caught:
        search(engine, Signature("MINE", dict.fromkeys(["ALB", "INS", "TTN", "VEGFA"], 1.0)))
    assert "only 1 of the 4 genes" in str(caught.value)
    assert "ALB, INS, TTN" in str(caught.value)


def test_the_place_among_hallmark_sets_is_a_place(engine: Engine) -> None:
    for name, p in engine.spectrum.items():
        scored = engine.reference.score([collections.find(name)]).scores
        place = engine.predictability(scored)
        assert place.of == len(engine.spectrum)
        assert place.rank == list(engine.spectrum).index(name) + 1, name
        assert place.r2 == pytest.approx(p.r2, abs=1e-4)


def test_what_is_predicted_worse_than_every_hallmark_set_has_the_last_place(
    engine: Engine,
) -> None:
    noise = Signature("NOISE", dict.fromkeys(engine.reference.genes[-3:], 1.0))
    found = search(engine, noise, k=1, null=0, min_genes=1, min_fraction=0)
    assert found.predictability.rank == found.predictability.of
    assert "bottom fifth" in found.to_dict()["in_words"]


def test_provenance_says_where_the_answer_comes_from(engine: Engine, everything: Ranking) -> None:
    p = everything.provenance
    assert p.space_id == engine.space_id
    assert p.signature_sha256 == HYPOXIA.sha256
    assert set(p.genes_found) | set(p.genes_missing) == set(HYPOXIA.genes)
    assert p.table_versions["slides"] == engine.database.version(SLIDES)
    assert p.parameters["null"] == 100
    assert p.method == "blend"


# The vector --------------------------------------------------------------------------------------


def test_an_index_finds_the_candidates_and_the_method_scores_them(
    engine: Engine, everything: Ranking
) -> None:
    found = search(engine, HYPOXIA, k=5, null=0, use_index=True)
    exact = dict(zip(ids(everything), everything.hits["score"].to_pylist(), strict=True))
    for row in found.hits.to_pylist():
        assert row["score"] == pytest.approx(exact[row["slide_id"]])
    assert found.agreement is not None
    assert found.agreement > 0.5
    assert found.provenance.index == "default-slides-flat (recall@10 1.000)"
    assert ids(found) == ids(everything)[:5]
    assert everything.provenance.index is None


def test_what_an_index_misses_is_told(
    engine: Engine, everything: Ranking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molquery.query.search._MIN_CANDIDATES", 7)
    monkeypatch.setattr("molquery.query.search._CANDIDATES_PER_HIT", 1)
    found = search(engine, HYPOXIA, k=6, null=0, use_index=True)
    missed = len(set(ids(everything)[:6]) - set(ids(found)))
    assert 0 < missed < 6
    said = f"{missed} of the 6 that rank highest are not among the 7 slides nearest"
    assert any(said in note for note in found.notes)


def test_without_an_index_candidates_come_from_an_exact_scan(
    aligned_copy: Path, everything: Ranking
) -> None:
    for file in (aligned_copy / "indexes").glob("default-*"):
        file.unlink()
    found = search(Engine(Database.open(aligned_copy)), HYPOXIA, k=5, null=0, use_index=True)
    assert ids(found) == ids(everything)[:5]
    assert found.provenance.index is None
    assert any("exact scan instead of an index" in note for note in found.notes)


def test_the_index_heeds_the_filter(engine: Engine) -> None:
    where = "cohort = 'COHORT-C'"
    a = search(engine, HYPOXIA, k=5, null=0, use_index=True, where=where)
    assert set(a.hits["cohort"].to_pylist()) == {"COHORT-C"}
    assert ids(a) == ids(search(engine, HYPOXIA, k=5, null=0, where=where))


def test_the_vector_recovers_a_linear_score() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    truth = rng.normal(size=6)
    vector = signature_vector(x, x @ truth + 4)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert float(vector @ truth / np.linalg.norm(truth)) > 0.999
    assert np.all(signature_vector(x, np.ones(500)) == 0)


def test_wrong_arguments(engine: Engine) -> None:
    with pytest.raises(InputError, match="not a method"):
        search(engine, HYPOXIA, method="magic")
    with pytest.raises(InputError, match="k must be"):
        search(engine, HYPOXIA, k=0)


# A snapshot --------------------------------------------------------------------------------------


def test_slides_without_a_cohort_are_ranked_pooled_but_not_within(aligned_copy: Path) -> None:
    engine = Engine(Database.open(aligned_copy))
    cohorts = np.where(np.arange(len(engine.cohorts)) < 4, "", engine.cohorts)
    engine.texts["cohort"] = Texts(pa.chunked_array([cohorts.tolist()]))
    pooled = search(engine, HYPOXIA, k=10_000, null=0)
    lone = [r for r in pooled.hits.to_pylist() if r["cohort"] is None]
    assert len(lone) == 4
    assert all(r["cohort_z"] is None and r["cohort_percentile"] is None for r in lone)
    within = search(engine, HYPOXIA, k=10_000, within="cohort", null=0)
    assert len(ids(within)) == len(ids(pooled)) - 4
    assert any("4 slides have no cohort" in note for note in within.notes)


def test_the_ranking_is_a_frame(everything: Ranking) -> None:
    assert everything.to_polars().height == everything.hits.num_rows
    assert list(everything.to_pandas().columns) == everything.hits.column_names
    assert replace(everything, notes=()).to_dict()["hits"][0]["rank"] == 1
