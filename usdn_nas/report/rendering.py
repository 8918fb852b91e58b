"""Renders a DataFrame for people (as a rich table) or for programs (as CSV or JSON)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from usdn_nas._util.errors import UserError, nearest
from usdn_nas._util.units import bops_unit
from usdn_nas.report.fitting import FittedTable

__all__ = ["Column", "Format", "columns", "render"]

Format = Literal["table", "csv", "json"]
_NONE = "–"


@dataclass(frozen=True)
class Column:
    """A column as text: its heading, one cell a row, and ``numeric``, which is True if its cells are numbers."""

    label: str
    cells: tuple[str, ...]
    numeric: bool


def _gbops_decimals(values: Iterable[float]) -> int:
    """Returns how many decimals show three significant digits of the smallest value.

    The result is at least 3, as in the paper, and at most 7.
    """
    smallest = min((abs(v) for v in values if v and math.isfinite(v)), default=1.0)
    return min(max(3, 2 - math.floor(math.log10(smallest))), 7)


def _numbers(pattern: str, scale: float = 1) -> Callable[[Sequence[Any]], list[str]]:
    return lambda values: [pattern.format(scale * v) for v in values]


def _gbops(values: Sequence[Any]) -> list[str]:
    decimals = _gbops_decimals(values)
    return [f"{v:.{decimals}f}" for v in values]


_PERCENT = _numbers("{:.2f}", 100)
_FRACTION = _numbers("{:.3f}")
_SIGNED = _numbers("{:+.2f}")
_COUNT = _numbers("{:,.0f}")

_SHOWN: dict[str, tuple[str, Callable[[Sequence[Any]], list[str]] | None]] = {
    "label": ("Model", None),
    "threshold": ("Threshold", _FRACTION),
    "exit_rate_percent": ("Exit rate (%)", _numbers("{:.2f}")),
    "cost_share_gbops": ("Cost share (G)", _gbops),
    "cumulative_gbops": ("Cumulative cost (G)", _gbops),
    "accuracy_leaving": ("Accuracy leaving (%)", _PERCENT),
    "nonkd": ("NonKD", _FRACTION),
    "kd": ("KD", _FRACTION),
    "variance_percent": ("Variance (%)", _SIGNED),
    "search_accuracy": ("Search acc. (%)", _PERCENT),
    "test_accuracy": ("Test acc. (%)", _PERCENT),
    "gap_points": ("Gap (points)", _SIGNED),
    "search_gbops": ("Search avg. (GBOPs)", _gbops),
    "test_gbops": ("Test avg. (GBOPs)", _gbops),
    "average_gbops": ("Average (GBOPs)", _gbops),
    "oracle_gbops": ("Oracle (GBOPs)", _gbops),
    "search_n": ("n search", _COUNT),
    "n": ("n test", _COUNT),
    "weight_bits": ("W", _COUNT),
    "activation_bits": ("A", _COUNT),
    "macs": ("MACs (M)", _numbers("{:,.3f}", 1e-6)),
    "gbops": ("GBOPs", _gbops),
    "bops": ("BOPs", _numbers("{:,.0f}")),
    "relative_bops": ("Relative BOPs", _FRACTION),
    "bops_share": ("Share (%)", _numbers("{:.1f}", 100)),
    "accuracy": ("Accuracy (%)", _PERCENT),
    "difference": ("Difference (points)", _numbers("{:+.2f}", 100)),
    "standard_error": ("Standard error", _PERCENT),
    "seconds": ("Seconds", _numbers("{:,.1f}")),
    "ece": ("ECE", _FRACTION),
    "mce": ("MCE", _FRACTION),
    "signed_gap": ("Confidence - accuracy", _numbers("{:+.3f}")),
    "auroc": ("AUROC", _FRACTION),
    "temperature": ("Temperature", _FRACTION),
    "relative_budget": ("Budget (of reference)", _numbers("{:g}")),
    "mean_bits": ("Mean W/A", None),
    "mac_weighted_bits": ("By MACs W/A", None),
    "exit_rates_percent": ("Exit rates (%)", None),
}
_MODEL_NAMES = {"kd": "KD", "ce": "CE", "ce-temperature": "CE+T"}
_THRESHOLDS = {"shared": "shared", "fitted": "each"}
_OF_EXIT: dict[str, tuple[str, Callable[[Sequence[Any]], list[str]]]] = {
    "rate_percent": ("rate (%)", _numbers("{:.2f}")),
    "cost_gbops": ("cost (G)", _gbops),
    "error": ("Top.1 Err", _FRACTION),
    "ece": ("ECE", _FRACTION),
    "mce": ("MCE", _FRACTION),
}
"""Headings and formats of the columns ``exit<i>_...`` in the paper's tables."""


