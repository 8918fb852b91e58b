"""usdn-nas: joint search of mixed-precision bits and early exits in a weight-sharing quantized supernet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usdn_nas._util.errors import RunError, UsdnError, UserError
    from usdn_nas.export.document import ArchitectureFile, read_architecture
    from usdn_nas.export.evaluation import Evaluation, evaluate
    from usdn_nas.export.runtime import EarlyExitNetwork, Prediction, extract, load, load_model
    from usdn_nas.networks.instance import search_space
    from usdn_nas.quant.supernet import Supernet
    from usdn_nas.report import Run, load_run, plot_bits
    from usdn_nas.space.architecture import Architecture
    from usdn_nas.space.search_space import SearchSpace
    from usdn_nas.study.front import pareto_front, select
    from usdn_nas.study.objective import Objective, SurrogateSampler, search
    from usdn_nas.training.functions import distill, train, train_supernet
    from usdn_nas.training.losses import distillation_loss, sandwich

__version__ = "0.1.0"

_LAZY = {
    "Architecture": "space.architecture",
    "ArchitectureFile": "export.document",
    "EarlyExitNetwork": "export.runtime",
    "Evaluation": "export.evaluation",
    "Objective": "study.objective",
    "Prediction": "export.runtime",
    "Run": "report",
    "RunError": "_util.errors",
    "SearchSpace": "space.search_space",
    "Supernet": "quant.supernet",
    "SurrogateSampler": "study.objective",
    "UsdnError": "_util.errors",
    "UserError": "_util.errors",
    "distill": "training.functions",
    "distillation_loss": "training.losses",
    "evaluate": "export.evaluation",
    "extract": "export.runtime",
    "load": "export.runtime",
    "load_model": "export.runtime",
    "load_run": "report",
    "pareto_front": "study.front",
    "plot_bits": "report",
    "read_architecture": "export.document",
    "sandwich": "training.losses",
    "search": "study.objective",
    "search_space": "networks.instance",
    "select": "study.front",
    "train": "training.functions",
    "train_supernet": "training.functions",
}

__all__ = [
    "Architecture",
    "ArchitectureFile",
    "EarlyExitNetwork",
    "Evaluation",
    "Objective",
    "Prediction",
    "Run",
    "RunError",
    "SearchSpace",
    "Supernet",
    "SurrogateSampler",
    "UsdnError",
    "UserError",
    "__version__",
    "distill",
    "distillation_loss",
    "evaluate",
    "extract",
    "load",
    "load_model",
    "load_run",
    "pareto_front",
    "plot_bits",
    "read_architecture",
    "sandwich",
    "search",
    "search_space",
    "select",
    "train",
    "train_supernet",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'usdn_nas' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"usdn_nas.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
