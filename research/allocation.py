"""How much could bits allocated block by block save at all, were every configuration's retrained accuracy known?

python research/allocation.py

Two answers, nothing is trained. From the 240 retrainings of `retraining.py` (results/ranking.json): accuracy as a sum
over blocks of what each bit-width adds, by least squares; the cheapest of all configurations that this puts as high as
the same bits everywhere. And by theory: accuracy lost is the sum of s_i 4^-b_i (the power of quantization noise falls
fourfold a bit), BOPs the sum of m_i b_i^2, in two halves of the MACs whose s_i / m_i differ by a ratio.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from usdn_nas._util.files import read_json

RESULTS = Path(__file__).parent / "results" / "ranking.json"
SCHEMA = "usdn-nas/benchmark-ranking/1"
Floats = NDArray[np.float64]


class Oracle:
    """Retrained accuracy and BOPs of every configuration of bits, W = A, by additive models of those retrained.

    Args:
        results: Of `retraining.py`.

    Attributes:
        every: (all, blocks): configurations.
        accuracy, bops: (all,): final exit, a fraction; without internal classifiers.
        residual: Standard deviation of the retrained accuracies around the model.
        steps: (blocks, bit-widths - 1): what a block adds with each bit more.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        names = list(results["configurations"])
        seeds = {key.rpartition(" ")[2] for key in results["retrained"]}
        bits = np.array([[w for w, _ in results["configurations"][n]["bits"].values()] for n in names])
        bops = np.array([results["configurations"][n]["bops"] for n in names], dtype=float)
        retrained = [[results["retrained"][f"{n}, seed {s}"]["accuracy"][-1] for s in sorted(seeds)] for n in names]
        mean = np.mean(retrained, axis=1)
        self.widths = np.unique(bits)
        self.every = np.array(list(itertools.product(self.widths, repeat=bits.shape[1])))
        fitted, *_ = np.linalg.lstsq(self._steps_of(bits), mean, rcond=None)
        squares, *_ = np.linalg.lstsq(_squares(bits), bops, rcond=None)
        self.steps: Floats = np.asarray(fitted[1:], dtype=np.float64).reshape(bits.shape[1], -1)
        self.residual = float(np.std(mean - self._steps_of(bits) @ fitted, ddof=len(fitted)))
        self.accuracy: Floats = self._steps_of(self.every) @ fitted
        self.bops: Floats = _squares(self.every) @ squares

    def _steps_of(self, bits: NDArray[np.int64]) -> Floats:
        above = bits[:, :, None] >= self.widths[1:]
        return np.hstack([np.ones((len(bits), 1)), above.reshape(len(bits), -1)])

    def uniform(self, width: int) -> int:
        """Index of ``width`` everywhere."""
        return int(np.flatnonzero((self.every == width).all(axis=1))[0])

    def cheapest(self, accuracy: float) -> int:
        """Index of the configuration with the least BOPs that is as accurate."""
        enough = np.flatnonzero(self.accuracy >= accuracy - 1e-12)
        return int(enough[self.bops[enough].argmin()])


def _squares(bits: NDArray[np.int64]) -> Floats:
    return np.hstack([np.ones((len(bits), 1)), bits.astype(float) ** 2])


def ideal(ratio: float, share: float, uniform: float) -> tuple[Floats, float]:
    """(2,) bits, not rounded, of two parts that lose as little as ``uniform`` everywhere; the share of BOPs saved.

    Args:
        ratio: Sensitivity a MAC of the second part, relative to the first's.
        share: Of the MACs, in the first part.
    """
    macs = np.array([share, 1 - share])
    sensitivity = macs * [1, ratio]
    found = minimize(
        lambda bits: macs @ bits**2,
        np.full(2, uniform),
        constraints={"type": "eq", "fun": lambda b: sensitivity @ 4.0 ** (uniform - b) / sensitivity.sum() - 1},
    )
    return found.x, 1 - found.fun / uniform**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    console = Console(width=120)
    oracle = Oracle(read_json(parser.parse_args().results, SCHEMA))
    console.print(f"additive model of retrained accuracy: residual {100 * oracle.residual:.2f} points")
    console.print("points a bit more adds, block by block:", (100 * oracle.steps).round(2).tolist())
    table = Table("accuracy wanted (%)", "same bits everywhere", "MBOPs", "cheapest", "MBOPs", "saved (%)")
    uniform = [oracle.uniform(width) for width in oracle.widths]
    for low, high in itertools.pairwise(uniform):
        for part in (0.25, 0.5, 0.75, 1.0):
            wanted = oracle.accuracy[low] + part * (oracle.accuracy[high] - oracle.accuracy[low])
            best = oracle.cheapest(wanted)
            table.add_row(
                f"{100 * wanted:.2f}", str(oracle.every[high][0]), f"{oracle.bops[high] / 1e6:.2f}",
                " ".join(map(str, oracle.every[best])), f"{oracle.bops[best] / 1e6:.2f}",
                f"{100 * (1 - oracle.bops[best] / oracle.bops[high]):.1f}",
            )  # fmt: skip
    console.print(table)
    theory = Table("sensitivity a MAC, ratio", "bits of either half", "saved against 4 bits (%)", title="theory")
    for ratio in (2, 4, 8, 16):
        bits, saved = ideal(ratio, 0.5, 4)
        theory.add_row(str(ratio), f"{bits[0]:.2f}, {bits[1]:.2f}", f"{100 * saved:.1f}")
    console.print(theory)


if __name__ == "__main__":
    main()
