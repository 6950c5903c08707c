"""Gene identifiers: the expected symbols are well-known HGNC renamings, written down by hand."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molquery import genes
from molquery.genes import find, resolve, table_version

# Renamed by HGNC; MSigDB collections and older expression matrices hold the names on the left.
RENAMED = {
    "CTGF": "CCN2",
    "FAM101B": "RFLNB",
    "CDCA1": "NUF2",
    "KNTC2": "NDC80",
    "SEPT9": "SEPTIN9",
    "MARCH1": "MARCHF1",
    "MARC1": "MTARC1",
    "IL8": "CXCL8",
    "C10orf54": "VSIR",
    "CD20": "MS4A1",
    "PDL1": "CD274",
    "PD-L1": "CD274",
    "HER2": "ERBB2",
}

CURRENT = [
    "HLA-A",
    "HLA-DRA",
    "NKX2-1",
    "TP53",
    "C1orf141",
    "MT-CO1",
    "SEPTIN9",
    "H2AC6",
    "ERVK3-1",
]


def names_in_table() -> list[str]:
    lines = gzip.decompress(genes.TABLE.read_bytes()).decode().splitlines()[1:]
    return [line.split("\t")[1] for line in lines if line.startswith("symbol")]


def test_previous_symbols_and_aliases_become_current_symbols() -> None:
    got = resolve(list(RENAMED))
    assert got.symbols == tuple(RENAMED.values())
    assert got.renamed == RENAMED
    assert got.kind == "symbol"


def test_current_symbols_stay_hyphens_and_case_included() -> None:
    got = resolve(CURRENT)
    assert got.symbols == tuple(CURRENT)
    assert not got.renamed
    assert not got.unknown


@pytest.mark.parametrize(
    ("name", "symbol", "loser"),
    [
        ("DEC1", "DELEC1", "BHLHE40, which has it as an alias"),
        ("MET", "MET", "SLTM, which has Met as an alias"),
        ("Met", "MET", "SLTM: a current symbol in other case comes before an alias"),
    ],
)
def test_current_beats_previous_beats_alias(name: str, symbol: str, loser: str) -> None:
    assert resolve([name]).symbols == (symbol,), f"must not go to {loser}"


def test_ambiguous_names_are_reported_and_not_guessed() -> None:
    got = resolve(["CD16", "QARS", "TP53"])
    assert got.symbols == (None, None, "TP53")
    # CD16 is an alias of two genes, QARS a previous symbol of two.
    assert got.ambiguous == {"CD16": ("FCGR3A", "FCGR3B"), "QARS": ("EPRS1", "QARS1")}
    assert not got.unknown


def test_ensembl_ids_lose_their_version_and_y_copies_are_dropped() -> None:
    got = resolve(
        ["ENSG00000141510.18", "ENSG00000012048", "ENSG00000182378.15_PAR_Y", "ENSGR0000182378.10"]
    )
    assert got.symbols == ("TP53", "BRCA1", None, None)
    assert got.dropped == ("ENSG00000182378.15_PAR_Y", "ENSGR0000182378.10")
    assert (got.kind, got.renamed, got.unknown) == ("ensembl", {}, ())


def test_ensembl_ids_that_hgnc_does_not_list() -> None:
    # MATR3 has two Ensembl genes in GENCODE v36; HGNC lists ENSG00000015479.
    assert resolve(["ENSG00000280987.4", "ENSG00000015479"]).symbols == ("MATR3", "MATR3")


def test_entrez_ids_only_where_every_identifier_is_a_number() -> None:
    assert resolve(["7157", "672"]).symbols == ("TP53", "BRCA1")
    assert resolve(["7157", "672"]).kind == "entrez"
    stray = resolve(["TP53", "672"])
    assert stray.symbols == ("TP53", None)
    assert stray.unknown == ("672",)
    assert resolve(["TP53", "672"], kind="entrez").symbols == (None, "BRCA1")


def test_spreadsheet_dates_are_reported_and_not_repaired() -> None:
    damaged = ("1-Mar", "2-Sep", "MAR-01", "Sep-09", "01-Dec", "2001-03-01", "2001-03-01 00:00:00")
    got = resolve([*damaged, "OCT-4", "NOV", "DECR1"])
    assert got.date_damaged == damaged
    # A name that HGNC knows is never a date: OCT-4 is POU5F1, NOV is CCN3.
    assert got.symbols[len(damaged) :] == ("POU5F1", "CCN3", "DECR1")


def test_case_and_space() -> None:
    got = resolve([" TP53 ", "Cd8a", "c1orf112"])
    assert got.symbols == ("TP53", "CD8A", "FIRRM")
    assert got.renamed == {"Cd8a": "CD8A", "c1orf112": "FIRRM"}


def test_mixed_identifiers_and_novel_transcripts() -> None:
    got = resolve(["CD8A", "ENSG00000999999.1", "AC012345.1", "", "AC012345.1"])
    assert got.kind == "mixed"
    assert got.symbols == ("CD8A", None, None, None, None)
    assert got.unknown == ("ENSG00000999999.1", "AC012345.1", "")


def test_nothing_and_a_wrong_kind() -> None:
    assert resolve([]).symbols == ()
    with pytest.raises(ValueError, match="'uniprot'; use one of auto, symbol, ensembl, entrez"):
        resolve(["P04637"], kind="uniprot")


def test_the_old_and_the_new_name_of_a_gene_share_a_symbol() -> None:
    assert resolve(["CTGF", "CCN2", "ENSG00000118523"]).symbols == ("CCN2", "CCN2", "CCN2")


def test_find_gives_the_panel_position() -> None:
    panel = {"CCN2": 0, "CD274": 1, "AC012345.1": 2, "CD16": 3}
    assert [find(name, panel) for name in ("CTGF", "CCN2", "PD-L1", "ENSG00000120217.14")] == [
        0, 0, 1, 1,
    ]  # fmt: skip
    # Names that do not resolve are kept as they are, on both sides.
    assert find("AC012345.1", panel) == 2
    assert find("CD16", panel) == 3
    assert find("TP53", panel) is None
    # A panel that did not pass through resolve still answers to its own names.
    assert find("CTGF", {"CTGF": 7}) == 7


def test_one_signature_whatever_identifiers_the_matrix_came_with() -> None:
    signature = ["PD-L1", "CD8A", "CTGF"]
    for columns in (
        ["CD274", "CD8A", "CCN2"],
        ["PDCD1LG1", "CD8A", "CTGF"],
        ["ENSG00000120217.14", "ENSG00000153563.16", "ENSG00000118523.6"],
        ["29126", "925", "1490"],
    ):
        panel = {symbol or "": at for at, symbol in enumerate(resolve(columns).symbols)}
        assert [find(gene, panel) for gene in signature] == [0, 1, 2]


def test_table() -> None:
    assert table_version() == "HGNC 2024-07-23"
    lines = gzip.decompress(genes.TABLE.read_bytes()).splitlines()
    assert lines == sorted(lines), "lookup is by bisection"
    assert genes.TABLE.stat().st_size < 3e6


def test_every_resolved_symbol_resolves_to_itself() -> None:
    symbols = sorted({symbol for symbol in resolve(names_in_table()).symbols if symbol})
    assert len(symbols) == 43_837
    again = resolve(symbols)
    assert again.symbols == tuple(symbols)
    assert not again.renamed


IDENTIFIERS = st.lists(
    st.sampled_from([*names_in_table()[::50], *RENAMED, *CURRENT, "1-Mar", "CD16", "QARS"])
    | st.from_regex(r"ENSG0000[0-9]{7}(\.[0-9]{1,2})?(_PAR_Y)?", fullmatch=True)
    | st.text(max_size=8)
)


@given(IDENTIFIERS)
def test_resolving_twice_changes_nothing_and_every_input_is_accounted_for(names: list[str]) -> None:
    first = resolve(names)
    kept = [symbol or name for name, symbol in zip(names, first.symbols, strict=True)]
    assert resolve(kept).symbols == first.symbols

    lost = {name for name, symbol in zip(names, first.symbols, strict=True) if symbol is None}
    reported = [*first.ambiguous, *first.unknown, *first.dropped, *first.date_damaged]
    assert sorted(reported) == sorted(lost)
