"""A command under ``torchrun``: rank 0 runs it, and calls the other ranks where a network is trained.

Between trainings the others look into the store now and then, rather than wait in a collective operation: a search
may take longer than any timeout, and Ctrl-C reaches them.
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
"""Of this process, as torch's process group is."""


class _Team:
    """What ranks tell each other through a store that all of them reach."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.called = 0

    def call(self, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
        """Has the others call ``work``."""
        self.store.set(f"call {self.called}", pickle.dumps((work, arguments)))  # type: ignore[arg-type]
        self.called += 1

    def end(self, status: int) -> None:
        """Lets the others end with ``status``."""
        self.store.set(f"call {self.called}", pickle.dumps(status))  # type: ignore[arg-type]

    def calls(self) -> Iterator[tuple[Callable[..., None], tuple[object, ...]]]:
        """What rank 0 wants called; ends by SystemExit."""
        while True:
            try:
                while not self.store.check([f"call {self.called}"]):
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                call = pickle.loads(self.store.get(f"call {self.called}"))
            except RuntimeError:  # the store is gone, and with it whoever launched us
                raise SystemExit(1) from None
            if isinstance(call, int):
                raise SystemExit(call)
            self.called += 1
            yield call


@contextlib.contextmanager
def joined(store: Store | None = None, place: int = 0, size: int = 1) -> Iterator[None]:
    """This process is one of the ranks.

    Args:
        store: None: they meet as ``torchrun``'s environment variables tell.
        place: Of this process, among ``size``; given with ``store``.
    """
    global _team
    if store is None:
        store, place, size = next(rendezvous("env://"))
        store = PrefixStore(f"usdn-nas {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    # No back end named: gloo for tensors of the CPU, NCCL for CUDA's.
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
        if status == 0:  # after a failure the others may not be there to take part
            with contextlib.suppress(RuntimeError):
                dist.all_reduce(torch.zeros(1))  # rank 0, which may be the store's host, goes last
            dist.destroy_process_group()


def follow() -> None:
    """What ranks other than 0 do: what rank 0 calls, until it ends, and then end with its exit status.

    Raises:
        SystemExit: Rank 0 has ended.
    """
    assert _team is not None
    for work, arguments in _team.calls():
        work(*arguments)


def on_all_ranks(work: Callable[[*Arguments], None]) -> Callable[[*Arguments], None]:
    """A function that, called on rank 0, runs on all ranks. Its arguments can be pickled."""

    @functools.wraps(work)
    def everywhere(*arguments: *Arguments) -> None:
        if _team is not None and rank() == 0:
            _team.call(everywhere, arguments)
        work(*arguments)

    return everywhere


def first_to_fail() -> bool:
    """Whether no other rank has asked before: that one tells the user why all of them end."""
    if _team is None:
        return True
    try:
        return _team.store.add("failures", 1) == 1
    except RuntimeError:  # the store is gone, and with it whoever failed
        return False
