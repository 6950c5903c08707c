"""Time and peak memory of `ingest profiles` on a Xena genomic matrix of realistic size.

Target: 60,000 genes x 1,700 samples in under 60 s and 3 GB, on 2 cores.

    python benchmarks/xena_ingest.py [--genes 60000] [--samples 1700] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHILD = """
import sys
from pathlib import Path
from molquery.database import Database
from molquery.ingest import ingest_profiles
from molquery.readers import Options
report = ingest_profiles(Database.create(sys.argv[2]), [Path(sys.argv[1])], options=Options())
print(report.inserted, report.facts)
"""


def write(path: Path, genes: int, samples: int, seed: int = 0) -> None:
    """log2(TPM + 1) with versioned Ensembl ids in rows and 15-character barcodes in columns."""
    from molquery.genes import _table

    known = [row.split(b"\t")[1].decode() for row in _table() if row.startswith(b"ensembl\t")]
    ids = (known + [f"ENSG{99_000_000_000 + i}" for i in range(genes)])[:genes]
    rng = np.random.default_rng(seed)
    level = rng.gamma(0.6, 3.0, size=(genes, 1)).astype(np.float32)
    with path.open("w") as stream:
        barcodes = (f"TCGA-{s % 30:02d}-{s:04d}-01" for s in range(samples))
        stream.write("sample\t" + "\t".join(barcodes) + "\n")
        for gene, mean in zip(ids, level, strict=True):
            row = np.clip(mean + rng.normal(0, 1, samples), 0, 18)
            stream.write(f"{gene}.{len(gene) % 7 + 1}\t" + "\t".join(f"{v:.4f}" for v in row))
            stream.write("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genes", type=int, default=60_000)
    parser.add_argument("--samples", type=int, default=1_700)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        path = (asked.folder or Path(folder)) / f"xena_{asked.genes}_{asked.samples}.tsv"
        if not path.exists():
            write(path, asked.genes, asked.samples)
        size = path.stat().st_size
        start = time.perf_counter()
        with path.open("rb") as stream:
            while stream.read(1 << 24):
                pass
        read = time.perf_counter() - start
        start = time.perf_counter()
        command = [sys.executable, "-c", CHILD, str(path), str(Path(folder) / "db")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        facts = {
            "said": done.stdout.strip(),
            "file_gb": round(size / 1e9, 3),
            "raw_read_s": round(read, 2),
            "ingest_s": round(seconds, 1),
            "peak_gb": round(peak, 2),
        }
        print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
