"""Reading, finding and matching gene sets; every error is provoked once."""

import gzip
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

import molquery.genesets.collections as shelf
from molquery.errors import DuplicateIdError, FileFormatError, GeneSetError, InputError
from molquery.genesets.collections import COLLECTIONS, find, hallmark, shipped
from molquery.genesets.gmt import join_up_down, read_gmt
from molquery.genesets.inline import parse_genes
from molquery.genesets.match import match
from molquery.records import Signature

DATA = Path(shelf.__file__).parent.parent / "data"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def plain(name: str, *genes: str) -> Signature:
    return Signature(name, dict.fromkeys(genes, 1.0))


# GMT ---------------------------------------------------------------------------------------------


def test_gmt_splits_on_tabs_only(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gmt", "SET A\tfrom a paper, 2017: (x)\tHLA-A\tNKX2-1\nB\t\tTP53\n")
    first, second = read_gmt(file)
    assert (first.name, first.description) == ("SET A", "from a paper, 2017: (x)")
    assert first.genes == ("HLA-A", "NKX2-1")
    assert set(first.weights.values()) == {1.0}
    assert (second.name, second.description, second.genes) == ("B", "", ("TP53",))
    assert first.source == str(file)
    assert read_gmt(file, source="mine")[0].source == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"A\tna\tX\tY\nB\tna\tZ\n",
        b"\xef\xbb\xbfA\tna\tX\tY\r\nB\tna\tZ\r\n",
        b"A\tna\tX\tY\t\t\t\n\n  \nB\tna\tZ\t\n",
        b"A\tna\tX\tY\rB\tna\tZ",
        b"# made by hand\nA\tna\t X \tY\tX\nB\tna\t\tZ\n",
        gzip.compress(b"A\tna\tX\tY\nB\tna\tZ\n"),
    ],
    ids=["plain", "bom-crlf", "trailing-tabs", "cr", "comment-space-duplicate", "gzip"],
)
def test_gmt_variants_read_alike(tmp_path: Path, content: bytes) -> None:
    sets = read_gmt(write(tmp_path / "file", content))
    assert {s.name: dict(s.weights) for s in sets} == {"A": {"X": 1.0, "Y": 1.0}, "B": {"Z": 1.0}}


def test_gmt_reads_old_encodings_and_odd_separators_in_descriptions(tmp_path: Path) -> None:
    (latin,) = read_gmt(write(tmp_path / "l.gmt", "A\tThorvaldsdóttir\tX\n".encode("latin-1")))
    assert latin.description == "Thorvaldsdóttir"
    (odd,) = read_gmt(write(tmp_path / "o.gmt", "A\tone\x0btwo\u2028three\tX\n"))
    assert odd.genes == ("X",)


def test_gmt_enrichr_weights(tmp_path: Path) -> None:
    (got,) = read_gmt(write(tmp_path / "e.gmt", "A\t\tX,1.0\tY,-0.5\tZ\t\n"))
    assert dict(got.weights) == {"X": 1.0, "Y": -0.5, "Z": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A\td\tX\nB\td\tY\nA\td\tZ\n", r"A appears twice(.|\n)*lines 1 and 3"),
        ("A\td\tX\nB\td\n", r"gene set B \(line 2 of .*\) holds no genes"),
        ("A\td\tX\n\nB\t\t\t\n", r"gene set B \(line 3 of"),
        ("A\td\tX\nlonely\n", r"gene set lonely \(line 2"),
        ("A\td\tX\n\td\tY\n", r"line 2 of .* no name"),
        ("A\td\tX,high\n", r"line 1 of .*X,high(.|\n)*weight 'high'"),
        ("A\td\tX,nan\n", "finite"),
        ("A\td\tX,0\n", "not zero"),
        ("A\td\tX,\n", "weight ''"),
        ("A\td\t,1.0\n", "no gene name"),
        ("A\td\tX,1\tX,-1\n", "X has weights of opposite sign"),
    ],
)
def test_gmt_malformed_sets(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GeneSetError, match=message):
        read_gmt(write(tmp_path / "a.gmt", text))


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (b"", "an empty file"),
        (b"\n \n", "an empty file"),
        (b'{"SET": {"geneSymbols": ["A"]}}', "JSON"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"source,target,weight\nA,B,1\n", "a network table"),
        (b"CXCL9\nCXCL10\nKRT5\n", "a list of 3 words"),
        (b"a,b,c\n1,2,3\n", "comma-separated text"),
        (b"SET description GENE1 GENE2\n", "text without tabs: SET description"),
        (b"#1.2\n2\t2\nName\tDescription\ts1\ts2\n", "a GCT expression matrix"),
        (b"gene\ts1\ts2\nTP53\t1.5\t2.25\n", "a table of numbers"),
        (b"A\tB\tC\nna\tna\tna\nX\tY\tZ\nU\t\tW\n", "a GMX file"),
        ("A\td\tX\n".encode("utf-16"), "UTF-16 text"),
        (b"\x89PNG\0\0\1\2", "binary data"),
    ],
)
def test_gmt_other_kinds_of_file(tmp_path: Path, content: bytes, looks_like: str) -> None:
    with pytest.raises(FileFormatError, match=re.escape(looks_like)):
        read_gmt(write(tmp_path / "a.gmt", content))


