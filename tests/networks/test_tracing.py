"""In-place operations: what a graph makes of them, and that a chain trains as the plain model does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tests import nets
from usdn_nas.networks.build import build_network
from usdn_nas.networks.kept import Kept
from usdn_nas.networks.tracing import Tracer, changed_input, make_functional, spare_inputs


def _added(x: Tensor) -> Tensor:
    x += 1
    return x


def _in_a_statement(x: Tensor) -> Tensor:
    x.clamp_(min=0)
    return x


def _into(x: Tensor) -> Tensor:
    return torch.mul(x, 0.5, out=x)


STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "method": lambda x: x.mul_(0.5),
    "function": torch.relu_,
    "flag by position": lambda x: F.leaky_relu(x, 0.1, True),
    "flag by name": lambda x: F.hardswish(x, inplace=True),
    "module": nn.ReLU6(inplace=True),
    "dropout": nn.Dropout(0.0, inplace=True),
    "operator": _added,
    "statement": _in_a_statement,
    "view": lambda x: x.flatten(2).sub_(0.1).view(x.shape),
    "power": lambda x: x.pow_(2.0),
}


class Block(nn.Module):
    """A residual block that changes its input in place first."""

    def __init__(self, start: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.start = start if isinstance(start, nn.Module) else None
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self._first = start

    def forward(self, x: Tensor) -> Tensor:
        x = self._first(x) if self.start is None else self.start(x)
        return x + self.conv(x)


class Model(nn.Module):
    def __init__(self, start: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AvgPool2d(1))
        self.blocks = nn.Sequential(*(Block(start) for _ in range(3)))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


MADE: list[Model] = []


def made() -> nn.Module:
    """Stands for a function of the user's; returns a copy of the model that the test has made."""
    return copy.deepcopy(MADE[-1])


@pytest.mark.parametrize("head", ["conv", "linear"])
@pytest.mark.parametrize("start", STARTS)
def test_a_block_that_starts_in_place_trains_as_in_the_plain_model(start: str, head: str) -> None:
    torch.manual_seed(0)
    MADE.append(Model(STARTS[start]))
    plain = made()
    network = {"name": f"{__name__}:made", "input_shape": [3, 8, 8], "num_classes": 4}
    chain = build_network(nets.spec(network, exits={"head": head}))
    assert len(chain.segments) == 4 and len(chain.heads) > 2
    images, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    logits = chain(images)
    assert torch.allclose(logits[-1], plain(images), atol=1e-6)
    sum(F.cross_entropy(exit_, labels) for exit_ in logits).backward()  # fails where a head's input was changed
    chain.zero_grad()
    F.cross_entropy(chain(images)[-1], labels).backward()
    F.cross_entropy(plain(images), labels).backward()
    expected = [parameter.grad for parameter in plain.parameters()]
    shapes = {tuple(grad.shape) for grad in expected if grad is not None}
    found = [p.grad for p in chain.parameters() if p.grad is not None]
    assert {tuple(grad.shape) for grad in found} == shapes and len(found) == len(expected)
    assert all(any(torch.allclose(a, b, atol=1e-5) for b in found if a.shape == b.shape) for a in expected)


def _graph(function: Callable[..., Tensor]) -> fx.Graph:
    class Called(nn.Module):
        def forward(self, *state: Tensor) -> Tensor:
            return function(*state)

    return Tracer(arity=function.__code__.co_argcount).trace(Called())


def _no_module(node: fx.Node) -> None:
    return None


def test_later_readers_read_what_was_changed() -> None:
    def function(x: Tensor) -> Tensor:
        y = x + 1
        z = y.mul_(3)
        return y + z

    graph = _graph(function)
    assert make_functional(graph, _no_module) is None
    spare_inputs(graph, _no_module)
    module = fx.GraphModule(nn.Module(), graph)
    assert torch.equal(module(torch.ones(2)), function(torch.ones(2)))
    assert torch.equal(module(torch.ones(2)), torch.full((2,), 12.0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x[:, 1:].relu_(), x)[1],
        lambda x: (x.view(-1).mul_(2), x + 1)[1],
        lambda x: (lambda v: (x.mul_(2), v)[1])(x[:1]),
    ],
)
def test_a_change_through_a_view_is_not_lost(function: Callable[[Tensor], Tensor]) -> None:
    assert make_functional(_graph(function), _no_module) is not None


def test_what_reads_a_shape_is_no_view() -> None:
    graph = _graph(lambda x: (x.shape[0], x.relu_())[1].view(x.shape[0], -1))
    assert make_functional(graph, _no_module) is None


def test_a_module_that_is_not_looked_into_is_given_a_clone() -> None:
    class Doubles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    whole = nn.Sequential(Kept(Doubles()))
    graph = Tracer().trace(whole)
    spare_inputs(graph, lambda node: whole[0] if node.op == "call_module" else None)
    images = torch.ones(3)
    assert torch.equal(fx.GraphModule(whole, graph)(images), torch.full((3,), 2.0))
    assert torch.equal(images, torch.ones(3))


def test_what_changes_nothing() -> None:
    graph = _graph(lambda x: F.relu(x, False) + F.dropout(x, 0.5, False, inplace=False) + x.add(1))
    assert all(changed_input(node, None) is None for node in graph.nodes)
