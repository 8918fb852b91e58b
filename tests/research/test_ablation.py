"""The ablation's arithmetic: what is chosen, and how systems are compared, on a record made by hand."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "research"))

from ablation import Candidate, best_of
from ablation_summary import MAIN, MARGIN, beside, best_other, point_of
from ablation_systems import (
    BACKBONES,
    BITS,
    EXITS,
    FULL,
    MSDNET,
    OURS,
    SDN,
    SEQUENTIAL,
    SYSTEMS,
    dearest,
    restricted,
    study_file,
)

from usdn_nas.config import load_study
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.networks.build import resolve_space
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import ExitCosts
from usdn_nas.space.records import FINAL_EXIT
from usdn_nas.space.search_space import load_space
from usdn_nas.study.points import FrontPoint

SPACES = Path(__file__).parents[2] / "research" / "search_spaces"


def point(name: str, accuracy: float, bops: float, exits: tuple[str, ...] = ()) -> FrontPoint:
    return FrontPoint(name, {"a": (2, 2)}, exits, (0.5,) * len(exits), accuracy, bops, 100)


def test_the_most_accurate_within_a_budget_else_the_cheapest() -> None:
    points = [point("0", 0.7, 1), point("1", 0.8, 2, ("x",)), point("2", 0.8, 3, ("y",)), point("3", 0.9, 4, ("z",))]
    assert [one.name for one in dearest(points, [4, 3, 0.5])] == ["3", "1", "0"]
    assert [one.name for one in dearest(points, [3, 2.5])] == ["1"]  # the second is the first again


def _packed(wrong: int, n: int) -> str:
    """The first ``wrong`` of ``n`` answers are wrong."""
    return base64.b64encode(np.packbits(np.arange(n) >= wrong).tobytes()).decode()


def _seed(systems: dict[str, dict[float, tuple[float, float, int]]], target: float, n: int = 20) -> dict[str, Any]:
    """System -> offset -> (search accuracy, average BOPs, wrong answers on the test split)."""
    entry: dict[str, Any] = {"target": {"search_accuracy": target}, "test": {"n": n, "systems": {}}}
    for name, points in systems.items():
        entry[name] = {
            "points": [
                {
                    "offset": offset,
                    "reached": accuracy >= target + offset,
                    "search": {"accuracy": accuracy, "average_bops": bops},
                }
                for offset, (accuracy, bops, _) in points.items()
            ]
        }
        entry["test"]["systems"][name] = [
            {"offset": offset, "average_bops": bops, "right": _packed(wrong, n)}
            for offset, (_, bops, wrong) in points.items()
        ]
    return entry


def test_comparison_by_hand() -> None:
    ours = {-0.1: (0.8, 30.0, 5), MAIN: (0.9, 50.0, 3), MAIN + MARGIN: (0.9015, 60.0, 2)}
    other = {MAIN: (0.9, 100.0, 4), MAIN + MARGIN: (0.9015, 120.0, 4)}
    weak = {MAIN: (0.79, 40.0, 6), MAIN + MARGIN: (0.79, 40.0, 6)}  # never gets there: compared at what it reaches
    seeds = [_seed({OURS: ours, EXITS: other, SDN: weak}, 0.9 - MAIN)] * 2
    found = beside(seeds, EXITS)
    assert found["savings"] == pytest.approx([0.4, 0.4])
    # of 20 images ours is right on two that the other gets wrong
    assert found["differences"] == pytest.approx([0.1, 0.1])
    error = 1.96 * np.std([1, 1] + [0] * 18, ddof=1) / np.sqrt(20)
    assert found["interval"] == pytest.approx([0.1 - error, 0.1 + error])
    assert beside(seeds, EXITS, margin=0.0)["savings"] == pytest.approx([0.5, 0.5])
    against_weak = beside(seeds, SDN)
    assert against_weak["savings"] == pytest.approx([0.25, 0.25])  # 30 against 40
    assert against_weak["difference"] == pytest.approx(1 / 20)
    assert beside(seeds, EXITS, MAIN + MARGIN, 0.0)["savings"] == pytest.approx([0.5, 0.5])


def test_the_best_other_reaches_the_accuracy_in_every_seed_and_is_not_sequential() -> None:
    costs = {FULL: 100.0, EXITS: 50.0, BITS: 60.0, SEQUENTIAL: 10.0, OURS: 5.0, MSDNET: 70.0, SDN: 20.0}
    one = _seed({name: {MAIN: (0.9, bops, 0)} for name, bops in costs.items()}, 0.9)
    short = _seed({name: {MAIN: (0.5 if name == SDN else 0.9, bops, 0)} for name, bops in costs.items()}, 0.9)
    assert best_other([one, one]) == SDN
    assert best_other([one, short]) == EXITS


def test_offsets_between_those_on_record() -> None:
    points = [{"offset": -0.01}, {"offset": 0.0}, {"offset": 0.005}]
    assert [point_of(points, wanted)["offset"] for wanted in (-0.02, -0.004, 0.0, 0.001, 0.02)] == [
        *(-0.01, 0.0, 0.0, 0.005, 0.005)
    ]


def test_restricted_spaces_are_of_the_same_network_as_the_shipped_ones() -> None:
    whole = resolve_space(load_space(SPACES / "resnet_fashion_small.toml"))[0]
    shipped = {
        "uniform": restricted(whole, granularity="network"),
        "bits": restricted(whole, candidates=()),
    }
    for name, space in shipped.items():
        same = resolve_space(load_space(SPACES / f"resnet_fashion_small_{name}.toml"))[0]
        assert [(g.layers, g.choices) for g in space.groups] == [(g.layers, g.choices) for g in same.groups]
        assert space.candidates == same.candidates
        assert {layer.name: layer.macs for layer in space.chain.layers()}.items() <= {
            layer.name: layer.macs for layer in whole.chain.layers()
        }.items()


@pytest.mark.parametrize("network", BACKBONES)
def test_every_system_has_a_study(network: str) -> None:
    found = BACKBONES[network].studies
    assert tuple(found) == SYSTEMS
    assert all(study_file(study).is_file() for study in found.values())


def test_backbones_have_equal_macs() -> None:
    every = {study for backbone in BACKBONES.values() for study in backbone.studies.values()}
    macs = [resolve_space(load_study(study_file(study))[1])[0].chain.macs for study in every]
    assert max(macs) <= 1.2 * min(macs)


def test_layers_stay_apart_where_exits_are_restricted() -> None:
    whole = resolve_space(load_space(SPACES / "compact_fashion.toml"))[0]
    assert [group.layers for group in restricted(whole, candidates=()).groups] == [g.layers for g in whole.groups]
    assert len(whole.groups) == 15 and len(restricted(whole, granularity="network").groups) == 1


def test_the_cheapest_that_reaches_an_accuracy_else_the_most_accurate() -> None:
    figures = [{"accuracy": a, "average_bops": b} for a, b in ((0.8, 1.0), (0.9, 3.0), (0.9, 2.0), (0.95, 4.0))]
    assert [best_of(wanted, figures) for wanted in (0.7, 0.9, 0.93, 0.99)] == [0, 2, 3, 3]


@pytest.mark.parametrize("all_exits", [True, False])
def test_an_exit_that_does_not_pay_is_left_out_after_retraining(all_exits: bool) -> None:
    # of 100 images: "a" is sure of 60 and right; "b" knows no more than "a", and its head costs as much as the chain
    sure = np.arange(100) < 60
    confidence = np.array([np.where(sure, 0.9, 0.4), np.where(sure, 0.9, 0.4), np.full(100, 0.9)])
    correct = np.array([sure, sure, np.arange(100) < 95])
    costs = ExitCosts(("a", "b", FINAL_EXIT), np.array([10, 20, 30]), np.array([1, 100, 1]))
    candidate = Candidate(None, Architecture({}, ("a", "b"), (1.0, 1.0)), Path("unused"), None, all_exits)  # type: ignore[arg-type]
    candidate.__dict__ |= {"search": ExitOutputs(confidence.astype(np.float32), correct, costs.names), "costs": costs}
    reached, beyond = candidate.policies([0.95, 1.0])
    assert reached.exits == (("a",) if all_exits else ("a", "b"))
    figures = candidate.measured(candidate.search, reached)
    assert figures["accuracy"] == 0.95
    # 60 leave at "a" for 11; the others pay 10 more a segment, the final head and, where it is placed, that of "b"
    assert figures["average_bops"] == pytest.approx(0.6 * 11 + 0.4 * (32 if all_exits else 132))
    assert candidate.measured(candidate.search, beyond)["accuracy"] == 0.95  # 1 cannot be reached
