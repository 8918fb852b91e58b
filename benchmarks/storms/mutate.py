"""Mutations of files: of their bytes, of the values in JSON and TOML, of the cells of tables."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import tomllib
from collections.abc import Callable
from typing import Any

__all__ = ["Mutation", "mutate_bytes", "mutate_json", "mutate_table", "mutate_toml", "to_toml"]

Mutation = tuple[bytes, str]
"""The mutated content, and what was done."""


class _Raw:
    """Text that is written into the file unchanged."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name

    def __repr__(self) -> str:
        return self.name


_DEEP = _Raw("[" * 2000 + "]" * 2000, "2,000 brackets")
_DEEPER = _Raw("[" * 100_000 + "]" * 100_000, "100,000 brackets")
_TABLES = _Raw('{"a":' * 2000 + "1" + "}" * 2000, "2,000 tables")
_DIGITS = _Raw("9" * 5000, "an integer of 5,000 digits")
_VALUES: tuple[Any, ...] = (
    None, True, False, "", "nonsense", "x" * 10_000, "\x1b[31mred\x1b[0m", "a\nb", "\x00", "ünï", "../..",
    "/dev/zero", "-1", "1e9", -1, 0, 1, 2, 65, 2**31 - 1, 2**31, 2**63, 2**64,
    -(2**63), 10**9, 10**18, 100_000, 1e9, 1e300, 1e308, -1e308,
    5e-324, 0.5, -0.5, math.nan, math.inf, -math.inf, [], {}, [[]], [0], [1, 2, 3], {"a": 1}, [math.nan],
    [1e308, 1e308], [[2, 2]], [1] * 10_000, _DEEP, _DEEPER, _TABLES, _DIGITS,
)  # fmt: skip


