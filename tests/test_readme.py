"""What README.md, docs/*.md and the commands' examples tell people to type: all of it works as it stands."""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna_dashboard
import pytest
import typer
from typer.testing import CliRunner

import usdn_nas
from tests.pipeline.tiny import no_figures
from usdn_nas.cli import app
from usdn_nas.config import StudyConfig, find_toml, load_study
from usdn_nas.data import load_data
from usdn_nas.networks.empty import resolve_shapes
from usdn_nas.space.search_space import SpaceSpec

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[list[str]]:
    """The words of every line in a shell block, without its comment; of ``a && b`` both."""
    found = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in found for part in line.split("&&") if (words := shlex.split(part, comments=True))]


def parse(words: list[str]) -> None:
    """Fails unless ``usdn-nas`` has this command, these options and this number of arguments."""
    assert words[0] in COMMANDS, f"no command {words[0]}"
    COMMANDS[words[0]].make_context(words[0], list(words[1:]))


def options(command: str) -> set[str]:
    return {name for parameter in COMMANDS[command].params for name in parameter.opts} | {"--help"}


SHELL = [(page, words) for page in PAGES for words in lines(page)]
TORCHRUN = [words for _, words in SHELL if words[0] == "torchrun"]
OURS = [words[1:] for _, words in SHELL if words[0] == "usdn-nas"]
DASHBOARD = [words for _, words in SHELL if words[0] == "optuna-dashboard"]
EXTENDING = ROOT / "docs" / "extending.md"


def write_extension(folder: Path) -> None:
    """The files of docs/extending.md, where it says they lie."""
    model, data = blocks(EXTENDING, "python")
    space, study = blocks(EXTENDING, "toml")
    for name, text in {
        "my_model.py": model,
        "my_data.py": data,
        "search_spaces/small.toml": space,
        "studies/small.toml": study,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def test_there_are_lines() -> None:
    assert len(OURS) >= 8 and {words[0] for words in OURS} >= {"run", "front", "evaluate", "init", "inspect", "data"}


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("run digits --wet-run", "^No such option: --wet-run"),
        ("fly digits", "^no command fly"),
        ("front", "^Missing parameter: study"),
        ("front digits more", r"^Got unexpected extra argument"),
        ("front digits --format xml", "'xml' is not one of 'table', 'csv', 'json'"),
    ],
)
def test_a_wrong_line_is_found(line: str, finding: str) -> None:
    with pytest.raises(Exception, match=finding):
        parse(line.split())


def test_no_other_lines() -> None:
    """Each kind of line has a test: ours, torchrun's, make's targets, optuna-dashboard; the others have their place."""
    assert {words[0] for _, words in SHELL} == {"usdn-nas", "torchrun", "make", "optuna-dashboard", ".", "xdg-open"}
    places = {words[1] for _, words in SHELL if words[0] in (".", "xdg-open")}
    assert places == {".venv/bin/activate", "runs/digits/report.html"}


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_lines_parse(words: list[str]) -> None:
    parse(words)


def test_lines_of_torchrun_parse() -> None:
    from torch.distributed.run import parse_args

    assert TORCHRUN
    for words in TORCHRUN:
        options = parse_args(words[1:])
        assert options.module and options.training_script == "usdn_nas"
        parse(options.training_script_args)
        load_study(find_toml(options.training_script_args[1], "studies"))


def test_lines_run_one_after_the_other(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a finished tiny run in the place of every run; what takes long as ``--dry-run``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(optuna_dashboard, "run_server", lambda *_, **__: None)
    no_figures(monkeypatch)
    shutil.copytree(tiny, "runs/digits")
    write_extension(tmp_path)
    for words in OURS:
        words = list(words)
        if words[0] == "run" and "--dry-run" not in words:
            folder = Path(words[words.index("--out") + 1] if "--out" in words else f"runs/{words[1]}")
            if not folder.exists():
                shutil.copytree(tiny, folder)
            words.append("--dry-run")
        result = CliRunner().invoke(app, words)
        status = (0, 1) if words[0] == "data" else (0,)  # 1: the data set is not on this machine
        assert result.exit_code in status, (words, result.stderr)
        assert result.stdout


@pytest.mark.sweep
@pytest.mark.parametrize("words", DASHBOARD, ids=" ".join)
def test_optuna_dashboard_serves_the_study(
    words: list[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "runs/digits")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = f"from importlib.metadata import entry_points as e; e(group='console_scripts')['{words[0]}'].load()()"
    command = [sys.executable, "-c", started, *words[1:], "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        found = None
        for _ in range(240):
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=30) as answer:
                    found = json.load(answer)
                break
            assert server.poll() is None
            time.sleep(0.5)
        assert found is not None and [study["study_name"] for study in found["study_summaries"]] == ["tiny"]
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    everything = set().union(*map(options, COMMANDS))
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.startswith("usdn-nas -"):
            assert span.split()[1] in {"--version", "--help", "--install-completion", "--show-completion"}, span
        elif span.startswith("usdn-nas ") and "[" not in span.split()[1]:
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
    for target in {words[1] for _, words in SHELL if words[0] == "make"} | {"test", "sweep", "lint", "demo"}:
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


def test_toml_of_the_readme_is_a_search_space() -> None:
    for block in blocks(ROOT / "README.md", "toml"):
        space = resolve_shapes(SpaceSpec.model_validate(tomllib.loads(block)))
        assert space.bit_configurations == 4**6 and len(space.candidates) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_is_a_search_space_or_a_study(page: Path) -> None:
    for block in blocks(page, "toml"):
        content = tomllib.loads(block)
        (SpaceSpec if "network" in content else StudyConfig).model_validate(content)


def test_extending_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_extension(tmp_path)
    consent = "--trust-code"
    for words in (["inspect", "small", consent], ["data", "my_data:load"], ["run", "small", "--dry-run", consent]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0 and result.stdout, (words, result.stderr)
    assert "27 of 27 bit configurations" in result.stdout
    study, spec = load_study(Path("studies/small.toml"), trust_code=True)
    data = load_data(study.data, seed=study.seed, input_shape=spec.network.input_shape, trust_code=True)
    assert [len(part) for part in (data.train, data.search, data.test)] == [2000, 500, 500]


def test_extending_changes_what_is_there() -> None:
    """Lines that its patches keep or take away stand in the sources."""
    sources = [(ROOT / "usdn_nas" / name).read_text(encoding="utf-8") for name in (
        "networks/heads.py", "space.py", "study/samplers.py", "config.py",
    )]  # fmt: skip
    found = blocks(EXTENDING, "diff")
    assert len(found) == 4
    for block in found:
        for line in block.splitlines():
            if line[0] in " -" and line.strip() != "...":
                assert any(line[1:] in source.splitlines() for source in sources), line
