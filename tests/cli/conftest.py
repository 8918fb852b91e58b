"""The command line in this process: status, stdout and stderr apart."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.pipeline.tiny import no_figures
from usdn_nas.cli import app

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def _put_back_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``usdn-nas`` with these arguments, in ``tmp_path``, in a wide terminal that is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    no_figures(monkeypatch)

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="usdn-nas")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert "internal error" not in result.stderr, result.stderr
        return result

    return invoke