def _cut(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


# --- bytes -----------------------------------------------------------------------------------------------------------


def mutate_bytes(content: bytes, chance: random.Random) -> Mutation:
    """Flips, cuts, repeats or replaces some of the bytes."""
    if not content:
        return b"x", "one byte"
    size = len(content)
    place, end = sorted((chance.randrange(size), chance.randrange(size) + 1))
    short = min(end, place + chance.randrange(1, 65))
    match chance.randrange(10):
        case 0 | 1 | 2:
            found = bytearray(content)
            places = [chance.randrange(size) for _ in range(chance.choice((1, 1, 1, 3, 20)))]
            for one in places:
                found[one] ^= 1 << chance.randrange(8)
            return bytes(found), f"bits flipped at {places[:3]}"
        case 3:
            return content[:place], f"truncated to {place} of {size} bytes"
        case 4:
            return content[:place] + content[short:], f"bytes {place} to {short} removed"
        case 5:
            return content[:end] + content[place:], f"bytes {place} to {end} repeated"
        case 6:
            return content[:place] + bytes(short - place) + content[short:], f"bytes {place} to {short} zero"
        case 7:
            return content[:place] + chance.randbytes(8) + content[place:], f"8 random bytes put in at {place}"
        case 8:
            found = bytearray(content)
            found[place] = chance.choice((0, 0x7F, 0x80, 0xFF))
            return bytes(found), f"byte {place} is now {found[place]:#x}"
        case _:
            return chance.choice(
                ((b"", "empty"), (content * 2, "twice"), (content + b"\n\xff\xfe tail", "a tail added"))
            )


# --- values ----------------------------------------------------------------------------------------------------------


def _paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [above] if above else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _paths(inner, (*above, key))
    return found


def _inside(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _mutate_value(value: Any, chance: random.Random) -> tuple[Any, str]:
    """Changes one value somewhere inside; ``value`` itself is changed."""
    paths = _paths(value)
    if not paths:
        return chance.choice(_VALUES), "all of it replaced"
    # First how deep, then where: else long lists of numbers would get nearly all mutations.
    depth = chance.choice(sorted({len(path) for path in paths}))
    path = chance.choice([path for path in paths if len(path) == depth])
    *above, key = path
    node, name = _inside(value, tuple(above)), ".".join(map(str, path))
    match chance.randrange(8):
        case 0:
            del node[key]
            return value, f"{name} removed"
        case 1:
            other = _inside(value, chance.choice(paths))
            node[key] = json.loads(json.dumps(other))
            return value, f"{name} = a value from elsewhere, {_cut(other)}"
        case 2 if isinstance(node, dict):
            node[f"{key}x"] = node.pop(key)
            return value, f"{name} renamed"
        case 2 | 3 if isinstance(node, list):
            node.insert(key, node[key])
            return value, f"{name} twice"
        case 3 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
            before = node[key]
            node[key] = chance.choice((-before, before * 10, before + 1, before / 3, str(before), [before]))
            return value, f"{name} = {_cut(node[key])} instead of {before}"
        case _:
            node[key] = chance.choice(_VALUES)
            return value, f"{name} = {_cut(node[key])}"


def _filled(text: str, raws: list[_Raw]) -> str:
    for number, raw in enumerate(raws):
        text = text.replace(f'"@@{number}@@"', raw.text)
    return text


def _marked(value: Any, raws: list[_Raw]) -> Any:
    """``value`` with a mark in the place of each raw text."""
    if isinstance(value, _Raw):
        raws.append(value)
        return f"@@{len(raws) - 1}@@"
    if isinstance(value, dict):
        return {key: _marked(inner, raws) for key, inner in value.items()}
    return [_marked(inner, raws) for inner in value] if isinstance(value, list) else value


def _mutate_text(
    content: bytes, chance: random.Random, read: Callable[[str], Any], write: Callable[[Any], str]
) -> Mutation:
    if chance.random() < 0.25:
        return mutate_bytes(content, chance)
    value, what = _mutate_value(read(content.decode()), chance)
    raws: list[_Raw] = []
    return _filled(write(_marked(value, raws)), raws).encode(errors="surrogatepass"), what


def mutate_json(content: bytes, chance: random.Random) -> Mutation:
    """Changes a value of a JSON file, or some bytes."""
    return _mutate_text(content, chance, json.loads, lambda value: json.dumps(value, indent=2))


def to_toml(value: Any) -> str:
    """One value as TOML; tables are written in line. TOML has no null: an empty text stands for it."""
    match value:
        case bool():
            return str(value).lower()
        case None:
            return '""'
        case dict():
            return "{" + ", ".join(f"{json.dumps(str(key))} = {to_toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(to_toml, value)) + "]"
        case str():
            return json.dumps(value).replace("\x7f", "\\u007f")
        case float() if not math.isfinite(value):
            return str(value)
        case _:
            return repr(value)


def mutate_toml(content: bytes, chance: random.Random) -> Mutation:
    """Changes a value of a TOML file, or some bytes."""

    def write(value: Any) -> str:
        if not isinstance(value, dict):
            return to_toml(value)
        return "".join(f"{json.dumps(str(key))} = {to_toml(inner)}\n" for key, inner in value.items())

    return _mutate_text(content, chance, tomllib.loads, write)


# --- tables ----------------------------------------------------------------------------------------------------------

_CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e308",
    "0",
    "x",
    "[",
    "[[",
    "9" * 5000,
    "[" * 3000,
    '"',
    "2/2",
    "99/99",
    "\x1b[31m",
    "null",
)


def mutate_table(content: bytes, chance: random.Random) -> Mutation:
    """Changes a cell, a row or a column of a CSV file, or some bytes."""
    if chance.random() < 0.35:
        return mutate_bytes(content, chance)
    rows = list(csv.reader(io.StringIO(content.decode())))
    row, column = chance.randrange(len(rows)), chance.randrange(len(rows[0]))
    match chance.randrange(5):
        case 0:
            del rows[row]
            what = f"row {row} removed"
        case 1:
            rows.insert(row, list(rows[row]))
            what = f"row {row} twice"
        case 2:
            for one in rows:
                del one[column]
            what = f"column {column} removed"
        case _:
            rows[row][column] = chance.choice(_CELLS)
            what = f"row {row}, column {column} = {_cut(rows[row][column])}"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(), what
