"""Choosing settings: what was measured decides, and what cannot be had is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests import nets
from usdn_nas.errors import UserError
from usdn_nas.evaluation import settings as settings_module
from usdn_nas.evaluation.engine import Engine
from usdn_nas.evaluation.outputs import Batches
from usdn_nas.evaluation.settings import EngineSettings, choose_settings, thread_limit
from usdn_nas.quant.backends import BACKENDS
from usdn_nas.quant.supernet import Supernet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return nets.supernet(nets.spec(nets.RESNET8 | {"input_shape": [2, 6, 6]})).float()


def batches_of(count: int) -> Batches:
    return Batches(nets.split([2, 6, 6], count, 5), 50, CPU)


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[EngineSettings, int], float]) -> None:
    """Passes that take as long as ``seconds(settings, images)`` says."""

    def taken(self: settings_module._Trial, images: Tensor) -> float:
        return seconds(self.settings, len(images))

    monkeypatch.setattr(settings_module._Trial, "seconds", taken)


def without_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(BACKENDS["float"], unavailable=lambda device: "no such operators")
    monkeypatch.setitem(BACKENDS, "integer", missing)


def test_what_is_chosen_runs(supernet: Supernet) -> None:
    batches = batches_of(40)
    for backend in ("auto", "float"):
        chosen = choose_settings(supernet, batches, backend)  # type: ignore[arg-type]
        assert chosen.images <= 40 and (backend == "auto" or chosen.backend == "float")
        outputs = Engine(supernet, batches, chosen)(supernet.space.ladder()[0])
        assert outputs.samples == 40


def test_the_fastest_is_chosen(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batches_of(300)
    pretend(monkeypatch, lambda s, n: n / (2 if s.channels_last else 3) + 4 * (n != 64))
    assert choose_settings(supernet, batches, "float") == EngineSettings("float", 8, channels_last=False, threads=1)
    pretend(monkeypatch, lambda s, n: 1e-5 * n + 1e-4 + (0.1 if n > 64 else 0) - (2e-5 if s.channels_last else 0))
    assert choose_settings(supernet, batches, "float") == EngineSettings("float", 64, channels_last=True, threads=1)
    pretend(monkeypatch, lambda s, n: 1e-5 * n + 1e-2)
    assert choose_settings(supernet, batches, "float").images == 256
    assert choose_settings(supernet, batches_of(40), "float").images == 32


def test_the_back_end_is_chosen(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batches_of(20)
    monkeypatch.setitem(BACKENDS, "integer", BACKENDS["float"])
    pretend(monkeypatch, lambda s, n: n * (1.0 if s.backend == "integer" else 2.0))
    assert choose_settings(supernet, batches).backend == "integer"
    assert choose_settings(supernet, batches, "float").backend == "float"
    pretend(monkeypatch, lambda s, n: n * (0.97 if s.backend == "integer" else 1.0))
    assert choose_settings(supernet, batches).backend == "float"
    without_integer(monkeypatch)
    assert choose_settings(supernet, batches).backend == "float"
    with pytest.raises(UserError, match="search.backend.*no such operators"):
        choose_settings(supernet, batches, "integer")


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with thread_limit(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with thread_limit(None):
        assert torch.get_num_threads() == before
