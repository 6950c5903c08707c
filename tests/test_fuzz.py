"""A few hundred damaged files; MOLQUERY_FUZZ=10000 takes in so many (six minutes on 2 cores)."""

import os

import fuzz


def test_damaged_files_are_read_or_refused() -> None:
    count = int(os.environ.get("MOLQUERY_FUZZ", "200"))
    result = fuzz.run(count)
    assert not result.failures, "\n".join(f"{f}\n{f.detail}" for f in result.failures)
    total = {kind: n for counts in result.counts.values() for kind, n in counts.items()}
    assert sum(sum(counts.values()) for counts in result.counts.values()) == count
    assert {"read", "refused"} <= set(total)
    # The first file of each format is whole, so each is read at least once.
    assert len(result.counts) > 40
    assert all(counts["read"] for counts in result.counts.values()), result.table()
