"""Two processes that do something together, forked from this one, which has everything imported."""

from __future__ import annotations

import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist


def fork(folder: Path, works: Sequence[Callable[[], Any]]) -> tuple[list[Any], list[int]]:
    """Runs ``works`` at once, a process each; what they return (None: they did not), and their exit statuses.

    A status is 0 where one returned, that of a SystemExit, -signal, or 99 for another exception.
    """
    pids = []
    for number, work in enumerate(works):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 99
            try:
                (folder / f"result {number}").write_bytes(pickle.dumps(work()))
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        pids.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    results: list[Any] = [None] * len(works)
    for number in range(len(works)):
        with suppress(FileNotFoundError):
            results[number] = pickle.loads((folder / f"result {number}").read_bytes())
            (folder / f"result {number}").unlink()
    return results, statuses


def together(folder: Path, work: Callable[[int], Any], size: int = 2) -> tuple[list[Any], list[int]]:
    """``work(rank)`` on ``size`` ranks of a gloo group that meets through a file in ``folder``; as `fork` has it."""
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)

    def on(rank: int) -> Callable[[], Any]:
        def run() -> Any:
            store = dist.FileStore(str(meeting), size)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
            return work(rank)

        return run

    return fork(folder, [on(rank) for rank in range(size)])
