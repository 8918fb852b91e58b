"""CIFAR's pickled batches, read without running what a pickle may hold.

A pickle names functions to call. Here every name it may use is mapped to a stand-in of ours that only stores its
arguments; any other name ends the reading. numpy's own unpickling is not run either.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas.data.images import ImageSet, image_set
from usdn_nas.errors import UserError

__all__ = ["read_batch", "read_names", "safe_load"]


class _Dtype:
    """Stands in for `numpy.dtype`: keeps the type's name. Every CIFAR file says ``u1``."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands in for an array: keeps what the pickle would set."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_numpy(self) -> NDArray[np.uint8]:
        _, shape, dtype, fortran, content = self.state
        if dtype.name != "u1":
            raise ValueError(f"expected an array of u1, got {dtype.name}")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes in a pickle of protocol 2 that Python 3 wrote."""
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise UserError(f"the pickle asks for {module}.{name}, which no CIFAR file needs; it was not run")
        return _ADMITTED[module, name]


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.to_numpy()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("latin1") if isinstance(value, bytes) else value


def safe_load(path: Path) -> dict[str, Any]:
    """Reads a pickled dict of numbers, texts, lists and uint8 arrays; bytes become texts.

    Raises:
        UserError: The file is damaged, holds something else, or names a function that is not admitted.
    """
    try:
        with Path(path).open("rb") as file:
            payload = _Unpickler(file, encoding="bytes").load()
        if not isinstance(payload, Mapping):
            raise UserError(f"expected a dict, got {type(payload).__name__}")
        return {_plain(key): _plain(value) for key, value in payload.items()}
    except UserError as error:
        raise UserError(str(error), where=path) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"cannot be read, truncated or damaged: {error}", where=path) from None


def read_batch(path: Path, labels: str) -> ImageSet:
    """Images (N, 3, 32, 32) uint8 and labels of one batch.

    Args:
        path: The pickle.
        labels: Its key of the labels: ``"labels"``, CIFAR-100: ``"fine_labels"``.

    Raises:
        UserError: The file is damaged or holds something else.
    """
    payload = safe_load(path)
    if missing := [key for key in ("data", labels) if key not in payload]:
        raise UserError(f"expected a CIFAR batch, it has no '{missing[0]}'", where=path)
    data = payload["data"]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise UserError(f"expected data of shape (N, 3072), got {getattr(data, 'shape', type(data))}", where=path)
    return image_set(data.reshape(-1, 3, 32, 32), payload[labels], path)


def read_names(path: Path, key: str) -> tuple[str, ...]:
    """Class names from CIFAR's ``batches.meta`` (``"label_names"``) or ``meta`` (``"fine_label_names"``)."""
    names = safe_load(path).get(key)
    if not isinstance(names, list):
        raise UserError(f"expected a list of class names under '{key}'", where=path)
    return tuple(map(str, names))
