"""Runs a command under ``torchrun``: rank 0 runs it, and calls the other ranks when a network is trained.

Between trainings the other ranks poll a store instead of waiting in a collective operation. So a search may take longer
than any timeout, and Ctrl-C reaches them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import time
from collections.abc import Callable, Iterator
from typing import TypeVarTuple

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from usdn_nas.training.distributed import TIMEOUT, rank

__all__ = ["first_to_fail", "follow", "joined", "on_all_ranks"]

Arguments = TypeVarTuple("Arguments")

_SECONDS_BETWEEN_LOOKS = 0.1

_team: _Team | None = None
"""The team that this process has joined, or None. It is global, like torch's process group."""


class _Team:
    """Passes calls from rank 0 to the other ranks, through a store that all of them can reach."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.called = 0

    def call(self, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
        """Makes the other ranks call ``work``."""
        self.store.set(f"call {self.called}", pickle.dumps((work, arguments)))  # type: ignore[arg-type]
        self.called += 1

    def end(self, status: int) -> None:
        """Makes the other ranks end with the exit status ``status``."""
        self.store.set(f"call {self.called}", pickle.dumps(status))  # type: ignore[arg-type]

    def calls(self) -> Iterator[tuple[Callable[..., None], tuple[object, ...]]]:
        """Yields the calls that rank 0 sends. Raises SystemExit when rank 0 ends."""
        while True:
            try:
                while not self.store.check([f"call {self.called}"]):
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                call = pickle.loads(self.store.get(f"call {self.called}"))
            except RuntimeError:  # the store is gone, so torchrun is gone too
                raise SystemExit(1) from None
            if isinstance(call, int):
                raise SystemExit(call)
            self.called += 1
            yield call


@contextlib.contextmanager
def joined(store: Store | None = None, place: int = 0, size: int = 1) -> Iterator[None]:
    """Makes this process one of the ranks while the context is open.

    Args:
        store: The store through which the ranks meet. None: the one that ``torchrun``'s environment variables name.
        place: Rank of this process; used with ``store``.
        size: Number of ranks; used with ``store``.
    """
    global _team
    if store is None:
        store, place, size = next(rendezvous("env://"))
        store = PrefixStore(f"usdn-nas {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    # No back end is named, so torch uses gloo for tensors on the CPU and NCCL for those on CUDA.
    dist.init_process_group(store=PrefixStore("group", store), rank=place, world_size=size, timeout=TIMEOUT)
    _team = _Team(store)
    status = 1
    try:
        yield
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        if rank() == 0:
            _team.end(status)
        _team = None
        if status == 0:  # after a failure the other ranks may be gone
            with contextlib.suppress(RuntimeError):
                dist.all_reduce(torch.zeros(1))  # so that rank 0, which may host the store, ends last
            dist.destroy_process_group()


def follow() -> None:
    """Runs in another rank than 0: repeats the calls of rank 0 until rank 0 ends.

    Raises:
        SystemExit: Rank 0 has ended; the exit status is that of rank 0.
    """
    assert _team is not None
    for work, arguments in _team.calls():
        work(*arguments)


def on_all_ranks(work: Callable[[*Arguments], None]) -> Callable[[*Arguments], None]:
    """Makes ``work`` run on all ranks when rank 0 calls it. Its arguments must be picklable."""

    @functools.wraps(work)
    def everywhere(*arguments: *Arguments) -> None:
        if _team is not None and rank() == 0:
            _team.call(everywhere, arguments)
        work(*arguments)

    return everywhere


def first_to_fail() -> bool:
    """Returns True for the first rank that calls it, which alone tells the user why all ranks end.

    Outside ``torchrun`` it always returns True.
    """
    if _team is None:
        return True
    try:
        return _team.store.add("failures", 1) == 1
    except RuntimeError:  # the store is gone, because another rank has failed
        return False
