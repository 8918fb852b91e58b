"""Draws the bit-widths of several architectures, each as a strip of cells with numbers and shades.

The same layers of all architectures are one under the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from usdn_nas.report.figures._places import LABEL_INCHES, LABEL_SIZE, draw_places
from usdn_nas.report.figures._style import FAINT, INK, MUTED, PAPER, size_inches
from usdn_nas.report.figures.layers import BitsData
from usdn_nas.report.figures.share import Share, draw_share

__all__ = ["draw_strips", "strips_height"]

_GAP = 0.75  # space between two strips, in rows; it holds the thresholds
_NUMBER_INCHES = 0.09
_LEGEND = "black bars: exits with their thresholds; on the right: mean bits, weighted by MACs"
_LEGEND_STYLE: dict[str, Any] = {"fontsize": 7, "color": MUTED}


def _rows(data: BitsData) -> list[tuple[str, list[int]]]:
    """Returns (label, bits of each layer) of each row: one for W and one for A, or a single row if both are equal."""
    weights = [layer.weight_bits for layer in data.layers]
    activations = [layer.activation_bits for layer in data.layers]
    if weights == activations:
        return [("W = A", weights)]
    return [("W", weights), ("A", activations)]


def strips_height(data: Mapping[str, BitsData]) -> float:
    """Returns the height in inches of a figure that shows ``data``."""
    return 1.35 + sum(0.2 * (len(_rows(one)) + _GAP) for one in data.values())


def _shades(data: Mapping[str, BitsData]) -> dict[int, tuple[str, str]]:
    """Returns, for each searched bit-width, the colours of its cell and of the number on it. More bits are darker."""
    layers = [layer for one in data.values() for layer in one.layers if layer.searched]
    widths = sorted({b for layer in layers for b in (layer.weight_bits, layer.activation_bits)})
    out = {}
    for i, bits in enumerate(widths):
        depth = 0.9 - 0.85 * i / max(len(widths) - 1, 1)
        out[bits] = (to_hex(colormaps["cividis"](depth)), INK if depth > 0.55 else PAPER)
    return out


def draw_strips(ax: Axes, data: Mapping[str, BitsData], share: Share | None = None) -> Axes:
    """Draws ``data`` on ``ax``. Right of each strip is the mean bits of its searched layers, weighted by MACs."""
    shades = _shades(data)
    width_inches = size_inches(ax)[0]
    first = next(iter(data.values()))
    per_layer = width_inches / (len(first.layers) + 0.4)
    y = 0.0
    ticks: list[tuple[float, str]] = []
    means: list[tuple[float, str]] = []
    for name, one in data.items():
        y += _GAP
        rows = _rows(one)
        for i, (_, bits) in enumerate(rows):
            _draw_cells(ax, one, bits, y + i, shades, numbers=per_layer > _NUMBER_INCHES)
        _draw_exits(ax, one.flags, (y, y + len(rows)), per_layer)
        middle = y + len(rows) / 2
        ticks.append((middle, name if len(rows) == 1 else f"{name}\n(W over A)"))
        means.append((middle, _mean(one)))
        y += len(rows)
    draw_places(ax, first.places, per_layer)
    ax.set_ylim(y + 0.15, 0)
    ax.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    ax.tick_params(axis="y", length=0)
    ax.spines[:].set_visible(False)
    right = ax.secondary_yaxis("right")
    right.set_yticks([place for place, _ in means], [text for _, text in means])
    right.tick_params(length=0, labelsize=7, labelcolor=MUTED)
    right.spines[:].set_visible(False)
    top = ax if share is None else draw_share(ax, {name: one.share(share) for name, one in data.items()}, share)
    top.set_title(first.title, pad=18)
    top.annotate(_LEGEND, (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points", **_LEGEND_STYLE)
    size_inches(ax)  # runs the layout again, now that there is a title
    return ax


def _draw_cells(
    ax: Axes, data: BitsData, bits: Sequence[int], y: float, shades: Mapping[int, tuple[str, str]], *, numbers: bool
) -> None:
    """Draws one row of cells. Cells of layers that are not searched have no colour."""
    for i, (layer, width) in enumerate(zip(data.layers, bits, strict=True)):
        color, ink = shades[width] if layer.searched else (PAPER, MUTED)
        edge = PAPER if layer.searched else FAINT
        ax.add_patch(Rectangle((i - 0.47, y + 0.03), 0.94, 0.94, facecolor=color, edgecolor=edge, linewidth=0.8))
        if numbers:
            ax.text(i, y + 0.52, str(width), ha="center", va="center", fontsize=LABEL_SIZE, color=ink)


def _draw_exits(ax: Axes, flags: Sequence[tuple[int, str]], span: tuple[float, float], per_layer: float) -> None:
    """Draws a bar through the strip at each placed exit, with its threshold above.

    Thresholds that would overlap another are left out.
    """
    last = -np.inf
    for position, text in flags:
        x = position - 0.5
        ax.plot([x, x], [span[0] - 0.2, span[1] + 0.08], color=INK, linewidth=2, solid_capstyle="butt", zorder=4)
        threshold = text.rpartition("≥ ")[2].removeprefix("0")
        if (x - last) * per_layer >= 2.1 * LABEL_INCHES:
            ax.text(x, span[0] - 0.22, threshold, ha="center", va="bottom", fontsize=6.5)
            last = x


def _mean(data: BitsData) -> str:
    searched = [layer for layer in data.layers if layer.searched]
    macs = [layer.macs for layer in searched]
    weights = float(np.average([layer.weight_bits for layer in searched], weights=macs))
    activations = float(np.average([layer.activation_bits for layer in searched], weights=macs))
    return f"{weights:.2f}" if weights == activations else f"{weights:.2f}/{activations:.2f}"
