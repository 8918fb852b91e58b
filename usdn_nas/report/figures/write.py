"""Figures as files: PNG to look at, SVG and PDF to print, the same bytes for the same data."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from usdn_nas._util.errors import UserError
from usdn_nas._util.writing import atomic_path
from usdn_nas.report.figures._style import lay_out
from usdn_nas.report.figures.bits import plot_bits
from usdn_nas.report.figures.curves import plot_curves
from usdn_nas.report.figures.exits import plot_exits
from usdn_nas.report.figures.front import plot_front
from usdn_nas.report.figures.history import plot_history
from usdn_nas.report.figures.importance import plot_importance
from usdn_nas.report.figures.protocols import plot_budgeted
from usdn_nas.report.figures.quantizers import plot_quantizers
from usdn_nas.report.figures.reliability import plot_reliability
from usdn_nas.report.figures.sensitivity import plot_sensitivity
from usdn_nas.report.figures.thresholds import plot_thresholds
from usdn_nas.report.figures.training import plot_ladder, plot_training
from usdn_nas.report.run import MissingPartError, Run

__all__ = ["FIGURES", "SUFFIXES", "Drawn", "draw_figures", "figure_svg", "laid_out", "save_figure", "write_figures"]

_DPI = 170

SUFFIXES = (".png", ".svg", ".pdf")

FIGURES: dict[str, Callable[[Run], Axes | list[Axes]]] = {
    "front": plot_front,
    "bits": plot_bits,
    "exits": plot_exits,
    "reliability": plot_reliability,
    "thresholds": plot_thresholds,
    "curves": plot_curves,
    "budgeted": plot_budgeted,
    "history": plot_history,
    "importance": plot_importance,
    "sensitivity": plot_sensitivity,
    "ladder": plot_ladder,
    "quantizers": plot_quantizers,
    "training": plot_training,
}
"""Name of the file -> what draws it."""


Drawn = Mapping[str, Figure | MissingPartError]
"""Each figure's name with the figure, or with what is missing for it."""


def draw_figures(run: Run) -> Drawn:
    """Every figure, laid out: drawn once for files and page."""
    return {name: _draw(plot, run) for name, plot in FIGURES.items()}


def _draw(plot: Callable[[Run], Axes | list[Axes]], run: Run) -> Figure | MissingPartError:
    try:
        return laid_out(plot(run))
    except MissingPartError as missing:
        return missing


def laid_out(axes: Axes | list[Axes]) -> Figure:
    """The figure of what a plot function returned, with its layout settled."""
    figure = (axes if isinstance(axes, Axes) else axes[0]).get_figure(root=True)
    assert figure is not None
    lay_out(figure)
    # What was laid out stays: with an engine, even with the "none" that holds its place, each file draws twice.
    with rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
    return figure


def figure_svg(figure: Figure, *, text: bool = False) -> str:
    """The figure as SVG without a date. ``text``: letters stay text; else they are outlines, alike everywhere."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "usdn-nas", "svg.fonttype": "none" if text else "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Writes one figure atomically, in the form that the file's suffix says (one of `SUFFIXES`); returns the path.

    Raises:
        UserError: Another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"expected a name that ends in {', '.join(SUFFIXES)}", where=path)
    drawn = io.BytesIO()  # in memory, because Pillow does not say why a write failed
    if suffix == ".svg":
        drawn.write(figure_svg(figure).encode())
    elif suffix == ".pdf":
        with rc_context({"pdf.fonttype": 42}):  # TrueType: some publishers refuse Type 3
            figure.savefig(drawn, format="pdf", metadata={"CreationDate": None})
    else:
        figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None})
    with atomic_path(path) as temporary:
        temporary.write_bytes(drawn.getbuffer())
    return path


def write_figures(run: Run, folder: Path | str, *, drawn: Drawn | None = None) -> list[Path]:
    """Writes every figure for which ``run`` has the data as ``<name>.png``, ``.svg`` and ``.pdf``, atomically.

    Other files in ``folder`` are left alone, also a figure of an earlier time whose data is gone.

    Args:
        drawn: Of the same run, from `draw_figures`; default: they are drawn.

    Returns:
        The files written.

    Raises:
        UserError: ``run`` has no data for any of them, or a file of it is wrong.
    """
    paths = []
    for name, figure in (draw_figures(run) if drawn is None else drawn).items():
        if isinstance(figure, Figure):
            paths += [save_figure(figure, Path(folder) / f"{name}{suffix}") for suffix in SUFFIXES]
    if not paths:
        raise UserError("nothing to draw yet", where=run.path, remedy="usdn-nas run STUDY goes on from here")
    return paths
