"""The lock for proposals: never in a shared folder, never silent, never for ever."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

import pytest

from tests.study.helpers import config, searched
from usdn_nas.study import lock
from usdn_nas.study.storage import open_storage


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_lock_that_is_held_is_said_and_stops_nobody(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_SAY_AFTER_S", 0.0)
    monkeypatch.setattr(lock, "_GO_ON_AFTER_S", 0.1)
    url = f"sqlite:///{tmp_path}/study.db" if storage == "sqlite" else None
    opened = open_storage(url, tmp_path / "study.journal")
    file = tmp_path / ("study.db-asking" if url else "study.journal")
    said: list[str] = []
    with file.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with lock.asking(opened, said.append):
            pass
    assert len(said) == 2 and "waits for another worker" in said[0] and "goes on without the lock" in said[1]
    assert all(str(file) in line for line in said)
    said.clear()
    with lock.asking(opened, said.append):
        pass
    assert said == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    opened = open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path)
    (tmp_path / "study.db-asking").symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    with lock.asking(opened, said.append):
        pass
    assert not (tmp_path / "elsewhere").exists() and "goes on without a lock" in said[0]


def test_nothing_is_written_to_the_shared_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr(tempfile, "tempdir", None)
    searched(config(storage=f"sqlite:///{tmp_path}/study.db", configurations=2), tmp_path)
    assert list(shared.iterdir()) == []
