"""Damaged files of every format through the whole ingest: read, or refused by a molquery error.

    python tests/fuzz.py 10000 [--seed 0]

Each file is a real one with a few bytes changed, cut, copied or put in, chosen by its number alone,
so that a failure is made again by its number: `python tests/fuzz.py 1 --first NUMBER`; the first of
each format are whole. Files are read in a process of their own, which a crash or a hang ends: that
is a failure, and the next file goes to a new process. Failures are also an error that is not
molquery's, memory that a file of a few kilobytes cannot need, and a database that a refused file
has changed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Of the process that reads: this checkout, and no threads that would get in each other's way.
ALONE = {
    "PYTHONPATH": os.pathsep.join(p for p in (str(HERE.parent), os.environ.get("PYTHONPATH")) if p),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
SECONDS = 30.0  # for one file; the slowest whole one takes a second
MEMORY = 4 << 30  # of address space beyond what the libraries take
GROWTH = 1 << 30  # of resident memory

N, D = 6, 12
IDS = [f"TCGA-AA-{i:04d}-01Z-00-DX1" for i in range(N)]
LINES = 40  # kept of each expression file: damage to the first lines is what readers must survive

WORDS = (
    b"", b"\t", b"\n", b"\r\n", b"\r", b"NA", b"nan", b"-666", b"inf", b"1e400", b"-1", b"\xff\xfe",
    b"\0", b'"', b"#", b"\xef\xbb\xbf", b"ENSG00000141510", b"TP53", b"0.5", b"99999999999", b"[]",
    b"<html>", b"sample", b"1-Mar", b",", b";", b"{", b"N_x", b"\xc3\xa9", b"source,target\n",
    b"\0" * 8, b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0\0\0\0\0\0\0\x10",
    b"\xff\xff\xff\x7f", b"\x01", b"None", b"../../x", b"features", b"e" * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A whole input: its files by name, which of them to give to molquery, as what, and how."""

    name: str
    kind: str
    files: dict[str, bytes]
    give: str
    say: str | None = None  # the encoder or scale, where the whole file does not tell it


