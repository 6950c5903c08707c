"""Work spread over the processors: one item a thread, linear algebra on one thread each.

Several small factorisations run faster side by side than one after the other on all processors, do
not spin when the machine is shared, and give the same bits whatever the number of processors.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """What applies a function to items and gives the results in order: see `in_turn`, `streamed`
    and, for a cluster, `molquery.cluster.connected`."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item], /
    ) -> Iterator[Result]:
        """The results, in the order of the items."""


def in_turn(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`function` of every item, one after the other, each when it is asked for."""
    return map(function, items)


def parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    done: Callable[[int], None] | None = None,
    *,
    sequential: bool = False,
) -> list[Result]:
    """`function` of every item, in order. `done` is told how many have ended, as they end.

    With `sequential` the items run one by one with the libraries' own threads: for work that
    draws on a random state that all threads share.
    """
    if sequential:
        results = []
        for item in items:
            results.append(function(item))
            if done:
                done(len(results))
        return results
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), ThreadPoolExecutor(processors()) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for count, _ in enumerate(as_completed(futures), start=1):
                if done:
                    done(count)
        except BaseException:  # Ctrl-C must not wait for work that has not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def streamed(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of every item, in order, as `parallel`; few items are held at a time."""
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    ahead = processors()
    with threadpool_limits(limits=1), ThreadPoolExecutor(ahead) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items as they are; another thread makes the next while one is used."""
    from concurrent.futures import ThreadPoolExecutor

    end: list[Item] = []

    def following() -> Item | list[Item]:
        return next(items, end)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(following)
        while (item := coming.result()) is not end:
            coming = pool.submit(following)
            yield cast("Item", item)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
