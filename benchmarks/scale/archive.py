"""Synthetic archives: unit vectors on disk, queries of the same kind, and their true neighbours.

`clustered` is made to look like real slide embeddings. Rows belong to cohorts of unequal size (a
cohort is a tissue type: a mean of its own), to subtypes within a cohort, and vary about them along
directions whose variance falls as a power of their rank, in a basis that each cohort turns a
little. 2,714 rows of it have a two-nearest-neighbour dimension (doi:10.1038/s41598-017-11873-y) of
29, a nearest neighbour at a cosine of 0.69 and 54 % of their variance in five components
(`python -m benchmarks.scale.archive FOLDER` prints it); slide features of a TCGA cohort have 16,
0.76 and 42 %, the embeddings of `examples/her2st` 26, 0.83 and 35 %: it is a little harder to index
than either. `iid` has no structure at all: the hardest case
for every index, and unlike any archive.

Every row also has a cohort, and a number drawn uniformly from [0, 1) that filters cut at.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

KINDS = ("clustered", "iid")
DIM = 512
QUERIES = 200
TRUTH = 100  # neighbours of each query that are kept
COHORTS = 30
_SUBTYPES = 40  # of each cohort
_POWER = 1.4  # variance of direction j within a subtype is j ** -_POWER
_BLOCK = 50_000


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive in a folder; arrays are read when they are asked for.

    Attributes:
        folder: holds vectors.npy (rows, DIM) float32, uniform.npy and cohort.npy (rows,),
            queries.npy (QUERIES, DIM), truth.npy (QUERIES, TRUTH) positions, best first.
    """

    folder: Path
    rows: int
    kind: str

    @property
    def vectors(self) -> Matrix:
        """(rows, DIM) float32 unit rows, mapped from the file."""
        return np.load(self.folder / "vectors.npy", mmap_mode="r")

    @property
    def queries(self) -> Matrix:
        """(QUERIES, DIM) float32 unit rows that are not in the archive."""
        return np.load(self.folder / "queries.npy")

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """(QUERIES, TRUTH) positions of the nearest rows, by an exact scan."""
        return np.load(self.folder / "truth.npy")

    @property
    def uniform(self) -> Matrix:
        """(rows,) numbers in [0, 1) that have nothing to do with the vectors."""
        return np.load(self.folder / "uniform.npy")

    @property
    def cohorts(self) -> npt.NDArray[np.int16]:
        """(rows,) cohort of each row."""
        return np.load(self.folder / "cohort.npy")

    def matrix(self) -> Matrix:
        """The vectors in memory."""
        return np.fromfile(self.folder / "vectors.npy", np.float32, offset=128).reshape(
            self.rows, -1
        )


def archive(work: Path, kind: str, rows: int, dim: int = DIM) -> Archive:
    """The archive of that kind and size under `work`, made if it is not there."""
    folder = work / f"{kind}-{rows}"
    found = Archive(folder, rows, kind)
    if (folder / "made.json").is_file():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([KINDS.index(kind), rows])
    draw = _Clustered(rng, dim) if kind == "clustered" else _Iid(rng, dim)
    vectors = np.lib.format.open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(rows, dim)
    )
    cohort = np.zeros(rows, np.int16)
    for start in range(0, rows, _BLOCK):
        span = slice(start, min(start + _BLOCK, rows))
        vectors[span], cohort[span] = draw(span.stop - span.start)
    vectors.flush()
    queries, _ = draw(QUERIES)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "cohort.npy", cohort)
    np.save(folder / "uniform.npy", rng.random(rows, dtype=np.float32))
    np.save(folder / "truth.npy", nearest(vectors, queries, min(TRUTH, rows)))
    (folder / "made.json").write_text(json.dumps({"kind": kind, "rows": rows, "dim": dim}))
    return found


