"""Tables of an ablation's record: every system at the common accuracy, and ours beside each of the others."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from ablation_systems import FULL, OURS, SEQUENTIAL, STUDIES
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

MARGIN = 0.0025
"""By so much ours aims higher on the search split than the system it is compared with."""

Seeds = list[dict[str, Any]]


def point_of(points: Sequence[dict[str, Any]], offset: float) -> dict[str, Any]:
    """The point of the smallest offset that is at least ``offset``, else of the largest."""
    enough = [point for point in points if point["offset"] >= offset - 1e-9]
    return min(enough, key=lambda p: p["offset"]) if enough else max(points, key=lambda p: p["offset"])


def right_of(row: dict[str, Any], n: int) -> NDArray[np.float64]:
    """(n,): 1 where the answer was right."""
    packed = np.frombuffer(base64.b64decode(row["right"]), dtype=np.uint8)
    return np.unpackbits(packed, count=n).astype(np.float64)


def beside(seeds: Seeds, system: str, margin: float = MARGIN) -> dict[str, Any]:
    """Ours against ``system``: what it takes fewer BOPs, and by how much it is more accurate, on the test split.

    The other is at the common accuracy, or at its greatest where it does not get there; ours aims at the same accuracy
    and ``margin``. The interval of the difference in accuracy is paired over the images, whose differences are averaged
    over the seeds first.
    """
    savings, differences = [], []
    for seed in seeds:
        n, rows, target = seed["test"]["n"], seed["test"]["systems"], seed["target"]["search_accuracy"]
        theirs = point_of(seed[system]["points"], 0.0)
        aim = min(0.0, theirs["search"]["accuracy"] - target) + margin
        ours = point_of(seed[OURS]["points"], aim)
        their_row, our_row = point_of(rows[system], theirs["offset"]), point_of(rows[OURS], ours["offset"])
        savings.append(1 - our_row["average_bops"] / their_row["average_bops"])
        differences.append(right_of(our_row, n) - right_of(their_row, n))
    by_image = np.mean(differences, axis=0)
    error = float(by_image.std(ddof=1) / np.sqrt(len(by_image)))
    mean = float(by_image.mean())
    return {
        "savings": savings,
        "saving": statistics.mean(savings),
        "differences": [float(d.mean()) for d in differences],
        "difference": mean,
        "interval": [mean - 1.96 * error, mean + 1.96 * error],
    }


def best_other(seeds: Seeds) -> str:
    """Of the systems that are neither ours nor sequential, the one with the least BOPs on the search split.

    Systems that do not reach the common accuracy in every seed are left out.
    """
    costs = {}
    for system in STUDIES:
        points = [point_of(seed[system]["points"], 0.0) for seed in seeds]
        if system not in (OURS, SEQUENTIAL) and all(point["reached"] for point in points):
            costs[system] = statistics.mean(point["search"]["average_bops"] for point in points)
    return min(costs, key=lambda system: costs[system]) if costs else FULL


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation."""
    deviation = f" ±{statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"


def show(results: dict[str, Any], console: Console) -> None:
    """Prints the attempts, and the tables of the last one."""
    for number, attempt in enumerate(results["attempts"], 1):
        read = [seed for seed, entry in attempt["seeds"].items() if "test" in entry]
        console.print(
            f"attempt {number}, {attempt['date']}, commit {(attempt['commit'] or '?')[:10]}: {attempt['why']}; "
            f"test split read by seeds {', '.join(read) or 'none'}"
        )
    attempt = results["attempts"][-1]
    console.print("MACs at full precision: " + ", ".join(f"{k} {v / 1e6:.2f} M" for k, v in attempt["macs"].items()))
    seeds = [entry for entry in attempt["seeds"].values() if "test" in entry]
    if not seeds:
        return
    console.print(_systems(seeds))
    console.print(_comparisons(seeds))


def _systems(seeds: Seeds) -> Table:
    table = Table(
        "system", "search accuracy (%)", "reached", "test accuracy (%)", "MBOPs", "of the reference",
        title=f"at the search accuracy of '{FULL}', {len(seeds)} seeds, mean ± standard deviation",
    )  # fmt: skip
    for system in STUDIES:
        chosen = [point_of(seed[system]["points"], 0.0) for seed in seeds]
        rows = [point_of(seed["test"]["systems"][system], 0.0) for seed in seeds]
        reference = [seed["test"]["reference_bops"] for seed in seeds]
        table.add_row(
            system,
            spread([100 * point["search"]["accuracy"] for point in chosen], ".2f"),
            f"{sum(point['reached'] for point in chosen)} of {len(chosen)}",
            spread([100 * row["accuracy"] for row in rows], ".2f"),
            spread([row["average_bops"] / 1e6 for row in rows], ".2f"),
            spread([row["average_bops"] / r for row, r in zip(rows, reference, strict=True)], ".3f"),
        )
    return table


def _comparisons(seeds: Seeds) -> Table:
    best = best_other(seeds)
    table = Table(
        "joint against", "fewer BOPs (%)", "accuracy (points)", "95% interval, paired",
        title=f"test split; joint aims {100 * MARGIN:.2f} points higher on the search split; best other: {best}",
    )  # fmt: skip
    for system in STUDIES:
        if system == OURS:
            continue
        found = beside(seeds, system, 0.0 if system == SEQUENTIAL else MARGIN)
        low, high = found["interval"]
        table.add_row(
            f"{system}{' (best)' if system == best else ''}",
            spread([100 * saving for saving in found["savings"]], ".1f"),
            spread([100 * difference for difference in found["differences"]], "+.2f"),
            f"{100 * low:+.2f} to {100 * high:+.2f}",
        )
    return table
