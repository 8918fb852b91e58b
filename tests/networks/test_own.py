"""Networks of one's own, next to the models they were cut from."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from tests import nets
from tests.networks import models
from usdn_nas._util.errors import UserError
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.engine.outputs import Batches, SupernetEvaluator
from usdn_nas.networks.build import build_network, chain_record, resolve_space
from usdn_nas.networks.empty import resolve_shapes, space_of
from usdn_nas.networks.find import make_model, torchvision_names
from usdn_nas.networks.kept import ByMode, Kept
from usdn_nas.quant.layers import SwitchableBatchNorm2d
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.records import OPAQUE
from usdn_nas.space.search_space import NetworkSpec, SpaceSpec, load_space

HERE = "tests.networks.models:"
FAMILIES = {
    "squeezenet1_1": 64,
    "mobilenet_v3_small": 48,
    "shufflenet_v2_x0_5": 64,
    "googlenet": 64,
    "regnet_y_400mf": 64,
    "swin_t": 32,
}


def spec_of(name: str, side: int, classes: int = 4, **network: Any) -> SpaceSpec:
    given = {"name": name, "input_shape": [3, side, side], "num_classes": classes, **network}
    return nets.spec(given, {"choices": [[3, 3], [5, 5]]}, {"head": "linear"})


def made(spec: SpaceSpec) -> tuple[nn.Module, Supernet, Tensor]:
    """The original, the supernet with the same weights, and images."""
    torch.manual_seed(1)
    model = make_model(spec.network).eval()
    torch.manual_seed(1)
    space, network = resolve_space(spec)
    return model, Supernet(network, space).eval(), torch.randn(2, *spec.network.input_shape)


def logits_of(returned: Any) -> Tensor:
    return returned["out"] if isinstance(returned, dict) else returned


def check(spec: SpaceSpec) -> Supernet:
    """Logits at full precision, a step of training, a random architecture by both ways of evaluation, and alone."""
    model, supernet, images = made(spec)
    with torch.no_grad():
        assert torch.equal(supernet(images)[-1], logits_of(model(images)))
    nets.set_steps(supernet, 3)
    space = supernet.space
    bits = space.sample(np.random.default_rng(0))
    supernet.train().set_bits(bits)
    torch.stack([F.cross_entropy(z, torch.tensor([0, 1])) for z in supernet(images)]).sum().backward()
    for layer in supernet.layers.values():
        assert layer.layer.weight.grad is not None and bool(layer.layer.weight.grad.isfinite().all())
        assert layer.input_quantizer.at(layer.bits[1]).step.grad is not None
    supernet.eval().double()  # in FP32, folding turns rounding ties
    images = images.double()
    split = nets.MemorySplit(images, [0, 1])
    plain = SupernetEvaluator(supernet, Batches(split, 2, torch.device("cpu")))(bits)
    engine = Engine(supernet, Batches(split, 2, torch.device("cpu")), EngineSettings("float", 2))
    assert np.allclose(engine(bits).confidence, plain.confidence, rtol=0, atol=1e-6)  # kept as FP32
    with torch.no_grad():
        supernet.set_bits(bits)
        placed = space.candidates[:1]
        alone = extract_chain(supernet, Architecture(bits, placed, (0.5,) * len(placed)))
        assert torch.equal(alone(images)[-1], supernet(images)[-1])
    return supernet


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_torchvision(name: str) -> None:
    supernet = check(spec_of(f"torchvision:{name}", FAMILIES[name], segments=4))
    assert 4 <= len(supernet.chain.segments) <= 6


def test_resnet18_is_cut_as_by_hand() -> None:
    by_hand = nets.spec(nets.RESNET18, exits={"head": "conv3"})
    cut = nets.spec({**nets.RESNET18, "segments": 99}, exits={"head": "conv3"})
    one, other = (build_network(spec) for spec in (by_hand, cut))
    assert other.segment_names == one.segment_names and other.exit_names == one.exit_names
    assert list(other.state_dict()) == list(one.state_dict())
    first, second = (chain_record(net, by_hand.network) for net in (one, other))
    assert [(x.name, x.macs, x.signed) for x in first.layers()] == [(x.name, x.macs, x.signed) for x in second.layers()]


def test_there_are_eighty() -> None:
    assert len(torchvision_names()) == 80


def test_shapes_at_their_own_size_take_no_memory() -> None:
    record = resolve_shapes(space_of("torchvision:mobilenet_v2")).chain
    assert (record.macs, record.opaque_macs, record.input_shape) == (300_774_272, 0, (3, 224, 224))
    names = [segment.name for segment in record.segments]
    assert names == ["stem", *(f"features.{i}" for i in range(1, 19))]
    vit = resolve_shapes(space_of("torchvision:vit_b_16", segments=4)).chain
    attention = 197 * 768 * 768 * 4 + 2 * 197 * 197 * 768
    assert vit.opaque_macs == 12 * attention
    assert all(x.macs == attention for s in vit.segments for x in s.layers if x.kind == OPAQUE)
    assert next(nn.Conv2d(1, 1, 1).parameters()).device.type == "cpu"  # put back


def test_opaque_parts_cost_full_precision() -> None:
    from usdn_nas.space.cost import full_bops, uniform_bops

    space = resolve_shapes(spec_of(f"{HERE}hard", 16))
    bits = {group.name: (3, 3) for group in space.groups}
    opaque = [x for x in space.chain.layers() if x.kind == OPAQUE]
    assert {space.fixed[x.name] for x in opaque} == {(32, 32)}
    assert full_bops(space, bits) == uniform_bops(space, 3)
    assert sum(x.macs for x in opaque) * 1024 < full_bops(space, bits)


def test_a_hard_model_of_ones_own() -> None:
    spec = spec_of(f"{HERE}hard", 16)
    supernet = check(spec)
    chain = supernet.chain
    assert chain.dropped == ("aux",)
    assert set(chain.kept) == {"router", "twice"} and chain.kept["twice"] == "called more than once"
    assert "models.py:" in chain.kept["router"] and "control flow" in chain.kept["router"]
    record = supernet.space.chain
    assert {x.name.split(".")[-1] for x in record.layers() if x.kind == OPAQUE} == {"router", "twice", "twice_1"}
    per_sample = 16 * 16 * 8 * 8
    assert record.opaque_macs == per_sample * 9 + 2 * per_sample
    assert sum(isinstance(m, Kept) and not isinstance(m, ByMode) for m in chain.modules()) == 2
    norms = [m for m in chain.modules() if isinstance(m, SwitchableBatchNorm2d)]
    assert len(norms) == 5  # the stem's and two a block
    signed = {x.name: x.signed for x in record.layers()}
    assert signed["block1.project"] and not signed["block1.excite.up"] and not signed["block1.grouped"]
    assert "block1" in chain.segment_names and "block2" in chain.segment_names


def test_the_network_of_inverted_residuals() -> None:
    spec = load_space(Path(__file__).parents[2] / "research" / "search_spaces" / "compact_fashion.toml")
    supernet = check(spec)
    space = supernet.space
    assert space.chain.macs == 1_326_624 and space.candidates == tuple(f"blocks.{i}" for i in range(4))
    depthwise = [layer.macs for layer in space.chain.layers() if ".conv.1.0" in layer.name]
    # of 48, 48, 96, 96 and 160 channels, nine weights each
    assert depthwise == [9 * c * side**2 for c, side in ((48, 14), (48, 7), (96, 7), (96, 4), (160, 4))]


def test_functional_dropout_follows_the_mode() -> None:
    network = build_network(spec_of(f"{HERE}hard", 16))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(images)[-1], network(images)[-1])
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 0.0
        network.train()
        assert not torch.equal(network(images)[-1], network(images)[-1])


@pytest.mark.parametrize("name", ["stateful", "preactivation"])
def test_models_that_change_tensors_in_place(name: str) -> None:
    supernet = check(spec_of(HERE + name, 24))
    if name == "preactivation":
        for graph in supernet.chain.segments[1:]:
            kinds = [type(m).__name__ for m in graph.children()]
            assert not kinds or "SwitchableLayer" in str([type(m) for m in graph.modules()])
        assert len([m for m in supernet.chain.modules() if isinstance(m, SwitchableBatchNorm2d)]) == 3


def test_about_as_many_segments_of_equal_macs_as_asked() -> None:
    name = "torchvision:mobilenet_v3_small"
    for count in (1, 3, 6):
        record = resolve_shapes(space_of(name, segments=count)).chain
        inner = [sum(x.macs for x in s.layers) for s in record.segments[1:]]
        assert len(inner) == count
        assert max(inner) < 2 * sum(inner) / count
    assert len(resolve_shapes(space_of(name, segments=99)).chain.segments) == 14


@pytest.mark.parametrize("head", ["linear", "sdn", "conv", "msdnet", "conv3"])
@pytest.mark.parametrize(("name", "shape"), [("vit_b_32", (96, 96)), ("swin_t", (32, 64))])
def test_heads_on_tokens_and_on_channels_last_states(head: str, name: str, shape: tuple[int, int]) -> None:
    spec = nets.spec(
        {"name": f"torchvision:{name}", "input_shape": [3, *shape], "num_classes": 5, "segments": 3},
        exits={"head": head},
    )
    space = resolve_shapes(spec)
    assert space.candidates
    assert all(exit_.layers[-1].kind == "linear" for exit_ in space.chain.exits)
    if name == "swin_t" and head == "linear":
        widths = [exit_.layers[-1].weights // 5 for exit_ in space.chain.exits[:-1]]
        assert set(widths) <= {96, 192, 384, 768}


NAME = "network.name"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnt50", f"{NAME}: torchvision has no classifier 'torchvision:resnt50'; did you mean"),
        ("nowhere.at_all:f", f"{NAME}: module 'nowhere.at_all' is not found; install it, set PYTHONPATH, or start"),
        (f"{HERE}hrad", f"{NAME}: module 'tests.networks.models' has no 'hrad'; did you mean 'hard'?"),
        (f"{HERE}not_a_function", f"{NAME}: '{HERE}not_a_function' is no function, its type is int"),
        (f"{HERE}a_number", f"{NAME}: {HERE}a_number returned int, expected a torch.nn.Module"),
        (f"{HERE}fails", f"{NAME}: {HERE}fails() failed: ValueError: no such depth"),
        (":f", f"{NAME}: expected 'package.module:function', got ':f'"),
        (f"{HERE}value_dependent", "cannot trace ValueDependent.forward: symbolically traced variables cannot be used"),
        (f"{HERE}noisy", "computes something else in training than in evaluation, from '%randn_like"),
        (f"{HERE}one_layer", "no place to cut: 0 found"),
        (f"{HERE}a_map", "network.num_classes: tests.networks.models:a_map gives 3x6x6 values an image, expected 4"),
    ],
)
def test_what_cannot_be_used_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_network(spec_of(name, 16))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": f"{HERE}stateful", "num_classes": 5}, "gives 4 values an image, expected 5 logits; set it to 4"),
        ({"name": "torchvision:vit_b_16"}, "network.input_shape: torchvision:vit_b_16: Input shape indivisible"),
        (
            {"name": "torchvision:alexnet"},
            "network.input_shape: torchvision:alexnet does not take images of 3x24x24: at",
        ),
        ({"name": "torchvision:alexnet", "input_shape": [1, 64, 64]}, "torchvision:alexnet reads 3 channels, got 1"),
        ({"name": "torchvision:alexnet", "depth": 20}, "network.depth: torchvision:alexnet has no 'depth' to set"),
        ({"name": "resnet_cifar", "segments": 3}, "network.segments: resnet_cifar has no 'segments' to set"),
        ({"name": "resnet_cifar", "weights": "a.pth"}, "network.weights: resnet_cifar has no 'weights' to set"),
    ],
)
def test_settings_that_do_not_fit(network: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_network(nets.spec({"input_shape": [3, 24, 24], "num_classes": 4, **network}))
    assert message in str(caught.value)


def test_settings_that_are_not_given_leave_no_trace() -> None:
    spec = NetworkSpec(name="a", input_shape=(1, 2, 3), num_classes=2)
    assert set(spec.model_dump(mode="json")) == {
        *("name", "input_shape", "num_classes", "depth", "width", "stem_stride")
    }
    given = spec.model_copy(update={"segments": 4})
    assert NetworkSpec.model_validate(given.model_dump(mode="json")) == given


class Executed:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('executed')",))


def write(path: Path, state: dict[str, Tensor]) -> Path:
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("network", ["torchvision:squeezenet1_1", "torchvision:resnet18"])
def test_pretrained_weights(name: str, network: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = torchvision.models.get_model(network.partition(":")[2], num_classes=4).eval()
    path = write(tmp_path / name, model.state_dict())
    chain = build_network(spec_of(network, 64, weights=str(path))).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(chain(images)[-1], model(images))


def test_weights_of_torch_0_4_0_have_no_counters(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = torchvision.models.resnet18(num_classes=4).eval()
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert len(state) < len(model.state_dict())
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    chain = build_network(spec_of("torchvision:resnet18", 64, weights=str(tmp_path / "w.pth"))).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(chain(images)[-1], model(images))


def test_weights_may_lie_in_a_checkpoint(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in models.Stateful().state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    network = build_network(spec_of(f"{HERE}stateful", 16, weights=str(tmp_path / "w.pth")))
    (mine,) = [value for key, value in network.state_dict().items() if key.endswith(".fc.weight")]
    assert torch.equal(mine, state["module.fc.weight"])


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = models.Stateful().state_dict()
    wrong = copy.copy(state) | {"more.weight": torch.ones(1), "fc.bias": torch.ones(9)}
    del wrong["convs.1.bias"]
    executed = tmp_path / "executed.pth"
    executed.write_bytes(pickle.dumps({"fc.weight": Executed()}, protocol=2))
    cut_off = write(tmp_path / "cut.pth", state)
    cut_off.write_bytes(cut_off.read_bytes()[:200])
    torn = write(tmp_path / "torn.safetensors", state)
    torn.write_bytes(torn.read_bytes()[:50])
    expected = {
        write(
            tmp_path / "wrong.pth", wrong
        ): "weights of another network: 1 missing: convs.1.bias; 1 not in the model: "
        "more.weight; 1 of another shape: fc.bias (9, expected 4)",
        executed: "nothing of a file is executed here",
        cut_off: "expected weights written by torch.save",
        torn: "expected a whole safetensors file",
        write(tmp_path / "list.pth", [1, 2]): "expected a state dict",  # type: ignore[arg-type]
        tmp_path / "none.pth": "no such file",
    }
    for path, message in expected.items():
        with pytest.raises(UserError) as caught:
            build_network(spec_of(f"{HERE}stateful", 16, weights=str(path)))
        assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
