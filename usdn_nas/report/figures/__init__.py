"""Figures of a run. Each function takes a `Run` and optionally ``ax=``, and returns its axes. None uses pyplot."""

from usdn_nas.report.figures.bits import plot_bits
from usdn_nas.report.figures.comparison import plot_comparison
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
from usdn_nas.report.figures.write import draw_figures, write_figures

__all__ = [
    "draw_figures",
    "plot_bits",
    "plot_budgeted",
    "plot_comparison",
    "plot_curves",
    "plot_exits",
    "plot_front",
    "plot_history",
    "plot_importance",
    "plot_ladder",
    "plot_quantizers",
    "plot_reliability",
    "plot_sensitivity",
    "plot_thresholds",
    "plot_training",
    "write_figures",
]
