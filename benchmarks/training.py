"""Seconds of a training step: full precision, quantized, with LSQ written as plain autograd operations, under bf16, and
of the supernet's step on K configurations beside K full-precision steps. The least of several, with one thread in CPU
time: other work on the machine disturbs these the least.

And what bf16 makes of the codes of quantized inputs: the share that differs from FP32's.

python benchmarks/training.py --space resnet_fashion --threads 2
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from usdn_nas.config import find_toml
from usdn_nas.engine.frozen import FrozenNetwork
from usdn_nas.networks.build import resolve_space
from usdn_nas.pipeline.heap import keep_freed_memory
from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.search_space import load_space
from usdn_nas.training.losses import Step, cross_entropy_step, sandwich_step

PATHS = (3, 4)
WIDTHS = (2, 3, 4, 5, 6, 8)


def plain_lsq(quantizer: LSQQuantizer, x: Tensor) -> Tensor:
    """LSQ with straight-through estimators, as most implementations write it."""
    scale = quantizer.gradient_scale
    step = quantizer.step.abs()
    step = (step - step * scale).detach() + step * scale
    low, high = quantizer.bounds()
    scaled = (x / step).clamp(low, high)
    return ((scaled.round() - scaled).detach() + scaled) * step


def in_bf16(step: Step) -> Step:
    """The same step under autocast."""

    def autocast(images: Tensor, labels: Tensor, generator: np.random.Generator) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return step(images, labels, generator)

    return autocast


@torch.no_grad()
def codes_that_differ(width: int) -> float:
    """Share of the codes of a million half-normal inputs that are others when the input is rounded to bf16 first."""
    quantizer = LSQQuantizer(width, signed=False, offset=False, count=1)
    inputs = torch.randn(10**6, generator=torch.Generator().manual_seed(0)).abs()
    quantizer.initialize(inputs)
    return float((quantizer.codes(inputs) != quantizer.codes(inputs.bfloat16()).float()).float().mean())


def rounds(works: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of every piece of work, taken in turn so that a busy machine strikes all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            if number:  # the first round warms up
                seconds[name].append(clock() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="resnet_fashion")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    keep_freed_memory()  # as all commands do
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    space, network = resolve_space(load_space(find_toml(options.space, "search_spaces")))
    shape = space.spec.network.input_shape
    images = torch.randn(options.batch_size, *shape)
    labels = torch.randint(space.spec.network.num_classes, (options.batch_size,))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    supernet = Supernet(network, space)
    supernet.initialize_steps([images])
    supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    supernet.set_bits(space.choice_bits([0] * len(space.groups)))
    network.train()
    supernet.train()
    generator = np.random.default_rng(0)
    weights = [1.0] * len(space.chain.exits)
    full, quantized = cross_entropy_step(network, weights), cross_entropy_step(supernet, weights)

    def plain() -> float:
        with patch.object(LSQQuantizer, "forward", plain_lsq):
            return quantized(images, labels, generator)

    works: dict[str, tuple[int, Callable[[], object]]] = {
        "full precision": (1, lambda: full(images, labels, generator)),
        "quantized": (1, lambda: quantized(images, labels, generator)),
        "quantized, plain autograd": (1, plain),
        "full precision, bf16": (1, lambda: in_bf16(full)(images, labels, generator)),
        "quantized, bf16": (1, lambda: in_bf16(quantized)(images, labels, generator)),
    }
    teacher = FrozenNetwork(network, space)
    for paths in PATHS:
        for title, of in (("in-place", None), ("with teacher", teacher)):
            step = sandwich_step(supernet, weights, paths - 1, teacher=of, stratified=True)
            works[f"supernet, {paths}, {title}"] = (paths, functools.partial(step, images, labels, generator))
    clock = time.process_time if options.threads == 1 else time.perf_counter
    seconds = rounds({name: work for name, (_, work) in works.items()}, options.repeats, clock)
    least = {name: min(values) for name, values in seconds.items()}
    rows = [
        {"step": name, "seconds": least[name], "ratio": least[name] / least["full precision"] / k}
        for name, (k, _) in works.items()
    ]
    if options.format == "json":
        settings, codes = vars(options), {width: codes_that_differ(width) for width in WIDTHS}
        print(
            json.dumps({"settings": settings, "torch": torch.__version__, "rows": rows, "bf16 codes": codes}, indent=2)
        )
        return
    print(f"{options.space}, batch {options.batch_size}, {options.threads} threads, the least of {options.repeats}")
    print("ratio: to a full-precision step for each configuration")
    for row in rows:
        print(f"{row['step']:28} {row['seconds']:8.4f} s  {row['ratio']:5.2f} x")
    for width in WIDTHS:
        print(f"codes that differ in bf16, {width} bits: {codes_that_differ(width):.2%}")


if __name__ == "__main__":
    main()
