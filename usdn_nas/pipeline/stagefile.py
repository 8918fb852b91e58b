"""Keeps ``stages.json`` and the folders that it describes in agreement, even if the process is killed at any moment.

A stage that trains keeps its files in the folder of its name, ``pretrain`` for example. When its settings change, that
folder is set aside as ``pretrain.<first 12 digits of the fingerprint>``, and when they change back it is taken back.
Folders and ``stages.json`` cannot be changed in one step, and a kill may come between any two steps. So each change is
made in this order:

1. ``stages.json`` is written. Its records already describe the folders as they will be, and ``moves`` lists what is
   still to be done: first rename the present folder ``K`` to ``K.<away>``, then rename ``K.<back>`` to ``K``, then
   delete the folders ``K.<drop>`` and the checkpoint.
2. The moves are made. Each is made only if its source is there and its target is not.
3. ``stages.json`` is written without ``moves``.

Whoever opens the run folder next repeats steps 2 and 3 if ``moves`` is there. This is right wherever the kill came:

- During step 1 nothing has changed, because `write_document` replaces the file in one rename.
- After step 1 it is certain which moves were made, because no two states of the folders look alike. Before step 1,
  ``K.<away>`` does not exist (`StageFile.rearrange` checks this) and ``K.<back>`` exists. So the first move was made
  if and only if ``K.<away>`` exists, and the second was made if and only if ``K.<back>`` does not exist. A move that
  was made is skipped, because its target exists or its source does not. The second move finds ``K`` free, because the
  first has been made by then. A rename is one step for the file system: it has happened or it has not.
- Deleting can be interrupted anywhere and is repeated until nothing of ours is left. A folder is deleted only when no
  record describes it any longer, so that no finished work depends on it. Files in it that no stage writes stay.
- Step 3 replaces the file in one rename again. If it did not happen, the repetition finds nothing to do.

Hence no finished folder is ever lost or mistaken for that of other settings. Only ``K``, ``K.<digits>`` and
``K/checkpoint.pt`` are ever renamed or deleted, and only where ``stages.json`` has a record of the stage ``K``.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usdn_nas._util.errors import UserError
from usdn_nas._util.writing import PREFIX, writing
from usdn_nas.documents import StagesDocument, read_document, write_document

__all__ = ["CHECKPOINT", "Moves", "Records", "StageFile"]

CHECKPOINT = "checkpoint.pt"

Records = dict[str, dict[str, Any]]
"""The record of each stage, by key."""

_WRITTEN = (
    *(CHECKPOINT, "weights.safetensors", "history.csv", "ladder.json", "diagnostics.json", "architecture.json"),
    *("trials.csv", "front.csv", "seconds.csv", "sensitivity.json", "engine.json", "study.journal", "study.journal.*"),
    *("events.out.tfevents.*", f"{PREFIX}*"),
)
"""Names of the files that stages write into their folders."""

_KEY = re.compile(r"[a-z]+(/[0-9a-f]{12}/[a-z]+)?")
_NAME = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Moves:
    """The changes that remain to be made to the folders of one stage.

    Attributes:
        key: The stage, which is also the path of its folder.
        away: The name under which the present folder is set aside; None if it stays or does not exist.
        back: The name of the folder that is taken back; None if none is.
        drop: Names of folders set aside that are deleted.
        checkpoint: True if the checkpoint in the present folder is deleted.
    """

    key: str
    away: str | None = None
    back: str | None = None
    drop: tuple[str, ...] = ()
    checkpoint: bool = False

    def __bool__(self) -> bool:
        return bool(self.away or self.back or self.drop or self.checkpoint)


class StageFile:
    """The content of ``stages.json``.

    Attributes:
        folder: The run folder.
        stages: Records of the stages as they are now.
        aside: For each stage, the folders set aside, oldest first: name -> the records of the stages whose files lie
            in that folder.
        moves: Changes to the folders that a killed process left unfinished; None if there are none.

    Raises:
        UserError: ``stages.json`` is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "stages.json"
        self.stages: Records = {}
        self.aside: dict[str, dict[str, Records]] = {}
        self.moves: Moves | None = None
        self._read()

    def _read(self) -> None:
        payload = read_document(self.path, StagesDocument)[1] if self.path.exists() else {"stages": {}}
        self.stages, self.aside = payload["stages"], payload.get("aside", {})
        moves = payload.get("moves")
        self.moves = None if moves is None else self._checked(moves)

    def _checked(self, moves: Mapping[str, Any]) -> Moves:
        """Checks moves that were read from a file. As moves delete folders, only this program's names are accepted."""
        try:
            found = Moves(**{**moves, "drop": tuple(moves["drop"])})
            names = [name for name in (found.away, found.back, *found.drop) if name is not None]
            ours = _KEY.fullmatch(found.key) and found.key in self.stages and all(map(_NAME.fullmatch, names))
        except (TypeError, KeyError):
            ours = None
        if not ours:
            raise UserError("'moves' are not what this program writes", where=self.path)
        return found

    def place(self, key: str, name: str) -> Path:
        """Returns the path of the folder of a stage that is set aside as ``name``."""
        folder = self.folder / key
        return folder.with_name(f"{folder.name}.{name}")

    def folders(self) -> set[Path]:
        """Returns every folder that the stages write files to, whether it exists or not."""
        keys = {self.folder / key for key in {*self.stages, *self.aside}}
        aside = {self.place(key, name) for key, places in self.aside.items() for name in places}
        return {self.folder, self.folder / "figures", *keys, *(path.parent for path in keys), *aside}

    def write(self) -> None:
        """Writes the records."""
        self._write(self.stages, self.aside, self.moves)

    def _write(self, stages: Records, aside: Mapping[str, Any], moves: Moves | None) -> None:
        left = None if moves is None else asdict(moves)
        aside = {key: places for key, places in aside.items() if places}
        write_document(self.path, StagesDocument, {"stages": stages, "aside": aside, "moves": left})

    def rearrange(self, stages: Records, aside: dict[str, Records], moves: Moves) -> None:
        """Changes the records of all stages, the folders that one of them has set aside, and the folders themselves.

        Args:
            stages: Records of the stages, as they will be.
            aside: Folders that the stage ``moves.key`` will have set aside.
            moves: The changes to make to that stage's folders.

        Raises:
            UserError: The present folder cannot be set aside, because an unrecorded file or folder has the new name.
        """
        assert self.moves is None
        assert moves.back is None or moves.away is not None or not os.path.lexists(self.folder / moves.key)
        if moves.away is not None and os.path.lexists(self.place(moves.key, moves.away)):
            raise UserError(
                "is in the way of results that are to be set aside",
                where=self.place(moves.key, moves.away),
                remedy="no stage wrote it: move it away",
            )
        everything = {**self.aside, moves.key: aside}
        try:
            self._write(stages, everything, moves if moves else None)
            self.stages, self.aside, self.moves = stages, everything, moves if moves else None
            self.settle()
        except BaseException:
            self._read()  # a caller that catches the error, such as a notebook, continues from the state on disk
            raise

    def settle(self) -> None:
        """Makes the remaining moves, if any, and records that they are made."""
        if self.moves is None:
            return
        moves, present = self.moves, self.folder / self.moves.key
        with writing(present):
            if moves.away is not None:
                _move(present, self.place(moves.key, moves.away))
            if moves.back is not None:
                _move(self.place(moves.key, moves.back), present)
            for name in moves.drop:
                _delete(self.place(moves.key, name))
            if moves.checkpoint:
                (present / CHECKPOINT).unlink(missing_ok=True)
        self._write(self.stages, self.aside, None)
        self.moves = None


def _move(source: Path, target: Path) -> None:
    if os.path.lexists(source) and not os.path.lexists(target):
        source.rename(target)


def _delete(path: Path) -> None:
    """Deletes the files that stages write into a folder, and the folder if nothing else is in it.

    A user's files stay, in the folder ``<path>.left`` (or ``.left2``, ``.left3`` and so on). If ``path`` is a link,
    only the link is deleted.
    """
    if path.is_symlink():
        path.unlink()
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in _WRITTEN):
                os.unlink(os.path.join(folder, name))
        if not os.listdir(folder):
            os.rmdir(folder)
    if path.exists():
        places = (path.with_name(f"{path.name}.left{number if number > 1 else ''}") for number in itertools.count(1))
        path.rename(next(place for place in places if not os.path.lexists(place)))
