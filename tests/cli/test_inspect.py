"""``inspect`` on networks by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command

MODULE = """
import torch
from torch import nn


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(c, 4, 3, padding=1) for c in (1, 4, 4)))
        self.router, self.fc, self.aux = Router(), nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x):
        x = self.router(self.layers(x)).mean((2, 3))
        return self.fc(x), self.aux(x)


def build():
    return Net()
"""


def test_a_network_of_torchvision(command: Command) -> None:
    found = json.loads(command("inspect", "torchvision:squeezenet1_1", "--format", "json").stdout)
    assert found["macs"] == 349_151_936 and found["input_shape"] == [3, 224, 224] and found["num_classes"] == 1000
    assert found["quantized_share"] == 1 and found["opaque"] == [] and found["dropped"] == []
    small = command("inspect", "torchvision:googlenet", "--input", "3x64x64", "--segments", 3)
    assert "input 3x64x64" in small.stdout and "Quantized: 100.0% of the MACs" in small.stdout
    assert "Dropped, for the logits do not depend on it (auxiliary heads): aux1, aux2" in small.stdout


def test_a_module_of_the_working_directory(command: Command, tmp_path: Path) -> None:
    (tmp_path / "my_inspected_net.py").write_text(MODULE)
    found = json.loads(command("inspect", "my_inspected_net:build", "--input", "1x8x8", "--format", "json").stdout)
    assert found["num_classes"] == 6 and found["dropped"] == ["aux"] and list(found["kept"]) == ["router"]
    (opaque,) = found["opaque"]
    total = 64 * 36 + 3 * 64 * 4 * 36 + 24
    assert found["macs"] == total and opaque["macs"] == 64 * 4 * 36
    assert opaque["share"] == pytest.approx(1 - found["quantized_share"])
    table = command("inspect", "my_inspected_net:build", "--input", "1x8x8").stdout
    assert "At full precision: opaque parts" in table and "Run as it stands: router" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torchvision:resnet19"], "torchvision has no classifier 'torchvision:resnet19'; did you mean"),
        (["torchvision:alexnet", "--input", "64"], "--input: expected CxHxW such as 3x224x224, got '64'"),
        (["resnet_digits", "--segments", "3"], "--input and --segments belong to a network"),
        (["no_such_module:net"], "module 'no_such_module' is not found"),
    ],
)
def test_one_line(arguments: list[str], message: str, command: Command) -> None:
    result = command("inspect", *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1
