"""Building the indexes of a database, and saying in what state they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from molquery import index
from molquery.database import Database
from molquery.query.engine import Engine
from molquery.recipes import Recipe
from molquery.schema import PROFILES, SLIDES
from molquery.space import DEFAULT_SPACE


def build_indexes(
    engine: Engine, recipe: Recipe, progress: Callable[[str, int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Build a recipe's index for slides and for profiles; returns their manifest entries."""
    space = {"name": DEFAULT_SPACE, "space_id": engine.space_id}
    entries = []
    jobs = ((SLIDES, engine.slide_vectors), (PROFILES, engine.profile_index_vectors))
    for done, (spec, vectors) in enumerate(jobs):
        if progress:
            progress(f"building {recipe.name} index of {spec.name}", done, len(jobs))
        entries.append(index.build(engine.database, spec, recipe, vectors, space))
    if progress:
        progress("building indexes", len(jobs), len(jobs))
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
        out.append({"index": key, **entry, "state": state or "ok"})
    return out
