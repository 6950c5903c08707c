"""Gene sets of every format, and registered ones, in the commands that score slides with them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SEEN, Cli

from molquery import synth
from molquery.evaluate.metrics import pearson
from molquery.export.parquet import KEY
from molquery.genes import resolve
from molquery.query.engine import Engine
from molquery.records import Signature


@pytest.fixture(scope="module")
def sets(archive: synth.Archive) -> dict[str, dict[str, float]]:
    """Two plain sets and a signed one with weights; the last gene of each is not measured."""
    genes = [g for g in archive.genes if resolve([g]).symbols == (g,)]
    return {
        "PLAIN": dict.fromkeys([*genes[:20], "INS"], 1.0),
        "OTHER": dict.fromkeys([*genes[15:40], "GCG"], 1.0),
        "SIGNED": {g: 2.0 if i < 12 else -1.0 for i, g in enumerate(genes[40:64])} | {"TTN": 1.0},
    }


def gmt(path: Path, sets: dict[str, dict[str, float]]) -> Path:
    lines = ["\t".join([n, "two words", *g]) for n, g in sets.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def enrichr(path: Path, sets: dict[str, dict[str, float]]) -> Path:
    rows = ["\t".join([n, "", *(f"{g},{w}" for g, w in s.items())]) for n, s in sets.items()]
    path.write_text("\n".join(rows) + "\n")
    return path


def net(path: Path, sets: dict[str, dict[str, float]]) -> Path:
    rows = [f"{n},{g},{w}" for n, s in sets.items() for g, w in s.items()]
    path.write_text("\n".join(["source,target,weight", *rows]) + "\n")
    return path


def msigdb(path: Path, sets: dict[str, dict[str, float]]) -> Path:
    path.write_text(json.dumps({n: {"geneSymbols": list(s)} for n, s in sets.items()}))
    return path


def gmx(path: Path, sets: dict[str, dict[str, float]]) -> Path:
    columns = [[n, "na", *s] for n, s in sets.items()]
    height = max(map(len, columns))
    rows = zip(*(c + [""] * (height - len(c)) for c in columns), strict=True)
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    return path


PLAIN_FORMATS = {"gmt": gmt, "enrichr": enrichr, "net": net, "msigdb": msigdb, "gmx": gmx}


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def column(cli: Cli, db: Path, *words: object, name: str) -> dict[str, float]:
    result = cli("--db", db, *words, "--format", "tsv")
    assert result.code == 0, result.err
    return {row["slide_id"]: float(row[name]) for row in rows(result.out)}


def expected(engine: Engine, weights: dict[str, float]) -> dict[str, float]:
    """Weighted mean of z-scores, by hand, then the engine's own prediction."""
    panel = {g: j for g, j in engine.reference.panel.items() if g in weights}
    x = engine.reference.expression[:, list(panel.values())].astype(np.float64)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    w = np.array([weights[g] for g in panel])
    scores = engine.predict((z @ w / np.abs(w).sum())[:, None])[:, 0]
    return dict(zip(engine.slide_ids.tolist(), scores.tolist(), strict=True))


@pytest.mark.parametrize("kind", PLAIN_FORMATS)
def test_score_reads_every_format_alike(
    cli: Cli, aligned: Path, engine: Engine, tmp_path: Path, sets: Any, kind: str
) -> None:
    plain = {n: sets[n] for n in ("PLAIN", "OTHER")}
    path = PLAIN_FORMATS[kind](tmp_path / "sets", plain)
    for name, weights in plain.items():
        got = column(cli, aligned, "score", path, name=name)
        assert got == pytest.approx(expected(engine, weights), abs=1e-4)


@pytest.mark.parametrize("write", [enrichr, net])
def test_weights_and_signs_reach_the_scores(
    cli: Cli, aligned: Path, engine: Engine, tmp_path: Path, sets: Any, write: Any
) -> None:
    path = write(tmp_path / "sets", sets)
    truth = expected(engine, sets["SIGNED"])
    assert column(cli, aligned, "score", path, name="SIGNED") == pytest.approx(truth, abs=1e-4)
    words = ("search", "--geneset", f"{path}#SIGNED", "-k", "1000", "--null", "0")
    assert column(cli, aligned, *words, name="score") == pytest.approx(truth, abs=1e-4)


