"""The whole evaluation on an archive with planted signal, its report, and what cannot be measured.

Planted: three gene sets that slides show and one that they do not; a label that is the first set's
activity above its median; survival that this activity lengthens; noise for everything else.
"""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from conftest import ENCODER, SEEN, UNSEEN
from pyarrow import parquet
from scipy import stats
from sklearn.metrics import roc_auc_score

from molquery import synth
from molquery.align.adapt import adaptation_curve
from molquery.align.train import AlignSettings, align
from molquery.database import Database
from molquery.errors import ColumnError, GeneSetError, InputError
from molquery.evaluate import metrics
from molquery.evaluate.held_out import MIN_COHORT
from molquery.evaluate.resample import Estimate
from molquery.export import to_json
from molquery.genesets import collections
from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
from molquery.predict import cases, read_paired
from molquery.query import refit, tasks
from molquery.query.baselines import Gallery
from molquery.query.engine import Engine
from molquery.query.evaluation import Settings, evaluate
from molquery.query.folds import OURS
from molquery.query.summary import held_out_summary
from molquery.readers import Options
from molquery.report.evaluation import page
from molquery.report.findings import findings, interval
from molquery.schema import SLIDES
from molquery.space import need_space

SETTINGS = Settings(seed=1, resamples=200, random_sets=40)
IFNG, E2F, HYPOXIA = SEEN

TASKS = f"""
[[contrast]]
signature = "{IFNG}"
column = "subtype"
high = "high"
low = "low"

[[contrast]]
signature = "{IFNG}"
minus = "{E2F}"
column = "cohort"
high = "COHORT-A"
low = "COHORT-B"

[[gene_groups]]
signature = "{IFNG}"
gene = "GENE_OF_IFNG"

[[gene_groups]]
signature = "{UNSEEN}"
gene = "GENE_OF_UNSEEN"

[[labels]]
column = "subtype"
signatures = ["{IFNG}", "{HYPOXIA}"]

[[labels]]
column = "one_class"

[[survival]]
time = "os_days"
event = "os_event"
signatures = ["{IFNG}", "{HYPOXIA}"]
"""


@pytest.fixture(scope="module")
def clinical(archive, aligned, tmp_path_factory):
    """The aligned archive with survival planted on the first pathway."""
    directory = tmp_path_factory.mktemp("clinical")
    path = directory / "toy.mq"
    shutil.copytree(aligned, path)
    rng = np.random.default_rng(0)
    time = rng.exponential(1000 * np.exp(archive.activity[:, 0] - archive.activity[:, 0].mean()))
    stop = rng.exponential(2500, len(time))
    columns = {
        "patient_id": archive.patients.tolist(),
        "os_days": [
            None if i % 20 == 0 else float(t) for i, t in enumerate(np.minimum(time, stop))
        ],
        "os_event": (time <= stop).astype(int).tolist(),
        "negative_days": (-time).tolist(),
        "one_class": ["same"] * len(time),
    }
    parquet.write_table(pa.table(columns), directory / "clinical.parquet")
    ingest_metadata(Database.open(path), [directory / "clinical.parquet"], on="patient_id")
    return path


@pytest.fixture(scope="module")
def planned(clinical, tmp_path_factory):
    file = tmp_path_factory.mktemp("tasks") / "tasks.toml"
    genes = {"GENE_OF_IFNG": collections.find(IFNG).genes[0],
             "GENE_OF_UNSEEN": collections.find(UNSEEN).genes[0]}  # fmt: skip
    text = TASKS
    for key, gene in genes.items():
        text = text.replace(key, gene)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def snapshot(clinical):
    return Engine(Database.open(clinical))


