"""The demo: the example cohort, from its files to a ranking, a retrieval, strata and a picture.

Every step calls the library function behind the command that it names. The cohort and its licence
are described in the README.md beside its files (`molquery.examples.her2st`).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from molquery import export, readers, schema
from molquery.database import Database
from molquery.errors import OutputError, some
from molquery.figures import style
from molquery.figures.tissue import tissue_map
from molquery.genesets.collections import find
from molquery.ingest import ingest_profiles, ingest_slides
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes
from molquery.query.regions import regions
from molquery.query.retrieve import Neighbours, retrieve
from molquery.query.search import Ranking, search
from molquery.query.strata import Strata, stratify_cohort
from molquery.recipes import load_recipe
from molquery.records import IngestReport
from molquery.vectors import Float, Strings

#: Genes of T cells and other immune cells. Of the shipped sets, the one with the highest held-out
#: correlation within sections (mean partial r 0.46) once a spot's total RNA count is taken off.
SIGNATURE = "HALLMARK_ALLOGRAFT_REJECTION"
ENCODER = "efficientnet-lite0"
#: The closed form: seconds, the same numbers on every machine, and ahead of InfoNCE within the
#: sections of this cohort.
METHOD = "cca"
PAIR_ON, SPLIT_ON = "spot_id", "section"
UNSEEN = "C6"  # the section without RNA
K = 5
INPUTS = ("spots.parquet", "counts.tsv.gz", "C4.jpg", "README.md")
FOLDER, STRATA, PICTURE = "input", "strata.csv", "tissue.png"
_MARK = "demo"  # the manifest's entry that says: made by the demo, may be replaced by it

#: Called with (stage, steps done, steps in all, what to show beside it).
Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class SectionQuality:
    """Predicted against measured scores in the spots of one section, held out in training.

    Attributes:
        r: Pearson's correlation.
        r_at_depth: the partial correlation given log(total UMI count of the spot).
    """

    n: int
    r: float
    r_at_depth: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo made, and the command behind each step.

    Attributes:
        commands: step -> the command that does the same.
        space: facts of the space (method, dimensions, pairs, groups).
        indexes: manifest entries of the two indexes.
        query: the slide that `retrieved` starts from.
        sections: section -> quality of the signature there, by models that have not seen it.
        sections_of_patient: patient -> its sections with RNA.
        unseen, pictured: the section without RNA, and the one that the picture shows.
        picture: the PNG.
    """

    directory: Path
    commands: Mapping[str, str]
    slides: IngestReport
    profiles: IngestReport
    space: Mapping[str, Any]
    indexes: tuple[Mapping[str, Any], ...]
    ranking: Ranking
    query: str
    retrieved: Neighbours
    strata: Strata
    strata_file: Path
    sections: Mapping[str, SectionQuality]
    sections_of_patient: Mapping[str, tuple[str, ...]]
    unseen: str
    pictured: str
    picture: Path


