"""Index recipes: small validated TOML files that say how an index is built and searched.

A recipe holds no code. What can be wrong with one is said when it is read: keys that mean nothing,
values of the wrong kind, and, when it is built, a factory string that FAISS does not take.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from molquery.errors import IndexFileError

METRIC = "inner product"
ROWS_PER_LIST = 39  # fewer training rows per centroid and FAISS's k-means warns of a poor fit
_EXAMPLE = 'name = "mine", factory = "IVF{nlist},Flat" and [search] probes = 64'
_FACTORIES = '"Flat", "IVF{nlist},Flat", "IVF{nlist},RaBitQ", "IVF{nlist},PQ{m}", "HNSW32,SQfp16"'
_TABLES = {"search": ("probes", "breadth", "refine"), "memory": ("row", "value")}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an index is built and searched.

    Attributes:
        factory: FAISS factory string. {nlist} stands for the number of inverted lists, {m} for the
            sub-quantisers of a product quantiser. Flat: the stored vectors themselves, scanned.
        when: what it is for, in words; rows: from and to how many rows, as `auto` takes it.
        storage: 'float32' or 'float16', how the vectors beside the index are stored.
        device: 'cpu' or 'gpu', where it is built and searched.
        cuvs: whether it needs a FAISS with cuVS.
        probes: inverted lists that a query scans; breadth: `efSearch` of a graph.
        refine: candidates for each answer wanted, scored again from the stored vectors.
        memory: bytes of the index beside the stored vectors, a row and a value of a row.
    """

    name: str
    factory: str
    description: str = ""
    when: str = ""
    rows: tuple[int, int] = (0, 0)
    storage: str = "float32"
    device: str = "cpu"
    cuvs: bool = False
    probes: int | None = None
    breadth: int | None = None
    refine: int = 1
    memory: tuple[float, float] = (0.0, 0.0)

    @property
    def exact(self) -> bool:
        """Whether it scans the stored vectors, so that nothing but their storage is approximate."""
        return self.factory == "Flat"

    def factory_for(self, rows: int, dim: int) -> str:
        """The factory string for `rows` vectors of `dim` values."""
        return self.factory.format(nlist=self.n_lists(rows), m=_sub_quantisers(dim))

    def n_lists(self, rows: int) -> int:
        """Inverted lists for `rows` vectors: 4 sqrt(rows), bounded by what k-means can train."""
        return max(1, min(round(4 * math.sqrt(rows)), rows // ROWS_PER_LIST))

    def stored_bytes(self, rows: int, dim: int) -> int:
        """Bytes of the stored vectors, which are mapped and need not fit in memory."""
        return rows * dim * (2 if self.storage == "float16" else 4)

    def index_bytes(self, rows: int, dim: int) -> int:
        """Bytes of the index beside them, while it is built all in memory."""
        row, value = self.memory
        return round(rows * (row + value * dim))


def _sub_quantisers(dim: int) -> int:
    """The largest divisor of the dimension up to an eighth of it: 64 bytes a row at 512."""
    return next(m for m in range(max(1, dim // 8), 0, -1) if dim % m == 0)


def recipe_names() -> list[str]:
    """The recipes that are shipped."""
    shipped = resources.files("molquery.indexes").iterdir()
    return sorted(p.name.removesuffix(".toml") for p in shipped if p.name[-5:] == ".toml")


def load_recipe(name_or_path: str) -> Recipe:
    """The shipped recipe of that name, or the recipe in a user's own TOML file.

    Raises:
        IndexFileError: there is no such recipe, or the file is not a valid one.
    """
    names = recipe_names()
    if name_or_path in names:
        shipped = resources.files("molquery.indexes")
        text = shipped.joinpath(f"{name_or_path}.toml").read_text("utf-8")
    elif os.path.isfile(name_or_path):
        text = Path(name_or_path).read_text("utf-8", errors="replace")
    else:
        raise IndexFileError(
            f"there is no index recipe {name_or_path}",
            hint=f"auto, one of {', '.join(names)}, or the path of a TOML file like "
            "indexes/flat.toml",
        )
    try:
        return _parse(tomllib.loads(text), name_or_path)
    except tomllib.TOMLDecodeError as error:
        raise IndexFileError(f"{name_or_path} is not valid TOML", found=str(error)) from error


def _parse(content: dict[str, Any], origin: str) -> Recipe:
    for table in _TABLES:
        if not isinstance(content.get(table, {}), dict):
            raise IndexFileError(f"[{table}] of {origin} is not a table", found=str(content[table]))
    nested = {name for names in _TABLES.values() for name in names}
    top = {f.name for f in fields(Recipe)} - nested | {"metric", *_TABLES}
    unknown = sorted(set(content) - top)
    for table, names in _TABLES.items():
        unknown += [f"{table}.{key}" for key in sorted(set(content.get(table, {})) - set(names))]
    missing = sorted({"name", "factory"} - set(content))
    if unknown or missing:
        problem = f"unknown keys {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise IndexFileError(f"the recipe {origin} is not valid: {problem}", hint=_EXAMPLE)
    search, memory = content.get("search", {}), content.get("memory", {})

    def whole(table: dict[str, Any], key: str) -> int | None:
        value = table.get(key)
        if value is not None and not (type(value) is int and value >= 1):
            raise _wrong(key, origin, value, "a whole number from 1 on")
        return value

    def one_of(key: str, default: str, *known: str) -> str:
        value = content.get(key, default)
        if value not in known:
            raise _wrong(key, origin, value, " or ".join(f'"{k}"' for k in known))
        return str(value)

    bytes_ = [memory.get(key, 0.0) for key in _TABLES["memory"]]
    for key, value in zip(_TABLES["memory"], bytes_, strict=True):
        if type(value) not in (int, float) or value < 0:
            raise _wrong(f"memory.{key}", origin, value, "a number of bytes")
    rows = content.get("rows", [0, 0])
    if not (isinstance(rows, list) and len(rows) == 2 and all(type(r) is int for r in rows)):
        raise _wrong("rows", origin, rows, "from and to, such as [0, 100000]")
    if type(content.get("cuvs", False)) is not bool:
        raise _wrong("cuvs", origin, content["cuvs"], "true or false")
    for key in ("name", "factory", "description", "when"):
        if type(content.get(key, "")) is not str:
            raise _wrong(key, origin, content[key], "text in quotes")
    # The name becomes part of a file name.
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", content["name"]) or content["name"] == "auto":
        raise _wrong("name", origin, content["name"], "letters, digits, - and _")
    one_of("metric", METRIC, METRIC)
    try:
        content["factory"].format(nlist=1, m=1)
    except (KeyError, ValueError, IndexError) as error:
        raise IndexFileError(
            f"factory of {origin} is not valid",
            found=content["factory"],
            hint=f"the only placeholders are {{nlist}} and {{m}}: {_FACTORIES}",
        ) from error
    return Recipe(
        name=content["name"],
        factory=content["factory"],
        description=content.get("description", ""),
        when=content.get("when", ""),
        rows=(rows[0], rows[1]),
        storage=one_of("storage", "float32", "float32", "float16"),
        device=one_of("device", "cpu", "cpu", "gpu"),
        cuvs=content.get("cuvs", False),
        probes=whole(search, "probes"),
        breadth=whole(search, "breadth"),
        refine=whole(search, "refine") or 1,
        memory=(float(bytes_[0]), float(bytes_[1])),
    )


def _wrong(key: str, origin: str, value: object, wanted: str) -> IndexFileError:
    return IndexFileError(f"{key} of {origin} must be {wanted}", found=str(value))


def bad_factory(recipe: Recipe, factory: str, said: str) -> IndexFileError:
    """The error for a factory string that FAISS does not take."""
    return IndexFileError(
        f"FAISS does not take factory = {factory!r} of recipe {recipe.name}",
        found=said,
        hint=f"valid ones are {_FACTORIES}",
    )
