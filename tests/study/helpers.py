"""A small search over a synthetic network, and ways to break it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.helpers import search_space, synthetic_outputs
from usdn_nas.config import SearchConfig
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Bits
from usdn_nas.study import lease
from usdn_nas.study.journal import Journal
from usdn_nas.study.search import TrialSummary, one_by_one, run_search
from usdn_nas.study.session import open_study

SPACE = search_space(4)
Evaluator = Callable[[dict[str, Bits]], ExitOutputs]
FINGERPRINT = {"space": SPACE.digest, "split": "0123456789abcdef"}


def config(**changes: Any) -> SearchConfig:
    """Few trials and thresholds; no batches unless asked for."""
    return SearchConfig(**{"configurations": 18, "thresholds": 8, "gbops": 0.003, "batch": 1, **changes})


def outputs_of(bits: dict[str, Bits]) -> ExitOutputs:
    """Of `SPACE`."""
    return synthetic_outputs(SPACE, bits, samples=60)


evaluate = one_by_one(outputs_of)


def opened(settings: SearchConfig, folder: Path, seed: int = 0, **changes: Any) -> optuna.Study:
    """The study in ``folder``."""
    arguments = {"seed": seed, "storage_path": folder / "study.journal", "fingerprint": FINGERPRINT, "name": "test"}
    return open_study(SPACE, settings, **(arguments | changes))


def searched(
    settings: SearchConfig, folder: Path, evaluator: Evaluator = outputs_of, seed: int = 0
) -> tuple[optuna.Study, list[TrialSummary]]:
    """Opens and runs to the end."""
    study, summaries = opened(settings, folder, seed), []
    run_search(study, SPACE, settings, one_by_one(evaluator), on_trial=summaries.append)
    return study, summaries


def content(study: optuna.Study) -> list[tuple[Any, ...]]:
    """All that must not depend on interruptions."""
    kept = []
    for trial in study.get_trials(deepcopy=False):
        attributes = {k: v for k, v in trial.user_attrs.items() if k not in ("seconds", "lease")}
        kept.append((trial.number, trial.state.name, trial.params, trial.values, trial.constraints, attributes))
    return kept


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written after it."""


@contextmanager
def killed_after(appends: int, how: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every write to a journal from number ``appends`` on is lost: ``before`` it, ``after`` it, or ``torn`` in it: a
    third of its bytes arrive.
    """
    original = Journal.append_logs
    left = appends

    def append(self: Journal, logs: list[dict[str, Any]]) -> None:
        nonlocal left
        left -= 1
        path = Path(self._path)
        before = path.stat().st_size
        if left > 0 or (left == 0 and how != "before"):
            original(self, logs)
        if left == 0 and how == "torn":
            os.truncate(path, before + (path.stat().st_size - before) // 3)
        if left <= 0:
            raise Killed

    boots = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append_logs", append)
        # What was written before the kill comes from a boot that is over.
        patch.setattr(lease, "_place", lambda: {"host": "here", "boot": f"{appends}-{next(boots)}", "processes": None})
        yield
