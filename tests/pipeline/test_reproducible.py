"""The same study gives the same files, whatever the clock says; a study keeps the engine that it was created with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline import tiny as tiny_study
from usdn_nas._util.errors import UserError
from usdn_nas._util.files import read_json, write_json
from usdn_nas.engine.backends import BACKENDS
from usdn_nas.engine.settings import choose_settings
from usdn_nas.pipeline import study as study_stage
from usdn_nas.pipeline.context import Context
from usdn_nas.study.session import engine_of

FILES = ("trials.csv", "front.csv", "sensitivity.json", "engine.json")


@pytest.fixture(autouse=True)
def _real_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_stage, "choose_settings", choose_settings)


def fresh(run: Path, name: str, *overrides: str) -> Context:
    """A run folder with the trained supernet and nothing searched yet."""
    folder = run.with_name(name)
    for part in ("pretrain", "supernet"):
        shutil.copytree(run / part, folder / part)
    for file in ("study.json", "chain.json"):
        shutil.copy(run / file, folder / file)
    stages = read_json(run / "stages.json", "usdn-nas/stages/1")
    kept = {key: stage for key, stage in stages["stages"].items() if key in ("pretrain", "supernet")}
    write_json(folder / "stages.json", stages | {"stages": kept})
    return tiny_study.context(folder, *overrides)


def searched(context: Context) -> dict[str, bytes]:
    """The files that a search writes."""
    assert tiny_study.run(context.folder, until="search") == ["search"]
    return {name: (context.folder / "search" / name).read_bytes() for name in FILES}


def test_fresh_searches_write_the_same_bytes(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = searched(fresh(tiny_copy, "first"))
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock) ** 2))  # another machine's speed
    assert searched(fresh(tiny_copy, "second")) == first
    assert read_json(tiny_copy.with_name("first") / "search/engine.json", "usdn-nas/engine/1")["threads"] == 1


def test_a_study_keeps_its_engine(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = fresh(tiny_copy, "kept", "search.backend=float")
    tiny_study.run(context.folder, "search.backend=float", until="search")
    assert engine_of(study_stage.read(context))["backend"] == "float"
    tiny_study.run(context.folder, "search.configurations=7", until="search")  # "auto" goes on with it
    assert read_json(context.folder / "search/engine.json", "usdn-nas/engine/1")["backend"] == "float"
    monkeypatch.setitem(BACKENDS, "integer", replace(BACKENDS["float"], unavailable=lambda device: None))
    with pytest.raises(
        UserError, match="started with the float back end, here it is 'integer'; take 'auto' or 'float'"
    ):
        tiny_study.run(context.folder, "search.configurations=8", "search.backend=integer", until="search")


def test_a_machine_without_the_back_end_is_refused(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = replace(BACKENDS["float"], unavailable=lambda device: None)
    monkeypatch.setitem(BACKENDS, "integer", there)
    context = fresh(tiny_copy, "integer")
    tiny_study.run(context.folder, until="search")
    monkeypatch.setitem(BACKENDS, "integer", replace(there, unavailable=lambda device: "no such operators"))
    with pytest.raises(UserError, match="started with the integer back end, which cannot run here: no such operators"):
        tiny_study.run(context.folder, "search.configurations=7", until="search")


def test_no_password_in_the_run_folder(tiny_copy: Path) -> None:
    """The URL of a server is needed again where it holds a password; the files say what it was otherwise."""
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/nas"
    context = tiny_study.context(tiny_copy, f"search.storage={url}")
    context.describe()
    text = (tiny_copy / "study.json").read_text()
    assert "hunter2" not in text and "postgresql+psycopg://me:***@127.0.0.1:1/nas" in text
    with pytest.raises(UserError, match=r"search\.storage: the password of the storage is not kept in files; give"):
        study_stage.check_search(tiny_study.context(tiny_copy))


def test_a_storage_from_the_environment(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the environment variable 'NAS_DATABASE' is not set"):
        study_stage.check_search(tiny_study.context(tiny_copy, "search.storage=env:NAS_DATABASE"))
    monkeypatch.setenv("NAS_DATABASE", f"sqlite:///{tiny_copy}/study.db")
    study_stage.check_search(tiny_study.context(tiny_copy, "search.storage=env:NAS_DATABASE"))
    assert (tiny_copy / "study.db").is_file()
