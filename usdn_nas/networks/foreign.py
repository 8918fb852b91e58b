"""Reads pretrained weights from files of other programs. Nothing in the files is executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from usdn_nas._util.errors import UserError
from usdn_nas._util.parsing import check_path
from usdn_nas.networks.values import find_wrong_value

__all__ = ["load_foreign", "read_tensors"]

_NESTS = ("state_dict", "model", "model_state_dict")
_SHOWN = 5


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the named tensors of a ``.pth`` or safetensors file.

    The state dict may be nested under the key "state_dict", "model" or "model_state_dict". If all names start with
    ``module.``, as DataParallel writes them, the prefix is removed.

    Raises:
        UserError: The file is missing or damaged, could be read only by executing code, or does not hold a state dict.
    """
    check_path(path, "network.weights")
    if not path.is_file():
        raise UserError("no such file", where=path)
    found = _safetensors(path) if path.suffix == ".safetensors" else _unpickled(path)
    for nest in _NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError("expected a state dict (names and tensors)", where=path)
    plain = all(str(key).startswith("module.") for key in found)
    return {str(key).removeprefix("module.") if plain else str(key): value for key, value in found.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from None
    except SafetensorError as error:
        raise UserError(f"expected a whole safetensors file: {error}", where=path) from None


def _unpickled(path: Path) -> Any:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None  # torch does not check
        if damaged is not None:
            raise UserError(f"damaged: '{damaged}' does not agree with its checksum", where=path)
        return found
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(
            f"holds more than tensors, and nothing of a file is executed here: {why}",
            where=path,
            remedy="save the model's state_dict()",
        ) from None
    except Exception as error:  # torch raises many kinds of errors for damaged files
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"expected weights written by torch.save: {why}", where=path) from None


def load_foreign(model: nn.Module, path: Path) -> None:
    """Loads the weights of a file into ``model``. All names and shapes must agree.

    If ``model`` is on the meta device, the file is only checked. BatchNorm's counters (``num_batches_tracked``) may be
    missing, because torch up to 0.4.0 did not write them and no result of a network depends on them. They then keep
    their values in ``model``.

    Raises:
        UserError: The file cannot be read, does not fit ``model``, or holds values that no trained network has. The
            message lists names, shapes and kinds of numbers that differ.
    """
    given = read_tensors(path)
    wanted = model.state_dict()
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    problems = [
        _listed("missing", [key for key in wanted if key not in given and key not in optional]),
        _listed("not in the model", [key for key in given if key not in wanted]),
        _listed(
            "of another shape",
            [
                f"{key} ({_shape(given[key])}, expected {_shape(wanted[key])})"
                for key in wanted
                if key in given and given[key].shape != wanted[key].shape
            ],
        ),
        _listed(
            "of another kind of number",
            [key for key in wanted if key in given and _kind(given[key]) != _kind(wanted[key])],
        ),
    ]
    if any(problems):
        raise UserError(f"weights of another network: {'; '.join(filter(None, problems))}", where=path)
    if wrong := find_wrong_value(model, given):
        raise UserError(f"weights that no trained network has: {wrong}", where=path)
    if not any(tensor.is_meta for tensor in wanted.values()):
        model.load_state_dict(given, strict=False)


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"


def _kind(tensor: Tensor) -> str:
    """Returns the kind of numbers: "whole", "real" or "complex". The number of bits does not matter."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
