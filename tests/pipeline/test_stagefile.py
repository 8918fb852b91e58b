"""Settings that change back and forth, with a crash at every single change of the disk."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from usdn_nas._util.errors import RunError, UserError
from usdn_nas._util.files import digest, write_text
from usdn_nas._util.progress import Reporter
from usdn_nas.pipeline.ledger import Ledger, Stage, locked
from usdn_nas.pipeline.stagefile import _delete

CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "open")
WEIGHTS = "pretrain/weights.safetensors"


class Crash(BaseException):
    """The process is gone. Nothing handles this, and after it nothing reaches the disk."""


@contextmanager
def crash_at(number: int | None) -> Iterator[None]:
    """Within this context, the process crashes right before it makes the ``number``-th change of the disk."""
    left, dead = number, False

    def around(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left, dead
            if dead:
                raise Crash
            if left is not None:
                left -= 1
                if left == 0:
                    dead = True
                    raise Crash
            return change(*args, **kwargs)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        for name in CHANGES:
            patch.setattr(os, name, around(getattr(os, name)))
        yield


def stage(folder: Path, setting: str, work: Callable[[Stage], None] | None = None) -> Stage:
    """A stage that leaves its setting as weights, after a checkpoint."""

    def train(stage: Stage) -> None:
        write_text(folder / "pretrain/checkpoint.pt", setting)
        write_text(folder / WEIGHTS, setting)

    return Stage("pretrain", {"setting": setting}, (WEIGHTS,), work or train)


def name(setting: str) -> str:
    return digest({"setting": setting})[:12]


def finished(folder: Path) -> set[str]:
    """The settings whose work is recorded as finished."""
    if not (folder / "stages.json").exists():
        return set()
    found = json.loads((folder / "stages.json").read_text())
    records = [found["stages"].get("pretrain"), *(r["pretrain"] for r in found["aside"].get("pretrain", {}).values())]
    return {record["inputs"]["setting"] for record in records if record is not None and record["status"] == "done"}


def ensure(folder: Path, setting: str) -> bool:
    """Runs the stage if needed. Finished work is never made again, whatever happened before."""
    before, ran = finished(folder), []
    made = stage(folder, setting)

    def work(stage: Stage) -> None:
        ran.append(setting)
        assert setting not in before
        made.run(stage)

    with locked(folder):
        Ledger(folder, Reporter()).ensure(stage(folder, setting, work))
    return bool(ran)


def check(folder: Path, setting: str) -> None:
    """Everything lies where it belongs, and nothing else is there."""
    stages = json.loads((folder / "stages.json").read_text())
    assert stages["moves"] is None and stages["stages"]["pretrain"]["inputs"]["setting"] == setting
    aside = {
        f"pretrain.{place}": record["pretrain"]["inputs"]["setting"]
        for place, record in stages["aside"].get("pretrain", {}).items()
    }
    assert {path.name for path in folder.iterdir()} == {".lock", "stages.json", "pretrain", *aside}
    for place, expected in {"pretrain": setting, **aside}.items():
        assert [path.name for path in (folder / place).iterdir()] == ["weights.safetensors"]
        assert (folder / place / "weights.safetensors").read_text() == expected


def live(folder: Path, settings: Sequence[str], crashes: Sequence[int]) -> int:
    """Runs the settings one after the other, in lives that end by ``crashes``; returns the crashes that happened."""
    left, done = iter(crashes), 0
    happened = 0
    while done < len(settings):
        try:
            with crash_at(next(left, None)):
                while done < len(settings):
                    ensure(folder, settings[done])
                    check(folder, settings[done])
                    done += 1
        except Crash:
            happened += 1
    return happened


@pytest.mark.parametrize("settings", ["ABAB", "ABCB"])
def test_a_crash_at_every_change_and_another_in_the_recovery(settings: str, tmp_path: Path) -> None:
    for number in itertools.count(1):
        if not live(tmp_path / str(number), settings, [number, 1 + number * 7 % 19]):
            break
    assert number > 60


@pytest.mark.sweep
def test_every_pair_of_crashes(tmp_path: Path) -> None:
    for first in itertools.count(1):
        for second in itertools.count(1):
            folder = tmp_path / f"{first} {second}"
            happened = live(folder, "ABA", [first, second])
            shutil.rmtree(folder)
            if happened < 2:
                break
        if not happened:
            break
    assert first > 40


def test_what_is_set_aside_comes_back_and_the_last_is_kept(tmp_path: Path) -> None:
    assert [ensure(tmp_path, setting) for setting in "ABABCBC"] == [True, True, False, False, True, False, False]
    assert sorted(path.name for path in tmp_path.glob("pretrain*")) == ["pretrain", f"pretrain.{name('B')}"]


@pytest.mark.parametrize("failure", [RunError("no"), KeyboardInterrupt()])
def test_unfinished_work_goes_on_where_it_was(failure: BaseException, tmp_path: Path) -> None:
    def half(stage: Stage) -> None:
        write_text(tmp_path / "pretrain/checkpoint.pt", "half of B")
        raise failure

    def rest(stage: Stage) -> None:
        assert (tmp_path / "pretrain/checkpoint.pt").read_text() == "half of B"
        write_text(tmp_path / WEIGHTS, "B")

    ensure(tmp_path, "A")
    with pytest.raises(type(failure)):
        Ledger(tmp_path, Reporter()).ensure(stage(tmp_path, "B", half))
    assert not ensure(tmp_path, "A")
    assert Ledger(tmp_path, Reporter()).ensure(stage(tmp_path, "B", rest))
    check(tmp_path, "B")
    assert not ensure(tmp_path, "A")


@pytest.mark.parametrize("wrote", [False, True])
def test_a_refused_stage_puts_back_what_was_there(wrote: bool, tmp_path: Path) -> None:
    def refuse(stage: Stage) -> None:
        if wrote:
            write_text(tmp_path / "pretrain/checkpoint.pt", "half of B")
        raise UserError("no")

    def state() -> tuple[set[str], str]:
        return {path.name for path in tmp_path.rglob("*")}, (tmp_path / "stages.json").read_text()

    with pytest.raises(UserError, match="no"):
        Ledger(tmp_path, Reporter()).ensure(stage(tmp_path, "B", refuse))
    assert ("pretrain" in Ledger(tmp_path, Reporter()).records) == wrote  # if it wrote something, it can go on
    ensure(tmp_path, "A")
    before = state()
    with pytest.raises(UserError, match="no"):
        Ledger(tmp_path, Reporter()).ensure(stage(tmp_path, "B", refuse))
    assert (state() == before) == (not wrote)
    assert not ensure(tmp_path, "A")


def test_a_refused_stage_without_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    """Else the next run would take them for somebody else's."""

    def refuse(stage: Stage) -> None:
        if len(Ledger(tmp_path, Reporter()).records["report"]["inputs"]) > 1:
            write_text(tmp_path / "figures/front.png", "")
        raise UserError("no")

    for inputs, known in (({"bins": 1}, False), ({"bins": 1, "drawn": True}, True)):
        made = Stage("report", inputs, ("report.html", "figures/*"), refuse)
        with pytest.raises(UserError, match="no"):
            Ledger(tmp_path, Reporter()).ensure(made)
        assert ("report" in Ledger(tmp_path, Reporter()).records) == known


