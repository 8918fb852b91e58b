"""Writes figures to files: PNG for the screen, SVG and PDF for print. The same data gives the same bytes."""

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
"""Maps the name of each figure to the function that draws it."""


Drawn = Mapping[str, Figure | MissingPartError]
"""Maps the name of each figure to the figure, or to the error that says which part of the run is missing."""


def draw_figures(run: Run) -> Drawn:
    """Draws and lays out every figure once, for use in files and in the report."""
    return {name: _draw(plot, run) for name, plot in FIGURES.items()}


def _draw(plot: Callable[[Run], Axes | list[Axes]], run: Run) -> Figure | MissingPartError:
    try:
        return laid_out(plot(run))
    except MissingPartError as missing:
        return missing


def laid_out(axes: Axes | list[Axes]) -> Figure:
    """Runs the layout of the figure to which ``axes`` belong, fixes it, and returns the figure."""
    figure = (axes if isinstance(axes, Axes) else axes[0]).get_figure(root=True)
    assert figure is not None
    lay_out(figure)
    # The engine is removed: with one, even with the placeholder "none", writing each file would draw twice.
    with rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
    return figure


def figure_svg(figure: Figure, *, text: bool = False) -> str:
    """Returns the figure as SVG without a date.

    With ``text``, letters are stored as text. Otherwise they are outlines, which look the same everywhere.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "usdn-nas", "svg.fonttype": "none" if text else "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Writes one figure atomically and returns the path. The suffix (one of `SUFFIXES`) determines the format.

    Raises:
        UserError: The path has another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"expected a name that ends in {', '.join(SUFFIXES)}", where=path)
    drawn = io.BytesIO()  # drawn in memory first, because Pillow's error does not say why writing failed
    if suffix == ".svg":
        drawn.write(figure_svg(figure).encode())
    elif suffix == ".pdf":
        with rc_context({"pdf.fonttype": 42}):  # 42 means TrueType fonts; some publishers refuse Type 3 fonts
            figure.savefig(drawn, format="pdf", metadata={"CreationDate": None})
    else:
        figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None})
    with atomic_path(path) as temporary:
        temporary.write_bytes(drawn.getbuffer())
    return path


def write_figures(run: Run, folder: Path | str, *, drawn: Drawn | None = None) -> list[Path]:
    """Writes every figure for which ``run`` has the data as ``<name>.png``, ``.svg`` and ``.pdf``, atomically.

    Other files in ``folder`` stay unchanged, even an older figure whose data is gone.

    Args:
        run: The run.
        folder: Folder of the files.
        drawn: Figures of the same run from `draw_figures`; None: they are drawn here.

    Returns:
        Paths of the files written.

    Raises:
        UserError: ``run`` has no data for any figure, or a file of the run is damaged.
    """
    paths = []
    for name, figure in (draw_figures(run) if drawn is None else drawn).items():
        if isinstance(figure, Figure):
            paths += [save_figure(figure, Path(folder) / f"{name}{suffix}") for suffix in SUFFIXES]
    if not paths:
        raise UserError("nothing to draw yet", where=run.path, remedy="usdn-nas run STUDY goes on from here")
    return paths
