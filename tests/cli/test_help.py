"""``--help``: quick, since it imports little, and with an example for every command."""

import os
import re
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
    "plot",
    "dashboard",
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("usdn-nas re", ["report", "retrain"]),
        ("usdn-nas run fash", ["fashion_mnist"]),
        ("usdn-nas inspect resnet_d", ["resnet_digits"]),
    ],
)
def test_completion(line: str, expected: list[str]) -> None:
    asked = {"_USDN_NAS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = CliRunner().invoke(app, prog_name="usdn-nas", env=asked)
    assert sorted(result.stdout.split()) == expected


def test_completion_can_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # CI has no shell to be detected
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="usdn-nas").stdout
    assert "_USDN_NAS_COMPLETE=complete_bash" in script
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout


@pytest.mark.parametrize(("setting", "colours"), [({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)])
def test_no_color(setting: dict[str, str], colours: bool) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "PATH": os.environ["PATH"]}
    code = "from usdn_nas.cli import main; import sys; sys.argv = ['usdn-nas', '--help']; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=terminal | setting, capture_output=True, text=True, timeout=120
    )
    assert bool(re.search(r"\x1b\[[\d;]*3\d", done.stdout)) is colours
