"""setup.cfg says what the tree holds."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_packages_are_those_of_the_tree():
    listed = _setup_cfg()["options"]["packages"].split()
    inner = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "usdn_nas").rglob("*.py")
        if path.parent.name != "__pycache__"
    }
    assert sorted(listed) == sorted(inner | {"usdn_nas.search_spaces", "usdn_nas.studies"})


def test_every_package_has_an_init():
    folders = {path.parent for path in (ROOT / "usdn_nas").rglob("*.py")} | {ROOT / "search_spaces", ROOT / "studies"}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_ruff_and_mypy_are_pinned():
    dev = _setup_cfg()["options.extras_require"]["dev"].split()
    assert {re.split(r"[=<>]", name)[0] for name in dev if "==" in name} == {"mypy", "ruff"}


def test_every_dependency_has_its_reason():
    settings = _setup_cfg()
    lines = [*settings["options"]["install_requires"].split()]
    for extra in settings["options.extras_require"].values():
        lines += extra.split()
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    missing = [name for line in lines if f"`{(name := re.split(r'[=<>[]', line)[0])}`" not in reasons]
    assert missing == []
