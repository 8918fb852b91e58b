"""Exit policies scored a second, exactly, beside a loop that applies them one by one; and the cost of judging a trial.

python benchmarks/policies.py --exits 12 --samples 10000
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from usdn_nas.config import SearchConfig, find_toml
from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import score_shared, threshold_grid
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.networks.build import resolve_space
from usdn_nas.space.cost import ExitCosts
from usdn_nas.space.records import FINAL_EXIT
from usdn_nas.space.search_space import SearchSpace, load_space
from usdn_nas.study.scoring import judge

ONE_BY_ONE = 200


def outputs(names: tuple[str, ...], samples: int, seed: int) -> ExitOutputs:
    """Confidences and correctness that rise from exit to exit."""
    generator = np.random.default_rng(seed)
    level = np.linspace(0.5, 0.95, len(names))[:, None]
    confidence = generator.beta(8 * level, 8 * (1 - level), size=(len(names), samples)).astype(np.float32)
    return ExitOutputs(confidence, generator.random(confidence.shape) < confidence, names)


def seconds(*works: Callable[[], object], repeats: int) -> list[float]:
    """Medians of the seconds of each, taken in turn after one round to warm up."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(repeats + 1):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            if number:
                taken[i].append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def scoring(exits: int, samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """All placements and thresholds at once, beside one policy after the other."""
    cached = outputs((*(f"e{i}" for i in range(exits - 1)), FINAL_EXIT), samples, options.seed)
    costs = ExitCosts(cached.names, np.arange(1, exits + 1) * 10, np.ones(exits, dtype=np.int64))
    grid = threshold_grid(cached, options.thresholds)
    drawn = np.random.default_rng(options.seed).integers(0, 2 ** (exits - 1), ONE_BY_ONE)
    placed = [[name for i, name in enumerate(cached.candidates) if mask >> i & 1] for mask in drawn.tolist()]

    def one_by_one() -> None:
        for names in placed:
            apply(cached.placed(names), costs.placed(names), [0.7] * len(names))

    exact, loop = seconds(lambda: score_shared(cached, costs, grid), one_by_one, repeats=options.repeats)
    count = len(grid) << (exits - 1)
    return {
        "exits": exits,
        "samples": samples,
        "policies": count,
        "seconds": exact,
        "policies_per_second": count / exact,
        "ratio_to_one_by_one": loop / ONE_BY_ONE * count / exact,
    }


def judging(space: SearchSpace, samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """Grid, scores, front, thinning and record of one trial."""
    config = SearchConfig(thresholds=options.thresholds)
    bits = space.sample(np.random.default_rng(options.seed))
    cached = outputs((*space.candidates, FINAL_EXIT), samples, options.seed)
    (judged,) = seconds(lambda: judge(space, config, {"trade_off": 0.1}, bits, cached), repeats=options.repeats)
    network = space.chain.network
    return {"network": network, "exits": len(cached.names), "samples": samples, "milliseconds": judged * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exits", type=int, nargs="+", default=[6, 8, 12, 17])
    parser.add_argument("--samples", type=int, nargs="+", default=[2000, 10000])
    parser.add_argument("--spaces", nargs="+", default=["resnet_fashion", "resnet18_imagenet"])
    parser.add_argument("--thresholds", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    spaces = [resolve_space(load_space(find_toml(name, "search_spaces")))[0] for name in options.spaces]
    scored = [scoring(exits, samples, options) for exits in options.exits for samples in options.samples]
    judged = [judging(space, samples, options) for space in spaces for samples in options.samples]
    if options.format == "json":
        print(json.dumps({"settings": vars(options), "scoring": scored, "judging": judged}, indent=2))
        return
    for row in scored:
        print(
            f"{row['exits']:3} exits  {row['samples']:6} samples  {row['policies']:9,} policies  "
            f"{row['seconds']:7.4f} s  {row['policies_per_second']:12,.0f} a second  "
            f"{row['ratio_to_one_by_one']:9,.0f} x one by one"
        )
    for row in judged:
        print(
            f"judging a trial of {row['network']}: {row['exits']} exits  {row['samples']:6} samples  "
            f"{row['milliseconds']:6.2f} ms"
        )


if __name__ == "__main__":
    main()
