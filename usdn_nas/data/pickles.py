"""Reads pickles of plain values and uint8 arrays without Python's unpickler.

A pickle is a program: it names functions to call, and a few bytes of it can allocate or copy without limit. This module
interprets only the few operations that CIFAR's files use. It calls no function that a pickle names. Each operation adds
at most its own bytes, and values that the pickle uses several times are shared, not copied.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError, shown
from usdn_nas.data.reading import read_regular

__all__ = ["PickledArray", "as_text", "read_pickled_dict"]

_LARGEST = 2**30
"""Largest size of a file in bytes. The largest published file, CIFAR-100's training file, has 155 million."""

_MOST_OPERATIONS = 1_000_000
"""Largest number of operations of a pickle. CIFAR-100's training file has 450,000."""

_ADMITTED = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "type",
    "numpy dtype": "dtype",
    "_codecs encode": "bytes",
}
"""Names that a CIFAR file may use, with the names by which this interpreter calls them."""

_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(str):
    """A function or type that the pickle asks for, as a value of `_ADMITTED`."""


class _Dtype(str):
    """The name of an array's type. It is ``u1`` in every CIFAR file."""


class PickledArray:
    """An array in the form of the pickle: (1, shape, dtype, True if in Fortran order, content)."""

    def __init__(self) -> None:
        self.state: Any = None

    def to_numpy(self) -> NDArray[np.uint8]:
        """Returns the array.

        Raises:
            ValueError: The array is not of type uint8, or its content does not fill its shape.
        """
        if not isinstance(self.state, tuple) or len(self.state) != 5 or self.state[0] != 1:
            raise ValueError("expected an array with a shape and content")
        _, shape, dtype, fortran, content = self.state
        if dtype != "u1":
            raise ValueError(f"expected an array of u1, got {shown(dtype) if isinstance(dtype, str) else 'no type'}")
        if not isinstance(shape, tuple) or len(shape) > 2 or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("expected an array of at most 2 dimensions")
        raw = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(raw, bytes) or len(raw) != math.prod(shape):
            raise ValueError("expected an array whose content fills its shape")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran is True else "C")


def as_text(value: Any) -> Any:
    """Returns bytes as a text; anything else is returned unchanged."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def read_pickled_dict(path: Path) -> dict[Any, Any]:
    """Returns the dict in a pickle. Its keys are texts or integers; its values may be anything.

    Raises:
        UserError: The file is damaged, holds no dict, or uses a name or operation that CIFAR's files do not need.
    """
    content = read_regular(path, _LARGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools warns about escape sequences in damaged texts
            payload = _Interpreter(len(content)).run(content)
    except UserError as error:
        raise UserError(str(error), where=path) from None
    except Exception:  # a damaged pickle can raise nearly anything
        raise UserError("expected a pickle, got a truncated, damaged or foreign file", where=path) from None
    if not isinstance(payload, dict):
        raise UserError(f"expected a dict, got {type(payload).__name__}", where=path)
    return payload


class _Interpreter:
    """Runs the operations of a pickle.

    Args:
        size: Size of the pickle in bytes. Byte strings that it makes from texts may not be larger in total.
    """

    def __init__(self, size: int) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._left = size

    def run(self, content: bytes) -> Any:
        """Runs the pickle and returns its value."""
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if number == _MOST_OPERATIONS:
                raise UserError(f"expected a pickle of at most {_MOST_OPERATIONS:,} operations")
            name = operation.name
            if name in _VALUES:
                self._stack.append(argument)
            elif name == "STOP":
                return self._stack.pop()
            else:
                self._step(name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" if argument > pickle.HIGHEST_PROTOCOL:
                raise ValueError("no such protocol")
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                items = self._since_mark()
                self._stack.append(items)
            case "TUPLE":
                items = self._since_mark()
                self._stack.append(tuple(items))
            case "DICT":
                items = self._since_mark()
                self._stack.append(_paired(items))
            case "APPEND":
                item = stack.pop()
                self._last(list).append(item)
            case "APPENDS":
                items = self._since_mark()
                self._last(list).extend(items)
            case "SETITEM":
                item = stack.pop()
                key = stack.pop()
                self._last(dict).update(_paired([key, item]))
            case "SETITEMS":
                items = self._since_mark()
                self._last(dict).update(_paired(items))
            case "GLOBAL":
                stack.append(_admitted(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    raise ValueError("names are texts")
                stack.append(_admitted(f"{module} {attribute}"))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(self._stand_in(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], PickledArray):
                    stack[-1].state = state
                elif not isinstance(stack[-1], _Dtype):
                    raise ValueError("nothing else has a state")
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case _ if name in _TUPLES:
                count = _TUPLES[name]
                if len(stack) < count:
                    raise IndexError(name)
                at = len(stack) - count
                stack[at:] = [tuple(stack[at:])]
            case _:
                raise UserError(f"the pickle has the operation {name}, which no CIFAR file needs; it was not run")

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _last(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"expected a {kind.__name__}")
        return self._stack[-1]

    def _stand_in(self, function: Any, arguments: Any) -> Any:
        """Returns the value that replaces the result of a call in the pickle."""
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("no call")
        if function == "array":
            return PickledArray()
        first = arguments[0]
        if function == "dtype" and isinstance(first, str | bytes):
            return _Dtype(as_text(first))
        if function == "bytes" and isinstance(first, str):  # Python 3 writes bytes in this way in protocol 2
            self._left -= len(first)
            if self._left < 0:
                raise UserError("the pickle makes more bytes than it has")
            return first.encode("latin1")
        raise ValueError("no such call")


def _admitted(name: str) -> _Name:
    if name not in _ADMITTED:
        dotted = shown(name.replace(" ", ".", 1))
        raise UserError(f"the pickle asks for {dotted}, which no CIFAR file needs; it was not run")
    return _Name(_ADMITTED[name])


def _paired(items: list[Any]) -> dict[Any, Any]:
    """Returns the dict of a list of alternating keys and values.

    A key must be a text or an integer, because hashing other values may take for ever.
    """
    if len(items) % 2:
        raise ValueError("a key without a value")
    keys = [as_text(key) for key in items[::2]]
    if not all(type(key) in (str, int) for key in keys):
        raise UserError("expected a dict whose keys are texts")
    return dict(zip(keys, items[1::2], strict=True))
