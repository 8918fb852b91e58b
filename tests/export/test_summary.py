"""What architecture.json says about its data: one mean and one deviation a channel, by which pixels can be divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.export.test_document import MINIMAL
from usdn_nas._util.errors import UserError
from usdn_nas.export.document import read_architecture
from usdn_nas.export.runtime import EarlyExitNetwork
from usdn_nas.networks.build import build_network
from usdn_nas.quant.supernet import Supernet, extract_chain

CLASSES = MINIMAL["space"]["network"]["num_classes"]  # type: ignore[index]
CHANNELS = MINIMAL["space"]["network"]["input_shape"][0]  # type: ignore[index]
GOOD = {
    "name": "digits",
    "mean": [4.5] * CHANNELS,
    "std": [6.0] * CHANNELS,
    "class_names": list(map(str, range(CLASSES))),
}


def written(folder: Path, data: Any) -> Path:
    path = folder / "architecture.json"
    path.write_text(json.dumps(MINIMAL | {"data": data}))
    return path


@pytest.mark.parametrize("left_out", [None, "name", "class_names"])
def test_what_is_given_comes_back(left_out: str | None, tmp_path: Path) -> None:
    data = {key: value for key, value in GOOD.items() if key != left_out}
    file = read_architecture(written(tmp_path, data))
    assert file.data == data
    network = extract_chain(Supernet(build_network(file.space.spec), file.space), file.architecture)
    pixels = torch.full((2, *file.space.spec.network.input_shape), 10.5)
    normalized = EarlyExitNetwork(network, file.architecture, file.space, file.data).normalize(pixels)
    assert torch.equal(normalized, torch.ones_like(pixels))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"std": [0] * CHANNELS}, "data.std.0: expected a standard deviation above 0, got 0"),
        ({"std": [0.0] * CHANNELS}, "data.std.0: expected a standard deviation above 0"),
        ({"std": [-1.0] * CHANNELS}, "data.std.0: expected a standard deviation above 0"),
        ({"std": [1e-60] * CHANNELS}, "data.std.0: expected a standard deviation above 0"),  # 0 as a float32
        ({"std": [float("nan")] * CHANNELS}, "data.std.0: expected a finite number"),
        ({"std": [float("inf")] * CHANNELS}, "data.std.0: expected a finite number"),
        ({"std": [1e300] * CHANNELS}, "data.std.0: expected a finite number"),
        ({"mean": [float("nan")] * CHANNELS}, "data.mean.0: expected a finite number"),
        ({"mean": [-1e39] * CHANNELS}, "data.mean.0: expected a finite number"),
        ({"mean": ["a"] * CHANNELS}, "data.mean.0: "),
        ({"mean": 3}, "data.mean: "),
        ({"mean": []}, f"data.mean: expected {CHANNELS} values, got 0"),
        ({"std": [1.0] * (CHANNELS + 1)}, f"data.std: expected {CHANNELS} values, got {CHANNELS + 1}"),
        ({"class_names": ["a"]}, f"data.class_names: expected {CLASSES} values, got 1"),
    ],
)
def test_what_pixels_cannot_be_normalized_by_is_one_line(data: dict[str, Any], line: str, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD | data)
    with pytest.raises(UserError) as caught:
        read_architecture(path)
    assert str(caught.value).startswith(f"{path}: {line}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["mean", "std"])
def test_both_are_needed(key: str, tmp_path: Path) -> None:
    path = written(tmp_path, {name: value for name, value in GOOD.items() if name != key})
    with pytest.raises(UserError, match=f"data.{key}: this key is missing"):
        read_architecture(path)


def test_the_weights_of_a_search_space_are_not_read(tmp_path: Path) -> None:
    """Whoever gets the file does not have them, and a path of somebody else's is not opened."""
    network = {"name": "torchvision:squeezenet1_1", "input_shape": [3, 32, 32], "num_classes": 4, "segments": 3}
    space = {"network": network | {"weights": "/nowhere/w.pth"}, "bits": {"choices": [[2, 2], [4, 4]]}}
    groups = read_groups(space)
    path = tmp_path / "architecture.json"
    content = {"schema": MINIMAL["schema"], "space": space, "bits": {name: [4, 4] for name in groups}}
    path.write_text(json.dumps(content))
    assert read_architecture(path).space.spec.network.weights == "/nowhere/w.pth"


def read_groups(space: dict[str, Any]) -> list[str]:
    from usdn_nas.networks.empty import resolve_shapes
    from usdn_nas.space.search_space import SpaceSpec

    without = space | {"network": {k: v for k, v in space["network"].items() if k != "weights"}}
    return [group.name for group in resolve_shapes(SpaceSpec.model_validate(without)).groups]
