"""The description of a network's data in ``architecture.json``."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict

from usdn_nas._util.errors import UserError
from usdn_nas.space.search_space import NetworkSpec

__all__ = ["DataSummary"]


def _finite(value: float) -> float:
    """Returns ``value`` if it is finite as a float32, the type in which pixels are normalized."""
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(value)):
            raise ValueError("expected a finite number")
    return value


def _positive(value: float) -> float:
    """Returns ``value`` if it is above 0, so that pixels can be divided by it."""
    if not np.float32(_finite(value)) > 0:
        raise ValueError("expected a standard deviation above 0")
    return value


class DataSummary(BaseModel):
    """Normalization of the pixels, (pixels - mean) / std for each channel, and the names of the classes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = None
    mean: tuple[Annotated[float, AfterValidator(_finite)], ...]
    std: tuple[Annotated[float, AfterValidator(_positive)], ...]
    class_names: tuple[str, ...] | None = None

    def check(self, network: NetworkSpec, where: object) -> None:
        """Checks that each channel has a mean and a deviation, and that each class has a name if any class has one.

        Args:
            network: The network that the data belongs to.
            where: The file and the table, for error messages.

        Raises:
            UserError: The number of values is wrong.
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
