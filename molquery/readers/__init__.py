"""Slides, expression profiles and metadata tables, read from the ecosystem's formats.

A format is recognised by its content, never by its extension. The formats are listed in
`registry.py`; each is one module. Ids, vectors and genes are given as the file has them: judging
them (duplicates, NaN, gene symbols) is the work of `molquery.ingest`.
"""

from molquery.readers.base import Options, Profiles, Reader, Slides
from molquery.readers.registry import (
    PROFILE_READERS,
    SLIDE_READERS,
    find_slides,
    profile_files,
    read_profiles,
    read_slides,
    read_source,
)
from molquery.readers.sources import Source
from molquery.readers.streams import Stream, stream
from molquery.readers.tables import TABLE_READERS, read_table

__all__ = [
    "PROFILE_READERS",
    "SLIDE_READERS",
    "TABLE_READERS",
    "Options",
    "Profiles",
    "Reader",
    "Slides",
    "Source",
    "Stream",
    "find_slides",
    "profile_files",
    "read_profiles",
    "read_slides",
    "read_source",
    "read_table",
    "stream",
]
