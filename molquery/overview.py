"""What a database holds, in a flat description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from molquery import index, rna, schema
from molquery.database import Database, facts_of
from molquery.schema import PROFILES, SLIDES
from molquery.space import space_facts
from molquery.texts import Texts


def overview(database: Database) -> dict[str, Any]:
    """Tables with versions and cohorts, encoder, scale, pairs, the space and the indexes."""
    manifest = database.manifest()
    out: dict[str, Any] = {
        "database": database.name,
        "format version": manifest["format_version"],
    }
    patients: dict[str, pa.Array] = {}
    for spec in (SLIDES, PROFILES):
        if not database.has(spec):
            out[spec.name] = 0
            continue
        table = database.read_sidecar(spec, [schema.PATIENT, schema.COHORT])
        facts = facts_of(table.schema)
        out[spec.name] = table.num_rows
        patients[spec.name] = Texts(table[schema.PATIENT]).distinct()
        out[f"{spec.name}: patients"] = len(patients[spec.name])
        groups = Texts(table[schema.COHORT]).groups
        counts = np.bincount(groups.code, minlength=len(groups.names)).tolist()
        named = {n or "(none)": c for n, c in zip(groups.names.tolist(), counts, strict=True)}
        out[f"{spec.name}: cohorts"] = dict(sorted(named.items()))
        shown = ("encoder", "kind", "dim") if spec is SLIDES else ("scale", "dim")
        names = {"dim": "dimensions" if spec is SLIDES else "genes"}
        for name in shown:
            out[f"{spec.name}: {names.get(name, name)}"] = facts[name]
        if spec is PROFILES and (embeddings := rna.held(database)):
            there = database.count(spec, f"{schema.EMBEDDING} IS NOT NULL")
            out["profiles: RNA embeddings"] = (
                f"{embeddings.encoder}, {embeddings.dim} dimensions, of {there} profiles"
            )
        out[f"{spec.name}: columns"] = database.metadata_columns(spec)
        out[f"{spec.name}: version"] = database.version(spec)
    if len(patients) == 2:
        some, more = sorted(patients.values(), key=len)
        out["patients with both"] = int(Texts(more).are_in(some).sum())
    facts_of_space = space_facts(database)
    if facts_of_space is None:
        out["space"] = "none yet: molquery align"
    else:
        entry = manifest["spaces"]["default"]
        out["space"] = entry["space_id"][:12]
        for name in ("method", "dim", "n_pairs", "split_on"):
            out[f"space: {name}"] = facts_of_space[name]
        if hold_out := facts_of_space.get("hold_out"):
            out["space: held out"] = hold_out["rule"]
            for name, value in hold_out["quality"].items():
                out[f"space: held out: {name}"] = value
        if adaptation := facts_of_space.get("adaptation"):
            out["space: adapted with"] = f"{len(adaptation['groups'])} of {adaptation['rule']}"
    for key, entry in sorted(manifest["indexes"].items()):
        state = index.why_stale(database, entry, manifest) or index.too_lossy(entry) or "current"
        out[f"index {key}"] = f"{entry['factory']}, recall@10 {entry['recall_at_10']:.3f}, {state}"
    return out
