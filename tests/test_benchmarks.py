"""The benchmarks measure what they say: recall against brute force, every part in a process."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.scale import archive, measure, plan, report
from benchmarks.scale.__main__ import main, parse
from benchmarks.scale.results import Results
from molquery import predict
from molquery.align import adapt
from molquery.align.left_out import Yardstick
from molquery.align.pairs import load_pairs
from molquery.database import Database

ROOT = Path(__file__).parents[1]


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int) -> set[int]:
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    return set(np.argsort(-scores)[:k].tolist())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> archive.Archive:
    return archive.archive(tmp_path_factory.mktemp("bench"), "clustered", 2_000, dim=32)


def test_the_truth_is_the_truth(made: archive.Archive) -> None:
    vectors = np.array(made.vectors)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for q in range(0, 200, 20):
        assert set(made.truth[q][:10].tolist()) == brute_force(vectors, made.queries[q], 10)


def test_truth_under_a_filter(made: archive.Archive) -> None:
    allowed, where, truth = measure.filtered(made, "0.01")
    assert where == "uniform < 0.01"
    rows = np.flatnonzero(made.uniform < 0.01)
    assert np.array_equal(np.flatnonzero(allowed), rows)
    vectors = np.array(made.vectors)
    for q in range(0, 200, 20):
        near = {int(rows[i]) for i in brute_force(vectors[rows], made.queries[q], 10)}
        assert set(truth[q].tolist()) == near
    few, _, truth = measure.filtered(made, "0.001")
    assert ((truth >= 0).sum(axis=1) == min(10, few.sum())).all(), "-1 where fewer qualify"


def test_recall_counts_what_was_found() -> None:
    truth = np.array([[1, 2, 3, 4], [5, 6, -1, -1]])
    assert measure.recall(np.array([[1, 2, 9, 8], [5, 6, 7, 8]]), truth, 4) == 4 / 6
    assert measure.recall(np.array([[4, 3, 2, 1], [6, 5, -1, -1]]), truth, 4) == 1.0


@pytest.mark.parametrize("name", ["FAISS IVF-Flat", "molquery ivf-rabitq"])
def test_recall_of_an_index_is_that_of_brute_force(made: archive.Archive, name: str) -> None:
    task = {"work": str(made.folder.parent), "kind": "clustered", "rows": 2_000,
            "method": name, "seconds": 5.0}  # fmt: skip
    measure.build(task)
    narrow = {"nprobe": 1}
    settings = [narrow] if name.startswith("FAISS") else [{}]
    found = measure.search({**task, "settings": settings})["settings"][0]
    assert len(found["latencies"]) == archive.QUERIES
    vectors = np.array(made.vectors)
    _, _, search, _ = measure.opened(task)
    answers = search(made.queries, 10, settings[0], None)
    hits = [
        len(brute_force(vectors, q, 10) & set(a.tolist()))
        for q, a in zip(made.queries, answers, strict=True)
    ]
    assert found["recall10"] == pytest.approx(np.mean(hits) / 10)
    assert (found["recall10"] < 0.9) == name.startswith("FAISS"), "one list of 51 misses some"


def test_a_run_measures_keeps_and_reports(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In processes of their own; a second run finds everything there and measures nothing."""
    page = tmp_path / "README.md"
    page.write_text(
        f"# Recipes\n\nkept\n\n{report.BEGIN}\nfigures of yesterday\n{report.END}\n\nalso kept\n"
    )
    arguments = ["exact", "--rows", "2000", "--rounds", "1", "--seconds", "0.02", "--work",
                 str(tmp_path / "work"), "--report", str(tmp_path), "--indexes", str(page),
                 "--only", "numpy float32", "molquery flat"]  # fmt: skip
    assert main(arguments) == 0
    said = capfd.readouterr()
    assert "| molquery flat |" in said.out
    assert "exact / clustered-2000 / search / molquery flat" in said.err
    with (tmp_path / "scale.tsv").open() as file:
        lines = {line["method"]: line for line in csv.DictReader(file, delimiter="\t")}
    assert lines["molquery flat"]["recall10"] == "1.0"
    assert float(lines["numpy float32"]["median_ms"]) > 0
    text = page.read_text()
    assert "| `flat` | 2,000 rows, clustered | 1.000 |" in text
    assert ("kept" in text, "also kept" in text, "yesterday" in text) == (True, True, False)
    before = (tmp_path / "work" / "measured.json").read_text()
    assert main(arguments) == 0
    assert "exact / clustered-2000" not in capfd.readouterr().err
    assert json.loads(before) == json.loads((tmp_path / "work" / "measured.json").read_text())


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "usearch" else 1)
    assert plan.left_out(2_000, False)["usearch float16"] == "usearch is not installed"
    assert "usearch float16" not in [m.name for m in plan.chosen("approximate", 2_000, False)]
    assert "hnswlib M16" in plan.left_out(1_000_000, False)
    assert "hnswlib M16" not in plan.left_out(1_000_000, True)


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["speed"])
    assert stopped.value.code == 2
    assert "no part speed; there are exact, batch" in capsys.readouterr().err


