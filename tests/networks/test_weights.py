"""Weights on disk."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.networks.build import build_network
from usdn_nas.networks.foreign import load_foreign
from usdn_nas.networks.weights import load_weights, save_weights
from usdn_nas.quant.supernet import Supernet


def test_round_trip_with_shared_quantizers(tmp_path: Path) -> None:
    bits = {"granularity": "block", "choices": [[2, 2], [4, 4]]}
    first, second = (nets.supernet(nets.spec(nets.RESNET8, bits), seed) for seed in (0, 5))
    second.layers["layer2.0.conv2"].input_quantizer = second.layers["layer2.0.conv1"].input_quantizer
    first.layers["layer2.0.conv2"].input_quantizer = first.layers["layer2.0.conv1"].input_quantizer
    save_weights(first, tmp_path / "w.safetensors")
    load_weights(second, tmp_path / "w.safetensors")
    theirs = second.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    spec = nets.spec()
    path = tmp_path / "w.safetensors"
    network = build_network(spec)
    with pytest.raises(UserError, match="no such file"):
        load_weights(network, path)
    save_weights(network, path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"no safetensors at all"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="expected a whole safetensors file") as caught:
            load_weights(network, path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="weights of another network") as caught:
        load_weights(build_network(nets.spec(nets.RESNET14)), path)
    assert "segments" in str(caught.value)
    with pytest.raises(UserError, match="weights of another network"):
        load_weights(build_network(nets.spec(nets.RESNET8 | {"width": 8})), path)


def quantized() -> Supernet:
    return nets.supernet(nets.spec(nets.RESNET8, {"choices": [[2, 2], [4, 4]]}), 0).float()


WRONG: dict[str, tuple[str, float, str]] = {
    "NaN": ("layer.weight", math.nan, "holds NaN or infinity"),
    "infinity": ("layer.weight", -math.inf, "holds NaN or infinity"),
    "a variance that is NaN": ("running_var", math.nan, "holds NaN or infinity"),
    "a negative variance": ("running_var", -1e-6, "holds a negative variance"),
    "a step of zero": ("input_quantizer.steps.4.step", 0.0, "is a step size of zero"),
    "a step that is infinite": ("weight_quantizer.steps.2.step", math.inf, "holds NaN or infinity"),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_that_no_training_leaves_are_refused(name: str, tmp_path: Path) -> None:
    ending, value, message = WRONG[name]
    path = tmp_path / "w.safetensors"
    save_weights(quantized(), path)
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(ending))
    tensors[key].reshape(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(UserError, match=f"weights that no trained network has: '{re.escape(key)}' {message}") as caught:
        load_weights(quantized(), path)
    assert "\n" not in str(caught.value)


def test_a_negative_step_is_its_magnitude(tmp_path: Path) -> None:
    """LSQ's steps are used without their sign, which training may turn."""
    path = tmp_path / "w.safetensors"
    save_weights(quantized(), path)
    save_file({key: -v if key.endswith(".step") else v for key, v in load_file(path).items()}, path)
    network = quantized()
    images = torch.randn(2, *network.space.spec.network.input_shape)
    expected = network.eval()(images)
    load_weights(network, path)
    assert all(map(torch.equal, network(images), expected))


def test_a_step_that_layers_share_is_checked_under_either_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for first, second in (("conv1", "conv2"), ("conv2", "conv1")):
        network = quantized()
        shared = network.layers[f"layer2.0.{first}"].input_quantizer
        network.layers[f"layer2.0.{second}"].input_quantizer = shared
        save_weights(network, path)
        load_weights(network, path)
        torch.nn.init.zeros_(shared.at(4).step)
        save_weights(network, path)
        with pytest.raises(UserError, match="is a step size of zero"):
            load_weights(network, path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_weights_of_another_type_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    network = build_network(nets.spec())
    save_weights(network, path)
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith("conv1.weight"))
    save_file(tensors | {key: tensors[key].to(dtype)}, path)
    with pytest.raises(UserError, match=f"'{re.escape(key)}' is {str(dtype)[6:]}, expected float32"):
        load_weights(network, path)


def test_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(build_network(nets.spec()), tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.full((2, 1, 1, 1), math.nan)}, "'0.weight' holds NaN or infinity"),
        ({"1.running_var": torch.tensor([1.0, -1])}, "'1.running_var' holds a negative variance"),
        ({"0.weight": torch.ones(2, 1, 1, 1, dtype=torch.int64)}, "1 of another kind of number: 0.weight"),
        ({"1.num_batches_tracked": torch.tensor(1.5)}, "of another kind of number: 1.num_batches_tracked"),
    ],
)
def test_foreign_weights_are_checked_too(change: dict, message: str, suffix: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    good = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    for state, expected in ((good, None), (good | change, message)):
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        for target in (model, copy.deepcopy(model).to("meta")):
            if expected is None:
                load_foreign(target, path)
                continue
            with pytest.raises(UserError, match=re.escape(expected)) as caught:
                load_foreign(target, path)
            assert "\n" not in str(caught.value)
    assert all(torch.equal(value, good[key]) for key, value in model.state_dict().items())


def test_half_precision_weights_of_others_are_taken(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    torch.save({key: value.half() for key, value in model.state_dict().items()}, tmp_path / "w.pth")
    load_foreign(model, tmp_path / "w.pth")
    assert next(model.parameters()).dtype == torch.float32
    torch.save({key: value.to("meta") for key, value in model.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="'0.weight' is no plain tensor"):
        load_foreign(model, tmp_path / "w.pth")


def test_a_flipped_bit_of_foreign_weights_is_found(tmp_path: Path) -> None:
    """In the numbers; torch does not compare an archive's checksums."""
    model = nn.Sequential(nn.Linear(64, 64))
    path = tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    start = whole.index(model.state_dict()["0.weight"].numpy().tobytes())
    for position in range(start, start + 64 * 64 * 4, 1009):
        damaged = bytearray(whole)
        damaged[position] ^= 1  # of a mantissa: the number stays finite
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="does not agree with its checksum"):
            load_foreign(model, path)
