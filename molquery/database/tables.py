"""The Lance tables, and the checksums of their files.

Lance does not check what it reads: a byte that has changed on disk comes back as another number.
So the manifest holds the sha256 of every file of a table (Lance never writes over one), and a file
is checked before anything is read from it, once by each process.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from molquery.database import manifest
from molquery.database.arrays import FACTS
from molquery.errors import DatabaseError, MolqueryError, printable
from molquery.files import sha256_file, sha256_files, sync
from molquery.schema import TableSpec
from molquery.vectors import Ints

if TYPE_CHECKING:
    from molquery.database.remote import Remote

#: What Lance raises; its messages end with places in its own source.
ERRORS = (OSError, ValueError, RuntimeError)

Entry = dict[str, Any]


class Checks:
    """Files whose sha256 has been checked by this process, and not changed since by their times."""

    def __init__(self, remote: Remote | None = None) -> None:
        self._seen: dict[Path, tuple[int, int, int, str]] = {}
        self._remote = remote

    def check(self, folder: Path, wanted: Mapping[str, str]) -> None:
        """Check files under a folder against their sha256; those of a remote database are fetched.

        Raises:
            DatabaseError: a file is missing, or is not what was written.
        """
        self._fetch(folder, wanted, anew=False)
        todo: dict[Path, tuple[int, int, int, str]] = {}
        for name, digest in wanted.items():
            path = folder / name
            try:
                told = path.stat()
            except OSError as error:
                raise damaged(path, "it is missing") from error
            state = (told.st_mtime_ns, told.st_size, told.st_ino, digest)
            if self._seen.get(path) != state:
                todo[path] = state
        try:
            found = sha256_files(todo)
        except OSError as error:
            raise damaged(folder, error.strerror or str(error)) from error
        bad = {}
        for (path, state), digest in zip(todo.items(), found, strict=True):
            if digest == state[3]:
                self._seen[path] = state
            elif self._remote:
                bad[str(path.relative_to(folder))] = state[3]
            else:
                raise damaged(path, "its sha256 is not the one it was written with")
        if bad:  # in the copy; it has been checked when it is there again
            self._fetch(folder, bad, anew=True)

    def _fetch(self, folder: Path, wanted: Mapping[str, str], *, anew: bool) -> None:
        if self._remote is None:
            return
        inside = folder.relative_to(self._remote.root)
        files = {(inside / name).as_posix(): digest for name, digest in wanted.items()}
        for name, problem in self._remote.fetch(files, anew=anew).items():
            raise damaged(f"{self._remote.uri}/{name}", problem)


def damaged(path: Path | str, found: str) -> DatabaseError:
    """The error for a file of a table that cannot be believed."""
    return DatabaseError(
        f"{path} is damaged: nothing is read from it",
        found=found,
        hint="molquery doctor says what else is, and what to do",
    )


def folder_of(root: Path, spec: TableSpec) -> Path:
    """The directory of a table."""
    return root / f"{spec.name}.lance"


def manifest_file(version: int) -> str:
    """The name of Lance's own manifest of a table version: the newest sorts first."""
    return f"_versions/{2**64 - 1 - version:020d}.manifest"


def newest(root: Path, spec: TableSpec) -> int:
    """The newest version that Lance has of a table, whether the manifest names it or not; 0: none.

    It is read from the names of its files.
    """
    try:
        return newest_of(os.listdir(folder_of(root, spec) / "_versions"))
    except OSError:
        return 0


def newest_of(names: Iterable[str]) -> int:
    """As `newest`, from names of files, with or without their folders."""
    names = [n.rpartition("/")[2] for n in names]
    numbers = [int(n[:-9]) for n in names if n.endswith(".manifest") and n[:-9].isdigit()]
    return max((n if n < 2**63 else 2**64 - 1 - n for n in numbers), default=0)