def test_gmt_damaged_gzip_missing_file_and_directory(tmp_path: Path) -> None:
    whole = gzip.compress(b"A\td\tX\n" * 99)
    with pytest.raises(FileFormatError, match="damaged gzip"):
        read_gmt(write(tmp_path / "a.gmt.gz", whole[:-12]))
    with pytest.raises(InputError, match="No such file"):
        read_gmt(tmp_path / "none.gmt")
    with pytest.raises(InputError, match="cannot read"):
        read_gmt(tmp_path)


def test_a_set_that_names_itself_is_not_a_gmx_file(tmp_path: Path) -> None:
    sets = read_gmt(write(tmp_path / "a.gmt", "A\tA\tA\nCD274\tCD274\tCD274\nB\tB\tB\n"))
    assert [s.name for s in sets] == ["A", "CD274", "B"]


def test_up_and_down_sets_join_into_a_signed_signature() -> None:
    up, down = plain("X_UP", "A", "B", "C"), plain("X_DN", "C", "D")
    other = plain("Y_UP", "A")
    *kept, joined = join_up_down([up, other, down])
    assert kept == [up, other, down]
    assert joined.name == "X"
    assert dict(joined.weights) == {"A": 1.0, "B": 1.0, "D": -1.0}
    assert joined.description == "X_UP minus X_DN; 1 genes in both left out"
    assert join_up_down([plain("y_down", "B"), plain("y_up", "A")])[-1].name == "y"


def test_up_and_down_sets_that_cannot_join() -> None:
    taken = (plain("X", "Z"), plain("X_UP", "A"), plain("X_DN", "B"))
    assert join_up_down(taken) == taken
    same = (plain("X_UP", "A"), plain("X_DN", "A"))
    assert join_up_down(same) == same
    with pytest.raises(GeneSetError, match="more than one set of down genes"):
        join_up_down([plain("X_UP", "A"), plain("X_DN", "B"), plain("X_DOWN", "C")])


# Inline ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "down", "weights"),
    [
        ("CXCL9,CXCL10,-KRT5", "", {"CXCL9": 1, "CXCL10": 1, "KRT5": -1}),
        (" CXCL9 ,\tCXCL10\n- KRT5 ,", "", {"CXCL9": 1, "CXCL10": 1, "KRT5": -1}),
        ("KRT5:1.5,-EPCAM", "", {"KRT5": 1.5, "EPCAM": -1}),
        ("KRT5 : 1.5 -EPCAM:2e1", "", {"KRT5": 1.5, "EPCAM": -20}),
        ("KRT5:-1.5", "", {"KRT5": -1.5}),
        ("HLA-A,NKX2-1,-HLA-DRA", "", {"HLA-A": 1, "NKX2-1": 1, "HLA-DRA": -1}),
        ("HLA–A,−KRT5", "", {"HLA-A": 1, "KRT5": -1}),
        ("CXCL9", "KRT5, KRT14:2", {"CXCL9": 1, "KRT5": -1, "KRT14": -2}),
        ("", "KRT5", {"KRT5": -1}),
    ],
)
def test_inline_genes(text: str, down: str, weights: dict[str, float]) -> None:
    got = parse_genes(text, down=down, name="mine")
    assert dict(got.weights) == weights
    assert got.genes == tuple(weights)
    assert (got.name, got.source) == ("mine", "inline")


