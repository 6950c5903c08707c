"""Batches of work on a Ray cluster: the functions are those of a single machine.

A cluster gives what `threads.in_turn` gives, the results of a function in the order of the items,
so that ingest, projection and scoring differ in nothing but who computes a batch. Workers read the
files and the database themselves, from paths that every machine of the cluster sees, and check what
they read as any reader does; what they return is written by the process that asked, in one commit.
This is the only module that imports ray.

Where RAY_ADDRESS names a cluster it is used, else one is started on this machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from molquery.errors import InputError, MolqueryError
from molquery.threads import Mapper

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Processors that a cluster on this machine is told it has, at least: with as many tasks as
#: processors Ray Data has none left for what hands the results over, and waits for ever.
_LEAST_PROCESSORS = 4
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
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    own: dict[str, Any] = {}
    if not address:
        count = max(_LEAST_PROCESSORS, 2 * (os.cpu_count() or 1))
        own = {"num_cpus": count, "include_dashboard": False}
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
    """`function` of every item on the cluster, in order.

    Items, function and results are pickled, and an error of molquery in a worker is raised here.
    """
    import ray
    from ray import cloudpickle

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    shared = ray.put(cloudpickle.dumps(function))  # type: ignore[no-untyped-call]

    def run(row: dict[str, Any]) -> dict[str, Any]:
        from threadpoolctl import threadpool_limits

        try:
            with threadpool_limits(limits=1):  # a task has one processor
                result: Any = _function(ray.get(shared))(pickle.loads(row["item"]))
        except MolqueryError as error:
            result = _Failed(error)
        return {"result": pickle.dumps(result)}

    rows = [{"item": pickle.dumps(item)} for item in items]
    if not rows:
        return
    work = ray.data.from_items(rows, override_num_blocks=len(rows)).map(run)
    try:
        for row in work.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, _Failed):
                raise result.error
            yield result
    except ray.exceptions.WorkerCrashedError as error:
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