def run_demo(
    directory: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> DemoResult:
    """Build a database of the example cohort in `directory` and ask it one question of each kind.

    The directory is an ordinary database afterwards. The files that it was made from are copied
    to `input/` in it, and the results lie beside them.

    Raises:
        OutputError: the directory exists and may not be replaced: `overwrite` is false, or it is
            not what an earlier demo made.
    """
    from molquery.align.train import AlignSettings, align

    tell = progress or (lambda *_: None)
    clear(directory, overwrite=overwrite)
    database = Database.create(directory)
    database.update_manifest(lambda manifest: manifest.update({_MARK: True}))
    tell("example files", 0, 1)
    inputs = _copy_inputs(directory / FOLDER)
    tell("example files", 1, 1)
    slides = ingest_slides(
        database, [inputs / "spots.parquet"],
        options=readers.Options(), encoder=ENCODER, progress=tell,
    )  # fmt: skip
    profiles = ingest_profiles(
        database, [inputs / "counts.tsv.gz"],
        options=readers.Options(), scale="counts", progress=tell,
    )  # fmt: skip
    settings = AlignSettings(method=METHOD, pair_on=PAIR_ON, split_on=SPLIT_ON)
    space = align(database, settings, progress=tell).space
    engine = Engine(database)
    indexes = build_indexes(engine, load_recipe("flat"), tell)

    tell("questions", 0, 4)
    signature = find(SIGNATURE)
    ranking = search(engine, signature, k=K)
    tell("questions", 1, 4)
    # Strata hold the score of every slide, so they also name the slide to start from.
    strata = stratify_cohort(engine, signature, cut="tertiles")
    query = _highest(engine, strata)
    retrieved = retrieve(engine, query, to="profiles", k=K)
    tell("questions", 2, 4)
    strata_file = directory / STRATA
    export.write(strata.table, _facts(strata.provenance), strata_file, "csv", overwrite=True)
    tell("questions", 3, 4)
    spots = _Spots.of(engine)
    section, image = pictured(directory)
    seen = regions(engine, signature, section, **image)
    figure = tissue_map(
        seen.image, seen.x, seen.y, seen.predicted, seen.measured, title=seen.title,
        unit=seen.unit, um_per_pixel=seen.um_per_pixel,
    )  # fmt: skip
    style.save(figure, directory / PICTURE)
    tell("questions", 4, 4)
    return DemoResult(
        directory=directory,
        commands=commands(directory, query),
        slides=slides,
        profiles=profiles,
        space=space.facts,
        indexes=tuple(indexes),
        ranking=ranking,
        query=query,
        retrieved=retrieved,
        strata=strata,
        strata_file=strata_file,
        sections=spots.quality(),
        sections_of_patient=spots.sections_of_patient(),
        unseen=UNSEEN,
        pictured=section,
        picture=directory / PICTURE,
    )


def commands(directory: Path, query: str) -> dict[str, str]:
    """The commands that do what the demo does, ready to type; `query` is the slide to retrieve."""
    inputs = directory / FOLDER
    section, settings = pictured(directory)
    parts = {
        "init": ["init"],
        "slides": ["ingest", "slides", f"{inputs / 'spots.parquet'}", "--encoder", ENCODER],
        "profiles": ["ingest", "profiles", f"{inputs / 'counts.tsv.gz'}", "--scale", "counts"],
        "align": ["align", "--method", METHOD, "--pair-on", PAIR_ON, "--split-on", SPLIT_ON],
        "index": ["index", "build", "--recipe", "flat"],
        "search": ["search", "--geneset", SIGNATURE, "-k", str(K)],
        "retrieve": ["retrieve", query, "--to", "profiles", "-k", str(K)],
        "stratify": ["stratify", "--geneset", SIGNATURE, "--cut", "tertiles",
                     "--output", f"{directory / STRATA}", "--overwrite"],
        "heatmap": ["heatmap", "--slide", section, "--geneset", SIGNATURE,
                    *(w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))),
                    "--output", f"{directory / PICTURE}", "--overwrite"],
        "info": ["info"],
        "check": ["genesets", "check"],
    }  # fmt: skip
    return {
        step: shlex.join(["molquery", "--db", str(directory), *words])
        for step, words in parts.items()
    }


def clear(directory: Path, *, overwrite: bool) -> None:
    """Make way for a demo: remove what an earlier one made, and never anything else.

    Raises:
        OutputError: the directory is in use and is not, or holds more than, an earlier demo.
    """
    if not directory.exists() and not directory.is_symlink():
        return
    if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
        return
    elsewhere = "molquery demo DIRECTORY, with a directory that does not exist yet"
    if not _is_demo(directory):
        raise OutputError(
            f"{directory} exists and was not made by molquery demo: it is left as it is",
            hint=elsewhere,
        )
    made = {
        schema.MANIFEST, schema.LOCK, schema.WRITER, schema.VERSIONS, schema.SPACES,
        schema.INDEXES, FOLDER, STRATA, PICTURE,
        *(f"{name}.lance" for name in schema.TABLES),
    }  # fmt: skip
    foreign = [p.name for p in directory.iterdir() if not _made(p.name, made)]
    if (directory / FOLDER).is_dir():
        inside = {p.name for p in (directory / FOLDER).iterdir()}
        foreign += [f"{FOLDER}/{name}" for name in inside - set(INPUTS)]
    if foreign:
        raise OutputError(
            f"{directory} holds files that the demo did not make: it is left as it is",
            found=some(sorted(foreign)),
            hint=f"move them away, or {elsewhere}",
        )
    if not overwrite:
        raise OutputError(
            f"{directory} holds the database of an earlier demo",
            hint=f"molquery demo {shlex.quote(str(directory))} --overwrite, to make it anew; "
            f"or ask it: molquery --db {shlex.quote(str(directory))} info",
        )
    shutil.rmtree(directory)


