"""Figs. 1-3 of the supplement: bit-widths layer by layer, and where samples may leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from usdn_nas.architecture import Architecture
from usdn_nas.records import FINAL_EXIT, LayerRecord
from usdn_nas.report.figures._style import (
    BAND,
    BLUE,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    new_axes,
    styled,
    width_inches,
)
from usdn_nas.report.run import Run
from usdn_nas.space import SearchSpace

__all__ = ["BitsData", "LayerBits", "draw_bits", "plot_bits"]

_LABEL_INCHES = 0.125  # a line of rotated 7 pt text with its leading
_CHARACTER_INCHES = 0.06
_FULL_PRECISION = 32


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
                flags.append((len(layers), f"exit {exit_.name} (≥ {thresholds[exit_.name]:.2f})"))
                if heads:
                    add(exit_.name, exit_.layers, f"head {len(flags) - 1}")
    return BitsData(tuple(layers), tuple(blocks), tuple(flags))


def _flag_rows(flags: Sequence[tuple[int, str]], inches_per_layer: float, room: float) -> list[int]:
    """A row for each flag's text, so that no two texts touch: each takes the lowest row that is free."""
    ends: list[float] = []
    rows = []
    for position, text in flags:
        start = min(position, room - len(text) * _CHARACTER_INCHES / inches_per_layer)
        row = next((i for i, end in enumerate(ends) if end <= start), len(ends))
        ends[row : row + 1] = [position + (len(text) + 2) * _CHARACTER_INCHES / inches_per_layer]
        rows.append(row)
    return rows


def _height(bits: int, others: int) -> int:
    """Bar height: the bit-width, or just above the rest for full precision."""
    return others + 2 if bits == _FULL_PRECISION else bits


def _draw_blocks(ax: Axes, data: BitsData, inches_per_layer: float) -> None:
    """Bands, names of layers under the axis, names of blocks in a second row under those."""
    for i, (_, first, count) in enumerate(data.blocks):
        if i % 2 == 0:
            ax.axvspan(first - 0.5, first + count - 0.5, color=BAND, linewidth=0, zorder=0)
    size = 7
    step = max(1, round(_LABEL_INCHES / inches_per_layer + 0.45))
    shown = list(range(0, len(data.layers), step))
    names = [data.layers[i].name for i in shown]
    ax.set_xticks(shown, names, rotation=90, fontsize=size)
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
        length=0, pad=below, labelsize=size, labelrotation=90 if upright else 0, labelcolor=MUTED, color=MUTED
    )
    second.spines[:].set_visible(False)


def draw_bits(ax: Axes, data: BitsData) -> Axes:
    """Draws ``data`` on ``ax``; the numbers of labels and the rows of flags follow from its width."""
    count = len(data.layers)
    widths = {b for layer in data.layers for b in (layer.weight_bits, layer.activation_bits)}
    others = max((b for b in widths if b != _FULL_PRECISION), default=8)
    inches_per_layer = width_inches(ax) / (count + 0.4)
    for offset, color, hatch, key in ((-0.2, BLUE, "", "weight_bits"), (0.2, ORANGE, "////", "activation_bits")):
        for searched in (True, False):
            chosen = [i for i, layer in enumerate(data.layers) if layer.searched == searched]
            ax.bar(
                [i + offset for i in chosen],
                [_height(getattr(data.layers[i], key), others) for i in chosen],
                width=0.38,
                facecolor=color if searched else PAPER,
                edgecolor=(PAPER if hatch else color) if searched else color,
                hatch=hatch if searched else hatch[:2],
                linewidth=0 if searched else 1,
            )
    _draw_blocks(ax, data, inches_per_layer)
    top = max(_height(b, others) for b in widths)
    rows = _flag_rows(data.flags, inches_per_layer, count)
    for (position, text), row in zip(data.flags, rows, strict=True):
        height = top + 0.55 + 0.8 * row
        ax.plot([position - 0.5] * 2, [0, height + 0.55], color=INK, linewidth=1.2, linestyle=(0, (4, 1.5)), zorder=3)
        room = (count - position) * inches_per_layer > len(text) * _CHARACTER_INCHES
        ax.annotate(
            text,
            (position - 0.5, height),
            xytext=(3 if room else -3, 0),
            textcoords="offset points",
            ha="left" if room else "right",
            va="bottom",
            fontsize=7.5,
        )
    ax.set_xlim(-0.7, count - 0.3)
    ax.set_ylim(0, top + (0.9 + 0.8 * (max(rows) + 1) if rows else 0.5))
    ax.set_yticks([_height(b, others) for b in sorted(widths)], ["FP32" if b == 32 else str(b) for b in sorted(widths)])
    ax.grid(True, axis="y", color=FAINT)
    ax.set_ylabel("bits")
    _legend(ax, data)
    return ax


def _legend(ax: Axes, data: BitsData) -> None:
    handles = [
        Patch(facecolor=BLUE, label="W"),
        Patch(facecolor=ORANGE, edgecolor=PAPER, hatch="////", linewidth=0, label="A (input)"),
    ]
    if not all(layer.searched for layer in data.layers):
        handles.append(Patch(facecolor=PAPER, edgecolor=MUTED, label="not searched"))
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.3)


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
        ax = new_axes(min(max(5.5, 0.3 * len(data.layers) + 1), 12), 3.1)[0]
    ax = draw_bits(ax, data)
    ax.set_title(f"Bit-widths, {run.space.chain.network}")
    return ax
