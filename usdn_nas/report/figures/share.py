"""Draws each layer's share of the MACs or bit operations (BOPs), in a low panel above a figure of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from usdn_nas.report.figures._style import BLUE, INK, MUTED, ORANGE, PURPLE, grid

__all__ = ["Share", "draw_share"]

Share = Literal["macs", "bops"]

_LINES = ((BLUE, "-"), (ORANGE, "--"), (PURPLE, ":"), (INK, "-."))


def draw_share(ax: Axes, shares: Mapping[str, Sequence[float]], of: Share) -> Axes:
    """Draws a panel above ``ax`` that shares its x axis.

    It has bars if all architectures have the same shares, otherwise a line for each architecture.

    Args:
        ax: Axes below the panel.
        shares: Share of each layer in percent, for each architecture by name.
        of: The quantity that is shared out.

    Returns:
        The panel. Put the title and the legend on it.
    """
    panel = ax.inset_axes((0, 1.06, 1, 0.24), sharex=ax)
    first = next(iter(shares.values()))
    if all(tuple(values) == tuple(first) for values in shares.values()):
        panel.bar(range(len(first)), first, width=0.62, color=MUTED, linewidth=0)
    else:
        for (color, line), (name, values) in zip(_LINES * len(shares), shares.items(), strict=False):
            edges = [i - 0.5 for i in range(len(values) + 1)]
            panel.stairs(values, edges, color=color, linestyle=line, linewidth=1.3, label=name)
        panel.legend(loc="upper right", ncols=min(len(shares), 4), fontsize=7, borderaxespad=0.1)
    panel.set_ylim(0, 1.12 * max(max(values) for values in shares.values()))
    panel.set_ylabel(f"{of.upper().replace('S', 's')} (%)", fontsize=7)
    panel.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    grid(panel, "y")
    panel.tick_params(axis="x", labelbottom=False, length=0)
    panel.tick_params(axis="y", labelsize=6.5)
    panel.patch.set_alpha(0)
    return panel
