import json
from typing import Any

import numpy as np
import pytest

from usdn_nas._util.errors import UserError
from usdn_nas.report import (
    Run,
    anytime_table,
    bits_table,
    budgeted_table,
    calibration_table,
    front_table,
    gap_table,
    ladder_table,
    mean_bits_table,
    overthinking_table,
    stage_table,
    table1,
    table1_paper,
    table2,
    table2_paper,
    trade_off_table,
)
from usdn_nas.report.tables import _common_prefix
from usdn_nas.space.cost import full_bops

PUBLISHED_TABLE1 = {
    "tr03": ([5.05, 28.77, 66.18], [0.459, 4.041, 12.059], 16.559),
    "tr02": ([6.19, 24.58, 69.23], [0.634, 3.736, 14.215], 18.585),
    "tr01": ([6.47, 30.61, 62.93], [0.662, 5.360, 16.182], 22.204),
}


def _evaluation(rates: list[float], shares: list[float]) -> dict[str, Any]:
    exits = [
        {
            "exit": f"exit{i}",
            "threshold": 0.7 if i < 2 else None,
            "exit_rate": rate / 100,
            "cost_share_bops": share * 1e9,
            "cumulative_bops": share * 1e9 / (rate / 100),
            "accuracy_leaving": None,
        }
        for i, (rate, share) in enumerate(zip(rates, shares, strict=True))
    ]
    content = {"exits": exits, "policy": {"accuracy": 0.7}}
    return {"models": {"kd": content | {"shared": content | {"threshold": 0.7}}}}


@pytest.mark.parametrize(("rates", "shares", "average"), PUBLISHED_TABLE1.values(), ids=PUBLISHED_TABLE1)
def test_table1_as_published(rates: list[float], shares: list[float], average: float) -> None:
    frame = table1(_evaluation(rates, shares))
    assert list(frame["exit"]) == ["exit0", "exit1", "exit2", "average"]
    assert frame["exit_rate_percent"].iloc[:3].tolist() == pytest.approx(rates)
    assert frame["exit_rate_percent"].iloc[3] == pytest.approx(100, abs=0.011)
    assert frame["cost_share_gbops"].iloc[3] == pytest.approx(average)
    assert np.isnan(frame["cumulative_gbops"].iloc[3]) and np.isnan(frame["threshold"].iloc[2])


def test_table1_cumulative_cost_of_the_papers_first_exit() -> None:
    frame = table1(_evaluation(*PUBLISHED_TABLE1["tr03"][:2]))
    assert frame["cumulative_gbops"].iloc[0] == pytest.approx(9.09, abs=0.01)


def test_table1_adds_up_to_the_policy(resnet18: Run) -> None:
    for model in ("kd", "ce", "teacher"):
        average = table1(resnet18.evaluation, model).iloc[-1]
        policy = resnet18.evaluation["models"][model]["policy"]
        assert average["cost_share_gbops"] == pytest.approx(policy["average_bops"] / 1e9)
        assert average["accuracy_leaving"] == policy["accuracy"]


def test_table1_of_an_unknown_model(resnet18: Run) -> None:
    with pytest.raises(UserError, match="'kdd'.*did you mean 'kd'"):
        table1(resnet18.evaluation, "kdd")


def test_table2_has_the_papers_relative_change() -> None:
    published = [("error", 0.298, 0.292, -1.83), ("mce", 0.113, 0.065, -42.72)]
    rows = [
        {"exit": "final", "metric": metric, "ce": ce, "kd": kd, "change_percent": 100 * (kd - ce) / ce}
        for metric, ce, kd, _ in published
    ]
    frame = table2({"table2": rows})
    assert list(frame.columns) == ["exit", "metric", "nonkd", "kd", "variance_percent"]
    # the paper's own change is of numbers before rounding
    assert frame["variance_percent"].tolist() == pytest.approx([change for *_, change in published], abs=0.3)
    paper = table2_paper({"table2": rows})
    assert list(paper.columns) == ["loss", "exit0_error", "exit0_mce"]
    assert list(paper["loss"]) == ["NonKD", "KD", "Variance (%)"]
    assert list(paper["exit0_mce"]) == [0.113, 0.065, frame["variance_percent"][1]]


