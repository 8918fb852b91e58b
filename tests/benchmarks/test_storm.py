"""A few kills, worker kills and mutations; and that each storm finds what it is there to find."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import storm
from storms import children, kills, mutations, repeat, storages, table, trust
from storms.children import Child, Ended, run, tidy
from storms.crafted import crafted
from storms.mutate import mutate_bytes, mutate_json, mutate_table, mutate_toml
from storms.postgres import why_not
from storms.users import Users

LIMIT = 120.0
DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.skipif(not hasattr(children.os, "pidfd_open"), reason="needs Linux")


@pytest.fixture(autouse=True)
def _warm() -> None:
    children.warm_up()


def ended(status: int, stderr: str) -> Ended:
    return Ended(status, "", stderr, 0.1)


def test_what_a_child_does_is_seen(tmp_path: Path) -> None:
    def fails() -> None:
        (tmp_path / "here").write_text(str(Path.cwd()))
        raise RuntimeError("no")

    found = run(fails, tmp_path, LIMIT)
    assert found.status == 1 and found.crashed and "RuntimeError: no" in found.stderr and not tidy(found)
    assert (tmp_path / "here").read_text() == str(tmp_path)
    late = Child(lambda: children.time.sleep(60), tmp_path, 0.2).wait()
    assert late.late and late.seconds < 30


def test_one_printable_line_is_tidy() -> None:
    assert tidy(ended(2, "error: a: expected b, got c\n")) and tidy(ended(1, "a warning\nfailed: d\n"))
    assert not tidy(ended(0, "")) and not tidy(ended(2, "")) and not tidy(ended(2, "error: \x1b[31mred\n"))
    assert not tidy(ended(2, "Traceback (most recent call last):\nerror: x\n")) and not tidy(ended(-11, "error: x\n"))
    assert not tidy(ended(2, f"error: {'x' * 5000}\n"))


@pytest.mark.parametrize("number", range(40))
def test_mutations_change_their_file_and_can_be_made_again(number: int) -> None:
    made = {
        mutate_bytes: b"some content of a file",
        mutate_json: json.dumps({"a": [1, 2.5, {"b": "c"}], "d": None}).encode(),
        mutate_toml: b'a = 1\n[b]\nc = [1, 2]\nd = "x"\n',
        mutate_table: b"a,b\n1,2\n3,4\n",
    }
    for mutate, content in made.items():
        (first, what), again = mutate(content, random.Random(number)), mutate(content, random.Random(number))
        assert (first, what) == again and what


def test_values_of_toml_come_back() -> None:
    from storms.mutate import to_toml

    value = {"a": [1, 2.5, True, "\x1b\x00\x7fü"], "b": {"c.d": []}, "e": -(2**63)}
    assert tomllib.loads(f"x = {to_toml(value)}")["x"] == value


def test_a_users_file_that_is_touched_is_missed(tmp_path: Path) -> None:
    (tmp_path / "run/pretrain").mkdir(parents=True)
    users = Users(tmp_path, tmp_path / "run", 0)
    assert users.count > 100 and users.gone() == []
    (tmp_path / "run/pretrain").rename(tmp_path / "run/pretrain.old")
    assert users.gone() == []
    (tmp_path / "run/.env-template").unlink()
    (tmp_path / ".gitignore").write_text("changed")
    shutil.rmtree(tmp_path / "run/pretrain.old")
    gone = set(users.gone())
    assert {"run/.env-template", ".gitignore", "run/pretrain/.env-template"} <= gone and len(gone) < users.count / 2


def said(text: str) -> None:
    print(text)


def passed(found: dict[str, Any]) -> None:
    assert found["passed"], found["findings"]


@pytest.mark.sweep
def test_a_few_kills() -> None:
    passed(kills.kills(seed=11, number=8, limit=LIMIT, say=said))


@pytest.mark.sweep
@pytest.mark.parametrize("kind", storages.STORAGES)
def test_a_few_workers_killed(kind: str) -> None:
    if kind == "postgresql" and (reason := why_not()) is not None:
        pytest.skip(reason)
    found = storages.storages(11, 3, 1 if kind == "postgresql" else 0, LIMIT, said, (kind,))[kind]
    passed(found)


@pytest.mark.sweep
def test_a_few_mutations() -> None:
    passed(mutations.mutations(11, range(40), LIMIT, 2, said))


@pytest.mark.sweep
def test_a_few_made_by_hand() -> None:
    passed(crafted(LIMIT, 2, said, only=("IDX", "link", "stages", "deep", "laughs")))


@pytest.mark.sweep
def test_two_fresh_searches() -> None:
    settings = ("supernet.pretrain.epochs=1", "supernet.qat.epochs=1", "search.configurations=8")
    passed(repeat.repeat(2, LIMIT, said, settings))


@pytest.mark.sweep
def test_no_code_runs() -> None:
    passed(trust.trust(LIMIT, said))


@pytest.fixture(scope="module")
def record() -> Iterator[dict[str, Any]]:
    yield json.loads(storm.RESULTS.read_text())["parts"]


def test_the_table_of_the_docs_is_the_recorded_one(record: dict[str, Any]) -> None:
    assert table.markdown(record) in (DOCS / "reliability.md").read_text(encoding="utf-8")


def test_the_record_is_whole(record: dict[str, Any]) -> None:
    """Every part is there, with its seed, machine and commit, and of the size that is promised."""
    assert set(record) == set(storm.PARTS)
    for part in record.values():
        assert part["provenance"]["commit"] and part["provenance"]["processor"] and isinstance(part["seed"], int)
    assert record["kills"]["n"] >= 200 and record["mutations"]["n"] >= 1500 and record["postgresql"]["stops"] >= 5
