"""MSDNet: published costs, official checkpoints, and a reconstruction from the keys alone beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.engine.parts import PartCompiler
from usdn_nas.networks.build import build_network
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.networks.empty import resolve_shapes
from usdn_nas.networks.msdnet import plan
from usdn_nas.networks.msdnet_weights import load_official, official
from usdn_nas.space.cost import exit_costs
from usdn_nas.space.search_space import MsdnetSpec, SpaceSpec

OWN = {"head": "own", "head_linear_bits": [4, 4]}
FOUR = {"choices": [[4, 4]], "fixed": {"final.*": [4, 4]}}
CIFAR = {
    **{"stem": "cifar", "channels": 4, "growth": 2, "factors": [1, 2, 4], "bottlenecks": [1, 2, 4]},
    **{"head_width": 6, "blocks": 3, "base": 2, "step": 2},
}
IMAGENET = {"channels": 4, "growth": 2, "blocks": 3, "base": 2, "step": 2}
IMAGES = {"cifar": [3, 32, 32], "imagenet": [3, 160, 160]}


def small(settings: dict[str, Any], bits: dict[str, Any] | None = None, weights: Path | None = None) -> SpaceSpec:
    shape = IMAGES[settings.get("stem", "imagenet")]
    network = {"name": "msdnet", "input_shape": shape, "num_classes": 5, "msdnet": settings}
    if weights:
        network["weights"] = str(weights)
    return nets.spec(network, bits, OWN)


def imagenet() -> SpaceSpec:
    return nets.spec({"name": "msdnet", "input_shape": [3, 224, 224], "num_classes": 1000}, FOUR, OWN)


def state_of(chain: MultiExitNetwork) -> dict[str, Tensor]:
    segments = dict(zip(chain.segment_names, chain.segments, strict=True))
    return official(segments, dict(zip(chain.exit_names, chain.heads, strict=True))).state_dict()


def test_published_costs_of_imagenet() -> None:
    space = resolve_shapes(imagenet())
    chain, cumulative, heads = space.chain, [], 0
    per_segment = [sum(layer.macs for layer in segment.layers) for segment in chain.segments]
    for exit_ in chain.exits:
        heads += sum(layer.macs for layer in exit_.layers)
        cumulative.append(round((sum(per_segment[: exit_.segment + 1]) + heads) / 1e6, 1))
    assert cumulative == [337.2, 681.7, 1003.7, 1249.6, 1355.6]
    linear = [layer.weights // 1000 for exit_ in chain.exits for layer in exit_.layers if layer.kind == "linear"]
    assert linear == [384, 384, 352, 304, 560]
    bops = exit_costs(space, space.choice_bits([0] * len(space.groups))).cumulative / 1e9
    assert bops.round(2).tolist() == [8.23, 13.74, 18.89, 22.83, 24.52]
    assert chain.candidates == ("block0.3", "block1.3", "block2.3", "block3.3")


def test_keys_and_parameters_of_imagenet() -> None:
    with torch.device("meta"):
        keys = state_of(build_network(imagenet()))
    assert len(keys) == 1127
    assert keys["blocks.0.0.layers.0.0.bias"].shape == (32,)
    counted = [value for key, value in keys.items() if "running" not in key and "tracked" not in key]
    assert round(sum(value.numel() for value in counted) / 1e6, 2) == 23.96


@pytest.mark.parametrize(
    ("settings", "depths"),
    [({"base": 1, "step": 1, "step_mode": "lin_grow"}, [1, 2, 3, 4, 5]), ({}, [4, 4, 4, 4, 4])],
)
def test_layers_of_blocks(settings: dict[str, Any], depths: list[int]) -> None:
    layers = list(plan(MsdnetSpec.model_validate(settings)))
    assert [sum(at.block == block for at in layers) for block in range(5)] == depths
    assert [at.first for at in layers] == sorted(at.first for at in layers)


class Reconstruction:
    """What a checkpoint says by its keys and shapes, computed with functions; strides are those of the paper."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def has(self, prefix: str) -> bool:
        return any(key.startswith(f"{prefix}.") for key in self.state)

    def unit(self, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        s, weight = self.state, self.state[f"{conv}.weight"]
        x = F.conv2d(x, weight, s.get(f"{conv}.bias"), stride, weight.shape[-1] // 2)
        mean, var = s[f"{norm}.running_mean"], s[f"{norm}.running_var"]
        x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-5).sqrt()
        return (x * s[f"{norm}.weight"].view(-1, 1, 1) + s[f"{norm}.bias"].view(-1, 1, 1)).clamp(min=0)

    def pair(self, x: Tensor, path: str, stride: int) -> Tensor:
        return self.unit(self.unit(x, f"{path}.0", f"{path}.1"), f"{path}.3", f"{path}.4", stride)

    def first(self, x: Tensor) -> list[Tensor]:
        path = "blocks.0.0.layers"
        if self.has(f"{path}.0.net"):
            maps = [self.unit(x, f"{path}.0.net.0", f"{path}.0.net.1")]
        else:
            maps = [F.max_pool2d(self.unit(x, f"{path}.0.0", f"{path}.0.1", 2), 3, 2, 1)]
        while self.has(f"{path}.{len(maps)}"):
            at = f"{path}.{len(maps)}.net"
            maps.append(self.unit(maps[-1], f"{at}.0", f"{at}.1", 2))
        return maps

    def layer(self, path: str, maps: list[Tensor]) -> list[Tensor]:
        count = sum(self.has(f"{path}.layers.{i}") for i in range(len(maps)))
        offset, out = len(maps) - count, []
        for i in range(count):
            own = maps[i + offset]
            parts = [own]
            if self.has(f"{path}.layers.{i}.conv_down"):
                parts.append(self.pair(maps[i + offset - 1], f"{path}.layers.{i}.conv_down.net", 2))
            parts.append(self.pair(own, f"{path}.layers.{i}.conv_normal.net", 1))
            out.append(torch.cat(parts, 1))
        return out

    def __call__(self, images: Tensor) -> list[Tensor]:
        maps, logits, block = self.first(images), [], 0
        while self.has(f"blocks.{block}"):
            part = 0 if block else 1
            while self.has(path := f"blocks.{block}.{part}"):
                if self.has(f"{path}.m"):
                    maps = [self.unit(x, f"{path}.m.{i}.net.0", f"{path}.m.{i}.net.1") for i, x in enumerate(maps)]
                else:
                    maps = self.layer(path, maps)
                part += 1
            x = maps[-1]
            for i in (0, 1):
                x = self.unit(x, f"classifier.{block}.m.{i}.net.0", f"classifier.{block}.m.{i}.net.1", 2)
            x = F.avg_pool2d(x, 2).flatten(1)
            logits.append(
                x @ self.state[f"classifier.{block}.linear.weight"].T + self.state[f"classifier.{block}.linear.bias"]
            )
            block += 1
        return logits


def random_checkpoint(
    settings: dict[str, Any], path: Path, more: dict[str, Tensor] | None = None, counters: bool = True
) -> dict[str, Tensor]:
    """A file as that repository writes it, of random weights; without ``counters`` as torch 0.4.0 wrote it."""
    torch.manual_seed(1)
    chain = build_network(small(settings))
    nets.unsettle(chain, 1)
    state = {key: value.clone() for key, value in state_of(chain).items() if counters or "batches" not in key}
    torch.save(
        {
            "epoch": 89,
            "arch": "msdnet",
            "state_dict": {f"module.{key}": value for key, value in (state | (more or {})).items()},
            "best_prec1": 75.2,
            "optimizer": {"state": {}, "param_groups": []},
        },
        path,
        _use_new_zipfile_serialization=False,
    )
    return state


@pytest.mark.parametrize("counters", [True, False], ids=["counters", "torch 0.4.0"])
@pytest.mark.parametrize("settings", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
def test_logits_of_a_checkpoint(settings: dict[str, Any], counters: bool, tmp_path: Path) -> None:
    path = tmp_path / "msdnet.pth.tar"
    state = random_checkpoint(settings, path, counters=counters)
    assert any(key.endswith("num_batches_tracked") for key in state) == counters
    torch.manual_seed(7)
    chain = build_network(small(settings, weights=path)).double().eval()
    images = torch.randn(3, *IMAGES[settings.get("stem", "imagenet")], dtype=torch.float64)
    wide = {key: value.double() for key, value in state.items()}
    with torch.no_grad():
        found, expected = chain(images), Reconstruction(wide)(images)
    assert len(found) == len(expected) == 3
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
        assert theirs.std() > 1e-3


def test_every_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "msdnet.pth.tar"
    state = random_checkpoint(IMAGENET, path)
    chain = build_network(small(IMAGENET))
    segments = dict(zip(chain.segment_names, chain.segments, strict=True))
    heads = dict(zip(chain.exit_names, chain.heads, strict=True))
    counted = [key for key in state if not key.endswith("num_batches_tracked")]
    for key in ("blocks.0.0.layers.0.0.bias", *counted[::37]):  # each kind of key is among them
        torch.save({name: value for name, value in state.items() if name != key}, path)
        with pytest.raises(UserError, match=f"1 missing: {key}"):
            load_official(segments, heads, path)


def test_what_does_not_belong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "msdnet.pth.tar"
    random_checkpoint(IMAGENET, path, more={"classifier.3.linear.bias": torch.zeros(5)})
    with pytest.raises(UserError, match=r"1 not in the model: classifier\.3\.linear\.bias"):
        build_network(small(IMAGENET, weights=path))
    random_checkpoint(IMAGENET, path, more={"blocks.0.0.layers.0.0.bias": torch.zeros(9)})
    with pytest.raises(UserError, match=r"blocks\.0\.0\.layers\.0\.0\.bias \(9, expected 4\)"):
        build_network(small(IMAGENET, weights=path))


@pytest.mark.parametrize("settings", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
def test_supernet_at_full_precision_and_compiled(settings: dict[str, Any]) -> None:
    supernet = nets.supernet(small(settings, {"choices": [[2, 2], [4, 4]]}))
    _, chain = nets.network(small(settings, {"choices": [[2, 2], [4, 4]]}))
    full = nets.supernet(small(settings, {"choices": [[4, 4]]}))
    images = nets.images_for(supernet.space, 2)
    with torch.no_grad():
        before = full.set_bits(None) or full(images)
        for mine, theirs in zip(full.chain(images), before, strict=True):
            assert torch.equal(mine, theirs)
        assert len(chain(images)) == len(before) == 3
    compiler = PartCompiler(supernet, "float", channels_last=False)
    assert all(compiler.traced)
    bits = supernet.space.choice_bits([i % 2 for i in range(len(supernet.space.groups))])
    supernet.set_bits(bits)
    by_layer = supernet.space.layer_bits(bits)
    with torch.no_grad():
        plain = supernet(images)
        state, logits = (compiler.prepared(images),), []
        for index in range(len(supernet.chain.segments)):
            state = compiler.segment(index, by_layer)(state)
            if index in supernet.chain.exit_segments:
                logits.append(compiler.head(supernet.chain.exit_segments.index(index), by_layer)(state)[0])
    for mine, theirs in zip(logits, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_layers_that_read_one_map_share_its_quantizer() -> None:
    supernet = nets.supernet(small(CIFAR, {"choices": [[2, 2], [4, 4]]}))
    normal, down = (supernet.layers[f"block0.0.scale{i}"] for i in ("0.normal.conv0", "1.down.conv0"))
    assert normal.input_quantizer is down.input_quantizer
    assert supernet.layers["block0.0.scale1.normal.conv0"].input_quantizer is not down.input_quantizer


@pytest.mark.parametrize(
    ("network", "exits", "message"),
    [
        ({"depth": 8}, OWN, "network.depth: msdnet has no 'depth' to set"),
        ({"segments": 3}, OWN, "network.segments: msdnet has no 'segments' to set"),
        ({}, OWN | {"candidates": ["block0.0"]}, "exits.candidates: no exit can follow 'block0.0'"),
    ],
)
def test_what_cannot_be_built_is_named(network: dict[str, Any], exits: dict[str, Any], message: str) -> None:
    payload = {"name": "msdnet", "input_shape": [3, 16, 16], "num_classes": 5, "msdnet": CIFAR} | network
    with pytest.raises(UserError) as caught:
        build_network(nets.spec(payload, None, exits))
    assert str(caught.value).startswith(message)


def test_networks_without_exits_of_their_own() -> None:
    with pytest.raises(UserError, match=r"exits\.head: resnet_cifar has no exits of its own"):
        build_network(nets.spec(exits={"head": "own"}))
    with pytest.raises(UserError, match=r"network\.msdnet: resnet_cifar has no 'msdnet' to set"):
        build_network(nets.spec(nets.RESNET8 | {"msdnet": CIFAR}))


def test_other_heads_may_stand_after_any_layer() -> None:
    exits = {"head": "linear", "candidates": ["block0.0", "block1.1"]}
    payload = {"name": "msdnet", "input_shape": [3, 16, 16], "num_classes": 5, "msdnet": CIFAR}
    assert build_network(nets.spec(payload, None, exits)).exit_names == ("block0.0", "block1.1", "final")
