"""Files of a user, with odd names, in and around a run folder: they stay as they are."""

from __future__ import annotations

import hashlib
import os
import random
import string
from pathlib import Path

__all__ = ["Users"]

NAMES = (
    ".env-template", ".vscode-settings.json", ".bash_history-20261127", ".notes-to-self1.md", ".gitignore", ".old",
    ".X-abcdefgh", ".X-abcdefgh.json", ".weights-a1b2c3d4.safetensors", ".stages-00000000.json", "notes.old.txt",
    ".tmp", ".lock-mine", ".checkpoint-12345678.pt", "tmpabcdefgh", ".tmpabcdefgh.json", "my results.csv",
    ".ünï-cödé_äöü",
    ".study.json.swp", ".~lock.report.html#", ".nfs000000000123",
)  # fmt: skip
"""Names that people and their programs give, among them several that look like temporary files."""


STAGES = ("pretrain", "supernet", "search")
"""Folders of the program's own in which a user may also put files."""


class Users:
    """Files in a working directory, in a run folder in it, and in folders of their own inside that.

    Args:
        folder: The working directory.
        run: The run folder, which need not be there yet.
    """

    def __init__(self, folder: Path, run: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._folder, self._run = folder, run
        self._files: dict[Path, tuple[str, int, int]] = {}
        self._places: set[Path] = set()
        self.plant()

    @property
    def count(self) -> int:
        """Number of the files."""
        return len(self._files)

    def owns(self, name: str) -> bool:
        """Whether one of these has this name."""
        return any(path.name == name for path in self._files)

    def plant(self) -> None:
        """Adds files where there are none yet: a user adds notes at any time."""
        own = [
            self._folder,
            self._run.parent,
            self._run,
            self._run / ".mine",
            self._run / "my notes" / "deeper-12345678",
        ]
        stages = [place for name in STAGES if (place := self._run / name).is_dir()]
        for place in own + stages:
            if place in self._places:
                continue
            self._places.add(place)
            place.mkdir(parents=True, exist_ok=True)
            for name in (*NAMES, *(self._odd() for _ in range(4))):
                self._write(place / name)

    def _odd(self) -> str:
        """A name that ends as `tempfile` ends its names."""
        letters = string.ascii_lowercase + string.digits + "_"
        end = "".join(self._chance.choices(letters, k=8))
        return (
            f".{self._chance.choice(('study', 'a', 'weights', 'x.y'))}-{end}{self._chance.choice(('', '.json', '.pt'))}"
        )

    def _write(self, path: Path) -> None:
        if path.exists():
            return
        path.write_bytes(self._chance.randbytes(self._chance.randrange(50)))
        os.utime(path, (1e9, 1e9))
        self._files[path] = self._look(path)

    @staticmethod
    def _look(path: Path) -> tuple[str, int, int]:
        stat = path.stat()
        return hashlib.sha256(path.read_bytes()).hexdigest(), stat.st_mtime_ns, stat.st_mode

    def gone(self) -> list[str]:
        """Those that are missing or changed. A stage's folder may have been set aside with what lies in it."""
        there = {(path.name, *self._look(path)) for path in self._run.rglob("*") if path.is_file()}
        return [
            str(path.relative_to(self._folder))
            for path, before in self._files.items()
            if (not path.is_file() or self._look(path) != before)
            and not (path.parent.name in STAGES and (path.name, *before) in there)
        ]
