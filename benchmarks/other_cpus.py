"""How far scores differ where OpenBLAS computes as it does on other processors.

    python benchmarks/other_cpus.py [--db DATABASE --gene-sets FILE]

OpenBLAS has kernels for each family of processors, and OPENBLAS_CORETYPE makes it use those of
another one, as long as this processor can run them. For each, a synthetic archive is ingested,
aligned and scored from its files, and a database that was made once (or the one that is given) is
scored. The scores are compared with those of the first family.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from pyarrow import csv

from molquery import synth
from molquery.genesets import collections

FAMILIES = ("Haswell", "Zen", "SkylakeX", "Sandybridge", "Nehalem")
SETS = ("HALLMARK_INTERFERON_GAMMA_RESPONSE", "HALLMARK_E2F_TARGETS", "HALLMARK_HYPOXIA")


def molquery(family: str, database: Path, *words: object) -> None:
    """Run a command with the kernels of a family of processors."""
    program = [sys.executable, "-c", "from molquery.cli.main import main; main()"]
    command = [*program, "--db", str(database), *(str(w) for w in words)]
    environment = {**os.environ, "OPENBLAS_CORETYPE": family}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{family}: {done.stderr}")


def scores(family: str, database: Path, gene_sets: Path, output: Path) -> np.ndarray:
    """The scores of every slide (n, gene sets), slides by id."""
    molquery(family, database, "score", gene_sets, "--output", output, "--overwrite")
    table = csv.read_csv(output, parse_options=csv.ParseOptions(delimiter="\t"))
    table = table.sort_by("slide_id")
    columns = [c for c in table.schema if str(c.type) == "double"]
    return np.column_stack([table[c.name].to_numpy() for c in columns])


def made(family: str, database: Path, files: synth.Files) -> Path:
    """A database of the synthetic archive."""
    molquery(family, database, "init")
    molquery(family, database, "ingest", "slides", files.slides, "--encoder", "toy")
    molquery(family, database, "ingest", "profiles", files.profiles, "--scale", "log2")
    molquery(family, database, "ingest", "metadata", files.metadata, "--on", "patient_id")
    molquery(family, database, "align", "--method", "cca")
    return database


def told(name: str, family: str, found: np.ndarray, first: np.ndarray) -> None:
    """One line: the largest difference, and how many places in the rankings have changed."""
    moved = int((np.argsort(-found, axis=0, kind="stable")
                 != np.argsort(-first, axis=0, kind="stable")).sum())  # fmt: skip
    far = float(np.abs(found - first).max())
    print(f"{name:<22}{family:<14}{far:>12.1e}{moved:>8} of {found.size}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--db", type=Path)
    parser.add_argument("--gene-sets", type=Path)
    given = parser.parse_args()
    sets = {name: collections.find(name).genes[:30] for name in SETS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = synth.write_files(synth.make(synth.Toy(patients=240, noise=0.15, seed=7), sets),
                                  folder)  # fmt: skip
        one = given.db or made(FAMILIES[0], folder / "one.mq", files)
        gene_sets = given.gene_sets or files.gene_sets
        print(f"{'database':<22}{'kernels':<14}{'difference':>12}{'places':>8}")
        first: dict[str, np.ndarray] = {}
        for family in FAMILIES:
            found = {"made once": scores(family, one, gene_sets, folder / "scores.tsv")}
            if given.db is None:
                database = made(family, folder / f"{family}.mq", files)
                found["made on each"] = scores(family, database, gene_sets, folder / "scores.tsv")
            for kind, values in found.items():
                told(kind, family, values, first.setdefault(kind, values))


if __name__ == "__main__":
    main()