@pytest.mark.parametrize(
    ("text", "down", "message"),
    [
        ("", "", "no genes are given"),
        (" , ,", "", "no genes are given"),
        ("CXCL9,KRT5,CXCL9", "", r"more than once(.|\n)*CXCL9"),
        ("CXCL9,cxcl9", "", "more than once"),
        ("CXCL9,-CXCL9", "", r"both up and down(.|\n)*CXCL9"),
        ("CXCL9", "CXCL9", "both up and down"),
        ("CXCL9", "-KRT5", "down twice"),
        ("-KRT5:-2", "", r"two minus signs(.|\n)*-KRT5:2"),
        ("KRT5:0", "", "weight of KRT5"),
        ("KRT5:nan", "", "weight of KRT5"),
        ("KRT5:-inf", "", "weight of KRT5"),
        ("KRT5:high", "", r"weight of KRT5(.|\n)*high"),
        ("KRT5:", "", "nothing after the colon"),
        (":2", "", "does not name a gene"),
        ("CXCL9,-", "", "does not name a gene"),
        ("--KRT5", "", "does not name a gene"),
    ],
)
def test_inline_mistakes(text: str, down: str, message: str) -> None:
    with pytest.raises(GeneSetError, match=message):
        parse_genes(text, down=down)


# Collections -------------------------------------------------------------------------------------


def test_shipped_collections_are_whole() -> None:
    assert len(hallmark()) == 50
    assert len(shipped()) == 61
    assert {s.source for s in shipped()} == {"hallmark", "signatures"}
    assert all(s.name.startswith("HALLMARK_") for s in hallmark())
    # Sizes as published: MSigDB v7.0 release, Ayers et al. 2017, Mariathasan et al. 2018.
    sizes = {s.name: len(s.weights) for s in shipped()}
    assert sizes["HALLMARK_G2M_CHECKPOINT"] == 200
    assert sizes["HALLMARK_DNA_REPAIR"] == 150
    assert sizes["AYERS_TCELL_INFLAMED_GEP_18"] == 18
    assert sizes["FIBROBLAST_TGFB_RESPONSE"] == 19


def test_shipped_files_are_the_documented_ones() -> None:
    text = (DATA / "GENESETS.md").read_text("utf-8")
    for file in COLLECTIONS.values():
        assert f"`{hashlib.sha256((DATA / file).read_bytes()).hexdigest()}`" in text
    assert "CC BY 4.0" in text
    assert "10.1016/j.cels.2015.12.004" in text
    for signature in shipped():
        if signature.source == "signatures":
            assert f"| `{signature.name}` | {len(signature.weights)} |" in text


@pytest.mark.parametrize("query", ["HALLMARK_HYPOXIA", "hallmark_hypoxia", " Hallmark_Hypoxia "])
def test_find_by_name(query: str) -> None:
    assert find(query).name == "HALLMARK_HYPOXIA"


def test_find_prefers_extra_and_joins_directions() -> None:
    mine = plain("hallmark_hypoxia", "CA9")
    assert find("HALLMARK_HYPOXIA", [mine]) == mine
    assert find("x", [plain("X_UP", "A"), plain("X_DN", "B")]).weights == {"A": 1.0, "B": -1.0}
    joined = find("HALLMARK_KRAS_SIGNALING")
    assert set(joined.weights.values()) == {1.0, -1.0}
    same = [plain("X", "A"), Signature("X", {"A": 1.0}, source="copy")]
    assert find("X", same).name == "X"
    with pytest.raises(GeneSetError, match="their genes differ"):
        find("X", [plain("X", "A"), plain("X", "B")])


