"""Finds, reads, splits, augments and batches data sets. Nothing is downloaded.

The names below are imported on first use, so that asking where data is (`describe_data`) does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usdn_nas.data.load import load_data
    from usdn_nas.data.places import DATASETS, DataReport, describe_data
    from usdn_nas.data.splits import DataSplits, Split

__all__ = ["DATASETS", "DataReport", "DataSplits", "Split", "describe_data", "load_data"]

_HOMES = {
    "DATASETS": "places",
    "DataReport": "places",
    "DataSplits": "splits",
    "Split": "splits",
    "describe_data": "places",
    "load_data": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
