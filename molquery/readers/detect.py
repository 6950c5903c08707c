"""Which reader a file belongs to, from its first bytes; and, where none, what it looks like.

Reading is elsewhere: the modules named after the formats. What distinguishes the HDF5 layouts from
one another is in `hdf5.py`.
"""

from __future__ import annotations

import codecs
import difflib
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from molquery.errors import FileFormatError, InputError, printable
from molquery.readers import hdf5
from molquery.readers.base import Reader, T

#: Enough to see a few lines of text or any magic number; a header line may be longer.
HEAD = 1 << 16

GZIP = b"\x1f\x8b"
BOM = codecs.BOM_UTF8
ZARR, ZARR_2 = "zarr.json", ".zgroup"

# Magic bytes of files that people have at hand and that molquery does not read.
KNOWN_BYTES: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"BZh", "a bzip2 file: decompress it first"),
    (b"\xfd7zXZ", "an xz file: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file: decompress it first"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\x00", "a TIFF image"),
    (b"II+\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"SQLite format 3", "an SQLite database"),
    (b"RDX", "an R data file"),
    (b"X\n\x00", "an R data file (.rds)"),
    (codecs.BOM_UTF16_LE, "UTF-16 text (from Excel?): save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16 text (from Excel?): save it as UTF-8"),
)

# Text that has delimiters too, and must not be taken for a matrix of samples.
KNOWN_TEXT: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "an HTML page (a download page saved as a file?)"),
    (b"<html", "an HTML page (a download page saved as a file?)"),
    (b"<", "an XML or HTML document"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the file itself"),
    (b"#1.2", "a GCT file"),
    (b"#1.3", "a GCT file"),
    (b"# gene-model:", "a GDC STAR counts file (one sample)"),
    (b"gene_id\tgene_name\tgene_type\tunstranded", "a GDC STAR counts file (one sample)"),
    (b"name\tlength\teffectivelength\ttpm", "a salmon quant.sf file (one sample)"),
    (b"gene_id\ttranscript_id(s)\tlength", "an RSEM results file (one sample)"),
)


def choose(readers: Sequence[Reader[T]], path: Path, noun: str) -> Reader[T]:
    """The first reader that recognises the content of `path`.

    Raises:
        InputError: there is no such file, or it cannot be opened.
        FileFormatError: no reader recognises it, or it is damaged.
    """
    head = head_of(path)
    for reader in readers:
        if reader.sniff(path, head):
            return reader
    raise FileFormatError(
        f"{path} is not a file of {noun} that molquery reads",
        found=describe(path, head),
        hint="formats read: " + ", ".join(reader.name for reader in readers),
    )


def head_of(path: Path) -> bytes:
    """The first bytes of a file; none of a directory that is one archive (a zarr store)."""
    return b"" if (path / ZARR).exists() or (path / ZARR_2).exists() else read_head(path)


def read_head(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        InputError: there is no such file, or it cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except FileNotFoundError as error:
        raise missing(path) from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory", hint="name a file in it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened", found=error.strerror) from error


def missing(path: Path) -> InputError:
    """The error for a path that does not exist, naming the nearest one that does."""
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return InputError(f"no file at {path}", found=f"no folder {path.parent}")
    near = difflib.get_close_matches(path.name, names, n=1)
    return InputError(f"no file at {path}", hint=str(path.with_name(near[0])) if near else None)


def plain_head(head: bytes) -> bytes | None:
    """The first bytes after gzip, or as they are; None where the gzip stream is damaged."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error:
        return None


def foreign_text(head: bytes) -> str | None:
    """What a text is that looks like a table and is none that molquery reads; else None."""
    start = head.removeprefix(BOM)[:200].lstrip().lower()
    return next((what for magic, what in KNOWN_TEXT if start.startswith(magic)), None)


def is_text(head: bytes) -> bool:
    """True for UTF-8 text, even when cut inside a character."""
    if b"\x00" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def describe(path: Path, head: bytes) -> str:
    """What a file looks like, in a few words, for a message."""
    if path.is_dir():
        return "a zarr store without tables"
    if not head:
        return "an empty file"
    if head.startswith(hdf5.MAGIC):
        return hdf5.describe(path)
    inside = plain_head(head)
    if inside is None:
        return "a damaged gzip file"
    prefix = "gzip of " if head.startswith(GZIP) else ""
    return prefix + _describe_bytes(inside)


def _describe_bytes(head: bytes) -> str:
    if not head.strip():
        return "an empty file"
    for magic, what in KNOWN_BYTES:
        if head.startswith(magic):
            return what
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
    if head.startswith(b"PK\x03\x04"):
        kinds = ((b"data.pkl", "PyTorch"), (b"xl/", "Excel"), (b"[Content_Types]", "Excel"))
        kind = next((name for mark, name in kinds if mark in head), None)
        return f"a zip archive{f' ({kind})' if kind else ' (.npz?)'}"
    for magic, what in (
        (b"PAR1", "Parquet"),
        (b"ARROW1", "an Arrow file"),
        (b"FEA1", "a Feather file"),
        (b"\xff\xff\xff\xff", "an Arrow stream"),
    ):
        if head.startswith(magic):
            return what
    if what_text := foreign_text(head):
        return what_text
    if is_text(head):
        # Separators such as \x1f are space to str and not to bytes: there may be no line.
        line = next(iter(head.removeprefix(BOM).decode(errors="ignore").strip().splitlines()), "")
        return f"text that begins {printable(line, 60)!r}"
    if b"\x00" not in head:
        return "text that is not UTF-8 (Latin-1, from Excel?): save it as UTF-8"
    return f"bytes that begin {head[:8].hex(' ')}"


def checked(table: pa.Table) -> pa.Table:
    """The table, with its offsets and text verified: Arrow reads damaged ones without a word."""
    table.validate(full=True)
    for name in table.schema.names:
        name.encode()  # names are decoded on access, and fail here rather than later
    return table
