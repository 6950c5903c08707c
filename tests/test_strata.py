"""Strata over a database: what is cut, how sure it is, cut files, rules, tests, the command."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from conftest import SEEN, UNSEEN
from scipy import stats

from molquery.database import Database
from molquery.errors import ColumnError, InputError, MismatchError
from molquery.export.cutfile import read_cuts, to_toml, write_cuts
from molquery.genesets import collections
from molquery.query.engine import Engine
from molquery.query.strata import HARDLY, NEAR, POOLED_CUT, UNLIKE, stratify_cohort
from molquery.query.tested import Outcomes
from molquery.records import Signature
from molquery.stratify import READY_RULES, fit_cuts, parse_rule

IFNG, E2F, HYPOXIA = SEEN


def found(name):
    return collections.find(name)


@pytest.fixture(scope="module")
def clinic(clinical):
    return Engine(Database.open(clinical))


SURVIVAL = Outcomes(time="os_days", event="OS_STATUS")


# Rows and cuts ------------------------------------------------------------------------------------


def test_a_patient_is_the_mean_or_the_highest_of_its_slides(engine):
    signature = found(IFNG)
    slides = stratify_cohort(engine, signature).table
    for how, join in (("mean", np.mean), ("max", np.max)):
        strata = stratify_cohort(engine, signature, by="patient", slides=how)
        table = strata.table
        owners = np.array(slides["patient_id"].to_pylist())
        scores = slides["score"].to_numpy()
        expected = {p: join(scores[owners == p]) for p in np.unique(owners)}
        assert table["patient_id"].to_pylist() == sorted(expected)
        np.testing.assert_allclose(
            table["score"].to_numpy(), [expected[p] for p in sorted(expected)]
        )
        counts = [int((owners == p).sum()) for p in sorted(expected)]
        assert table["n_slides"].to_pylist() == counts
        assert max(counts) > 1
        cut = fit_cuts(table["score"].to_numpy(), None, "tertiles")
        assert strata.cut.points == cut.points


def test_a_weight_column_weights(clinic):
    signature = found(IFNG)
    slides = stratify_cohort(clinic, signature).table
    weighted = stratify_cohort(
        clinic, signature, by="patient", slides="weighted", weight="area"
    ).table
    # area is a column of patients here, so that all slides of one weigh the same
    plain = stratify_cohort(clinic, signature, by="patient").table
    np.testing.assert_allclose(weighted["score"].to_numpy(), plain["score"].to_numpy())
    with pytest.raises(InputError, match="joins the slides of a patient"):
        stratify_cohort(clinic, signature, weight="area", slides="weighted")
    with pytest.raises(ColumnError, match="no column nowhere"):
        stratify_cohort(clinic, signature, by="patient", weight="nowhere", slides="weighted")
    with pytest.raises(ColumnError, match="no numbers"):
        stratify_cohort(clinic, signature, by="patient", weight="odd", slides="weighted")
    with pytest.raises(InputError, match="no os_days, or a negative one"):
        stratify_cohort(clinic, signature, by="patient", weight="os_days", slides="weighted")
    assert len(slides) > len(plain)


def test_intervals_are_those_of_the_engine(engine):
    signature = found(IFNG)
    _, measured = engine.reference.score_one(signature)
    low, high = engine.intervals(engine.predict(measured)[:, 0], measured[:, 0])
    table = stratify_cohort(engine, signature).table
    np.testing.assert_allclose(table["low"].to_numpy(), low)
    np.testing.assert_allclose(table["high"].to_numpy(), high)


def test_confidence_keeps_its_word_in_held_out_slides(engine):
    signature = found(IFNG)
    strata = stratify_cohort(engine, signature, cut="median")
    (point,) = strata.cut.points["all"]
    sure = strata.table["confidence"].to_numpy()
    high = np.array(strata.table["stratum"].to_pylist()) == "high"
    _, measured = engine.reference.score_one(signature)
    slide, profile = engine.pairs.slide, engine.pairs.profile
    kept = (measured[profile, 0] > point) == high[slide]
    assert kept.mean() == pytest.approx(sure[slide].mean(), abs=0.06)
    surer = sure[slide] > np.median(sure[slide])
    assert kept[surer].mean() > kept[~surer].mean() + 0.05


def test_a_call_is_the_stratum_or_uncertain_with_its_reason(engine):
    table = stratify_cohort(engine, found(IFNG), min_confidence=0.8).table
    rows = table.to_pylist()
    for row in rows:
        unsure = row["confidence"] < 0.8
        assert (row["call"] == "uncertain") == (row["reason"] is not None)
        assert row["call"] in (row["stratum"], "uncertain")
        assert unsure <= (row["reason"] is not None)
    reasons = {row["reason"] for row in rows}
    assert {None, NEAR} <= reasons <= {None, NEAR, UNLIKE}
    never = stratify_cohort(engine, found(IFNG), min_confidence=0).table
    assert never["call"].to_pylist() == never["stratum"].to_pylist()


def test_a_signature_below_the_floor_is_uncertain_throughout(engine):
    strata = stratify_cohort(engine, found(UNSEEN))
    weak = {c for c, r in strata.predictability.by_cohort.items() if r is not None and r < 0.2}
    assert weak
    for row in strata.table.to_pylist():
        if row["cohort"] in weak:
            assert row["reason"] in (HARDLY, UNLIKE)
    assert any("hardly predictable" in note for note in strata.notes)


def test_slides_out_of_domain_are_uncertain(aligned):
    engine = Engine(Database.open(aligned))
    out = np.zeros(len(engine.slide_ids), dtype=bool)
    out[[3, 8, 20]] = True
    engine.__dict__["out_of_domain"] = out  # in place of what would be computed
    strata = stratify_cohort(engine, found(IFNG))
    reasons = np.array([r or "" for r in strata.table["reason"].to_pylist()])
    assert (reasons[out] == UNLIKE).all()
    assert not (reasons[~out] == UNLIKE).any()
    assert strata.sets[0].uncertain[UNLIKE] == out.sum()


def test_counts_add_up(engine):
    (one,) = stratify_cohort(engine, found(IFNG)).sets
    assert sum(one.counts.values()) == len(one.labels)
    assert sum(one.certain.values()) + sum(one.uncertain.values()) == len(one.labels)


def test_several_signatures_and_a_rule(engine):
    names = [IFNG, E2F]
    rules = [parse_rule(f"both: {IFNG} high and {E2F} high"), parse_rule(f"first: {IFNG} high")]
    strata = stratify_cohort(engine, [found(n) for n in names], rules=rules)
    table = strata.table
    a, b = (np.array(table[f"{n}_stratum"].to_pylist()) for n in names)
    expected = np.where(a == "high", np.where(b == "high", "both", "first"), "other")
    assert table["stratum"].to_pylist() == expected.tolist()
    assert strata.parts[0].cut.labels == ("low", "high")  # the median, with rules
    apart = stratify_cohort(engine, [found(n) for n in names])
    assert [s.name for s in apart.sets] == names
    assert {f"{n}_call" for n in names} <= set(apart.table.column_names)
    assert "stratum" not in apart.table.column_names
    alone = stratify_cohort(engine, found(E2F))
    assert apart.table[f"{E2F}_stratum"].to_pylist() == alone.table["stratum"].to_pylist()


def test_rules_that_cannot_be(engine):
    with pytest.raises(InputError, match="has no stratum mid"):
        stratify_cohort(engine, found(IFNG), rules=[parse_rule(f"{IFNG} mid")])
    with pytest.raises(InputError, match="not among the signatures"):
        stratify_cohort(engine, found(IFNG), rules=[parse_rule("X high")])
    with pytest.raises(InputError, match="asked for twice"):
        stratify_cohort(engine, [found(IFNG), found(IFNG)])
    with pytest.raises(InputError, match="no signature"):
        stratify_cohort(engine, [])


# Cut files ----------------------------------------------------------------------------------------


def test_a_cut_file_gives_the_same_strata_and_fits_nothing(engine, tmp_path):
    strata = stratify_cohort(engine, found(IFNG), within="cohort", by="patient")
    file = tmp_path / "cuts.toml"
    write_cuts(strata.cuts, file)
    again = read_cuts(file)
    assert to_toml(again) == to_toml(strata.cuts)
    assert again.signatures[0].cut == strata.cut
    applied = stratify_cohort(engine, cuts=again)
    assert applied.table.equals(strata.table)
    # of a part of the cohort: still the points of the whole
    some = "site IN ('S00', 'S01', 'S02')"
    part = stratify_cohort(engine, cuts=again, where=some)
    assert part.cut == strata.cut
    whole = dict(
        zip(*(strata.table[c].to_pylist() for c in ("patient_id", "stratum")), strict=True)
    )
    assert part.table["stratum"].to_pylist() == [
        whole[p] for p in part.table["patient_id"].to_pylist()
    ]
    own = stratify_cohort(engine, found(IFNG), by="patient", within="cohort", where=some)
    assert own.cut.points != strata.cut.points


def test_pooled_cuts_say_so_and_cuts_fitted_elsewhere_too(engine, tmp_path):
    within = stratify_cohort(engine, found(IFNG), within="cohort")
    pooled = stratify_cohort(engine, found(IFNG))
    assert POOLED_CUT in pooled.notes
    assert POOLED_CUT not in within.notes
    one = stratify_cohort(engine, found(IFNG), where="cohort = 'COHORT-A'")
    assert POOLED_CUT not in one.notes
    write_cuts(one.cuts, tmp_path / "a.toml")
    cuts = read_cuts(tmp_path / "a.toml")
    assert cuts.made["cohorts"] == ["COHORT-A"]
    there = stratify_cohort(engine, cuts=cuts, where="cohort = 'COHORT-B'")
    assert any("fitted in COHORT-A, not in COHORT-B" in note for note in there.notes)
    assert there.cut.points == one.cut.points
    here = stratify_cohort(engine, cuts=cuts, where="cohort = 'COHORT-A'")
    assert not any("were fitted in" in note for note in here.notes)


def test_a_cut_file_holds_rules_weights_and_odd_names(engine, tmp_path):
    weights = {**dict.fromkeys(found(IFNG).genes[:12], 1.0), "MKI67": -0.5}
    odd = Signature('quo"te \\ ünder', weights)
    rules = [parse_rule(f"x: {IFNG} high"), parse_rule(f"y y: {IFNG} low")]
    strata = stratify_cohort(engine, [found(IFNG), odd], rules=rules, min_confidence=0.7)
    file = tmp_path / "cuts.toml"
    write_cuts(strata.cuts, file)
    assert to_toml(read_cuts(file)) == to_toml(strata.cuts)
    assert read_cuts(file).rules == strata.rules
    applied = stratify_cohort(engine, cuts=read_cuts(file))
    assert applied.table.equals(strata.table)


def test_cut_points_of_another_space_or_signature_are_refused(engine):
    cuts = stratify_cohort(engine, found(IFNG)).cuts
    with pytest.raises(MismatchError, match="another space"):
        stratify_cohort(engine, cuts=dataclasses.replace(cuts, space_id="0" * 64))
    with pytest.raises(MismatchError, match=f"not of {E2F}"):
        stratify_cohort(engine, found(E2F), cuts=cuts)
    (one,) = cuts.signatures
    fewer = dataclasses.replace(cuts, signatures=(dataclasses.replace(one, genes=one.genes[1:]),))
    with pytest.raises(MismatchError, match=r"other genes(.|\n)*" + one.genes[0]):
        stratify_cohort(engine, cuts=fewer)
    assert stratify_cohort(engine, found(IFNG), cuts=cuts).cut == one.cut
    moved = stratify_cohort(engine, cuts=dataclasses.replace(cuts, reference="0"))
    assert any("reference profiles are not those" in note for note in moved.notes)
    kept = stratify_cohort(engine, cuts=cuts)
    assert not any("reference profiles are not those" in note for note in kept.notes)


def test_a_stratum_without_members_is_reported(engine):
    cuts = stratify_cohort(engine, found(IFNG)).cuts
    (one,) = cuts.signatures
    far = dataclasses.replace(one.cut, points={"all": (-99.0, 99.0)})
    strata = stratify_cohort(
        engine,
        cuts=dataclasses.replace(cuts, signatures=(dataclasses.replace(one, cut=far),)),
    )
    assert strata.counts == {"low": 0, "mid": len(engine.slide_ids), "high": 0}
    assert f"{IFNG}: no member in stratum low, high" in strata.notes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("format = 1", "format = 2"), "format 2, not 1"),
        (("genes = [", 'genes = ["MKI67", '), "not those of its sha256"),
        (('scope = "pooled"', 'scope = "all"'), "do not fit together"),
        (('labels = ["low", "mid", "high"]', 'labels = ["low", "high"]'), "do not fit together"),
        (("[signature.points]", "[signature.point]"), "KeyError"),
        (('by = "slide"', "by = slide"), "cut file that can be used"),
    ],
)
def test_a_cut_file_that_was_changed_is_refused(engine, tmp_path, change, said):
    text = to_toml(stratify_cohort(engine, found(IFNG)).cuts)
    assert change[0] in text
    file = tmp_path / "cuts.toml"
    file.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_cuts(file)


def test_what_is_no_cut_file(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_cuts(tmp_path / "none.toml")
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a cut file"):
        read_cuts(tmp_path / "x")


# Tests of the strata ------------------------------------------------------------------------------


def test_a_planted_hazard_is_found_and_noise_is_not(clinic):
    strata = stratify_cohort(clinic, found(IFNG), by="patient", outcomes=SURVIVAL)
    tests = {t.effect or t.test: t for t in strata.associations.tests}
    high = tests["hazard ratio, high vs low"]
    assert high.low > 1.5
    assert high.p < 1e-4
    assert all(t.q is not None for t in strata.associations.tests)
    assert any("1:DECEASED is an event" in note for note in strata.notes)
    assert any("rows have no os_days" in note for note in strata.notes)
    assert strata.notes.count(strata.associations.notes[-1]) == 1
    odd = stratify_cohort(
        clinic, found(HYPOXIA), by="patient", outcomes=Outcomes(tests=("odd", "grade:categorical"))
    )
    assert min(t.p for t in odd.associations.tests) > 0.001


def test_outcomes_go_to_the_right_patients(clinic, archive):
    strata = stratify_cohort(
        clinic, found(IFNG), by="patient", cut="median", outcomes=Outcomes(tests=("activity",))
    )
    (test,) = strata.associations.tests
    labels = dict(
        zip(*(strata.table[c].to_pylist() for c in ("patient_id", "stratum")), strict=True)
    )
    active = dict(zip(archive.patients.tolist(), archive.activity[:, 0].tolist(), strict=True))
    split = {k: [active[p] for p, label in labels.items() if label == k] for k in ("low", "high")}
    oracle = stats.mannwhitneyu(split["high"], split["low"])
    assert test.p == pytest.approx(oracle.pvalue)
    assert test.estimate > 0.7


def test_a_measured_gene_is_an_outcome(clinic):
    gene = found(IFNG).genes[0]
    strata = stratify_cohort(
        clinic, found(IFNG), by="patient", outcomes=Outcomes(tests=(f"rna:{gene}",))
    )
    reference = clinic.reference
    values = reference.expression[:, reference.panel[gene]].astype(float)
    paired = {p: values[reference.patients == p].mean() for p in reference.patients}
    rows = strata.table.to_pylist()
    groups = [
        [paired[r["patient_id"]] for r in rows
         if r["stratum"] == label and r["patient_id"] in paired]
        for label in ("low", "mid", "high")
    ]  # fmt: skip
    kruskal = strata.associations.tests[0]
    assert kruskal.statistic == pytest.approx(stats.kruskal(*groups).statistic, rel=1e-6)
    with pytest.raises(ColumnError, match="no gene NOPE"):
        stratify_cohort(clinic, found(IFNG), by="patient", outcomes=Outcomes(tests=("rna:NOPE",)))


def test_tests_count_patients(clinic):
    with pytest.raises(InputError, match=r"count patients(.|\n)*--by patient"):
        stratify_cohort(clinic, found(IFNG), outcomes=SURVIVAL)


def test_q_is_over_all_signatures_of_the_call(clinic):
    strata = stratify_cohort(
        clinic, [found(IFNG), found(E2F)], by="patient", outcomes=Outcomes(tests=("age", "sex"))
    )
    tests = strata.associations.tests
    assert {t.strata for t in tests} == {IFNG, E2F}
    p = np.array([t.p for t in tests])
    np.testing.assert_allclose([t.q for t in tests], stats.false_discovery_control(p))


def test_certain_only_leaves_the_uncertain_out(clinic):
    every = stratify_cohort(clinic, found(IFNG), by="patient", outcomes=Outcomes(tests=("age",)))
    sure = stratify_cohort(
        clinic, found(IFNG), by="patient", outcomes=Outcomes(tests=("age",), certain_only=True)
    )
    (one,) = sure.sets
    assert sum(sure.associations.tests[0].n.values()) == sum(one.certain.values())
    assert sum(every.associations.tests[0].n.values()) == len(one.labels)


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (Outcomes(time="os_days"), "time and an event"),
        (Outcomes(time="os_days", event="same"), "every row of same is censored"),
        (Outcomes(time="follow_up", event="OS_STATUS"), "are negative"),
        (Outcomes(time="OS_STATUS", event="OS_STATUS"), "no numbers"),
        (Outcomes(time="os_days", event="odd"), "--event-is"),
        (Outcomes(time="os_days", event="OS_STAT"), "OS_STATUS"),
        (Outcomes(tests=("nothing",)), "no column nothing"),
        (Outcomes(tests=("same",)), "one value only"),
        (Outcomes(tests=("patient_id",)), "too many"),
    ],
)
def test_outcomes_that_cannot_be_tested(clinic, outcomes, said):
    with pytest.raises(InputError, match=said):
        stratify_cohort(clinic, found(IFNG), by="patient", outcomes=outcomes)


# The command --------------------------------------------------------------------------------------


def test_the_command_writes_strata_cuts_and_tests(cli, clinical, tmp_path):
    out, cuts, tests = (tmp_path / n for n in ("strata.csv", "cuts.toml", "tests.tsv"))
    command = (
        "--db", clinical, "stratify", "--geneset", IFNG, "--time", "os_days",
        "--event", "code", "--test", "sex", "--covariates", "age", "--each-cohort",
        "--save-cuts", cuts, "--tests", tests, "--output", out,
    )  # fmt: skip
    result = cli(*command)
    assert result.code == 0, result.err
    assert result.out == ""
    assert "2 is an event" in result.err
    assert "R's survival package" in result.err
    assert "exploratory" in result.err
    assert "events" in result.err.partition("Tests of the strata")[2].splitlines()[1]
    rows = list(csv.DictReader(tests.open(encoding="utf-8"), delimiter="\t"))
    assert {row["cohort"] for row in rows} == {"COHORT-A", "COHORT-B", "COHORT-C"}
    assert any("adjusted for age" in row["test"] for row in rows)
    strata = list(csv.DictReader(out.open(encoding="utf-8")))
    assert set(strata[0]) >= {"patient_id", "stratum", "confidence", "call", "reason", "low"}
    told = json.loads((tmp_path / "strata.csv.provenance.json").read_text("utf-8"))
    assert told["command"].startswith("molquery --db ")
    assert told["parameters"]["signatures"][IFNG]["cut"]["points"]["all"]
    # nothing is written over, and nothing is written when one of the outputs is there
    again = cli(*command)
    assert again.code == 1
    assert "exists already" in again.err
    before = out.read_text("utf-8")
    out.unlink()
    assert cli(*command).code == 1
    assert not out.exists()
    assert cli("--db", clinical, "stratify", "--cuts", cuts, "-o", out).code == 0
    assert out.read_text("utf-8") == before


def test_the_command_refuses_to_change_a_cut_file(cli, aligned, tmp_path):
    cuts = tmp_path / "cuts.toml"
    assert cli("--db", aligned, "stratify", "--geneset", IFNG, "--save-cuts", cuts).code == 0
    for extra in (("--cut", "median"), ("--by", "patient"), ("--within", "cohort"),
                  ("--scoring", "mean_z"), ("--rule", "tme")):  # fmt: skip
        result = cli("--db", aligned, "stratify", "--cuts", cuts, *extra)
        assert result.code == 1
        assert f"{extra[0]} cannot be changed" in result.err


def test_the_command_knows_rules(cli, aligned):
    result = cli("--db", aligned, "stratify", "--rule", f"hot: {IFNG.lower()} high and {E2F} low",
                 "--format", "json")  # fmt: skip
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["rules"] == [f"hot: {IFNG} high and {E2F} low"]
    assert set(document["strata"][0]["counts"]) == {"hot", "other"}
    assert {row["stratum"] for row in document["rows"]} == {"hot", "other"}
    assert document["provenance"]["parameters"]["rules"] == document["rules"]


def test_ready_rules_name_shipped_sets():
    for rules in READY_RULES.values():
        for name in {n for rule in rules for n, _ in rule.conditions}:
            assert found(name).name == name