@pytest.fixture(scope="module")
def found(snapshot, planned):
    told = []
    result = evaluate(
        snapshot, replace(SETTINGS, learning_curve=True, adaptation_curve=True),
        tasks.plan(snapshot, planned),
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert all(0 <= done <= total for _, done, total, _ in told)
    for stage in {s for s, *_ in told}:
        assert [d == t for s, d, t, _ in told if s == stage][-1], f"{stage} did not end"
    return result


@pytest.fixture(scope="module")
def document(found):
    """The evaluation as JSON gives it back: strict JSON holds no NaN."""
    return json.loads(to_json(found.to_dict()))


# Retrieval


def test_retrieval_is_that_of_a_brute_force_ranking(snapshot, found):
    space = need_space(snapshot.database)
    _, slides, profiles = read_paired(snapshot.database, space)
    hits, queries, folds = [], [], []
    for case in cases(space, "patient", slides, profiles):
        if case.fold < 0:
            continue
        gallery = Gallery.of(case, slides, profiles)
        x = case.model.project_slides(
            slides.vectors[gallery.slides],
            slides.cohorts[gallery.slides].tolist(),
            slides.sites[gallery.slides].tolist(),
        )
        r = case.model.project_profiles(profiles.vectors[gallery.profiles])
        scores = x @ r.T - case.model.hubness(r)
        own = [profiles.keys[gallery.profiles] == k for k in slides.keys[gallery.slides]]
        top = np.argsort(-scores, axis=1)[:, :10]
        hit = np.array([mine[best].any() for mine, best in zip(own, top, strict=True)])
        hits.append(hit.mean())
        queries.append(len(hit))
        folds.append(hit.mean() / (10 / len(gallery.profiles)))
    one = found.retrieval["patient.slide_to_profile"]
    figures = one.figures[OURS]
    assert one.n_queries == sum(queries)
    assert figures["recall10"].value == pytest.approx(np.average(hits, weights=queries))
    assert figures["fold10"].value == pytest.approx(np.average(folds, weights=queries))


def test_the_evaluation_repeats_what_align_measured(snapshot, found):
    stored = snapshot.facts["retrieval"]
    assert set(found.retrieval) == set(stored)
    for key, figures in stored.items():
        for name, estimate in found.retrieval[key].figures[OURS].items():
            assert estimate.value == pytest.approx(figures[name]), (key, name)
            assert estimate.low <= estimate.value <= estimate.high, (key, name)
    short = held_out_summary(snapshot)
    assert list(found.spectrum) == list(short.spectrum)
    for name, quality in found.spectrum.items():
        stored_quality = short.spectrum[name]
        for figure in ("r2", "r", "within_r", "site_r2", "site_within_r"):
            expected = getattr(stored_quality, figure)
            assert quality.figures[figure].value == pytest.approx(expected, abs=1e-5)
    for figure, value in short.medians.items():
        assert found.medians[OURS][figure].value == pytest.approx(value, abs=1e-5)


def test_baselines_are_where_theory_puts_them(found):
    for key, one in found.retrieval.items():
        assert one.figures["random"]["fold10"].value == pytest.approx(1)
        cohort = one.figures["cohort"]
        if one.scope == "within_cohort":  # the cohort alone knows nothing within a cohort
            assert cohort["fold10"].value == pytest.approx(1)
        else:  # ten draws from the own third of the gallery
            third = one.gallery / 3
            assert cohort["recall10"].value == pytest.approx(10 / third, abs=0.08), key
        assert one.gains["random"]["fold10"].value == pytest.approx(
            one.figures[OURS]["fold10"].value - 1
        )
    pooled = found.retrieval["patient.slide_to_profile"].gains
    assert pooled["raw_knn"]["recall1"].low > 0
    assert found.medians["random"]["r2"].value == pytest.approx(0, abs=0.03)
    assert "within_r" not in found.medians["cohort"]


def test_queries_of_a_cohort_are_those_of_its_members(found, snapshot):
    one = found.retrieval["patient.slide_to_profile"]
    held = snapshot.operator.model >= 0
    sizes = [int((held & (snapshot.cohorts == c)).sum()) for c in one.by_cohort]
    assert sum(sizes) == one.n_queries
    mean = np.average([f["recall1"].value for f in one.by_cohort.values()], weights=sizes)
    # folds weigh a little differently in every cohort
    assert mean == pytest.approx(one.figures[OURS]["recall1"].value, abs=0.02)


# Gene sets


def test_what_is_planted_is_predicted_and_what_is_not_is_not(found):
    for name in SEEN:
        quality = found.spectrum[name]
        assert quality.figures["within_r"].low > 0.85
        assert quality.figures["site_within_r"].low > 0.85
        assert quality.random.share <= 0.05
        assert quality.random.specificity > 0.1
    hidden = found.spectrum[UNSEEN]
    assert hidden.figures["within_r"].low < 0.2
    assert hidden.random.share > 0.9
    assert found.random_above >= len(SEEN)


def test_spearman_and_cohorts_match_scipy(found, snapshot):
    pairs = snapshot.pairs
    _, scores = snapshot.reference.score_one(collections.find(IFNG))
    predicted = pairs.predicted(snapshot.operator, scores)[:, 0]
    measured = scores[pairs.profiles, 0]
    quality = found.spectrum[IFNG]
    assert quality.spearman == pytest.approx(
        stats.spearmanr(predicted, measured).statistic, abs=1e-5
    )
    for cohort, estimate in quality.by_cohort.items():
        mine = pairs.cohorts == cohort
        expected = stats.pearsonr(predicted[mine], measured[mine]).statistic
        assert estimate.value == pytest.approx(expected, abs=1e-5)


def test_medians_and_gains_are_paired(found):
    for name, gains in found.gains.items():
        for figure, gain in gains.items():
            ours, theirs = found.medians[OURS][figure], found.medians[name][figure]
            assert gain.value == pytest.approx(ours.value - theirs.value)
    assert found.gains["raw_knn"]["within_r"].low > 0


def test_intervals_cover_what_they_promise(found):
    own = [row for row in found.coverage if row.basis == "own"]
    assert {row.cohort for row in own} == {"COHORT-A", "COHORT-B", "COHORT-C"}
    for row in own:
        assert row.n_patients >= MIN_COHORT
        assert row.coverage.value == pytest.approx(0.9, abs=0.04)
        assert row.lowest <= row.coverage.value <= row.highest
    assert [row for row in found.coverage if row.basis == "left out"]
    alarms = [row for row in found.domain if row.basis == "held out"]
    assert (
        sum(row.n_slides for row in alarms) == found.retrieval["patient.slide_to_profile"].n_queries
    )
    assert all(row.flagged.value < 0.1 for row in alarms)


def test_the_space_and_the_learning_curve(found):
    for figures in found.geometry.values():
        assert figures["cosine_pairs"] > figures["cosine_others"] + 0.3
        assert 0 < figures["modality_gap"] < 0.5
        assert all(0 <= figures[f"never_{w}"] < 0.5 for w in ("before", "after"))
    sizes = [p.n_patients for p in found.learning_curve]
    assert sizes == sorted(sizes)
    assert found.learning_curve[0].within_r < found.learning_curve[-1].within_r
    assert found.learning_curve[-1].r2 == pytest.approx(found.medians[OURS]["r2"].value, abs=1e-5)


def test_adaptation_leaves_out_every_cohort_and_never_asks_those_it_learned_from(
    found, clinical, tmp_path
):
    shutil.copytree(clinical, tmp_path / "toy.mq")
    database = Database.open(tmp_path / "toy.mq")
    rules = [f"cohort={c}" for c, told in found.data["cohorts"].items() if told["pairs"] >= 40]
    assert [c.rule for c in found.adaptation] == rules
    for curve in found.adaptation:
        assert curve.n_tested == curve.n_patients // 2
        assert [p.pairs for p in curve.points][:2] == [0, 4]
        assert curve.points[-1].pairs <= curve.n_patients - curve.n_tested
        # The planted activity shows alike in every cohort: a cohort left out is predicted too.
        assert curve.points[0].within_r > 0.5 * curve.full.within_r > 0
    # The same as a space that has left the cohort out says by itself.
    curve = found.adaptation[0]
    left_out = align(database, AlignSettings(method="cca", hold_out=curve.rule))
    told = left_out.space.facts["hold_out"]["quality"]
    assert told["n_patients"] == curve.n_patients
    again = adaptation_curve(database, counts=(0, 8))
    for mine, theirs in zip(again.points, (curve.points[0], curve.points[2]), strict=True):
        assert mine.within_r == pytest.approx(theirs.within_r, abs=1e-9)
        assert mine.fold10 == pytest.approx(theirs.fold10, abs=1e-9)


# Validation


def test_a_label_that_is_the_activity_is_told_by_its_signature(found, snapshot, archive):
    contrast = found.validation.contrasts[0]
    label = dict(zip(archive.patients, archive.activity[:, 0] > np.median(archive.activity[:, 0]),
                     strict=True))  # fmt: skip
    _, scores = snapshot.reference.score_one(collections.find(IFNG))
    predicted = snapshot.predict(scores)[:, 0]
    held = np.flatnonzero(snapshot.held_out)
    patients = np.unique(snapshot.patients[held])
    means = [predicted[held][snapshot.patients[held] == p].mean() for p in patients]
    truth = [label[p] for p in patients]
    assert contrast.auc.value == pytest.approx(roc_auc_score(truth, means))
    assert contrast.n_high + contrast.n_low == len(patients)
    assert contrast.auc.low > 0.9
    assert contrast.told_auc is None
    assert contrast.random_share <= 0.05
    false, true = contrast.curve
    assert np.trapezoid(true, false) == pytest.approx(contrast.auc.value, abs=0.01)


def test_a_cohort_is_not_told_to_the_models_that_tell_cohorts_apart(found):
    """The cohorts differ in the measured score by little: what knows them must not look clever."""
    contrast = found.validation.contrasts[1]
    assert contrast.told_auc is not None
    measured, blind = contrast.measured_auc.value, contrast.auc.value
    assert abs(blind - measured) < 0.1
    assert any("made" in note for note in contrast.notes)


def test_a_signature_follows_a_gene_of_it_and_not_where_nothing_is_seen(found):
    seen, hidden = found.validation.gene_groups
    assert seen.dropped
    for row in seen.rows:
        assert row.trend.q < 0.001
        assert row.difference.low > 0.5
        assert sum(row.trend.n.values()) > MIN_COHORT
    assert any(row.trend.q > 0.05 for row in hidden.rows)
    assert all(abs(row.trend.estimate) < 0.3 for row in hidden.rows)


def test_labels_are_compared_within_cohorts(found, snapshot, archive):
    told = found.validation.labels[0]
    assert {row.cohort for row in told.rows} == {"COHORT-A", "COHORT-B", "COHORT-C"}
    own = [r for r in told.rows if r.signature == IFNG and r.label == "high"]
    other = [r for r in told.rows if r.signature == HYPOXIA]
    assert all(r.auc > 0.9 and r.q < 0.001 for r in own)
    assert all(r.q > 0.01 for r in other)
    row = own[0]
    _, scores = snapshot.reference.score_one(collections.find(IFNG))
    predicted = snapshot.predict(scores)[:, 0]
    mine = snapshot.cohorts == row.cohort
    patients = np.unique(snapshot.patients[mine])
    means = [predicted[snapshot.patients == p].mean() for p in patients]
    activity = dict(zip(archive.patients, archive.activity[:, 0], strict=True))
    truth = [activity[p] > np.median(archive.activity[:, 0]) for p in patients]
    assert row.auc == pytest.approx(roc_auc_score(truth, means))


def test_survival_that_is_planted_is_found_and_the_rest_is_null(found):
    rows = found.validation.survival[0].rows
    cox = {(r.signature, r.test.cohort): r.test for r in rows if r.test.effect.endswith("per sd")}
    planted = cox[IFNG, "all"]
    assert planted.q < 0.001
    assert planted.high < 1  # more activity, longer survival: planted with a hazard of exp(-1)
    assert planted.estimate == pytest.approx(np.exp(-1), abs=0.12)
    assert cox[HYPOXIA, "all"].q > 0.05
    assert any("left out" in note for note in found.validation.survival[0].notes)
    total = sum(planted.n.values())
    by_cohort = sum(sum(t.n.values()) for (s, c), t in cox.items() if s == IFNG and c != "all")
    assert total == by_cohort


def test_one_class_is_named_as_not_measured(found):
    assert "one value only" in found.not_measured["labels of one_class"]


# The report


class Reader(HTMLParser):
    """Rows of cells of every table, and all text."""

    def __init__(self):
        super().__init__()
        self.rows, self.text, self._cell = [], [], None

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        data = data.replace("\u00a0", " ")  # no line break before a per cent sign
        self.text.append(data)
        if self._cell is not None:
            self._cell += data


@pytest.fixture(scope="module")
def html(found):
    return page(found).html()


@pytest.fixture(scope="module")
def read(html):
    reader = Reader()
    reader.feed(html)
    return reader


def shown(estimate):
    """An estimate of the JSON as the report shows it, written down independently."""
    value, low, high = (estimate[k] for k in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def test_numbers_of_the_report_are_those_of_the_json(document, read):
    rows = {tuple(row[:2]): row for row in read.rows if row}
    quality = document["spectrum"][IFNG]
    row = rows["INTERFERON GAMMA RESPONSE", str(quality["n_genes"])]
    assert row[2] == shown(quality["figures"]["within_r"])
    assert row[3] == shown(quality["figures"]["site_within_r"])
    assert row[4] == shown(quality["figures"]["r2"])
    assert row[5] == f"{quality['spearman']:.2f}"
    for name, values in document["spectrum"].items():
        label = name.removeprefix("HALLMARK_").replace("_", " ")
        cells = rows[label, str(values["n_genes"])]
        within = values["figures"]["within_r"]
        if within["low"] >= 0:
            assert cells[2] == shown(within)
    one = document["retrieval"]["patient.slide_to_profile"]["figures"]["molquery"]
    percent = [f"{100 * one[f]['value']:.1f}" for f in ("recall1", "recall5")]
    assert ["molquery", *percent] in [row[:3] for row in read.rows]
    contrast = document["validation"]["contrasts"][0]["auc"]
    auc = f"{contrast['value']:.3f} ({contrast['low']:.3f}–{contrast['high']:.3f})"
    assert ["AUC, predicted", auc] in read.rows
    cohorts = {row[0]: row for row in read.rows if len(row) == 5}
    for cohort, counts in document["data"]["cohorts"].items():
        assert cohorts[cohort][1:] == [str(counts[k]) for k in
                                       ("slides", "patients", "profiles", "pairs")]  # fmt: skip


def test_the_report_has_every_part_and_nothing_that_is_not_a_number(found, html, read):
    text = " ".join(read.text)
    assert html.count("<svg") == 10
    assert len(html) < 3_000_000
    for line in findings(found):
        assert line in text
    assert "one_class has one value only" in text
    words = text.replace("(", " ").replace(")", " ").split()
    assert not {"nan", "NaN", "None", "inf"} & set(words)
    assert 'class="warn"' in html


def test_an_estimate_as_a_table_shows_it():
    assert interval(Estimate(0.446, 0.4161, 0.472)) == "0.45 (0.42–0.47)"
    assert interval(Estimate(0.05, -0.1, 0.2)) == "0.05 (−0.10, 0.20)"
    assert interval(Estimate(0.614, 0.59, 0.635), percent=True) == "61.4 (59.0–63.5)"
    assert interval(Estimate(-0.001, -0.004, 0.001)) == "0.00 (0.00, 0.00)"
    assert interval(Estimate(20.21, 19.44, 20.9)) == "20.2 (19.4–20.9)"
    assert interval(Estimate(1.0)) == "1.00"
    assert interval(Estimate(None)) is interval(None) is None


# What cannot be measured, and bad input


def small(directory, sets, drop=(), **settings):
    """A small aligned database; `drop` names columns that its files lack."""
    files = synth.write_files(synth.make(synth.Toy(patients=60, **settings), sets), directory)
    for path in (files.slides, files.profiles):
        parquet.write_table(parquet.read_table(path).drop_columns(list(drop)), path)
    database = Database.create(directory / "small.mq")
    ingest_slides(database, [files.slides], options=Options(), encoder=ENCODER)
    ingest_profiles(database, [files.profiles], options=Options(), scale="log2")
    align(database, AlignSettings(method="cca"))
    return Engine(database)


def test_one_cohort_without_sites_and_without_gene_sets(tmp_path):
    few = {name: collections.find(name).genes[-8:] for name in (*SEEN, UNSEEN)}
    engine = small(tmp_path, few, cohorts=1, sites=2, background=0)
    found = evaluate(engine, SETTINGS, tasks.plan(engine))
    assert found.spectrum == {}
    assert set(found.not_measured) == {
        "predictability of Hallmark sets", "sites held out", "between cohorts",
        "lung cancer subtype from a signature", "predicted interferon gamma by CD274 expression",
        "learning curve", "adaptation to a new cohort",
    }  # fmt: skip
    assert not any(key.startswith("site") for key in found.retrieval)
    to_json(found.to_dict())
    html = page(found).html()
    assert "no Hallmark set has 10 genes" in html
    assert "own cohort" not in findings(found)[0]
    assert "NaN" not in html


def test_no_cohort_is_named(tmp_path):
    sets = {name: collections.find(name).genes[:30] for name in (*SEEN, UNSEEN)}
    engine = small(tmp_path, sets, drop=("cohort", "site"))
    found = evaluate(engine, SETTINGS, tasks.plan(engine))
    assert found.not_measured["within cohorts"] == "no slide with RNA names a cohort"
    assert set(found.retrieval) == {"patient.slide_to_profile", "patient.profile_to_slide"}
    assert found.medians[OURS]["within_r"].value is None
    assert found.medians[OURS]["r"].low > 0.5
    assert found.spectrum[IFNG].random is not None
    assert "over all patients" in findings(found)[1]
    assert "None" not in page(found).html()


def test_the_same_seed_gives_the_same_numbers_and_another_seed_other_intervals(snapshot):
    quick = Settings(resamples=100, random_sets=20)
    one, again, other = (
        evaluate(snapshot, replace(quick, seed=s)).to_dict() for s in (0, 0, 1)
    )  # fmt: skip
    assert to_json(one) == to_json(again)
    key = "patient.slide_to_profile"
    mine, theirs = (e["retrieval"][key]["figures"][OURS]["recall1"] for e in (one, other))
    assert mine["value"] == theirs["value"]
    assert mine != theirs


def test_hostile_names_are_text_in_the_report(found):
    nasty = "<script>$\\frac$ & \x1b[31m"
    label = replace(found.validation.labels[0].rows[0], label=nasty, cohort="$x^")
    told = replace(found.validation.labels[0], column=nasty, rows=(label,))
    html = page(replace(found, validation=replace(found.validation, labels=(told,)))).html()
    assert "<script" not in html
    assert "\x1b" not in html


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"labels": ["nope"]}, ColumnError, "no column nope"),
        ({"time": "os_days"}, InputError, "a time and an event"),
        ({"event": "os_event"}, InputError, "a time and an event"),
        ({"time": "os_days", "event": "nope"}, ColumnError, "no column nope"),
    ],
)
def test_columns_are_checked_before_the_work(snapshot, options, error, match):
    with pytest.raises(error, match=match):
        tasks.plan(snapshot, **options)


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("[[contrast", InputError, "is not TOML"),
        ("", InputError, "names no task"),
        ("[[surprise]]", InputError, "names no task"),
        ("contrast = 3", InputError, "is not a list of tasks"),
        ('[[labels]]\nsignatures = ["X"]', InputError, "has no column"),
        ('[[labels]]\ncolumn = "cohort"\nsort = 1', InputError, "unknown keys: sort"),
        ('[[labels]]\ncolumn = "cohort"\nsignatures = "X"', InputError, "is not a list"),
        ('[[labels]]\ncolumn = "cohort"\nsignatures = ["X_UNKNOWN"]', GeneSetError, "X_UNKNOWN"),
        ('[[labels]]\ncolumn = "nope"', ColumnError, "no column nope"),
        (f'[[gene_groups]]\nsignature = "{IFNG}"\ngene = "NOPE"', GeneSetError, "NOPE is not in"),
    ],
)  # fmt: skip
def test_a_file_of_tasks_that_cannot_be_used(snapshot, tmp_path, text, error, match):
    file = tmp_path / "tasks.toml"
    file.write_text(text)
    with pytest.raises(error, match=match):
        tasks.plan(snapshot, file)
    with pytest.raises(InputError, match="cannot be read"):
        tasks.plan(snapshot, tmp_path / "none.toml")


