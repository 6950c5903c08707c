"""The database: two Lance tables (the truth) and a manifest that says which state of them is it.

    store.py     `Database`: create, open, read, write, versions
    manifest.py  the manifest and the versions that are kept
    lock.py      one writer at a time
    leftovers.py what killed commands left behind
    appender.py  many rows, written while they are read                              [lance]
    drafts.py    arrays in a file, written in pieces and mapped
    tables.py    the Lance tables and the checksums of their files                   [lance]
    remote.py    a database on an object store: what is read is fetched, what is new is put
    objects.py   get, put and list the objects of a store                           [obstore]
    arrays.py    vector columns as arrays
    content.py   what makes two rows the same

Not here: reading user files (`molquery.readers`), scoring (`molquery.query`), what a user does with
versions (`molquery.history`). Only this package imports lance. The tables are
LanceDB tables: `lancedb` opens them for users, and is not needed to make them.
"""

from molquery.database.arrays import cast_like, facts_of, list_to_matrix, matrix_to_list
from molquery.database.content import content_hash
from molquery.database.store import Database, UpsertCounts

__all__ = [
    "Database",
    "UpsertCounts",
    "cast_like",
    "content_hash",
    "facts_of",
    "list_to_matrix",
    "matrix_to_list",
]
