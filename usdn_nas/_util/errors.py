"""The exceptions of this package. Their messages show values on one short line, without control characters."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

from usdn_nas._util.redact import without_credentials

__all__ = ["RunError", "UsdnError", "UserError", "nearest", "printable", "reason", "shown"]

_VALUE, _PLACE, _LINE = 80, 240, 1000
"""Largest number of characters of one shown value, of the place of an error, and of a whole message."""

_NAMES = 30
"""Largest number of names that a remedy lists."""


class UsdnError(Exception):
    """Base class of all exceptions that this package raises on purpose.

    The message is always one printable line. Credentials of a URL are removed from it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_one_line(without_credentials(str(message))))


class UserError(UsdnError):
    """Raised for input that cannot be used: a file, an option, a checkpoint, a data set. The CLI exits with status 2.

    Args:
        what: What is wrong, e.g. ``"unknown key 'epoch'"`` or ``"expected an integer >= 1, got 'x'"``. Format values in
            it with `shown`.
        where: The place of the error: a file, and a dotted path in it (``"studies/a.toml: supernet.epochs"``).
        remedy: What the user can do about it, e.g. ``"did you mean 'epochs'?"``.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None) -> None:
        line = what if where is None else f"{_cut(printable(str(where)), _PLACE)}: {what}"
        super().__init__(f"{line}; {remedy}" if remedy else line)


class RunError(UsdnError):
    """Raised if a run fails although its input was good. The CLI exits with status 1."""


class _Short(reprlib.Repr):
    """A ``repr`` of limited length and depth. Integers that are too long to print are described in words."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, _VALUE, _VALUE

    def repr_int(self, x: int, level: int) -> str:
        digits = int(x.bit_length() * 0.30103) + 1
        return repr(x) if digits <= 40 else f"an integer of about {digits:,} digits"


def shown(value: object, limit: int = _VALUE) -> str:
    """Returns ``repr(value)`` for a message: one line of at most ``limit`` characters, control characters escaped.

    It never raises and takes little time, however large ``value`` is.
    """
    short = _Short()
    short.maxstring = short.maxother = limit
    try:
        text = short.repr(value)
    except Exception:  # a foreign __repr__ may raise anything
        text = f"a value of type {type(value).__name__}"
    return _cut(printable(text), limit)


def reason(error: BaseException) -> str:
    """Returns why a system call failed, in the system's own words and without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return type(error).__name__


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns a remedy that names the nearest valid name, or the valid names if none is near."""
    names = [str(v) for v in valid]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5) if len(str(name)) <= _VALUE else []
    if close:
        return f"did you mean '{close[0]}'?"
    listed = sorted(names)
    more = f" and {len(listed) - _NAMES} more" if len(listed) > _NAMES else ""
    return "valid: " + ", ".join(listed[:_NAMES]) + more


def printable(text: str) -> str:
    """Returns ``text`` with an escape sequence in place of every character that is not printable."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _cut(text: str, limit: int) -> str:
    """Returns ``text``, with its middle cut out if it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end - 3]}...{text[-end:]}"


def _one_line(text: str) -> str:
    # Very long texts are cut first, because splitting and escaping them takes time.
    return _cut(printable(" ".join(_cut(text, 8 * _LINE).split())), _LINE)