def test_table1_in_the_papers_form(resnet18: Run, short_run: Run) -> None:
    frame = table1_paper({"a": resnet18.evaluation, "b": short_run.evaluation})
    assert list(frame["model"]) == ["a (th=0.7)", "b (th=0.7)"]
    for run, row in zip((resnet18, short_run), frame.to_dict("records"), strict=True):
        long = table1(run.evaluation, shared=True)
        count = len(long) - 1
        assert [row[f"exit{i}_rate_percent"] for i in range(count)] == long["exit_rate_percent"].tolist()[:-1]
        assert [row[f"exit{i}_cost_gbops"] for i in range(count)] == long["cost_share_gbops"].tolist()[:-1]
        assert sum(row[f"exit{i}_rate_percent"] for i in range(count)) == pytest.approx(100)
        policy = run.evaluation["models"]["kd"]["shared"]["policy"]
        assert long["cost_share_gbops"].iloc[-1] * 1e9 == pytest.approx(policy["average_bops"])
        assert long["accuracy_leaving"].iloc[-1] == policy["accuracy"]


def test_table_at_one_threshold_needs_an_exit(resnet18: Run) -> None:
    alone = {"models": {"kd": resnet18.evaluation["models"]["kd"] | {"shared": None}}}
    with pytest.raises(UserError, match="no early exit"):
        table1(alone, shared=True)


def test_calibration_table_says_where_auroc_is_undefined(resnet18: Run) -> None:
    frame = calibration_table(resnet18.evaluation)
    exits = [row["exit"] for row in resnet18.evaluation["models"]["kd"]["exits"]]
    assert list(frame["model"].unique()) == ["kd", "ce", "ce-temperature"]
    assert list(frame["exit"]) == exits * 3
    assert frame["auroc"].isna().all()  # the synthetic runs have none
    scaled = frame[frame["model"] == "ce-temperature"]
    assert scaled["temperature"].tolist() == resnet18.evaluation["models"]["ce-temperature"]["temperatures"]
    assert frame.loc[frame["model"] == "kd", "temperature"].isna().all()


def test_trade_offs_are_chosen_on_search_and_read_on_test() -> None:
    def row(search: tuple[float, float], test: float) -> dict:
        return {
            "accuracy": test,
            "search": {"accuracy": search[0], "relative_bops": search[1], "average_bops": search[1]},
        }

    sweep = [row((0.5, 0.1), 0.6), row((0.9, 0.3), 0.7), row((0.8, 0.35), 0.99)]
    models = {"kd": {"sweep": sweep, "fitted": [row((0.7, 0.5), 0.8)]}, "ce": {"sweep": [], "fitted": []}}
    frame = trade_off_table({"models": models}).set_index("relative_budget")
    assert list(frame.columns) == ["kd_shared", "kd_fitted"]
    assert frame["kd_shared"].to_dict() == {0.1: 0.6, 0.15: 0.6, 0.2: 0.6, 0.3: 0.7, 0.4: 0.7, 0.6: 0.7, 0.8: 0.7}
    assert frame["kd_fitted"].isna().tolist() == [True] * 5 + [False] * 2 and frame["kd_fitted"][0.6] == 0.8


def test_anytime_is_each_exit_for_all_samples(resnet18: Run) -> None:
    frame, evaluation = anytime_table(resnet18.evaluation, "ce"), resnet18.evaluation
    exits = evaluation["models"]["ce"]["exits"]
    assert frame["accuracy"].tolist() == [row["accuracy"] for row in exits]
    assert frame["gbops"].tolist() == [row["cumulative_bops"] / 1e9 for row in exits]
    relative = frame["relative_bops"] * evaluation["reference_bops"] / 1e9
    assert relative.tolist() == pytest.approx(frame["gbops"].tolist())


def test_budgeted_batches_have_a_row_a_ratio(resnet18: Run) -> None:
    frame, rows = budgeted_table(resnet18.evaluation), resnet18.evaluation["models"]["kd"]["budgeted"]
    assert frame["ratio"].tolist() == [row["ratio"] for row in rows]
    rates = frame[[column for column in frame if column.endswith("_rate_percent")]]
    assert rates.shape[1] == len(resnet18.evaluation["models"]["kd"]["exits"])
    assert np.allclose(rates.sum(axis=1), 100)
    costs = anytime_table(resnet18.evaluation)["gbops"].to_numpy()
    assert np.allclose(rates.to_numpy() / 100 @ costs, frame["average_gbops"])
    assert budgeted_table({"models": {"kd": {"budgeted": []}}}).empty


