"""Draws the effect of each choice of bits on accuracy or objective, averaged over the choices of all other groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from usdn_nas.report.figures._places import Places, draw_places, group_places
from usdn_nas.report.figures._style import INK, MUTED, bit_colors, grid, new_axes, size_inches, styled
from usdn_nas.report.run import Run
from usdn_nas.space.search_space import SearchSpace

__all__ = ["Effect", "SensitivityData", "draw_sensitivity", "nearest_trade_off", "plot_sensitivity"]

_MARKERS = "oDs^vPX*<>"


@dataclass(frozen=True)
class Effect:
    """The effect of a choice of bits in each group that has this choice.

    Attributes:
        label: ``"3/4"``, or ``"3"`` if W = A; ``"W 3"`` or ``"A 4"`` if W and A are chosen independently.
        offset: Horizontal distance of its marks from the middle of a place.
        rows: (index of the group, effect in percentage points).
    """

    label: str
    offset: float
    rows: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class SensitivityData:
    """Data of the figure, for G groups.

    Attributes:
        places: The G groups along the axis.
        effects: The effects, sorted by W x A; if W and A are independent, first those of W, then those of A.
        apart: True if W and A are chosen independently. The effect of W is then averaged over A, and that of A over W.
        what: Name of the quantity that is affected.
        trials: Number of trials from which the effects were estimated.
    """

    places: Places
    effects: tuple[Effect, ...]
    apart: bool
    what: str
    trials: int


def nearest_trade_off(content: Mapping[str, Any], trade_off: float) -> int:
    """Returns the index of the file's trade-off that is nearest to ``trade_off``."""
    there = content["trade_offs"]
    return min(range(len(there)), key=lambda i: abs(there[i] - trade_off))


def _chosen_apart(choices: Sequence[Sequence[int]]) -> bool:
    """Returns True if the choices combine every W with every A, and there are at least two of each."""
    weights, activations = {w for w, _ in choices}, {a for _, a in choices}
    return min(len(weights), len(activations)) > 1 and len(choices) == len(weights) * len(activations)


def _effects(content: Mapping[str, Any], index: int | None, apart: bool) -> tuple[Effect, ...]:
    """Returns the effects relative to the mean over a group's choices, in percentage points.

    With ``apart``, these are the main effects of W and of A instead of the effects of pairs.
    """
    found: dict[tuple[float, float, str], dict[int, list[float]]] = {}
    for place, group in enumerate(content["groups"]):
        values = group["accuracy"] if index is None else [row[index] for row in group["value"]]
        middle = sum(values) / len(values)
        for (w, a), value in zip(group["choices"], values, strict=True):
            keys = [(-0.17, w, f"W {w}"), (0.17, a, f"A {a}")] if apart else [(0.0, w * a, _pair(w, a))]
            for key in keys:
                found.setdefault(key, {}).setdefault(place, []).append(100 * (value - middle))
    return tuple(
        Effect(label, offset, tuple((place, sum(v) / len(v)) for place, v in rows.items()))
        for (offset, _, label), rows in sorted(found.items())
    )


def _pair(w: int, a: int) -> str:
    return str(w) if w == a else f"{w}/{a}"


def _sensitivity_data(space: SearchSpace, content: Mapping[str, Any], trade_off: float | None) -> SensitivityData:
    index = None if trade_off is None else nearest_trade_off(content, trade_off)
    apart = all(_chosen_apart(group["choices"]) for group in content["groups"])
    what = "accuracy without exits"
    if index is not None:
        what = f"accuracy\n- {content['trade_offs'][index]:.3g} × relative BOPs"
    places = group_places(space, [group["name"] for group in content["groups"]])
    return SensitivityData(places, _effects(content, index, apart), apart, what, content["trials"])


def draw_sensitivity(ax: Axes, data: SensitivityData) -> Axes:
    """Draws ``data`` on ``ax``: a mark for each choice, and a line from a group's lowest mark to its highest."""
    count = len(data.places.names)
    per_place = size_inches(ax)[0] / (count + 0.4)
    ax.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    for offset in dict.fromkeys(effect.offset for effect in data.effects):
        _draw_column(ax, [effect for effect in data.effects if effect.offset == offset], count, per_place)
    draw_places(ax, data.places, per_place)
    ax.set_ylabel(f"effect on {data.what} (points)")
    columns = min(len(data.effects), max(4, int(size_inches(ax)[0] / 0.55)))
    meaning = "W and A chosen apart, each averaged over the other" if data.apart else "W/A, or one number for both"
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        title=meaning,
        title_fontsize=7.5,
        alignment="left",
        fontsize=7.5,
        handletextpad=0.2,
        columnspacing=1,
        borderaxespad=0.2,
    )
    rows_of_legend = -(-len(data.effects) // columns)
    ax.set_title(f"What each group's bits do ({data.trials:,} trials)", pad=22 + 12 * rows_of_legend)
    grid(ax, "y")
    ax.tick_params(axis="x", length=0, labelsize=7)
    return ax


def _draw_column(ax: Axes, effects: Sequence[Effect], count: int, per_place: float) -> None:
    """Draws the marks of one offset in every place, from light to dark by bits, and a line through each place."""
    colors = bit_colors(len(effects))
    for place in range(count):
        values = [value for effect in effects for at, value in effect.rows if at == place]
        if values:
            ax.plot([place + effects[0].offset] * 2, [min(values), max(values)], color=INK, linewidth=0.8, zorder=2)
    for i, (effect, color) in enumerate(zip(effects, colors, strict=True)):
        marker = ("o" if effect.offset < 0 else "s") if effect.offset else _MARKERS[i % len(_MARKERS)]
        ax.scatter(
            [at + effect.offset for at, _ in effect.rows],
            [value for _, value in effect.rows],
            marker=marker,
            s=min(34, max(12, 190 * per_place)) * (0.7 if effect.offset else 1),
            facecolor=color,
            edgecolor=INK,
            linewidths=0.5,
            label=effect.label,
            zorder=3 + i,
        )


@styled
def plot_sensitivity(run: Run, *, trade_off: float | None = None, ax: Axes | None = None) -> Axes:
    """Draws the effect of each choice of bits in each group, averaged over the choices of all other groups.

    A group matters if its marks are far apart.

    Args:
        run: A run with a ``search/sensitivity.json``.
        trade_off: Draw the effect on accuracy - trade-off x relative bit operations (BOPs), with exits placed at their
            best; the file's nearest trade-off is used. None: draw the effect on the accuracy of the last exit.
        ax: Axes to draw on; None: a new figure whose width depends on the number of groups.
    """
    data = _sensitivity_data(run.space, run.sensitivity, trade_off)
    if ax is None:
        ax = new_axes(min(max(5.5, 0.27 * len(data.places.names) + 1), 12), 3.4)[0]
    return draw_sensitivity(ax, data)
