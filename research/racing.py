"""What dropping configurations early (racing) would save on top of prefix sharing.

The configurations of a run's study, in the order of its trials, are run in full on the search split once. Then their
evaluation in batches is replayed on the images in random order: at every look the configurations that a rule may drop
are dropped, and from there on only the segments of those left are run, shared prefixes once. V of a configuration is
the greatest accuracy - trade-off x relative BOPs over its exit policies; a configuration is dropped once it is known
to be behind the best one, of its own batch or of those completed before, at every trade-off.

    oracle      knows V, and drops after the first look whatever will not lead at any trade-off
    hindsight   drops a configuration at the first look from which on it leads at no trade-off: the ideal
                of a rule that goes by the images seen, without margins of error
    normal      bounds from a normal approximation with the true variance of the paired differences
    bernstein   Bernstein's bounds (without replacement) with the true variance
    honest      empirical Bernstein bounds (Bardenet and Maillard 2015, theorem 4.3), simultaneous over policies too

Errors are shared among looks, trade-offs and configurations. Where a bound needs the best policy of a configuration,
it is the one that is best on all images: that favours racing. Behind is meant in the weak sense: equal outputs are.

python research/racing.py runs/fashion_mnist --cache outputs.npz
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usdn_nas.engine.outputs import SupernetEvaluator
from usdn_nas.exits.exact import threshold_grid
from usdn_nas.exits.front import TRADE_OFFS, config_front, pareto_front, support
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.space.architecture import Bits
from usdn_nas.space.cost import exit_costs, reference_bops
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.parameters import bits_of
from usdn_nas.study.session import read_study

Floats = NDArray[np.float32]
POLICIES = 64 << 5
"""Among which the error of an honest bound is shared."""
RULES = ("oracle", "hindsight", "normal", "bernstein", "honest")


@dataclass(frozen=True)
class Rule:
    """When a configuration is dropped.

    Attributes:
        name: One of `RULES`.
        error: Of one bound, after sharing.
        margin: What a configuration may be ahead at most, by its bound, to be dropped.
    """

    name: str
    error: float
    margin: float


@dataclass(frozen=True)
class Entrant:
    """A configuration as the race sees it.

    Attributes:
        values: (L,) V at every trade-off, on all images.
        scores: (L, N) accuracy - trade-off x relative BOPs of every image under the policy that reaches V.
        prefixes: The distinct prefixes that it runs, one for each segment.
        front: (accuracy, BOPs) of its own front.
    """

    values: NDArray[np.float64]
    scores: Floats
    prefixes: tuple[tuple[int, ...], ...]
    front: list[tuple[float, float]]


def drawn(context: Context, options: argparse.Namespace) -> list[dict[str, Bits]]:
    """The configurations of the study's trials in their order, or random ones; none twice."""
    space = context.space
    if options.random:
        generator = np.random.default_rng(options.seed)
        found = [space.sample(generator) for _ in range(4 * options.count)]
    else:
        journal = context.folder / "search" / "study.journal"
        study = read_study(context.study.search, storage_path=journal, name=context.name)
        found = [bits_of(space, trial.params) for trial in study.get_trials(deepcopy=False) if trial.values]
    return list({tuple(bits.items()): bits for bits in found}.values())[: options.count]


def cached_outputs(
    context: Context, configurations: Sequence[Mapping[str, Bits]], cache: Path | None
) -> list[ExitOutputs]:
    """Outputs on the search split; from ``cache`` where it holds these very configurations."""
    names = tuple(exit_.name for exit_ in context.space.chain.exits)
    key = json.dumps([str(context.folder.resolve()), [list(bits.values()) for bits in configurations]])
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            if str(stored["key"]) == key:
                return [ExitOutputs(*pair, names) for pair in zip(stored["confidence"], stored["correct"], strict=True)]
    evaluator = SupernetEvaluator(context.supernet(), context.search_batches)
    found = []
    for number, bits in enumerate(configurations):
        print(f"\revaluating {number + 1}/{len(configurations)}", end="", file=sys.stderr, flush=True)
        found.append(evaluator(bits))
    print(file=sys.stderr)
    if cache is not None:
        confidence, correct = [o.confidence for o in found], [o.correct for o in found]
        np.savez(cache, key=key, confidence=confidence, correct=correct)
    return found


def prefixes(space: SearchSpace, bits: Mapping[str, Bits]) -> tuple[tuple[int, ...], ...]:
    """For each segment, what its output depends on: the bits of all layers up to there."""
    by_layer = space.layer_bits(bits)
    key: tuple[int, ...] = ()
    found = []
    for segment in space.chain.segments:
        key += tuple(width for layer in segment.layers for width in by_layer[layer.name])
        found.append(key)
    return tuple(found)


