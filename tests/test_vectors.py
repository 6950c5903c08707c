"""Columns as text without an object for each value, and files that are checked block by block."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from molquery.database.drafts import Draft
from molquery.database.mapped import BLOCK, Arrays, Checked, block_sums
from molquery.errors import DatabaseError
from molquery.vectors import as_text


@pytest.mark.parametrize(
    "values",
    [["a", "bcd", None, "", "xx"], ["é", "b"], [None, None], [""], [], ["same", "four"], ["a\0b"],
     ["a\0", "c"]],
)  # fmt: skip
def test_text_of_a_column(values: list[str | None]) -> None:
    whole = pa.array(values, pa.string())
    sliced = pa.array(["before", *values, "after"], pa.string())[1:-1]
    for column in (whole, sliced, pa.chunked_array([whole, sliced], pa.string())):
        plain = np.array([v or "" for v in column.to_pylist()], dtype=str)
        assert as_text(column).tolist() == plain.tolist()


def test_only_the_blocks_that_are_read_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    values = np.random.default_rng(0).normal(size=(5_000, 40)).astype(np.float32)
    with Draft(path, {"v": (np.float32, values.shape), "b": (np.uint8, (7,))}, {"a": "b"}) as draft:
        draft.put("v", values)
    sums = block_sums(path).tobytes()
    assert len(sums) == 8 * -(-path.stat().st_size // BLOCK)
    arrays = Arrays(Checked(path, sums))
    np.testing.assert_array_equal(arrays.whole("v"), values)
    blob = bytearray(path.read_bytes())
    blob[5 * BLOCK + 17] ^= 4
    path.write_bytes(bytes(blob))
    row = (5 * BLOCK - 4096) // 160  # somewhere in the damaged block
    again = Arrays(Checked(path, sums))
    np.testing.assert_array_equal(again.rows("v", np.array([3, 4_900])), values[[3, 4_900]])
    with pytest.raises(DatabaseError, match=r"a\.safetensors is damaged"):
        again.rows("v", np.array([3, row + 5]))
    with pytest.raises(DatabaseError, match="damaged"):
        again.whole("v")
    with pytest.raises(DatabaseError, match="sums of"):
        Checked(path, sums[:-8])
