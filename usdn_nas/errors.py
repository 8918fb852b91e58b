"""Exceptions: what was expected, what came, where, and the remedy, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from usdn_nas.redact import without_credentials

__all__ = ["RunError", "UsdnError", "UserError", "nearest"]


class UsdnError(Exception):
    """Base of everything this package raises on purpose. Credentials of a URL are taken out of its message."""

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(message))


class UserError(UsdnError):
    """Input that cannot be used: a file, an option, a checkpoint, a data set. The CLI exits with status 2.

    Args:
        what: The finding, e.g. ``"unknown key 'epoch'"`` or ``"expected an integer >= 1, got 'x'"``.
        where: The offender: a file, and in it a dotted path (``"studies/a.toml: supernet.epochs"``).
        remedy: What to do about it, e.g. ``"did you mean 'epochs'?"``.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None) -> None:
        line = what if where is None else f"{where}: {what}"
        super().__init__(" ".join((f"{line}; {remedy}" if remedy else line).split()))


class RunError(UsdnError):
    """A run that failed though its input was good. The CLI exits with status 1."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A remedy that names the nearest valid name, or all of them where none is near."""
    names = [str(v) for v in valid]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "valid: " + ", ".join(sorted(names))
