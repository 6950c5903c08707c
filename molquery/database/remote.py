"""A database on an object store, through a directory of this machine that is filled as it is read.

The objects are what the files of a database in a directory are (`docs/format.md`), under the same
names. Whatever is read is fetched into a local copy first and compared with the sha256 that the
manifest holds, so that a remote database is read by the same code, as carefully, as a local one,
and nothing is fetched twice. Of the copy nothing is believed that has not its sha256; the manifest
is asked for each time.

A change is made in the copy, then its new files are put into the store, and at last the manifest,
on the condition that it is still the one that the change began with (If-Match). There is no lock in
the store: of two writers who began with the same version one takes effect, and the other is told.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from molquery import schema
from molquery.database import leftovers, manifest, tables
from molquery.database.manifest import Manifest
from molquery.database.objects import ConditionError, Objects, Tag
from molquery.errors import ConflictError, DatabaseError, OutputError, some
from molquery.files import (
    cache_directory,
    is_temporary,
    put_in_place,
    sha256_file,
    temporary_file,
    write_bytes,
)
from molquery.progress import Progress

#: Written with the manifest: no two of its states are the same, so that a tag is of one alone.
COMMIT = "commit"
_PROBE = ".conditions"
_AT_ONCE = 8  # transfers
_DAY = 86_400.0


class Remote:
    """The objects of a database, and their copy in a directory.

    Attributes:
        uri: what users call it.
        root: the directory of the copy, in the user's cache directory, under a hash of the store
            and the URI.
        state: the manifest, as it was when it was last asked for.
        progress: is told of what is fetched, if set.
    """

    def __init__(self, uri: str) -> None:
        self.objects = Objects(uri)
        self.uri = self.objects.uri
        whole = f"{self.objects.endpoint} {self.uri}"
        key = hashlib.sha256(whole.encode()).hexdigest()[:16]
        self.root = cache_directory() / "remote" / key / self.uri.rpartition("/")[2]
        self.state: Manifest = {}
        self.progress: Progress | None = None
        self._tag: Tag = {}
        self._conditions = False

    # Reading -----------------------------------------------------------------------------------

    def pull(self) -> Manifest:
        """The manifest as it is in the store now.

        Raises:
            DatabaseError: there is none, it is damaged, or the store cannot be read.
        """
        try:
            content, tag = self.objects.get(schema.MANIFEST)
        except FileNotFoundError as error:
            if held := self.objects.names():
                raise DatabaseError(
                    f"{self.uri} is not a molquery database (it has no {schema.MANIFEST})",
                    found=some(held),
                ) from error
            hint = f"molquery --db DIRECTORY snapshot {self.uri}, to put one there"
            raise DatabaseError(f"there is no database at {self.uri}", hint=hint) from error
        if not tag or tag != self._tag:
            hint = "put the object back from a backup, or publish a whole copy under another path"
            self.state = manifest.parse(content, self.uri, hint)
            self._tag = tag
            self._keep(content)
        return self.state

    def _keep(self, content: bytes) -> None:
        """Put the manifest into the copy, and remove from it what is of earlier versions."""
        place = self.root / schema.MANIFEST
        with suppress(OSError):
            if place.read_bytes() == content:
                return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.root}", found=error.strerror,
                hint="export MOLQUERY_CACHE=DIRECTORY: what is read is kept there",
            ) from error  # fmt: skip
        write_bytes(place, content)
        needed = {*_files(self.state), schema.MANIFEST, schema.LOCK, schema.WRITER}
        for path in self.root.rglob("*"):
            with suppress(OSError):
                old = time.time() - path.stat().st_mtime > _DAY  # others may read it still
                if old and path.is_file() and str(path.relative_to(self.root)) not in needed:
                    path.unlink()

    def fetch(self, files: Mapping[str, str], *, anew: bool = False) -> dict[str, str]:
        """Fetch files that the copy lacks, or all of them; those that are not whole, and why.

        Args:
            files: names and sha256.
            anew: also those that are there.
        """
        todo = [name for name in files if anew or not (self.root / name).is_file()]
        lost: dict[str, str] = {}
        if not todo:
            return lost
        self.objects.stopped = False
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                found = pool.map(lambda name: self._fetch_one(name, files[name]), todo)
                for done, (name, problem) in enumerate(zip(todo, found, strict=True)):
                    if self.progress:
                        self.progress("fetching", done + 1, len(todo))
                    if problem:
                        lost[name] = problem
            except BaseException:
                self.objects.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return lost

    def _fetch_one(self, name: str, digest: str) -> str:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(target) as temporary:
            try:
                if self.objects.download(name, temporary) != digest:
                    return "its sha256 is not the one it was written with"
            except FileNotFoundError:
                return "it is missing"
            put_in_place(temporary, target)
        return ""

    def pull_records(self) -> None:
        """Fetch the versions that are kept, and forget those that are not any more."""
        held = set(self.objects.names(schema.VERSIONS))
        now = self._record_name(self.state)
        for name in sorted(held):
            if name != now and not (self.root / name).is_file():
                with suppress(FileNotFoundError):
                    content, _ = self.objects.get(name)
                    (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                    write_bytes(self.root / name, content)
        for path in (self.root / schema.VERSIONS).glob("*.json"):
            if f"{schema.VERSIONS}/{path.name}" not in held:
                path.unlink(missing_ok=True)
        manifest.write_record(self.root, self.state)

    # Writing -----------------------------------------------------------------------------------

    def create(self, first: Mapping[str, Any]) -> None:
        """Put the first manifest, of a database whose files are there.

        Raises:
            DatabaseError: another one has come meanwhile.
        """
        self._need_conditions()
        whole = {**first, COMMIT: uuid.uuid4().hex}
        self.objects.put(self._record_name(whole), manifest.sealed(manifest.record(whole)))
        try:
            self._tag = self.objects.put_if(schema.MANIFEST, manifest.sealed(whole), None)
        except ConditionError as error:
            raise DatabaseError(f"{self.uri} is a molquery database already") from error

    def need_empty(self, but: Iterable[str] = ()) -> None:
        """Check that nothing is there but what an interrupted snapshot has left.

        Raises:
            OutputError: something is.
        """
        held = set(self.objects.names())
        if schema.MANIFEST in held:
            what = f"{self.uri} is a molquery database already"
            raise OutputError(what, hint="give a path for a new one")
        if strange := held - {_PROBE, *but}:
            raise OutputError(
                f"{self.uri} exists and is not empty", found=some(sorted(strange)),
                hint="give a path for a new one",
            )  # fmt: skip

    def push(self, before: Manifest, draft: Manifest) -> None:
        """Make a change take effect that the copy holds already.

        Numbers that Lance gives its versions may change in `draft`, which gets a new `commit`.

        Raises:
            ConflictError: another process has changed the database meanwhile. Nothing has changed.
            DatabaseError: the store cannot be written. Nothing has changed.
        """
        self._need_conditions()
        for spec in schema.TABLES.values():
            self._beyond_others(spec, before, draft)
        held, wanted = _files(before), _files(draft)
        new = [name for name in wanted if wanted[name] != held.get(name)]
        # What was built again may have the bytes of an object that is damaged.
        built = {
            section: {k: e for k, e in draft[section].items() if before[section].get(k) != e}
            for section in manifest.DERIVED
        }
        new += manifest.derived_files(built).keys() - set(new)
        sent: list[str] = []
        try:
            for done, name in enumerate(new):
                if self.progress:
                    self.progress("sending", done, len(new))
                self._send(name)
                sent.append(name)
            with suppress(ConditionError):  # the writer of that version has put it, as it should
                record = manifest.sealed(manifest.record(before))
                self.objects.put_if(self._record_name(before), record, None)
        except DatabaseError:
            self._take_back(sent)
            raise
        draft[COMMIT] = uuid.uuid4().hex
        if now := self._replace(draft):
            self._take_back(sent)
            raise self._overtaken(now)
        self.state = draft
        with suppress(DatabaseError):  # else the next writer puts it, or finds it unneeded
            if draft["version"] != before["version"]:
                self.put_record(draft)
            dropped = manifest.derived_files(before).keys() - manifest.derived_files(draft).keys()
            self.objects.remove(dropped)

    def put_record(self, version: Manifest) -> None:
        """Keep a version that has taken effect."""
        self.objects.put(self._record_name(version), manifest.sealed(manifest.record(version)))

    def mend(self) -> int:
        """Put again what is derived, damaged in the store and whole in the copy; returns how much.

        What is built again could be found to be there already, because the copy is whole.
        """
        done = 0
        for name, digest in manifest.derived_files(self.state).items():
            with suppress(OSError):
                if sha256_file(self.root / name) != digest:
                    continue
                with suppress(FileNotFoundError):
                    if self.digest(name) == digest:
                        continue
                self.objects.put(name, self.root / name)
                done += 1
        return done

    def sweep(self) -> list[str]:
        """Remove what no version that the copy keeps consists of; returns names.

        The manifest is written first, as it is: whoever has put files for a change that began
        before is refused, so that what was there by then and is not needed will never be.

        Raises:
            DatabaseError: as `push`.
        """
        doomed = self.unneeded()
        current = {**self.state, COMMIT: uuid.uuid4().hex}
        if now := self._replace(current):
            raise self._overtaken(now)
        self.state = current
        self.objects.remove(doomed)
        return doomed

    def _send(self, name: str) -> None:
        if "/_versions/" not in name:
            self.objects.put(name, self.root / name)
            return
        try:  # the one kind of file that two writers may give the same name
            self.objects.put_if(name, (self.root / name).read_bytes(), None)
        except ConditionError as error:
            raise self._overtaken() from error

    def _take_back(self, sent: Iterable[str]) -> None:
        """Remove what was put for a change that cannot take effect any more.

        Only files of Lance: others are named by their content, and may be needed by somebody else.
        """
        with suppress(DatabaseError):
            self.objects.remove(n for n in sent if n.partition("/")[0].endswith(".lance"))

    def _replace(self, draft: Manifest) -> Manifest | None:
        """Put the manifest in place of the one that the change began with; None if that was done.

        Otherwise the manifest that somebody else has put: then this one can never take effect.

        Raises:
            DatabaseError: the store fails, and does not say whether it has taken effect.
        """
        try:
            self._tag = self.objects.put_if(schema.MANIFEST, manifest.sealed(draft), self._tag)
            return None
        except ConditionError:
            pass
        except DatabaseError as error:
            raise DatabaseError(
                error.what, found=error.found,
                hint="molquery history says whether the change has taken effect",
            ) from error  # fmt: skip
        # The answer to a request that has taken effect may have been lost, and it was sent again.
        content, tag = self.objects.get(schema.MANIFEST)
        now = manifest.parse(content, self.uri, "")
        if now.get(COMMIT) != draft[COMMIT]:
            return now
        self._tag = tag
        return None

    def _overtaken(self, now: Manifest | None = None) -> ConflictError:
        by = f"version {now['version']}, by {now['command']}, at {now['time']}" if now else None
        return ConflictError(
            f"another process writes to {self.uri}: nothing of this command has taken effect",
            found=by,
            hint="run the same command again",
        )

    def _beyond_others(self, spec: schema.TableSpec, before: Manifest, draft: Manifest) -> None:
        """Give a changed table a number in Lance that no killed or other writer has used."""
        entry = draft["tables"].get(spec.name)
        if entry is None or entry == before["tables"].get(spec.name):
            return
        used = tables.newest_of(self.objects.names(f"{spec.name}.lance/_versions"))
        if entry["version"] <= used:
            draft["tables"][spec.name] = entry | tables.advance(self.root, spec, entry, used)

    def _need_conditions(self) -> None:
        """Check that the store heeds conditions: without them writers would overwrite each other.

        Raises:
            DatabaseError: it does not.
        """
        if self._conditions:
            return
        self.objects.put(_PROBE, b"molquery asks whether this store heeds If-None-Match, If-Match")
        for tag in (None, {"e_tag": '"0123456789abcdef0123456789abcdef"', "version": "1"}):
            with suppress(ConditionError):
                self.objects.put_if(_PROBE, b"it does not", tag)
                raise DatabaseError(
                    f"{self.uri} cannot be written in place: its store does not heed conditions "
                    "(If-None-Match, If-Match), so that two writers could overwrite each other",
                    hint=f"molquery --db {self.uri} snapshot DIRECTORY, change that, and publish "
                    "it under a new path",
                )
        self._conditions = True

    @staticmethod
    def _record_name(version: Mapping[str, Any]) -> str:
        return f"{schema.VERSIONS}/{version['version']:06d}.json"

    def digest(self, name: str) -> str:
        """The sha256 of an object as it is in the store; FileNotFoundError where it is missing."""
        return self.objects.download(name, None)

    def unneeded(self) -> list[str]:
        """Objects that no version that is kept consists of."""
        numbers = manifest.kept_versions(self.root)
        kept = [manifest.read_record(self.root, number) for number in numbers]
        needed = {schema.MANIFEST, *map(self._record_name, kept)}
        needed = needed.union(_files(self.state), *map(manifest.truth_files, kept))
        return [name for name in self.objects.names() if name not in needed and _is_ours(name)]


def publish(
    source: Path, files: Sequence[str], first: Manifest, uri: str, progress: Progress
) -> str:
    """Put files of a database, which have been checked, and a manifest to a new place; its URI.

    Raises:
        OutputError: something is there already.
        DatabaseError: a file is not there any more, or the store cannot be written.
    """
    remote = Remote(uri)
    remote.need_empty({*files, Remote._record_name(first)})
    for done, name in enumerate(files):
        progress("copying", done, len(files))
        try:
            remote.objects.put(name, source / name)
        except FileNotFoundError as error:  # a compaction has dropped the version
            what = f"{source / name} is missing"
            raise DatabaseError(what, hint="run the same command again") from error
    progress("copying", len(files), len(files))
    remote.create(first)
    return remote.uri


def _files(version: Mapping[str, Any]) -> dict[str, str]:
    return manifest.truth_files(version) | manifest.derived_files(version)


def _is_ours(name: str) -> bool:
    """Whether an object is of a kind that molquery puts."""
    folder, _, file = name.partition("/")
    ours = (*(f"{table}.lance" for table in schema.TABLES), schema.SPACES, schema.GENESETS)
    records = folder == schema.VERSIONS and file.removesuffix(".json").isdigit()
    derived = folder == schema.INDEXES and leftovers.is_derived(file)
    return folder in ours or records or derived or is_temporary(Path(name))
