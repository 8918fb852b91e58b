"""Writes and reads weights as safetensors files. Writing is atomic, and reading executes nothing from the file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

from usdn_nas._util.errors import UserError
from usdn_nas._util.writing import atomic_path
from usdn_nas.networks.values import find_wrong_value

__all__ = ["load_weights", "save_weights"]


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes all parameters and buffers to a file. Tensors that modules share are written once."""
    with atomic_path(path) as temporary:
        try:
            save_model(network, str(temporary))
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a file that `save_weights` wrote into ``network``. The network may be on any device.

    Raises:
        UserError: The file is missing or truncated, belongs to another network (the message names the first key that
            differs), or holds values that no trained network has.
    """
    try:
        values = load_file(path)
        _check(network, values, path)
        load_model(network, str(path))
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from None
    except SafetensorError as error:
        raise UserError(f"expected a whole safetensors file: {error}", where=path) from None
    except RuntimeError as error:
        finding = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise UserError(f"weights of another network: {finding}", where=path) from None


def _check(network: nn.Module, values: Mapping[str, Tensor], path: Path) -> None:
    """Raises an error if a tensor's type differs from the network's, or if a value is impossible."""
    expected = network.state_dict()
    for name, value in values.items():
        if name in expected and value.dtype != expected[name].dtype:
            found, wanted = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, expected[name]))
            raise UserError(f"weights of another network: '{name}' is {found}, expected {wanted}", where=path)
    if wrong := find_wrong_value(network, values):
        raise UserError(f"weights that no trained network has: {wrong}", where=path)