def seeds() -> list[Seed]:
    """Every format of every reader, written by the library that owns it where it can be."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        return [*_slides(root / "s"), *_profiles(root / "p"), *_tables(root / "t"), *_gene_sets()]


def _slides(root: Path) -> Iterator[Seed]:
    import anndata
    import h5py
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet as pq
    import torch

    root.mkdir()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, D)).astype(np.float32)
    tiles = rng.normal(size=(40, D)).astype(np.float32)

    def one(
        name: str, file: str, write: Callable[[Path], object], say: str | None = "titan"
    ) -> Seed:
        path = root / Path(file).name
        write(path)
        return Seed(name, "slides", {file: path.read_bytes()}, file, say)

    def hdf5(attrs: dict[str, object], chunks: Any = None, **arrays: Any) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with h5py.File(path, "w") as file:
                for key, values in arrays.items():
                    more = {"chunks": chunks, "compression": "gzip"} if chunks else {}
                    data = file.create_dataset(key, data=values, **more)
                    data.attrs.update({"encoder": "uni", "name": "x"})
                file.attrs.update(attrs)

        return write

    coords = np.zeros((40, 2), np.int64)
    yield one("trident slide", "a.h5", hdf5({}, features=vectors[0], coords=coords))
    yield one("trident patches", "a.h5", hdf5({}, (1, 2), features=tiles, coords=coords), None)
    yield one("clam hdf5", "a.h5", hdf5({}, features=tiles, coords=coords.astype(np.int32)), None)
    told = {"extractor": "uni2", "unit": "um", "feat_type": "tile"}
    yield one(
        "stamp tiles", "a.h5", hdf5(told, feats=tiles.astype(np.float16), coords=coords), None
    )
    told = {"encoder": "titan", "feat_type": "slide"}
    yield one("stamp slide", "a.h5", hdf5(told, feats=vectors[:1]), None)
    yield one("clam tensor", "a.pt", lambda p: torch.save(torch.from_numpy(tiles), p))
    content = pickle.dumps({"filenames": IDS, "embeddings": vectors})
    yield one("pickle", "a.pkl", lambda p: p.write_bytes(content))

    obs = pd.DataFrame({"cohort": pd.Categorical(list("AABBAB")), "age": [1.5] * N}, index=IDS)
    data = anndata.AnnData(vectors, obs, uns={"encoder": "titan"})
    yield one("h5ad slides", "a.h5ad", lambda p: data.write_h5ad(p), None)
    both = anndata.AnnData(vectors, obs, obsm={"X_emb": vectors})
    del both.X
    yield one("h5ad obsm", "a.h5ad", lambda p: both.write_h5ad(p, compression="gzip"))

    np.save(root / "a.npy", vectors)
    files = {"a.npy": (root / "a.npy").read_bytes(), "a.txt": "\n".join(IDS).encode()}
    yield Seed("npy", "slides", files, "a.npy", "titan")
    for name, save in (("npz", np.savez), ("npz deflated", np.savez_compressed)):
        yield one(name, "a.npz", lambda p, save=save: save(p, ids=np.array(IDS), vectors=vectors))  # type: ignore[misc]

    lists = pa.table({"slide_id": IDS, "v": list(vectors), "cohort": list("AABBAB")})
    yield one("parquet lists", "a.parquet", lambda p: pq.write_table(lists, p))
    frame = pd.DataFrame(vectors, columns=[f"f{j}" for j in range(D)])
    frame.insert(0, "slide_id", IDS)
    yield one("parquet columns", "a.parquet", lambda p: frame.to_parquet(p))
    yield one("feather", "a.feather", lambda p: pyarrow.feather.write_feather(lists, p))

    def stream(path: Path) -> None:
        with pa.ipc.new_stream(path, lists.schema) as sink:
            sink.write_table(lists)

    yield one("arrow stream", "a.arrow", stream)
    yield one("csv", "a.csv", lambda p: frame.to_csv(p, index=False))
    yield one("tsv gzip", "a.tsv.gz", lambda p: frame.to_csv(p, sep="\t", index=False))

    with zipfile.ZipFile(HERE / "data" / "lazyslide.zarr.zip") as archive:
        stored = {f"S.zarr/{n}": archive.read(n) for n in archive.namelist() if "resnet" not in n}
    yield Seed("wsidata", "slides", stored, "S.zarr")
    # Without the aggregation, the tiles are pooled.
    alone = {n: c for n, c in stored.items() if "agg_" not in n}
    yield Seed("wsidata tiles", "slides", alone, "S.zarr")


def _profiles(root: Path) -> Iterator[Seed]:
    import anndata
    import make_profiles as made
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet as pq

    root.mkdir()

    def one(name: str, path: Path, say: str | None = None, *, lines: int | None = LINES) -> Seed:
        content = path.read_bytes()
        if lines:
            content = b"\n".join(content.split(b"\n")[:lines]) + b"\n"
            content = content.replace(b"1200\t12", b"%d\t12" % (content.count(b"\n") - 3), 1)
        return Seed(name, "profiles", {path.name: content}, path.name, say)

    yield one("xena", made.matrix(root / "xena.tsv", made.LOG2, made.ENSEMBL), "log2")
    xena = b"\n".join((root / "xena.tsv").read_bytes().split(b"\n")[:LINES])
    yield Seed(
        "xena gzip", "profiles", {"x.tsv.gz": gzip.compress(xena, mtime=0)}, "x.tsv.gz", "log2"
    )
    yield one("cbioportal", made.cbioportal(root / "c.txt", made.TPM), "tpm")
    yield one("gct 1.2", made.gct(root / "g2.gct", made.LOG2), "log2")
    newer = made.gct(root / "g3.gct", made.LOG2, newer=True).read_text().split("\n")[:LINES]
    newer[1] = newer[1].replace("1200", str(len(newer) - 5))
    text = ("\n".join(newer) + "\n").encode()
    yield Seed("gct 1.3", "profiles", {"g.gct": text}, "g.gct", "log2")
    star = made.star(root / "star")
    file = next(star.rglob("*counts.tsv"))
    sheet = next(star.glob("*.tsv"))
    pair = {file.name: _cut(file), sheet.name: sheet.read_bytes()}
    yield Seed("gdc star", "profiles", pair, file.name)
    yield one("rsem", sorted(made.rsem(root / "rsem").iterdir())[0])
    quant = next(made.salmon(root / "q", root / "t.csv").rglob("quant.sf"))
    pair = {"quant.sf": _cut(quant), "t.csv": (root / "t.csv").read_bytes()[:2000]}
    yield Seed("salmon", "profiles", pair, "quant.sf")
    genes = list(made.SYMBOLS[:30])
    frame = pd.DataFrame(made.LOG2[:, :30].astype(np.float32), columns=genes)
    frame.insert(0, "sample_id", made.IDS)
    frame.to_parquet(root / "m.parquet")
    yield one("parquet matrix", root / "m.parquet", "log2", lines=None)
    pyarrow.feather.write_feather(pa.Table.from_pandas(frame), root / "m.feather")
    yield one("feather matrix", root / "m.feather", "log2", lines=None)
    frame.to_csv(root / "m.csv", index=False)
    yield one("csv matrix", root / "m.csv", "log2", lines=None)
    import scipy.sparse

    dense = made.LOG2[:, :30]
    for name, x in (("dense", dense), ("csr", scipy.sparse.csr_matrix(dense))):
        obs = pd.DataFrame({"cohort": pd.Categorical(["A"] * made.N)}, index=list(made.IDS))
        data = anndata.AnnData(x, obs, pd.DataFrame(index=genes))
        data.write_h5ad(root / f"{name}.h5ad")
        yield one(f"h5ad {name}", root / f"{name}.h5ad", "log2", lines=None)
    told = {
        "table": "profiles",
        "scale": "log2",
        "genes": genes,
        "dim": 30,
        "encoder": "expression",
    }
    lists = pa.table({"profile_id": list(made.IDS), "expression": list(made.LOG2[:, :30])})
    lists = lists.set_column(1, "expression", lists[1].cast(pa.list_(pa.float32(), 30)))
    lists = lists.replace_schema_metadata({b"molquery.table": json.dumps(told).encode()})
    pq.write_table(lists, root / "e.parquet")
    yield one("export", root / "e.parquet", lines=None)


def _cut(path: Path) -> bytes:
    return b"\n".join(path.read_bytes().split(b"\n")[:LINES]) + b"\n"


def _tables(root: Path) -> Iterator[Seed]:
    import pandas as pd

    root.mkdir()
    patients = [i[:12] for i in IDS]
    frame = pd.DataFrame(
        {"PATIENT_ID": patients, "AGE": [61, 40, 50, 33, 80, 2], "DEAD": [True] * N}
    )
    clinical = "#Patient\tAge\tDead\n#id\tage\tdead\n" + frame.to_csv(sep="\t", index=False)
    for name, content in {
        "cbioportal clinical": clinical.encode(),
        "csv clinical": frame.to_csv(index=False).encode(),
        "gzip clinical": gzip.compress(frame.to_csv(sep="\t", index=False).encode(), mtime=0),
        "parquet clinical": frame.to_parquet(None),
    }.items():
        yield Seed(name, "metadata", {"m": content}, "m")


def _gene_sets() -> Iterator[Seed]:
    import test_geneset_formats as sets

    texts = {"gmt": sets.GMT, "gmx": sets.GMX, "msigdb": sets.MSIGDB, "net": sets.NET,
             "enrichr": sets.ENRICHR}  # fmt: skip
    for name, text in texts.items():
        yield Seed(name, "genesets", {"sets": text.encode()}, "sets")
    content = gzip.compress(sets.GMT.encode(), mtime=0)
    yield Seed("gmt gzip", "genesets", {"sets": content}, "sets")


# Damage ------------------------------------------------------------------------------------------


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """The file with one to five changes; the more of them near its start, where formats differ."""
    content = bytearray(whole)
    for _ in range(rng.randint(1, 5)):
        n = len(content)
        at = rng.randrange(n + 1) if rng.random() < 0.6 else min(rng.randrange(256), n)
        how = rng.choice(
            ("flip", "flip", "byte", "word", "insert", "delete", "copy", "cut", "size")
        )
        if how == "flip" and at < n:
            content[at] ^= 1 << rng.randrange(8)
        elif how == "byte" and at < n:
            content[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif how == "word":
            word = rng.choice(WORDS)
            content[at : at + len(word)] = word
        elif how == "insert":
            content[at:at] = rng.choice(WORDS)
        elif how == "delete":
            del content[at : at + rng.randint(1, 60)]
        elif how == "copy":
            start = rng.randrange(n + 1)
            block = content[start : start + rng.randint(1, 200)]
            content[at : at + len(block)] = block
        elif how == "size":  # a little-endian integer that is far too large
            width = rng.choice((2, 4, 8))
            content[at : at + width] = (2 ** rng.randint(8 * width - 8, 8 * width) - 1).to_bytes(
                width + 1, "little"
            )[:width]
        elif how == "cut" and rng.random() < 0.3:
            del content[at:]
    return bytes(content)


def write(seed: Seed, rng: random.Random | None, folder: Path) -> Path:
    """The input with one of its files damaged, or gone, where there are several; else whole."""
    names = sorted(seed.files)
    share = 1 / len(names) if len(names) < 5 else 0.1
    chosen = {rng.choice(names), *(n for n in names if rng.random() < share)} if rng else set()
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = seed.files[name]
        if rng and name in chosen:
            if len(names) > 1 and rng.random() < 0.1:
                continue
            content = damaged(content, rng)
        path.write_bytes(content)
    return folder / seed.give


# One process -------------------------------------------------------------------------------------


def take_in(kind: str, path: Path, database: Any, say: str | None) -> int:
    """The whole command behind `ingest` or `genesets add`; the number of rows or sets."""
    from molquery.genesets.read import read_sets
    from molquery.genesets.registered import register, registered
    from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
    from molquery.readers import Options

    if kind == "slides":
        from molquery.schema import SLIDES

        report = ingest_slides(database, [path], options=Options(), encoder=say)
        assert database.count(SLIDES) == report.inserted > 0
        assert len(database.matrix(SLIDES, SLIDES.vector)) == report.inserted
        return report.inserted
    if kind == "profiles":
        from molquery.schema import PROFILES

        tx2gene = path.parent / "t.csv"
        options = Options(tx2gene=tx2gene if tx2gene.exists() else None)
        report = ingest_profiles(database, [path], options=options, scale=say)
        assert database.count(PROFILES) == report.inserted > 0
        assert database.matrix(PROFILES, PROFILES.vector).shape[1] == int(report.facts["genes"])
        return report.inserted
    if kind == "metadata":
        return sum(n for n, _ in ingest_metadata(database, [path]).matched.values())
    sets = read_sets(path)
    register(database, "mine", sets, origin="x")
    assert [dict(s.weights) for s in registered(database)] == [dict(s.weights) for s in sets]
    return len(sets)


def state(root: Path) -> dict[str, bytes]:
    """Every file of a database but its lock."""
    files = (p for p in root.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def worker(first: int, last: int, seed: int, folder: Path) -> None:
    """Take in files `first` to `last`, with a line of JSON before and after each."""
    import warnings

    from molquery.database import Database
    from molquery.errors import MolqueryError
    from molquery.readers import apart

    warnings.simplefilter("ignore")
    apart.SECONDS = 3.0  # what a user waits for is shorter here
    sys.path.insert(0, str(HERE))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    with_rows = folder / "rows"
    found = pickle.loads((folder / "seeds").read_bytes())
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
    for number in range(first, last):
        rng = random.Random(f"{seed} {number}")
        chosen = found[number % len(found)]
        print(json.dumps({"start": number, "name": chosen.name}), flush=True)
        at = folder / "file"
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir()
        whole = number < len(found)
        path = write(chosen, None if whole else rng, at)
        place = folder / "db"
        shutil.rmtree(place, ignore_errors=True)
        if chosen.kind == "metadata":
            shutil.copytree(with_rows, place)
            database = Database.open(place)
        else:
            database = Database.create(place)
        before = state(place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome, detail = "read", ""
        try:
            take_in(chosen.kind, path, database, chosen.say)
        except MolqueryError as error:
            outcome, detail = ("whole file refused" if whole else "refused"), str(error)
            for said in ("no end of it", "it ended the HDF5 library"):
                if said in detail:
                    outcome = f"refused, {said}"
            # Arrow's "malloc of size" is no harm: it fills no more than the file holds.
            if re.search(r"Unable to allocate|MemoryError|out of memory", detail):
                outcome = "memory"
            if state(place) != before:
                outcome, detail = "partial write", str(error)
        except BaseException:
            outcome, detail = "traceback", traceback.format_exc()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
        if grown > GROWTH:
            outcome, detail = "memory", f"grew by {grown >> 20} MiB"
        print(json.dumps({"end": number, "outcome": outcome, "detail": detail}), flush=True)


def rows_of_metadata(folder: Path) -> None:
    """A database with slides, for clinical tables to be joined to."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from molquery.database import Database
    from molquery.ingest import ingest_slides
    from molquery.readers import Options

    vectors = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    pq.write_table(pa.table({"slide_id": IDS, "v": list(vectors)}), folder / "rows.parquet")
    database = Database.create(folder / "rows")
    ingest_slides(database, [folder / "rows.parquet"], options=Options(), encoder="titan")


