"""Atomic writes, what killed writers leave behind, and disks that refuse to be written to."""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn

from usdn_nas._util.errors import RunError, UserError
from usdn_nas._util.files import write_text
from usdn_nas._util.progress import Reporter
from usdn_nas._util.writing import atomic_path, os_failure, remove_leftovers, writing
from usdn_nas.networks.weights import save_weights
from usdn_nas.report.figures.write import save_figure
from usdn_nas.study.journal import Journal
from usdn_nas.training.checkpoint import Progress, save_checkpoint
from usdn_nas.training.curves import open_curves

USERS = [
    ".env-template",
    ".vscode-settings.json",
    ".bash_history-20261127",
    ".x-abcdefgh",
    ".x-abcdefgh.json",
    ".usdn-nas",
    ".usdn-nas-tmp",
    ".usdn-nas-tmp-",
    ".usdn-nas-tmp-0123456789abcde",
    ".usdn-nas-tmp-0123456789ABCDEF",
    ".usdn-nas-tmp-0123456789abcdef.tar.gz",
    ".usdn-nas-tmp-0123456789abcdef-mine",
    "usdn-nas-tmp-0123456789abcdef",
]


@pytest.mark.parametrize("name", ["weights.safetensors", "x.json", "plain", ".hidden", "no.good suffix", "ä" * 127])
def test_what_a_killed_writer_left_is_removed(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch, atomic_path(tmp_path / name):
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        raise KeyboardInterrupt
    (left,) = tmp_path.iterdir()
    assert left.suffix in (Path(name).suffix, "")
    remove_leftovers([tmp_path, tmp_path / "missing"])
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    ours = ".usdn-nas-tmp-0123456789abcdef.json"
    outside = tmp_path / "outside"
    for folder in (tmp_path / "run", tmp_path / "run/nested", outside):
        for name in (*USERS, ours):
            write_text(folder / name, name)
    (tmp_path / "run/linked").symlink_to(outside)
    (tmp_path / "run/.usdn-nas-tmp-00112233445566aa").symlink_to(outside / USERS[0])
    (tmp_path / "run/.usdn-nas-tmp-00112233445566bb").mkdir()
    remove_leftovers([tmp_path / "run", tmp_path / "run/linked"])
    assert not (tmp_path / "run" / ours).exists()
    assert (tmp_path / "run/nested" / ours).exists() and (outside / ours).exists()
    assert all((folder / name).read_text() == name for folder in (tmp_path / "run", outside) for name in USERS)
    assert (tmp_path / "run/.usdn-nas-tmp-00112233445566aa").is_symlink()
    assert (tmp_path / "run/.usdn-nas-tmp-00112233445566bb").is_dir()


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 250 + ".json"), "whole")
    with pytest.raises(UserError, match="cannot be written: File name too long"):
        write_text(tmp_path / ("x" * 251 + ".json"), "whole")


def test_the_mask_of_the_process_holds(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; make room on this disk"),
        (errno.EDQUOT, "; make room within your disk quota"),
        (errno.EFBIG, "File too large; raise the limit"),
        (errno.EROFS, "Read-only file system; "),
        (errno.EACCES, "Permission denied; "),
        (errno.EIO, "Input/output error; check this disk"),
        (errno.EBADF, "Bad file descriptor; mend this"),
    ],
)
def test_a_disk_that_refuses_is_one_line(number: int, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught, writing(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"{tmp_path / 'x'}: cannot be written: ") and remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    assert remedy in str(os_failure(OSError(number, os.strerror(number), "file")))


def test_libraries_hide_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No space left"), writing(tmp_path / "x"):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  as torch does
    with pytest.raises(RuntimeError, match="another"), writing(tmp_path / "x"):
        raise RuntimeError("another")


@pytest.mark.parametrize("failing", ["mkdir", "open", "fsync", "replace", "write"])
def test_nothing_is_left_of_a_write_that_failed(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_text(tmp_path / "x", "before")
    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(Path, "write_text", full)
        elif failing == "mkdir":
            patch.setattr(Path, "mkdir", full)
        else:
            patch.setattr(os, failing, full)
        with pytest.raises(RunError, match="x: cannot be written: No space left on device"):
            write_text(tmp_path / "x", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "before"


def test_a_log_on_a_full_disk_ends_no_run() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reporter = Reporter(Console(file=Full()))
    reporter.say("a line")
    with reporter.task("training", 2) as task:
        task.advance("half")
        task.advance("whole")


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Within this context, the operating system lets no file of this process grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_library_that_writes(tmp_path: Path) -> None:
    """A real limit on the size of files. What is written is whole, or it is not there."""
    network = nn.Linear(100, 100)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    figure = Figure()
    figure.subplots().plot(range(100))
    (tmp_path / "a.journal").touch()
    journal = Journal(tmp_path / "a.journal")

    def curves(path: Path) -> None:
        with open_curves(path, 1) as curves:
            for step in range(1000):
                curves.add("group", {"name": 1.0}, step)

    def lines(path: Path) -> None:
        for number in range(200):
            journal.append_logs([{"op_code": 1, "number": number, "attribute": "x" * 37}] * 3)

    works: dict[str, Callable[[Path], object]] = {
        "checkpoint.pt": lambda path: save_checkpoint(path, network, optimizer, Progress(), "x"),
        "weights.safetensors": lambda path: save_weights(network, path),
        "figure.png": lambda path: save_figure(figure, path),
        "figure.svg": lambda path: save_figure(figure, path),
        "figure.pdf": lambda path: save_figure(figure, path),
        "text": lambda path: write_text(path, "x" * 3001),
        "curves": curves,
        "a.journal": lines,
    }
    for name, work in works.items():
        path = tmp_path / name
        with small_files(3000), pytest.raises(RunError) as caught:
            work(path)
        assert str(caught.value).startswith(f"{path}: cannot be written: File too large; "), name
    assert {path.name for path in tmp_path.iterdir()} == {"curves", "a.journal", "a.journal.flock"}
    kept = (tmp_path / "a.journal").read_bytes().splitlines(keepends=True)
    assert kept[-1].endswith(b"\n") and len(kept) % 3 == 0 and len(kept) > 3
    journal.append_logs([{"op_code": 1}])  # there is room again
    assert (tmp_path / "a.journal").read_bytes().splitlines(keepends=True)[:-1] == kept
