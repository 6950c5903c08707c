"""What an interrupted ingest of slides, or alignment, had done already, kept until it is committed.

Pooling thousands of slides takes long; the pooled vectors take little room. Each file's slide is
kept in an SQLite file of the user's cache directory (`cache_directory`) under the file's path, size
and time of change, and all of it is removed once the rows are in the table. An alignment keeps
every model that it has fitted beside it, under a hash of all that the model was fitted on.
The database itself is not touched before the end. It is a convenience: whatever goes wrong with it
(another process, a full disk, damage) means only that the work is done again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery import __version__
from molquery.errors import OutputError
from molquery.files import cache_directory, write_bytes
from molquery.readers import Options, Slides
from molquery.space import Model, pack_model, unpack_model
from molquery.vectors import Matrix

#: Seconds of reading that a kill may lose.
_EVERY = 2.0


class Resume:
    """Slides by the file that they were read from."""

    def __init__(self, store: sqlite3.Connection | None, options: Options) -> None:
        self._store = store
        self._options = f"{__version__} {options.id!r} {options.vector!r}"
        self._saved = time.monotonic()

    def get(self, path: Path) -> Slides | None:
        """The slide that was read from a file, if the file has not changed since."""
        if self._store is None or (key := self._key(path)) is None:
            return None
        try:
            row = self._store.execute(
                "SELECT told, vector FROM slides WHERE key = ?", key
            ).fetchone()
            return None if row is None else _unpacked(path, *row)
        except (sqlite3.Error, pa.ArrowException, ValueError, KeyError, TypeError):
            return None

    def has(self, path: Path) -> bool:
        """True where `get` has something to give, whole or not."""
        if self._store is None or (key := self._key(path)) is None:
            return False
        with suppress(sqlite3.Error):
            found = self._store.execute("SELECT 1 FROM slides WHERE key = ?", key).fetchone()
            return found is not None
        return False

    def put(self, path: Path, part: Slides) -> None:
        """Keep what was read from a file of one slide; tables of many are quick to read again."""
        if self._store is None or len(part.ids) != 1 or (key := self._key(path)) is None:
            return
        with suppress(sqlite3.Error, TypeError):
            row = (*key, *_packed(part))
            self._store.execute("INSERT OR REPLACE INTO slides VALUES (?, ?, ?)", row)
            if time.monotonic() - self._saved > _EVERY:
                self._store.commit()
                self._saved = time.monotonic()

    def _key(self, path: Path) -> tuple[str] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        if not path.is_file():  # the time of a directory says nothing of the files in it
            return None
        return (f"{path.absolute()}\n{status.st_size} {status.st_mtime_ns} {self._options}",)


@contextmanager
def resuming(database: Path, options: Options) -> Iterator[Resume]:
    """What is left of an interrupted ingest; removed at the end, unless that is an error."""
    place = cache_file(database)
    store = None
    with suppress(sqlite3.Error, OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        store = _open(place)
    try:
        yield Resume(store, options)
    except BaseException:
        if store is not None:
            with suppress(sqlite3.Error):
                store.commit()
                store.close()
        raise
    if store is not None:
        with suppress(sqlite3.Error):
            store.close()
        with suppress(OSError):
            place.unlink(missing_ok=True)


def cache_file(database: Path) -> Path:
    """Where the slides of an interrupted ingest into a database are kept."""
    return _place(database, "ingest", ".sqlite")


def models_directory(database: Path) -> Path:
    """Where the models of an interrupted alignment of a database are kept."""
    return _place(database, "align", "")


def _place(database: Path, what: str, suffix: str) -> Path:
    name = hashlib.sha256(str(database.absolute()).encode()).hexdigest()[:16]
    return cache_directory() / f"{what}-{name}{suffix}"


class FittedModels:
    """Models by what they were fitted on; `taken` counts those that did not need to be fitted."""

    def __init__(self, directory: Path, state: str) -> None:
        self._directory = directory
        self._state = f"{__version__} {state}"
        self.taken = 0

    def get(self, *key: object) -> Model | None:
        """The model that was fitted under a key, if it is there and whole."""
        try:
            blob = self._file(key).read_bytes()
            if hashlib.sha256(blob[32:]).digest() != blob[:32]:
                return None
            size = int.from_bytes(blob[32:40], "little")
            layout = json.loads(blob[40 : 40 + size])
        except (OSError, ValueError):
            return None
        from safetensors.numpy import load

        self.taken += 1
        return unpack_model(layout, "", load(blob[40 + size :]))

    def put(self, model: Model, *key: object) -> None:
        """Keep a fitted model."""
        from safetensors.numpy import save

        arrays: dict[str, Any] = {}
        layout = json.dumps(pack_model(model, "", arrays)).encode()
        content = len(layout).to_bytes(8, "little") + layout + save(arrays)
        with suppress(OSError, OutputError):
            self._directory.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file(key), hashlib.sha256(content).digest() + content)

    def _file(self, key: tuple[object, ...]) -> Path:
        name = hashlib.sha256(f"{self._state} {key!r}".encode()).hexdigest()[:32]
        return self._directory / name


@contextmanager
def fitting(database: Path, state: str) -> Iterator[FittedModels]:
    """What is left of an interrupted alignment; removed at the end, unless that is an error.

    `state` must differ whenever the same key would give another model.
    """
    directory = models_directory(database)
    yield FittedModels(directory, state)
    shutil.rmtree(directory, ignore_errors=True)


def _open(place: Path) -> sqlite3.Connection:
    statement = "CREATE TABLE IF NOT EXISTS slides (key TEXT PRIMARY KEY, told TEXT, vector BLOB)"
    store = sqlite3.connect(place, timeout=0.1)
    try:
        store.execute("PRAGMA synchronous = OFF")
        store.execute(statement)
    except sqlite3.DatabaseError as error:
        store.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, or the disk is full
            raise
        place.unlink(missing_ok=True)
        store = sqlite3.connect(place, timeout=0.1)
        store.execute(statement)
    return store


def _packed(part: Slides) -> tuple[str, bytes]:
    told = {
        "ids": part.ids,
        "encoder": part.encoder,
        "metadata": part.metadata.to_pydict(),
        "skipped": dict(part.skipped),
    }
    return json.dumps(told), part.vectors.astype("<f4").tobytes()


def _unpacked(path: Path, told: str, vector: bytes) -> Slides:
    facts = json.loads(told)
    ids = tuple(facts["ids"])
    flat: Matrix = np.frombuffer(vector, "<f4").astype(np.float32)
    metadata = pa.table(facts["metadata"]) if facts["metadata"] else None
    if metadata is None:
        metadata = pa.table({"id": pa.nulls(len(ids))}).select([])
    skipped = {reason: tuple(names) for reason, names in facts["skipped"].items()}
    vectors = flat.reshape(1, -1) if ids else np.empty((0, 0), dtype=np.float32)
    return Slides(ids, vectors, facts["encoder"], metadata, skipped, str(path))
