"""Index recipes: small validated TOML files that say how a FAISS index is built and searched."""

from __future__ import annotations

import math
import os
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from molquery.errors import IndexFileError

_KEYS = {"name", "description", "when", "factory", "search"}
_SEARCH_KEYS = {"probe_fraction"}
_ROWS_PER_LIST = 39  # fewer training rows per centroid and FAISS's k-means warns of a poor fit


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an index is built: a FAISS factory string and its search parameters.

    `probe_fraction` is the share of inverted lists that a query scans; None for an exact index.
    """

    name: str
    factory: str
    description: str = ""
    when: str = ""
    probe_fraction: float | None = None

    def factory_for(self, rows: int) -> str:
        """The factory string for an archive of `rows` vectors."""
        return self.factory.format(nlist=self.n_lists(rows))

    def n_lists(self, rows: int) -> int:
        """Inverted lists for `rows` vectors: 4 sqrt(rows), bounded by what k-means can train."""
        return max(1, min(round(4 * math.sqrt(rows)), rows // _ROWS_PER_LIST))


def load_recipe(name_or_path: str) -> Recipe:
    """The shipped recipe of that name, or the recipe in a user's own TOML file.

    Raises:
        IndexFileError: there is no such recipe, or the file is not a valid one.
    """
    shipped = resources.files("molquery.indexes")
    names = sorted(
        p.name.removesuffix(".toml") for p in shipped.iterdir() if p.name[-5:] == ".toml"
    )
    if name_or_path in names:
        text = shipped.joinpath(f"{name_or_path}.toml").read_text("utf-8")
    elif os.path.isfile(name_or_path):
        text = Path(name_or_path).read_text("utf-8", errors="replace")
    else:
        raise IndexFileError(
            f"there is no index recipe {name_or_path}",
            hint=f"one of {', '.join(names)}, or the path of a TOML file like indexes/flat.toml",
        )
    try:
        return _parse(tomllib.loads(text), name_or_path)
    except tomllib.TOMLDecodeError as error:
        raise IndexFileError(f"{name_or_path} is not valid TOML", found=str(error)) from error


def _parse(content: dict[str, Any], origin: str) -> Recipe:
    search = content.get("search", {})
    if not isinstance(search, dict):
        raise IndexFileError(f"[search] of {origin} is not a table", found=str(search))
    unknown = sorted(set(content) - _KEYS) + [f"search.{k}" for k in set(search) - _SEARCH_KEYS]
    missing = sorted({"name", "factory"} - set(content))
    if unknown or missing:
        problem = f"unknown keys {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise IndexFileError(
            f"the recipe {origin} is not valid: {problem}",
            hint='name = "mine", factory = "IVF{nlist},Flat" and [search] probe_fraction = 0.1',
        )
    fraction = search.get("probe_fraction")
    number = isinstance(fraction, int | float)
    if fraction is not None and not (number and 0 < float(fraction) <= 1):
        raise IndexFileError(f"probe_fraction of {origin} must lie in (0, 1]", found=str(fraction))
    # The name becomes part of a file name.
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(content["name"])):
        raise IndexFileError(
            f"the name of the recipe {origin} is not a plain word",
            found=str(content["name"]),
            hint="letters, digits, - and _",
        )
    try:
        str(content["factory"]).format(nlist=1)
    except (KeyError, ValueError, IndexError) as error:
        raise IndexFileError(
            f"the factory string of {origin} is not valid",
            found=str(content["factory"]),
            hint='the only placeholder is {nlist}, as in "IVF{nlist},Flat"',
        ) from error
    return Recipe(
        name=str(content["name"]),
        factory=str(content["factory"]),
        description=str(content.get("description", "")),
        when=str(content.get("when", "")),
        probe_fraction=None if fraction is None else float(fraction),
    )
