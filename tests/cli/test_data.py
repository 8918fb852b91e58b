"""``usdn-nas data``: names of files are data, whatever characters they have."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.test_bad_input import refused

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.mark.parametrize("name", ["[/red] [bold]", "a,b", "x" * 200])
def test_odd_folders(name: str, command: Command, tmp_path: Path) -> None:
    root = tmp_path / name
    root.mkdir(parents=True)
    for file in FILES:
        (root / file).touch()
    result = command("data", "idx", "--root", root)
    assert result.exit_code == 0 and result.stdout.startswith("idx: present\n")
    assert f"looked in {root}\n" in result.stdout
    rows = list(csv.DictReader(io.StringIO(command("data", "idx", "--root", root, "--format", "csv").stdout)))
    assert [(row["file"], row["found"], row["bytes"]) for row in rows] == [(f, f"{root}/{f}", "0") for f in FILES]
    found = json.loads(command("data", "idx", "--root", root, "--format", "json").stdout)
    assert [file["path"] for file in found["files"]] == [str(root / file) for file in FILES]


@pytest.mark.parametrize("name", ["a\nb\x1b[31m", os.fsdecode(b"\xff\xfe")])
def test_folders_that_cannot_be_printed(name: str, command: Command, tmp_path: Path) -> None:
    line = refused(command, tmp_path, "data", "idx", "--root", name)
    assert "--root: expected a name without control characters, in UTF-8" in line and "\x1b" not in line


@pytest.mark.parametrize("root", ["x" * 5000, "~nobodyhere/x", "loop"])
def test_roots_that_cannot_be_followed(root: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    refused(command, tmp_path, "data", "idx", "--root", root)


def test_nothing_but_a_pipe(command: Command, tmp_path: Path) -> None:
    for file in FILES:
        os.mkfifo(tmp_path / file)
    assert command("data", "idx", "--root", tmp_path).exit_code == 1