def open_table(root: Path, spec: TableSpec, entry: Entry, checks: Checks) -> Any:
    """The Lance dataset of the version that a manifest entry names; its data are not checked yet.

    Raises:
        DatabaseError: the version's own file is damaged or missing.
    """
    import lance

    version = int(entry["version"])
    name = manifest_file(version)
    checks.check(folder_of(root, spec), {name: entry["files"][name]})
    try:
        return lance.dataset(str(folder_of(root, spec)), version=version)
    except ERRORS as error:
        interrupted(error)
        raise unreadable(root, spec, error) from error


def check_columns(
    root: Path, spec: TableSpec, dataset: Any, entry: Entry, checks: Checks,
    columns: Iterable[str],
) -> None:  # fmt: skip
    """Check the files that hold these columns, and those that list deleted rows.

    Raises:
        DatabaseError: one is damaged or missing.
    """
    names = files_of(dataset, columns)
    lost = sorted(name for name in names if name not in entry["files"])
    if lost:
        raise damaged(folder_of(root, spec) / lost[0], "it is not among the files of this version")
    checks.check(folder_of(root, spec), {name: entry["files"][name] for name in names})


def files_of(dataset: Any, columns: Iterable[str] | None) -> set[str]:
    """The files that hold these columns (None: every file), and those that list deleted rows."""
    wanted = None if columns is None else set(columns)
    fields = {f.id() for f in dataset.lance_schema.fields() if wanted is None or f.name() in wanted}
    return {
        name
        for fragment in dataset.get_fragments()
        for name, held in _fragment_files(fragment)
        if wanted is None or held is None or fields & held
    }


def _fragment_files(fragment: Any) -> list[tuple[str, set[int] | None]]:
    """The files of a fragment, with the ids of the fields in each (None: not a data file)."""
    found: list[tuple[str, set[int] | None]] = [
        (f"data/{file.path}", set(file.fields)) for file in fragment.data_files()
    ]
    deletions = fragment.deletion_file()
    return [*found, (deletions, None)] if deletions else found


def scan(dataset: Any, columns: Sequence[str], size: int) -> Iterator[tuple[Ints, pa.Table]]:
    """Every row in the order of storage, `size` at a time: positions and columns."""
    start, held = 0, []
    # One fragment ahead is as fast as several, and is less to hold. A limit on the bytes that are
    # read ahead is not set: Lance can wait for ever where a batch has more.
    scanner = dataset.scanner(columns=list(columns), batch_size=size, fragment_readahead=1)
    for batch in scanner.to_batches():
        held.append(batch)
        while sum(len(part) for part in held) >= size:
            table = pa.Table.from_batches(held)
            rest = table.slice(size)
            yield np.arange(start, start + size), table.slice(0, size)
            start, held = start + size, rest.to_batches()
    if held:
        table = pa.Table.from_batches(held)
        yield np.arange(start, start + len(table)), table


def take(dataset: Any, columns: Sequence[str], places: Ints) -> pa.Table:
    """Rows by their place in the order of storage, in the order of `places`."""
    order = np.argsort(places, kind="stable")
    found = dataset.take(places[order].tolist(), columns=list(columns))
    if (places[1:] >= places[:-1]).all():
        return found
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return found.take(pa.array(back))


def entry_of(root: Path, spec: TableSpec, known: Mapping[str, str]) -> Entry:
    """The manifest entry of a table's newest version; `known` are checksums of older files.

    New files are on disk, not only in the system's memory, before they are named.
    """
    import lance

    folder = folder_of(root, spec)
    dataset = lance.dataset(str(folder))
    names = {manifest_file(dataset.version), *files_of(dataset, None)}
    new = [name for name in names if name not in known]
    for name in new:
        sync(folder / name)
    for place in {(folder / name).parent for name in new}:
        sync(place)
    digests = dict(zip(new, sha256_files(folder / name for name in new), strict=True))
    files = {name: known.get(name) or digests[name] for name in sorted(names)}
    return {"version": int(dataset.version), "rows": int(dataset.count_rows()), "files": files}


