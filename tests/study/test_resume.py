"""An uninterrupted study beside killed and resumed ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.study.helpers import SPACE, Killed, config, content, evaluate, killed_after, opened, outputs_of, searched
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Bits
from usdn_nas.study import asking, lease
from usdn_nas.study.journal import StudyJournal
from usdn_nas.study.search import run_search

CASES: list[dict[str, Any]] = [
    {"sampler": "random", "batch": 5},
    {"sampler": "tpe"},
    {"sampler": "tpe", "batch": 4},
    {"sampler": "tpe", "mode": "scalar", "batch": 5},
    {"sampler": "tpe", "mode": "budget", "batch": 4},
    {"sampler": "tpe", "exits": "sampled", "batch": 4},
    {"sampler": "nsga2", "configurations": 26},
    {"sampler": "nsga2", "configurations": 26, "batch": 5},
    {"sampler": "nsga2", "exits": "sampled", "batch": 16},
    {"sampler": "nsga3", "configurations": 26, "batch": 4},
    {"sampler": "brute", "batch": 2},
    {"sampler": "surrogate", "batch": 4},
    {"sampler": "surrogate", "mode": "budget", "batch": 5, "configurations": 24},
    {"sampler": "gp", "mode": "scalar", "configurations": 12, "batch": 3},
    {"sampler": "gp", "mode": "budget", "configurations": 12, "batch": 3},
]


def name(case: dict[str, Any]) -> str:
    return "-".join(str(value) for value in case.values())


@pytest.mark.parametrize("case", CASES, ids=name)
def test_killed_again_and_again_equals_uninterrupted(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(**case)
    whole, _ = searched(settings, tmp_path / "whole")
    assert {trial.state.name for trial in whole.trials} == {"COMPLETE"}
    # Every write is a place to be killed at; strides that have nothing to do with a trial's length meet all kinds.
    hows, kills = ("before", "after", "torn"), 0
    while True:
        try:
            with killed_after(4 + kills % 5, hows[kills % 3], monkeypatch):
                study, _ = searched(settings, tmp_path / "killed")
            break
        except Killed:
            kills += 1
            assert kills < 100
    assert kills > 5
    assert content(study) == content(whole)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_raising_in_evaluate_and_at_tell(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(sampler=sampler)
    whole, _ = searched(settings, tmp_path / "whole")
    calls = 0

    def failing(bits: dict[str, Bits]) -> ExitOutputs:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return outputs_of(bits)

    for _ in range(30):
        try:
            study, _ = searched(settings, tmp_path / "failing", failing)
            break
        except KeyboardInterrupt:
            continue
    assert content(study) == content(whole)

    told = 0
    original = StudyJournal.set_trial_state_values

    def tell(self: StudyJournal, *args: Any) -> Any:
        nonlocal told
        told += 1
        if told % 3 == 0:
            raise ConnectionError("lost")
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StudyJournal, "set_trial_state_values", tell)
        for _ in range(30):
            try:
                study, _ = searched(settings, tmp_path / "untold")
                break
            except ConnectionError:
                continue
    assert content(study) == content(whole)


def test_an_extended_search_goes_on(tmp_path: Path) -> None:
    short, _ = searched(config(sampler="nsga2", configurations=10), tmp_path)
    before = content(short)
    longer, summaries = searched(config(sampler="auto", configurations=20), tmp_path)
    assert content(longer)[:10] == before
    assert [s.number for s in summaries] == list(range(10, 20))
    again, nothing = searched(config(configurations=20), tmp_path)
    assert nothing == [] and content(again) == content(longer)


SCRIPT = """
import time
from pathlib import Path
from tests.study.helpers import config, outputs_of, searched

def slow(bits):
    time.sleep(.05)
    return outputs_of(bits)

searched(config(sampler="nsga2", batch=4), Path({folder!r}), slow)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    folder = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen([sys.executable, "-c", SCRIPT.format(folder=str(folder))], env=environment, cwd=root)
    journal, deadline = folder / "study.journal", time.monotonic() + 240
    while not (journal.exists() and journal.read_bytes().count(b'"front"') >= 5):
        assert worker.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    settings = config(sampler="nsga2", batch=4)
    states = [t.state.name for t in opened(settings, folder).trials]
    assert 5 <= len(states) < 18 and set(states[:-4]) == {"COMPLETE"}
    study, _ = searched(settings, folder)
    whole, _ = searched(settings, tmp_path / "whole")
    assert content(study) == content(whole)


def test_sqlite_resumes_too(tmp_path: Path) -> None:
    settings = config(sampler="nsga2", configurations=7, storage=f"sqlite:///{tmp_path}/study.db")
    whole, _ = searched(config(sampler="nsga2", configurations=7), tmp_path / "whole")
    calls = 0

    def failing(bits: dict[str, Bits]) -> ExitOutputs:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("lost")
        return outputs_of(bits)

    with pytest.raises(RuntimeError, match="lost"):
        searched(settings, tmp_path, failing)
    study, _ = searched(settings, tmp_path)
    assert content(study) == content(whole)


def test_two_workers_share_a_study(tmp_path: Path) -> None:
    settings = config(sampler="random", configurations=6)
    second_ran: list[int] = []

    def with_another_inside(bits: dict[str, Bits]) -> ExitOutputs:
        study = opened(settings, tmp_path)
        if len(study.trials) == 1:
            # The first worker's trial is alive: left to it, and waited for.
            run_search(
                study,
                SPACE,
                settings,
                evaluate,
                on_trial=lambda s: second_ran.append(s.number),
                should_stop=lambda: len(second_ran) == 5,
            )
        return outputs_of(bits)

    study, first = searched(settings, tmp_path, with_another_inside)
    assert second_ran == [1, 2, 3, 4, 5]
    assert [s.number for s in first] == [0]
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 6
    assert first[0].complete == first[0].distinct == 6


def test_two_that_adopt_one_batch_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(sampler="random", configurations=3, batch=2)
    whole, _ = searched(settings, tmp_path / "whole")
    inside = []

    def overtaken(bits: dict[str, Bits]) -> ExitOutputs:
        if not inside:
            inside.append(True)
            with monkeypatch.context() as patch:
                patch.setattr(asking, "adoptable", lambda trial: True)
                searched(settings, tmp_path / "shared")
        return outputs_of(bits)

    study, _ = searched(settings, tmp_path / "shared", overtaken)
    assert content(study) == content(whole)


def test_whom_a_lease_protects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(changes: dict[str, Any] | None) -> optuna.trial.FrozenTrial:
        attributes = {} if changes is None else {lease.LEASE: lease.new_lease("other") | changes}
        return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attributes)

    assert not lease.adoptable(trial({}))
    assert not lease.adoptable(trial(None))
    assert lease.adoptable(trial({"expires": time.time() - 1}))
    assert lease.adoptable(trial({"boot": "an earlier one"}))
    assert not lease.adoptable(trial({"host": "another", "boot": "another"}))
    assert not lease.adoptable(trial({"processes": "another container"}))
    assert lease.adoptable(trial({"pid": 2**22 + 1, "started": "1"}))  # no such process
    assert lease.adoptable(trial({"started": "1"}))  # the number was given to another