def test_what_was_damaged_while_it_was_aside_is_made_again(tmp_path: Path) -> None:
    for setting in "AB":
        ensure(tmp_path, setting)
    (tmp_path / f"pretrain.{name('A')}/weights.safetensors").write_text("a")
    assert Ledger(tmp_path, Reporter()).ensure(stage(tmp_path, "A"))
    check(tmp_path, "A")
    assert not ensure(tmp_path, "B")


def test_what_is_not_ours_is_not_moved(tmp_path: Path) -> None:
    """Folders of the user with the names of stages that have none, and one where results would be set aside."""
    for folder in ("report", "evaluate", f"pretrain.{name('A')}"):
        write_text(tmp_path / folder / "mine", "mine")
    for bins in (1, 2):
        for key, output in (("report", "report.html"), ("evaluate", "evaluation.json")):
            made = Stage(key, {"bins": bins}, (output,), lambda stage: write_text(tmp_path / stage.outputs[0], "x"))
            assert Ledger(tmp_path, Reporter()).ensure(made)
    ensure(tmp_path, "A")
    with pytest.raises(UserError, match=rf"pretrain\.{name('A')}: is in the way .*: move it away"):
        ensure(tmp_path, "B")
    assert len([path for path in tmp_path.rglob("mine") if path.read_text() == "mine"]) == 3
    assert not ensure(tmp_path, "A")


@pytest.mark.parametrize(
    "moves",
    [
        {"key": "../mine", "away": "0" * 12, "back": None, "drop": [], "checkpoint": False},
        {"key": "pretrain", "away": None, "back": None, "drop": ["../../mine"], "checkpoint": False},
        {"key": "supernet", "away": None, "back": None, "drop": ["0" * 12], "checkpoint": False},
        {"key": "pretrain", "more": 1, "drop": []},
        {"key": 3, "drop": []},
        [],
    ],
)
def test_moves_that_others_wrote_are_refused(moves: object, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ensure(folder, "A")
    write_text(tmp_path / "mine/file", "mine")
    path = folder / "stages.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"moves": moves}))
    with pytest.raises(UserError, match="stages.json.*moves"), locked(folder):
        pass
    assert (tmp_path / "mine/file").read_text() == "mine"


def test_a_users_file_in_a_folder_that_goes_stays(tmp_path: Path) -> None:
    """An unfinished stage's folder goes when other settings finish; notes that somebody put into it do not."""
    folder = tmp_path / "pretrain.0123456789ab"
    for name in ("checkpoint.pt", "history.csv", ".notes", "inner/.env-template", "inner/weights.safetensors"):
        write_text(folder / name, name)
    _delete(folder)
    left = tmp_path / "pretrain.0123456789ab.left"
    assert sorted(path.relative_to(left).as_posix() for path in left.rglob("*") if path.is_file()) == [
        ".notes",
        "inner/.env-template",
    ]
    assert not folder.exists()
    write_text(folder / "weights.safetensors", "")
    _delete(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name]
    write_text(folder / ".notes", "more")
    _delete(folder)
    assert (tmp_path / "pretrain.0123456789ab.left2/.notes").read_text() == "more"


@pytest.mark.sweep
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Processes that change the settings back and forth, killed by a real SIGKILL."""
    folder, random_moment = tmp_path / "run", random.Random(12)
    for setting in "AB":
        ensure(folder, setting)
    for _ in range(150):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                for setting in itertools.cycle("AB"):
                    assert not ensure(folder, setting)
            finally:
                os._exit(1)
        time.sleep(random_moment.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status)
        assert finished(folder) == {"A", "B"}
    for setting in "ABA":
        assert not ensure(folder, setting)
        check(folder, setting)
