"""Every classification model of torchvision as a supernet: does it build, keep its logits, train a step, and run?

For each model, random weights, a small input size: the chain is cut and the supernet built; its logits at
full precision are compared with the original model's, exactly; one step of quantization-aware training at random bits
is made, with SGD; a random architecture is evaluated by the supernet and by the evaluation engine. MACs, opaque and
quantized shares are those at the model's own input size. Each model runs in a process of its own; results are
recorded as they come, and what is recorded is not run again.

python benchmarks/models.py --results benchmarks/results/models.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from usdn_nas._util.errors import RunError
from usdn_nas._util.files import write_json
from usdn_nas.data.splits import Split
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.engine.outputs import Batches, SupernetEvaluator
from usdn_nas.networks.build import resolve_space
from usdn_nas.networks.empty import resolve_shapes, space_of
from usdn_nas.networks.find import PREFIX, make_model, own_size, torchvision_names
from usdn_nas.quant.layers import FULL_PRECISION
from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.search_space import SpaceSpec

SCHEMA = "usdn-nas/models/1"
SIDES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56}
"""Smallest sides that a model takes, or near it; of all others 64."""
CLIP = 1.0
"""Largest norm of the gradient."""


class Noise(Split):
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels.numpy()

    def _load(self, chunks: Sequence[NDArray[np.int64]], numbers: Sequence[int], seed: tuple[int, ...] | None) -> Any:
        for chunk in chunks:
            yield self.images[torch.from_numpy(chunk)], torch.from_numpy(self.labels[chunk])


def spec_of(name: str, side: int, segments: int) -> SpaceSpec:
    network = {"name": PREFIX + name, "input_shape": (3, side, side), "num_classes": 10, "segments": segments}
    return SpaceSpec.model_validate(
        {"network": network, "bits": {"choices": [[3, 3], [5, 5]]}, "exits": {"head": "linear"}}
    )


@torch.no_grad()
def settle(supernet: Supernet, images: Tensor) -> None:
    """Statistics of every BatchNorm from the images: with those it is born with, signals fade in a deep network."""
    norms = [module for module in supernet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    supernet.eval().set_bits(None)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    supernet(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
    for switch in supernet.norm_owners():
        for norm in switch.norms.values():
            norm.load_state_dict(switch.at(FULL_PRECISION).state_dict())


@torch.no_grad()
def set_steps(supernet: Supernet, images: Tensor) -> None:
    """Step sizes from largest values, in one pass: `Supernet.initialize_steps` tries forty for each."""
    hooks = []
    for layer in supernet.layers.values():

        def first(module: Any, inputs: tuple[Tensor, int]) -> None:
            for step in module.steps.values():
                start(step, inputs[0])

        hooks.append(layer.input_quantizer.register_forward_pre_hook(first))
        for step in layer.weight_quantizer.steps.values():
            start(step, layer.layer.weight)
    supernet.eval().set_bits(None)
    supernet(images)
    for hook in hooks:
        hook.remove()


def start(step: LSQQuantizer, x: Tensor) -> None:
    low, high = (float(v) for v in x.aminmax())
    if step.offset is not None:
        width = max(high - min(low, 0.0), 1e-6)
        step.step.fill_(width / (step.high - step.low))
        step.offset.fill_(min(low, 0.0))
    else:
        step.step.fill_(max(abs(low), abs(high), 1e-6) / step.high)


def train_step(supernet: Supernet, bits: dict[str, Any], images: Tensor, labels: Tensor) -> dict[str, Any]:
    """One step at all exits; whether every step size in use had a gradient."""
    supernet.train().set_bits(bits)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=1e-3)
    loss = torch.stack([F.cross_entropy(z, labels) for z in supernet(images)]).sum()
    loss.backward()
    used = [q.at(w) for x in supernet.layers.values() for q, w in ((x.weight_quantizer, x.bits[0]),
                                                                     (x.input_quantizer, x.bits[1]))]  # fmt: skip
    reached = all(step.step.grad is not None for step in used if isinstance(step, LSQQuantizer))
    norm = torch.nn.utils.clip_grad_norm_(supernet.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
        raise RunError(f"loss {loss.item()}, norm of the gradient {norm.item()}")
    return {"loss": loss.item(), "gradient_norm": norm.item(), "qat_step": reached}


def measure(name: str, seed: int, segments: int) -> dict[str, Any]:
    """What is recorded of one model."""
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    own = resolve_shapes(space_of(PREFIX + name)).chain
    row: dict[str, Any] = {
        "model": name,
        "own_input": list(own.input_shape),
        "macs": own.macs,
        "blocks": len(own.segments) - 1,
        "quantized_share": 1 - own.opaque_macs / own.macs,
        "dropped": list(own.dropped),
    }
    side = SIDES.get(name, 64)
    spec = spec_of(name, side, segments)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, side, side, generator=generator)
    labels = torch.randint(10, (4,), generator=generator)
    torch.manual_seed(seed)
    with torch.no_grad():
        expected = make_model(spec.network).eval()(images)
    torch.manual_seed(seed)  # the same weights once more
    space, network = resolve_space(spec)
    with torch.no_grad():
        chain_equal = torch.equal(network.eval()(images)[-1], expected)
        supernet = Supernet(network, space).eval()
        del network
        logits = supernet(images)[-1]
    row |= {
        "input": side,
        "segments": len(space.chain.segments),
        "exits": len(space.candidates),
        "chain_equal": chain_equal,
        "fp_equal": torch.equal(logits, expected),
        "fp_difference": float((logits - expected).abs().max()),
    }
    settle(supernet, images)
    set_steps(supernet, images)
    bits = space.sample(np.random.default_rng(seed))
    row |= train_step(supernet, bits, images, labels)
    row |= evaluated(supernet, bits, images, labels)
    row |= {
        "seconds": round(time.perf_counter() - began, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    return row


def evaluated(supernet: Supernet, bits: dict[str, Any], images: Tensor, labels: Tensor) -> dict[str, Any]:
    """A random architecture by the plain supernet and by the engine; parts that the engine compiles."""
    batches = Batches(Noise(images, labels), 4, torch.device("cpu"))
    plain = SupernetEvaluator(supernet.eval(), batches)(bits)
    engine = Engine(supernet, batches, EngineSettings("float", 4), memory_bytes=8 << 30)
    fast = engine(bits)
    compiled = engine._parts.compiler.traced
    return {
        "evaluated": bool(np.isfinite(plain.confidence).all()),
        "engine_difference": float(np.abs(plain.confidence - fast.confidence).max()),
        "compiled_parts": [sum(compiled), len(compiled)],
    }


def guarded(name: str, seed: int, segments: int, results: Any) -> None:
    torch.set_num_threads(1)
    try:
        results.put(measure(name, seed, segments))
    except Exception as error:
        results.put({"model": name, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})


def alone(name: str, seed: int, segments: int) -> dict[str, Any]:
    """`measure` in a process of its own, so that memory is given back; one that is killed is a row too."""
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=guarded, args=(name, seed, segments, results))
    process.start()
    while process.is_alive() and results.empty():
        process.join(0.2)
    row = results.get(timeout=10) if not results.empty() else {"model": name, "error": f"ended by {process.exitcode}"}
    process.join()
    return dict(row)


def good(row: dict[str, Any]) -> bool:
    return "error" not in row and bool(row["fp_equal"] and row["qat_step"] and row["evaluated"])


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"{'model':20} {'input':>5} {'M MACs':>11} {'quantized':>9} {'blocks':>6} {'FP equal':>8} {'QAT':>5} "
        f"{'run':>4} {'engine':>8} {'compiled':>8} {'s':>6} {'GB':>5}  dropped"
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['model']:20} {row['error']}")
            continue
        compiled = "/".join(map(str, row["compiled_parts"]))
        lines.append(
            f"{row['model']:20} {row['own_input'][1]:5} {row['macs'] / 1e6:11,.2f} {row['quantized_share']:9.1%} "
            f"{row['blocks']:6} {'yes' if row['fp_equal'] else 'NO':>8} {'yes' if row['qat_step'] else 'NO':>5} "
            f"{'yes' if row['evaluated'] else 'NO':>4} {row['engine_difference']:8.1e} {compiled:>8} "
            f"{row['seconds']:6} {row['peak_gb']:5}  {', '.join(row['dropped'])}"
        )
    return "\n".join([*lines, f"{sum(map(good, rows))} of {len(rows)} pass"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="all 80 unless named")
    parser.add_argument("--results", type=Path, default=Path("models.json"), help="recorded here, and taken up again")
    parser.add_argument("--segments", type=int, default=8, help="about so many of equal MACs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="runs what is recorded once more")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    settings = {
        "seed": options.seed,
        "segments": options.segments,
        "clip_norm": CLIP,
        "threads": 1,
        "torch": torch.__version__,
    }
    payload: dict[str, Any] = {"schema": SCHEMA, "settings": settings, "rows": []}
    if options.results.exists():
        found = json.loads(options.results.read_text())
        if found["settings"] != settings:
            parser.error(f"{options.results} holds results of other settings: {found['settings']}")
        payload = found
    done = {row["model"]: row for row in payload["rows"]}
    names = options.models or torchvision_names()
    for name in names:
        own_size(PREFIX + name)  # refuses what there is not
        if options.again or name not in done or not good(done[name]):
            done[name] = alone(name, options.seed, options.segments)
            payload["rows"] = [done[known] for known in torchvision_names() if known in done]
            write_json(options.results, payload)
    rows = [done[name] for name in names]
    print(json.dumps(payload, indent=2) if options.format == "json" else table(rows))


if __name__ == "__main__":
    main()
