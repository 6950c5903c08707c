"""AnnData files: one slide, or one expression profile, per observation.

Only the parts that are asked for are read, not the whole object; anndata loads with the first file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.errors import ColumnError, FileFormatError, some
from molquery.readers import columns, hdf5, orientation
from molquery.readers.base import Input, Options, Profiles, Reader, Slides
from molquery.readers.exported import RNA, RNA_VECTORS, SCALE
from molquery.readers.guard import memory, reading
from molquery.readers.profile_table import finish
from molquery.vectors import Matrix

# Made from the vectors, for plots; never the vectors themselves.
DERIVED = (
    "X_pca",
    "X_umap",
    "X_tsne",
    "X_draw_graph_fr",
    "X_diffmap",
    "spatial",
    "X_molquery_shared",
)

GENE_COLUMNS = ("gene_symbol", "gene_symbols", "gene_name", "gene_names", "symbol", "feature_name")


def sniff(path: Path, head: bytes) -> bool:
    """True for HDF5 with the groups of an AnnData object."""
    return head.startswith(hdf5.MAGIC) and hdf5.layout(path) == hdf5.ANNDATA


def load_slides(path: Path, options: Options) -> Slides:
    """Slides, with vectors from `X` or from `obsm[options.vector]`.

    Raises:
        ColumnError: a key or column is missing, or several could hold the vectors.
        FileFormatError: the file is damaged.
    """
    with hdf5.open_file(path) as file:
        obs = _frame(file, "obs", path)
        key = _vector_key(file, path, options)
        place = "X" if key == "X" else f"obsm/{key}"
        vectors = _matrix(_element(file, place, path), path, place, (len(obs), None))
        encoder = _told(file, "encoder", path)
    ids, metadata = _ids_and_metadata(obs, path, options, columns.SLIDE_IDS)
    return Slides(ids, vectors, encoder, metadata, {}, str(path))


def load_profiles(path: Path, options: Options) -> Profiles:
    """Profiles, with values from `X` or a layer, and genes from the index or a column of `var`.

    Raises:
        ColumnError: a layer or column is missing.
        FileFormatError: the file is damaged, or holds its genes in `obs`.
    """
    with hdf5.open_file(path) as file:
        key = "X" if options.layer is None else f"layers/{options.layer}"
        with reading(path, "an AnnData file"):
            layers = list(file.get("layers", ()))
            there = key in file and _has_values(file[key])
        if not there:
            raise ColumnError(
                f"no {'layer ' + repr(options.layer) if options.layer else 'X'} in {path}",
                found=f"layers: {some(layers) or 'none'}",
                hint="name a layer with --layer",
            )
        obs, var = _frame(file, "obs", path), _frame(file, "var", path)
        values = _matrix(_element(file, key, path), path, key, (len(obs), len(var)))
        scale = _told(file, SCALE, path)
        embeddings, said = _embeddings(file, path, len(obs))
    if options.genes_in == orientation.ROWS:
        raise _transposed(path)
    genes, notes = _genes(var, path, options)
    if (
        options.genes_in is None
        and orientation.known_share(genes) < orientation.FEW
        and orientation.known_share([str(v) for v in obs.index]) > orientation.MOST
    ):
        raise _transposed(path)
    wanted = (*columns.PROFILE_IDS, *columns.PATIENT_IDS)
    ids, metadata = _ids_and_metadata(obs, path, options, wanted)
    notes = [f"read {key}, with samples in obs and genes in var", *notes, *said]
    got = finish(ids, genes, values, metadata, notes, path, scale=scale)
    return replace(got, embeddings=embeddings)


def _transposed(path: Path) -> FileFormatError:
    return FileFormatError(
        f"the genes of {path} are in obs; profiles are read from obs and genes from var",
        hint="write the transposed object: adata.T.write_h5ad(...)",
    )


def _frame(file: Any, key: str, path: Path) -> Any:
    """obs or var."""
    found = _element(file, key, path)
    if not hasattr(found, "columns"):
        raise FileFormatError(f"{key} of {path} is not a table", found=type(found).__name__)
    return found


def _element(file: Any, key: str, path: Path) -> Any:
    from anndata.io import read_elem

    with reading(path, "an AnnData file"):
        return read_elem(hdf5.checked_group(path, file[key]))


def _has_values(item: Any) -> bool:
    """False for the empty placeholder that anndata writes for an X of None."""
    return item.attrs.get("encoding-type") != "null" and getattr(item, "shape", None) != ()


def _vector_key(file: Any, path: Path, options: Options) -> str:
    """The user's choice, else the one part that can hold vectors: X of genes holds expression."""
    with reading(path, "an AnnData file"):
        keys = list(file.get("obsm", ()))
        there = "X" in file and _has_values(file["X"]) and _width(file["X"]) > 0
    all_keys = (["X"] if there else []) + keys
    if options.vector is not None:
        if options.vector in all_keys:
            return options.vector
        raise ColumnError(
            f"no vectors called {options.vector!r} in {path}", found=some(all_keys, 12) or "none"
        )
    fits = [key for key in all_keys if key not in DERIVED]
    genes = there and orientation.holds_genes(_texts(_frame(file, "var", path).index))
    if genes:
        fits.remove("X")
    if len(fits) != 1:
        raise ColumnError(
            f"several parts of {path} could hold the vectors" if fits
            else f"no vectors in {path}: the columns of X are genes" if genes
            else f"no vectors in {path}: X and obsm are empty",
            found=some(all_keys, 12) or None,
            hint="choose one with --vector" if all_keys else None,
        )  # fmt: skip
    return str(fits[0])


