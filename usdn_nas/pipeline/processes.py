"""Runs the same function in several worker processes under one supervisor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from usdn_nas._util.errors import RunError, UserError
from usdn_nas._util.writing import os_failure

__all__ = ["orphaned", "supervise"]

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_END = 20.0
"""Workers get this long to end after a request; then they are killed. Another worker can take over their work."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def supervise(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    workers: int,
    threads: int,
    watch: Callable[[], None],
) -> None:
    """Runs ``work(*arguments)`` in ``workers`` processes at once, until all of them end.

    After Ctrl-C or the failure of one process, all others are told to end.

    Args:
        work: A function defined in a module. To end it early, KeyboardInterrupt is raised in it.
        arguments: Arguments of the function. They must be picklable.
        workers: Number of processes.
        threads: Number of threads in each process, for numerical libraries that read it from the environment.
        watch: Function that is called about twice a second.

    Raises:
        UserError, RunError: A worker raised this error.
        RunError: A worker ended in another way, for example by a signal.
    """
    spawn = multiprocessing.get_context("spawn")
    receivers: dict[SpawnProcess, Connection] = {}
    try:
        with _environment(dict.fromkeys(_THREADS, str(threads))):
            for number in range(1, workers + 1):
                receiver, sender = spawn.Pipe(duplex=False)
                process = spawn.Process(target=_work, args=(sender, work, arguments), name=f"worker {number}")
                process.start()
                sender.close()
                receivers[process] = receiver
        while running := [process for process in receivers if process.exitcode is None]:
            wait([process.sentinel for process in running], timeout=_SECONDS_BETWEEN_LOOKS)
            for process, receiver in receivers.items():
                _raise_failure(process, receiver)
            watch()
        for process, receiver in receivers.items():
            _raise_failure(process, receiver)
    finally:
        _end(list(receivers))


def orphaned() -> bool:
    """Returns True if this process is a worker whose supervisor was killed and could not end it."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _raise_failure(process: SpawnProcess, receiver: Connection) -> None:
    if process.exitcode in (None, 0):
        return
    with contextlib.suppress(EOFError, OSError):
        if receiver.poll():
            kind, text = receiver.recv()
            raise UserError(text) if kind == "user" else RunError(text)
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    raise RunError(f"{process.name} of the search {how}; the same command goes on from here")


def _end(processes: list[SpawnProcess]) -> None:
    for process in processes:
        if process.exitcode is None:
            process.terminate()
    for process in processes:
        process.join(_SECONDS_TO_END)
        if process.exitcode is None:
            process.kill()
            process.join()


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(sender: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Runs ``work`` in a worker's process and sends its error to the supervisor.

    A terminal sends Ctrl-C to all processes. Workers ignore it, because the supervisor tells them when to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        work(*arguments)
    except UserError as error:
        sender.send(("user", str(error)))
        sys.exit(2)
    except RunError as error:
        sender.send(("run", str(error)))
        sys.exit(1)
    except OSError as error:
        sender.send(("run", str(os_failure(error))))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
