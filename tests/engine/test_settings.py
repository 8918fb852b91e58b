"""Choosing settings: a rule without a clock, and what cannot be had is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.engine import settings as settings_module
from usdn_nas.engine.backends import BACKENDS
from usdn_nas.engine.engine import Engine
from usdn_nas.engine.outputs import Batches
from usdn_nas.engine.settings import EngineSettings, check_backend, choose_settings, thread_limit
from usdn_nas.quant.supernet import Supernet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return nets.supernet(nets.spec(nets.RESNET8 | {"input_shape": [2, 6, 6]})).float()


def with_integer(monkeypatch: pytest.MonkeyPatch, why: str | None) -> None:
    """The integer back end is there, or is missing for the reason ``why``."""
    monkeypatch.setitem(BACKENDS, "integer", replace(BACKENDS["float"], unavailable=lambda device: why))


def test_no_clock_decides(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> float:
        raise AssertionError("a clock was read")

    for name in ("perf_counter", "monotonic", "time", "process_time"):
        monkeypatch.setattr(time, name, read)
    assert len({choose_settings(supernet, threads=4) for _ in range(3)}) == 1


def test_the_back_end_is_the_integer_one_where_it_can_be_used(
    supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_integer(monkeypatch, None)
    assert choose_settings(supernet).backend == "integer"
    assert choose_settings(supernet, "float").backend == "float"
    with_integer(monkeypatch, "no such operators")
    assert choose_settings(supernet).backend == "float"
    with pytest.raises(UserError, match=r"search\.backend: the integer back end cannot run here: no such operators"):
        choose_settings(supernet, "integer")
    with pytest.raises(UserError, match="study was started with the integer back end.*; start a study of another name"):
        check_backend("integer", CPU, stored=True)


def test_images_and_threads_follow_the_size(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    macs = sum(layer.macs for layer in supernet.space.chain.layers())
    monkeypatch.setattr(settings_module, "_MACS_OF_A_BATCH", 64 * macs)
    monkeypatch.setattr(settings_module, "_MACS_OF_A_THREAD", 16 * macs)
    assert choose_settings(supernet, "float", 8) == EngineSettings("float", 64, threads=4)
    assert choose_settings(supernet, "float", 2).threads == 2
    monkeypatch.setattr(settings_module, "_MACS_OF_A_BATCH", 1)
    assert choose_settings(supernet, "float", 8) == EngineSettings("float", 8, threads=1)
    monkeypatch.setattr(settings_module, "_MACS_OF_A_BATCH", 10**15)
    assert choose_settings(supernet, "float", 8).images == 256


@pytest.mark.parametrize("backend", ["float", "integer"])
def test_only_the_back_end_changes_results(backend: str, supernet: Supernet) -> None:
    """Images a batch, layout and threads do not, to the last bit. (Batches of a single image do: a linear layer sums
    them in another order.)
    """
    if BACKENDS[backend].unavailable(CPU):  # type: ignore[index]
        pytest.skip("no integer back end here")
    batches = Batches(nets.split([2, 6, 6], 70, 5), 50, CPU)
    bits = supernet.space.ladder()[-1]
    found = []
    for images, layout, threads in ((64, True, 1), (2, True, 1), (7, True, 2), (8, False, 1), (70, False, 2)):
        if layout or backend == "float":
            settings = EngineSettings(backend, images, layout, threads)  # type: ignore[arg-type]
            found.append(Engine(supernet, batches, settings)(bits))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].confidence, other.confidence)
        np.testing.assert_array_equal(found[0].correct, other.correct)


def test_settings_in_words() -> None:
    one = EngineSettings("integer", 64, threads=1)
    assert str(one) == "integer back end, 64 images a batch, channels last, 1 thread"
    assert str(EngineSettings("float", 8, False)) == "float back end, 8 images a batch, channels first"


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with thread_limit(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with thread_limit(None):
        assert torch.get_num_threads() == before
