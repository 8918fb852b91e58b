"""Workers in processes of their own: how they end, and what the supervisor makes of it."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path

import pytest

from usdn_nas._util.errors import RunError, UserError
from usdn_nas.pipeline.processes import orphaned, supervise

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def work(folder: Path, how: str) -> None:
    """The first to come does ``how``; the others wait to be told to end, and say that they were."""
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        if how == "well":
            return
        try:
            (folder / f"waits-{os.getpid()}").touch()
            time.sleep(60)
        except KeyboardInterrupt:
            (folder / f"ended-{os.getpid()}").touch()
            raise
    while how != "well" and not list(folder.glob("waits-*")):
        time.sleep(0.01)
    if how == "user":
        raise UserError("cannot be used", where="here")
    if how == "run":
        raise RunError("has failed")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interrupt":
        (folder / "interrupt").touch()
        time.sleep(60)
    (folder / f"threads-{os.environ['OMP_NUM_THREADS']}").touch()


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in folder.iterdir())


def test_all_end_well(tmp_path: Path) -> None:
    looks = []
    supervise(work, (tmp_path, "well"), workers=2, threads=3, watch=lambda: looks.append(True))
    assert names(tmp_path) == ["first", "threads"] and (tmp_path / "threads-3").exists() and looks


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ("user", UserError, "^here: cannot be used$"),
        ("run", RunError, "^has failed$"),
        ("killed", RunError, r"worker \d of the search was killed by signal 9; the same command goes on"),
    ],
)
def test_the_failure_of_one_ends_all(how: str, error: type[Exception], match: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=match):
        supervise(work, (tmp_path, how), workers=2, threads=1, watch=lambda: None)
    assert names(tmp_path) == ["ended", "first", "waits"]


def test_an_interrupt_ends_all(tmp_path: Path) -> None:
    def watch() -> None:
        if (tmp_path / "interrupt").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise(work, (tmp_path, "interrupt"), workers=2, threads=1, watch=watch)
    assert names(tmp_path) == ["ended", "first", "interrupt", "waits"]


def until_orphaned(folder: Path) -> None:
    """Waits for its supervisor's end."""
    (folder / f"waits-{os.getpid()}").touch()
    while not orphaned():
        time.sleep(0.01)
    (folder / f"ended-{os.getpid()}").touch()


def test_a_worker_knows_that_its_supervisor_was_killed(tmp_path: Path) -> None:
    assert not orphaned()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        supervise(until_orphaned, (tmp_path,), workers=2, threads=1, watch=lambda: None)
        os._exit(0)
    deadline = time.monotonic() + 240
    while names(tmp_path) != ["waits", "waits"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while names(tmp_path) != ["ended", "ended", "waits", "waits"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
