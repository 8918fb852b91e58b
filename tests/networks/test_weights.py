"""Weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import nets
from usdn_nas.errors import UserError
from usdn_nas.networks.build import build_network
from usdn_nas.networks.weights import load_weights, save_weights


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
