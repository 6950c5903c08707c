"""HDF5 files that end, or hold, the process that reads them: an error that names the file."""

import os
import select
import signal
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest

from molquery.errors import ColumnError, FileFormatError
from molquery.readers import apart as module
from molquery.readers import read_slides
from molquery.readers.apart import apart


@apart
def process(path: Path) -> int:
    return os.getpid()


@apart
def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@apart
def leave(path: Path) -> None:
    os._exit(3)


@apart
def hang(path: Path) -> None:
    while True:
        pass


@apart
def fail(path: Path, *, kind: str) -> None:
    if kind == "ours":
        raise ColumnError("no column", found="a, b", hint="c")
    raise ZeroDivisionError("a bug")


@apart
def give(path: Path) -> Any:
    print("printing does no harm")
    table = pa.table({"a": ["x", None], "b": [1.5, 2]})
    large = np.arange(3_000_000, dtype=np.float32).reshape(1000, -1)
    return {"large": large, "table": table, "rows": table.select([])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones(4, np.float32)
    return tmp_path / "a.h5"


def works(path: Path) -> bool:
    return next(iter(read_slides(path))).vectors.tolist() == [[1, 1, 1, 1]]


def test_hdf5_is_read_in_one_other_process(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no HDF5")
    assert process(text) == process(tmp_path / "none") == os.getpid()
    assert process(path) != os.getpid()
    assert process(path) == process(path)


@pytest.mark.parametrize(("what", "says"), [(crash, "SIGSEGV"), (leave, "status 3")])
def test_a_crash(path: Path, what: Any, says: str) -> None:
    with pytest.raises(FileFormatError, match=rf"a\.h5(?s:.*){says}"):
        what(path)
    assert works(path)


def test_a_hang(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert works(path)  # the process has started
    before = process(path)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    with pytest.raises(FileFormatError, match=r"a\.h5(?s:.*)no end of it"):
        hang(path)
    monkeypatch.undo()
    assert works(path)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_an_interrupt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(select, "select", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hang(path)
    monkeypatch.undo()
    assert works(path)  # and not what the interrupted call would have answered


def test_errors_and_results_are_what_they_were(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ColumnError) as caught:
        fail(path, kind="ours")
    assert str(caught.value) == str(ColumnError("no column", found="a, b", hint="c"))
    assert (caught.value.found, caught.value.hint) == ("a, b", "c")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        fail(path, kind="theirs")
    got = give(path)
    np.testing.assert_array_equal(got["large"].ravel(), np.arange(3_000_000, dtype=np.float32))
    assert got["table"].to_pydict() == {"a": ["x", None], "b": [1.5, 2]}
    assert got["rows"].num_rows == 2
    monkeypatch.chdir(path.parent)
    assert works(Path("a.h5"))


def test_threads_take_turns(path: Path) -> None:
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(works(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