def test_tasks_that_the_data_cannot_answer_say_why(snapshot):
    ifng = collections.find(IFNG)
    hopeless = tasks.Tasks(
        contrasts=(tasks.Contrast(ifng, "subtype", "high", "absent"),),
        outcomes=(tasks.Outcome("negative_days", "os_event", (ifng,)),
                  tasks.Outcome("os_days", "one_class", (ifng,)),
                  tasks.Outcome("os_days", "os_event", (collections.find("PDL1"),))),
    )  # fmt: skip
    found = evaluate(snapshot, Settings(resamples=100, random_sets=20), hopeless)
    told = dict(found.not_measured)
    assert "absent (0)" in told[f"high against absent by {IFNG}"]
    assert "negative" in told["survival by negative_days and os_event"]
    assert "one_class" in told["survival by os_days and one_class"]
    assert "enough genes" in told["survival by os_days and os_event"]
    assert found.validation.survival == ()


def test_settings_that_give_no_interval_are_refused(snapshot):
    for bad in (Settings(resamples=10), Settings(random_sets=3)):
        with pytest.raises(InputError, match="too few"):
            evaluate(snapshot, bad)


# The command


def test_the_command_writes_json_and_report_that_agree(cli, clinical, tmp_path):
    output, report = tmp_path / "e.json", tmp_path / "e.html"
    command = ("--db", clinical, "evaluate", "--output", output, "--report", report,
               "--labels", "subtype", "--time", "os_days", "--event", "os_event",
               "--resamples", 100, "--random-sets", 20)  # fmt: skip
    done = cli(*command)
    assert done.code == 0, done.err
    written = json.loads(output.read_text())
    assert written["provenance"]["space_id"]
    assert written["settings"]["resamples"] == 100
    html = report.read_text("utf-8")
    for line in done.out.splitlines():
        assert line.startswith("- ")
    median = written["medians"]["molquery"]["within_r"]["value"]
    assert f"within cohorts is {median:.2f}" in done.out
    assert f"within cohorts is {median:.2f}" in html
    assert "folds and baselines" in done.err
    assert "Not measured: lung cancer subtype" in done.err
    before = (output.read_bytes(), report.read_bytes())
    refused = cli(*command)
    assert refused.code == 1
    assert "exists already" in refused.err
    assert "folds" not in refused.err  # before any work
    assert (output.read_bytes(), report.read_bytes()) == before
    assert cli("--db", clinical, "evaluate", "--report", tmp_path / "no" / "e.html").code == 1
    missing = cli("--db", clinical, "evaluate", "--labels", "nope")
    assert (missing.code, missing.out) == (1, "")
    assert "slides have no column nope" in missing.err


