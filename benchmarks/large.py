"""Searches of a space too large to enumerate, at equal time: hypervolume beside that of ours.

python benchmarks/large.py RUN            # RUN: a run folder, supernet trained

Ours runs as the command line runs it, its seconds are real. The others get the same seconds: as many trials as go into
them at the measured time of a plain fake-quant forward pass, their samplers' own time counted.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from contest import Bench, exact_policies, one_policy, ours
from rich.console import Console
from rich.table import Table
from truth import METHODS, Tracker, plain_seconds

from usdn_nas._util.files import file_digest, write_json
from usdn_nas.engine.engine import Engine, choose_settings
from usdn_nas.engine.outputs import Batches, SupernetEvaluator
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.space.architecture import Bits
from usdn_nas.study.parameters import bits_of, configuration


@dataclass
class Live:
    """Runs configurations when they are asked for, on the plain path."""

    context: Context
    batches: Batches

    def __post_init__(self) -> None:
        self.outputs = functools.lru_cache(maxsize=64)(self._outputs)
        self._evaluate = SupernetEvaluator(self.context.supernet(), self.batches)

    def bits(self, number: int) -> dict[str, Bits]:
        """Group name -> (W, A) of configuration ``number`` in prefix order."""
        return bits_of(self.context.space, configuration(self.context.space, number))

    def _outputs(self, number: int) -> ExitOutputs:
        return self._evaluate(self.bits(number))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs what is not in the results yet; writes them after every run."""
    context = open_run(options.run)
    digest = file_digest(context.folder / "supernet" / "weights.safetensors")
    results = json.loads(options.results.read_text()) if options.results.is_file() else {}
    if results.get("supernet") != digest:
        results = {
            "schema": "usdn-nas/benchmark-large/1",
            "supernet": digest,
            "bit_configurations": context.space.bit_configurations,
            "search_images": len(context.data.search),
            "provenance": context.provenance() | {"threads": options.threads},
            "plain_seconds": plain_seconds(context, 5),
            "runs": {},
        }
    settings = choose_settings(context.supernet())
    results["engine"] = {"backend": settings.backend, "images": settings.images}
    bench = Bench(Live(context, context.search_batches))
    test = Live(context, context.test_batches)
    for seed, method in itertools.product(range(options.seeds), ("ours", *(m for m in METHODS if m != "ours"))):
        key = f"{method}, seed {seed}"
        if key in results["runs"]:
            continue
        limit = results["runs"].get(f"ours, seed {seed}", {}).get("seconds", float("inf"))
        tracker, count, seconds = Tracker(bench), 0, 0.0
        if method == "ours":
            events = ours(bench, Engine(context.supernet(), context.search_batches, settings), seed, options.ours)
        else:
            kind, sampler = method.split()
            search = {"plain": one_policy, "exact": exact_policies}[kind]
            events = search(bench, sampler, seed, results["plain_seconds"], options.most)
        for at, found in events:
            if at > limit:
                break
            tracker.add(found)
            count, seconds = count + 1, at
        results["runs"][key] = {
            "configurations": count,
            "seconds": seconds,
            "hypervolume": tracker.hypervolume,
            "test": tracker.on(test),
        }
        write_json(options.results, results)
    return results


def show(results: dict[str, Any]) -> None:
    """Prints a row a method: means over the seeds, and the hypervolume as a share of ours of the same seed."""
    table = Table("search", "seeds", "configurations", "seconds", "hypervolume", "of ours", "on test images, of ours")
    for method in ("ours", *(m for m in METHODS if m != "ours")):
        seeds = [s for s in range(100) if f"{method}, seed {s}" in results["runs"]]
        runs = [results["runs"][f"{method}, seed {s}"] for s in seeds]
        base = [results["runs"][f"ours, seed {s}"] for s in seeds]
        if not runs:
            continue
        shares = {
            key: [run[key] / one[key] for run, one in zip(runs, base, strict=True)] for key in ("hypervolume", "test")
        }
        spread = statistics.stdev(shares["hypervolume"]) if len(runs) > 1 else 0.0
        table.add_row(
            method,
            str(len(runs)),
            f"{statistics.mean(run['configurations'] for run in runs):.0f}",
            f"{statistics.mean(run['seconds'] for run in runs):.0f}",
            f"{statistics.mean(run['hypervolume'] for run in runs):.5f}",
            f"{statistics.mean(shares['hypervolume']):.4f} ±{spread:.4f}",
            f"{statistics.mean(shares['test']):.4f}",
        )
    console = Console(width=120)
    console.print(
        f"{results['bit_configurations']:.3g} bit configurations, {results['search_images']:,} search images, "
        f"plain forward {results['plain_seconds']:.2f} s"
    )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "large.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ours", type=int, default=128, help="configurations of our search")
    parser.add_argument("--most", type=int, default=1024, help="most trials of the others")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    results = measure(options)
    if options.format == "json":
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