def _made(name: str, made: set[str]) -> bool:
    # Files beside a result (its provenance) and unfinished ones (`.name.xyz`) count as the demo's.
    return any(name == m or name.startswith((f"{m}.", f".{m}.")) for m in made)


def _is_demo(directory: Path) -> bool:
    """True for a directory whose manifest says that the demo made it."""
    if directory.is_symlink():
        return False
    try:
        manifest = json.loads((directory / schema.MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get(_MARK) is True


def _copy_inputs(folder: Path) -> Path:
    """Copy the example's files, so that the commands can name them; works from a zip as well."""
    source = files("molquery.examples.her2st")
    try:
        folder.mkdir()
        for name in INPUTS:
            with as_file(source / name) as path:
                shutil.copyfile(path, folder / name)
    except OSError as error:
        raise OutputError(
            f"the example files cannot be copied to {folder}", found=str(error)
        ) from error
    return folder


def _highest(engine: Engine, strata: Strata) -> str:
    """The slide of the section without RNA that has the highest score; ties break by id."""
    unseen = engine.slide_column(SPLIT_ON) == UNSEEN
    scores = strata.table["score"].to_numpy()
    return str(engine.slide_ids[np.argmax(np.where(unseen, scores, -np.inf))])


def _facts(provenance: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(provenance)


@dataclass(frozen=True)
class _Spots:
    """Spots with RNA: where they are, and their predicted and measured scores. All are (n,)."""

    section: Strings
    patient: Strings
    x: Float
    y: Float
    depth: Float
    predicted: Float
    measured: Float

    @classmethod
    def of(cls, engine: Engine) -> _Spots:
        _, measured = engine.reference.score_one(find(SIGNATURE))
        rows, profiles = engine.pairs.slide, engine.pairs.profile
        columns = ["pixel_x", "pixel_y", "total_umi"]
        table = engine.database.read(schema.SLIDES, columns)
        x, y, umi = (table[c].to_numpy().astype(np.float64)[rows] for c in columns)
        return cls(
            engine.slide_column(SPLIT_ON)[rows], engine.patients[rows], x, y, np.log(umi),
            engine.predict(measured)[rows, 0], measured[profiles, 0],
        )  # fmt: skip

    def quality(self) -> dict[str, SectionQuality]:
        out = {}
        for section in np.unique(self.section).tolist():
            mine = self.section == section
            p, m, d = self.predicted[mine], self.measured[mine], self.depth[mine]
            pm, pd, md = _r(p, m), _r(p, d), _r(m, d)
            # The partial correlation of p and m given d (Fisher 1924).
            partial = (pm - pd * md) / np.sqrt((1 - pd**2) * (1 - md**2))
            out[section] = SectionQuality(int(mine.sum()), pm, float(partial))
        return out

    def sections_of_patient(self) -> dict[str, tuple[str, ...]]:
        return {
            patient: tuple(np.unique(self.section[self.patient == patient]).tolist())
            for patient in np.unique(self.patient).tolist()
        }


def _r(a: Float, b: Float) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def pictured(directory: Path) -> tuple[str, dict[str, Any]]:
    """The section that has an image, and the settings of `molquery heatmap` for it."""
    with as_file(files("molquery.examples.her2st") / "spots.parquet") as path:
        told = pq.read_schema(path).metadata
    facts = {key.decode(): value.decode() for key, value in told.items()}
    return facts["image_section"], {
        "image": directory / FOLDER / facts["image"],
        "image_scale": round(float(facts["image_scale"]), 5),
        "um_per_pixel": float(facts["um_per_pixel"]),
    }
