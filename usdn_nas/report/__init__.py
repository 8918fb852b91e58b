"""Reads the files of a run, makes its tables and figures, and writes its HTML report. Needs neither torch nor Optuna.

>>> from usdn_nas.report import load_run, plot_front            # doctest: +SKIP
>>> run = load_run("runs/digits")                               # doctest: +SKIP
>>> run.front                                                   # doctest: +SKIP
>>> plot_front(run).figure.savefig("front.pdf")                 # doctest: +SKIP

Names are loaded on first use, so that ``import usdn_nas.report`` imports neither pandas nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usdn_nas.report.comparison import compare_table
    from usdn_nas.report.figures import (
        draw_figures,
        plot_bits,
        plot_budgeted,
        plot_comparison,
        plot_curves,
        plot_exits,
        plot_front,
        plot_history,
        plot_importance,
        plot_ladder,
        plot_quantizers,
        plot_reliability,
        plot_sensitivity,
        plot_thresholds,
        plot_training,
        write_figures,
    )
    from usdn_nas.report.html import write_report
    from usdn_nas.report.rendering import render
    from usdn_nas.report.run import MissingPartError, Run, load_run
    from usdn_nas.report.runs import front
    from usdn_nas.report.tables import (
        anytime_table,
        bits_table,
        budgeted_table,
        calibration_table,
        front_table,
        gap_table,
        ladder_table,
        mean_bits_table,
        overthinking_table,
        stage_table,
        summary_table,
        table1,
        table1_paper,
        table2,
        table2_paper,
        trade_off_table,
    )

__all__ = [
    "MissingPartError",
    "Run",
    "anytime_table",
    "bits_table",
    "budgeted_table",
    "calibration_table",
    "compare_table",
    "draw_figures",
    "front",
    "front_table",
    "gap_table",
    "ladder_table",
    "load_run",
    "mean_bits_table",
    "overthinking_table",
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
    "render",
    "stage_table",
    "summary_table",
    "table1",
    "table1_paper",
    "table2",
    "table2_paper",
    "trade_off_table",
    "write_figures",
    "write_report",
]

_TABLES = ("table1", "table1_paper", "table2", "table2_paper", *(name for name in __all__ if name.endswith("_table")))
_HOME = {name: "figures" for name in __all__ if name.startswith("plot_")}
_HOME |= dict.fromkeys(_TABLES, "tables") | dict.fromkeys(("MissingPartError", "Run", "load_run"), "run")
_HOME |= dict.fromkeys(("draw_figures", "write_figures"), "figures") | {"front": "runs"}
_HOME |= {"render": "rendering", "write_report": "html", "compare_table": "comparison"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
