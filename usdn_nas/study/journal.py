"""The default storage: Optuna's journal file, with a lock that the system releases and with fewer disk flushes."""

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
"""The beginning of every line of a journal."""


class JournalLock(JournalFileOpenLock):
    """Lock of a journal. The system releases it when its owner dies, and taking it repairs the journal.

    Optuna's own locks are files. A killed worker leaves its file behind, and the next worker then waits 30 seconds.
    This lock uses ``flock``, which the kernel releases by itself. (On Windows, Optuna's lock is used.)
    A last line without a line end was cut short by a kill. The next append would continue that line and make the
    journal unreadable. The incomplete line is therefore removed under the lock, before anything is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock, then removes an incomplete last line."""
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
        """Releases the lock."""
        if sys.platform == "win32":
            super().release()
        elif self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)


class Journal(JournalFileBackend):
    """A journal file in Optuna's format. optuna-dashboard can open it (``--storage-class JournalFileStorage``).

    Optuna flushes the file to the disk after each write. This class flushes only after a change of a trial's state, and
    at most once a second; a flush includes all earlier writes. A killed process loses nothing. A power cut loses the
    trials of the last second and the trial that was running.

    Args:
        path: An existing file. If its last line is incomplete, that line is removed at once.

    Raises:
        ValueError: The file is not a journal. Its last line is then left alone.
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
        """Appends one line for each of ``logs``.

        Raises:
            RunError: The disk is full, or the file cannot be written. The file is then unchanged.
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
    """Optuna's storage in a `Journal`. It can write many changes in one append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal = Journal(path)
        self._writing = threading.RLock()
        self._writer: int | None = None
        self._held: list[dict[str, Any]] = []
        self._settled: dict[int, list[FrozenTrial]] = {}
        super().__init__(self._journal)
        # Every line names its worker. Optuna's name for a worker is half as long as a line, so a shorter one is used.
        self._worker_id_prefix = self._replay_result._worker_id_prefix = f"{uuid.uuid4().hex[:12]}-"

    @contextlib.contextmanager
    def one_append(self) -> Iterator[None]:
        """Collects what this thread writes inside the block, and appends all of it at once when the block ends.

        Nobody sees the changes before. Studies and trials must not be created inside, because the journal gives them
        their numbers.

        Raises:
            UpdateFinishedTrialError: One of the trials is finished. That trial is unchanged; the others are changed.
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
        """Returns the trials of a study. Finished trials at the beginning are cached, because they do not change."""
        with self._thread_lock:
            self._sync_with_backend()
            self._replay_result.get_study(study_id)  # raises KeyError if there is no such study
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
        """Reads to the end of the journal, even if a line of this worker is refused.

        Optuna stops reading at such a line. The error is raised again once everything is read.
        """
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
        """Reads the lines that other workers appended.

        Raises:
            UserError: A line is damaged: no worker writes such a line.
        """
        if self._writer == threading.get_ident():
            return
        try:
            super()._sync_with_backend()
        except (OptunaError, UsdnError, OSError):
            raise
        except Exception as error:  # Optuna replays lines without a check, so that a damaged line may raise anything
            raise UserError(
                f"the journal is damaged: {type(error).__name__}: {error}",
                where=self.path,
                remedy="move it away and search again",
            ) from None


def _append(path: Path, data: bytes) -> None:
    """Appends ``data`` as a whole or not at all. If the disk becomes full, the part already written is removed."""
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
