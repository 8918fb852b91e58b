"""The embedded storage: Optuna's journal file, with a lock that dies with its owner and fewer waits for the disk."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from usdn_nas._util.errors import UsdnError, UserError
from usdn_nas._util.writing import writing

if sys.platform != "win32":
    import fcntl

__all__ = ["Journal", "JournalLock", "StudyJournal"]

SECONDS_BETWEEN_SYNCS = 1.0
_HEAD = b'{"op_code":'
"""How every line of a journal begins."""


class JournalLock(JournalFileOpenLock):
    """Lock of a journal that dies with its owner, and mends the journal on the way in.

    Optuna's own locks are files that a killed worker leaves behind; the next one then waits 30 seconds. This one is
    ``flock``, which the kernel gives back (on Windows, Optuna's serves). A last line without its end was torn by a
    kill: the next append would grow onto it and make the journal unreadable, so it is cut off, under the lock,
    before anything is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock, then mends the journal."""
        if sys.platform == "win32":
            super().acquire()
        else:
            handle = os.open(f"{self._path}.flock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except BaseException:
                os.close(handle)
                raise
            self._handle = handle
        try:
            _cut_torn_line(self._path)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Gives the lock back."""
        if sys.platform == "win32":
            super().release()
        elif self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)


class Journal(JournalFileBackend):
    """A journal file, in Optuna's format: optuna-dashboard opens it (``--storage-class JournalFileStorage``).

    Optuna waits for the disk after each write; here only a change of a trial's state does, which takes all writes
    before it along, and at most once a second. A killed process loses nothing; a power cut, the trials of the last
    second and the one under way.

    Args:
        path: An existing file. It is mended at once if its last line is torn.

    Raises:
        ValueError: The file is no journal, so that its last line must not be cut off.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if not _HEAD.startswith(file.read(len(_HEAD))):
                raise ValueError("its first line is not that of a journal")
        self._path = path
        self._own_lock = JournalLock(path)
        self._own_lock.acquire()
        self._own_lock.release()
        self._synced, self._unsynced = -SECONDS_BETWEEN_SYNCS, False
        super().__init__(str(path), lock_obj=self._own_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends a line for each of ``logs``.

        Raises:
            RunError: The disk is full, or the file cannot be written. It is as it was before.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with writing(self._path):
            self._own_lock.acquire()
            try:
                _append(self._path, lines.encode())
            finally:
                self._own_lock.release()
        self._unsynced |= any(log.get("op_code") == JournalOperation.SET_TRIAL_STATE_VALUES for log in logs)
        if self._unsynced and time.monotonic() - self._synced >= SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Waits until the disk holds every change of a trial's state."""
        if self._unsynced:
            with writing(self._path), self._path.open("rb") as file:
                os.fsync(file.fileno())
            self._synced, self._unsynced = time.monotonic(), False


class StudyJournal(JournalStorage):
    """Optuna's storage over a `Journal`, which can make many changes in one append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal = Journal(path)
        self._writing = threading.RLock()
        self._writer: int | None = None
        self._held: list[dict[str, Any]] = []
        self._settled: dict[int, list[FrozenTrial]] = {}
        super().__init__(self._journal)
        # Every line names its worker; Optuna's name for it is half as long as the line.
        self._worker_id_prefix = self._replay_result._worker_id_prefix = f"{uuid.uuid4().hex[:12]}-"

    @contextlib.contextmanager
    def one_append(self) -> Iterator[None]:
        """What this thread writes within is appended when it ends, at once; till then it is not seen.

        Not for creating studies or trials, whose number the journal gives.

        Raises:
            UpdateFinishedTrialError: A trial among them is finished: nothing was changed of it, but of the others.
        """
        with self._writing:
            self._writer = threading.get_ident()
            try:
                yield
            finally:
                held, self._held, self._writer = self._held, [], None
            if held:
                with self._thread_lock:
                    self._journal.append_logs(held)
                    self._read_to_the_end()

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As Optuna's, without looking up again the finished trials at the front, which do not change."""
        with self._thread_lock:
            self._sync_with_backend()
            self._replay_result.get_study(study_id)  # raises where there is none
            ids, trials = self._replay_result._study_id_to_trial_ids[study_id], self._replay_result._trials
            settled = self._settled.setdefault(study_id, [])
            while len(settled) < len(ids) and trials[ids[len(settled)]].state.is_finished():
                settled.append(trials[ids[len(settled)]])
            found = settled + [trials[trial_id] for trial_id in ids[len(settled) :]]
        if states is not None:
            found = [trial for trial in found if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def sync(self) -> None:
        """Waits until the disk holds every change of a trial's state."""
        self._journal.sync()

    def _read_to_the_end(self) -> None:
        """Past every line of ours that was refused, one of which would stop Optuna's reading."""
        refused: UpdateFinishedTrialError | None = None
        while True:
            try:
                self._sync_with_backend()
            except UpdateFinishedTrialError as error:
                refused = error
            else:
                break
        if refused is not None:
            raise refused

    def _write_log(self, op_code: int, extra_fields: dict[str, Any]) -> None:
        if self._writer == threading.get_ident():
            self._held.append({"op_code": op_code, "worker_id": self._replay_result.worker_id, **extra_fields})
        else:
            super()._write_log(op_code, extra_fields)

    def _sync_with_backend(self) -> None:
        """Reads what others appended.

        Raises:
            UserError: A line is not what any worker writes.
        """
        if self._writer == threading.get_ident():
            return
        try:
            super()._sync_with_backend()
        except (OptunaError, UsdnError, OSError):
            raise
        except Exception as error:  # Optuna replays lines without a check: a damaged one raises whatever it leads to
            raise UserError(
                f"the journal is damaged: {type(error).__name__}: {error}",
                where=self.path,
                remedy="move it away and search again",
            ) from None


def _append(path: Path, data: bytes) -> None:
    """Appends ``data`` whole, or not at all: what a full disk had room for is cut off again."""
    with path.open("ab", buffering=0) as file:
        before, left = file.seek(0, os.SEEK_END), memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)
            raise


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = position = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) == b"\n":
            return
        while position:
            start = max(0, position - (1 << 16))
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
            os.fsync(file.fileno())