def test_find_in_files(tmp_path: Path) -> None:
    one = write(tmp_path / "one.gmt", "ONLY\td\tA\tB\n")
    many = write(tmp_path / "m#any.gmt", "P_UP\td\tA\nP_DN\td\tB\nS#1\td\tC\n")
    bare = write(tmp_path / "no_ending", "ONLY\td\tA\n")
    assert find(str(one)).name == "ONLY"
    assert find(str(bare)).name == "ONLY"
    assert find(f"{one}#only").genes == ("A", "B")
    assert find(f"{many}#S#1").genes == ("C",)
    assert find(f"{many}#P").weights == {"A": 1.0, "B": -1.0}
    with pytest.raises(GeneSetError, match=r"holds 3 gene sets(.|\n)*P_UP(.|\n)*#P$"):
        find(str(many))
    with pytest.raises(GeneSetError, match="no name follows"):
        find(f"{one}#")
    with pytest.raises(GeneSetError, match=r"no gene set called 'ONLI'(.|\n)*nearest names: ONLY"):
        find(f"{one}#ONLI")


def test_find_unknown_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GeneSetError, match=r"nearest names: HALLMARK_HYPOXIA(.|\n)*genesets list"):
        find("hypoxa")
    with pytest.raises(GeneSetError, match="HALLMARK_INTERFERON_GAMMA_RESPONSE"):
        find("interferon gamma")
    with pytest.raises(GeneSetError, match="nearest names: MINE_2"):
        find("MINE_3", [plain("MINE_2", "A")])
    with pytest.raises(GeneSetError, match="no name like it"):
        find("qqqqqqqqqqqq")
    with pytest.raises(GeneSetError, match="--genes CXCL9,CXCL10"):
        find("CXCL9,CXCL10")
    with pytest.raises(GeneSetError, match="no gene set is named"):
        find("  ")
    write(tmp_path / "signature.gmt", "A\td\tX\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GeneSetError, match=r"no gene-set file signatur.gmt(.|\n)*signature.gmt$"):
        find("signatur.gmt")
    with pytest.raises(GeneSetError, match=r"no gene-set file signatur.gmt\n"):
        find("signatur.gmt#A")
    with pytest.raises(GeneSetError, match="there is no directory nowhere"):
        find("nowhere/a.gmt")
    with pytest.raises(GeneSetError, match="is a directory"):
        find(f"{tmp_path}/")


# Matching ----------------------------------------------------------------------------------------


def test_match_exact_renamed_and_missing() -> None:
    signature = Signature("S", {"HLA-A": 1.0, "CTGF": 2.0, "NOTAGENE1": 1.0, "KRT5": -1.0})
    got = match(signature, ["KRT5", "CCN2", "TP53", "HLA-A"])
    assert got.positions.tolist() == [3, 1, 0]
    assert got.weights.tolist() == [1.0, 2.0, -1.0]
    assert (got.positions.dtype, got.weights.dtype) == (np.int64, np.float64)
    assert got.coverage.found == ("HLA-A", "CTGF", "KRT5")
    assert got.coverage.missing == ("NOTAGENE1",)
    assert got.coverage.renamed == {"CTGF": "CCN2"}
    assert got.coverage.fraction == 0.75
    assert got.lost == ""


def test_match_takes_ensembl_ids_and_a_mapping_that_leaves_columns_out() -> None:
    got = match(plain("S", "ENSG00000141510.18", "KRT5"), {"TP53": 7})
    assert got.positions.tolist() == [7]
    assert got.coverage.missing == ("KRT5",)


def test_match_prefers_the_name_as_written() -> None:
    got = match(plain("S", "CTGF"), ["CCN2", "CTGF"])
    assert got.positions.tolist() == [1]
    assert got.coverage.renamed == {}


def test_match_folds_two_names_of_one_gene() -> None:
    got = match(Signature("S", {"CTGF": 2.0, "CCN2": 3.0, "TP53": 1.0}), ["CCN2", "TP53"])
    assert got.positions.tolist() == [0, 1]
    assert got.weights.tolist() == [2.0, 1.0]
    assert got.coverage.found == ("CTGF", "CCN2", "TP53")
    with pytest.raises(GeneSetError, match=r"both up and down(.|\n)*CTGF and CCN2 are both CCN2"):
        match(Signature("S", {"CTGF": 1.0, "CCN2": -1.0}), ["CCN2"])


def test_match_says_when_a_direction_is_lost() -> None:
    signature = Signature("S", {"KRT5": 1.0, "SFTPB": -1.0})
    assert match(signature, ["SFTPB"]).lost == "up"
    assert match(signature, ["KRT5"]).lost == "down"
    assert match(plain("S", "KRT5"), ["KRT5"]).lost == ""


@pytest.mark.parametrize(
    ("n_genes", "n_found", "enough"),
    [(1, 1, True), (2, 1, True), (6, 3, True), (6, 2, False), (9, 5, True), (9, 4, False),
     (100, 5, True), (100, 4, False), (200, 5, True), (201, 5, False)],
)  # fmt: skip
def test_match_minimum(n_genes: int, n_found: int, enough: bool) -> None:
    genes = [f"NOTAGENE{i}" for i in range(n_genes)]
    signature = plain("S", *genes)
    if enough:
        assert len(match(signature, genes[:n_found]).positions) == n_found
    else:
        with pytest.raises(GeneSetError, match=f"only {n_found} of the {n_genes} genes of S"):
            match(signature, genes[:n_found])


def test_match_errors_say_what_is_missing_and_what_to_do() -> None:
    signature = plain("S", *(f"NOTAGENE{i}" for i in range(40)))
    panel = [f"NOTAGENE{i}" for i in range(3)]
    with pytest.raises(GeneSetError) as caught:
        match(signature, panel)
    message = str(caught.value)
    assert "expression panel of 3 genes; at least 5 are needed" in message
    assert "NOTAGENE17, … (22 more)" in message
    assert "NOTAGENE18" not in message
    assert "--min-genes 3 lowers the bar" in message
    assert len(match(signature, panel, min_genes=3).positions) == 3

    wide = plain("W", *(f"NOTAGENE{i}" for i in range(400)))
    with pytest.raises(GeneSetError, match=r"2\.5% are needed(.|\n)*cannot mend"):
        match(wide, [f"NOTAGENE{i}" for i in range(6)])
    assert len(match(wide, panel, min_genes=1, min_fraction=0).positions) == 3

    with pytest.raises(GeneSetError, match="not human gene symbols"):
        match(signature, ["TP53"], min_genes=0, min_fraction=0)
    with pytest.raises(GeneSetError, match=r"not in the panel: KRT5(.|\n)*measure more of these"):
        match(plain("S", "KRT5"), ["TP53"])
    # A gene that was measured but never varies is not called missing; nor is its old name.
    with pytest.raises(GeneSetError) as error:
        match(plain("S", "KRT5", "CD8A", "NKX2-1"), ["TP53"], uninformative={"KRT5", "CD8A"})
    assert error.value.found == (
        "not in the panel: NKX2-1; constant or mostly missing in the profiles: KRT5, CD8A"
    )
    with pytest.raises(GeneSetError, match=r"CD16 \(may be FCGR3A or FCGR3B\)"):
        match(plain("S", "CD16"), ["FCGR3A", "FCGR3B"])
    with pytest.raises(DuplicateIdError, match=r"names genes twice(.|\n)*TP53"):
        match(plain("S", "TP53"), ["TP53", "KRT5", "TP53"])


def test_every_shipped_set_matches_a_full_panel() -> None:
    panel = sorted({gene for s in shipped() for gene in s.weights})
    for signature in shipped():
        got = match(signature, panel)
        assert [panel[j] for j in got.positions] == list(signature.genes)
