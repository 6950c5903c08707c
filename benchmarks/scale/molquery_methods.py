"""The ways that molquery itself searches: its recipes, built and asked through `molquery.index`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.archive import Archive
from benchmarks.scale.methods import (
    APPROXIMATE,
    BATCH,
    FILTER,
    FLAT,
    METHODS,
    RANKING,
    Method,
    Search,
    faiss_search,
)


def _build(recipe: str) -> Callable[[Archive, Path], None]:
    """Stored vectors as the recipe wants them, the index beside them, and how wide to search."""

    def build(archive: Archive, folder: Path) -> None:
        from molquery.index import library
        from molquery.index.assembly import assemble
        from molquery.recipes import load_recipe

        chosen = load_recipe(recipe)
        vectors = archive.vectors
        if chosen.storage == "float16":
            np.save(folder / "half.npy", vectors.astype(np.float16))
            vectors = np.load(folder / "half.npy", mmap_mode="r")
        searcher, recall = assemble(chosen, vectors, truth=archive.vectors)
        told = {
            "widths": {str(d): w for d, w in searcher.settings.widths.items()},
            "refine": searcher.settings.refine,
            "recall": recall,
        }
        (folder / "settings.json").write_text(json.dumps(told), "utf-8")
        if searcher.handle is not None:
            library.write(searcher.handle, folder / "index.faiss")

    return build


def searcher_of(archive: Archive, folder: Path) -> Any:
    """The searcher over what was built into the folder, everything mapped."""
    from molquery.index import library
    from molquery.index.searcher import Searcher, Settings

    half, index, told = (folder / n for n in ("half.npy", "index.faiss", "settings.json"))
    vectors = np.load(half, mmap_mode="r") if half.is_file() else archive.vectors
    settings = Settings()
    if told.is_file():
        read = json.loads(told.read_text("utf-8"))
        settings = Settings({int(d): w for d, w in read["widths"].items()}, read["refine"])
    return Searcher(vectors, library.read(index) if index.is_file() else None, settings)


def _open(archive: Archive, folder: Path) -> Search:
    searcher = searcher_of(archive, folder)

    def search(queries, k, setting, allowed):  # type: ignore[no-untyped-def]
        if k >= archive.rows:
            from molquery.index import scan

            return np.stack([scan.ranking(searcher.vectors, q)[1] for q in queries])
        return searcher.search(queries, k, allowed)[1]

    return search


def _plain_open(archive: Archive, folder: Path) -> Search:
    """FAISS alone on molquery's file, as wide, refined from the vectors in memory."""
    import faiss

    read = json.loads((folder / "settings.json").read_text("utf-8"))
    handle = faiss.read_index(str(folder / "index.faiss"))
    faiss.omp_set_num_threads(1)
    vectors = archive.matrix()
    refined = faiss.IndexRefineFlat(handle, faiss.swig_ptr(vectors))
    setting = {"nprobe": read["widths"]["10"], "k_factor": read["refine"]}
    find = faiss_search(refined)

    def search(queries, k, _, allowed):  # type: ignore[no-untyped-def]
        return find(queries, k, setting, allowed)

    return search


def _recipe(name: str, *tags: str, exact: bool = False, slow: bool = False) -> Method:
    build = None if name == "flat" else _build(name)
    return Method(
        f"molquery {name}", "faiss", _open, build, exact=exact, slow=slow, tags=frozenset(tags)
    )


OWN: tuple[Method, ...] = (
    _recipe("flat", FLAT, BATCH, RANKING, FILTER, exact=True),
    _recipe("flat16", FLAT, BATCH, RANKING, FILTER, exact=True),
    _recipe("ivf", APPROXIMATE),
    _recipe("ivf-rabitq", APPROXIMATE, FILTER),
    _recipe("ivfpq", APPROXIMATE, slow=True),
    _recipe("hnsw", APPROXIMATE, FILTER, slow=True),
    Method(
        "plain FAISS on molquery ivf-rabitq", "faiss", _plain_open, _build("ivf-rabitq"),
        folder="molquery-ivf-rabitq", tags=frozenset({APPROXIMATE}),
    ),
)  # fmt: skip

ALL: tuple[Method, ...] = METHODS + OWN
