"""Points, fronts, choices and tables, against the trials they come from."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.study.helpers import SPACE, config, opened, outputs_of, searched
from usdn_nas._util.errors import UserError
from usdn_nas.exits.apply import apply
from usdn_nas.exits.front import TRADE_OFFS
from usdn_nas.space.cost import exit_costs, reference_bops
from usdn_nas.study.parameters import parameter_sizes
from usdn_nas.study.points import all_points, best_point, completed, find_point, front_points, select, smoothed_front
from usdn_nas.study.smoothing import smoothed
from usdn_nas.study.tables import write_tables

REFERENCE = float(reference_bops(SPACE))


@pytest.mark.parametrize("changes", [{}, {"rule": "most-confident"}, {"exits": "all", "rule": "most-confident"}])
def test_every_point_can_be_applied_again(changes: dict[str, str], tmp_path: Path) -> None:
    study, _ = searched(config(configurations=6, **changes), tmp_path)
    points = all_points(study, SPACE)
    for point in points:
        SPACE.check(point.architecture, where=point.name)
        outputs, costs = outputs_of(point.bits), exit_costs(SPACE, point.bits)
        result = apply(outputs.placed(point.exits), costs.placed(point.exits), point.thresholds, point.rule)
        assert (result.accuracy, result.average_bops) == (point.accuracy, point.bops)
        assert point.architecture.rule == changes.get("rule", "threshold")
        assert find_point(study, SPACE, point.name) == point
    front = front_points(study, SPACE)
    assert all(a.bops < b.bops and a.accuracy < b.accuracy for a, b in itertools.pairwise(front))
    for point in points:
        assert any(f.accuracy >= point.accuracy and f.bops <= point.bops for f in front)


def test_smoothed_front_against_one_by_hand(tmp_path: Path) -> None:
    study, _ = searched(config(configurations=18), tmp_path)
    codes, values, supporters = [], [], []
    for trial in study.trials:
        front = trial.user_attrs["front"]
        best = [max((p[0] - t * p[1] / REFERENCE, -i) for i, p in enumerate(front)) for t in TRADE_OFFS]
        codes.append([trial.params[name] for name in parameter_sizes(SPACE)])
        values.append([value for value, _ in best])
        supporters.append([-i for _, i in best])
    moves = smoothed(np.array(codes), np.array(values)) - values
    expected = {}
    for number, places in enumerate(supporters):
        for place in set(places):
            move = np.mean([moves[number, t] for t, other in enumerate(places) if other == place])
            expected[f"{number}.{place}"] = study.trials[number].user_attrs["front"][place][0] + move
    found = smoothed_front(study, SPACE, REFERENCE)
    assert np.abs(moves).max() > 1e-4
    assert all(a.bops < b.bops and a.accuracy < b.accuracy for a, b in itertools.pairwise(found))
    known = [point for point in found if point.name in expected]
    assert len(known) >= 3
    for point in found:
        measured = find_point(study, SPACE, point.name)
        assert replace(point, accuracy=measured.accuracy) == measured
        number = int(point.name.split(".")[0])
        assert moves[number].min() <= point.accuracy - measured.accuracy + 1e-12
        assert point.accuracy - measured.accuracy <= moves[number].max() + 1e-12
    for point in known:
        assert point.accuracy == pytest.approx(expected[point.name], abs=1e-12)
    best = max(accuracy for name, accuracy in expected.items())
    assert found[-1].accuracy >= best - 1e-12


def test_smoothed_front_of_one_trial_is_its_own(tmp_path: Path) -> None:
    study, _ = searched(config(configurations=1), tmp_path)
    assert smoothed_front(study, SPACE, REFERENCE) == front_points(study, SPACE)
    assert smoothed_front(opened(config(), tmp_path / "none"), SPACE, REFERENCE) == []


def test_points_by_name(tmp_path: Path) -> None:
    study, _ = searched(config(configurations=3), tmp_path)
    for point in all_points(study, SPACE):
        assert find_point(study, SPACE, point.name) == point
    standing = find_point(study, SPACE, "1")
    assert [standing.accuracy, standing.bops] == study.trials[1].values
    for name, match in [
        ("3", "no complete trial 3; 3 are complete, the last is 2"),
        ("1.99", "it has 1.0 to 1."),
        ("x", "expected a trial"),
        ("1.", "expected a trial"),
        ("-1", "expected a trial"),
    ]:
        with pytest.raises(UserError, match=match):
            find_point(study, SPACE, name)


def test_selection(tmp_path: Path) -> None:
    study, _ = searched(config(configurations=8), tmp_path)
    points, front = all_points(study, SPACE), front_points(study, SPACE)
    assert select(front, best=True) == front[-1]
    chosen = select(front, tr=0.3, reference_bops=REFERENCE)
    value = chosen.accuracy - 0.3 / REFERENCE * chosen.bops
    assert value == max(p.accuracy - 0.3 / REFERENCE * p.bops for p in points)
    assert best_point(front, config(tr=0.3), REFERENCE) == chosen
    budget = front[3].bops
    assert select(front, budget_bops=budget, reference_bops=REFERENCE) == front[3]
    assert best_point(front, config(mode="budget", gbops=budget / 1e9 * (1 + 1e-12)), REFERENCE) == front[3]
    with pytest.raises(UserError, match=f"the cheapest is {front[0].name}"):
        select(front, budget_bops=1.0)
    with pytest.raises(UserError, match="no complete trial yet"):
        select([], best=True)
    with pytest.raises(ValueError, match="exactly one"):
        select(front)
    with pytest.raises(ValueError, match="needs 'reference_bops'"):
        select(front, tr=0.1)
    assert completed(study) == 8


def test_tables(tmp_path: Path) -> None:
    study, summaries = searched(config(configurations=5), tmp_path)
    study.ask()  # a trial under way
    write_tables(study, SPACE, tmp_path)
    front = pd.read_csv(tmp_path / "front.csv", dtype={"trial": str}, keep_default_na=False)
    groups = [group.name for group in SPACE.groups]
    assert list(front.columns) == ["trial", "accuracy", "bops", "relative_bops", "exits", "thresholds", *groups]
    for row, point in zip(front.to_dict("records"), front_points(study, SPACE), strict=True):
        assert (row["trial"], row["accuracy"], row["bops"]) == (point.name, point.accuracy, point.bops)
        assert tuple(json.loads(row["thresholds"])) == point.thresholds
        assert row["exits"] == "+".join(point.exits)
        assert {g: tuple(map(int, row[g].split("/"))) for g in groups} == point.bits
        assert row["relative_bops"] == pytest.approx(point.bops / REFERENCE)
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert list(trials.columns) == ["trial", "state", *groups, "accuracy", "bops", "front_size", "front"]
    assert trials["state"].tolist() == ["complete"] * 5 + ["running"]
    assert trials["accuracy"][:5].tolist() == [s.accuracy for s in summaries]
    assert trials["b0"][:4].tolist() == ["2/2", "3/3", "4/4", "5/5"]


def test_tables_of_a_scalar_search_and_of_an_empty_one(tmp_path: Path) -> None:
    study = opened(config(mode="scalar"), tmp_path)
    write_tables(study, SPACE, tmp_path)
    assert len((tmp_path / "front.csv").read_text().splitlines()) == 1
    study, _ = searched(config(mode="scalar", configurations=2), tmp_path)
    write_tables(study, SPACE, tmp_path)
    assert pd.read_csv(tmp_path / "trials.csv")["score"].tolist() == [trial.value for trial in study.trials]
