"""Tables of an ablation's record: every system at the common accuracy, and ours beside each of the others."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ablation_systems import FULL, OURS, SEQUENTIAL, SYSTEMS
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

COLORS = ("#606770", "#d55e00", "#cc79a7", "#56b4e9", "#0072b2", "#009e73", "#e69f00")
MARKERS = "Xs^DovP"
"""One a system, of its line in the figure (Okabe and Ito's colours)."""

MARGIN = 0.0015
"""By so much ours aims higher on the search split than the system it is compared with."""
MAIN = -0.005
"""The offset that the claim is judged at where a record does not say: half a point below the full network at 4 bits."""

Seeds = list[dict[str, Any]]


def finished(attempt: dict[str, Any]) -> Seeds:
    """Those of an attempt's seeds that have read the test split."""
    return [entry for _, entry in sorted(attempt["seeds"].items()) if "test" in entry]


def point_of(points: Sequence[dict[str, Any]], offset: float) -> dict[str, Any]:
    """The point of the smallest offset that is at least ``offset``, else of the largest."""
    enough = [point for point in points if point["offset"] >= offset - 1e-9]
    return min(enough, key=lambda p: p["offset"]) if enough else max(points, key=lambda p: p["offset"])


def right_of(row: dict[str, Any], n: int) -> NDArray[np.float64]:
    """(n,): 1 where the answer was right."""
    packed = np.frombuffer(base64.b64decode(row["right"]), dtype=np.uint8)
    return np.unpackbits(packed, count=n).astype(np.float64)


def beside(seeds: Seeds, system: str, offset: float = MAIN, margin: float = MARGIN) -> dict[str, Any]:
    """Ours against ``system``: what it takes fewer BOPs, and by how much it is more accurate, on the test split.

    The other is at ``offset``, or at its greatest accuracy where it does not get there; ours aims at the same accuracy
    and ``margin``. The interval of the difference in accuracy is paired over the images, whose differences are averaged
    over the seeds first.
    """
    savings, differences = [], []
    for seed in seeds:
        n, rows, target = seed["test"]["n"], seed["test"]["systems"], seed["target"]["search_accuracy"]
        theirs = point_of(seed[system]["points"], offset)
        ours = point_of(seed[OURS]["points"], min(offset, theirs["search"]["accuracy"] - target) + margin)
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


def best_other(seeds: Seeds, offset: float = MAIN) -> str:
    """Of the systems that are neither ours nor sequential, the one with the least BOPs on the search split.

    Systems that do not reach the accuracy in every seed are left out.
    """
    costs = {}
    for system in SYSTEMS:
        points = [point_of(seed[system]["points"], offset) for seed in seeds]
        if system not in (OURS, SEQUENTIAL) and all(point["reached"] for point in points):
            costs[system] = statistics.mean(point["search"]["average_bops"] for point in points)
    return min(costs, key=lambda system: costs[system]) if costs else FULL


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation."""
    deviation = f" ±{statistics.stdev(values):{form.lstrip('+')}}" if len(values) > 1 else ""
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
    seeds = finished(attempt)
    if not seeds:
        return
    main = attempt["settings"].get("main", MAIN)
    console.print(_systems(seeds, main))
    console.print(_comparisons(seeds, main))
    console.print(_along(seeds, attempt["settings"]["offsets"]))


def _systems(seeds: Seeds, main: float) -> Table:
    table = Table(
        "system", "search accuracy (%)", "reached", "test accuracy (%)", "MBOPs", "of the reference",
        title=f"{0 - 100 * main:.2f} points below '{FULL}' on the search split; {len(seeds)} seeds, mean ± deviation",
    )  # fmt: skip
    for system in SYSTEMS:
        chosen = [point_of(seed[system]["points"], main) for seed in seeds]
        rows = [point_of(seed["test"]["systems"][system], main) for seed in seeds]
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


def _figures(found: dict[str, Any]) -> tuple[str, str, str]:
    low, high = found["interval"]
    return (
        spread([100 * saving for saving in found["savings"]], ".1f"),
        spread([100 * difference for difference in found["differences"]], "+.2f"),
        f"{100 * low:+.2f} to {100 * high:+.2f}",
    )


FIGURES = ("fewer BOPs (%)", "accuracy (points)", "95% interval, paired")


def _comparisons(seeds: Seeds, main: float) -> Table:
    best = best_other(seeds, main)
    table = Table(
        "joint against", *FIGURES,
        title=f"test split; joint aims {100 * MARGIN:.2f} points higher on the search split; best other: {best}",
    )  # fmt: skip
    for system in SYSTEMS:
        if system != OURS:
            found = beside(seeds, system, main, margin=0.0 if system == SEQUENTIAL else MARGIN)
            table.add_row(f"{system}{' (best)' if system == best else ''}", *_figures(found))
    return table


def _along(seeds: Seeds, offsets: Sequence[float]) -> Table:
    table = Table(
        "points below the full network", "best other", *FIGURES,
        title="joint against the best other at each accuracy, test split",
    )  # fmt: skip
    for offset in offsets:
        best = best_other(seeds, offset)
        table.add_row(f"{0 - 100 * offset:.2f}", best, *_figures(beside(seeds, best, offset)))
    return table


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy against average BOPs on the test split (means over seeds), a line a system along what it aimed at."""
    seeds = finished(results["attempts"][-1])
    figure = Figure(figsize=(6.2, 4.6), layout="constrained")
    ax = figure.subplots()
    for system, color, marker in zip(SYSTEMS, COLORS, MARKERS, strict=True):
        rows = [seed["test"]["systems"][system] for seed in seeds]
        bops = np.mean([[row["average_bops"] for row in one] for one in rows], axis=0) / 1e6
        accuracy = 100 * np.mean([[row["accuracy"] for row in one] for one in rows], axis=0)
        ours = system == OURS
        ax.plot(bops, accuracy, color=color, marker=marker, markersize=5, linewidth=2 if ours else 1, label=system)
    ax.set_xlabel("average MBOPs per image")
    ax.set_ylabel(f"accuracy (%), test, {len(seeds)} seeds")
    ax.grid(True, linewidth=0.5, alpha=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=170)
