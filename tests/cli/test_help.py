"""``--help``: quick, since it imports little, and with an example for every command."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from usdn_nas import __version__
from usdn_nas.cli import app

COMMANDS = [
    "run",
    "pretrain",
    "supernet",
    "search",
    "export",
    "retrain",
    "evaluate",
    "report",
    "front",
    "compare",
    "inspect",
    "data",
    "list",
    "init",
]
# Typer itself imports pydantic for a command's parameters.
HEAVY = {"torch", "torchvision", "optuna", "pandas", "matplotlib", "numpy", "scipy", "sklearn"}


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from usdn_nas.cli import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
assert "pydantic" not in sys.modules
for name in {COMMANDS!r}:
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name
print(*sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == []


def test_help_names_every_command() -> None:
    assert [command.name or command.callback.__name__ for command in app.registered_commands] == COMMANDS  # type: ignore[union-attr]
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert all(f" {name} " in text for name in COMMANDS) and "Exit status" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name: str) -> None:
    text = CliRunner().invoke(app, [name, "--help"]).stdout
    assert "Example" in text and f"usdn-nas {name}" in text


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"usdn-nas {__version__}\n"
