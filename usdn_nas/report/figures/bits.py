"""Figs. 1-3 of the supplement: bit-widths layer by layer, and where samples may leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from usdn_nas.architecture import Architecture
from usdn_nas.records import FINAL_EXIT, LayerRecord
from usdn_nas.report.figures._style import (
    BAND,
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    grid,
    new_axes,
    size_inches,
    styled,
)
from usdn_nas.report.run import Run
from usdn_nas.space import SearchSpace

__all__ = ["BitsData", "LayerBits", "draw_bits", "plot_bits"]

_LABEL_INCHES = 0.125  # a line of rotated 7 pt text with its leading
_CHARACTER_INCHES = 0.06
_LABEL_SIZE = 7
_FLAG_INCHES = 0.29  # two lines of text
_FULL_PRECISION = 32
_EXIT_LINE = (0, (4, 1.5))


@dataclass(frozen=True)
class LayerBits:
    """A layer: its name within its block, and its bits."""

    name: str
    weight_bits: int
    activation_bits: int
    searched: bool


@dataclass(frozen=True)
class BitsData:
    """What the figure shows.

    Attributes:
        layers: In the order of the chain.
        blocks: (name, index of its first layer, number of layers), contiguous.
        flags: (position, text) of each placed exit; position counts the layers before it.
    """

    title: str
    layers: tuple[LayerBits, ...]
    blocks: tuple[tuple[str, int, int], ...]
    flags: tuple[tuple[int, str], ...]


def _bits_data(space: SearchSpace, architecture: Architecture, heads: bool) -> BitsData:
    """Layers of segments, of placed heads (if ``heads``) where they branch off, and of the final classifier."""
    bits = space.layer_bits(architecture.bits)
    chain = space.chain
    thresholds = dict(zip(architecture.exits, architecture.thresholds, strict=True))
    layers: list[LayerBits] = []
    blocks: list[tuple[str, int, int]] = []
    flags: list[tuple[int, str]] = []

    def add(part: str, records: Sequence[LayerRecord], label: str) -> None:
        if records:
            blocks.append((label, len(layers), len(records)))
        for record in records:
            name = record.name.removeprefix("exit:").removeprefix(f"{part}.")
            layers.append(LayerBits(name, *bits[record.name], record.name in space.group_of))

    for index, segment in enumerate(chain.segments):
        add(segment.name, segment.layers, segment.name)
        for exit_ in chain.exits:
            if exit_.segment != index:
                continue
            if exit_.name == FINAL_EXIT:
                add(exit_.name, exit_.layers, exit_.name)
            elif exit_.name in thresholds:
                flags.append((len(layers), f"{exit_.name}\n≥ {thresholds[exit_.name]:.2f}"))
                if heads:
                    add(exit_.name, exit_.layers, f"head {len(flags) - 1}")
    return BitsData(f"Bit-widths, {chain.network}", tuple(layers), tuple(blocks), tuple(flags))


def _flag_rows(flags: Sequence[tuple[int, str]], inches_per_layer: float) -> list[int]:
    """A row for each flag's text, which stands right of its line, so that it meets no other text and no other line.

    A text that reaches a later flag stands above that flag's text: the later line ends below it.
    """
    rows = [0] * len(flags)
    for i in reversed(range(len(flags))):
        end = flags[i][0] + (_text_inches(flags[i][1]) + 0.08) / inches_per_layer
        rows[i] = max((rows[j] + 1 for j in range(i + 1, len(flags)) if flags[j][0] < end), default=0)
    return rows


def _text_inches(text: str) -> float:
    return max(len(line) for line in text.splitlines()) * _CHARACTER_INCHES


def _height(bits: int, others: int) -> int:
    """Bar height: the bit-width, or just above the rest for full precision."""
    return others + 2 if bits == _FULL_PRECISION else bits


def _draw_blocks(ax: Axes, data: BitsData, inches_per_layer: float) -> None:
    """Bands, names of layers under the axis, names of blocks in a second row under those."""
    for i, (_, first, count) in enumerate(data.blocks):
        if i % 2 == 0:
            ax.axvspan(first - 0.5, first + count - 0.5, color=BAND, linewidth=0, zorder=0)
    step = max(1, round(_LABEL_INCHES / inches_per_layer + 0.45))
    shown = list(range(0, len(data.layers), step))
    names = [data.layers[i].name for i in shown]
    ax.set_xticks(shown, names, rotation=90, fontsize=_LABEL_SIZE)
    ax.tick_params(axis="x", length=0, pad=2)
    below = max(len(name) for name in names) * _CHARACTER_INCHES * 72 + 8
    middles = [first + (count - 1) / 2 for _, first, count in data.blocks]
    halves = [(len(name) + 1) / 2 * _CHARACTER_INCHES / inches_per_layer for name, _, _ in data.blocks]
    upright = any(middles[i] - middles[i - 1] < halves[i] + halves[i - 1] for i in range(1, len(middles)))
    keep: list[int] = []
    for i, middle in enumerate(middles):
        if not keep or not upright or (middle - middles[keep[-1]]) * inches_per_layer >= _LABEL_INCHES:
            keep.append(i)
    second = ax.secondary_xaxis("bottom")
    second.set_xticks([middles[i] for i in keep], [data.blocks[i][0] for i in keep])
    second.tick_params(
        length=0, pad=below, labelsize=_LABEL_SIZE, labelrotation=90 if upright else 0, labelcolor=MUTED, color=MUTED
    )
    second.spines[:].set_visible(False)


def draw_bits(ax: Axes, data: BitsData) -> Axes:
    """Draws ``data`` on ``ax``; the numbers of labels and the rows of flags follow from its size."""
    count = len(data.layers)
    width_inches = size_inches(ax)[0]
    widths = {b for layer in data.layers for b in (layer.weight_bits, layer.activation_bits)}
    others = max((b for b in widths if b != _FULL_PRECISION), default=8)
    _draw_bars(ax, data.layers, others)
    _draw_blocks(ax, data, width_inches / (count + 0.4))
    ax.set_ylabel("bits")
    _legend(ax, data)
    ax.set_title(data.title, pad=22 if width_inches < 5.2 else None)
    height_inches = size_inches(ax)[1]
    ceiling = _draw_flags(ax, data, _height(max(widths), others), (width_inches, height_inches))
    ax.set_xlim(-0.7, count - 0.3)
    ax.set_ylim(0, ceiling)
    shown: list[int] = []
    for bits in sorted(widths, reverse=True):
        if not shown or (_height(shown[-1], others) - _height(bits, others)) * height_inches / ceiling >= _LABEL_INCHES:
            shown.append(bits)
    ax.set_yticks([_height(b, others) for b in shown], ["FP32" if b == _FULL_PRECISION else str(b) for b in shown])
    grid(ax, "y")
    ax.tick_params(axis="x", length=0, labelsize=_LABEL_SIZE)
    return ax


def _draw_bars(ax: Axes, layers: Sequence[LayerBits], others: int) -> None:
    """W plain, A hatched; filled where they are searched, outlined where they are not."""
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
    """Lines and texts of the placed exits above bars of height ``top``; returns where the axis shall end.

    Texts stand in up to two rows; where that is not enough, upright, and those left out that would meet another.
    """
    if not data.flags:
        return top + 0.5
    inches_per_layer = inches[0] / (len(data.layers) + 0.4)
    rows = _flag_rows(data.flags, inches_per_layer)
    upright = max(rows) > 1
    room = max(map(_line_inches, data.flags)) if upright else _FLAG_INCHES * (max(rows) + 1)
    unit = top / max(inches[1] - room - 0.15, 0.3 * inches[1])  # bits an inch
    last = -math.inf
    for (position, text), row in zip(data.flags, rows, strict=True):
        bottom = top + (0.05 if upright else 0.05 + _FLAG_INCHES * row) * unit
        end = bottom + (room if upright else _FLAG_INCHES) * unit
        ax.plot([position - 0.5] * 2, [0, end], color=INK, linewidth=1.2, linestyle=_EXIT_LINE, zorder=3)
        if upright and (position - last) * inches_per_layer < 1.3 * _LABEL_INCHES:
            continue
        last = position
        shown, turn = (text.replace("\n", " "), 90) if upright else (text, 0)
        place: Any = {"xytext": (3, 0), "textcoords": "offset points", "va": "bottom", "rotation": turn}
        ax.annotate(shown, (position - 0.5, bottom), fontsize=7 if upright else 7.5, linespacing=1.05, **place)
    return top + (room + 0.1) * unit


def _line_inches(flag: tuple[int, str]) -> float:
    """Length of a flag's text on one line."""
    return _text_inches(flag[1].replace("\n", " "))


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


@styled
def plot_bits(
    run: Run, architecture: Architecture | None = None, *, heads: bool | None = None, ax: Axes | None = None
) -> Axes:
    """Figs. 1-3: (W, A) of every layer in the order of the chain, blocks as bands, placed exits as flags.

    Args:
        run: Its search space tells layers and blocks.
        architecture: A point of that space, e.g. ``run.point("12.3")``; default: the winner.
        heads: Also the layers of placed internal classifiers; default: where their bits are searched.
        ax: Where to draw; default: a new figure whose width follows the number of layers.
    """
    if heads is None:
        heads = run.space.spec.exits.head_bits == "search"
    data = _bits_data(run.space, run.winner if architecture is None else architecture, heads)
    if ax is None:
        ax = new_axes(min(max(5.5, 0.3 * len(data.layers) + 1), 12), 3.2)[0]
    return draw_bits(ax, data)
