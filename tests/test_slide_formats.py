"""Slide formats, each written by the library that owns it where it is installed here.

torch writes the CLAM tensors, h5py the HDF5 of TRIDENT, CLAM and STAMP (that is what those tools
call, with the names and attributes of their sources), numpy the pickles, `.npy` and `.npz`, and
LazySlide itself wrote the zarr store (`make_lazyslide.py`).
"""

import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import molquery.readers
from molquery.database import Database
from molquery.errors import (
    ColumnError,
    DuplicateIdError,
    FileFormatError,
    InputError,
    MismatchError,
)
from molquery.ingest import ingest_slides
from molquery.readers import Options, Slides, find_slides, inputs, read_slides
from molquery.resume import cache_file
from molquery.schema import SLIDES

DATA = Path(__file__).parent / "data"
IDS = ("S-a", "S-b", "S-c")
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((3, 6)).astype(np.float32)
PATCHES = RNG.standard_normal((5000, 300)).astype(np.float32)


def one(path: Path, options: Options | None = None) -> Slides:
    slides = list(read_slides(path, options or Options()))
    assert len(slides) == 1
    return slides[0]


def write_h5(path: Path, attrs: dict[str, object] | None = None, **arrays: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file.attrs.update(attrs or {})
    return path


def trident_patches(path: Path, values: np.ndarray, encoder: str = "uni_v1") -> Path:
    """As TRIDENT's save_hdf5 does: a row a chunk, the attributes on the datasets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "features", data=values, maxshape=(None, *values.shape[1:]),
            chunks=(1, *values.shape[1:]),
        )  # fmt: skip
        data.attrs.update({"name": path.stem, "savetodir": "None", "encoder": encoder})
        coords = file.create_dataset("coords", data=np.zeros((len(values), 2), np.int64))
        coords.attrs.update({"patch_size": 512, "level0_magnification": "None", "overlap": 0})
    return path


def check_pooled(slides: Slides, values: np.ndarray, encoder: str | None) -> None:
    assert slides.encoder == encoder
    mean = values.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(slides.vectors[0], mean, rtol=1e-6, atol=1e-7)
    assert slides.vectors.dtype == np.float32
    assert slides.metadata.to_pydict() == {"n_tiles": [len(values)], "pooling": ["mean"]}


# Patch level


@pytest.mark.parametrize("n", [1, 7, 3495, 3496, 5000])
def test_trident_patches_are_pooled(tmp_path: Path, n: int) -> None:
    path = trident_patches(tmp_path / "features_uni_v1" / "TCGA-05-4244.h5", PATCHES[:n])
    slides = one(path)
    assert slides.ids == ("TCGA-05-4244",)
    check_pooled(slides, PATCHES[:n], "uni_v1")


def test_the_mean_is_kept_in_float64(tmp_path: Path) -> None:
    values = np.full((20_000, 2), 0.1, np.float32)
    values[0, 0] = 2.0**24
    slides = one(write_h5(tmp_path / "s.h5", features=values, coords=np.zeros((20_000, 2))))
    np.testing.assert_array_equal(
        slides.vectors[0], values.astype(np.float64).mean(axis=0).astype(np.float32)
    )


def test_an_encoder_of_none_is_taken_from_the_folder_or_the_configuration(tmp_path: Path) -> None:
    path = trident_patches(tmp_path / "features_uni_v1" / "a.h5", PATCHES[:2], "None")
    assert one(path).encoder == "uni_v1"
    other = trident_patches(tmp_path / "mine" / "a.h5", PATCHES[:2], "None")
    assert one(other).encoder is None
    (tmp_path / "_config_feats_conch_v15.json").write_text("{}")
    assert one(other).encoder == "conch_v15"


def test_clam_files(tmp_path: Path) -> None:
    values = PATCHES[:40]
    write_h5(tmp_path / "h5_files" / "S-a.h5", features=values, coords=np.zeros((40, 2), np.int32))
    (tmp_path / "pt_files").mkdir()
    for name in ("S-a", "S-b"):
        torch.save(torch.from_numpy(values), tmp_path / "pt_files" / f"{name}.pt")
    found = list(read_slides(tmp_path))
    assert [s.ids for s in found] == [("S-a",), ("S-b",)]
    assert Path(found[0].source).parent.name == "h5_files"
    for slides in found:
        check_pooled(slides, values, None)


TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float32": lambda t: t,
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "bfloat16": lambda t: t.bfloat16(),
    "transposed": lambda t: t.T.contiguous().T,
    "a slice": lambda t: torch.cat([t * 9, t, t * 9])[len(t) : 2 * len(t)],
    "every other row": lambda t: torch.stack([t, t * 9], 1).reshape(-1, t.shape[1])[::2],
    "a batch of one": lambda t: t[None],
    "a parameter": lambda t: torch.nn.Parameter(t),
}


@pytest.mark.parametrize("how", TENSORS)
def test_tensors_are_read_as_torch_reads_them(tmp_path: Path, how: str) -> None:
    tensor = TENSORS[how](torch.from_numpy(PATCHES[:50]))
    torch.save(tensor, tmp_path / "a.pt")
    again = torch.load(tmp_path / "a.pt", weights_only=True)
    check_pooled(one(tmp_path / "a.pt"), again.detach().double().reshape(50, -1).numpy(), None)


def test_tensors_that_are_not_patches(tmp_path: Path) -> None:
    for value, says in (
        ({"features": torch.ones(3, 2)}, "a dict with features"),
        (torch.ones(2, 3, 4), "not one of patch features"),
        (torch.ones(3, 4).long(), "LongStorage"),
        (torch.ones(1, 4).expand(10**12, 4), "larger than the file"),
    ):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(FileFormatError, match=says):
            one(tmp_path / "a.pt")
    torch.save(torch.ones(0, 4), tmp_path / "a.pt")
    assert one(tmp_path / "a.pt").skipped == {"empty slide (no features)": ("a",)}


def test_stamp_files(tmp_path: Path) -> None:
    tiles = PATCHES[:30].astype(np.float16)
    told = {
        "stamp_version": "2.3.0", "extractor": "uni2", "unit": "um", "tile_size_um": 256.0,
        "tile_size_px": 224, "code_hash": "ab", "feat_type": "tile",
    }  # fmt: skip
    path = write_h5(tmp_path / "S-a.h5", told, feats=tiles, coords=np.zeros((30, 2)))
    check_pooled(one(path), tiles, "uni2")
    del told["feat_type"]
    check_pooled(one(write_h5(path, told, feats=tiles)), tiles, "uni2")
    for shape in ((6,), (1, 6)):
        for kind, metadata in (("slide", {}), ("patient", {"patient_id": ["S-a"]})):
            told = {"version": "2.3.0", "encoder": "titan", "feat_type": kind}
            slides = one(write_h5(path, told, feats=VECTORS[0].reshape(shape)))
            np.testing.assert_array_equal(slides.vectors, VECTORS[:1])
            assert (slides.ids, slides.encoder) == (("S-a",), "titan")
            assert slides.metadata.to_pydict() == metadata
    for kind, shape in (("slide", (3, 6)), ("tile", (6,)), ("cell", (3, 6))):
        with pytest.raises(FileFormatError, match=f"feat_type '{kind}'"):
            one(write_h5(path, {"feat_type": kind}, feats=np.ones(shape)))
    assert one(write_h5(path, {"feat_type": "tile"}, feats=np.ones((0,)))).skipped


# Pickles


class Evil:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_titan_pickles(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "TCGA_TITAN_features.pkl"
    names = [f"slides/{i}.h5" for i in IDS]
    for ids, vectors in (
        (names, VECTORS),
        (np.array(names), np.asfortranarray(VECTORS)),
        (np.array(names, dtype=object), VECTORS.astype(">f8")),
        (tuple(names), list(VECTORS)),
    ):
        for key in ("filenames", "filename"):
            content = {key: ids, "embeddings": vectors, "note": np.float64(3)}
            path.write_bytes(pickle.dumps(content, protocol=protocol))
            slides = one(path)
            assert slides.ids == IDS
            np.testing.assert_array_equal(slides.vectors, VECTORS)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_that_would_run_code_do_not(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    command = f"touch {mark}"
    for evil in (
        Evil(os.system, command),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(getattr, "x", "upper"),
        Evil(os.mkdir, str(mark)),
        Evil(np.save, str(mark), 1),
    ):
        content = pickle.dumps({"filenames": ["a"], "embeddings": evil}, protocol=protocol)
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(FileFormatError, match="would run code"):
            one(tmp_path / "x.pkl")
        torch.save({"features": evil}, tmp_path / "x.pt", pickle_protocol=protocol)
        with pytest.raises(FileFormatError, match="would run code"):
            one(tmp_path / "x.pt")
        assert not mark.exists()
        assert not mark.with_suffix(".npy").exists()
    # The proof that these would have run.
    pickle.loads(pickle.dumps(Evil(os.mkdir, str(mark)), protocol=protocol))
    assert mark.exists()


def test_pickles_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    good = pickle.dumps({"filenames": list(IDS), "embeddings": VECTORS}, protocol=4)
    for content in (
        good[:-20],
        good.replace(b"\x4b\x03\x4b\x06\x86", b"\x4b\xff\x4b\x06\x86"),  # the shape
        b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"x.",  # bytes that are not there
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x04r\xff\xff\xff\xff.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.",  # a bytearray
    ):
        assert content != good
        path.write_bytes(content)
        with pytest.raises(FileFormatError):
            one(path)
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(FileFormatError, match="a dict with weights"):
        one(path)


# Zarr and NumPy


def test_lazyslide_stores(tmp_path: Path) -> None:
    store = tmp_path / "S-a.zarr"
    with zipfile.ZipFile(DATA / "lazyslide.zarr.zip") as archive:
        archive.extractall(store)
    with pytest.raises(ColumnError, match=r"several models(?s:.*)resnet50, uni"):
        one(store)
    expected = np.random.default_rng(0)
    expected.integers(80, 200, (600, 600, 3), dtype=np.uint8)
    for model in ("resnet50", "uni"):
        tiles = expected.standard_normal((16, 16)).astype(np.float32)
        for options in (Options(vector=model), Options(encoder=model)):
            slides = one(tmp_path, options)
            check_pooled(slides, tiles, model)
            assert slides.ids == ("S-a",)
    vector = store / "tables" / "uni" / "uns" / "agg_ops" / "agg_slide" / "features"
    (vector / "c" / "0" / "0").write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match="wsidata store"):
        one(store, Options(vector="uni"))


def test_lazyslide_stores_that_keep_the_vector_in_varm(tmp_path: Path) -> None:
    """As LazySlide wrote it before it kept `features` beside the aggregation."""
    import zarr

    store = tmp_path / "S-a.zarr"
    with zipfile.ZipFile(DATA / "lazyslide.zarr.zip") as archive:
        archive.extractall(store)
    shutil.rmtree(store / "tables" / "resnet50")
    table = store / "tables" / "uni"
    kept = np.asarray(zarr.open_array(table / "varm" / "agg_slide", mode="r")[:])
    told = zarr.open_array(table / "uns" / "agg_ops" / "agg_slide" / "features", mode="r")
    np.testing.assert_array_equal(kept.T, np.asarray(told[:]))  # of the same library
    shutil.rmtree(table / "uns" / "agg_ops" / "agg_slide" / "features")
    slides = one(store)
    np.testing.assert_array_equal(slides.vectors, kept.T.astype(np.float32))
    assert slides.encoder == "uni"
    shutil.rmtree(table / "uns" / "agg_ops")  # nothing says what made the vector
    assert one(store).encoder is None
    database = Database.create(tmp_path / "db")
    with pytest.raises(MismatchError, match="do not say which encoder"):
        ingest_slides(database, [store], options=Options())


def tiles_alone(folder: Path) -> tuple[Path, np.ndarray]:
    """LazySlide's store of one model before `feature_aggregation`; its tiles in several chunks."""
    import zarr

    store = folder / "S-a.zarr"
    with zipfile.ZipFile(DATA / "lazyslide.zarr.zip") as archive:
        archive.extractall(store)
    shutil.rmtree(store / "tables" / "resnet50")
    shutil.rmtree(store / "tables" / "uni" / "uns" / "agg_ops")
    shutil.rmtree(store / "tables" / "uni" / "varm" / "agg_slide")
    shutil.rmtree(store / "tables" / "uni" / "X")
    (store / "tables" / "uni").rename(store / "tables" / "uni_tiles")
    group = zarr.open_group(store / "tables" / "uni_tiles", mode="r+")
    group.create_array("X", data=PATCHES[:50, :16], chunks=(7, 16))
    return store, PATCHES[:50, :16]


def test_lazyslide_tiles_that_were_not_aggregated_are_pooled(tmp_path: Path) -> None:
    store, tiles = tiles_alone(tmp_path)
    check_pooled(one(store), tiles, "uni")
    check_pooled(one(tmp_path, Options(encoder="uni")), tiles, "uni")
    with pytest.raises(ColumnError, match=r"no features of conch(?s:.*)uni"):
        one(store, Options(vector="conch"))
    chunk = store / "tables" / "uni_tiles" / "X" / "c" / "3" / "0"
    chunk.unlink()  # zarr reads it as zeros
    with pytest.raises(FileFormatError, match="7 of 8 chunks were written"):
        one(store)
    about = chunk.parents[2] / "zarr.json"
    about.write_text(about.read_text().replace("50,", f"{2**60},"))
    with pytest.raises(FileFormatError, match=r"values of shape \(1152921504606846976, 16\)"):
        one(store)


def test_arrays_with_a_list_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "slides.npy"
    np.save(path, VECTORS)
    with pytest.raises(FileFormatError, match=r"no list of slide ids(?s:.*)slides\.txt"):
        one(path)
    frame = pd.DataFrame({"n": range(3), "slide_id": IDS})
    for name, content in {
        "slides.txt": "\r\n".join(IDS) + "\r\n",
        "slides.json": '["S-a", "S-b", "S-c"]',
        "slides_ids.csv": "\n".join(IDS),
        "ids.csv": frame.to_csv(index=False),
        "slide_ids.tsv": "whatever\n" + "\n".join(IDS),
    }.items():
        (tmp_path / name).write_text(content)
        slides = one(tmp_path)
        assert slides.ids == IDS
        np.testing.assert_array_equal(slides.vectors, VECTORS)
        (tmp_path / name).unlink()
    (tmp_path / "slides.txt").write_text("S-a\nS-b\n")
    with pytest.raises(MismatchError, match="2 ids, 3 vectors"):
        one(path)


def test_archives_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "slides.npz"
    for write in (np.savez, np.savez_compressed):
        write(path, ids=np.array(IDS), vectors=VECTORS, encoder="titan")
        assert (one(path).ids, one(path).encoder) == (IDS, "titan")
    np.savez(path, keys=np.array(IDS), mine=VECTORS)
    with pytest.raises(ColumnError, match=r"keys, mine(?s:.*)--id"):
        one(path)
    np.testing.assert_array_equal(one(path, Options(id="keys", vector="mine")).vectors, VECTORS)
    np.savez(path, ids=np.array([*IDS, None], dtype=object), vectors=VECTORS)
    with pytest.raises(FileFormatError, match="could run code"):
        one(path)


# Sizes that lie


def test_sizes_that_lie_are_refused_before_allocation(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    for name, shape in (("features", (2**50, 1024)), ("features", (2**60,)), ("feats", (2**50, 8))):
        with h5py.File(path, "w") as file:
            file.create_dataset(
                name, shape, np.float32, chunks=(1024,) if len(shape) == 1 else True
            )
        with pytest.raises(FileFormatError, match="cannot be read"):
            one(path)
    with h5py.File(path, "w") as file:  # half of the rows are there; the others would be zeros
        data = file.create_dataset("features", (64, 4), np.float32, chunks=(1, 4))
        data[:32] = 1
    with pytest.raises(FileFormatError, match="never written"):
        one(path)
    np.save(tmp_path / "x.npy", VECTORS[0])
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content.replace(b"(6,), }      ", b"(99999999999,), }"[:13]))
    with pytest.raises(FileFormatError):
        one(tmp_path / "x.npy")


# Directories, globs and lists


def test_a_job_of_several_encoders(tmp_path: Path) -> None:
    job = tmp_path / "job" / "20x_512px_0px_overlap"
    for encoder in ("titan", "prism"):
        write_h5(job / f"slide_features_{encoder}" / "a.h5", features=VECTORS[0])
    trident_patches(job / "features_uni_v1" / "a.h5", PATCHES[:3])
    write_h5(job / "patches" / "a_patches.h5", coords=np.zeros((3, 2)))
    with pytest.raises(MismatchError, match=r"prism, titan(?s:.*)--encoder prism"):
        find_slides([tmp_path])
    for encoder in ("titan", "prism", "uni_v1"):
        assert one(tmp_path, Options(encoder=encoder)).encoder == encoder


def test_globs_lists_and_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "er"
    paths = [write_h5(folder / f"{i}.h5", features=v) for i, v in zip(IDS, VECTORS, strict=True)]
    (folder / "loop").symlink_to(tmp_path / "deep")
    (folder / "self").symlink_to(folder / "self")
    listing = tmp_path / "files.list"
    listing.write_text("# mine\r\n" + "\r\n".join(f"deep/er/{p.name}" for p in paths) + "\r\n")
    for given_paths in (
        [tmp_path / "deep"],
        [folder],
        [folder / "*.h5"],
        [tmp_path / "**" / "er" / "*.h5"],
        [listing],
        [paths[0], folder, *paths],
    ):
        assert [s.path.name for s in find_slides(given_paths)] == [p.name for p in paths]
    monkeypatch.chdir(folder)
    assert len(find_slides([Path("*.h5")])) == 3
    with pytest.raises(InputError, match="nothing matches"):
        find_slides([folder / "*.pt"])
    listing.write_text("deep/er/S-a.h5\ndeep/er/S-z.h5\n")
    with pytest.raises(InputError, match=r"S-z\.h5"):
        find_slides([listing])


# Ingest


def stored(database: Database) -> dict[str, list[float]]:
    table = database.read(SLIDES, [SLIDES.key, SLIDES.vector])
    return dict(zip(*(table[c].to_pylist() for c in table.column_names), strict=True))


def test_one_slide_in_two_folders(tmp_path: Path) -> None:
    database = Database.create(tmp_path / "db")
    for cohort in ("x", "y"):
        write_h5(tmp_path / "in" / cohort / "S-a.h5", features=VECTORS[0])
    with pytest.raises(DuplicateIdError, match=r"x/S-a\.h5 and .*y/S-a\.h5"):
        ingest_slides(database, [tmp_path / "in"], options=Options(), encoder="titan")
    assert not database.has(SLIDES)


def test_mixed_encoders_leave_the_database_as_it_was(tmp_path: Path) -> None:
    database = Database.create(tmp_path / "db")
    for name, encoder in (("a", "uni_v1"), ("b", "conch_v15")):
        trident_patches(tmp_path / "in" / f"{name}.h5", PATCHES[:4], encoder)
    with pytest.raises(MismatchError, match=r"conch_v15 in .*b\.h5, uni_v1 in .*a\.h5"):
        ingest_slides(database, [tmp_path / "in"], options=Options())
    assert not database.has(SLIDES)


def test_an_interrupted_ingest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database.create(tmp_path / "db")
    folder = tmp_path / "features_uni_v1"
    for i in range(8):
        trident_patches(folder / f"s{i}.h5", PATCHES[i : i + 4])
    read: list[str] = []
    plain = molquery.readers.read_source

    def interrupted(source: molquery.readers.Source, options: Options) -> Slides:
        read.append(source.path.stem)
        if len(read) == 6:
            raise KeyboardInterrupt
        return plain(source, options)

    monkeypatch.setattr(molquery.readers, "read_source", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest_slides(database, [folder], options=Options())
    assert not database.has(SLIDES)
    assert cache_file(tmp_path / "db").exists()
    trident_patches(folder / "s1.h5", PATCHES[:2])  # changed meanwhile
    report = ingest_slides(database, [folder], options=Options())
    assert read[6:] == ["s1", "s5", "s6", "s7"]
    assert (report.inserted, report.facts["encoder"]) == (8, "uni_v1")
    assert not cache_file(tmp_path / "db").exists()
    other = Database.create(tmp_path / "other")
    monkeypatch.undo()
    ingest_slides(other, [folder], options=Options())
    assert stored(other) == stored(database)
    assert other.read(SLIDES, ["n_tiles", "pooling"]) == database.read(
        SLIDES, ["n_tiles", "pooling"]
    )
    again = ingest_slides(other, [folder], options=Options())
    assert (again.unchanged, again.updated) == (8, 0)


def test_a_damaged_resume_file_is_no_obstacle(tmp_path: Path) -> None:
    database = Database.create(tmp_path / "db")
    cache_file(tmp_path / "db").parent.mkdir(parents=True, exist_ok=True)
    cache_file(tmp_path / "db").write_bytes(b"no database" * 1000)
    path = trident_patches(tmp_path / "a.h5", PATCHES[:4])
    assert ingest_slides(database, [path], options=Options()).inserted == 1


# Properties

WRITERS: dict[str, Callable[[Path, list[str], np.ndarray], Path]] = {}


def writer(name: str) -> Callable[..., Callable[[Path, list[str], np.ndarray], Path]]:
    def add(
        write: Callable[[Path, list[str], np.ndarray], Path],
    ) -> Callable[[Path, list[str], np.ndarray], Path]:
        WRITERS[name] = write
        return write

    return add


@writer("trident")
def _(root: Path, ids: list[str], values: np.ndarray) -> Path:
    for i, v in zip(ids, values, strict=True):
        write_h5(root / "slide_features_titan" / f"{i}.h5", features=v)
    return root


@writer("stamp")
def _(root: Path, ids: list[str], values: np.ndarray) -> Path:
    for i, v in zip(ids, values, strict=True):
        write_h5(root / f"{i}.h5", {"encoder": "titan", "feat_type": "slide"}, feats=v[None])
    return root


@writer("patches")
def _(root: Path, ids: list[str], values: np.ndarray) -> Path:
    for i, v in zip(ids, values, strict=True):
        trident_patches(root / f"{i}.h5", np.stack([v - 1, v, v + 1]), "titan")
    return root


@writer("tensors")
def _(root: Path, ids: list[str], values: np.ndarray) -> Path:
    root.mkdir()
    for i, v in zip(ids, values, strict=True):
        torch.save(torch.from_numpy(np.stack([v, v])), root / f"{i}.pt")
    return root


@writer("pickle")
def _(root: Path, ids: list[str], values: np.ndarray) -> Path:
    root.write_bytes(pickle.dumps({"filenames": ids, "embeddings": values}))
    return root


@writer("npz")
def _(root: Path, ids: list[str], values: np.ndarray) -> Path:
    with root.open("wb") as stream:
        np.savez(stream, ids=np.array(ids), vectors=values)
    return root


@writer("csv")
def _(root: Path, ids: list[str], values: np.ndarray) -> Path:
    frame = pd.DataFrame(values, columns=[f"f{j}" for j in range(values.shape[1])])
    frame.insert(0, "slide_id", ids)
    frame.to_csv(root, index=False)
    return root


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_same_matrix_in_two_formats_is_the_same_slides(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    n, d = data.draw(st.integers(1, 5)), data.draw(st.integers(8, 12))
    whole = data.draw(st.lists(st.integers(-512, 512), min_size=n * d, max_size=n * d))
    values = np.array(whole, np.float32).reshape(n, d) / 64
    ids = data.draw(
        st.lists(st.from_regex(r"[A-Z][A-Z0-9.-]{0,8}[A-Z0-9]", fullmatch=True),
                 min_size=n, max_size=n, unique_by=str.lower)
    )  # fmt: skip
    results = []
    for name in data.draw(st.permutations(sorted(WRITERS)))[:2]:
        path = WRITERS[name](tmp_path_factory.mktemp("x") / "in", ids, values)
        found = list(read_slides(path))
        results.append(
            {i: v.tolist() for part in found for i, v in zip(part.ids, part.vectors, strict=True)}
        )
    assert results[0] == results[1] == dict(zip(ids, values.tolist(), strict=True))


# Documentation


def test_the_table_of_inputs_has_not_drifted() -> None:
    page = Path(__file__).parent.parent / "docs" / "inputs.md"
    text = page.read_text("utf-8")
    assert inputs.updated(text) == text, "run python -m molquery.readers.inputs docs/inputs.md"


def test_readers_do_not_import_torch() -> None:
    import subprocess

    code = "import sys, molquery.readers; assert not {'torch', 'zarr', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
