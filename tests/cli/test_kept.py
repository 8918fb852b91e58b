"""Nothing of the user's is lost, and no damaged figure is shown."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.test_bad_input import refused
from tests.pipeline.tiny import snapshot
from usdn_nas._util import files
from usdn_nas.pipeline.context import open_run
from usdn_nas.pipeline.evaluate import write_all_figures

HIDDEN = (
    ".env-template",
    ".vscode-settings.json",
    ".bash_history-20261127",
    ".lock",
    "deep/.x-abcdefgh.json",
    "notes.md",
)


def test_files_of_the_user_are_left_alone(command: Command, tiny_copy: Path) -> None:
    """In a run folder, in the folders of its stages, and in folders beside them."""
    places = [tiny_copy, tiny_copy / "search", tiny_copy / "figures", tiny_copy / "mine"]
    for place in places:
        for name in HIDDEN:
            files.write_text(place / name, f"mine: {name}")
    left = tiny_copy / "search/.usdn-nas-tmp-0123456789abcdef.csv"
    left.write_text("of a killed process")
    before = {path: path.stat().st_mtime_ns for place in places for path in map(place.joinpath, HIDDEN)}
    assert command("run", tiny_copy, "--set", "seed=3").exit_code == 0
    assert not left.exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(
        path.read_text() == f"mine: {path.relative_to(place)}"
        for place in places
        for path in map(place.joinpath, HIDDEN)
    )


@pytest.mark.parametrize(
    "name",
    [
        "pretrain/thesis.tex",
        "search/needle.txt",
        "supernet/x",
        "export/x",
        "figures/front.png",
        "report.html",
        "evaluation.json",
        "study.json",
        "chain.json",
        "stages.json",
    ],
)
def test_a_folder_with_something_in_the_way(name: str, command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    files.write_text(tmp_path / "home" / name, "{}")
    line = refused(command, tmp_path, "pretrain", "studies/tiny.toml", "--out", "home")
    assert f"home/{Path(name).parts[0]}: " in line
    if name != "stages.json":
        assert "is there already, and no run wrote it; choose another run folder (--out), or move it away" in line


def test_a_folder_with_nothing_in_the_way(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    files.write_text(tmp_path / "home/.profile-abcdefgh", "mine")
    (tmp_path / "home/search").mkdir()
    assert (
        command("pretrain", "studies/tiny.toml", "--out", "home", "--set", "supernet.pretrain.epochs=0").exit_code == 0
    )
    assert (tmp_path / "home/.profile-abcdefgh").read_text() == "mine"


def test_no_run_folder(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    line = refused(command, tmp_path, "pretrain", "studies/tiny.toml", "--out", "file")
    assert "file: is a file, and a run needs a folder" in line
    files.write_text(tmp_path / "home/retrain", "mine")
    line = refused(command, tmp_path, "pretrain", "studies/tiny.toml", "--out", "home")
    assert "home/retrain: is a file, and a run needs a folder" in line
    for arguments in (
        ("run", "studies/tiny.toml", "--out", ""),
        ("run", "studies/tiny.toml", "--out", "  "),
        ("export", tiny_copy, "--to", ""),
        ("export", tiny_copy, "--front", ""),
        ("evaluate", tiny_copy, "--architecture", ""),
        ("front", tiny_copy, "--out", ""),
        ("plot", "front", tiny_copy, "--to", ""),
        ("compare", tiny_copy, "--to", ""),
        ("data", "digits", "--root", ""),
    ):
        assert f"error: {arguments[-2]}: expected a name, got " in refused(command, tmp_path, *arguments)
    assert "expected a study or the folder of a run" in refused(command, tmp_path, "run", "")


def test_an_export_over_a_file_of_another_kind(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    files.write_text(tmp_path / "other.json", "{}")
    assert "other.json: is there already and is no architecture" in refused(
        command, tmp_path, "export", tiny_copy, "--to", tmp_path / "other.json"
    )
    first = json.loads((tiny_copy / "export/architecture.json").read_text())["source"]["trial"]
    files.write_text(tmp_path / f"front/{first}.json", "{}")
    assert f"front/{first}.json: is there already" in refused(
        command, tmp_path, "export", tiny_copy, "--front", tmp_path / "front"
    )
    for _ in range(2):  # over one of its own it writes
        assert command("export", tiny_copy, "--to", tmp_path / "mine.json").exit_code == 0


@pytest.mark.parametrize("text", ["a last line without its end", '{"op_codes": 1}', "\n{", "x"])
def test_a_log_of_the_user_is_no_journal(text: str, command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    """A journal's last line is cut off if it is torn; that of another file is not."""
    (tmp_path / "notes.log").write_text(text)
    line = refused(command, tmp_path, "search", tiny_copy, "--set", "search.storage=notes.log", "--set", "seed=5")
    assert "notes.log: the journal is damaged: its first line is not that of a journal" in line
    assert (tmp_path / "notes.log").read_text() == text


def test_figures_without_data_go_and_others_stay(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from usdn_nas import report

    monkeypatch.setattr(report, "write_figures", lambda run, folder, drawn: [folder / "front.png"])
    monkeypatch.setattr(report, "draw_figures", lambda run: {})
    monkeypatch.setattr(report, "write_report", lambda *_, **__: None)
    files.write_text(tiny_copy / "figures/mine.png", "mine")
    write_all_figures(open_run(tiny_copy))
    assert {path.name for path in (tiny_copy / "figures").iterdir()} == {"front.png", "mine.png"}


DAMAGED = {
    "search/front.csv": (("front",), ("plot", "front"), ("front", "--format", "csv")),
    "search/trials.csv": (("plot", "history"),),
    "evaluation.json": (("compare",), ("plot", "exits")),
    "supernet/ladder.json": (("plot", "ladder"),),
    "pretrain/history.csv": (("plot", "training"),),
    "export/architecture.json": (("plot", "bits"),),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_figure_that_was_changed_is_not_shown(name: str, command: Command, tiny_copy: Path) -> None:
    path = tiny_copy / name
    whole = path.read_bytes()
    digit = max(index for index in range(len(whole)) if whole[index : index + 1].isdigit())
    path.write_bytes(whole[:digit] + (b"1" if whole[digit : digit + 1] == b"0" else b"0") + whole[digit + 1 :])
    for what, *more in DAMAGED[name]:
        before = snapshot(tiny_copy)
        figure = more[:1] if what == "plot" else []
        line = refused(command, tiny_copy, what, *figure, tiny_copy, *more[len(figure) :])
        assert f"{path}: was changed or damaged since stage '" in line
        assert line.endswith(f" {tiny_copy} writes it again\n")
        assert snapshot(tiny_copy) == before
    path.write_bytes(whole)
    what, *more = DAMAGED[name][0]
    assert command(what, *more, tiny_copy).exit_code == 0


def test_a_full_disk_at_any_write(command: Command, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, status 1, and no file is half written; afterwards the same command goes on."""
    fsync, left = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    arguments = ("pretrain", tiny_copy, "--set", "supernet.pretrain.epochs=1")
    for room in range(30):
        left = room
        result = command(*arguments)
        if result.exit_code == 0:
            break
        assert result.exit_code == 1 and result.stdout == ""
        *_, line = result.stderr.splitlines()
        assert line.startswith("failed: ") and "cannot be written: No space left on device; make room" in line
        assert not list(tiny_copy.rglob(".usdn-nas-tmp-*"))
    assert 3 < room < 29


def test_the_output_may_be_full_too(tiny: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "usdn_nas", "front", str(tiny), "--format", "csv"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("failed: ") and "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
