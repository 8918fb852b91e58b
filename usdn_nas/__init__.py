"""usdn-nas: joint search of mixed-precision bits and early exits in a weight-sharing quantized supernet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usdn_nas.export.runtime import EarlyExitNetwork, load_model
    from usdn_nas.report import Run, load_run

__all__ = ["EarlyExitNetwork", "Run", "__version__", "load_model", "load_run"]

__version__ = "0.1.0"

_LAZY = {
    "EarlyExitNetwork": "usdn_nas.export.runtime",
    "Run": "usdn_nas.report",
    "load_model": "usdn_nas.export.runtime",
    "load_run": "usdn_nas.report",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'usdn_nas' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
