"""Damaged files are read, or refused by molquery's own errors; never a traceback.

Bounded here; MOLQUERY_FUZZ=10000 runs so many examples.
"""

import contextlib
import gzip
import os
import tempfile
from functools import cache
from pathlib import Path

import make_profiles as made
import numpy as np
import test_geneset_formats as sets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molquery import scales
from molquery.errors import MolqueryError
from molquery.genesets.read import read_sets
from molquery.ingest import current_symbols
from molquery.readers import read_profiles, read_table

EXAMPLES = int(os.environ.get("MOLQUERY_FUZZ", "200"))
LINES = 40  # of each file: damage to the first lines is what readers must survive

WORDS = (
    b"", b"\t", b"\n", b"\r\n", b"NA", b"nan", b"-666", b"inf", b"1e400", b"-1", b"\xff\xfe", b"\0",
    b'"', b"#", b"\xef\xbb\xbf", b"ENSG00000141510", b"TP53", b"0.5", b"99999999999", b"<html>",
    b"sample", b"1-Mar", b",", b"{", b"[]", b"N_x", b"\xc3\xa9", b"source,target,weight\n",
)  # fmt: skip


@cache
def profiles() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [
            made.matrix(folder / "x", made.LOG2, made.ENSEMBL),
            made.cbioportal(folder / "c", made.TPM),
            made.gct(folder / "g", made.LOG2),
            made.gct(folder / "h", made.LOG2, newer=True),
            next(made.star(folder / "s", sheet=False).rglob("*.tsv")),
            next(made.rsem(folder / "r").iterdir()),
            next(made.salmon(folder / "q", folder / "t", gencode=True).rglob("quant.sf")),
        ]
        heads = [b"\n".join(path.read_bytes().split(b"\n")[:LINES]) + b"\n" for path in paths]
        short = [h.replace(b"1200\t12", b"%d\t12" % (h.count(b"\n") - 3), 1) for h in heads[2:3]]
        return (*heads, *short, gzip.compress(heads[0]))


@cache
def gene_sets() -> tuple[bytes, ...]:
    texts = (sets.GMT, sets.GMX, sets.MSIGDB, sets.NET, sets.ENRICHR)
    return (*(text.encode() for text in texts), gzip.compress(sets.GMT.encode()))


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        # Most damage near the start, where formats are told apart.
        at = min(draw(st.one_of(st.integers(0, 200), st.integers(0, len(whole)))), len(content))
        how = draw(st.sampled_from(("cut", "insert", "replace", "delete", "double")))
        if how == "cut":
            del content[at:]
        elif how == "insert":
            content[at:at] = draw(st.sampled_from(WORDS))
        elif how == "replace":
            word = draw(st.sampled_from(WORDS))
            content[at : at + len(word)] = word
        elif how == "delete":
            del content[at : at + draw(st.integers(1, 60))]
        else:
            content[at:at] = content[at : at + draw(st.integers(1, 200))]
    return bytes(content)


FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(data=st.data())
def test_damaged_profiles(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "quant.sf"
    path.write_bytes(data.draw(damaged(data.draw(st.sampled_from(profiles())))))
    try:
        got = read_profiles(path)
        assert got.values.shape == (len(got.ids), len(got.genes))
        assert got.values.dtype == np.float32
        assert all(got.ids)
        scale, _ = scales.detect(scales.facts_of(got.values), "x")
        scales.to_stored(current_symbols(got.genes, got.values)[1], scale)
    except MolqueryError:
        pass


@FUZZ
@given(data=st.data())
def test_damaged_tables(tmp_path: Path, data: st.DataObject) -> None:
    clinical = b"#a\tb\nPATIENT_ID\tAGE\tDEAD\nTCGA-AA-0001\t61\ttrue\nTCGA-AA-0002\t\tfalse\n"
    path = tmp_path / "clinical"
    path.write_bytes(data.draw(damaged(clinical)))
    with contextlib.suppress(MolqueryError):
        read_table(path).validate(full=True)


@FUZZ
@given(data=st.data())
def test_damaged_gene_sets(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "sets"
    path.write_bytes(data.draw(damaged(data.draw(st.sampled_from(gene_sets())))))
    try:
        found = read_sets(path)
        assert found
        assert all(s.name and s.weights for s in found)
        assert all(np.isfinite(w) and w != 0 for s in found for w in s.weights.values())
    except MolqueryError:
        pass
