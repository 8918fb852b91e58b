"""Draws Figs. 1-3 of the supplement: the bit-widths of all layers, and the exits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from matplotlib.axes import Axes

from usdn_nas._util.errors import UserError
from usdn_nas.report.figures._style import new_axes, styled
from usdn_nas.report.figures.bars import draw_bits
from usdn_nas.report.figures.layers import BitsData, bits_data
from usdn_nas.report.figures.share import Share
from usdn_nas.report.figures.strips import draw_strips, strips_height
from usdn_nas.report.run import Run
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.search_space import SearchSpace

__all__ = ["plot_bits"]


class Chosen(Protocol):
    """A network with its architecture, such as `usdn_nas.EarlyExitNetwork`."""

    space: SearchSpace
    architecture: Architecture


@styled
def plot_bits(
    run: Run | SearchSpace | Chosen,
    architecture: Architecture | Mapping[str, Architecture] | None = None,
    *,
    heads: bool | None = None,
    share: Share | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the bits (W, A) of every layer in the order of the chain (Figs. 1-3 of the supplement).

    Blocks are bands, and placed exits are flags.

    Args:
        run: A run, a network with its architecture, or a search space: ``plot_bits(network)``,
            ``plot_bits(file.space, file.architecture)``.
        architecture: An architecture of that space, e.g. ``run.point("12.3")``. Default: the run's winner, or the
            network's own architecture. A mapping from names to architectures draws one strip for each, with the same
            layers one under the other.
        heads: True: also draw the layers of placed internal classifiers. Default: only if their bits are searched. With
            several architectures heads are not drawn, because layers would no longer be aligned.
        share: Quantity for a panel above the bits: each layer's share of the MACs or bit operations (BOPs) of the
            layers shown. None: no panel.
        ax: Axes to draw on. Default: a new figure whose width depends on the number of layers.

    Raises:
        UserError: ``heads`` is True with several architectures, the mapping of architectures is empty, or a search
            space comes without an architecture.
    """
    space = run if isinstance(run, SearchSpace) else run.space
    if isinstance(architecture, Mapping):
        if heads or not architecture:
            what = "heads are not shown of several architectures" if heads else "no architecture to show"
            raise UserError(what, where="plot_bits")
        several = {name: bits_data(space, one, heads=False) for name, one in architecture.items()}
        if ax is None:
            ax = new_axes(*_size(several, strips_height(several) + (0.7 if share else 0)))[0]
        return draw_strips(ax, several, share)
    if heads is None:
        heads = space.spec.exits.head_bits == "search"
    if architecture is None:
        if isinstance(run, SearchSpace):
            raise UserError("a search space by itself has no winner", where="plot_bits", remedy="give an architecture")
        architecture = run.winner if isinstance(run, Run) else run.architecture
    data = bits_data(space, architecture, heads)
    if ax is None:
        ax = new_axes(*_size({"": data}, 4.0 if share else 3.2))[0]
    return draw_bits(ax, data, share)


def _size(data: Mapping[str, BitsData], height: float) -> tuple[float, float]:
    count = max(len(one.layers) for one in data.values())
    return min(max(5.5, 0.3 * count + 1), 12), height
