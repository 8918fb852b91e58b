"""Killed and resumed equals uninterrupted. The kills are real: SIGKILL to a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.pipeline import tiny as study_of
from tests.pipeline.tiny import contents, no_figures, recorded, run, snapshot
from usdn_nas._util.errors import UserError
from usdn_nas.pipeline.ledger import locked
from usdn_nas.study.journal import Journal
from usdn_nas.training import loop

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

How = Literal["before", "after", "torn"]


def killed(work: Callable[[], Any]) -> bool:
    """Runs ``work`` in a fork of this process, which has everything imported; whether it was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt:
    """Kills this process at its ``number``-th write: a rename, a deletion, or lines appended to the journal."""

    def __init__(self, number: int, how: How) -> None:
        self.left, self.how = number, how

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("replace", "rename", "unlink"):
            patch.setattr(Path, name, self._around(getattr(Path, name)))
        patch.setattr(Journal, "append_logs", self._around(Journal.append_logs, torn=True))

    def _around(self, write: Callable[..., Any], torn: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left > 0:
                return write(*args, **kwargs)
            if self.how == "torn" and torn:
                journal, logs = args
                with journal._path.open("ab") as file:
                    file.write(json.dumps(logs[0]).encode()[:40])
            elif self.how == "after":
                write(*args, **kwargs)
            return kill()

        return counted


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the run that the study in ``tmp_path`` leaves; checkpoints are written at every step."""
    study_of.write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    no_figures(monkeypatch)
    return tmp_path / "runs/tiny"


def go_on(folder: Path) -> list[str]:
    return run(folder.parents[1] / "studies/tiny.toml", until="evaluate")


def test_killed_again_and_again(folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hows: tuple[How, ...] = ("before", "after", "torn")
    kills, states = 0, set()

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            # Strides that have nothing to do with a stage's length meet all kinds of places.
            KillAt(9 + 5 * (kills % 5), hows[kills % 3]).install(patch)
            go_on(folder)

    while killed(work):
        kills += 1
        assert kills < 60
        ledger = json.loads((folder / "stages.json").read_text())["stages"]
        states |= {(key.split("/")[-1], record["status"]) for key, record in ledger.items()}
    assert kills >= 8
    assert {(stage, "running") for stage in ("supernet", "search")} <= states
    assert go_on(folder) == []
    with locked(folder):  # what writers left behind when they were killed goes
        pass
    assert {path.name for path in folder.rglob(".*")} == {".lock"}
    assert not list(folder.rglob("checkpoint.pt"))
    assert contents(folder) == contents(tiny)


CHANGED = "supernet.pretrain.lr=0.03"


@pytest.fixture(scope="module")
def changed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run after a changed setting, as far as pretrain."""
    folder = tmp_path_factory.mktemp("changed") / "run"
    shutil.copytree(tiny, folder)
    assert run(folder, CHANGED, until="pretrain") == ["pretrain"]
    return folder


@pytest.mark.parametrize("number", [3, 5, 6], ids=["before the ledger", "before the move", "before it is settled"])
def test_killed_while_a_changed_stage_begins(number: int, tiny_copy: Path, changed: Path) -> None:
    """The ledger is written, the old folder is moved away: a kill in between mixes nothing up."""
    # Not even with a checkpoint of the old settings in the way.
    (tiny_copy / "pretrain/checkpoint.pt").write_bytes(b"of the old settings")

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            KillAt(number, "before").install(patch)  # 1 and 2 are study.json
            run(tiny_copy, CHANGED, until="pretrain")

    assert killed(work)
    assert bool(list(tiny_copy.glob("pretrain.*"))) == (number > 5)
    assert run(tiny_copy, CHANGED, until="pretrain") == ["pretrain"]
    names = {name for name in contents(changed) if name.startswith("pretrain") and name.endswith("weights.safetensors")}
    assert len(names) == 2
    for name in names | {"pretrain/history.csv"}:
        assert contents(tiny_copy)[name] == contents(changed)[name]
    assert not (tiny_copy / "pretrain/checkpoint.pt").exists()


@pytest.mark.parametrize("number", [3, 5, 6, 7])
def test_killed_while_results_are_taken_back(number: int, tiny_copy: Path, tiny: Path, changed: Path) -> None:
    """Back to the old settings: whatever lies where, the weights are those of the settings."""
    shutil.rmtree(tiny_copy)
    shutil.copytree(changed, tiny_copy)

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            KillAt(number, "before").install(patch)
            run(tiny_copy, "supernet.pretrain.lr=0.1", until="pretrain")

    assert killed(work)
    for setting, whole in (("supernet.pretrain.lr=0.1", tiny), (CHANGED, changed)):
        assert run(tiny_copy, setting, until="pretrain") == []
        name = "pretrain/weights.safetensors"
        assert contents(tiny_copy)[name] == contents(whole)[name]


def test_killed_while_the_ladder_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are made and the weights written: not a step is made again but those since the last checkpoint."""
    from usdn_nas.pipeline import train

    with monkeypatch.context() as patch:
        patch.setattr(train, "ladder_rows", lambda evaluator: kill())
        assert killed(lambda: run(folder.parents[1] / "studies/tiny.toml", until="supernet"))
    assert (folder / "supernet/weights.safetensors").exists() and (folder / "supernet/checkpoint.pt").exists()
    steps = []
    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args: (steps.append(args[3].step), save(*args)))
    assert run(folder.parents[1] / "studies/tiny.toml", until="supernet") == ["supernet"]
    assert steps == []


SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from usdn_nas.cli import main
from usdn_nas.training import loop
loop.SECONDS_BETWEEN_CHECKPOINTS = -1
sys.argv[1:] = ["evaluate", "studies/tiny.toml", "--quiet"]
main()
"""


@pytest.mark.sweep
def test_the_command_killed_from_outside(folder: Path, tiny: Path) -> None:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, cwd=folder.parents[1])
    deadline = time.monotonic() + 240
    while not (folder / "supernet/checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with locked(folder):  # the lock died with its owner
        pass
    with recorded() as ran:
        go_on(folder)
    assert ran[0] == "supernet"
    assert contents(folder) == contents(tiny)


def test_a_torn_last_line_of_the_journal(tiny_copy: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_copy.parents[1])
    journal = tiny_copy / "search/study.journal"
    # Its owner is gone: in truth it is a process of these tests, which made the run and still lives.
    whole = re.sub(rb'"pid":\d+', b'"pid":99999999', journal.read_bytes())
    for name in ("trials.csv", "front.csv"):
        (journal.parent / name).unlink()
    # In the middle of the fourth trial.
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) * 2 // 3]) + lines[len(lines) * 2 // 3][:30])
    assert run(tiny_copy, until="search") == ["search"]
    mine, theirs = contents(tiny_copy), contents(tiny)
    assert mine["search/trials.csv"] == theirs["search/trials.csv"]
    assert mine["search/front.csv"] == theirs["search/front.csv"]


def test_two_processes_on_one_folder(tiny_copy: Path) -> None:
    before = snapshot(tiny_copy)
    with locked(tiny_copy):

        def second() -> None:
            with pytest.raises(UserError, match="another process works in this run folder"), locked(tiny_copy):
                raise AssertionError

        assert not killed(second)
    with locked(tiny_copy):
        pass
    assert snapshot(tiny_copy) == before
