"""Costs in bit operations (BOPs), in a unit that fits. Only people read them: files and settings keep their units."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["bops_unit", "cost"]

_UNITS = ((1e12, "TBOPs"), (1e9, "GBOPs"), (1e6, "MBOPs"), (1e3, "kBOPs"))


def bops_unit(values: Iterable[float]) -> tuple[float, str]:
    """Returns the decimal unit that fits the largest value, as its BOPs and its name, such as (1e9, "GBOPs")."""
    largest = max(values, default=0.0)
    return next((unit for unit in _UNITS if largest >= unit[0]), (1.0, "BOPs"))


def cost(bops: float, digits: int = 4) -> str:
    """Returns a cost for a sentence, such as "18.4 GBOPs", with at most ``digits`` significant digits."""
    scale, unit = bops_unit([bops])
    return f"{bops / scale:.{digits}g} {unit}"
