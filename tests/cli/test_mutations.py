"""Damaged files of a finished run, studies, search spaces and architectures: one line and status 2, at once."""

from __future__ import annotations

import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from tests.cli.conftest import Command
from tests.cli.mutations import mutate
from usdn_nas._util.errors import UserError
from usdn_nas.report import load_run
from usdn_nas.report.figures.write import FIGURES
from usdn_nas.report.run import HISTORIES, MissingPartError

PARTS = (
    "study.json", "chain.json", "stages.json", "search/front.csv", "search/trials.csv", "search/sensitivity.json",
    "supernet/ladder.json", "supernet/diagnostics.json", "pretrain/history.csv", "supernet/history.csv",
    "evaluation.json", "export/architecture.json", "retrain/*/kd/architecture.json", "retrain/*/kd/history.csv",
)  # fmt: skip
PROPERTIES = (
    "study", "config", "space", "trials", "front", "architecture", "retrained", "winner", "evaluation", "ladder",
    "diagnostics", "sensitivity", "stages",
)  # fmt: skip
SECONDS = 20


@contextmanager
def limited() -> Iterator[None]:
    """Raises TimeoutError if the body takes too long, and turns warnings, which people would see, into errors."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("error", UserWarning)
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(command: Command, *arguments: object) -> int:
    """Runs a command that must succeed, or end with status 2 and one short line. Returns the status."""
    start = time.monotonic()
    with limited():
        result = command(*arguments)
    told = (arguments, result.exit_code, result.stderr[-2000:])
    assert time.monotonic() - start < SECONDS, told
    assert result.exit_code in (0, 2), told
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("search: ", "report: "))]
    if result.exit_code == 2:
        assert len(lines) == 1 and lines[0].startswith("error: "), told
        assert lines[0].isprintable() and len(lines[0]) < 1100, told
        for foreign in ("Input should", "pydantic", "validation error", "Traceback", "Errno"):
            assert foreign not in lines[0], told
    return result.exit_code


def read_all(folder: Path) -> int:
    """Reads every part of a run folder; returns how many were refused."""
    refused = 0
    for name in (*PROPERTIES, *HISTORIES):
        run = None
        try:
            with limited():
                run = load_run(folder)
                run.history(name) if name in HISTORIES else getattr(run, name)
        except MissingPartError:
            pass
        except UserError as error:
            refused += 1
            assert str(error).isprintable()
    return refused


@pytest.mark.parametrize("part", PARTS)
def test_readers_of_a_damaged_run(part: str, tiny: Path, tmp_path: Path) -> None:
    refused = 0
    for seed in range(6):
        shutil.copytree(tiny, tmp_path / str(seed), ignore=shutil.ignore_patterns("figures", "*.safetensors", "*.html"))
        mutate(next((tmp_path / str(seed)).glob(part)), seed)
        refused += read_all(tmp_path / str(seed)) > 0
    assert refused > 0


@pytest.mark.parametrize("kind", ["studies/tiny.toml", "search_spaces/tiny_space.toml"])
def test_damaged_studies_and_spaces(kind: str, command: Command, tiny: Path, tmp_path: Path) -> None:
    whole = (tiny.parents[1] / kind).read_text()
    statuses = []
    for seed in range(25):
        _write_toml(tiny, tmp_path)
        path = tmp_path / kind
        mutate(path, seed)
        statuses.append(check(command, "run", "studies/tiny.toml", "--dry-run", "--out", "new"))
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_text(whole)
    assert statuses.count(2) > 10 and not (tmp_path / "new").exists()


def _write_toml(tiny: Path, folder: Path) -> None:
    for name in ("studies", "search_spaces"):
        shutil.copytree(tiny.parents[1] / name, folder / name, dirs_exist_ok=True)


LOOKS = [("front",), ("compare",), *(("plot", name) for name in FIGURES)]


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(1000, 1008))
@pytest.mark.parametrize("part", PARTS)
def test_commands_on_a_damaged_run(part: str, seed: int, command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    how = mutate(next(tiny_copy.glob(part)), seed)
    for number, look in enumerate(LOOKS):
        if number < 2 or (seed + number) % 4 == 0:
            print(part, seed, how, look)
            check(command, *look, tiny_copy, *(("--to", "x.svg") if look[0] == "plot" else ()))
    if part.endswith("architecture.json"):
        check(
            command, "plot", "bits", next(tiny_copy.parent.glob(f"*/{part}"), tmp_path / "none.json"), "--to", "x.svg"
        )
    read_all(tiny_copy)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(2000, 2100))
@pytest.mark.parametrize("kind", ["studies/tiny.toml", "search_spaces/tiny_space.toml"])
def test_commands_on_damaged_toml(kind: str, seed: int, command: Command, tiny: Path, tmp_path: Path) -> None:
    _write_toml(tiny, tmp_path)
    how = mutate(tmp_path / kind, seed)
    print(kind, seed, how)
    check(command, "run", "studies/tiny.toml", "--dry-run", "--out", "new")
    check(command, "inspect", "search_spaces/tiny_space.toml", "--format", "csv")
    check(command, "list")
    assert not (tmp_path / "new").exists()