def test_targets_are_judged_by_what_was_measured() -> None:
    """2 GB in 80 ms are 25.6 GB/s: 80 % of 32, too little; 1 GB in 40 ms is half the time."""
    place = {"part": "exact", "archive": "clustered-1000000"}
    rows = [
        {**place, "method": "memory: plain sum", "per_s": 32.0},
        {**place, "method": "molquery flat", "median_ms": 80.0},
        {**place, "method": "molquery flat16", "median_ms": 40.0},
        {**place, "method": "LanceDB, no index", "median_ms": 2400.0},
    ]
    found = {what: (value, met) for what, _, value, met in report.targets(rows, place["archive"])}
    assert found["exact float32, share of read bandwidth"] == ("0.8", "no")
    assert found["exact float16, time beside float32"] == ("0.5", "yes")
    assert found["LanceDB without index / molquery float32"] == ("30 x", "yes")
    assert "batch of 64, k = 100" not in found, "not measured, so not judged"


def test_failures_are_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    from benchmarks.scale.__main__ import run

    work = {"work": str(tmp_path), "kind": "clustered", "rows": 500, "seconds": 0.01}
    bad = {**work, "measure": "search", "method": "no such method"}
    results = Results.read(tmp_path / "measured.json")
    archive.archive(tmp_path, "clustered", 500, dim=16)
    failed = run({"exact": [{**work, "measure": "limit"}]}, results, 1)
    assert failed == {}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.measure", json.dumps(bad)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1


def test_gpu_benchmark_runs_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--rows", "2000", "--device", "cpu", "--recipes", "flat16"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    found = {(what, name): value for what, name, value, _ in lines[1:]}
    assert found["flat16", "recall@10"] == "1"
    assert float(found["limit", "memory read"]) > 0


def test_gpu_benchmark_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    from molquery.index import library

    if library.gpus():
        pytest.skip("there is one")
    assert gpu.main([]) == 1
    assert "FAISS sees no GPU, so nothing was measured" in capsys.readouterr().err


# The predictor on a cohort -----------------------------------------------------------------------


@pytest.fixture
def cohort(ingested: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The scripts import one another, as they do when they are run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return Database.open(ingested)


def test_attempts_made_of_parts_equal_what_align_and_search_do(cohort: Database) -> None:
    """Blocks, ridge and neighbours are written down twice: in molquery and in the script."""
    import attempts

    pairs = load_pairs(cohort, pair_on="patient_id", split_on="patient_id")
    yardstick = Yardstick.of(cohort, pairs)
    held = set(np.unique(pairs.groups)[::4].tolist())
    split = attempts.Split(pairs, yardstick, held, "embedding")
    expected, fold10 = attempts.default(split)
    found, again = attempts.blocks(*attempts.ALL)(split)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert again == fold10
    ridge = split.kernel_ridge(split.standard, attempts.linear_kernel, predict.RIDGE)
    np.testing.assert_allclose(ridge, split.linear, atol=1e-4)


def test_attempts_are_told_for_every_scheme(cohort: Database) -> None:
    import attempts

    found = attempts.measure(cohort, list(attempts.ATTEMPTS), [3])
    assert list(found) == ["patient", "site", "cohort"]
    table = attempts.markdown(found).splitlines()
    assert [line.split(" | ")[0][2:] for line in table[2:]] == list(attempts.ATTEMPTS)
    blend, ridge = (found["cohort"][name].within_r for name in ("default", "ridge alone"))
    assert blend == pytest.approx(ridge, abs=1e-6), "nothing else is asked without pairs"
    assert found["patient"]["default"].within_r > 0.8, "planted"
    assert found["patient"]["values alone"].r2 > found["patient"]["cohort block alone"].r2


def test_ways_to_adapt_are_tested_as_the_curves_of_adapt_are(
    cohort: Database, capsys: pytest.CaptureFixture[str], aligned: Path
) -> None:
    import limits

    pairs = load_pairs(cohort, pair_on="patient_id", split_on="patient_id")
    limits.adaptations(cohort, pairs)
    lines = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    told = {row[0]: [float(v) for v in row[1:]] for row in lines[2:10]}
    assert lines[1] == ["median within-cohort r", "0", "4", "8", "16", "32"]
    assert told["heads kept"][0] == told["align anew"][0], "without pairs they are the same"
    curves = [
        adapt.adaptation_curve(
            Database.open(aligned), hold_out=f"cohort={name}", seeds=limits.DRAWS_OF_PAIRS
        )
        for name in sorted(set(pairs.cohorts.tolist()))
    ]
    for at, n in enumerate((0, 4, 8, 16, 32)):
        points = [curve.points[at].within_r for curve in curves if len(curve.points) > at]
        expected = np.mean([r for r in points if r is not None])
        assert told["align anew"][at] == pytest.approx(expected, abs=6e-4), n