def test_a_registered_collection_is_found_by_every_command(
    cli: Cli, aligned_copy: Path, engine: Engine, tmp_path: Path, sets: Any
) -> None:
    path = net(tmp_path / "net.csv", sets)
    at = ("--db", aligned_copy)
    assert "3 gene sets" in cli(*at, "genesets", "add", path, "--name", "nets").out
    truth = expected(engine, sets["SIGNED"])
    got = column(cli, aligned_copy, "score", "nets", name="SIGNED")
    assert got == pytest.approx(truth, abs=1e-4)
    words = ("search", "--geneset", "signed", "-k", "1000", "--null", "0")
    assert column(cli, aligned_copy, *words, name="score") == pytest.approx(truth, abs=1e-4)
    shown = rows(cli(*at, "genesets", "check", "nets", "--format", "tsv").out)
    assert [row["name"] for row in shown] == list(sets)
    for row in shown:
        weights = sets[row["name"]]
        assert int(row["genes"]) == len(weights)
        assert int(row["found"]) == len(weights) - 1
        assert row["usable"] == "yes"
    shipped = rows(cli(*at, "score", "hallmark", "--format", "tsv").out)
    assert set(SEEN) <= set(shipped[0])
    missing = cli(*at, "score", "no_such_collection")
    assert missing.code == 1
    assert "no_such_collection" in missing.err


def test_check_shows_coverage_and_how_well_slides_predict_a_set(
    cli: Cli, aligned: Path, engine: Engine, tmp_path: Path, sets: Any
) -> None:
    path = gmt(tmp_path / "sets.gmt", {**sets, "ABSENT": dict.fromkeys(("INS", "GCG"), 1.0)})
    shown = {r["name"]: r for r in rows(cli("--db", aligned, "genesets", "check", path).out)}
    assert shown["ABSENT"]["found"] == "0"
    assert shown["ABSENT"]["usable"].startswith("no")
    assert shown["ABSENT"]["r2"] == ""
    # Held-out prediction of the patients of each fold, against their measured scores.
    signature = Signature("PLAIN", sets["PLAIN"])
    measured = engine.reference.score_one(signature)[1][:, 0]
    pairs = engine.pairs
    assert float(shown["PLAIN"]["r"]) > 0.3
    predicted = engine.predict(measured[:, None])[:, 0]
    seen = pearson(predicted[pairs.slide], measured[pairs.profile])
    assert abs(float(shown["PLAIN"]["r"]) - float(seen)) < 0.15
    one = cli("--db", aligned, "genesets", "check", f"{path}#PLAIN")
    assert "Missing: INS" in one.err


def test_an_export_holds_the_scores(
    cli: Cli, aligned: Path, engine: Engine, tmp_path: Path, sets: Any
) -> None:
    path = net(tmp_path / "net.csv", sets)
    result = cli("--db", aligned, "export", tmp_path / "out", "--genesets", path, "--only",
                 "parquet")  # fmt: skip
    assert result.code == 0, result.err
    assert str(tmp_path / "out" / "scores.parquet") in result.out.splitlines()
    table = pq.read_table(tmp_path / "out" / "scores.parquet")
    for name, weights in sets.items():
        got = dict(zip(table["slide_id"].to_pylist(), table[name].to_pylist(), strict=True))
        assert got == pytest.approx(expected(engine, weights), abs=1e-4)
    told = json.loads(table.schema.metadata[KEY])
    assert told["parameters"]["gene_sets"]["SIGNED"] == Signature("SIGNED", sets["SIGNED"]).sha256
    listed = json.loads((tmp_path / "out" / "export.json").read_text())
    assert listed["files"] == ["slides.parquet", "profiles.parquet", "scores.parquet"]
    bad = cli("--db", aligned, "export", tmp_path / "no", "--genesets", tmp_path / "none.gmt")
    assert bad.code == 1
    assert not (tmp_path / "no").exists()
