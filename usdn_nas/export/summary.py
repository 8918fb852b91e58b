"""What ``architecture.json`` says about the data of its network."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict

from usdn_nas._util.errors import UserError
from usdn_nas.space.search_space import NetworkSpec

__all__ = ["DataSummary"]


def _finite(value: float) -> float:
    """``value``, if it is finite as a float32 too: that is the type in which pixels are normalized."""
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(value)):
            raise ValueError("expected a finite number")
    return value


def _positive(value: float) -> float:
    """``value``, if pixels can be divided by it."""
    if not np.float32(_finite(value)) > 0:
        raise ValueError("expected a standard deviation above 0")
    return value


class DataSummary(BaseModel):
    """How pixels are normalized, (pixels - mean) / std for each channel, and what the classes are called."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = None
    mean: tuple[Annotated[float, AfterValidator(_finite)], ...]
    std: tuple[Annotated[float, AfterValidator(_positive)], ...]
    class_names: tuple[str, ...] | None = None

    def check(self, network: NetworkSpec, where: object) -> None:
        """Checks that there is a mean and a deviation for each channel, and a name for each class, if there are names.

        Args:
            where: The file and the table, for messages.

        Raises:
            UserError: Their number is another one.
        """
        channels, classes = network.input_shape[0], network.num_classes
        lengths = {
            "mean": (self.mean, channels),
            "std": (self.std, channels),
            "class_names": (self.class_names, classes),
        }
        for key, (values, expected) in lengths.items():
            if values is not None and len(values) != expected:
                raise UserError(f"expected {expected} values, got {len(values)}", where=f"{where}.{key}")
