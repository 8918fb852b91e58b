"""Helpers for all figures: colours, units, new axes and legends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from usdn_nas._util.errors import UserError
from usdn_nas.report.run import MissingPartError

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
"""Okabe and Ito's palette (2008), which colour-blind readers can distinguish. No figure relies on colour alone."""
INK, MUTED, FAINT, BAND, PAPER = "#1b1f24", "#606770", "#b9c0c8", "#f1f3f6", "#fffffe"
"""Colours of text and axes, secondary text, trials, bands and background. In dark mode the report replaces them."""

MODEL_STYLES: dict[str, dict[str, Any]] = {
    "kd": {"color": BLUE, "marker": "o", "linestyle": "-", "label": "KD"},
    "ce": {"color": VERMILLION, "marker": "s", "linestyle": "--", "label": "CE alone"},
    "ce-temperature": {"color": GREEN, "marker": "^", "linestyle": "-.", "label": "CE + temperatures"},
}
"""Colour, marker, line and short label of each model that figures compare."""

_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "hatch.linewidth": 0.8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a dollar sign and does not start a formula
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


P = ParamSpec("P")
T = TypeVar("T")


def styled(plot: Callable[P, T]) -> Callable[P, T]:
    """Makes ``plot`` use this package's fonts and lines. The caller's matplotlib settings stay unchanged."""

    @wraps(plot)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with rc_context(_SETTINGS):
            return plot(*args, **kwargs)

    return wrapper


def new_axes(width: float, height: float, rows: int = 1, columns: int = 1, **layout: Any) -> list[Axes]:
    """Returns the axes of a new figure, row by row; pyplot does not manage the figure. Sizes are in inches."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07))
    return list(figure.subplots(rows, columns, squeeze=False, **layout).flat)


def given_axes(ax: Axes | Sequence[Axes] | None, count: int) -> list[Axes] | None:
    """Returns ``ax`` as a list of ``count`` axes, or None if ``ax`` is None.

    Raises:
        UserError: ``ax`` holds another number of axes.
    """
    if ax is None:
        return None
    axes = [ax] if isinstance(ax, Axes) else list(ax)
    if len(axes) != count:
        raise UserError(f"this figure needs {count} axes, got {len(axes)}", where="ax")
    return axes


def compared(evaluation: Mapping[str, Any], models: Sequence[str] = ("kd", "ce")) -> list[str]:
    """Returns those of ``models`` (keys of `MODEL_STYLES`) that were evaluated.

    Raises:
        MissingPartError: None of them was evaluated.
    """
    names = [name for name in models if name in evaluation["models"]]
    if not names:
        raise MissingPartError("no retrained model was evaluated", where="evaluation.json")
    return names


def logarithmic(costs: Sequence[float]) -> bool:
    """Returns True if the largest cost exceeds five times the smallest; a linear axis would crowd the cheap ones."""
    return min(costs) > 0 and max(costs) > 5 * min(costs)


def cost_axis(ax: Axes, unit: str, *, log: bool) -> None:
    """Sets up the x axis for average costs. With ``log``, its scale is logarithmic, labelled with plain numbers."""
    ax.set_xlabel(f"average {unit} per image{' (log scale)' if log else ''}")
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())


def lay_out(figure: Figure) -> None:
    """Runs the figure's layout engine, if it has one."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)


def size_inches(ax: Axes) -> tuple[float, float]:
    """Returns the width and height of the axes in inches. If the figure has a layout engine, the engine runs first."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    lay_out(figure)
    width, height = figure.get_size_inches()
    box = ax.get_position()
    return float(box.width * width), float(box.height * height)


def grid(ax: Axes, axis: str = "both") -> None:
    """Draws a grid behind the data and removes the top and right lines of the frame.

    It sets every property itself, because the axes may have been made in another style.
    """
    ax.grid(True, axis=axis, color=FAINT, linewidth=0.5, alpha=0.6)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=2.5, labelsize=8)


def halo() -> list[withStroke]:
    """Returns the path effect that keeps a text readable over lines."""
    return [withStroke(linewidth=2.2, foreground=PAPER)]


def legend_below(ax: Axes, columns: int, inches: float = 0.4) -> None:
    """Puts the legend ``inches`` under the axes, below the axis label, where it covers no data."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    place = ax.transAxes + ScaledTranslation(0, -inches, figure.dpi_scale_trans)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=place,
        ncols=columns,
        handletextpad=0.5,
        columnspacing=1.4,
        borderaxespad=0,
    )


def depth_colors(count: int, first: float = 0.0, last: float = 0.85) -> list[str]:
    """Returns ``count`` colours from dark to light for exits along the chain.

    They are taken from the colormap cividis between ``first`` and ``last``, and get lighter in a grey print too.
    """
    steps = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
    return [to_hex(colormaps["cividis"](step)) for step in steps]


def bit_colors(count: int, first: float = 0.9, last: float = 0.05) -> list[str]:
    """Returns ``count`` colours for choices of bits, from light (few bits) to dark (many bits)."""
    return depth_colors(count, first, last)
