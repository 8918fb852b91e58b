"""What README.md, docs/*.md and the commands' examples tell people to type: all of it works as it stands."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import usdn_nas
from tests.pipeline.tiny import no_figures
from usdn_nas.cli import app
from usdn_nas.config import find_toml, load_study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[list[str]]:
    """The words of every line in a shell block, without its comment; of ``a && b`` both."""
    found = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [words for line in found for part in line.split("&&") if (words := shlex.split(part, comments=True))]


def parse(words: list[str]) -> None:
    """Fails unless ``usdn-nas`` has this command, these options and this number of arguments."""
    assert words[0] in COMMANDS, f"no command {words[0]}"
    COMMANDS[words[0]].make_context(words[0], list(words[1:]))


def options(command: str) -> set[str]:
    return {name for parameter in COMMANDS[command].params for name in parameter.opts} | {"--help"}


SHELL = [(page, words) for page in PAGES for words in lines(page)]
OURS = [words[1:] for _, words in SHELL if words[0] == "usdn-nas"]


def test_there_are_lines() -> None:
    assert len(OURS) >= 8 and {words[0] for words in OURS} >= {"run", "front", "evaluate", "init", "inspect", "data"}


def test_a_wrong_line_is_found() -> None:
    for words in (["run", "digits", "--wet-run"], ["fly", "digits"], ["front"], ["front", "digits", "--format", "xml"]):
        with pytest.raises((Exception, AssertionError)):
            parse(words)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_lines_parse(words: list[str]) -> None:
    parse(words)


def test_lines_run_one_after_the_other(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a finished tiny run in the place of that of ``digits``; what takes long as ``--dry-run``."""
    monkeypatch.chdir(tmp_path)
    no_figures(monkeypatch)
    shutil.copytree(tiny, "runs/digits")
    for words in OURS:
        words = list(words)
        if words[0] == "run" and "--dry-run" not in words:
            words.append("--dry-run")
        result = CliRunner().invoke(app, words)
        status = (0, 1) if words[0] == "data" else (0,)  # 1: the data set is not on this machine
        assert result.exit_code in status, (words, result.stderr)
        assert result.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    everything = set().union(*map(options, COMMANDS))
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.startswith("usdn-nas ") and "[" not in span.split()[1]:
            words = span.split()[1:]
            assert words[0] in COMMANDS, span
            assert {word.partition("=")[0] for word in words[1:] if word.startswith("--")} <= options(words[0]), span
        elif span.startswith("--"):
            assert span.split()[0] in everything, span
        if " --set " in f" {span}" and "=" in span and "KEY=" not in span:
            override = span.split("--set ", 1)[1].split()[0]
            load_study(find_toml("digits", "studies"), [override])
    for row in re.findall(r"^\| `usdn-nas (\w+)[^\n]*$", text, re.MULTILINE):
        line = next(line for line in text.splitlines() if line.startswith(f"| `usdn-nas {row}"))
        assert set(re.findall(r"--[a-z-]+", line)) <= options(row), line


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_commands_parse(name: str) -> None:
    examples = [line.strip() for line in COMMANDS[name].help.splitlines() if line.strip().startswith("usdn-nas ")]
    assert examples
    for example in examples:
        for part in example.partition(" > ")[0].split("&&"):
            words = shlex.split(part)[1:]
            parse(words)
            for option, value in pairwise(words):
                if option == "--set":
                    load_study(find_toml("digits", "studies"), [value])


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in {words[1] for _, words in SHELL if words[0] == "make"} | {"test", "lint", "demo"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {extra for page in PAGES for extra in re.findall(r"usdn-nas\[(\w+)\]", page.read_text(encoding="utf-8"))}
    assert extras and extras <= set(setup["options.extras_require"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+\.(?:md|cff|ipynb))\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target


def test_python_runs(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "runs/digits")
    found = [(page, block) for page in PAGES for block in blocks(page, "python")]
    assert found
    for page, block in found:
        names: dict[str, Any] = {}
        exec(compile(block, str(page), "exec"), names)
        if "prediction" in names:
            prediction = names["prediction"]
            assert prediction.labels.shape == prediction.exit_index.shape == prediction.bops.shape
            assert len(prediction.labels) == len(names["pixels"])
        if "run" in names:
            assert list(names["run"].front["trial"]) == list(usdn_nas.load_run(tiny).front["trial"])


def test_toml_of_the_readme_is_a_search_space(tmp_path: Path) -> None:
    from usdn_nas.networks.build import resolve_space
    from usdn_nas.space import load_space

    for number, block in enumerate(blocks(ROOT / "README.md", "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        space, _ = resolve_space(load_space(path))
        assert space.bit_configurations == 4**6 and len(space.candidates) == 5