def nearest(
    vectors: Matrix, queries: Matrix, k: int, allowed: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int64]:
    """(n_queries, k) positions of the nearest rows by inner product: the oracle of every recall.

    Plain float32 products block by block; -1 where fewer than k rows are allowed.
    """
    best = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK])
        scores = queries @ block.T
        if allowed is not None:
            scores[:, ~allowed[start : start + _BLOCK]] = -np.inf
        at = np.broadcast_to(np.arange(start, start + len(block)), scores.shape)
        scores, at = np.hstack([best, scores]), np.hstack([found, at])
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best, found = np.take_along_axis(scores, top, 1), np.take_along_axis(at, top, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    found = np.take_along_axis(found, order, 1)
    found[np.take_along_axis(best, order, 1) == -np.inf] = -1
    return found


class _Iid:
    def __init__(self, rng: np.random.Generator, dim: int) -> None:
        self.rng, self.dim = rng, dim

    def __call__(self, n: int) -> tuple[Matrix, npt.NDArray[np.int16]]:
        x = self.rng.standard_normal((n, self.dim), dtype=np.float32)
        return _unit(x), self.rng.integers(0, COHORTS, n).astype(np.int16)


class _Clustered:
    def __init__(self, rng: np.random.Generator, dim: int) -> None:
        self.rng = rng
        size = 1.0 / np.arange(1, COHORTS + 1) ** 0.8
        self.share = size / size.sum()
        spectrum = np.arange(1, dim + 1, dtype=np.float32) ** (-_POWER / 2)
        self.scale = spectrum / np.sqrt((spectrum**2).sum())
        self.basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        # A cohort varies along the common directions, mixed with neighbouring ones.
        self.turn = rng.standard_normal((COHORTS, dim)).astype(np.float32) * 0.3
        self.mean = self._spread((COHORTS, dim), 0.45)
        self.subtype = self._spread((COHORTS, _SUBTYPES, dim), 0.45)

    def _spread(self, shape: tuple[int, ...], size: float) -> Matrix:
        return self.rng.standard_normal(shape, dtype=np.float32) * self.scale * np.float32(size)

    def __call__(self, n: int) -> tuple[Matrix, npt.NDArray[np.int16]]:
        cohort = self.rng.choice(COHORTS, n, p=self.share)
        subtype = self.rng.integers(0, _SUBTYPES, n)
        x = self.rng.standard_normal((n, len(self.scale)), dtype=np.float32)
        x *= self.scale * np.exp(self.turn[cohort])
        x += self.mean[cohort] + self.subtype[cohort, subtype]
        return _unit(x @ self.basis.T.astype(np.float32)), cohort.astype(np.int16)


def _unit(x: Matrix) -> Matrix:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def describe(x: Matrix) -> dict[str, float]:
    """Two-nearest-neighbour dimension of unit rows, and variance in the first components."""
    similar = x @ x.T
    np.fill_diagonal(similar, -2)
    near = -np.partition(-similar, 1, axis=1)[:, :2]
    apart = np.sqrt(np.maximum(2 - 2 * near, 1e-12))
    ratio = np.sort(apart.max(axis=1) / apart.min(axis=1))
    kept = np.log(ratio[: int(0.9 * len(ratio))])
    below = np.arange(1, len(kept) + 1) / len(ratio)
    dimension = float(kept @ -np.log1p(-below) / (kept @ kept))
    variance = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    share = {f"first {j}": float(variance[:j].sum() / variance.sum()) for j in (1, 5, 10, 30, 100)}
    return {"dimension": dimension, "nearest": float(np.median(near.max(axis=1))), **share}


def main() -> None:
    """Print how the archives under a folder look."""
    for made in sorted(Path(sys.argv[1]).glob("*/made.json")):
        x = np.array(np.load(made.parent / "vectors.npy", mmap_mode="r")[:2714])
        print(made.parent.name, {k: round(v, 3) for k, v in describe(x).items()})


if __name__ == "__main__":
    main()