def test_overthinking_of_the_models_that_have_exits(resnet18: Run) -> None:
    evaluation = {**resnet18.evaluation, "models": {**resnet18.evaluation["models"]}}
    evaluation["models"]["ce"] = {**evaluation["models"]["ce"], "overthinking": None}
    frame = overthinking_table(evaluation)
    assert frame["model"].tolist() == ["kd", "ce-temperature"]
    assert frame["oracle_gbops"].tolist() == [evaluation["models"]["kd"]["exits"][0]["cumulative_bops"] / 1e9] * 2
    assert frame["confusion_auroc"].isna().all() and frame["wasteful"].tolist() == [0.6, 0.6]


def test_mean_bits(resnet18: Run) -> None:
    frame = mean_bits_table(resnet18.evaluation)
    rows = bits_table(resnet18.space, resnet18.winner)
    weighted = [np.average(rows[f"{kind}_bits"], weights=rows["macs"]) for kind in ("weight", "activation")]
    assert weighted[0] == weighted[1] and frame.loc[1, "mac_weighted_bits"] == f"{weighted[0]:.2f}"
    widths = {"weight": 2, "activation": 3.5}
    apart = {"bits": {"all": {f"{k}_{of}_bits": w for k in ("mean", "mac_weighted") for of, w in widths.items()}}}
    assert mean_bits_table(apart).loc[0].tolist() == ["all", "2.00/3.50", "2.00/3.50"]


def test_table2_needs_something_to_compare() -> None:
    with pytest.raises(UserError, match="compare_ce"):
        table2({"table2": []})


def test_gap_table(resnet18: Run) -> None:
    frame = gap_table(resnet18.evaluation)
    assert list(frame["model"]) == ["kd", "ce", "ce-temperature", "teacher"]
    assert (frame["gap_points"] / 100 + frame["search_accuracy"]).tolist() == pytest.approx(
        frame["test_accuracy"].tolist()
    )


def test_front_table_says_the_same_in_fewer_letters(resnet18: Run) -> None:
    front, space = resnet18.front, resnet18.space
    shared = front.assign(thresholds=[(0.5,) * len(exits) for exits in front["exits"]])
    frame = front_table(shared, space)
    assert list(frame.columns) == ["trial", "accuracy", "gbops", "bits", "threshold", "exits (layer…)"]
    assert (frame["gbops"] * 1e9).tolist() == pytest.approx(front["bops"].tolist())
    for short, whole in zip(frame["exits (layer…)"], front["exits"], strict=True):
        assert tuple(f"layer{name}" for name in (short or "").split()) == whole
    for i, cell in enumerate(frame["bits"]):
        assert [f"{n}/{n}" for n in cell.split()] == [front[group.name][i] for group in space.groups]
    apart = front_table(front, space)
    for cell, thresholds in zip(apart["thresholds"], front["thresholds"], strict=True):
        assert [float(value) for value in cell.split()] == pytest.approx(thresholds, abs=5e-4)


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (("layer1.0", "layer1.1", "layer3.0"), "layer"),
        (("block1", "block10", "block12"), "block"),
        (("layer2.0", "layer2.1"), "layer"),
        (("stem", "stem1"), ""),
        (("a", "b"), ""),
        (("layer1.0",), ""),
        ((), ""),
    ],
)
def test_common_prefix_leaves_numbers_whole(names: tuple[str, ...], prefix: str) -> None:
    assert _common_prefix(names) == prefix


def test_bits_table_adds_up(resnet18: Run) -> None:
    winner = resnet18.winner
    frame = bits_table(resnet18.space, winner)
    assert frame["bops_share"].sum() == pytest.approx(1)
    heads = [f"exit:{name}" for name in winner.exits]
    backbone = frame[~frame["part"].isin(heads)]
    assert backbone["gbops"].sum() == pytest.approx(full_bops(resnet18.space, winner.bits) / 1e9)
    fixed = frame[frame["group"] == ""]
    assert set(fixed["part"]) == {"stem", "exit:final", *heads}


def test_ladder_table(resnet18: Run) -> None:
    frame = ladder_table(resnet18.ladder)
    assert list(frame["bits"]) == ["2/2", "3/3", "4/4", "5/5"]
    assert frame["gbops"].tolist()[:3] == pytest.approx([14.37, 22.85, 34.71], abs=0.01)
    assert np.isnan(frame["difference"][0])


def test_stage_table(resnet18: Run) -> None:
    assert stage_table(resnet18)["seconds"].sum() == 7 * 12.5
    assert json.loads(stage_table(resnet18).to_json())["stage"]["0"] == "pretrain"
