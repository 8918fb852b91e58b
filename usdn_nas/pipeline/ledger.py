"""The ledger of a run folder records which stages are done, with their inputs and outputs.

When settings change, earlier results are set aside instead of overwritten. When the settings change back, these results
are taken back. `usdn_nas.pipeline.stagefile` describes how this survives a kill at any moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usdn_nas._util.errors import UsdnError, UserError
from usdn_nas._util.files import digest, file_digest
from usdn_nas._util.progress import Reporter
from usdn_nas._util.writing import remove_leftovers, writing
from usdn_nas.pipeline.places import holds_anything
from usdn_nas.pipeline.stagefile import CHECKPOINT, Moves, Records, StageFile

__all__ = ["Ledger", "Stage", "locked"]


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        key: Name of the stage. A stage that trains keeps its files in the folder of that name.
        inputs: Settings and digests that the result depends on, as types that JSON can hold.
        outputs: Files that the stage writes, relative to the run folder. A name may be a pattern with ``*``.
        run: Function that does the work. Its argument is the stage.
        extent: Size of the work that may grow without starting again, such as the number of configurations of a search;
            None if the stage has no such size.
    """

    key: str
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    run: Callable[[Stage], None]
    extent: int | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of the inputs."""
        return digest(self.inputs)

    @property
    def has_folder(self) -> bool:
        """True if all files of the stage are in a folder of its own, named after its key."""
        return all(name.startswith(f"{self.key}/") for name in self.outputs)


class Ledger:
    """Runs each stage once, and again when its inputs have changed.

    Args:
        folder: The run folder.
        reporter: Receives messages about stages that are skipped, resumed or run again.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.folder = folder
        self.reporter = reporter
        self._file = StageFile(folder)

    @property
    def records(self) -> Records:
        """The record of each stage, by key."""
        return self._file.stages

    @property
    def unsettled(self) -> bool:
        """True if a killed process left renames of folders unfinished. `locked` finishes them next time."""
        return self._file.moves is not None

    def is_done(self, stage: Stage) -> bool:
        """Returns True if the stage finished with these inputs and its files are unchanged since."""
        record = self.records.get(stage.key)
        return (
            record is not None
            and record["status"] == "done"
            and record["fingerprint"] == stage.fingerprint
            and (stage.extent is None or record["extent"] >= stage.extent)
            and all(_is(self.folder / name, expected) for name, expected in record["outputs"].items())
        )

    def ensure(self, stage: Stage) -> bool:
        """Runs the stage unless it is done. Returns True if it ran.

        Raises:
            UserError: The stage cannot work with its input. Earlier results are restored. Files that the stage has
                written so far are kept as those of an interrupted stage.
        """
        self._file.settle()
        if self.is_done(stage):
            self.reporter.say(f"{stage.key}: done before ({self.records[stage.key]['seconds']:.0f} s), nothing to do")
            return False
        if self._changed(stage) and stage.has_folder and self._take_back(stage):
            self.reporter.say(f"{stage.key}: made with these settings before, taken back")
            if self.is_done(stage):
                return False
        before = self.records.get(stage.key)
        self._explain(stage)
        entry = self._begin(stage)
        start, seconds = time.monotonic(), entry["seconds"]
        try:
            stage.run(stage)
        except UserError:
            self._undo(stage, before)
            raise
        except BaseException:
            entry["seconds"] = round(seconds + time.monotonic() - start, 2)
            with contextlib.suppress(UsdnError):  # the first error is more informative, and the disk may be full
                self._file.write()
            raise
        self._finish(stage, entry | {"seconds": round(seconds + time.monotonic() - start, 2)})
        return True

    def _changed(self, stage: Stage) -> list[str]:
        """Returns the names of the inputs that differ from those in the stage's record; empty if it has no record."""
        record = self.records.get(stage.key)
        if record is None or record["fingerprint"] == stage.fingerprint:
            return []
        before, now = record["inputs"], stage.inputs
        return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))

    def _explain(self, stage: Stage) -> None:
        record, changed = self.records.get(stage.key), self._changed(stage)
        if record is None:
            return
        if changed:
            self.reporter.say(f"{stage.key}: {', '.join(changed)} changed, so it runs again")
        elif record["status"] == "running":
            self.reporter.say(f"{stage.key}: was interrupted, goes on")
        elif stage.extent is not None and record["extent"] < stage.extent:
            self.reporter.say(f"{stage.key}: {record['extent']} before, goes on to {stage.extent}")
        else:
            self.reporter.say(f"{stage.key}: its files changed since, so it runs again")

    def _begin(self, stage: Stage) -> dict[str, Any]:
        """Records that the stage is running, and sets aside its results from other settings. Returns the new record."""
        key, before, changed = stage.key, self.records.get(stage.key), self._changed(stage)
        entry = {
            "status": "running",
            "fingerprint": stage.fingerprint,
            "inputs": stage.inputs,
            "extent": stage.extent,
            "seconds": before["seconds"] if before is not None and not changed else 0.0,
            "outputs": {},
        }
        if not (changed and stage.has_folder):
            self._file.rearrange({**self.records, key: entry}, self._aside(key), Moves(key))
            return entry
        stages, aside, away = self._set_aside(key, {key: entry})
        damaged = (_name(entry),) if _name(entry) in aside else ()  # an undamaged one would have been taken back
        for name in damaged:
            del aside[name]
        self._file.rearrange(stages, aside, Moves(key, away=away, drop=damaged))
        return entry

    def _finish(self, stage: Stage, entry: dict[str, Any]) -> None:
        """Records that the stage is done. Of the results set aside, only the latest finished one is kept."""
        key, aside = stage.key, self._aside(stage.key)
        finished = [name for name, records in aside.items() if records[key]["status"] == "done"]
        kept = finished[-1:]
        entry |= {
            "status": "done",
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "outputs": {name: file_digest(self.folder / name) for name in self._written(stage)},
        }
        checkpoint = (self.folder / key / CHECKPOINT).exists()
        moves = Moves(key, drop=tuple(name for name in aside if name not in kept), checkpoint=checkpoint)
        self._file.rearrange({**self.records, key: entry}, {name: aside[name] for name in kept}, moves)

    def _written(self, stage: Stage) -> list[str]:
        """Returns the names of the stage's files, with patterns replaced by the names that match."""
        return [
            str(path.relative_to(self.folder))
            for pattern in stage.outputs
            for path in (sorted(self.folder.glob(pattern)) if "*" in pattern else [self.folder / pattern])
        ]

    def _aside(self, key: str) -> dict[str, Records]:
        """Returns a copy of the records of the folders that a stage has set aside."""
        return dict(self._file.aside.get(key, {}))

    def _set_aside(self, key: str, new: Records) -> tuple[Records, dict[str, Records], str | None]:
        """Returns the records as they will be when a stage's folder is set aside. It changes nothing itself.

        Args:
            key: The stage.
            new: Records that replace those of the folder.

        Returns:
            The records of all stages; the folders that the stage will have set aside; and the new name of the present
            folder, or None if there is no folder.
        """
        inside = {
            other: record
            for other, record in self.records.items()
            if other == key or (record["outputs"] and all(name.startswith(f"{key}/") for name in record["outputs"]))
        }
        both = {**self.records, **new}  # keeps the order in which the stages ran for the first time
        stages = {other: record for other, record in both.items() if other in new or other not in inside}
        if not os.path.lexists(self.folder / key):
            return stages, self._aside(key), None
        away = _name(self.records[key])
        return stages, {**self._aside(key), away: inside}, away

    def _take_back(self, stage: Stage) -> bool:
        """Takes back a folder that was set aside, if it was made with the stage's settings and is intact.

        Returns:
            True if a folder was taken back.
        """
        key, back = stage.key, stage.fingerprint[:12]
        kept, place = self._aside(key).get(back), self._file.place(stage.key, back)
        if kept is None or not place.is_dir() or not self._intact(kept[key], key, place):
            return False
        stages, aside, away = self._set_aside(key, kept)
        del aside[back]
        self._file.rearrange(stages, aside, Moves(key, away=away, back=back))
        return True

    def _intact(self, record: Mapping[str, Any], key: str, place: Path) -> bool:
        """Returns True if the files of a stage that were set aside are unchanged."""
        outputs = record["outputs"].items()
        return all(_is(place / name.removeprefix(f"{key}/"), expected) for name, expected in outputs)

    def _undo(self, stage: Stage, before: dict[str, Any] | None) -> None:
        """Restores the state before the stage refused its input."""
        key, back = stage.key, None if before is None else _name(before)
        places = [self.folder / key] if stage.has_folder else map(self.folder.joinpath, self._written(stage))
        empty = not any(map(holds_anything, places))
        if back is not None and back in self._aside(key):
            stages, aside, away = self._set_aside(key, self._aside(key)[back])
            drop = (away,) if empty and away is not None else ()
            for name in (back, *drop):
                del aside[name]
            self._file.rearrange(stages, aside, Moves(key, away=away, back=back, drop=drop))
        elif before is not None:
            self._file.rearrange({**self.records, key: before}, self._aside(key), Moves(key))
        elif empty:
            stages = {other: record for other, record in self.records.items() if other != key}
            self._file.rearrange(stages, self._aside(key), Moves(key))

    def output_digest(self, key: str, name: str | None = None) -> str:
        """Returns the digest of a stage's files, or of the file called ``name``; ``"missing"`` if it is not done."""
        record = self.records.get(key)
        if record is None or record["status"] != "done":
            return "missing"
        return digest(record["outputs"] if name is None else record["outputs"][f"{key}/{name}"])

    def require(self, stage: Stage, command: str) -> None:
        """Raises UserError unless the stage is done. The error names ``command``, which runs the stage."""
        if not self.is_done(stage):
            known = stage.key in self.records
            finding = f"stage '{stage.key}' is not finished with these settings" if known else f"no '{stage.key}' yet"
            raise UserError(finding, where=self.folder, remedy=f"run '{command}' first")


def _name(record: Mapping[str, Any]) -> str:
    """Returns the name under which the folder of a record is set aside."""
    return str(record["fingerprint"])[:12]


def _is(path: Path, expected: str) -> bool:
    return path.is_file() and file_digest(path) == expected


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks the run folder, so that a second process is refused. Finishes the renames that a killed process began.

    The lock is on the file ``.lock``. The content of this file does not matter and is never changed.

    Raises:
        UserError: Another process holds the folder, or the path cannot be a folder.
        RunError: The folder cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with writing(folder / ".lock"):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError("another process works in this run folder", where=folder) from None
        file = StageFile(folder)
        file.settle()
        remove_leftovers(file.folders())
        yield
    finally:
        os.close(lock)