def _shown(name: str) -> tuple[str, Callable[[Sequence[Any]], list[str]] | None]:
    if name in _SHOWN:
        return _SHOWN[name]
    if name.startswith("accuracy_"):
        return f"{name.removeprefix('accuracy_')} (%)", _PERCENT
    model, _, kind = name.partition("_")
    if (exit_ := re.fullmatch(r"(exit\d+)_(\w+)", name)) and exit_[2] in _OF_EXIT:
        label, form = _OF_EXIT[exit_[2]]
        return f"{exit_[1].capitalize()} {label}", form
    if model in _MODEL_NAMES and kind in _THRESHOLDS:
        return f"{_MODEL_NAMES[model]}, {_THRESHOLDS[kind]} (%)", _PERCENT
    return name.replace("_", " ").capitalize() if name.islower() and "." not in name else name, None


_UNPRINTABLE = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\ufffd")
"""Replaces control characters, which could send commands to a terminal."""
_SHOWN_IN_CSV = {code: mark for code, mark in _UNPRINTABLE.items() if chr(code) not in "\t\n\r"}


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _plain(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(_plain(v) for v in value) or _NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_a_unit_that_fits(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """``frame`` with all its costs, which are GBOPs, in one unit that fits the largest; and that unit."""
    costs = [name for name in frame.columns if _shown(str(name))[1] is _gbops]
    scale, unit = bops_unit(1e9 * value for name in costs for value in frame[name].dropna())
    return frame.assign(**{name: pd.to_numeric(frame[name]) * (1e9 / scale) for name in costs}), unit


def _heading(label: str, unit: str) -> str:
    """A heading with this unit in place of GBOPs."""
    return label.replace("GBOPs", unit).replace("(G)", f"({unit.removesuffix('BOPs') or unit})")


def columns(frame: pd.DataFrame) -> list[Column]:
    """Returns the columns of ``frame`` as texts: headings with units, rounded numbers, a dash for missing values."""
    out = []
    frame, unit = _in_a_unit_that_fits(frame)
    for name in frame.columns:
        label, form = _shown(str(name))
        label = _heading(label, unit) if form is _gbops else label
        values = list(frame[name])
        there = [value for value in values if not _is_missing(value)]
        numeric = bool(there) and all(isinstance(v, int | float | np.number) for v in there)
        texts = iter(form(there) if form and numeric else [_plain(v) for v in there])
        cells = tuple(_NONE if _is_missing(value) else next(texts).translate(_UNPRINTABLE) for value in values)
        out.append(Column(label.translate(_UNPRINTABLE), cells, numeric))
    return out


def _as_json(value: Any) -> Any:
    """Returns ``value`` as a type that JSON can hold: NaN becomes None, and a tuple becomes a list."""
    if _is_missing(value):
        return None
    if isinstance(value, tuple | list):
        return [_as_json(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _as_csv(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns ``frame`` with tuples as texts, as in ``front.csv``: exits joined by "+", others as a JSON list."""
    out = frame.copy()
    for name in frame.columns:
        if any(isinstance(value, tuple | list) for value in frame[name]):
            out[name] = ["+".join(v) if name == "exits" else json.dumps(_as_json(v)) for v in frame[name]]
    return out


def render(frame: pd.DataFrame, format: Format = "table", *, title: str | None = None) -> Table | str:
    """Returns ``frame`` as a rich ``Table`` (``"table"``) or as text (``"csv"``, or ``"json"`` with a list of objects).

    A table shows rounded numbers under headings with units. CSV and JSON keep the names of the columns and all digits.

    Raises:
        UserError: The format is none of these.
    """
    if format == "csv":
        return str(_as_csv(frame).to_csv(index=False, lineterminator="\n")).translate(_SHOWN_IN_CSV)
    if format == "json":
        records = [{str(k): _as_json(v) for k, v in row.items()} for row in frame.to_dict("records")]
        return json.dumps(records, indent=2, allow_nan=False) + "\n"
    if format != "table":
        raise UserError(f"unknown format '{format}'", remedy=nearest(format, ("table", "csv", "json")))
    table = FittedTable(None if title is None else title.translate(_UNPRINTABLE))
    shown = columns(frame)
    for column in shown:
        table.add(column.label, numeric=column.numeric)
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(Text, cells))
    return table