def entrant(space: SearchSpace, bits: Mapping[str, Bits], outputs: ExitOutputs, thresholds: int) -> Entrant:
    """V, and each image's part in it."""
    costs, reference = exit_costs(space, bits), reference_bops(space)
    front = config_front(outputs, costs, threshold_grid(outputs, thresholds))
    accuracy, bops = np.array([p.accuracy for p in front]), np.array([p.bops for p in front])
    values, best = support(accuracy, bops / reference)
    scores = np.empty((len(values), outputs.samples), dtype=np.float32)
    for row, policy in enumerate(front[int(i)] for i in best):
        placed, its = outputs.placed(policy.exits), costs.placed(policy.exits)
        fires = np.ones(placed.confidence.shape, dtype=bool)
        fires[:-1] = placed.confidence[:-1] >= np.array(policy.thresholds)[:, None]
        leaves = fires.argmax(axis=0)
        right = placed.correct[leaves, np.arange(outputs.samples)]
        scores[row] = right - TRADE_OFFS[row] * its.cumulative[leaves] / reference
    return Entrant(values, scores, prefixes(space, bits), list(zip(accuracy.tolist(), bops.tolist(), strict=True)))


def width(rule: Rule, difference: Floats, seen: int) -> NDArray[np.float64]:
    """(L,) how far the mean of ``difference`` (L, N) over all images may be above that over the ``seen`` first."""
    total = difference.shape[1]
    left = 1 - (seen - 1) / total if seen <= total / 2 else (1 - seen / total) * (1 + 1 / seen)
    spread = 2 * (1 + TRADE_OFFS)  # right or wrong twice, and the relative BOPs, below 1, twice
    log = -math.log(rule.error)
    if rule.name == "normal":
        return difference.std(axis=1) * NormalDist().inv_cdf(1 - rule.error) * math.sqrt(left / seen)
    if rule.name == "bernstein":
        return difference.std(axis=1) * math.sqrt(2 * left * log / seen) + spread * log / (3 * seen)
    log += math.log(5 * POLICIES)
    deviation = difference[:, :seen].std(axis=1) * math.sqrt(2 * left * log / seen)
    return deviation + (7 / 3 + 3 / math.sqrt(2)) * spread * log / seen


def leaders(entrants: Sequence[Entrant], among: Sequence[int], looks: Sequence[int]) -> NDArray[np.intp]:
    """(len(looks), L): which of ``among`` has the best mean over the images seen, of equals the first."""
    found = [np.array([entrants[k].scores[:, :seen].mean(axis=1, dtype=np.float64) for k in among]) for seen in looks]
    return np.array(among)[np.array(found).argmax(axis=1)]


def surely_behind(rule: Rule, entrants: Sequence[Entrant], k: int, best: NDArray[np.intp], seen: int) -> bool:
    """Whether the bounds of configuration ``k`` are below those of the leaders ``best`` (L,) at every trade-off."""
    leading = np.array([entrants[int(i)].scores[row] for row, i in enumerate(best)])
    difference = entrants[k].scores - leading
    above = difference[:, :seen].mean(axis=1) + width(rule, difference, seen)
    return bool(((above < rule.margin) | ~difference.any(axis=1)).all())


def replay(
    rule: Rule, entrants: Sequence[Entrant], batch: range, completed: Sequence[int], looks: Sequence[int]
) -> Iterator[tuple[int, list[int]]]:
    """Images run up to a look, and the configurations of ``batch`` that run them; for all looks, the end included."""
    left = list(batch)
    best = leaders(entrants, [*completed, *batch], looks)
    for number, seen in enumerate(looks):
        yield seen - (looks[number - 1] if number else 0), left
        if rule.name in ("oracle", "hindsight"):
            leading = best[-1] if rule.name == "oracle" else best[number:]
            left = [k for k in left if k in leading]
        else:
            here = best[number]
            left = [k for k in left if k in here or not surely_behind(rule, entrants, k, here, seen)]


def race(rule: Rule, entrants: Sequence[Entrant], size: int, looks: Sequence[int]) -> dict[str, float]:
    """One pass over all configurations in batches of ``size``: segment runs without and with racing, and losses."""
    completed: list[int] = []
    full = spent = 0
    for start in range(0, len(entrants), size):
        batch = range(start, min(start + size, len(entrants)))
        full += looks[-1] * len({prefix for k in batch for prefix in entrants[k].prefixes})
        for images, left in replay(rule, entrants, batch, completed, looks):
            spent += images * len({prefix for k in left for prefix in entrants[k].prefixes})
        completed += left
    values = np.array([e.values for e in entrants])
    needed = set(values.argmax(axis=0).tolist())
    points = [(k, *point) for k, e in enumerate(entrants) for point in e.front]
    on_front = {points[int(i)][0] for i in pareto_front([p[1] for p in points], [p[2] for p in points])}
    return {
        "saving": full / spent,
        "dropped": 1 - len(completed) / len(entrants),
        "leaders": len(needed),
        "leaders_lost": len(needed - set(completed)),
        "front": len(on_front),
        "front_lost": len(on_front - set(completed)),
    }


