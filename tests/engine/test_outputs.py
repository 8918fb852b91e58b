"""Running a network over a split, next to a loop over its samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import nets
from usdn_nas._util.errors import RunError
from usdn_nas.engine import outputs as outputs_module
from usdn_nas.engine.outputs import Batches, SupernetEvaluator, accuracies, run, run_with_confusion
from usdn_nas.quant.supernet import Supernet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return nets.supernet(nets.spec(nets.RESNET8 | {"input_shape": [2, 6, 6]}, exits={"head": "linear"})).float()


@pytest.fixture
def split(supernet: Supernet) -> nets.MemorySplit:
    return nets.split(supernet.space.spec.network.input_shape, 23, 5)


def test_run_next_to_a_loop(supernet: Supernet, split: nets.MemorySplit) -> None:
    supernet.train()
    names = supernet.chain.exit_names
    supernet.set_bits(supernet.space.choice_bits([0, 1, 2]))
    got = run(supernet, Batches(split, 7, CPU), names)
    assert not supernet.training
    assert got.names == names and got.confidence.shape == (3, 23) and got.confidence.dtype == np.float32
    with torch.no_grad():
        for n, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            for e, logits in enumerate(supernet(image[None])):
                z = logits[0].double().numpy()
                share = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
                assert got.confidence[e, n] == pytest.approx(share.max(), abs=1e-5)
                assert got.correct[e, n] == (share.argmax() == label)
    assert accuracies(got) == {name: got.correct[e].sum() / 23 for e, name in enumerate(names)}


def test_confusion_comes_beside_the_same_outputs(supernet: Supernet, split: nets.MemorySplit) -> None:
    names = supernet.chain.exit_names
    supernet.set_bits(supernet.space.choice_bits([0, 1, 2]))
    plain = run(supernet, Batches(split, 7, CPU), names)
    got, confusion = run_with_confusion(supernet, Batches(split, 7, CPU), names)
    assert np.array_equal(got.confidence, plain.confidence) and np.array_equal(got.correct, plain.correct)
    with torch.no_grad():
        p = torch.stack(supernet(split.images)).softmax(-1).double().numpy()
    by_hand = [sum(np.abs(p[e, n] - p[-1, n]).sum() for e in range(len(names) - 1)) for n in range(23)]
    assert confusion.shape == (23,) and confusion.tolist() == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_held_and_streamed_batches_are_the_same(
    batch_size: int, split: nets.MemorySplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    original = nets.MemorySplit._load
    monkeypatch.setattr(nets.MemorySplit, "_load", lambda self, *a: loads.append(0) or original(self, *a))
    held = Batches(split, batch_size, CPU)
    passes = [list(held) for _ in range(3)]
    assert len(loads) == 1
    monkeypatch.setattr(outputs_module, "HELD_BYTES", 0)
    streamed = Batches(split, batch_size, CPU)
    passes += [list(streamed) for _ in range(2)]
    assert len(loads) == 3 and streamed._held is None
    for batches in passes:
        assert torch.equal(torch.cat([images for images, _ in batches]), split.images)
        assert torch.cat([labels for _, labels in batches]).tolist() == split.labels.tolist()
        assert [len(images) for images, _ in batches] == [len(images) for images, _ in passes[0]]
    assert np.array_equal(held.labels, split.labels)


def test_a_pass_left_early_holds_nothing_partial(split: nets.MemorySplit) -> None:
    batches = Batches(split, 5, CPU)
    next(iter(batches))
    assert sum(len(images) for images, _ in batches) == 23
    assert sum(len(images) for images, _ in batches) == 23


def test_evaluator_switches_bits(supernet: Supernet, split: nets.MemorySplit) -> None:
    space = supernet.space
    evaluator = SupernetEvaluator(supernet, Batches(split, 10, CPU))
    bits = [space.choice_bits([i] * 3) for i in (0, 1, 2)]
    first = [evaluator(b) for b in bits]
    assert not np.array_equal(first[0].confidence, first[2].confidence)
    for b, before in zip(reversed(bits), reversed(first), strict=True):
        again = evaluator(b)
        assert np.array_equal(again.confidence, before.confidence) and np.array_equal(again.correct, before.correct)
    assert first[0].names == (*space.candidates, "final")


def test_a_network_that_diverged_is_named(split: nets.MemorySplit) -> None:
    class Diverged(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros(len(x), 5), torch.full((len(x), 5), torch.nan)

    with pytest.raises(RunError, match="'final'"):
        run(Diverged(), Batches(split, 10, CPU), ("a", "final"))
