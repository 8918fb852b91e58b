"""How near the true front a search comes: hypervolume against configurations run and against seconds.

python benchmarks/truth.py RUN            # RUN: a run folder of studies/fashion_mnist.toml, supernet trained

All bit configurations of RUN's supernet are run once on its search images, and once on its test images (their outputs
are kept in RUN/truth, about 2 GB for 4,096 configurations and 20,000 images). Truth is the front over bits x placements
of exits x 64 shared thresholds, heads of all placed exits charged. Killed, it goes on where it stopped; finished runs
are read from the results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from contest import (
    REFERENCE_ACCURACY,
    REFERENCE_COST,
    THRESHOLDS,
    Bench,
    Event,
    Images,
    Policies,
    exact_policies,
    hypervolume,
    one_policy,
    ours,
)
from enumerated import Enumerated
from rich.console import Console
from rich.table import Table

from usdn_nas._util.files import write_json
from usdn_nas.engine.engine import Engine, EngineSettings, choose_settings
from usdn_nas.engine.outputs import SupernetEvaluator
from usdn_nas.exits.front import pareto_front
from usdn_nas.pipeline.context import open_run

CHECKPOINTS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
SHARES = (0.95, 0.98, 0.99, 0.995)
METHODS = ("plain tpe", "plain nsga2", "plain random", "exact tpe", "exact nsga2", "exact random", "ours")


@dataclass
class Tracker:
    """The front of what a search has found so far."""

    bench: Bench
    accuracy: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cost: np.ndarray = field(default_factory=lambda: np.zeros(0))
    origin: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, found: Policies) -> None:
        """Takes in the policies of one configuration."""
        accuracy, cost = np.append(self.accuracy, found.accuracy), np.append(self.cost, found.cost)
        masks, thresholds = found.masks.tolist(), found.thresholds.tolist()
        origin = self.origin + [(found.configuration, m, t) for m, t in zip(masks, thresholds, strict=True)]
        kept = pareto_front(accuracy, cost)
        self.accuracy, self.cost, self.origin = accuracy[kept], cost[kept], [origin[int(i)] for i in kept]

    @property
    def hypervolume(self) -> float:
        """On the search images."""
        return hypervolume(self.accuracy, self.cost)

    def on(self, images: Images) -> float:
        """Hypervolume of the front's policies on other images, which nobody chose on."""
        accuracy, cost = np.array([self.bench.score(images, *policy) for policy in self.origin]).T
        return hypervolume(accuracy, cost)


def follow(bench: Bench, test: Images, total: float, events: Iterator[Event], most: int) -> dict[str, Any]:
    """Shares of the true hypervolume ``total`` along a search of at most ``most`` configurations."""
    tracker = Tracker(bench)
    rows: list[dict[str, float]] = []
    reached: dict[str, dict[str, float]] = {}
    count, seconds = 0, 0.0
    for count, (seconds, found) in enumerate(events, 1):
        tracker.add(found)
        share = tracker.hypervolume / total
        for wanted in SHARES:
            if share >= wanted and str(wanted) not in reached:
                reached[str(wanted)] = {"configurations": count, "seconds": seconds}
        if count in CHECKPOINTS or count == most:
            rows.append({"configurations": count, "seconds": seconds, "share": share, "test": tracker.on(test) / total})
    return {"checkpoints": rows, "reached": reached, "configurations": count, "seconds": seconds}


