"""Gene sets of every format, the collections of a database, and what is refused."""

import json
from pathlib import Path

import gseapy
import pytest
from click.testing import CliRunner

from molquery.cli.main import cli
from molquery.database import Database
from molquery.errors import DatabaseError, FileFormatError, GeneSetError, OutputError
from molquery.genes import resolve
from molquery.genesets.collections import find
from molquery.genesets.read import read_sets
from molquery.genesets.registered import register, registered
from molquery.records import Signature

SETS = {"ALPHA": ["TP53", "EGFR", "HLA-A"], "BETA": ["KRT5", "CXCL9", "NKX2-1", "ESR1"]}
GMT = "".join(f"{n}\tfrom a paper, in words\t" + "\t".join(g) + "\n" for n, g in SETS.items())
GMX = "ALPHA\tBETA\nna\t> about it\nTP53\tKRT5\nEGFR\tCXCL9\nHLA-A\tNKX2-1\n\tESR1\n"
MSIGDB = json.dumps(
    {n: {"geneSymbols": g, "systematicName": "M1", "pmid": "12"} for n, g in SETS.items()}
)
NET = "source,target,weight\n" + "".join(f"{n},{g},1\n" for n, gs in SETS.items() for g in gs)
ENRICHR = "".join(f"{n}\t\t" + "\t".join(f"{g},1.0" for g in gs) + "\n" for n, gs in SETS.items())


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [GMT, GMX, MSIGDB, NET, NET.replace(",", "\t"), ENRICHR])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_format_holds_the_same_sets(tmp_path: Path, text: str, end: str) -> None:
    path = tmp_path / "sets.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", end).encode())
    sets = read_sets(path)
    assert {s.name: list(s.genes) for s in sets} == SETS
    assert {w for s in sets for w in s.weights.values()} == {1.0}
    assert find(f"{path}#BETA").genes == tuple(SETS["BETA"])


def test_gmt_reads_as_gseapy_reads_it(tmp_path: Path) -> None:
    path = put(tmp_path / "a.gmt", GMT)
    theirs = gseapy.parser.read_gmt(str(path))
    assert {s.name: list(s.genes) for s in read_sets(path)} == theirs


def test_net_weights_may_be_negative_and_pairs_join(tmp_path: Path) -> None:
    path = put(tmp_path / "n", "source,target,weight\nTF,TP53,-2\nTF,EGFR,0.5\n")
    assert dict(read_sets(path)[0].weights) == {"TP53": -2.0, "EGFR": 0.5}
    pair = put(tmp_path / "p", "source\ttarget\nX_UP\tTP53\nX_DN\tEGFR\n")
    assert dict(find(f"{pair}#X").weights) == {"TP53": 1.0, "EGFR": -1.0}


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("source,target,weight\nTF,TP53,high\n", GeneSetError, "line 2(?s:.*)high"),
        ("source,target,weight\nTF,TP53,0\n", GeneSetError, "zero"),
        ("source,target,weight\nTF,TP53,nan\n", GeneSetError, "finite"),
        ("source,target,weight\nTF,TP53,1\nTF,TP53,-1\n", GeneSetError, "opposite"),
        ("source,target,weight\nTF,,1\n", GeneSetError, "lacks"),
        ("source,target,weight\n", FileFormatError, "no gene sets"),
        ('{"A": {"geneSymbols": []}}', GeneSetError, "A of .* holds no genes"),
        ('{"A": {"genes": ["TP53"]}}', FileFormatError, "no gene set of MSigDB"),
        ('{"A": ["TP53"], "A": ["EGFR"]}', GeneSetError, "appears twice"),
        ('{"A": ["TP53"', FileFormatError, "cannot be read"),
        ('{"a":' * 100_000, FileFormatError, "cannot be read"),
        ("A\tB\nna\tna\nTP53\t\nEGFR\t\nKRT5\t\n", GeneSetError, "B of .* holds no genes"),
        ("A\ttwo words\tTP53\nB\tno genes here\n", GeneSetError, "B(?s:.*)holds no genes"),
        ("<!DOCTYPE html><html>\n</html>", FileFormatError, "web page"),
    ],
)
def test_bad_gene_sets(tmp_path: Path, text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        read_sets(put(tmp_path / "x", text))


def test_collections_of_a_database(tmp_path: Path) -> None:
    database = Database.create(tmp_path / "db")
    sets = read_sets(put(tmp_path / "a.gmt", GMT))
    assert register(database, "mine", sets, origin="a.gmt")
    assert not register(database, "mine", sets, origin="a.gmt")
    got = registered(Database.open(tmp_path / "db"))
    assert [(s.name, s.sha256, s.source) for s in got] == [(s.name, s.sha256, "mine") for s in sets]
    assert find("alpha", got).genes == tuple(SETS["ALPHA"])
    other = [Signature("ALPHA", {"TP53": -0.1})]
    with pytest.raises(OutputError, match="already"):
        register(database, "mine", other, origin="b")
    assert register(database, "mine", other, origin="b", overwrite=True)
    file = database.path / "genesets" / database.manifest()["collections"]["mine"]["file"]
    file.write_bytes(file.read_bytes()[:-9])
    assert register(database, "mine", other, origin="b"), "a damaged file is no content"
    assert not register(database, "mine", other, origin="b")
    assert len(registered(database)) == len(other)
    assert dict(registered(database)[0].weights) == {"TP53": -0.1}
    for name in ("hallmark", "../x", "", "a b"):
        with pytest.raises(GeneSetError, match="cannot be called"):
            register(database, name, sets, origin="x")
    file.write_text(file.read_text() + " ")
    with pytest.raises(DatabaseError, match="mine"):
        registered(database)


def test_the_command_line_registers_and_finds(tmp_path: Path) -> None:
    database = Database.create(tmp_path / "db")
    path = put(tmp_path / "n.csv", NET)
    run = CliRunner().invoke
    base = ["--db", str(database.path), "genesets"]
    assert "2 gene sets" in run(cli, [*base, "add", str(path), "--name", "nets"]).output
    assert "nothing new" in run(cli, [*base, "add", str(path), "--name", "nets"]).output
    listed = run(cli, [*base, "list", "--format", "tsv"]).output
    assert "ALPHA\t3\tnets" in listed
    assert "HALLMARK_HYPOXIA" in listed
    assert "NKX2-1" in run(cli, [*base, "show", "beta", "--format", "tsv"]).output


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("HLA.A", "HLA-A"),
        ("NKX2.1", "NKX2-1"),
        ("TP53|7157", "TP53"),
        ("?|7157", "TP53"),
        ("CTGF|1490", "CCN2"),
        ("ENSG00000141510.18_TP53", "TP53"),
        ("TP53.1", "TP53"),
        ("HLA.A.1", "HLA-A"),
        ("X7SK", "RN7SK"),
        ("ENSG00000182378.15_PAR_Y", None),
        ("1-Mar", None),
        ("7157.0", None),  # among symbols a number is more likely damage
    ],
)
def test_forms_of_gene_names(name: str, symbol: str | None) -> None:
    assert resolve([name, "EGFR"]).symbols[0] == symbol


def test_entrez_ids_as_floats() -> None:
    assert resolve(["7157.0", "1956.0"]).symbols == ("TP53", "EGFR")
