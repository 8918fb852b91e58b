"""The study in optuna-dashboard: what it serves of ours."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import optuna_dashboard
import pytest
from optuna.artifacts import FileSystemArtifactStore

from tests.cli.conftest import Command
from tests.pipeline.tiny import snapshot
from usdn_nas.report import load_run
from usdn_nas.report.note import study_note


def get(app: Any, path: str) -> tuple[str, bytes]:
    """(status, body) of a page that a WSGI application serves."""
    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "after=0",
        "SERVER_NAME": "here",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
    }
    body = app(environ, lambda code, headers, *_: status.append(code))
    return status[0], b"".join(body)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """(storage, keywords) of each server started, which ends at once by Ctrl-C."""
    started: list[tuple[Any, dict[str, Any]]] = []

    def run_server(storage: Any, **keywords: Any) -> None:
        started.append((storage, keywords))
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna_dashboard, "run_server", run_server)
    return started


def test_note_figures_and_trials(command: Command, tiny_copy: Path, served: list[tuple[Any, dict[str, Any]]]) -> None:
    result = command("dashboard", tiny_copy, "--port", 8123)
    assert result.exit_code == 0 and result.stdout == "http://localhost:8123/dashboard/studies/0\n"
    ((storage, keywords),) = served
    assert (keywords["host"], keywords["port"]) == ("localhost", 8123)
    app = optuna_dashboard.wsgi(storage, artifact_store=keywords["artifact_store"])
    study = json.loads(get(app, "/api/studies/0")[1])
    run = load_run(tiny_copy)
    addresses = {a["filename"]: f"/artifacts/0/{a['artifact_id']}" for a in study["artifacts"]}
    assert sorted(addresses) == ["bits.svg", "front.svg", "importance.svg"]
    for address in addresses.values():
        assert f"]({address})" in study["note"]["body"]
        status, body = get(app, address)
        assert status.startswith("200") and body.startswith(b"<?xml")
    for trial in run.front["trial"]:
        assert f"| {trial} |" in study["note"]["body"]
    first = study["trials"][0]
    shown = {attribute["key"]: attribute["value"] for attribute in first["user_attrs"]}
    row = run.trials[run.trials["trial"] == 0].iloc[0]
    assert shown["bits"] == ", ".join(f"{group.name} {row[group.name]}" for group in run.space.groups)
    assert float(shown["accuracy"]) == row["accuracy"] and float(shown["bops"]) == row["bops"]
    # A second time nothing is doubled, and the run counts as it did.
    before = snapshot(tiny_copy)
    assert command("dashboard", tiny_copy, "--note-only").stdout == ""
    after = json.loads(get(app, "/api/studies/0")[1])
    assert after["artifacts"] == study["artifacts"] and after["note"] == study["note"] and len(served) == 1
    assert {name for name, file in snapshot(tiny_copy).items() if file[0] != before[name][0]} == set()
    assert command("search", tiny_copy).stderr.count("nothing to do") == 3


def test_plain_optuna_dashboard_opens_it(tiny: Path) -> None:
    """By its own command's way, without our classes: the journal is Optuna's."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(tiny / "search/study.journal")))
    app = optuna_dashboard.wsgi(storage, artifact_store=FileSystemArtifactStore(str(tiny)))
    study = json.loads(get(app, "/api/studies/0")[1])
    assert study["name"] == "tiny" and len(study["trials"]) == len(load_run(tiny).trials)
    assert study["directions"] == ["maximize", "minimize"]


def test_before_anything_was_found(tiny_copy: Path) -> None:
    for name in ("front.csv", "trials.csv"):
        (tiny_copy / "search" / name).unlink()
    note = study_note(load_run(tiny_copy), {})
    assert "27 bit configurations" in note and "*Not yet: " in note and "| trial" not in note.lower()


def test_a_port_that_is_taken(command: Command, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: Any, **__: Any) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(optuna_dashboard, "run_server", taken)
    result = command("dashboard", tiny_copy)
    assert result.exit_code == 2 and "cannot listen on localhost:8080: Address already in use" in result.stderr


def test_not_installed(command: Command, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna_dashboard.artifact", None)
    result = command("dashboard", tiny_copy)
    assert result.exit_code == 2 and "pip install 'usdn-nas[dashboard]'" in result.stderr
