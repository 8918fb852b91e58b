"""Several processes on one study: nothing is lost, nothing is done twice; leases and who adopts."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from tests.study.helpers import SPACE, config, content, opened, outputs_of, searched
from usdn_nas.config import SearchConfig
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Bits
from usdn_nas.study import lease
from usdn_nas.study.parameters import indices_of
from usdn_nas.study.storage import open_storage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def forked(work: Callable[[], object]) -> int:
    """Starts ``work`` in a fork of this process; its process number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def logging(path: Path, seconds: float, workers: int = 1) -> Callable[[dict[str, Bits]], ExitOutputs]:
    """An evaluator that writes down what it has run. It goes on once as many ``workers`` have work."""

    def evaluate(bits: dict[str, Bits]) -> ExitOutputs:
        path.with_name(f"works-{os.getpid()}").touch()
        wait_until(lambda: len(list(path.parent.glob("works-*"))) >= workers)
        time.sleep(seconds)
        with path.open("a") as file:
            file.write(f"{sorted(bits.items())}\n")
        return outputs_of(bits)

    return evaluate


@pytest.mark.parametrize("sampler", ["random", "nsga2", "brute"])
@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_nothing_is_lost_or_doubled(storage: str, sampler: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db" if storage == "sqlite" else None
    settings = config(sampler=sampler, configurations=40 if url is None else 15, batch=4, storage=url)
    opened(settings, tmp_path)
    log = tmp_path / "log"
    workers = [forked(lambda: searched(settings, tmp_path, logging(log, 0, workers=3))) for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 3
    study = opened(settings, tmp_path)
    assert [trial.number for trial in study.trials] == list(range(settings.configurations))
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert len({indices_of(SPACE, trial.params) for trial in study.trials}) == settings.configurations
    ran = log.read_text().splitlines()
    assert len(ran) == len(set(ran)) == settings.configurations
    assert len({trial.user_attrs["lease"]["pid"] for trial in study.trials}) == 3


def test_the_living_take_over_from_the_killed(tmp_path: Path) -> None:
    settings = config(sampler="random", configurations=24, batch=4)
    opened(settings, tmp_path)
    log, other = tmp_path / "log", tmp_path / "other"
    victim = forked(lambda: searched(settings, tmp_path, logging(log, 0.05)))
    survivor = forked(lambda: searched(settings, tmp_path, logging(other, 0.01)))
    wait_until(log.exists)
    os.kill(victim, signal.SIGKILL)
    assert os.waitpid(victim, 0)[1] == signal.SIGKILL
    assert os.waitpid(survivor, 0)[1] == 0
    study = opened(settings, tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 24
    assert len({indices_of(SPACE, trial.params) for trial in study.trials}) == 24


def elsewhere(settings: SearchConfig, folder: Path, patch: pytest.MonkeyPatch) -> list[optuna.trial.FrozenTrial]:
    """Trials of the study that a worker on another machine may adopt."""
    with patch.context() as other:
        other.setattr(lease, "_place", lambda: {"host": "another", "boot": "another", "processes": None})
        trials = opened(settings, folder).get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.name == "RUNNING" and lease.adoptable(trial)]


def test_leases_are_renewed_while_a_batch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(sampler="random", configurations=4, batch=4)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)

    def slow(bits: dict[str, Bits]) -> ExitOutputs:
        if not (tmp_path / "slept").exists():
            (tmp_path / "slept").touch()
            time.sleep(0.6)  # all leases have ended unless they were renewed
            wait_until(lambda: elsewhere(settings, tmp_path, monkeypatch) == [])
        return outputs_of(bits)

    study, _ = searched(settings, tmp_path, slow)
    assert len(study.trials) == 4


def test_a_lease_that_ended_lets_others_adopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(sampler="random", configurations=6, batch=3)
    whole, _ = searched(settings, tmp_path / "whole")
    found: list[int] = []

    def failing(bits: dict[str, Bits]) -> ExitOutputs:
        found.append(len(elsewhere(settings, tmp_path, monkeypatch)))
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        searched(settings, tmp_path, failing)
    assert found == [0]  # while it ran
    assert len(elsewhere(settings, tmp_path, monkeypatch)) == 3  # given up in good order
    study, _ = searched(settings, tmp_path)
    assert content(study) == content(whole)


def test_optuna_reads_the_journal_by_itself(tmp_path: Path) -> None:
    study, _ = searched(config(sampler="nsga2", batch=4, mode="budget"), tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    plain = optuna.load_study(study_name="test", storage=optuna.storages.JournalStorage(backend))
    assert content(plain) == content(study)
    assert plain.metric_names == ["accuracy"]
    assert content(optuna.load_study(study_name="test", storage=open_storage(None, tmp_path / "study.journal")))
