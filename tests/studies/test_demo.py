"""The digits demo, run once: its networks are good, and its policy does not depend on rounding."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from usdn_nas._util.files import read_json
from usdn_nas.config import find_toml
from usdn_nas.engine.outputs import Batches, run
from usdn_nas.exits.apply import apply
from usdn_nas.export.runtime import EarlyExitNetwork, load_model
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.evaluate import SCHEMA
from usdn_nas.pipeline.stages import Pipeline
from usdn_nas.space.cost import exit_costs

pytestmark = pytest.mark.sweep
FLOOR = 0.9


@dataclass(frozen=True)
class Demo:
    """The finished run and its network retrained with KD."""

    context: Context
    network: EarlyExitNetwork


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    without_ce = ("retrain.compare_ce=false",)  # nothing here looks at the network trained with cross-entropy alone
    context = open_run(find_toml("digits", "studies"), without_ce, tmp_path_factory.mktemp("demo") / "digits")
    Pipeline(context).run(until="evaluate")
    (weights,) = context.folder.glob("retrain/*/kd/weights.safetensors")
    return Demo(context, load_model(weights.with_name("architecture.json"), weights))


def test_network_beats_90_percent(demo: Demo) -> None:
    evaluation = read_json(demo.context.folder / "evaluation.json", SCHEMA)
    assert evaluation["split"] == "test" and evaluation["n"] > 300
    models = evaluation["models"]
    assert models["kd"]["policy"]["accuracy"] > FLOOR
    assert models["kd"]["exits"][-1]["accuracy"] > FLOOR
    assert models["pretrained"]["exits"][-1]["accuracy"] > FLOOR
    assert models["supernet"]["policy"]["accuracy"] > FLOOR


@pytest.mark.parametrize("split", ["search", "test"])
def test_who_leaves_does_not_depend_on_the_batch_size(demo: Demo, split: str) -> None:
    batches: Batches = getattr(demo.context, f"{split}_batches")
    images = torch.cat([images for images, _ in batches])
    expected = leaving(demo, images, len(images))
    for max_batch in (1, 7, 64, 73, 128):
        assert leaving(demo, images, max_batch) == expected, max_batch
    network, architecture = demo.network.network, demo.network.architecture
    outputs = run(network, batches, network.exit_names)
    costs = exit_costs(demo.context.space, architecture.bits).placed(architecture.exits)
    assert apply(outputs, costs, architecture.thresholds, architecture.rule).leaves_at.tolist() == expected


def leaving(demo: Demo, images: Tensor, max_batch: int) -> list[int]:
    """The exit of each image."""
    return demo.network.predict(images, max_batch=max_batch).exit_index.tolist()