# Many processes, one after the other -------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A damaged file that was neither read nor refused."""

    number: int
    name: str
    outcome: str
    detail: str


@dataclass(frozen=True)
class Result:
    """How many files of each format came to what, and the failures."""

    counts: dict[str, Counter[str]]
    failures: list[Failure]

    def table(self) -> str:
        out = io.StringIO()
        for name, counts in self.counts.items():
            out.write(f"{name}\t" + ", ".join(f"{n} {k}" for k, n in sorted(counts.items())) + "\n")
        total = sum(self.counts.values(), Counter())
        out.write("all\t" + ", ".join(f"{n} {k}" for k, n in sorted(total.items())) + "\n")
        return out.getvalue()


def run(count: int, *, seed: int = 0, first: int = 0) -> Result:
    """Files `first` to `first + count`, in as many processes as it takes."""
    counts: dict[str, Counter[str]] = {}
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "seeds").write_bytes(pickle.dumps(seeds()))
        rows_of_metadata(folder)
        at = first
        while at < first + count:
            at = _one_process(at, first + count, seed, folder, counts, failures)
    return Result(counts, failures)


def _one_process(
    at: int, last: int, seed: int, folder: Path,
    counts: dict[str, Counter[str]], failures: list[Failure],
) -> int:  # fmt: skip
    """The number of the first file that is still to be read when the process has ended."""
    words = [sys.executable, __file__, "worker", str(at), str(last), str(seed), str(folder)]
    alive = time.monotonic()
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **ALONE},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        hung, ended = threading.Event(), threading.Event()
        errors: list[str] = []

        def watch() -> None:
            while not ended.wait(1):
                if time.monotonic() - alive > SECONDS:
                    hung.set()
                    process.kill()
                    return

        def listen() -> None:
            errors.extend(process.stderr or ())

        helpers = [threading.Thread(target=watch), threading.Thread(target=listen)]
        for helper in helpers:
            helper.start()
        open_file: tuple[int, str] | None = None
        for line in process.stdout:
            alive = time.monotonic()
            told = json.loads(line)
            if "start" in told:
                open_file = told["start"], told["name"]
                continue
            assert open_file is not None
            number, name = open_file
            open_file = None
            counts.setdefault(name, Counter())[told["outcome"]] += 1
            if not told["outcome"].startswith(("read", "refused")):
                failures.append(Failure(number, name, told["outcome"], told["detail"]))
            at = number + 1
        ended.set()
        code = process.wait()
        for helper in helpers:
            helper.join()
    if code == 0:
        return last
    if open_file is None:
        raise RuntimeError(f"the process ended with {code}:\n" + "".join(errors[-20:]))
    number, name = open_file
    how = "hang" if hung.is_set() else f"crash ({signal.Signals(-code).name if code < 0 else code})"
    counts.setdefault(name, Counter())[how] += 1
    failures.append(Failure(number, name, how, "".join(errors[-20:])))
    return number + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    start = time.monotonic()
    result = run(asked.count, seed=asked.seed, first=asked.first)
    print(result.table(), end="")
    for failure in result.failures:
        print(f"\nFILE {failure.number} ({failure.name}): {failure.outcome}\n{failure.detail}")
    seconds = time.monotonic() - start
    print(f"{asked.count} files, {len(result.failures)} failures, {seconds:.0f} s")
    sys.exit(bool(result.failures))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    if sys.argv[1:2] == ["worker"]:
        worker(*map(int, sys.argv[2:5]), Path(sys.argv[5]))
    else:
        main()