def create(root: Path, spec: TableSpec, rows: pa.Table, facts: Mapping[str, Any]) -> None:
    """Make a table from its first rows, in key order."""
    import lance

    rows = rows.take(pa.array(np.argsort(rows[spec.key].to_numpy(), kind="stable")))
    told = rows.schema.with_metadata({FACTS: json.dumps(dict(facts)).encode()})
    # Not by LanceDB, which refuses NaN in vectors ("missing" in features) and takes a second to
    # import; the table is the one that it would make.
    mode = "overwrite" if newest(root, spec) else "create"
    lance.write_dataset(rows.cast(told), str(folder_of(root, spec)), schema=told, mode=mode)


def roll_back(root: Path, spec: TableSpec, dataset: Any, version: int = 0) -> None:
    """Make the version that a dataset was opened at the newest again, as a new version.

    Lance reads the newest one to do so. Where that is damaged, as it may be whenever one goes back,
    its file is set aside, and the ones before it, until `version` is the newest.
    """
    while True:
        try:
            dataset.restore()
            return
        except BaseException as error:
            if not (isinstance(error, ERRORS) or is_panic(error)):
                raise
            last = newest(root, spec)
            file = folder_of(root, spec) / manifest_file(last)
            # A full disk is no reason to set aside what a version consists of.
            if last <= version or not version or _is_whole(root, file):
                raise failed(root, error) from error
            file.rename(file.with_suffix(".damaged"))
            if newest(root, spec) == version:
                return


def _is_whole(root: Path, file: Path) -> bool:
    """Whether a file is as some version of the database names it."""
    name = str(file.relative_to(root))
    try:
        return sha256_file(file) in manifest.digests(root, name)
    except OSError:
        return False


def advance(root: Path, spec: TableSpec, entry: Entry, used: int) -> Entry:
    """The manifest entry of the same rows under a number of Lance's that is greater than `used`."""
    import lance

    while (number := newest(root, spec)) <= used:
        dataset: Any = lance.dataset(str(folder_of(root, spec)), version=number)
        dataset.restore()
    return entry_of(root, spec, entry["files"])


def is_panic(error: BaseException) -> bool:
    """True where Lance's Rust code gave up; that is no `Exception`, so that few would catch it."""
    return type(error).__name__ == "PanicException"


def is_refused(error: BaseException) -> bool:
    """True where the system or Lance could not read or write, such as on a full disk."""
    if isinstance(error, (MolqueryError, BrokenPipeError)):
        return False
    return isinstance(error, OSError) or is_panic(error) or "LanceError" in str(error)


def interrupted(error: BaseException) -> None:
    """Go on with a Ctrl-C that came while Lance called back, which Lance tells as its own error."""
    if "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error


def failed(root: Path, error: BaseException) -> DatabaseError:
    """The error for a change that Lance could not make."""
    interrupted(error)
    return DatabaseError(
        f"the tables of {root} cannot be written: nothing has changed",
        found=printable(re.sub(r"^LanceError\(\w+\): |, /home.*", "", str(error)), 300),
        hint="molquery doctor says what else is wrong, such as a full disk",
    )


def compact(dataset: Any) -> None:
    """Write fragments that hold deleted rows, or few rows, anew without them."""
    dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)


def unreadable(root: Path, spec: TableSpec, error: Exception) -> DatabaseError:
    """The error for a table that Lance cannot read."""
    return DatabaseError(
        f"the {spec.name} table of {root} cannot be read",
        found=printable(str(error).split("/home")[0], 300),
        hint="molquery doctor",
    )


def belongs(name: str, versions: Iterable[int]) -> bool:
    """True for what Lance keeps beside the files of these versions: hints, and how they were made.

    A transaction file is named by the version before the one that it made.
    """
    folder, _, file = name.partition("/")
    number = file.split("-")[0]
    made = folder == "_transactions" and number.isdigit() and int(number) + 1 in versions
    return made or file == "latest_version_hint.json"