def _width(item: Any) -> int:
    shape = getattr(item, "shape", None)
    if shape is None:  # sparse matrices are groups
        shape = item.attrs.get("shape", item.attrs.get("h5sparse_shape", (0, 0)))
    return int(shape[1]) if len(shape) > 1 else 0


def _matrix(element: Any, path: Path, key: str, wanted: tuple[int, int | None]) -> Matrix:
    """An array, a sparse matrix or a data frame as (n, d) float32, C-contiguous.

    `wanted` is its shape by obs and var; only a sparse matrix can claim to be larger than it is.
    """
    shape = tuple(getattr(element, "shape", ()))
    if len(shape) != 2 or any(w not in (None, n) for n, w in zip(shape, wanted, strict=True)):
        rows, columns = (n if n is not None else "any" for n in wanted)
        raise FileFormatError(
            f"{key} of {path} does not fit its obs and var",
            found=f"shape {shape}, where ({rows}, {columns}) is needed",
        )
    if math.prod(shape) * 4 > memory():
        raise FileFormatError(
            f"{key} of {path} does not fit in memory",
            found=f"shape {shape}",
            hint="one row a slide or a bulk sample is read: sum or average single cells first",
        )
    with reading(path, "an AnnData file"):
        if hasattr(element, "toarray"):
            element = element.astype(np.float32).toarray()
        elif hasattr(element, "to_numpy"):
            element = element.to_numpy()
        return np.ascontiguousarray(element, dtype=np.float32)


def _ids_and_metadata(
    obs: Any, path: Path, options: Options, candidates: Sequence[str]
) -> tuple[tuple[str, ...], pa.Table]:
    """Ids from `options.id`, else the index, else (where that only counts rows) a column of ids."""
    with reading(path, "an AnnData file"):
        index = pa.chunked_array([pa.array([str(v) for v in obs.index], pa.string())])
        table = columns.plain(pa.Table.from_pandas(obs, preserve_index=False))
    names = table.column_names
    at = None
    if options.id is not None:
        at = columns.find(names, options.id, path)
    elif index.to_pylist() == [str(i) for i in range(len(index))]:
        at = columns.first_of(names, candidates)
    if at is None:
        ids = columns.ids_of(index, "the index of obs", path)
    else:
        ids = columns.ids_of(table.column(at), names[at], path)
    keep = at is None or columns.normal(names[at]) in columns.PATIENT_IDS
    rest = [i for i in range(len(names)) if keep or i != at]
    if not names:  # a table without columns forgets how many rows it has
        return ids, pa.table({"id": pa.array(ids, pa.string())}).select([])
    return ids, columns.metadata_of(table, rest, path)


def _genes(var: Any, path: Path, options: Options) -> tuple[tuple[str, ...], list[str]]:
    names = [str(name) for name in var.columns]
    if options.gene_column is not None:
        at: int | None = columns.find(names, options.gene_column, path)
        return _texts(var.iloc[:, at]), []
    index = _texts(var.index)
    if orientation.known_share(index) > orientation.MOST:
        return index, []
    at = columns.first_of(names, GENE_COLUMNS)
    if at is not None:
        genes = _texts(var.iloc[:, at])
        if orientation.known_share(genes) > orientation.MOST:
            return genes, [f"genes are from column {names[at]!r} of var, not from its index"]
    return index, []


def _texts(values: Any) -> tuple[str, ...]:
    return tuple("" if value is None or value != value else str(value).strip() for value in values)


def _told(file: Any, key: str, path: Path) -> str | None:
    """A text of `uns`, where somebody wrote it down."""
    with reading(path, "an AnnData file"):
        if "uns" not in file or key not in file["uns"]:
            return None
    value = _element(file, f"uns/{key}", path)
    return str(value) if isinstance(value, str) and value else None


def _embeddings(file: Any, path: Path, n: int) -> tuple[tuple[str, Matrix] | None, list[str]]:
    """The RNA embeddings of an export, or a note on what may be some."""
    with reading(path, "an AnnData file"):
        keys = [key for key in file.get("obsm", ()) if key not in DERIVED]
    encoder = _told(file, RNA, path)
    if encoder and RNA_VECTORS in keys:
        place = f"obsm/{RNA_VECTORS}"
        return (encoder, _matrix(_element(file, place, path), path, place, (n, None))), []
    if not keys:
        return None, []
    return None, [
        f"obsm holds {some(keys)}, not read: embeddings of an RNA model are taken beside the "
        f"expression with --encoder NAME --vector {keys[0]}"
    ]


SLIDES = Reader(
    "AnnData (.h5ad)",
    sniff,
    load_slides,
    (
        Input(
            "AnnData, scanpy",
            "`.h5ad`, one slide per obs, vectors in `X` or `obsm`",
            "slides.h5ad --vector X --encoder titan",
        ),
    ),
)
PROFILES = Reader(
    "AnnData (.h5ad)",
    sniff,
    load_profiles,
    (
        Input(
            "AnnData, scanpy",
            "`.h5ad`, one sample per obs, genes in var",
            "rna.h5ad",
            "profiles",
            "`--layer` reads a layer instead of `X`, `--gene-column` names a column of var.",
        ),
        Input(
            "BulkFormer, scGPT and others, in AnnData",
            "a key of `obsm`",
            "rna.h5ad --encoder bulkformer --vector X_bulkformer",
            "embeddings",
        ),
    ),
)
