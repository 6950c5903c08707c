"""Makes tests/data/archives/format-N.zip and format-N.json: a database of today's format, and what
it holds and retrieves. To be run once for each format version, when it is new:

    python tests/make_archive.py
"""

import json
import tempfile
import zipfile
from pathlib import Path

from molquery import history, schema, synth
from molquery.align.train import AlignSettings, align
from molquery.database import Database
from molquery.genesets.inline import parse_genes
from molquery.genesets.registered import register, registered
from molquery.ingest import ingest_metadata, ingest_profiles, ingest_slides
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes
from molquery.query.retrieve import retrieve
from molquery.readers import Options
from molquery.recipes import load_recipe
from molquery.schema import PROFILES, SLIDES

ARCHIVES = Path(__file__).parent / "data" / "archives"
GENES = "CA9,VEGFA,SLC2A1,LDHA,PGK1,-MKI67,-TOP2A"


def make(path: Path, files: Path) -> None:
    """A small database with a past, an index, deleted rows, a registered gene set and a tag."""
    sets = {
        "HYPOXIA": ("CA9", "VEGFA", "SLC2A1", "LDHA", "PGK1", "ENO1"),
        "CYCLE": ("MKI67", "TOP2A", "CCNB1", "CDK1", "BUB1", "AURKA"),
    }
    toy = synth.Toy(patients=48, cohorts=2, sites=4, pathways=2, visible=2, set_genes=6,
                    background=4, dim=6, seed=3)  # fmt: skip
    written = synth.write_files(synth.make(toy, sets), files)
    database = Database.create(path)
    ingest_slides(database, [written.slides], options=Options(), encoder="toy")
    ingest_profiles(database, [written.profiles], options=Options(), scale="log2")
    history.tag(database, "before-metadata")
    ingest_metadata(database, [written.metadata], on="patient_id")
    align(database, AlignSettings(method="cca"))
    register(database, "mine", [parse_genes(GENES)], origin="tests/make_archive.py")
    last = database.read(SLIDES, [SLIDES.key])[SLIDES.key].to_pylist()[-1]
    history.delete(database, history.plan_deletion(database, SLIDES, f"slide_id = '{last}'"))
    build_indexes(Engine(database), load_recipe("flat"))
    _ = Engine(database).prepared


def contents(path: Path) -> dict[str, object]:
    """What the database holds and retrieves, as plain values."""
    database = Database.open(path)
    engine = Engine(database)
    near = retrieve(engine, str(engine.slide_ids[0]), to="profiles", source="slides", k=3)
    tables = {}
    for spec in (SLIDES, PROFILES):
        names = database.metadata_columns(spec)
        first = database.read(spec, names).slice(0, 2).to_pylist()
        vectors = database.matrix(spec, spec.vector)
        facts = {k: v for k, v in database.facts(spec).items() if k != "gene_table"}
        tables[spec.name] = {
            "rows": database.count(spec), "facts": facts, "first": first,
            "vectors": [float(x) for x in vectors[0]],
        }  # fmt: skip
    return {
        "format_version": schema.FORMAT_VERSION,
        "tables": tables,
        "history": [
            [v.version, v.command, v.slides, list(v.tags)] for v in history.versions(database)
        ],
        "gene sets": {s.name: dict(s.weights) for s in registered(database)},
        "retrieve": [[h["profile_id"], h["similarity"]] for h in near.hits.to_pylist()],
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "toy.mq"
        (Path(scratch) / "files").mkdir()
        make(path, Path(scratch) / "files")
        name = f"format-{schema.FORMAT_VERSION}"
        ARCHIVES.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(ARCHIVES / f"{name}.zip", "w", zipfile.ZIP_LZMA) as archive:
            for file in sorted(path.rglob("*")):
                if file.is_file() and file.name != schema.LOCK:
                    archive.write(file, file.relative_to(path))
        text = json.dumps(contents(path), indent=1, sort_keys=True)
        (ARCHIVES / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
