"""usdn-nas: joint search of mixed-precision bits and early exits in a weight-sharing quantized supernet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usdn_nas.export.document import ArchitectureFile, read_architecture
    from usdn_nas.export.runtime import EarlyExitNetwork, load_model
    from usdn_nas.report import Run, load_run

__all__ = [
    "ArchitectureFile",
    "EarlyExitNetwork",
    "Run",
    "__version__",
    "load_model",
    "load_run",
    "read_architecture",
]

__version__ = "0.1.0"

_LAZY = {
    "ArchitectureFile": "usdn_nas.export.document",
    "EarlyExitNetwork": "usdn_nas.export.runtime",
    "Run": "usdn_nas.report",
    "load_model": "usdn_nas.export.runtime",
    "load_run": "usdn_nas.report",
    "read_architecture": "usdn_nas.export.document",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'usdn_nas' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
