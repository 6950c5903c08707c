"""What the manifest says of the indexes of a database, without opening any."""

from __future__ import annotations

from typing import Any

from molquery import schema
from molquery.database import Database
from molquery.schema import TableSpec

#: Why an index is not used that holds no stored vectors and refers to none.
EARLIER = "an earlier molquery has built it"


def index_key(space_name: str, spec: TableSpec, recipe: str) -> str:
    """The name of an index in the manifest, which is also its file's stem."""
    return f"{space_name}-{spec.name}-{recipe}"


def why_stale(database: Database, entry: dict[str, Any], manifest: dict[str, Any]) -> str | None:
    """Why an index must not answer, or None when it may (its bytes are not checked here).

    That rows have come since is no reason: they are scanned beside it.
    """
    spec = schema.TABLES[entry["table"]]
    current = manifest["spaces"].get(entry["space"])
    if current is None or current["space_id"] != entry["space_id"]:
        return "it was built for a space that has been replaced"
    version, built = database.vectors_version(spec), entry["vectors_version"]
    if built != version and built not in database.grown_from(spec):
        return f"{spec.name} have changed (version {built} -> {version})"
    rows = database.count(spec)
    if built == version and entry["rows"] != rows:
        return f"it covers {entry['rows']} of {rows} rows"
    if "vectors" not in entry and not entry["file"].endswith(".safetensors"):
        return EARLIER
    if not database.holds(entry["file"]):
        return "its file is missing"
    if "vectors" in entry:
        held = manifest["indexes"].get(entry["vectors"])
        if held is None or held["sha256"] != entry["vectors_sha256"]:
            return f"the vectors that it refers to ({entry['vectors']}) have been replaced"
    return None


def too_lossy(entry: dict[str, Any]) -> str | None:
    """Why an exact scan answers instead of an index that is current, or None where it does not.

    It misses more than twice what it was allowed to. Less than that may be chance: recall
    is measured with some hundred rows.
    """
    found, wanted = entry["recall_at_10"], entry["recall_wanted"]
    if "vectors" not in entry or 1 - found <= 2 * (1 - wanted):
        return None
    return f"it finds {found:.3f} of the nearest 10, not {wanted}: an exact scan answers instead"


def unindexed(database: Database, entry: dict[str, Any]) -> int:
    """Rows that came after an index was built."""
    return int(database.count(schema.TABLES[entry["table"]]) - entry["rows"])


def remove_stale(database: Database, live_space_ids: set[str]) -> None:
    """Forget indexes of replaced spaces."""

    def change(manifest: dict[str, Any]) -> None:
        for key, entry in list(manifest["indexes"].items()):
            if entry["space_id"] not in live_space_ids:
                del manifest["indexes"][key]

    database.update_manifest(change)
