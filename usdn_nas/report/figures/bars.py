"""Draws the bit-widths of one architecture as bars, layer by layer, with its exits as flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from usdn_nas.report.figures._places import LABEL_INCHES, draw_places, text_inches
from usdn_nas.report.figures._style import BLUE, INK, MUTED, ORANGE, PAPER, grid, size_inches
from usdn_nas.report.figures.layers import BitsData, LayerBits
from usdn_nas.report.figures.share import Share, draw_share

__all__ = ["draw_bits"]

_FLAG_INCHES = 0.29  # height of two lines of text
_FULL_PRECISION = 32
_EXIT_LINE = (0, (4, 1.5))


def _flag_rows(flags: Sequence[tuple[int, str]], inches_per_layer: float) -> list[int]:
    """Returns the row of each flag's text. The text stands right of the flag's line.

    A text that reaches the line of a later flag gets a row above that flag's text. The later line ends below this row,
    so that no text overlaps another text or another flag's line.
    """
    rows = [0] * len(flags)
    for i in reversed(range(len(flags))):
        end = flags[i][0] + (text_inches(flags[i][1]) + 0.08) / inches_per_layer
        rows[i] = max((rows[j] + 1 for j in range(i + 1, len(flags)) if flags[j][0] < end), default=0)
    return rows


def _height(bits: int, others: int) -> int:
    """Returns the height of a bar: the bit-width; for full precision, 2 more than the largest other bit-width."""
    return others + 2 if bits == _FULL_PRECISION else bits


def draw_bits(ax: Axes, data: BitsData, share: Share | None = None) -> Axes:
    """Draws ``data`` on ``ax``. The size of ``ax`` determines how many labels and rows of flags are drawn."""
    count = len(data.layers)
    width_inches = size_inches(ax)[0]
    widths = {b for layer in data.layers for b in (layer.weight_bits, layer.activation_bits)}
    others = max((b for b in widths if b != _FULL_PRECISION), default=8)
    _draw_bars(ax, data.layers, others)
    draw_places(ax, data.places, width_inches / (count + 0.4))
    ax.set_ylabel("bits")
    top = ax if share is None else draw_share(ax, {"": data.share(share)}, share)
    _legend(top, data)
    top.set_title(data.title, pad=22 if width_inches < 5.2 else None)
    height_inches = size_inches(ax)[1]
    ceiling = _draw_flags(ax, data, _height(max(widths), others), (width_inches, height_inches))
    ax.set_ylim(0, ceiling)
    shown: list[int] = []
    for bits in sorted(widths, reverse=True):
        if not shown or (_height(shown[-1], others) - _height(bits, others)) * height_inches / ceiling >= LABEL_INCHES:
            shown.append(bits)
    ax.set_yticks([_height(b, others) for b in shown], ["FP32" if b == _FULL_PRECISION else str(b) for b in shown])
    grid(ax, "y")
    ax.tick_params(axis="x", length=0, labelsize=7)
    return ax


def _draw_bars(ax: Axes, layers: Sequence[LayerBits], others: int) -> None:
    """Draws plain bars for weights and hatched bars for activations: filled if searched, otherwise outlined."""
    for offset, color, hatch, key in ((-0.2, BLUE, "", "weight_bits"), (0.2, ORANGE, "////", "activation_bits")):
        for searched in (True, False):
            chosen = [i for i, layer in enumerate(layers) if layer.searched == searched]
            ax.bar(
                [i + offset for i in chosen],
                [_height(getattr(layers[i], key), others) for i in chosen],
                width=0.38,
                facecolor=color if searched else PAPER,
                edgecolor=(PAPER if hatch else color) if searched else color,
                hatch=hatch if searched else hatch[:2],
                linewidth=0 if searched else 1,
            )


def _draw_flags(ax: Axes, data: BitsData, top: int, inches: tuple[float, float]) -> float:
    """Draws a line and a text for each placed exit above bars of height ``top``; returns the upper end of the axis.

    The texts take up to two rows. If they need more, they are written vertically, and those that would overlap another
    are left out.
    """
    if not data.flags:
        return top + 0.5
    inches_per_layer = inches[0] / (len(data.layers) + 0.4)
    rows = _flag_rows(data.flags, inches_per_layer)
    upright = max(rows) > 1
    room = max(map(_line_inches, data.flags)) if upright else _FLAG_INCHES * (max(rows) + 1)
    unit = top / max(inches[1] - room - 0.15, 0.3 * inches[1])  # bits per inch
    last = -math.inf
    for (position, text), row in zip(data.flags, rows, strict=True):
        bottom = top + (0.05 if upright else 0.05 + _FLAG_INCHES * row) * unit
        end = bottom + (room if upright else _FLAG_INCHES) * unit
        ax.plot([position - 0.5] * 2, [0, end], color=INK, linewidth=1.2, linestyle=_EXIT_LINE, zorder=3)
        if upright and (position - last) * inches_per_layer < 1.3 * LABEL_INCHES:
            continue
        last = position
        shown, turn = (text.replace("\n", " "), 90) if upright else (text, 0)
        place: Any = {"xytext": (3, 0), "textcoords": "offset points", "va": "bottom", "rotation": turn}
        ax.annotate(shown, (position - 0.5, bottom), fontsize=7 if upright else 7.5, linespacing=1.05, **place)
    return top + (room + 0.1) * unit


def _line_inches(flag: tuple[int, str]) -> float:
    """Returns the length in inches of a flag's text on one line."""
    return text_inches(flag[1].replace("\n", " "))


def _legend(ax: Axes, data: BitsData) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=BLUE, label="W"),
        Patch(facecolor=ORANGE, edgecolor=PAPER, hatch="////", linewidth=0, label="A (input)"),
    ]
    if not all(layer.searched for layer in data.layers):
        handles.append(Patch(facecolor=PAPER, edgecolor=MUTED, label="not searched"))
    if data.flags:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=_EXIT_LINE, label="exit, threshold"))
    ax.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(handles),
        borderaxespad=0.2,
        columnspacing=1.1,
        handlelength=1.7,
        fontsize=7.5,
        frameon=False,
    )
