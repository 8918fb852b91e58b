"""Messages: one printable line, short, whatever the values in it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usdn_nas._util.errors import RunError, UserError, nearest, reason, shown

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "'x'"),
        (3, "3"),
        (True, "True"),
        ([1, [2, "a"]], "[1, [2, 'a']]"),
        ("\x1b[31mred\n", "'\\x1b[31mred\\n'"),
        ("\u202egnp", "'\\u202egnp'"),
        ("\ud800", "'\\ud800'"),
        (10**5000, "an integer of about 5,001 digits"),
        (-(10**5000), "an integer of about 5,001 digits"),
        (CYCLE, "[[[[...]]]]"),
        (DEEP, "[[[[...]]]]"),
        (Unprintable(), "<Unprintable instance at"),
    ],
    ids=range(12),
)
def test_a_value_is_shown_as_one_printable_word(value: object, expected: str) -> None:
    assert shown(value).startswith(expected)


@pytest.mark.parametrize(
    "value", ["x" * 10**7, list(range(10**6)), {i: i for i in range(10**5)}, b"\0" * 10**6], ids=range(4)
)
def test_a_long_value_is_cut(value: object) -> None:
    assert len(shown(value)) <= 80 and "..." in shown(value)


@given(st.text(st.characters(exclude_categories=[])), st.text(st.characters(exclude_categories=[])))
def test_every_message_is_one_printable_line(what: str, where: str) -> None:
    for error in (UserError(what, where=where, remedy=what), RunError(what)):
        line = str(error)
        assert (line.isprintable() or not line) and len(line) <= 1000
        line.encode()


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    line = str(UserError("w" * 10**6, where="/home/" + "p" * 300 + "/study.toml: seed", remedy="shorten it"))
    assert line.startswith("/home/ppp") and line.endswith("; shorten it") and "/study.toml: seed: www" in line


def test_a_user_error_reaches_another_process_unchanged() -> None:
    error = UserError("expected \x1b", where="a.toml", remedy="write it again")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.toml: expected \\x1b; write it again"


def test_many_names_are_not_all_listed() -> None:
    names = [f"layer{i:03}" for i in range(400)]
    assert nearest("zzz", names).endswith("layer029 and 370 more")
    assert nearest("y" * 10**6, names).startswith("valid: layer000, layer001")
    assert nearest("layer00", names).startswith("did you mean 'layer")


def test_reasons_are_ours() -> None:
    assert reason(OSError(36, "File name too long", "/a/b")) == "File name too long"
    assert reason(MemoryError()) == "not enough memory"
    assert reason(RecursionError("maximum recursion depth exceeded")) == "it is nested too deeply"
    assert reason(KeyError("x")) == "KeyError"
