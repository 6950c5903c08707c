"""Speed on a GPU, beside what the GPU can do at best.

    python benchmarks/gpu.py [--rows 10000000] [--device gpu|cpu]       (or: make bench-gpu)

Exact float16 search, an IVF-PQ and, with faiss-gpu-cuvs, a CAGRA index, each built and asked
through `molquery.index` as `molquery index build --device gpu` does, one query and a batch of 64
at a time; the contrastive training of `molquery align`; and two limits: how fast memory is read and
how fast matrices are multiplied. Vectors are drawn on the device where torch can use it (beside
faiss-gpu), else on the processors: torch in the environment of faiss-gpu-cuvs has no GPU, and the
limits are then left out. Exits 1, having measured nothing, where FAISS sees no GPU; `--device cpu`
runs the same code without one, for a small number of rows.

The table goes to standard output and, with `--output`, to a TSV file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from molquery.align.infonce import InfoNCE, fit_infonce
from molquery.index import library, scan
from molquery.index.assembly import assemble
from molquery.index.searcher import Searcher
from molquery.recipes import load_recipe

Half = npt.NDArray[np.float16]
Line = tuple[str, str, float, str]

DIM, QUERIES, BATCH, CENTRES = 512, 200, 64, 4096
_BLOCK = 262_144
RECIPES = {"gpu": ("gpu-flat", "gpu-ivfpq", "gpu-cagra"), "cpu": ("flat16", "ivf-rabitq")}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.py", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--recipes", nargs="+", help="instead of the three of the device")
    parser.add_argument("--output", type=Path, help="a TSV file")
    options = parser.parse_args(arguments)
    if options.device == "gpu" and library.gpus() == 0:
        print(
            "FAISS sees no GPU, so nothing was measured: this needs one, a CUDA driver, and the "
            "extra gpu or cuvs of molquery. --device cpu --rows 2000 tries the script without one.",
            file=sys.stderr,
        )
        return 1
    place = torch.device("cuda" if options.device == "gpu" and torch.cuda.is_available() else "cpu")
    lines: list[Line] = [
        ("machine", device_name(place, options.device), float(options.rows), "rows")
    ]
    lines += limits(place) if place.type == "cuda" or options.device == "cpu" else []
    tell(f"drawing {options.rows:,} vectors")
    vectors, queries = drawn(options.rows, place)
    for recipe in options.recipes or RECIPES[options.device]:
        if recipe == "gpu-cagra" and not library.has_cuvs():
            tell("gpu-cagra left out: this FAISS has no cuVS (the extra cuvs has)")
            continue
        tell(f"{recipe}: building")
        lines += measured(recipe, vectors, queries, (0,) if options.device == "gpu" else ())
    tell("alignment training")
    lines += training("cpu" if place.type == "cpu" else "gpu")
    text = "".join(f"{what}\t{name}\t{value:.5g}\t{unit}\n" for what, name, value, unit in lines)
    print("what\tof\tvalue\tunit\n" + text, end="")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("what\tof\tvalue\tunit\n" + text, "utf-8")
    return 0


def device_name(place: torch.device, wanted: str) -> str:
    """The name of the device."""
    if place.type == "cuda":
        return f"{torch.cuda.get_device_name(place)} ({library.gpus()} of them)"
    return f"{library.gpus()} GPUs, of which torch uses none" if wanted == "gpu" else "no GPU"


def drawn(rows: int, place: torch.device) -> tuple[Half, npt.NDArray[np.float32]]:
    """Unit rows (rows, DIM) float16 about random centres, and queries (QUERIES, DIM) like them.

    Noise falls off along the directions as in `benchmarks.scale.archive`.
    """
    generator = torch.Generator(place).manual_seed(0)
    scale = torch.arange(1, DIM + 1, device=place, dtype=torch.float32) ** -0.7
    scale /= scale.norm()

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=place)

    basis = torch.linalg.qr(normal(DIM, DIM)).Q
    centres = normal(CENTRES, DIM) * scale * 0.6

    def some(n: int) -> torch.Tensor:
        of = torch.randint(0, CENTRES, (n,), generator=generator, device=place)
        x = (normal(n, DIM) * scale + centres[of]) @ basis.T
        return x / x.norm(dim=1, keepdim=True)

    out = np.empty((rows, DIM), np.float16)
    for start, stop in blocks(rows):
        out[start:stop] = some(stop - start).half().cpu().numpy()
    return out, some(QUERIES).cpu().numpy()


def blocks(rows: int) -> Iterator[tuple[int, int]]:
    """Where blocks of rows begin and end."""
    return ((start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))


def measured(
    recipe: str, vectors: Half, queries: npt.NDArray[np.float32], devices: tuple[int, ...]
) -> list[Line]:
    """Build, memory limit of an exact scan, one query, a batch, and recall@10."""
    start = time.perf_counter()
    searcher, _ = assemble(load_recipe(recipe), vectors, devices=devices)
    built = time.perf_counter() - start
    one = [1000 * timed(lambda q=q: searcher.search(q[None], 10)) for q in queries[:100]]  # type: ignore[misc]
    batch = [timed(lambda: searcher.search(queries[:BATCH], 10)) for _ in range(5)]
    return [
        (recipe, "build", built, "s"),
        (recipe, "one query, k = 10, median", float(np.median(one)), "ms"),
        (recipe, "one query, k = 10, p99", float(np.percentile(one, 99)), "ms"),
        (recipe, f"batch of {BATCH}, median", 1000 * float(np.median(batch)), "ms"),
        (recipe, f"batch of {BATCH}", BATCH / float(np.median(batch)), "queries/s"),
        (recipe, "recall@10", recall(searcher, vectors, queries[:BATCH]), ""),
    ]


def recall(searcher: Searcher, vectors: Half, queries: npt.NDArray[np.float32]) -> float:
    """Share of the true 10 nearest, by an exact scan of the same float16 rows on the CPU."""
    k = min(10, len(vectors))
    truth = scan.top(vectors, queries, k)[1]
    found = searcher.search(queries, k)[1]
    return sum(len(np.intersect1d(t, f)) for t, f in zip(truth, found, strict=True)) / truth.size


def limits(place: torch.device) -> list[Line]:
    """GB/s at which memory is read (a sum over float16), and TFLOP/s of a float16 product."""
    big = place.type == "cuda"
    values = torch.ones(2**31 if big else 2**24, dtype=torch.float16, device=place)
    read = fastest(lambda: values.view(2048, -1).amax(), place)
    size = 8192 if big else 256
    a = torch.ones(size, size, dtype=torch.float16, device=place)
    product = fastest(lambda: a @ a, place)
    return [
        ("limit", "memory read", values.nbytes / 1e9 / read, "GB/s"),
        ("limit", "float16 matrix product", 2 * size**3 / 1e12 / product, "TFLOP/s"),
    ]


def training(device: str) -> list[Line]:
    """Contrastive training on 4,096 made-up pairs of a slide and 2,000 genes."""
    rng = np.random.default_rng(0)
    pairs = 4096 if device == "gpu" else 256
    x = rng.standard_normal((pairs, DIM), dtype=np.float32)
    z = x @ rng.standard_normal((DIM, 2000), dtype=np.float32) / np.float32(DIM**0.5)
    z += rng.standard_normal(z.shape, dtype=np.float32)
    settings = InfoNCE(epochs=20, patience=20)
    seconds = timed(
        lambda: fit_infonce(
            x, z, np.arange(pairs), np.arange(0, pairs, 8), settings, seed=0, device=device
        )
    )
    return [("alignment", f"{settings.epochs} epochs, {pairs} pairs, {device}", seconds, "s")]


def fastest(call: Callable[[], Any], place: torch.device, rounds: int = 8) -> float:
    """The least seconds that a call takes, the device's work included."""

    def whole() -> None:
        call()
        if place.type == "cuda":
            torch.cuda.synchronize()

    return min(timed(whole) for _ in range(rounds))


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def tell(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
