"""A chain computes what the network it was cut from computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.networks.build import build_network
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.space.records import FINAL_EXIT


def identity_chain(count: int, exits: dict[str, int]) -> MultiExitNetwork:
    segments = {f"s{i}": nn.Identity() for i in range(count)}
    return MultiExitNetwork(segments, {name: nn.Identity() for name in exits}, exits)


def test_resnet18_is_torchvisions() -> None:
    spec = nets.spec(nets.RESNET18, exits={"head": "conv3"})
    _, chain = nets.network(spec)
    theirs = torchvision.models.resnet18(num_classes=7).double().eval()
    renamed = {}
    for name, value in chain.state_dict().items():
        part, index, *rest = name.split(".", 2)
        if part == "segments":
            segment = chain.segment_names[int(index)]
            renamed[f"{segment}.{rest[0]}".removeprefix("stem.")] = value
        elif int(index) == len(chain.heads) - 1:
            renamed[rest[0]] = value
    theirs.load_state_dict(renamed)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(chain(images)[-1], theirs(images))


def handwritten_resnet(state: dict[str, Tensor], blocks: int, x: Tensor) -> Tensor:
    """He et al. (2016), section 4.2 with option A, from nothing but parameters."""

    def conv_norm(prefix: str, number: int, x: Tensor, stride: int) -> Tensor:
        x = F.conv2d(x, state[f"{prefix}.conv{number}.weight"], stride=stride, padding=1)
        scale, shift, mean, variance = (
            state[f"{prefix}.bn{number}.{name}"].view(1, -1, 1, 1)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = conv_norm("segments.0", 1, x, 1).clamp(min=0)
    for index in range(3 * blocks):
        stride = 2 if index in (blocks, 2 * blocks) else 1
        out = conv_norm(f"segments.{index + 1}", 1, x, stride).clamp(min=0)
        out = conv_norm(f"segments.{index + 1}", 2, out, 1)
        skip = torch.zeros_like(out)
        first = (out.shape[1] - x.shape[1]) // 2
        skip[:, first : first + x.shape[1]] = x[:, :, ::stride, ::stride]
        x = (out + skip).clamp(min=0)
    head = next(name.removesuffix(".fc.weight") for name in state if name.endswith(".fc.weight"))
    return x.mean((2, 3)) @ state[f"{head}.fc.weight"].T + state[f"{head}.fc.bias"]


@pytest.mark.parametrize("blocks", [1, 2])
def test_cifar_resnet_is_the_handwritten_one(blocks: int) -> None:
    space, chain = nets.network(nets.spec(nets.RESNET8 | {"depth": 6 * blocks + 2}))
    images = nets.images_for(space, 3)
    with torch.no_grad():
        expected = handwritten_resnet(chain.state_dict(), blocks, images)
        assert torch.allclose(chain(images)[-1], expected, rtol=0, atol=1e-10)


def test_an_exit_reads_the_state_after_its_segment() -> None:
    space, chain = nets.network(nets.spec(nets.RESNET14))
    images = nets.images_for(space, 2)
    with torch.no_grad():
        logits = dict(zip(chain.exit_names, chain(images), strict=True))
        for name, head in zip(chain.exit_names, chain.heads, strict=True):
            last = chain.segment_names.index(name) if name != FINAL_EXIT else len(chain.segments) - 1
            x = images
            for segment in list(chain.segments)[: last + 1]:
                x = segment(x)
            assert torch.equal(logits[name], head(x))


def test_states_are_tuples() -> None:
    space, chain = nets.network(nets.spec())
    state: tuple[Tensor, ...] = (nets.images_for(space, 1),)
    for index in range(len(chain.segments)):
        state = chain.run_segment(index, state)
        assert isinstance(state, tuple) and all(isinstance(tensor, Tensor) for tensor in state)

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, 2 * x

    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    pair = MultiExitNetwork({"a": Two(), "b": Sum()}, {"a": Sum(), "final": nn.Identity()}, {"a": 0, "final": 1})
    assert [float(z) for z in pair(torch.ones(()))] == [3, 3]


def test_place_keeps_logits_and_shares_modules() -> None:
    space, chain = nets.network(nets.spec(nets.RESNET14, exits={"head": "conv3"}))
    images = nets.images_for(space, 2)
    some = chain.place(["layer3.0", "layer1.1"])
    assert some.exit_names == ("layer1.1", "layer3.0", FINAL_EXIT)
    assert {id(p) for p in some.parameters()} < {id(p) for p in chain.parameters()}
    with torch.no_grad():
        everything = dict(zip(chain.exit_names, chain(images), strict=True))
        for name, logits in zip(some.exit_names, some(images), strict=True):
            assert torch.equal(logits, everything[name])
        assert torch.equal(chain.place(())(images)[0], everything[FINAL_EXIT])
    with pytest.raises(ValueError, match="layer9"):
        chain.place(["layer9"])


def test_malformed_chains_are_refused() -> None:
    with pytest.raises(ValueError, match="final"):
        identity_chain(2, {"a": 0})
    with pytest.raises(ValueError, match="final"):
        identity_chain(2, {"final": 0})
    with pytest.raises(ValueError, match="order"):
        identity_chain(3, {"b": 1, "a": 0, "final": 2})
    with pytest.raises(ValueError, match="order"):
        identity_chain(3, {"a": 1, "b": 1, "final": 2})


def test_candidates_stand_in_the_order_of_the_chain() -> None:
    exits = {"head": "linear", "candidates": ["layer3.0", "layer1.1"]}
    chain = build_network(nets.spec(nets.RESNET14, exits=exits))
    assert chain.exit_names == ("layer1.1", "layer3.0", FINAL_EXIT)
    assert build_network(nets.spec(exits={"head": "linear", "candidates": []})).exit_names == (FINAL_EXIT,)


@pytest.mark.parametrize(
    ("network", "exits", "message"),
    [
        ({"name": "resnet_cifr"}, {}, "network.name: unknown network 'resnet_cifr'; did you mean 'resnet_cifar'?"),
        ({"depth": 15}, {}, "network.depth: expected 6n+2 (8, 14, 20, ...), got 15"),
        ({"depth": 2}, {}, "network.depth: expected 6n+2 (8, 14, 20, ...), got 2"),
        ({}, {"candidates": ["layer1.1"]}, "exits.candidates: no exit can follow 'layer1.1'; did you mean 'layer1.0'?"),
        ({}, {"candidates": ["layer3.0"]}, "exits.candidates: no exit can follow 'layer3.0'; did you mean 'layer2.0'?"),
        ({}, {"candidates": ["stem"]}, "exits.candidates: no exit can follow 'stem'; valid: layer1.0, layer2.0"),
        (nets.RESNET18, {}, "network.depth: torchvision:resnet18 has no 'depth' to set"),
    ],
)
def test_what_cannot_be_built_is_named(network: dict, exits: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_network(nets.spec(nets.RESNET8 | network, exits={"head": "linear"} | exits))
    assert str(caught.value) == message


def test_seed_alone_decides_the_weights() -> None:
    first, again, other = (nets.network(nets.spec(), seed)[1].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["segments.0.conv1.weight"], other["segments.0.conv1.weight"])
