"""The engine next to the plain supernet: the same outputs, each prefix once, within its memory."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests import nets
from usdn_nas._util.errors import RunError, UserError
from usdn_nas.engine.engine import Engine, EngineSettings, distinct_prefixes
from usdn_nas.engine.outputs import Batches, SupernetEvaluator
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits

CPU = torch.device("cpu")
FOUR = {"choices": [[2, 2], [3, 3], [4, 4], [5, 5]]}
SMALL = nets.RESNET14 | {"input_shape": [2, 6, 6]}
SPACES = {
    "blocks": nets.spec(SMALL, FOUR),
    "apart, layers, searched heads": nets.spec(
        nets.RESNET8, {"granularity": "layer", **nets.APART}, {"head": "conv3", "head_bits": "search"}
    ),
    "apart, blocks, searched heads": nets.spec(SMALL, nets.APART, {"head": "conv", "head_bits": "search"}),
    "one group for all, heads too": nets.spec(
        SMALL, {"granularity": "network", **FOUR}, {"head": "conv3", "head_bits": "search"}
    ),
    "no exits": nets.spec(nets.RESNET8, FOUR, {"candidates": []}),
    "full precision among them, fewer exits": nets.spec(
        nets.RESNET8,
        {"choices": [[2, 3], [32, 32]], "fixed": {"layer2.0.*": [3, 3]}},
        {"head": "msdnet", "candidates": ["layer1.0"]},
    ),
    "lists of their own": nets.spec(
        nets.RESNET8, nets.APART | {"allowed": {"layer1.*": [[5, 4], [2, 2]], "layer3.0": [[3, 4]]}}
    ),
    "resnet18": nets.spec(
        nets.RESNET18 | {"input_shape": [3, 16, 16]}, FOUR, {"head": "conv3", "candidates": ["layer1.1", "layer3.0"]}
    ),
}
Bit = Mapping[str, Bits]


def engine(net: Supernet, split: nets.MemorySplit, images: int = 8, memory: int = 1 << 30) -> Engine:
    return Engine(net, Batches(split, 5, CPU), EngineSettings("float", images), memory_bytes=memory)


def split_for(net: Supernet, count: int) -> nets.MemorySplit:
    network = net.space.spec.network
    return nets.split(network.input_shape, count, network.num_classes)


def every(net: Supernet) -> list[dict[str, Bits]]:
    choices = (range(len(group.choices)) for group in net.space.groups)
    return [net.space.choice_bits(choice) for choice in itertools.product(*choices)]


def run(made: Engine, configurations: Sequence[Bit], call: int) -> list[ExitOutputs]:
    """Outputs in the order of ``configurations``, asked for ``call`` at a time."""
    found: dict[int, ExitOutputs] = {}
    for first in range(0, len(configurations), call):
        for number, outputs in made.run(configurations[first : first + call]):
            assert first + number not in found
            found[first + number] = outputs
    return [found[number] for number in range(len(configurations))]


@pytest.mark.parametrize("name", SPACES)
def test_next_to_the_plain_supernet(name: str) -> None:
    net = nets.supernet(SPACES[name])
    split = split_for(net, 13)
    split.images = split.images.double()
    generator = np.random.default_rng(0)
    drawn = [net.space.sample(generator) for _ in range(12)]
    drawn += drawn[:2]
    plain = SupernetEvaluator(net, Batches(split, 13, CPU))
    made = engine(net, split)
    for bits, outputs in zip(drawn, run(made, drawn, 14), strict=True):
        expected = plain(bits)
        assert outputs.names == expected.names
        np.testing.assert_allclose(outputs.confidence, expected.confidence, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(outputs.correct, expected.correct)
    assert made.runs == distinct_prefixes(net.space, drawn)
    alone = made(drawn[3])
    np.testing.assert_array_equal(alone.confidence, run(engine(net, split), drawn, 14)[3].confidence)


@pytest.fixture(scope="module")
def small() -> Supernet:
    return nets.supernet(SPACES["blocks"]).float()


@pytest.mark.parametrize("call", [1, 7, 4096])
def test_enumeration_runs_each_prefix_once(small: Supernet, call: int) -> None:
    made = engine(small, split_for(small, 2), images=2)
    configurations = every(small)
    for first in range(0, len(configurations), call):
        for _ in made.run(configurations[first : first + call]):
            pass
    assert made.runs == 5460


def test_enumeration_with_searched_heads_runs_each_prefix_once() -> None:
    bits = {"choices": [[2, 2], [4, 4]]}
    net = nets.supernet(nets.spec(nets.RESNET8, bits, {"head": "conv", "head_bits": "search"})).float()
    made = engine(net, split_for(net, 3))
    for bits_ in every(net):
        made(bits_)
    assert len(every(net)) == 2**5 and made.runs == 2 + 4 + 8


def test_equal_results_for_any_order_and_batch(small: Supernet) -> None:
    split = split_for(small, 19)
    generator = np.random.default_rng(1)
    drawn = [small.space.sample(generator) for _ in range(30)]
    first = run(engine(small, split), drawn, 30)
    for call in (1, 4, 30):
        order = generator.permutation(30)
        again = run(engine(small, split), [drawn[i] for i in order], call)
        for i, outputs in zip(order, again, strict=True):
            np.testing.assert_array_equal(outputs.confidence, first[i].confidence)
            np.testing.assert_array_equal(outputs.correct, first[i].correct)
    for images in (1, 5, 100):
        for outputs, expected in zip(run(engine(small, split, images), drawn, 30), first, strict=True):
            np.testing.assert_allclose(outputs.confidence, expected.confidence, atol=1e-5)
            np.testing.assert_array_equal(outputs.correct, expected.correct)


def test_left_half_way(small: Supernet) -> None:
    split = split_for(small, 9)
    configurations = every(small)[:20]
    made = engine(small, split, memory=200_000)
    next(iter(made.run(configurations)))
    fresh = run(engine(small, split), configurations, 20)
    for outputs, expected in zip(run(made, configurations, 20), fresh, strict=True):
        np.testing.assert_array_equal(outputs.confidence, expected.confidence)


def test_decisions_in_float32(small: Supernet) -> None:
    split = split_for(small, 200)
    generator = np.random.default_rng(2)
    drawn = [small.space.sample(generator) for _ in range(10)]
    plain = SupernetEvaluator(small, Batches(split, 50, CPU))
    differ = pairs = 0
    for bits, outputs in zip(drawn, run(engine(small, split, 64), drawn, 10), strict=True):
        expected = plain(bits)
        for threshold in (0.3, 0.5, 0.9):
            differ += int(((outputs.confidence >= threshold) != (expected.confidence >= threshold)).sum())
            differ += int((outputs.correct != expected.correct).sum())
            pairs += outputs.correct.size
    assert differ <= 1e-3 * pairs


class LiveBytes(TorchDispatchMode):
    """Most bytes of storage that were alive at once, of tensors made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self.readers: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor) and made.device.type == "cpu" and id(made) not in self.seen(args):
                self.note(made)
        self.most = max(self.most, self.live)
        return out

    @staticmethod
    def seen(args: Any) -> set[int]:
        """Operators in place return what they were given."""
        return {id(given) for given in args if isinstance(given, Tensor)}

    def note(self, tensor: Tensor) -> None:
        packed = tensor.layout != torch.strided  # by oneDNN, and without a storage to look at
        key = id(tensor) if packed else tensor.untyped_storage().data_ptr()
        size = tensor.numel() * tensor.element_size() if packed else tensor.untyped_storage().nbytes()
        if key not in self.readers:
            self.live += size
        self.readers[key] = self.readers.get(key, 0) + 1
        weakref.finalize(tensor, self.gone, key, size)

    def gone(self, key: int, size: int) -> None:
        self.readers[key] -= 1
        if not self.readers[key]:
            del self.readers[key]
            self.live -= size


