"""The studies, search spaces and records of finished experiments: all of them can still be read and printed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.test_readme import lines, parse
from usdn_nas.config import find_toml, list_toml, load_study
from usdn_nas.networks.build import resolve_space
from usdn_nas.space.search_space import load_space

RESEARCH = Path(__file__).parents[2] / "research"
sys.path.insert(0, str(RESEARCH))
STUDIES = sorted((RESEARCH / "studies").glob("*.toml"))
LINES = lines(RESEARCH / "README.md")
SMOOTHING = RESEARCH / "results" / "smoothing_digits.json"
PRINTED = [
    ("ablation.py", ["--show"], "joint"),
    ("ablation.py", ["--show", "--network", "compact"], "ablation_compact 1.33 M"),
    ("allocation.py", [], "cheapest"),
    ("schemes.py", [], "within 50% of all BOPs"),
    ("smoothing.py", ["digits", "--results", str(SMOOTHING)], "average 0.99"),
    # the bootstrap intervals of these two take a minute
    pytest.param("ranking.py", [], "as in the study", marks=pytest.mark.sweep),
    pytest.param("norm_statistics.py", [], "the same weights", marks=pytest.mark.sweep),
]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_finds_its_space_by_path(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study, space = load_study(path)
    assert find_toml(study.space, "search_spaces", beside=path.parent).resolve().parent == RESEARCH / "search_spaces"
    assert space == load_space(RESEARCH / "studies" / study.space)


def test_every_space_is_used_and_resolves() -> None:
    spaces = set((RESEARCH / "search_spaces").glob("*.toml"))
    assert {(path.parent / load_study(path)[0].space).resolve() for path in STUDIES} == spaces
    for path in spaces:
        assert resolve_space(load_space(path))[0].groups


def test_they_are_not_listed_among_those_for_users() -> None:
    for folder in ("studies", "search_spaces"):
        listed = list_toml(folder)  # type: ignore[arg-type]
        assert not {path.stem for path in (RESEARCH / folder).glob("*.toml")} & listed.keys()


def test_the_ablations_studies_share_their_settings() -> None:
    studies = [load_study(path)[0] for path in STUDIES if path.stem.startswith("ablation")]
    assert len(studies) == 8 and len({study.space for study in studies}) == 8
    assert len({study.model_copy(update={"space": ""}).model_dump_json() for study in studies}) == 1


@pytest.mark.parametrize(("script", "options", "expected"), PRINTED)
def test_records_are_printed(
    script: str,
    options: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *options])
    importlib.import_module(script.removesuffix(".py")).main()
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_lines_of_the_readme_name_what_there_is(words: list[str]) -> None:
    if words[0] == "usdn-nas":
        parse(words[1:])
        return
    assert words[0] == "python" and words[1].startswith("research/")
    text = (RESEARCH.parent / words[1]).read_text(encoding="utf-8")
    assert all(f'add_argument("{word}"' in text for word in words if word.startswith("--"))
    assert all((RESEARCH.parent / word).exists() for word in words if word.startswith("research/"))


def test_options_of_training_need_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ranking.py", "--alone"])
    with pytest.raises(SystemExit):
        importlib.import_module("ranking").main()
    assert "name the RUN" in capsys.readouterr().err
