"""Gene-set collections registered in a database: stored under `genesets/`, named in the manifest.

A collection is one JSON file whose name holds the hash of its content, so that the manifest either
names the old file or the new one. Finding a set by name is in `collections.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from molquery.database import Database
from molquery.errors import DatabaseError, GeneSetError, OutputError, printable
from molquery.files import write_bytes
from molquery.genesets.collections import COLLECTIONS
from molquery.records import Signature
from molquery.schema import GENESETS

KEY = "collections"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def register(
    database: Database,
    name: str,
    signatures: Sequence[Signature],
    *,
    origin: str,
    overwrite: bool = False,
) -> bool:
    """Store a collection under a name; False where the same content is there already, and whole.

    Raises:
        GeneSetError: the name cannot be one, or is that of a shipped collection.
        OutputError: the name is taken by other content and `overwrite` is false.
    """
    if not _NAME.fullmatch(name) or name in COLLECTIONS:
        raise GeneSetError(
            f"a collection cannot be called {printable(name)!r}",
            found="the name of a shipped collection" if name in COLLECTIONS else None,
            hint="use letters, digits, dots, hyphens and underscores",
        )
    sets = [
        {"name": s.name, "description": s.description, "weights": dict(s.weights)}
        for s in signatures
    ]
    content = json.dumps({"sets": sets}, ensure_ascii=False, allow_nan=False).encode()
    digest = hashlib.sha256(content).hexdigest()
    folder = database.path / GENESETS
    with database.writing("genesets add"):
        held = database.manifest().get(KEY, {}).get(name)
        there = held is not None and held["sha256"] == digest
        if there and database.is_whole(f"{GENESETS}/{held['file']}", digest):
            return False
        if held and not there and not overwrite:
            raise OutputError(
                f"the database has a collection {name} already",
                found=f"{held['sets']} sets from {held['origin']}",
                hint="--overwrite to replace it, or another --name",
            )
        folder.mkdir(exist_ok=True)
        file = f"{name}-{digest[:16]}.json"
        write_bytes(folder / file, content)

        def change(manifest: dict[str, Any]) -> None:
            entry = {"file": file, "sha256": digest, "sets": len(sets), "origin": origin}
            manifest.setdefault(KEY, {})[name] = entry

        database.update_manifest(change)
    return True


def registered(database: Database) -> tuple[Signature, ...]:
    """Every set of every registered collection; `source` names the collection.

    Raises:
        DatabaseError: a collection's file is missing or is not what was stored.
    """
    found: list[Signature] = []
    for name, entry in sorted(database.manifest().get(KEY, {}).items()):
        path = database.path / GENESETS / str(entry["file"])
        try:
            if database.remote:
                database.is_whole(f"{GENESETS}/{entry['file']}", entry["sha256"])
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise ValueError("its content is not what was stored")
            sets = json.loads(content)["sets"]
            found += [Signature(s["name"], s["weights"], s["description"], name) for s in sets]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatabaseError(
                f"the gene-set collection {name} of {database.name} is damaged",
                found=str(error),
                hint=f"molquery genesets add FILE --name {name} --overwrite",
            ) from error
    return tuple(found)
