"""Reads JSON and TOML with limits, so that no text can exhaust the memory or the stack, or take very long.

Every error is one line in this package's own words. It names the line of the file if the parser knows it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usdn_nas._util.errors import UserError, reason, shown

__all__ = ["MAX_JSON_BYTES", "MAX_TOML_BYTES", "NotTomlError", "check_path", "parse_json", "parse_toml", "read_regular"]

MAX_JSON_BYTES, MAX_TOML_BYTES = 64 * 2**20, 2**18
"""Largest sizes of files that are read. The largest file that this package writes has a few megabytes."""

_NAME_BYTES, _PATH_BYTES = 255, 4000
"""Largest lengths of a file name and of a path. Linux and other systems have about these limits."""

_DEPTH = 64
"""Largest number of levels of nested lists and tables."""

_DOTS = 100
"""Largest number of dots on a line of TOML.

The time that tomllib takes for a dotted key grows with the square of the key's length.
"""

_LARGEST = 2**63
"""Integers must be smaller than this, because TOML and the JSON of other programs allow no more than 64 bits."""

_TWICE = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Duplicate inline")
"""Beginnings of tomllib's messages about a key or table that occurs twice."""


def check_path(path: object, where: object = None) -> None:
    """Refuses a path that no file or folder can have, or that cannot be printed.

    Raises:
        UserError: The path is too long, or holds control characters or bytes that are not UTF-8.
    """
    text = str(path)
    place = shown(text) if where is None else where
    if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"expected a name without control characters, in UTF-8, got {shown(text)}", where=where)
    longest = max((len(part.encode()) for part in text.split("/")), default=0)
    if longest > _NAME_BYTES:
        raise UserError(f"expected names of at most {_NAME_BYTES} bytes, got one of {longest:,}", where=place)
    if len(text.encode()) > _PATH_BYTES:
        raise UserError(f"expected a path of at most {_PATH_BYTES:,} bytes", where=place)


class NotTomlError(UserError):
    """Raised for a text that does not follow TOML's grammar."""


def read_regular(path: Path, limit: int) -> str:
    """Returns the UTF-8 text of a regular file of at most ``limit`` bytes, without a byte order mark.

    Raises:
        UserError: There is no such file, it is not a regular file, it is too large, or it is not UTF-8.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError("expected a regular file, got a device or a pipe", where=path)
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except IsADirectoryError:
        raise UserError("expected a file, got a folder", where=path) from None
    except ValueError:
        raise UserError("no file can have this name: it holds a NUL character", where=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}", where=path) from None
    if len(content) > limit:
        raise UserError(f"expected at most {limit / 2**20:g} MiB", where=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"expected UTF-8 text, got something else at byte {error.start}", where=path) from None


def parse_json(text: str, where: object) -> Any:
    """Returns the value of a JSON text.

    Raises:
        UserError: The text is not JSON, is nested too deeply, has a key twice, holds a number that is not finite or
            needs more than 64 bits, or holds a string that is not Unicode.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles, parse_int=_integer)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            raise UserError(f"expected JSON, but it ends too early, at line {error.lineno}", where=where) from None
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"expected JSON, got something else at {place}", where=where) from None
    except (RecursionError, MemoryError) as error:
        raise UserError(f"cannot be read: {reason(error)}", where=where) from None
    except _RefusedError as error:
        raise UserError(str(error), where=where) from None
    return _checked(value, where)


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """Returns the content of a TOML text.

    Raises:
        NotTomlError: The text is not TOML.
        UserError: The same as for `parse_json`.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _DOTS:
            raise UserError(f"expected at most {_DOTS} dots on a line, got more on line {number}", where=where)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r"\(at (line \d+, column \d+)\)$", message)
        place = found.group(1) if found else "its end"
        if message.startswith(_TWICE):
            raise UserError(f"a key or table is there twice, at {place}", where=where) from None
        raise NotTomlError(f"expected TOML, got something else at {place}", where=where) from None
    except (RecursionError, MemoryError) as error:
        raise UserError(f"cannot be read: {reason(error)}", where=where) from None
    except ValueError:  # Python refuses to convert integers of more than some thousands of digits
        raise UserError("expected integers of at most 64 bits, got one of thousands of digits", where=where) from None
    return dict(_checked(value, where))


class _RefusedError(Exception):
    """Raised by the hooks of the JSON parser. It is not a ValueError, because the parser raises those itself."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RefusedError(f"the key {shown(twice)} is there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise _RefusedError(f"expected an integer of at most 64 bits, got one of {len(digits.lstrip('-')):,} digits")
    return int(digits)


def _checked(value: Any, where: object) -> Any:
    """Checks the depth, the numbers and the strings of ``value``, one level of nesting after the other. Returns it."""
    level: list[_Found] = [(None, None, value)]
    for _ in range(_DEPTH):
        for one in level:
            _check_scalar(one, where)
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return value
    raise UserError(f"expected at most {_DEPTH} levels of lists and tables in each other", where=where)


_Found = tuple[Any, Any, Any]
"""The container of a value (None at the top), the value's key or index in it, and the value itself."""


def _inside(found: _Found) -> Iterator[_Found]:
    value = found[2]
    if isinstance(value, dict):
        yield from ((found, key, inner) for key, inner in value.items())
        yield from ((found, shown(key, 20), key) for key in value if not key.isascii())
    elif isinstance(value, list):
        yield from ((found, index, inner) for index, inner in enumerate(value))


def _check_scalar(found: _Found, where: object) -> None:
    value = found[2]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"expected a finite number, got {value}", where=_place(found, where))
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise UserError(f"expected an integer of at most 64 bits, got {shown(value)}", where=_place(found, where))
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"expected Unicode text, got {shown(value)}", where=_place(found, where))


def _place(found: _Found | None, where: object) -> str:
    keys: list[str] = []
    while found is not None and found[0] is not None:
        keys.append(str(found[1]))
        found = found[0]
    return f"{where}: {'.'.join(reversed(keys))}" if keys else str(where)
