"""Arrow IPC files and streams, and Feather files of both versions, as Arrow tables."""

from __future__ import annotations

import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather

from molquery.readers.base import Input, Options, Reader
from molquery.readers.detect import checked
from molquery.readers.guard import reading

FILE = b"ARROW1"
FEATHER_1 = b"FEA1"
# A stream has no magic of its own: it begins with the continuation marker of its first message.
STREAM = b"\xff\xff\xff\xff"


def sniff(_: Path, head: bytes) -> bool:
    """True for the first bytes of an Arrow file, an Arrow stream or a Feather file."""
    return head.startswith((FILE, FEATHER_1, STREAM))


def load(path: Path, _: Options) -> pa.Table:
    """Every column of the file.

    Raises:
        FileFormatError: the file is truncated or damaged.
    """
    # Not memory-mapped: vectors may outlive the call, and the file may be replaced meanwhile. Read
    # whole, since Arrow would allocate whatever length a damaged file claims for a part.
    with reading(path, "Arrow"), pa.BufferReader(path.read_bytes()) as source:
        magic = source.read(6)
        source.seek(0)
        if magic.startswith(STREAM):
            return checked(pa.ipc.open_stream(source).read_all())
        if magic == FILE:
            return checked(pa.ipc.open_file(source).read_all())
        with warnings.catch_warnings():
            # Reading version 1 is deprecated in Arrow; old files stay readable as long as it can.
            warnings.simplefilter("ignore")
            return checked(feather.read_table(source))


READER = Reader(
    "Arrow/Feather",
    sniff,
    load,
    (
        Input(
            "Arrow, Feather",
            "`.arrow`, `.feather`: the same",
            "slides.feather --id slide_id --encoder titan",
        ),
    ),
)
