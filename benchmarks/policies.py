"""Exit policies scored a second, exactly, beside a loop that applies them one by one.

python benchmarks/policies.py --exits 12 --samples 10000
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from usdn_nas.cost import ExitCosts
from usdn_nas.policy.apply import apply
from usdn_nas.policy.exact import score_shared
from usdn_nas.policy.outputs import ExitOutputs


def outputs(exits: int, samples: int) -> ExitOutputs:
    """Confidences and correctness that rise from exit to exit."""
    generator = np.random.default_rng(0)
    level = np.linspace(0.5, 0.95, exits)[:, None]
    confidence = generator.beta(8 * level, 8 * (1 - level), size=(exits, samples)).astype(np.float32)
    correct = generator.random((exits, samples)) < confidence
    return ExitOutputs(confidence=confidence, correct=correct, names=(*(f"e{i}" for i in range(exits - 1)), "final"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exits", type=int, nargs="+", default=[6, 8, 12])
    parser.add_argument("--samples", type=int, nargs="+", default=[2000, 10000])
    parser.add_argument("--thresholds", type=int, default=64)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    rows = []
    for exits in options.exits:
        for samples in options.samples:
            cached = outputs(exits, samples)
            chain = np.arange(1, exits + 1, dtype=np.int64) * 10
            costs = ExitCosts(cached.names, chain, np.ones(exits, dtype=np.int64))
            grid = np.linspace(0.3, 0.99, options.thresholds)
            score_shared(cached, costs, grid)
            start = time.perf_counter()
            scores = score_shared(cached, costs, grid)
            exact = time.perf_counter() - start
            looked = 200
            start = time.perf_counter()
            for number in range(looked):
                names = scores.exits(number % scores.accuracy.shape[1])
                apply(cached.placed(names), costs.placed(names), [0.7] * len(names))
            one = (time.perf_counter() - start) / looked
            count = scores.accuracy.size
            rows.append(
                {
                    "exits": exits,
                    "samples": samples,
                    "policies": count,
                    "seconds": exact,
                    "policies_per_second": count / exact,
                    "ratio_to_one_by_one": one * count / exact,
                }
            )
    if options.format == "json":
        print(json.dumps({"settings": vars(options), "rows": rows}, indent=2))
        return
    for row in rows:
        print(
            f"{row['exits']:3} exits  {row['samples']:6} samples  {row['policies']:8,} policies  "
            f"{row['seconds']:7.3f} s  {row['policies_per_second']:12,.0f} a second  "
            f"{row['ratio_to_one_by_one']:9,.0f} x one by one"
        )


if __name__ == "__main__":
    main()
