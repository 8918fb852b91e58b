"""Damage to files, by a seed: bytes, values, rows, and what lies in a file's place."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 33, 0.5, -0.5, 1.5, 1e300, -1e300, 1e-300, 2**63, -(2**63), 10**30,
    float("nan"), float("inf"), "", "x", "0", "nan", "\x1b[31mred", "a\nb", "a\0b", "\u202eabc", "é" * 300, "../../x",
    "/dev/zero", "x" * 100_000, [], [[]], {}, {"": 0}, [None], [0, 0], [1, 2, 3], ["a", "a"], {"a": {"b": [1]}},
)  # fmt: skip
"""Values that stand in for others."""

TOML_VALUES = (
    "", "0", "-1", "1", "2", "1.0", "nan", "-inf", "1e300", "1e999", "9223372036854775808", "1" + "0" * 5000,
    "0x" + "f" * 5000, "true", "[]", "[[]]", "{}", "{a = {b = 1}}", '""', '"x"', '"../x"', '"/dev/zero"',
    '"\\u001b[31m"', '"\\u0000"', '"\\u202e"', "[1, 1]", "[0, 0]", "[2, 2, 2]", "[[2, 2], [2, 2]]", "[[1, 33]]",
    "[1000000000, 1000000000, 1000000000]", "2026-01-01", '"' + "x" * 300 + '"', '"' + "x" * 100_000 + '"',
    "[" * 2000, "{a=" * 2000, "'", '"""', "1_0", "100000", "'a' # b",
)  # fmt: skip
"""Texts that stand in for the values of TOML."""


def mutate(path: Path, seed: int) -> str:
    """Damages the file; returns in words how."""
    chance = random.Random(f"{path.name}/{seed}")
    ways: list[Callable[[Path, random.Random], str]] = [_bytes, _place]
    ways += {".json": [_value] * 6, ".csv": [_rows] * 4, ".toml": [_lines] * 6}[path.suffix]
    return chance.choice(ways)(path, chance)


def _bytes(path: Path, chance: random.Random) -> str:
    content = path.read_bytes()
    at, length = chance.randrange(len(content)), chance.randrange(1, 40)
    noise = bytes(chance.randrange(256) for _ in range(length))
    ways: dict[str, bytes] = {
        "empty": b"",
        "truncated": content[:at],
        "a byte changed": content[:at] + noise[:1] + content[at + 1 :],
        "noise": content[:at] + noise + content[at + length :],
        "a part missing": content[:at] + content[at + length :],
        "a part twice": content[: at + length] + content[at:],
        "zeros": content[:at] + bytes(length) + content[at + length :],
        "a mark before it": b"\xef\xbb\xbf" + content,
        "UTF-16": content.decode().encode("utf-16"),
        "CRLF": content.replace(b"\n", b"\r\n"),
        "brackets": content[:at] + b"[" * 3000 + content[at:],
        "digits": content[:at] + b"9" * 5000 + content[at:],
        "a control character": content[:at] + b"\x1b[31m" + content[at:],
        "a long line": content + b"x" * 2**20,
    }
    way = chance.choice(sorted(ways))
    path.write_bytes(ways[way])
    return f"{way} at {at}"


def _place(path: Path, chance: random.Random) -> str:
    way = chance.choice(["missing", "a folder", "a pipe", "a dangling link", "a link to itself", "a device"])
    path.unlink()
    if way == "a folder":
        path.mkdir()
    elif way == "a pipe":
        os.mkfifo(path)
    elif way != "missing":
        path.symlink_to({"a dangling link": "nowhere", "a link to itself": path.name, "a device": "/dev/zero"}[way])
    return way


def _value(path: Path, chance: random.Random) -> str:
    document = json.loads(path.read_text())
    holder: Any = document
    where: list[object] = []
    while True:
        key: Any = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
        where.append(key)
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.15:
            break
        holder = inner
    way = chance.choice(["replaced", "replaced", "replaced", "removed", "twice", "renamed", "swapped"])
    if way == "replaced":
        holder[key] = chance.choice(HOSTILE)
    elif way == "removed":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, chance.choice(holder))
    elif way == "twice":
        holder[f"{key}2"] = holder[key]
    elif way == "renamed":
        holder[f"{key}\x1b"] = holder.pop(key)
    else:
        other = chance.choice(list(holder))
        holder[key], holder[other] = holder[other], holder[key]
    path.write_text(json.dumps(document))
    return f"{way}: {'.'.join(map(str, where))}"


def _rows(path: Path, chance: random.Random) -> str:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row, cell = chance.randrange(len(rows)), chance.randrange(len(rows[0]))
    way = chance.choice(["a cell", "a cell", "a row missing", "a row twice", "a column missing", "a row alone"])
    if way == "a cell":
        rows[row][cell] = str(chance.choice(HOSTILE))
    elif way == "a row missing":
        del rows[row]
    elif way == "a row twice":
        rows.insert(row, rows[row])
    elif way == "a column missing":
        rows = [one[:cell] + one[cell + 1 :] for one in rows]
    else:
        rows = [rows[0], rows[row]]
    path.write_text("".join(",".join(one) + "\n" for one in rows))
    return f"{way}: row {row}, cell {cell}"


def _lines(path: Path, chance: random.Random) -> str:
    lines = path.read_text().splitlines()
    numbers = [i for i, line in enumerate(lines) if "=" in line]
    number = chance.choice(numbers)
    way = chance.choice(["value", "value", "value", "inner value", "removed", "twice", "key", "moved"])
    value = chance.choice(TOML_VALUES)
    if way == "value":
        lines[number] = f"{lines[number].partition('=')[0]}= {value}"
    elif way == "inner value":
        parts = list(re.finditer(r"[\w.\"-]+(?=\s*[,}\]]|$)", lines[number]))
        part = chance.choice(parts) if parts else None
        if part is not None:
            lines[number] = lines[number][: part.start()] + value + lines[number][part.end() :]
    elif way == "removed":
        del lines[number]
    elif way == "twice":
        lines.insert(number, lines[number])
    elif way == "key":
        lines[number] = f"{chance.choice(['x', '', '.', 'a.b', 'é', chr(0x202E)])} = {value}"
    else:
        lines.insert(0, lines.pop(number))
    path.write_text("\n".join(lines) + "\n")
    return f"{way}: line {number}, {value[:40]}"
