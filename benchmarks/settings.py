"""The engine's settings by the rule against a grid of settings: time for random configurations, and differing outputs.

python benchmarks/settings.py --space resnet_digits --images 256
python benchmarks/settings.py --space resnet18_cifar10 --images 64 --configurations 2

Everything is timed in turn, so that other work on the machine hits all settings alike. The least time of the rounds
counts, because other work can only add to it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from forward import from_space

from usdn_nas.engine.backends import BACKENDS
from usdn_nas.engine.engine import Engine, EngineSettings, choose_settings
from usdn_nas.engine.outputs import Batches

CPU = torch.device("cpu")


def grid(images: int, threads: int) -> list[EngineSettings]:
    """All settings that the rule chooses among."""
    names = [name for name, backend in BACKENDS.items() if backend.unavailable(CPU) is None]
    counts = [count for count in (8, 32, 128, 256) if count <= images]
    every = itertools.product(names, counts, (True, False), sorted({1, threads}))
    return [EngineSettings(name, count, last, t) for name, count, last, t in every if last or name == "float"]


def measured(options: argparse.Namespace) -> dict[str, Any]:
    _, supernet, split = from_space(options)
    supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    supernet.eval()
    generator = np.random.default_rng(options.seed)
    drawn = [supernet.space.sample(generator) for _ in range(options.configurations)]
    rule = choose_settings(supernet, threads=options.threads)
    works = list(dict.fromkeys([rule, *grid(options.images, options.threads)]))
    batches = Batches(split, 50, CPU)
    seconds: dict[EngineSettings, list[float]] = {settings: [] for settings in works}
    outputs: dict[EngineSettings, Any] = {}
    for _, settings in itertools.product(range(options.repeats), works):
        engine = Engine(supernet, batches, settings)
        start = time.perf_counter()
        found = dict(engine.run(drawn))
        seconds[settings].append(time.perf_counter() - start)
        outputs[settings] = np.stack([found[i].confidence for i in range(len(drawn))])
    least = {settings: min(taken) for settings, taken in seconds.items()}
    best = min(least, key=least.__getitem__)
    first = {settings.backend: settings for settings in reversed(works)}
    rows = [
        {
            "settings": str(settings),
            "ratio": least[settings] / least[best],
            "differing": float((outputs[settings] != outputs[first[settings.backend]]).mean()),
        }
        for settings in works
    ]
    return {
        "space": options.space,
        "macs": sum(layer.macs for layer in supernet.space.chain.layers()),
        "rule": str(rule),
        "rule_to_best": least[rule] / least[best],
        "best": str(best),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="resnet_digits")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--configurations", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    result = measured(options)
    if options.format == "json":
        print(json.dumps(result, indent=2))
        return
    print(f"{result['space']}, {result['macs']:,} MACs, {options.images} images, {options.threads} threads at most")
    print(f"rule: {result['rule']}; {result['rule_to_best']:.2f} x the fastest ({result['best']})")
    for row in result["rows"]:
        share = f"{row['differing']:.4f} of the confidences differ from its back end's first row"
        print(f"{row['settings']:64} {row['ratio']:6.2f}  {share}")


if __name__ == "__main__":
    main()
