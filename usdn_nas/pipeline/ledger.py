"""``stages.json``: which stages of a run folder are done, from which inputs, with which outputs."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usdn_nas.documents import StagesDocument, read_document, write_document
from usdn_nas.errors import UserError
from usdn_nas.files import digest, file_digest, remove_leftovers
from usdn_nas.progress import Reporter

__all__ = ["Ledger", "Stage", "locked"]

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        key: Its name; a stage that trains keeps its files in the folder of that name.
        inputs: Settings and digests that its result depends on, JSON's own types.
        outputs: Files it writes, relative to the run folder; ``*`` stands for those that are there.
        run: Does the work; is given the stage itself.
        extent: A size that may grow without starting anew (configurations of a search).
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


class Ledger:
    """Runs stages once, and again when what they depend on changed.

    Args:
        folder: The run folder.
        reporter: Told what is done, skipped and done again.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.folder = folder
        self.path = folder / "stages.json"
        self.reporter = reporter
        self.records: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.records = read_document(self.path, StagesDocument)[1]["stages"]

    def _write(self) -> None:
        write_document(self.path, StagesDocument, {"stages": self.records})

    def _intact(self, record: dict[str, Any]) -> bool:
        paths = {self.folder / name: expected for name, expected in record["outputs"].items()}
        return all(path.is_file() and file_digest(path) == expected for path, expected in paths.items())

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage finished with these inputs and its files are as it left them."""
        record = self.records.get(stage.key)
        return (
            record is not None
            and record["status"] == "done"
            and record["fingerprint"] == stage.fingerprint
            and (stage.extent is None or record["extent"] >= stage.extent)
            and self._intact(record)
        )

    def ensure(self, stage: Stage) -> bool:
        """Runs the stage unless it is done. Returns whether it ran.

        Raises:
            UserError: The stage cannot work with its input; what an earlier run of it left is as it was.
        """
        before = self.records.get(stage.key)
        if before is not None and self.is_done(stage):
            self.reporter.say(f"{stage.key}: done before ({before['seconds']:.0f} s), nothing to do")
            return False
        changed = [] if before is None else self._changed(stage, before)
        if changed and self._take_back(stage):
            return False
        self._explain(stage, before, changed)
        seconds = before["seconds"] if before and not changed else 0.0
        entry = {
            "status": "running",
            "fingerprint": stage.fingerprint,
            "inputs": stage.inputs,
            "extent": stage.extent,
            "seconds": seconds,
            "outputs": {},
        }
        if changed:  # first, so that a kill in between leaves no stale checkpoint under the new record
            self._set_aside(stage.key)
        self.records[stage.key] = entry
        self._write()
        start = time.monotonic()
        try:
            stage.run(stage)
        except UserError:
            self._restore(stage.key, before, changed)
            raise
        finally:
            entry["seconds"] = round(seconds + time.monotonic() - start, 2)
            self._write()
        entry["status"] = "done"
        entry["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        entry["outputs"] = {name: file_digest(self.folder / name) for name in self._written(stage)}
        self._write()
        (self.folder / stage.key / CHECKPOINT).unlink(missing_ok=True)  # last: no kill in between trains anew
        return True

    def _written(self, stage: Stage) -> list[str]:
        """Names of the stage's files, patterns resolved."""
        return [
            str(path.relative_to(self.folder))
            for pattern in stage.outputs
            for path in (sorted(self.folder.glob(pattern)) if "*" in pattern else [self.folder / pattern])
        ]

    def _changed(self, stage: Stage, record: dict[str, Any]) -> list[str]:
        """Names of the inputs that are not those of ``record``."""
        before, now = record["inputs"], stage.inputs
        return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))

    def _explain(self, stage: Stage, record: dict[str, Any] | None, changed: list[str]) -> None:
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

    def _aside(self, key: str) -> Path:
        folder = self.folder / key
        return folder.with_name(f"{folder.name}.old")

    def _set_aside(self, key: str) -> None:
        """Moves a stage's folder to ``<key>.old``, in place of an earlier one; an unfinished for no finished one."""
        if not (self.folder / key).is_dir():
            return
        old = f"{key}.old"
        finished = self.records[key]["status"] == "done"
        if not finished and self.records.get(old, {}).get("status") == "done" and self._aside(key).is_dir():
            shutil.rmtree(self.folder / key)
            return
        shutil.rmtree(self._aside(key), ignore_errors=True)
        (self.folder / key).rename(self._aside(key))
        self.records[old] = self.records[key]

    def _take_back(self, stage: Stage) -> bool:
        """Puts ``<key>.old`` back in its place where it is what the stage would make; what was there goes aside."""
        key, old, aside = stage.key, f"{stage.key}.old", self._aside(stage.key)
        kept = self.records.get(old)
        if kept is None or kept["status"] != "done" or kept["fingerprint"] != stage.fingerprint or not aside.is_dir():
            return False
        present, parked = self.folder / key, aside.with_name(f"{aside.name}er")
        shutil.rmtree(parked, ignore_errors=True)
        if present.is_dir():
            present.rename(parked)
        aside.rename(present)
        if self.records[key]["status"] == "done" and parked.is_dir():
            parked.rename(aside)
            self.records[key], self.records[old] = kept, self.records[key]
        else:
            shutil.rmtree(parked, ignore_errors=True)
            self.records[key] = self.records.pop(old)
        self._write()
        if not self.is_done(stage):
            return False
        self.reporter.say(f"{key}: made with these settings before, taken back")
        return True

    def _restore(self, key: str, record: dict[str, Any] | None, changed: list[str]) -> None:
        """Undoes what `ensure` did before the stage refused its input."""
        if changed and f"{key}.old" in self.records and self._aside(key).is_dir():
            shutil.rmtree(self.folder / key, ignore_errors=True)
            self._aside(key).rename(self.folder / key)
            self.records[key] = self.records.pop(f"{key}.old")
        elif record is None:
            del self.records[key]
        else:
            self.records[key] = record

    def output_digest(self, key: str, name: str | None = None) -> str:
        """Digest over the files of a stage, or over the one called ``name``; ``"missing"`` unless the stage is done."""
        record = self.records.get(key)
        if record is None or record["status"] != "done":
            return "missing"
        return digest(record["outputs"] if name is None else record["outputs"][f"{key}/{name}"])

    def require(self, stage: Stage, command: str) -> None:
        """Raises UserError unless the stage is done; ``command`` is what does it."""
        if not self.is_done(stage):
            known = stage.key in self.records
            finding = f"stage '{stage.key}' is not finished with these settings" if known else f"no '{stage.key}' yet"
            raise UserError(finding, where=self.folder, remedy=f"run '{command}' first")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder; a second process is refused.

    Raises:
        UserError: Another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot be a run folder: {error.strerror}", where=folder) from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError("another process works in this run folder", where=folder) from None
        remove_leftovers(folder)
        yield
