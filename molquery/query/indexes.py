"""Building the indexes of a database, and saying in what state they are."""

from __future__ import annotations

from typing import Any

from molquery import index
from molquery.database import Database
from molquery.errors import IndexFileError
from molquery.progress import Progress
from molquery.query.engine import Engine
from molquery.recipes import Recipe, load_recipe
from molquery.schema import PROFILES, SLIDES
from molquery.threads import Mapper

AUTO = "auto"
#: Recall at 10 that an index is built for where none is asked for.
RECALL = 0.99
_HALF = 0.998  # recall at 10 that float16 vectors keep on any archive seen so far


def choose(rows: int, dim: int, recall: float, free: int | None, gpus: int = 0) -> tuple[str, str]:
    """The recipe for an archive, and why: its name and a sentence.

    Args:
        recall: wanted at 10; 1 asks for exact answers.
        free: bytes of memory, None where that is not known.
        gpus: that FAISS can use.
    """
    flat = load_recipe("flat")
    size = flat.stored_bytes(rows, dim)
    told = f"{rows:,} rows x {dim} are {size / 1e9:.1f} GB"
    if recall >= 1 or rows <= flat.rows[1]:
        why = "exact answers are asked for" if recall >= 1 else "an exact scan takes milliseconds"
        return "flat", f"{told}: {why}"
    if gpus and recall <= _HALF:
        return "gpu-flat", f"{told}: an exact scan in float16 by {gpus} GPUs"
    half = load_recipe("flat16")
    if rows <= half.rows[1] and recall <= _HALF:
        return "flat16", f"{told}: an exact scan of half of it, in float16, is fast enough"
    name = "ivf-rabitq"
    need = load_recipe(name).index_bytes(rows, dim)
    if free is not None and need > free:
        return half.name, (
            f"{told}, of which an approximate index would take {need / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free: a scan reads them from disk"
        )
    return name, f"{told}: {need / 1e9:.1f} GB of codes, and the best rows scored from the vectors"


def build_indexes(
    engine: Engine,
    recipe: Recipe | str = AUTO,
    progress: Progress | None = None,
    *,
    recall: float = RECALL,
    device: str = "auto",
    mapper: Mapper | None = None,
    anew: bool = False,
) -> list[dict[str, Any]]:
    """Build a recipe's index for slides and for profiles; returns their manifest entries.

    An entry says also `why` the recipe was taken, where it is 'auto', what was to be told, and
    whether the index was current and `stays`; with `anew` it is built all the same.

    Raises:
        IndexFileError: the recipe cannot be built here, or the device is not there.
    """
    gpus = index.devices(device)
    if not 0 < recall <= 1:
        raise IndexFileError("--recall must lie between 0 and 1", found=str(recall))
    entries = []
    for spec in (SLIDES, PROFILES):
        source = engine.source(spec)
        why, told = "", []
        chosen = recipe
        if isinstance(chosen, str):
            name, why = chosen, ""
            if name == AUTO:
                free = index.free_memory()
                name, why = choose(source.n, source.dim, recall, free, len(gpus))
            chosen = load_recipe(name)
        here = gpus if chosen.device == "gpu" or device.startswith("gpu") else ()
        if chosen.device == "gpu" and not here:
            told.append(f"{chosen.name} without a GPU: built and searched by the CPU")
        if progress:
            progress(f"building {chosen.name} index of {spec.name}", 0, source.n)
        entry = index.build(
            engine.database, source, chosen, recall=recall, devices=here, progress=progress,
            mapper=mapper, anew=anew,
        )  # fmt: skip
        if entry["recall_at_10"] < recall and not chosen.exact:
            told.append(
                f"recall@10 is {entry['recall_at_10']:.3f}, not {recall}: as wide as this index "
                "can be searched; "
                + ("an exact scan answers" if index.too_lossy(entry) else "--recipe flat is exact")
            )
        if progress:
            progress(f"building {chosen.name} index of {spec.name}", source.n, source.n)
        entries.append({**entry, "why": why, "told": told})
    engine.forget_indexes()
    return entries


def index_states(database: Database, *, checksums: bool) -> list[dict[str, Any]]:
    """Every index of the manifest with its state: 'ok', or why it must not answer."""
    manifest = database.manifest()
    out = []
    for key, entry in sorted(manifest["indexes"].items()):
        state = index.why_stale(database, entry, manifest)
        if state is None and checksums:
            same = database.is_whole(entry["file"], entry["sha256"])
            state = None if same else "damaged: its sha256 is not the one it was saved with"
        if state is None and (lossy := index.too_lossy(entry)):
            state = f"ok; but {lossy}"
        elif state is None and (new := index.unindexed(database, entry)):
            state = f"ok; {new} new rows are scanned beside it"
        out.append({"index": key, **entry, "state": state or "ok"})
    return out
