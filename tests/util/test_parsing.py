"""JSON and TOML that is damaged or hostile: one line, at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usdn_nas._util.errors import UserError
from usdn_nas._util.parsing import parse_json, parse_toml, read_regular

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()
JSON_VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=9,
)


def refusal(parse: Callable[[str, object], object], text: str) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        parse(text, "f")
    assert time.monotonic() - start < 20
    line = str(caught.value)
    assert line.isprintable() and len(line) < 300
    return line.removeprefix("f: ")


@given(JSON_VALUES)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert parse_json(json.dumps(value), "f") == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "expected JSON, but it ends too early, at line 1"),
        ('{"a": 1', "expected JSON, but it ends too early, at line 1"),
        ('{"a": "b', "expected JSON, but it ends too early, at line 1"),
        ('{\n "a": 1,,}', "expected JSON, got something else at line 2, column 9"),
        ('{"a": "\x1b[1m"}', "expected JSON, got something else at line 1, column 8"),
        ("{} {}", "expected JSON, got something else at line 1, column 4"),
        ("[" * 2000 + "]" * 2000, "cannot be read: it is nested too deeply"),
        ("[" * 65 + "]" * 65, "expected at most 64 levels of lists and tables in each other"),
        ('{"a":' * 100_000, "cannot be read: it is nested too deeply"),
        (f'{{"a": [1{"0" * 5000}]}}', "expected an integer of at most 64 bits, got one of 5,001 digits"),
        (f'{{"a": [{2**63}]}}', "a.0: expected an integer of at most 64 bits, got 9223372036854775808"),
        ('{"a": {"b": NaN}}', "a.b: expected a finite number, got nan"),
        ("[-Infinity]", "0: expected a finite number, got -inf"),
        ("[1e999]", "0: expected a finite number, got inf"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"a": "\\ud800"}', "a: expected Unicode text, got '\\ud800'"),
        ('{"\\ud800": 1}', "'\\ud800': expected Unicode text, got '\\ud800'"),
    ],
    ids=range(17),
)
def test_json_that_is_refused(text: str, line: str) -> None:
    assert refusal(parse_json, text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[a", "expected TOML, got something else at its end"),
        ("a = \n", "expected TOML, got something else at line 1, column 5"),
        ("a = 1\na = 2", "a key or table is there twice, at its end"),
        ("[a]\n[a]\n", "a key or table is there twice, at line 2, column 3"),
        ("a = " + "[" * 2000, "cannot be read: it is nested too deeply"),
        ("a = " + "{b=" * 2000, "cannot be read: it is nested too deeply"),
        (".".join("a" * 102) + " = 1", "expected at most 100 dots on a line, got more on line 1"),
        (".".join("a" * 70) + " = 1", "expected at most 64 levels of lists and tables in each other"),
        ("a = 1" + "0" * 5000, "expected integers of at most 64 bits, got one of thousands of digits"),
        ("a.b = 0x1" + "0" * 5000, "a.b: expected an integer of at most 64 bits, got an integer of about 6,021 digits"),
        ("a = 9223372036854775808", "a: expected an integer of at most 64 bits, got 9223372036854775808"),
        ("[s]\na = [1.0, nan]", "s.a.1: expected a finite number, got nan"),
        ("a = 2026-13-45", "expected TOML, got something else at line 1, column 9"),
        ('a = "\\ud800"', "expected TOML, got something else at line 1, column 12"),
    ],
    ids=range(14),
)  # fmt: skip
def test_toml_that_is_refused(text: str, line: str) -> None:
    assert refusal(parse_toml, text) == line


def test_long_dotted_keys_take_no_time() -> None:
    text = "\n".join(".".join([f"k{i}", *"a" * 60]) + " = 1" for i in range(1000))
    start = time.monotonic()
    parse_toml(text, "f")
    assert time.monotonic() - start < 20


def test_bytes_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for content in (b"\xef\xbb\xbfa = 'x'\r\n", b"a = 'x'\n", b"a = 'x'\r\n"):
        path.write_bytes(content)
        assert parse_toml(read_regular(path, 100), path) == {"a": "x"}
    path.write_text("a = 1", encoding="utf-16")
    with pytest.raises(UserError, match="a.toml: expected UTF-8 text, got something else at byte 0$"):
        read_regular(path, 100)
    path.write_bytes(b"x" * 101)
    with pytest.raises(UserError, match="a.toml: expected at most 9.53674e-05 MiB$"):
        read_regular(path, 100)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path, line in (
        (tmp_path / "fifo", "expected a regular file, got a device or a pipe"),
        (Path("/dev/zero"), "expected a regular file, got a device or a pipe"),
        (tmp_path, "expected a file, got a folder"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "loop", "cannot be read: Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (tmp_path / "a\0b", "no file can have this name: it holds a NUL character"),
        (tmp_path / "fifo" / "x", "cannot be read: Not a directory"),
    ):
        with pytest.raises(UserError) as caught:
            read_regular(path, 100)
        assert str(caught.value).endswith(f": {line}")
