"""Labels an axis with layers or groups, and with their blocks in a second row; also labels single points.

Labels are left out where they would overlap. The width of a text is estimated from its number of characters, so that a
figure looks the same with any renderer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from usdn_nas.report.figures._style import BAND, MUTED, halo, lay_out
from usdn_nas.space.search_space import SearchSpace

__all__ = [
    "CHARACTER_INCHES",
    "LABEL_INCHES",
    "LABEL_SIZE",
    "Places",
    "along",
    "draw_places",
    "group_places",
    "label_points",
    "text_inches",
]

LABEL_INCHES = 0.125  # width of a line of rotated text at 7 points, including space between lines
CHARACTER_INCHES = 0.06
LABEL_SIZE = 7

_AROUND = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
_POINTS_TO_INCHES = 1 / 72


@dataclass(frozen=True)
class Places:
    """The labels along an axis.

    Attributes:
        names: The label of each place.
        blocks: (name, index of its first place, number of places) of each block. Blocks are contiguous. If empty, there
            is no second row.
    """

    names: tuple[str, ...]
    blocks: tuple[tuple[str, int, int], ...] = ()


def text_inches(text: str) -> float:
    """Returns the width in inches of a text with a font size of `LABEL_SIZE` points."""
    return max(len(line) for line in text.splitlines()) * CHARACTER_INCHES


def group_places(space: SearchSpace, groups: Sequence[str]) -> Places:
    """Returns the places of ``groups`` in this order; if any block has several groups, the blocks form a second row."""
    part = {group.name: group.layers[0].removeprefix("exit:") for group in space.groups}
    parts = {segment.name for segment in space.chain.segments} | {exit_.name for exit_ in space.chain.exits}
    names = sorted(parts, key=len, reverse=True)
    homes = [next((name for name in names if part[g].startswith(f"{name}.")), g) for g in groups]
    if len(set(homes)) == len(groups):
        return Places(tuple(groups))
    blocks, first = [], 0
    for home, members in itertools.groupby(homes):
        count = len(list(members))
        blocks.append((home, first, count))
        first += count
    return Places(tuple(g.removeprefix(f"{h}.") for g, h in zip(groups, homes, strict=True)), tuple(blocks))


def draw_places(ax: Axes, places: Places, inches_per_place: float) -> None:
    """Draws the blocks as bands, the names under the axis and the names of blocks below these; sets the limits of x."""
    for i, (_, first, count) in enumerate(places.blocks):
        if i % 2 == 0:
            ax.axvspan(first - 0.5, first + count - 0.5, color=BAND, linewidth=0, zorder=0)
    step = max(1, round(LABEL_INCHES / inches_per_place + 0.45))
    shown = list(range(0, len(places.names), step))
    names = [places.names[i] for i in shown]
    ax.set_xticks(shown, names, rotation=90, fontsize=LABEL_SIZE)
    ax.tick_params(axis="x", length=0, pad=2, labelsize=LABEL_SIZE)
    ax.set_xlim(-0.7, len(places.names) - 0.3)
    if places.blocks:
        _draw_blocks(ax, places.blocks, inches_per_place, below=max(map(len, names)) * CHARACTER_INCHES * 72 + 8)


def _draw_blocks(ax: Axes, blocks: Sequence[tuple[str, int, int]], inches_per_place: float, below: float) -> None:
    """Draws the names of blocks ``below`` points under the axis.

    Names that would overlap are written vertically, and some are left out if even that is too dense.
    """
    middles = [first + (count - 1) / 2 for _, first, count in blocks]
    halves = [(len(name) + 1) / 2 * CHARACTER_INCHES / inches_per_place for name, _, _ in blocks]
    upright = any(middles[i] - middles[i - 1] < halves[i] + halves[i - 1] for i in range(1, len(middles)))
    keep: list[int] = []
    for i, middle in enumerate(middles):
        if not keep or not upright or (middle - middles[keep[-1]]) * inches_per_place >= LABEL_INCHES:
            keep.append(i)
    second = ax.secondary_xaxis("bottom")
    second.set_xticks([middles[i] for i in keep], [blocks[i][0] for i in keep])
    second.tick_params(
        length=0, pad=below, labelsize=LABEL_SIZE, labelrotation=90 if upright else 0, labelcolor=MUTED, color=MUTED
    )
    second.spines[:].set_visible(False)


def along(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns points all along a line through K points (K, 2). Labels avoid these points."""
    steps = np.linspace(0, 1, 12)[:, None]
    return np.concatenate([line[:1], *(a + steps * (b - a) for a, b in itertools.pairwise(line))])


def label_points(ax: Axes, labels: Sequence[tuple[str, float, float]], others: Sequence[tuple[float, float]]) -> None:
    """Writes the text of each label (text, x, y) beside its point.

    Each text is placed where it covers the fewest of the points ``others`` and, if possible, no earlier label. Call
    this last, because limits and layout must be final.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    lay_out(figure)
    frame = ax.get_window_extent()
    points = ax.transData.transform([*others, *((x, y) for _, x, y in labels)]) if labels else np.zeros((0, 2))
    inch = figure.dpi
    boxes: list[tuple[float, float, float, float]] = []
    for text, x, y in labels:
        px, py = ax.transData.transform((x, y))
        width, height = text_inches(text) * 1.1 * inch, LABEL_INCHES * inch
        best = None
        for distance, (right, up) in itertools.product((5, 11), _AROUND):
            gap = distance * _POINTS_TO_INCHES * inch
            left = px + (gap if right > 0 else -gap - width if right < 0 else -width / 2)
            low = py + (gap if up > 0 else -gap - height if up < 0 else -height / 2)
            box = (left, low, left + width, low + height)
            outside = left < frame.x0 or box[2] > frame.x1 or low < frame.y0 or box[3] > frame.y1
            inside = (points > [left, low]).all(axis=1) & (points < [box[2], box[3]]).all(axis=1)
            meets = sum(left < b[2] and b[0] < box[2] and low < b[3] and b[1] < box[3] for b in boxes)
            bad = (100 * outside + 50 * meets + int(inside.sum()), distance)
            if best is None or bad < best[0]:
                best = (bad, box, (left - px, low - py))
        assert best is not None
        boxes.append(best[1])
        ax.annotate(
            text,
            (x, y),
            xytext=tuple(72 * d / inch for d in best[2]),
            textcoords="offset points",
            va="bottom",
            ha="left",
            fontsize=7.5,
            path_effects=halo(),
            zorder=8,
            annotation_clip=False,
        )