def plain_seconds(context: Any, repeats: int) -> float:
    """Of a plain fake-quant forward pass over the search images: the median over random configurations."""
    evaluate = SupernetEvaluator(context.supernet(), context.search_batches)
    generator = np.random.default_rng(0)
    evaluate(context.space.sample(generator))
    taken = []
    for _ in range(repeats):
        bits = context.space.sample(generator)
        began = time.perf_counter()
        evaluate(bits)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs what is not in the results yet; writes them after every run."""
    context = open_run(options.run)
    folder = options.cache or options.run / "truth"
    settings = choose_settings(context.supernet(), options.backend)
    search, test = (Enumerated(context, split, folder) for split in ("search", "test"))
    for images in (search, test):
        images.complete(settings)
    results = _results(options.results, search)
    if "plain_seconds" not in results:
        results["plain_seconds"] = plain_seconds(context, 5)
        results["engine"] = {"backend": settings.backend, "images": settings.images, "threads": settings.threads}
        results["provenance"] = context.provenance() | {"threads": options.threads}
        write_json(options.results, results)
    missing = [(m, s) for s in range(options.seeds) for m in options.methods if f"{m}, seed {s}" not in results["runs"]]
    if missing:
        bench = Bench(search)
        truth = Tracker(bench)
        for number in range(search.count):
            truth.add(bench.front(number))
        results["truth"] |= {
            "hypervolume": truth.hypervolume,
            "test_share": truth.on(test) / truth.hypervolume,
            "policies": len(truth.origin),
            "configurations_on_front": len({policy[0] for policy in truth.origin}),
            "enumeration": {name: images.record for name, images in (("search", search), ("test", test))},
        }
    for method, seed in missing:
        events = _events(method, bench, context, settings, seed, results["plain_seconds"], options)
        most = _most(method, options)
        results["runs"][f"{method}, seed {seed}"] = follow(bench, test, truth.hypervolume, events, most)
        write_json(options.results, results)
    return results


def _events(
    method: str,
    bench: Bench,
    context: Any,
    settings: EngineSettings,
    seed: int,
    forward: float,
    options: argparse.Namespace,
) -> Iterator[Event]:
    if method == "ours":
        engine = Engine(context.supernet(), context.search_batches, settings)
        return ours(bench, engine, seed, options.ours)
    kind, sampler = method.split()
    return {"plain": one_policy, "exact": exact_policies}[kind](bench, sampler, seed, forward, _most(method, options))


def _most(method: str, options: argparse.Namespace) -> int:
    """Configurations that a search runs."""
    if method == "ours":
        return int(options.ours)
    return int(options.most_tpe if method.endswith("tpe") else options.most)


def _results(path: Path, search: Enumerated) -> dict[str, Any]:
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["digest"] == search.digest:
            return found
    return {
        "schema": "usdn-nas/benchmark-truth/1",
        "digest": search.digest,
        "truth": {
            "space": search.context.spec.network.name,
            "bit_configurations": search.count,
            "thresholds": THRESHOLDS,
            "search_images": search.samples,
            "reference_accuracy": REFERENCE_ACCURACY,
            "reference_cost": REFERENCE_COST,
        },
        "runs": {},
    }


def _spread(values: list[float], form: str) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ±{spread:{form}}"


def show(results: dict[str, Any], methods: list[str]) -> None:
    """Prints two tables: shares by configurations, and configurations and seconds until a share."""
    console = Console(width=150)
    truth = results["truth"]
    console.print(
        f"truth: {truth['bit_configurations']:,} bit configurations x placements x {truth['thresholds']} thresholds on "
        f"{truth['search_images']:,} search images; hypervolume {truth['hypervolume']:.5f} above accuracy "
        f"{truth['reference_accuracy']:.2f} and below {truth['reference_cost']} x reference BOPs; on test images its "
        f"policies are worth {truth['test_share']:.4f} of it; plain forward {results['plain_seconds']:.2f} s"
    )
    by_count = Table(
        "search", *map(str, CHECKPOINTS), title="share of the true hypervolume (in brackets: on test images)"
    )
    until = Table("search", *[f"{share:.1%}" for share in SHARES], title="configurations, seconds until a share")
    for method in methods:
        runs = [run for key, run in results["runs"].items() if key.startswith(f"{method}, seed")]
        if not runs:
            continue
        cells = []
        for count in CHECKPOINTS:
            rows = [row for run in runs for row in run["checkpoints"] if row["configurations"] == count]
            if not rows or len(rows) < len(runs):
                cells.append("")
                continue
            on_test = statistics.mean(row["test"] for row in rows)
            cells.append(f"{_spread([row['share'] for row in rows], '.4f')}\n({on_test:.4f})")
        by_count.add_row(f"{method} ({len(runs)})", *cells)
        until.add_row(method, *[_until(runs, str(share)) for share in SHARES])
    console.print(by_count)
    console.print(until)


def _until(runs: list[dict[str, Any]], share: str) -> str:
    """Means over seeds; with runs that did not get there, lower bounds."""
    bound = "" if all(share in run["reached"] for run in runs) else ">= "
    reached = [run["reached"].get(share, run) for run in runs]
    configurations = statistics.mean(found["configurations"] for found in reached)
    return f"{bound}{configurations:.0f}, {_spread([found['seconds'] for found in reached], '.0f')} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cache", type=Path, help="where outputs are kept (default: RUN/truth)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "truth.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ours", type=int, default=128, help="configurations of our search")
    parser.add_argument("--most", type=int, default=4096, help="trials of NSGA-II and random search")
    parser.add_argument("--most-tpe", type=int, default=1024, help="trials of TPE, whose proposals slow down")
    parser.add_argument("--backend", choices=("auto", "float", "integer"), default="auto")
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
        show(results, options.methods)


if __name__ == "__main__":
    main()
