"""The supernet next to networks built independently of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import nets
from usdn_nas.networks.build import resolve_space
from usdn_nas.quant import supernet as supernets
from usdn_nas.quant.layers import SwitchableBatchNorm2d, SwitchableLayer, SwitchableQuantizer
from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.search_space import SpaceSpec

SPACES = {
    "pairs, blocks": nets.spec(),
    "apart, layers, searched heads": nets.spec(
        nets.RESNET8, {"granularity": "layer", **nets.APART}, {"head": "conv3", "head_bits": "search"}
    ),
    "apart, blocks, searched heads": nets.spec(
        nets.RESNET14, nets.APART, {"head": "conv", "head_bits": "search", "head_linear_bits": [6, 5]}
    ),
    "lists of their own": nets.spec(
        nets.RESNET8, nets.APART | {"allowed": {"layer1.*": [[5, 4], [2, 2]], "layer3.0": [[3, 4]]}}
    ),
    "one group for all, heads too": nets.spec(
        nets.RESNET8, {"granularity": "network", **nets.APART}, {"head": "conv3", "head_bits": "search"}
    ),
    "pairs with full precision, fixed": nets.spec(
        nets.RESNET8,
        {"choices": [[2, 3], [32, 32]], "fixed": {"stem.*": [32, 32], "layer2.0.conv2": [3, 3]}},
        {"head": "msdnet", "head_bits": [3, 4]},
    ),
    "resnet18": nets.spec(
        nets.RESNET18 | {"input_shape": [3, 16, 16]},
        nets.APART,
        {"head": "conv3", "candidates": ["layer1.1", "layer3.0"], "head_width": 8},
    ),
    "resnet18, layers": nets.spec(
        nets.RESNET18 | {"input_shape": [3, 16, 16]},
        {"granularity": "layer", "choices": [[2, 2], [3, 4]]},
        {"head": "linear", "candidates": ["layer2.0"]},
    ),
}


class Standalone:
    """One architecture written out: topology by hand, parameters by name, quantizers by definition."""

    def __init__(self, state: Mapping[str, Tensor], spec: SpaceSpec, bits: Mapping[str, Bits]) -> None:
        self.state, self.spec, self.bits = state, spec, bits

    def bits_of(self, layer: str, part: str) -> Bits:
        """From the rules of a search space: fixed ones, ends at 8/8, heads' own, else the group's."""
        spec = self.spec
        for pattern, pair in spec.bits.fixed.items():
            if layer == pattern or (pattern.endswith("*") and layer.startswith(pattern[:-1])):
                return pair
        if part in ("stem", "final"):
            return 8, 8
        if part.startswith("exit:"):
            if layer.endswith(".linear"):
                return spec.exits.head_linear_bits
            if spec.exits.head_bits != "search":
                return spec.exits.head_bits
        return self.bits[{"layer": layer, "block": part, "network": "network"}[spec.bits.granularity]]

    def quantize(self, x: Tensor, prefix: str, width: int, signed: bool) -> Tensor:
        if width == 32:
            return x
        step = abs(float(self.state[f"{prefix}.steps.{width}.step"]))
        low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
        offset = self.state.get(f"{prefix}.steps.{width}.offset")
        if offset is not None:
            zero = round(-float(offset) / step)
            low, high = low - zero, high - zero
        return torch.from_numpy(np.clip(np.rint(x.numpy() / step), low, high) * step)

    def layer(self, x: Tensor, where: str, layer: str, part: str, stride: int = 1, padding: int = 0) -> Tensor:
        w, a = self.bits_of(layer, part)
        weight = self.quantize(self.state[f"{where}.layer.weight"], f"{where}.weight_quantizer", w, True)
        x = self.quantize(x, f"{where}.input_quantizer", a, False)
        if weight.ndim == 2:
            return x @ weight.T + self.state[f"{where}.layer.bias"]
        return F.conv2d(x, weight, stride=stride, padding=padding)

    def norm(self, x: Tensor, where: str, bits: Bits) -> Tensor:
        scale, shift, mean, variance = (
            self.state[f"{where}.norms.w{bits[0]}a{bits[1]}.{name}"].view(1, -1, 1, 1)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv_norm(
        self, x: Tensor, index: str, part: str, conv: str, norm: str, stride: int = 1, padding: int = 1
    ) -> Tensor:
        layer = f"{part}.{conv}"
        out = self.layer(x, f"{index}.{conv}", layer, part, stride, padding)
        return self.norm(out, f"{index}.{norm}", self.bits_of(layer, part))

    def head(self, x: Tensor, number: int, exit_: str) -> Tensor:
        where, part = f"chain.heads.{number}", "final" if exit_ == "final" else f"exit:{exit_}"
        if exit_ == "final":
            return self.layer(x.mean((2, 3)), f"{where}.fc", "final.fc", part)
        kind = self.spec.exits.head
        for i, stride in enumerate({"linear": (), "conv": (1,), "msdnet": (2, 2), "conv3": (2, 2, 2)}[kind]):
            x = self.conv_norm(x, where, part, f"conv{i}", f"bn{i}", stride).clamp(min=0)
        x = F.avg_pool2d(x, 2).flatten(1) if kind == "msdnet" else x.mean((2, 3))
        return self.layer(x, f"{where}.linear", f"{part}.linear", part)

    def logits(self, x: Tensor, exits: Mapping[str, tuple[int, str]]) -> dict[str, Tensor]:
        """``exits``: exit name -> (number of its head, segment that it follows)."""
        torchvision = self.spec.network.name.startswith("torchvision")
        x = self.conv_norm(x, "chain.segments.0", "stem", "conv1", "bn1", *((2, 3) if torchvision else (1, 1)))
        x = x.clamp(min=0)
        if torchvision:
            x = F.max_pool2d(x, 3, 2, 1)
        stages = 4 if torchvision else 3
        blocks = 2 if torchvision else ((self.spec.network.depth or 0) - 2) // 6
        out, index = {}, 0
        for stage in range(stages):
            for block in range(blocks):
                index += 1
                where, part = f"chain.segments.{index}", f"layer{stage + 1}.{block}"
                stride = 2 if stage and not block else 1
                y = self.conv_norm(x, where, part, "conv1", "bn1", stride).clamp(min=0)
                y = self.conv_norm(y, where, part, "conv2", "bn2")
                if stride == 2 and torchvision:
                    x = self.conv_norm(x, where, part, "downsample.0", "downsample.1", 2, 0)
                elif stride == 2:
                    skip, before = torch.zeros_like(y), (y.shape[1] - x.shape[1]) // 2
                    skip[:, before : before + x.shape[1]] = x[:, :, ::2, ::2]
                    x = skip
                x = (x + y).clamp(min=0)
                for name, (number, segment) in exits.items():
                    if segment == part:
                        out[name] = self.head(x, number, name)
        return out


@pytest.fixture(scope="module", params=[name for name in SPACES if name != "resnet18, layers"])
def built(request: pytest.FixtureRequest) -> tuple[Supernet, Tensor]:
    supernet = nets.supernet(SPACES[request.param])
    return supernet, nets.images_for(supernet.space, 3, 9)


def architectures(supernet: Supernet, count: int) -> list[Architecture]:
    generator = np.random.default_rng(1)
    made = []
    for _ in range(count):
        placed = tuple(name for name in supernet.space.candidates if generator.random() < 0.6)
        made.append(Architecture(supernet.space.sample(generator), placed, (0.5,) * len(placed)))
    return made


@torch.no_grad()
def test_path_equals_an_independent_network(built: tuple[Supernet, Tensor]) -> None:
    supernet, images = built
    chain, spec = supernet.chain, supernet.space.spec
    segments = [supernet.chain.segment_names[i] for i in chain.exit_segments]
    exits = {name: (i, segments[i]) for i, name in enumerate(chain.exit_names)}
    for architecture in architectures(supernet, 2 if spec.network.name.startswith("torchvision") else 5):
        expected = Standalone(supernet.state_dict(), spec, architecture.bits).logits(images, exits)
        supernet.set_bits(architecture.bits)
        path = dict(zip(chain.exit_names, supernet(images), strict=True))
        alone = extract_chain(supernet, architecture)
        assert alone.exit_names == (*architecture.exits, "final")
        plain = dict(zip(alone.exit_names, alone(images), strict=True))
        assert list(expected) == list(path)
        for name, logits in expected.items():
            assert torch.allclose(path[name], logits, rtol=0, atol=1e-9)
            assert name not in plain or torch.allclose(plain[name], logits, rtol=0, atol=1e-9)


@torch.no_grad()
def test_full_precision_is_the_original() -> None:
    for spec in (SPACES["apart, layers, searched heads"], SPACES["resnet18"]):
        space, chain = nets.network(spec)
        images = nets.images_for(space, 2)
        expected = chain(images)
        supernet = Supernet(chain, space).eval()
        before = supernet(images)
        nets.set_steps(supernet.double(), 0)
        supernet.set_bits(space.choice_bits([0] * len(space.groups)))
        assert not torch.equal(supernet(images)[-1], expected[-1])
        supernet.set_bits(None)
        for i, logits in enumerate(supernet(images)):
            assert torch.equal(logits, expected[i]) and torch.equal(before[i], expected[i])


@torch.no_grad()
def test_every_group_matters() -> None:
    exits = {"head": "conv", "head_bits": "search", "head_width": 8}
    supernet = nets.supernet(nets.spec(nets.RESNET8, {"granularity": "layer", **nets.APART}, exits))
    space, images = supernet.space, nets.images_for(supernet.space, 8)
    base = space.choice_bits([len(group.choices) - 1 for group in space.groups])
    supernet.set_bits(base)
    expected = supernet(images)
    for group in space.groups:
        supernet.set_bits(base | {group.name: group.choices[0]})
        changed = [not torch.equal(a, b) for a, b in zip(supernet(images), expected, strict=True)]
        if group.name.startswith("exit:"):
            name = group.name.removeprefix("exit:").rpartition(".")[0]
            assert changed == [exit_ == name for exit_ in supernet.chain.exit_names]
        else:
            segment = supernet.chain.segment_names.index(group.name.rpartition(".")[0])
            before = [after < segment for after in supernet.chain.exit_segments]
            assert changed[-1] and not any(now and early for now, early in zip(changed, before, strict=True))
    supernet.set_bits(base)
    assert all(torch.equal(a, b) for a, b in zip(supernet(images), expected, strict=True))


@torch.no_grad()
def test_materialized_networks_stand_alone() -> None:
    supernet = nets.supernet(nets.spec(exits={"head": "conv3"}))
    images = nets.images_for(supernet.space, 2)
    architecture = Architecture(supernet.space.choice_bits([0, 1, 2]), ("layer2.0",), (0.5,))
    supernet.set_bits(architecture.bits)
    supernet(images)  # so that it holds quantized weights
    alone = extract_chain(supernet, architecture)
    switchable = (SwitchableLayer, SwitchableQuantizer, SwitchableBatchNorm2d, Supernet)
    assert not any(isinstance(module, switchable) for module in alone.modules())
    expected = alone(images)
    before = copy.deepcopy(supernet.state_dict())
    for parameter in supernet.parameters():
        parameter.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(alone(images), expected, strict=True))
    supernet.load_state_dict(before)
    for parameter in alone.parameters():
        parameter.add_(1)
    after = supernet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_one_quantizer_for_what_a_block_reads_twice() -> None:
    supernet = nets.supernet(SPACES["resnet18"])
    block, layer = supernet.layers, nets.supernet(SPACES["resnet18, layers"]).layers
    for stage in (2, 3, 4):
        first, shortcut = f"layer{stage}.0.conv1", f"layer{stage}.0.downsample.0"
        assert block[first].input_quantizer is block[shortcut].input_quantizer
        assert layer[first].input_quantizer is not layer[shortcut].input_quantizer
        assert block[first].weight_quantizer is not block[shortcut].weight_quantizer
    distinct = {id(layer.input_quantizer) for layer in block.values()}
    assert len(distinct) == len(block) - 3
    alone = extract_chain(supernet, Architecture(supernet.space.choice_bits([0] * 8))).segments[3]
    assert alone.conv1.input_quantizer is alone.downsample[0].input_quantizer


def test_a_fixed_layer_shares_no_quantizer() -> None:
    spec = nets.spec(
        nets.RESNET18 | {"input_shape": [3, 16, 16]},
        {"choices": [[2, 2], [3, 3]], "fixed": {"layer2.0.downsample.0": [8, 8]}},
        {"head": "linear", "candidates": []},
    )
    space, chain = resolve_space(spec)
    layers = Supernet(chain, space).layers
    assert layers["layer2.0.conv1"].input_quantizer is not layers["layer2.0.downsample.0"].input_quantizer
    assert list(layers["layer2.0.downsample.0"].input_quantizer.steps) == ["8"]


def test_offsets_only_where_inputs_can_be_negative() -> None:
    supernet = nets.supernet(nets.spec())
    with_offset = [
        name for name, layer in supernet.layers.items() for step in layer.input_quantizer.steps.values()
        if step.offset is not None
    ]  # fmt: skip
    assert with_offset == ["stem.conv1"]
    for record in supernet.space.chain.layers():
        layer = supernet.layers[record.name]
        for step in layer.input_quantizer.steps.values():
            assert step.gradient_scale == pytest.approx((record.feature_count * step.high) ** -0.5)
        for step in layer.weight_quantizer.steps.values():
            assert step.gradient_scale == pytest.approx((layer.layer.weight.numel() * step.high) ** -0.5)


def test_steps_start_from_what_layers_read_at_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernets, "VALUES_PER_IMAGE", 10_000)
    space, chain = nets.network(nets.spec())
    batches = [nets.images_for(space, 2, seed) for seed in (3, 4)]
    seen: dict[nn.Module, list[Tensor]] = {}
    convs = [module for module in chain.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [conv.register_forward_pre_hook(lambda m, x: seen.setdefault(m, []).append(x[0])) for conv in convs]
    with torch.no_grad():
        for images in batches:
            chain(images)
    for hook in hooks:
        hook.remove()
    supernet = Supernet(chain, space).double()
    supernet.set_bits(space.choice_bits([0] * len(space.groups)))
    supernet.initialize_steps(batches)
    by_weight = {tuple(m.weight.shape): (m, torch.cat([x.flatten() for x in seen[m]])) for m in convs}
    checked = 0
    for layer in supernet.layers.values():
        module, inputs = by_weight[tuple(layer.layer.weight.shape)]
        if not torch.equal(module.weight, layer.layer.weight):
            continue  # another layer has the same shape
        for step in layer.input_quantizer.steps.values():
            twin = LSQQuantizer(step.width, signed=False, offset=step.offset is not None, count=1).double()
            twin.initialize(inputs)
            assert torch.equal(twin.step, step.step)
            checked += 1
    assert checked > 10


def test_calibration_does_not_depend_on_batches() -> None:
    """Every image weighs as much, also in a last batch that is smaller."""
    space, chain = nets.network(nets.spec())
    images = nets.images_for(space, 5)
    steps = []
    for sizes in ([5], [4, 1], [1, 1, 1, 2]):
        made = Supernet(chain, space).double()
        made.initialize_steps(images.split(sizes))
        steps.append({name: value for name, value in made.state_dict().items() if name.endswith((".step", ".offset"))})
    for other in steps[1:]:
        assert all(torch.allclose(value, other[name], rtol=1e-9) for name, value in steps[0].items())


def test_an_image_gives_so_many_values() -> None:
    inputs = torch.arange(4 * 6.0).view(4, 1, 2, 3)
    assert torch.equal(supernets._values(inputs, torch.Generator()), inputs.flatten())
    many = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 10, 10)
    drawn = supernets._values(many, torch.Generator())
    assert torch.equal(drawn, torch.arange(3.0).repeat_interleave(supernets.VALUES_PER_IMAGE))


def test_the_original_is_copied() -> None:
    space, chain = nets.network(nets.spec())
    before = copy.deepcopy(chain.state_dict())
    supernet = Supernet(chain, space)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(1)
    assert list(chain.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())
