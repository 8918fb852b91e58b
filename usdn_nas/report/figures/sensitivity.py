"""Which groups matter: what each choice of bits does to accuracy or objective, averaged over all other choices."""

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
    """A choice of bits: what it does to those groups that have it.

    Attributes:
        label: ``"3/4"``, ``"3"`` where W = A; ``"W 3"`` or ``"A 4"`` where these are chosen apart.
        offset: Where its marks stand beside the middle of a place.
        rows: (index of group, percentage points).
    """

    label: str
    offset: float
    rows: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class SensitivityData:
    """What the figure shows; G groups.

    Attributes:
        places: The G groups along the axis.
        effects: By rising W x A, or those of W and then those of A.
        apart: Whether W and A are chosen apart: each effect is then averaged over the other.
        what: What the effect is on.
        trials: Trials it was estimated from.
    """

    places: Places
    effects: tuple[Effect, ...]
    apart: bool
    what: str
    trials: int


def nearest_trade_off(content: Mapping[str, Any], trade_off: float) -> int:
    """Index of the one of the file's trade-offs that is nearest."""
    there = content["trade_offs"]
    return min(range(len(there)), key=lambda i: abs(there[i] - trade_off))


def _chosen_apart(choices: Sequence[Sequence[int]]) -> bool:
    """Whether they are every W with every A."""
    weights, activations = {w for w, _ in choices}, {a for _, a in choices}
    return min(len(weights), len(activations)) > 1 and len(choices) == len(weights) * len(activations)


def _effects(content: Mapping[str, Any], index: int | None, apart: bool) -> tuple[Effect, ...]:
    """Mean over a group's choices is zero; ``apart``: main effects of W and of A."""
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
    """Draws ``data`` on ``ax``: a mark for each choice, a line from a group's lowest to its highest."""
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
    """Marks of one offset in every place, light to dark by bits, on a line."""
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
    """What each choice of each group does, the others averaged over: far apart marks are a group that matters.

    Args:
        run: With a ``search/sensitivity.json``.
        trade_off: Effect on accuracy - trade-off x relative BOPs, exits placed at their best (the nearest trade-off of
            the file); default: on the accuracy of the last exit alone.
        ax: Where to draw; default: a new figure whose width follows the number of groups.
    """
    data = _sensitivity_data(run.space, run.sensitivity, trade_off)
    if ax is None:
        ax = new_axes(min(max(5.5, 0.27 * len(data.places.names) + 1), 12), 3.4)[0]
    return draw_sensitivity(ax, data)
