from pathlib import Path

import pandas as pd
import pytest

from usdn_nas._util.errors import UserError
from usdn_nas.report import Run, front
from usdn_nas.report.runs import named_runs


def test_front_of_one_run_is_its_front(short_run: Run) -> None:
    pd.testing.assert_frame_equal(front(short_run), short_run.front)
    pd.testing.assert_frame_equal(front(short_run.path), short_run.front)


def test_front_of_several_runs_is_that_of_all_their_points(short_run: Run, long_run: Run) -> None:
    joint = front(short_run, long_run)
    points = [(r.name, *row) for r in (short_run, long_run) for row in r.front[["accuracy", "bops"]].to_numpy(float)]
    best = [(n, a, b) for n, a, b in points if not any((x >= a and y < b) or (x > a and y <= b) for _, x, y in points)]
    assert sorted(zip(joint["accuracy"], joint["bops"], strict=True)) == sorted((a, b) for _, a, b in best)
    assert joint["bops"].is_monotonic_increasing and set(joint["run"]) <= set(named_runs(short_run, [long_run]))


def test_names_are_distinct(short_run: Run, long_run: Run) -> None:
    assert list(named_runs(short_run, [long_run])) == [short_run.path.name, long_run.path.name], "studies share a name"
    assert len(named_runs(short_run, [short_run, long_run])) == 3
    assert list(named_runs(short_run, {"synthetic": long_run})) == ["synthetic (this run)", "synthetic"]


def test_front_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        front()
    with pytest.raises(UserError, match="not a run folder"):
        front(tmp_path)
