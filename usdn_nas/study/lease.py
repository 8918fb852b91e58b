"""Leases: they say which worker runs a trial, and show whether that worker is still alive.

Optuna's heartbeats work only inside ``study.optimize``. Here every RUNNING trial carries a lease, which names its owner
and the time when it expires. While a batch runs, its leases are renewed. If the owner of a trial is known to be dead,
or the lease has expired, another worker may adopt the trial: it evaluates the trial and records the result. If two
workers adopt the same trial, the work is done twice and the second result is ignored.
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
"""Name of the user attribute that holds the lease of a trial."""

LEASE_SECONDS = 180.0
"""A worker is considered dead when its lease has not been renewed for this time. This decides for workers on other
machines, whose processes cannot be looked up."""


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """Returns the start time of a process in clock ticks since boot (Linux).

    None if the time is unknown, or if the process is gone or a zombie.
    """
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the process name in brackets may itself hold spaces and brackets
    return None if fields[0] in ("Z", "X") else fields[19]


def _place() -> dict[str, Any]:
    """Identifies this machine, its last boot, and the namespace of process numbers (every container has its own)."""
    try:
        processes: str | None = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = None
    return {"host": socket.gethostname(), "boot": _read("/proc/sys/kernel/random/boot_id"), "processes": processes}


def new_lease(worker: str) -> dict[str, Any]:
    """Returns a lease that begins now, for a worker in this process. No other worker may have the name ``worker``."""
    pid = os.getpid()
    expires = time.time() + LEASE_SECONDS
    return {**_place(), "pid": pid, "started": _process_start(pid), "worker": worker, "expires": expires}


def is_of(trial: FrozenTrial, worker: str) -> bool:
    """True if the lease of the trial belongs to ``worker``."""
    lease = trial.user_attrs.get(LEASE)
    return lease is not None and lease.get("worker") == worker


def lease_trials(
    storage: BaseStorage, trial_ids: Collection[int], lease: dict[str, Any], *, impatient: bool = False
) -> None:
    """Writes ``lease`` into RUNNING trials, in one write. ``impatient`` means the same as in `one_write`."""

    def write() -> None:
        for trial_id in trial_ids:
            storage.set_trial_user_attr(trial_id, LEASE, lease)

    one_write(storage, write, impatient=impatient)


def give_up(storage: BaseStorage, trial_ids: Collection[int], worker: str) -> None:
    """Ends the leases of a worker that stops, so that other workers can adopt its trials at once."""
    if trial_ids:
        with contextlib.suppress(Exception):  # the caller raises a more important error, and a lease ends by itself
            lease_trials(storage, trial_ids, {**new_lease(worker), "expires": 0.0}, impatient=True)


@contextlib.contextmanager
def renewed(storage: BaseStorage, trial_ids: Collection[int], worker: str) -> Iterator[None]:
    """Renews the leases of ``trial_ids`` in another thread until the block ends.

    The caller may remove trials from ``trial_ids`` meanwhile; their leases are not renewed any more.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_SECONDS / 3):
            for trial_id in list(trial_ids):
                # This fails if the trial was finished this moment, or if the storage cannot be reached. In the second
                # case the lease may expire, and the next round renews it.
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
    """True if the owner is certainly dead. False if it lives, or if this cannot be found out from this process."""
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
    """True if a RUNNING ``trial`` may be adopted. A trial without a lease counts as leased at the time it started."""
    lease = trial.user_attrs.get(LEASE)
    if lease is None:
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return started + LEASE_SECONDS < time.time()
    return bool(lease["expires"] < time.time()) or _dead(lease)
