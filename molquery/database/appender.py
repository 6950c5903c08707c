"""Rows that are written to a table while more are being read, and take effect all together.

Each file of the table is encoded by Lance, brought to the disk and summed on a thread of its own,
so that the disk is busy from the first batch on. Nothing of it is in the table before `commit`.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.database.arrays import cast_like
from molquery.files import sha256_file, sync

#: Bytes of rows in one file, and files on their way at a time.
FILE_BYTES = 64 << 20
_AHEAD = 3


class Appender:
    """Collects rows of one schema and writes them as new fragments of a Lance dataset."""

    def __init__(self, dataset: Any, folder: Path) -> None:
        self._dataset, self._folder = dataset, folder
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._pool = ThreadPoolExecutor(_AHEAD)
        self._waiting: deque[Future[tuple[list[Any], dict[str, str]]]] = deque()
        self._fragments: list[Any] = []
        #: name -> sha256 of the files that are on disk.
        self.digests: dict[str, str] = {}
        self.rows = 0

    def put(self, rows: pa.Table) -> None:
        """Take rows with the columns of the table; waits while too many are on their way."""
        schema = self._dataset.schema
        rows = cast_like(rows, schema)
        columns = [
            rows[f.name] if f.name in rows.schema.names else pa.nulls(len(rows), f.type)
            for f in schema
        ]
        self._held.append(pa.table(columns, schema=schema))
        self.rows += len(rows)
        self._bytes += rows.nbytes
        if self._bytes >= FILE_BYTES:
            self._send()

    def _send(self) -> None:
        if len(self._waiting) >= _AHEAD:
            self._take()
        table = pa.concat_tables(self._held)
        self._held, self._bytes = [], 0
        self._waiting.append(self._pool.submit(self._write, table))

    def _write(self, table: pa.Table) -> tuple[list[Any], dict[str, str]]:
        from lance.fragment import write_fragments

        fragments = write_fragments(table, self._dataset, mode="append")
        digests = {}
        for fragment in fragments:
            for file in fragment.files:
                name = f"data/{file.path}"
                sync(self._folder / name)
                digests[name] = sha256_file(self._folder / name)
        return fragments, digests

    def _take(self) -> None:
        fragments, digests = self._waiting.popleft().result()
        self._fragments += fragments
        self.digests |= digests

    def commit(self) -> None:
        """Make what was put part of the table, in one step."""
        import lance

        if self._held:
            self._send()
        while self._waiting:
            self._take()
        if self._fragments:
            sync(self._folder / "data")
            operation = lance.LanceOperation.Append(self._fragments)
            version = lance.dataset(str(self._folder)).version
            lance.LanceDataset.commit(str(self._folder), operation, read_version=version)

    def close(self) -> None:
        """Wait for what is being written; without `commit` it is no part of the table."""
        for waiting in self._waiting:
            waiting.cancel()
        self._pool.shutdown(wait=True)
