"""Errors, seeds, progress, provenance, inspection."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

import usdn_nas
from tests.helpers import search_space
from usdn_nas._util import progress
from usdn_nas._util.errors import RunError, UsdnError, UserError, nearest
from usdn_nas._util.progress import Reporter
from usdn_nas._util.provenance import provenance
from usdn_nas._util.seeds import derive
from usdn_nas.space.cost import uniform_bops
from usdn_nas.space.inspection import inspect_space


def test_a_finding_is_one_line() -> None:
    assert str(UserError("what")) == "what"
    assert str(UserError("what\n  is   this", where="a.toml", remedy="mend\tit")) == "a.toml: what is this; mend it"
    assert issubclass(UserError, UsdnError) and issubclass(RunError, UsdnError)


def test_nearest() -> None:
    assert nearest("epoch", ["epochs", "seed"]) == "did you mean 'epochs'?"
    assert nearest("zzz", ["b", "a"]) == "valid: a, b"


@given(st.integers(0, 2**63), st.lists(st.text("ab1") | st.integers(0, 9), max_size=3))
def test_seeds_are_functions_of_their_names(seed: int, names: list[str | int]) -> None:
    made = derive(seed, *names)
    text = "/".join(map(str, (seed, *names)))
    assert made == derive(seed, *names) == int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) < 2**32
    assert made != derive(seed, *names, "more") and made != derive(seed + 1, *names)


def test_progress_is_silent_by_default() -> None:
    with Reporter().task("work", 3) as task:
        task.advance()
    Reporter().say("nothing")


def test_progress_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=100))
    with reporter.task("work", 8, done=2) as task:
        for count in range(6):
            task.advance(f"note {count}")
    # a line every 10 s, 4 s a unit: after 3 units 3 are left, then at the end
    assert out.getvalue().splitlines() == ["work  5/8  ETA 0:12  note 2", "work  8/8  done  note 5"]


def test_progress_as_a_bar() -> None:
    out = io.StringIO()
    with Reporter(Console(file=out, force_terminal=True, width=100)).task("work", 4) as task:
        task.advance("a note", count=4)
    assert "work" in out.getvalue() and "4/4" in out.getvalue() and "a note" in out.getvalue()


@pytest.mark.parametrize("width", [60, 160])
def test_a_bar_keeps_numbers_and_eta_where_it_is_narrow(width: int) -> None:
    out, note = io.StringIO(), "best 0.983 at 0.15 of the reference (trial 61)"
    with Reporter(Console(file=out, force_terminal=True, width=width)).task("retrain (KD)", 300) as task:
        task.advance(note, count=300)
    text = Text.from_ansi(out.getvalue()).plain
    assert "300/300 0:00:00 ETA 0:00:00 best" in text and (note in text) is (width == 160)


def test_provenance_is_json() -> None:
    made = provenance(seed=3, device="cpu", threads=1)
    assert (made["seed"], made["device"], made["threads"]) == (3, "cpu", 1)
    assert {"torch", "numpy", "optuna"} <= set(made["versions"])
    assert made["processor"] and made["python"]
    json.dumps(made, allow_nan=False)


def test_inspection() -> None:
    space = search_space(blocks=2)
    made = inspect_space(space)
    assert json.loads(json.dumps(made)) == made
    assert made["macs"] == 10_000 + 180_000 + 640
    assert made["uniform_bops"] == {str(b): uniform_bops(space, b) for b in (2, 3, 4, 5, 6, 8)}
    assert made["uniform_bops_all_layers"]["4"] == made["macs"] * 16
    assert [s["name"] for s in made["segments"]] == ["stem", "b0", "b1"]
    assert sum(s["macs"] for s in made["segments"]) + made["exits"][-1]["macs"] == made["macs"]
    assert made["exits"][0] == {"name": "b0", "after": "b0", "macs": 3_640}
    assert made["size"] == {"bit_configurations": 16, "placements": 2, "points": 32}
    layers = {layer["name"]: layer for layer in made["layers"]}
    assert (layers["b0.conv1"]["group"], layers["b0.conv1"]["fixed"]) == ("b0", None)
    assert (layers["stem.conv"]["group"], layers["stem.conv"]["fixed"]) == (None, [8, 8])


def test_the_package_is_lazy() -> None:
    modules = "usdn_nas, usdn_nas.space.search_space, usdn_nas.config, usdn_nas.space.cost"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = usdn_nas.no_such_name