@pytest.mark.parametrize(
    ("name", "images", "factor"), [("blocks", 4, 1.0), ("blocks", 32, 1.0), ("blocks", 32, 4.0), ("resnet18", 4, 1.0)]
)
def test_memory(name: str, images: int, factor: float) -> None:
    net = nets.supernet(SPACES[name]).float()
    split = split_for(net, 36)
    with pytest.raises(UserError, match="search.memory_gb.*too little.*give") as refused:
        engine(net, split, images, memory=1000)
    least = float(str(refused.value).split("give ")[1].split(" or")[0]) * 1e9
    generator = np.random.default_rng(3)
    drawn = [net.space.sample(generator) for _ in range(6 if name == "blocks" else 3)]
    memory = int(1.01 * factor * least)
    made = engine(net, split, images, memory)
    live = LiveBytes()
    with live:
        for _ in made.run(drawn):
            pass
    assert live.most <= memory
    ample = run(engine(net, split, made._budget.images), drawn, len(drawn))
    for outputs, expected in zip(run(made, drawn, len(drawn)), ample, strict=True):
        np.testing.assert_array_equal(outputs.confidence, expected.confidence)


def test_memory_is_used_for_states(small: Supernet) -> None:
    split = split_for(small, 300)
    runs = []
    for memory in (300_000, 1_000_000, 20_000_000):
        made = engine(small, split, 20, memory)
        for bits in every(small)[:32]:
            made(bits)
        runs.append(made.runs)
    assert runs[0] > runs[1] > runs[2] == 3 + 2 + 8 + 32


def test_a_network_that_diverged_is_named(small: Supernet) -> None:
    net = nets.supernet(SPACES["blocks"]).float()
    with torch.no_grad():
        net.chain.heads[-1].fc.layer.bias.fill_(torch.nan)
    with pytest.raises(RunError, match="'final'"):
        engine(net, split_for(net, 5))(every(net)[0])