def shuffled(entrants: Sequence[Entrant], order: NDArray[np.intp]) -> list[Entrant]:
    return [Entrant(e.values, e.scores[:, order], e.prefixes, e.front) for e in entrants]


def rows_of(entrants: Sequence[Entrant], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Means over the orders of the images, for each rule and size of batch."""
    total = entrants[0].scores.shape[1]
    looks = [*sorted({int(share * total) for share in options.looks} - {0, total}), total]
    error = options.error / (len(looks) * len(TRADE_OFFS) * len(entrants))
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    for seed in range(options.orders):
        there = shuffled(entrants, np.random.default_rng([options.seed, seed]).permutation(total))
        for name in RULES:
            rule = Rule(name, error, options.margin)
            for size in options.batches:
                results.setdefault((name, size), []).append(race(rule, there, size, looks))
    return [
        {"rule": name, "batch": size} | {key: float(np.mean([r[key] for r in found])) for key in found[0]}
        for (name, size), found in results.items()
    ]


def reasons(entrants: Sequence[Entrant], error: float) -> dict[str, float]:
    """Medians over the configurations that lead nowhere, at the trade-off at which each is hardest to rule out.

    ``images``: that a normal approximation needs to tell it from the leader, were there images without end.
    """
    values = np.array([e.values for e in entrants])
    best = values.argmax(axis=0)
    leading = np.array([entrants[int(k)].scores[row] for row, k in enumerate(best)])
    found = []
    for k in set(range(len(entrants))) - set(best.tolist()):
        spread = (entrants[k].scores - leading).std(axis=1)
        gap = values[best, np.arange(len(best))] - values[k]
        needed = (NormalDist().inv_cdf(1 - error) * spread / np.maximum(gap, 1e-12)) ** 2
        row = int(needed.argmax())
        found.append((gap[row], spread[row], needed[row], bool((spread == 0).any())))
    gap, spread, images, ties = zip(*found, strict=True)
    medians = {key: float(np.median(x)) for key, x in (("gap", gap), ("spread", spread), ("images", images))}
    return {**medians, "ties": float(np.mean(ties))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a trained supernet and a study")
    parser.add_argument("--random", action="store_true", help="random configurations instead of the study's")
    parser.add_argument("--count", type=int, default=128, help="configurations, at most")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128])
    shares = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    parser.add_argument("--looks", type=float, nargs="+", default=shares, help="shares of the images")
    parser.add_argument("--orders", type=int, default=2, help="random orders of the images")
    parser.add_argument("--error", type=float, default=0.01)
    parser.add_argument("--margin", type=float, default=0.0, help="of V, that a dropped configuration may be ahead")
    parser.add_argument("--thresholds", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="keeps the outputs, which take longest")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    context = open_run(options.run)
    configurations = drawn(context, options)
    outputs = cached_outputs(context, configurations, options.cache)
    entrants = [
        entrant(context.space, bits, its, options.thresholds) for bits, its in zip(configurations, outputs, strict=True)
    ]
    rows = rows_of(entrants, options)
    why = reasons(entrants, options.error / (len(options.looks) * len(TRADE_OFFS) * len(entrants)))
    if options.format == "json":
        settings = {key: str(value) for key, value in vars(options).items()}
        print(json.dumps({"settings": settings, "rows": rows, "reasons": why}, indent=2))
        return
    for row in rows:
        print(
            f"{row['rule']:10} batches of {row['batch']:3}  {row['saving']:5.2f} x fewer segment runs  "
            f"{row['dropped']:4.0%} dropped  leaders lost {row['leaders_lost']:.1f} of {row['leaders']:.0f}  "
            f"members of the front lost {row['front_lost']:.1f} of {row['front']:.0f}"
        )
    print(
        f"half of those that lead nowhere are within {why['gap']:.4f} of a leader at some trade-off, with a standard "
        f"deviation of {why['spread']:.2f} an image: {why['images']:,.0f} images to tell them apart; "
        f"{why['ties']:.0%} equal a leader on every image at some trade-off"
    )


if __name__ == "__main__":
    main()
