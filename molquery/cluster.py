"""Batches of work on a Ray cluster: the functions are those of a single machine.

A cluster gives what `threads.in_turn` gives, the results of a function in the order of the items,
so that ingest, projection and scoring differ in nothing but who computes a batch. Workers read the
files and the database themselves, from paths that every machine of the cluster sees, and check what
they read as any reader does; what they return is written by the process that asked, in one commit.
This is the only module that imports ray.

Where RAY_ADDRESS names a cluster it is used, else one is started on this machine.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from molquery.errors import InputError, MolqueryError
from molquery.threads import Mapper, processors

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE = 10.0  # seconds


@contextmanager
def connected() -> Iterator[Mapper]:
    """A cluster for the time of the block.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is not installed", hint="pip install 'molquery[ray]'") from error
    address = os.environ.get("RAY_ADDRESS", "")
    _answers(address)
    own: dict[str, Any] = {}
    if not address:
        own = {"num_cpus": processors(), "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield _map
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Check that somebody listens at an address, where it is one: Ray itself would try for long."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        except OSError as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> InputError:
    return InputError(
        f"no Ray cluster answers at {address}" if address else "Ray cannot be started here",
        found=(str(error).splitlines() or [""])[0][:200],
        hint="ray status says which cluster runs; unset RAY_ADDRESS to start one here",
    )


def _map(function: Callable[[Item], Result], items: Sequence[Item], /) -> Iterator[Result]:
    """`function` of every item on the cluster, in order; few items are there at a time.

    Items, function and results are pickled, and an error of molquery in a worker is raised here.
    What has been begun by then is not cancelled, but ends by itself or with the cluster.
    """
    import ray
    from ray import cloudpickle

    @ray.remote
    def run(pickled: bytes, item: Item) -> bytes:
        from threadpoolctl import threadpool_limits

        try:
            with threadpool_limits(limits=1):  # a task has one processor
                result: Any = _function(pickled)(item)
        except MolqueryError as error:
            result = _Failed(error)
        return pickle.dumps(result)

    shared = ray.put(cloudpickle.dumps(function))  # type: ignore[no-untyped-call]
    ahead = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    coming = (run.remote(shared, item) for item in items)
    waiting = deque(itertools.islice(coming, ahead))
    try:
        while waiting:
            result = pickle.loads(ray.get(waiting.popleft()))
            waiting.extend(itertools.islice(coming, 1))
            if isinstance(result, _Failed):
                raise result.error
            yield result
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise InputError(
            "a worker of the cluster has died, as it does when memory runs out",
            found=str(error).splitlines()[0][:200],
            hint="run the same command again, on machines with more memory",
        ) from error


class _Failed:
    """An error of a worker, on its way to whoever asked."""

    def __init__(self, error: MolqueryError) -> None:
        self.error = error


_functions: dict[int, tuple[bytes, Any]] = {}


def _function(pickled: bytes) -> Callable[[Any], Any]:
    """The function, unpickled once by every worker: what it keeps serves the next item as well."""
    if (held := _functions.get(0)) is None or held[0] != pickled:
        _functions[0] = held = pickled, pickle.loads(pickled)
    function: Callable[[Any], Any] = held[1]
    return function
