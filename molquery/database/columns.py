"""A column that is written to a table while it is being computed.

Lance takes the values of a new column in the order of storage, without those of deleted rows, in
batches of any size, and refuses too few or too many. It asks for them on threads of its own, where
no interrupt arrives, and an error comes back as one of Lance's. So it is Lance that runs on another
thread here, and the values are computed on the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue
from typing import Any

import pyarrow as pa

from molquery.database.arrays import matrix_to_list
from molquery.vectors import Matrix

#: Batches that wait to be written, and seconds after which to look whether writing goes on.
_AHEAD = 2
_LOOK = 0.1


def add_column(dataset: Any, field: pa.Field, vectors: Iterable[Matrix]) -> None:
    """Add a vector column to a Lance dataset: `vectors` (n, d) float32 in the order of storage.

    They are not to be read through `dataset` itself, which Lance holds until the column is there.
    After an error it is not.

    Raises:
        OSError: Lance cannot write, or the vectors are not as many as the rows.
    """
    coming: Queue[pa.RecordBatch | None] = Queue(_AHEAD)
    columns = pa.schema([field])
    reader = pa.RecordBatchReader.from_batches(columns, iter(coming.get, None))
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(dataset.add_columns, reader)

        def put(batch: pa.RecordBatch | None) -> None:
            while True:
                try:
                    return coming.put(batch, timeout=_LOOK)
                except Full:
                    if adding.done():
                        return None

        try:
            for part in vectors:
                put(pa.record_batch([matrix_to_list(part)], schema=columns))
                if adding.done():
                    break
        finally:
            put(None)  # before the last row this is an error to Lance; no thread waits for more
        adding.result()
