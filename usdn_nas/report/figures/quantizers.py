"""Draws the step sizes of the supernet's quantizers over the epochs, and the share of weights that oscillate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from usdn_nas.report.figures._style import bit_colors, given_axes, grid, legend_below, new_axes, styled
from usdn_nas.report.run import MissingPartError, Run

__all__ = ["QuantizerCurves", "draw_quantizers", "plot_quantizers"]

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class QuantizerCurves:
    """The quantizers of one bit-width over T epochs.

    Attributes:
        weights, inputs: (3, T) quartiles over the quantizers of step size / initial step size; None if there are no
            such quantizers.
        oscillating: (T,) percentage of the observed weights that oscillate, as an unweighted mean over the layers; None
            if there are no weight quantizers.
    """

    weights: Curve | None
    inputs: Curve | None
    oscillating: Curve | None


def _quartiles(records: Sequence[Mapping[str, Any]]) -> Curve | None:
    ratios = [np.asarray(record["step"], dtype=np.float64) / record["start"] for record in records]
    return np.quantile(ratios, [0.25, 0.5, 0.75], axis=0) if ratios else None


def _quantizer_data(diagnostics: Mapping[str, Any]) -> dict[int, QuantizerCurves]:
    """Returns the curves of each bit-width, in rising order."""
    found = {}
    for bits in sorted({record["bits"] for record in diagnostics["quantizers"]}):
        here = [record for record in diagnostics["quantizers"] if record["bits"] == bits]
        weights = [record for record in here if record["tensor"] == "weights"]
        inputs = [record for record in here if record["tensor"] == "inputs"]
        oscillating = [record["oscillating"] for record in weights]
        mean = 100 * np.mean(oscillating, axis=0) if oscillating else None
        found[bits] = QuantizerCurves(_quartiles(weights), _quartiles(inputs), mean)
    return found


def draw_quantizers(axes: Sequence[Axes], data: Mapping[int, QuantizerCurves]) -> list[Axes]:
    """Draws the step sizes of weights, the step sizes of inputs and the oscillating weights on three ``axes``."""
    for (bits, curves), color in zip(data.items(), bit_colors(len(data)), strict=True):
        for ax, quartiles in zip(axes, (curves.weights, curves.inputs), strict=False):
            if quartiles is not None:
                epochs = np.arange(1, quartiles.shape[1] + 1)
                ax.fill_between(epochs, quartiles[0], quartiles[2], color=color, alpha=0.15, linewidth=0)
                ax.plot(epochs, quartiles[1], color=color, marker=".", label=f"{bits} bits")
        if curves.oscillating is not None:
            epochs = np.arange(1, len(curves.oscillating) + 1)
            axes[2].plot(epochs, curves.oscillating, color=color, marker=".", label=f"{bits} bits")
    titles = ("Step sizes of weights", "Step sizes of inputs", "Oscillating weights")
    for ax, title, label in zip(axes, titles, ("of the start", "", "%"), strict=True):
        ax.set_title(title)
        ax.set_ylabel(label)
        ax.set_xlabel("epoch")
        grid(ax)
    axes[2].set_ylim(bottom=0)
    legend_below(axes[1], max(len(data), 1))
    return list(axes)


@styled
def plot_quantizers(run: Run, *, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """Draws how the supernet's quantizers develop during training, for each bit-width.

    Two panels show step sizes relative to their start: the median over the layers as a line, and the middle half as a
    band. The third panel shows the share of weights that oscillate (with a frequency above 0.005; Nagel et al., 2022),
    as a mean over the layers.

    Args:
        run: A run with a supernet.
        ax: Three axes to draw on; None: a new figure.

    Raises:
        MissingPartError: The supernet is not trained yet, or it has no quantizers.
    """
    data = _quantizer_data(run.diagnostics)
    if not data:
        raise MissingPartError("the supernet has no quantizers", where="supernet/diagnostics.json")
    return draw_quantizers(given_axes(ax, 3) or new_axes(8.4, 2.9, columns=3), data)
