"""Figs. 1-3 of the supplement: bit-widths layer by layer, and where samples may leave."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from usdn_nas.architecture import Architecture
from usdn_nas.errors import UserError
from usdn_nas.report.figures._style import new_axes, styled
from usdn_nas.report.figures.bars import draw_bits
from usdn_nas.report.figures.layers import BitsData, bits_data
from usdn_nas.report.figures.share import Share
from usdn_nas.report.figures.strips import draw_strips, strips_height
from usdn_nas.report.run import Run

__all__ = ["plot_bits"]


@styled
def plot_bits(
    run: Run,
    architecture: Architecture | Mapping[str, Architecture] | None = None,
    *,
    heads: bool | None = None,
    share: Share | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Figs. 1-3: (W, A) of every layer in the order of the chain, blocks as bands, placed exits as flags.

    Args:
        run: Its search space tells layers and blocks.
        architecture: A point of that space, e.g. ``run.point("12.3")``; default: the winner. Several, by the names
            they shall have: one strip each, layer under layer.
        heads: Also the layers of placed internal classifiers; default: where their bits are searched. Of several
            architectures they are not shown: layers would no longer stand under each other.
        share: Above the bits, each layer's part of the MACs or BOPs of the layers shown.
        ax: Where to draw; default: a new figure whose width follows the number of layers.

    Raises:
        UserError: ``heads`` of several architectures, or none of them.
    """
    if isinstance(architecture, Mapping):
        if heads or not architecture:
            what = "heads are not shown of several architectures" if heads else "no architecture to show"
            raise UserError(what, where="plot_bits")
        several = {name: bits_data(run.space, one, heads=False) for name, one in architecture.items()}
        if ax is None:
            ax = new_axes(*_size(several, strips_height(several) + (0.7 if share else 0)))[0]
        return draw_strips(ax, several, share)
    if heads is None:
        heads = run.space.spec.exits.head_bits == "search"
    data = bits_data(run.space, run.winner if architecture is None else architecture, heads)
    if ax is None:
        ax = new_axes(*_size({"": data}, 4.0 if share else 3.2))[0]
    return draw_bits(ax, data, share)


def _size(data: Mapping[str, BitsData], height: float) -> tuple[float, float]:
    count = max(len(one.layers) for one in data.values())
    return min(max(5.5, 0.3 * count + 1), 12), height