def test_ranks_can_be_taken():
    whole = metrics.ranks([[0.1, 0.9], [0.8, 0.2]], np.eye(2, dtype=bool))
    assert whole.take(np.array([False, True])).rank.tolist() == [2.0]
    assert whole.take(np.array([1, 0])).query.tolist() == [1, 0]


def test_models_that_are_not_told_cohorts_are_not_told_their_sites(snapshot, monkeypatch):
    names = np.unique(snapshot.reference.cohorts)[:2].tolist()
    seen = []
    fit = refit.fit_model
    monkeypatch.setattr(
        refit, "fit_model", lambda pairs, *rest: seen.append(pairs) or fit(pairs, *rest)
    )
    operator = refit.told_no_cohort(snapshot, names)
    assert len(seen) == 5
    for side in (seen[0].slides, seen[0].profiles):
        merged = side.cohorts == "+".join(names)
        assert merged.any()
        assert not np.isin(side.cohorts, names).any()
        assert set(side.sites[merged].tolist()) == {""}
        assert "" not in set(side.sites[~merged].tolist())
    np.testing.assert_array_equal(operator.rows, np.unique(snapshot.pairs.slide))


def test_slides_without_rna_change_no_figure(clinical, snapshot, planned, found, tmp_path):
    """More slides of patients without RNA, unlike all others, between those that are there."""
    path = shutil.copytree(clinical, tmp_path / "more.mq")
    basis = np.array(snapshot.basis(np.arange(snapshot.n_slides)))
    others = np.flatnonzero(~np.isin(snapshot.groups, snapshot.groups[snapshot.held_out]))
    assert set(basis[others]) == {"projected"}
    others = others[::3]
    dim = snapshot.facts["slide_dim"]
    values = np.random.default_rng(3).normal(50.0, 20.0, (len(others), dim))
    new = {
        "slide_id": [f"{'A' if i % 2 else ''}{snapshot.slide_ids[i]}-MORE" for i in others],
        "patient_id": snapshot.patients[others].tolist(),
        "cohort": snapshot.cohorts[others].tolist(),
        "features": values.tolist(),
    }
    parquet.write_table(pa.table(new), tmp_path / "more.parquet")
    database = Database.open(path)
    ingest_slides(database, [tmp_path / "more.parquet"], options=Options(), encoder=ENCODER)
    engine = Engine(database)
    assert engine.n_slides == snapshot.n_slides + len(others)
    assert (engine.pairs.slide != snapshot.pairs.slide).any()

    at, slides, profiles = read_paired(database, need_space(database), np.array([1, 5]))
    whole = database.matrix(SLIDES, SLIDES.vector)
    wanted = np.isin(engine.groups, engine.groups[engine.held_out])
    wanted[[1, 5]] = True
    np.testing.assert_array_equal(at, np.flatnonzero(wanted))
    np.testing.assert_array_equal(slides.vectors, whole[at])
    np.testing.assert_array_equal(slides.groups, engine.groups[at])
    np.testing.assert_array_equal(profiles.vectors, engine.reference.expression)

    again = evaluate(engine, replace(SETTINGS, learning_curve=True), tasks.plan(engine, planned))
    names = ("retrieval", "spectrum", "medians", "gains", "geometry", "coverage", "methods",
             "learning_curve", "validation/contrasts", "validation/gene_groups")  # fmt: skip
    expected, figures = (flat(e.to_dict()) for e in (found, again))
    for name in names:
        mine = {path: value for path, value in expected.items() if path.startswith(f"/{name}")}
        assert len(mine) > 5, name
        assert {p: v for p, v in figures.items() if p.startswith(f"/{name}")} == pytest.approx(
            mine, abs=1e-6, nan_ok=True
        ), name


def flat(value, path=""):
    """Every leaf of nested values by its path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {k: v for key, inner in items for k, v in flat(inner, f"{path}/{key}").items()}
