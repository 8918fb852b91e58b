"""Who runs a trial, and whether it is still alive.

Optuna's heartbeats work only inside ``study.optimize``. Here every RUNNING trial carries a lease: its owner and
when it expires; while a batch runs, its leases are renewed. A trial whose owner is known to be dead, or whose lease
has expired, may be adopted: evaluated and told by another worker. Two workers that adopt one trial do double work
and no harm: the second to tell is ignored.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from usdn_nas.study.storage import one_write

__all__ = ["LEASE", "LEASE_SECONDS", "adoptable", "give_up", "is_of", "lease_trials", "new_lease", "renewed"]

LEASE = "lease"
"""Name of the user attribute."""

LEASE_SECONDS = 180.0
"""After this time others take a worker for dead of which they cannot know: one on another machine."""


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """Clock ticks after boot at which a process started (Linux); None where unknown, gone, or a zombie."""
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in ("Z", "X") else fields[19]


def _place() -> dict[str, Any]:
    """This machine since its boot, and the process numbers' own world in it (containers have one each)."""
    try:
        processes: str | None = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = None
    return {"host": socket.gethostname(), "boot": _read("/proc/sys/kernel/random/boot_id"), "processes": processes}


def new_lease(worker: str) -> dict[str, Any]:
    """The lease of a worker in this process, from now on. ``worker``: a name that no other worker has."""
    pid = os.getpid()
    expires = time.time() + LEASE_SECONDS
    return {**_place(), "pid": pid, "started": _process_start(pid), "worker": worker, "expires": expires}


def is_of(trial: FrozenTrial, worker: str) -> bool:
    """Whether the trial's lease is this worker's."""
    lease = trial.user_attrs.get(LEASE)
    return lease is not None and lease.get("worker") == worker


def lease_trials(
    storage: BaseStorage, trial_ids: Collection[int], lease: dict[str, Any], *, impatient: bool = False
) -> None:
    """Gives RUNNING trials ``lease``, in one write. ``impatient``: as in `one_write`."""

    def write() -> None:
        for trial_id in trial_ids:
            storage.set_trial_user_attr(trial_id, LEASE, lease)

    one_write(storage, write, impatient=impatient)


def give_up(storage: BaseStorage, trial_ids: Collection[int], worker: str) -> None:
    """Lets anyone adopt the trials at once: their worker ends in good order."""
    if trial_ids:
        with contextlib.suppress(Exception):  # something worse is being raised, and a lease ends by itself
            lease_trials(storage, trial_ids, {**new_lease(worker), "expires": 0.0}, impatient=True)


@contextlib.contextmanager
def renewed(storage: BaseStorage, trial_ids: Collection[int], worker: str) -> Iterator[None]:
    """Renews the leases of ``trial_ids``, which may shrink meanwhile, from another thread, until the block ends."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_SECONDS / 3):
            for trial_id in list(trial_ids):
                # Told this moment, or the storage is away: then the lease may end, and the next round renews it.
                with contextlib.suppress(Exception):
                    lease_trials(storage, [trial_id], new_lease(worker), impatient=True)

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _dead(lease: dict[str, Any]) -> bool:
    """Whether the owner is surely gone; False where this cannot be told from here."""
    here = _place()
    if lease.get("host") != here["host"] or os.name != "posix":
        return False
    if lease.get("boot") != here["boot"]:
        return True
    if lease.get("processes") != here["processes"]:
        return False
    pid = int(lease["pid"])
    if here["processes"] is not None:
        return _process_start(pid) != lease.get("started")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def adoptable(trial: FrozenTrial) -> bool:
    """Whether a RUNNING ``trial`` may be adopted. One without a lease counts as leased when it was started."""
    lease = trial.user_attrs.get(LEASE)
    if lease is None:
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return started + LEASE_SECONDS < time.time()
    return bool(lease["expires"] < time.time()) or _dead(lease)
