"""Atomic writes, digests, JSON."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usdn_nas._util.errors import UserError
from usdn_nas._util.files import canonical_json, digest, file_digest, read_json, write_json, write_text
from usdn_nas._util.writing import atomic_path
from usdn_nas.space.architecture import Architecture

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reversed_keys(value: object) -> object:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_canonical_json_is_one_text_for_one_value(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(reversed_keys(value)) == text == canonical_json(json.loads(text))
    assert digest(reversed_keys(value)) == digest(value)


@given(VALUES, VALUES)
def test_digests_tell_values_apart(first: object, second: object) -> None:
    assert (digest(first) == digest(second)) == (canonical_json(first) == canonical_json(second))


def test_digest_is_sha_256() -> None:
    known = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # printf '{}' | sha256sum
    assert digest({}) == known
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'


def test_file_digest(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "{}")
    assert file_digest(tmp_path / "x") == digest({})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_refused(number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        canonical_json([number])
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"schema": "s", "x": number})
    assert list(tmp_path.iterdir()) == []


@given(
    bits=st.dictionaries(st.text(min_size=1), st.tuples(st.integers(2, 8), st.integers(2, 8)), min_size=2, max_size=5),
    thresholds=st.lists(st.floats(0, 1), max_size=3),
)
def test_digest_of_an_architecture(bits: dict[str, tuple[int, int]], thresholds: list[float]) -> None:
    exits = tuple(f"e{i}" for i in range(len(thresholds)))
    made = Architecture(bits, exits, tuple(thresholds))
    assert Architecture(dict(reversed(bits.items())), exits, tuple(thresholds)).digest == made.digest
    payload = json.loads(json.dumps(made.to_dict()))
    again = Architecture(
        {name: tuple(pair) for name, pair in payload["bits"].items()},
        tuple(payload["exits"]),
        tuple(payload["thresholds"]),
    )
    assert again == made and again.digest == made.digest
    group = next(iter(bits))
    assert Architecture(bits | {group: (9, 9)}, exits, tuple(thresholds)).digest != made.digest
    assert made.with_thresholds([2.0] * len(exits)).bits == bits
    assert (made.with_thresholds([2.0] * len(exits)).digest != made.digest) == bool(exits)


def test_every_exit_needs_a_threshold() -> None:
    with pytest.raises(ValueError, match="1 exits need as many thresholds, got 0"):
        Architecture({}, ("a",))


def test_atomic_path_replaces_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("first")
        assert not path.exists()
    inode = path.stat().st_ino
    with atomic_path(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second" and path.stat().st_ino != inode
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_path_leaves_nothing_on_failure(failure: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(failure), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise failure
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nothing_is_left_where_the_rename_fails(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="Is a directory"), atomic_path(tmp_path / "folder"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_it_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.fstat(handle).st_size))
    original = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: events.append("replace") or original(self, to))
    write_text(tmp_path / "x", "abc")
    assert events == [3, "replace"]


def test_files_have_the_usual_mode(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"schema": "usdn-nas/x/1", "text": "ü", "list": [1, None]})
    assert read_json(path, "usdn-nas/x/1") == {"schema": "usdn-nas/x/1", "text": "ü", "list": [1, None]}
    with pytest.raises(ValueError, match="schema"):
        write_json(path, {"text": "x"})
    with pytest.raises(UserError, match="expected schema 'usdn-nas/x/2', got 'usdn-nas/x/1'"):
        read_json(path, "usdn-nas/x/2")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "y.json", "usdn-nas/x/1")
    with pytest.raises(UserError, match="expected a file, got a folder"):
        read_json(tmp_path, "usdn-nas/x/1")
    path.write_text("{\n 'a': 1}")
    with pytest.raises(UserError, match="expected JSON, got something else at line 2") as caught:
        read_json(path, "usdn-nas/x/1")
    assert str(caught.value).startswith(f"{path}: ")
