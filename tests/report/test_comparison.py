"""Runs side by side: every figure is the evaluations' own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from usdn_nas._util.errors import UserError
from usdn_nas.report import MissingPartError, Run, compare_table, load_run, plot_comparison


def _changed(run: Run, folder: Path, change: Callable[[dict], None], file: str = "evaluation.json") -> Run:
    """A copy of a run whose ``file`` is another."""
    shutil.copytree(run.path, folder)
    payload = json.loads((folder / file).read_text())
    change(payload)
    (folder / file).write_text(json.dumps(payload))
    return load_run(folder)


def test_rows_are_the_evaluations_figures(resnet18: Run, short_run: Run) -> None:
    frame = compare_table(resnet18, short_run.path)
    for run, row in zip((resnet18, short_run), frame.to_dict("records"), strict=True):
        content = run.evaluation["models"]["kd"]
        assert (row["run"], row["accuracy"], row["n"]) == (run.name, content["policy"]["accuracy"], 2000)
        assert row["gbops"] * 1e9 == pytest.approx(content["policy"]["average_bops"])
        assert (row["ece"], row["mce"]) == (content["answers"]["ece"], content["answers"]["mce"])
        rates = [float(text) for text in row["exit_rates_percent"].split()]
        assert len(rates) == len(content["exits"]) and sum(rates) == pytest.approx(100, abs=0.3)
        assert 2 < float(row["mac_weighted_bits"]) < 5  # W = A
    # without internal classifiers: the published count, downsampling convolutions included
    assert frame.loc[0, "macs"] == pytest.approx(1814.07e6, rel=1e-4)


def test_a_full_precision_model_has_32_bits(resnet18: Run, tmp_path: Path) -> None:
    def answered(payload: dict) -> None:
        payload["models"]["teacher"]["answers"] = payload["models"]["kd"]["answers"]

    frame = compare_table(_changed(resnet18, tmp_path / "a", answered), model="teacher")
    assert frame.loc[0, "mean_bits"] == frame.loc[0, "mac_weighted_bits"] == "32"


def test_what_cannot_stand_side_by_side_is_refused(resnet18: Run, tmp_path: Path, started: Callable[[], Run]) -> None:
    with pytest.raises(UserError, match="no run to compare"):
        compare_table()
    with pytest.raises(UserError, match="'kdd'.*did you mean 'kd'"):
        compare_table(resnet18, model="kdd")
    fewer = _changed(resnet18, tmp_path / "fewer", lambda payload: payload.update(n=100))
    with pytest.raises(UserError, match="n of the test split is 100"):
        compare_table(resnet18, fewer)

    def of_cifar(payload: dict) -> None:
        payload["config"]["data"]["name"] = "cifar10"

    other = _changed(resnet18, tmp_path / "other", of_cifar, "study.json")
    with pytest.raises(UserError, match="data.name is 'cifar10'"):
        compare_table(resnet18, other)
    with pytest.raises(MissingPartError, match="usdn-nas evaluate"):
        compare_table(resnet18, started())


def test_the_figure_holds_every_runs_sweep_and_policy(resnet18: Run, short_run: Run) -> None:
    ax = plot_comparison(resnet18, short_run)
    for run, line, mark in zip((resnet18, short_run), ax.get_lines(), ax.collections, strict=True):
        content = run.evaluation["models"]["kd"]
        sweep = sorted(content["sweep"], key=lambda row: row["threshold"])
        assert list(line.get_ydata()) == pytest.approx([100 * row["accuracy"] for row in sweep])
        assert list(line.get_xdata()) == pytest.approx([row["average_bops"] / 1e9 for row in sweep])
        (point,) = mark.get_offsets()
        assert list(point) == pytest.approx(
            [content["policy"]["average_bops"] / 1e9, 100 * content["policy"]["accuracy"]]
        )
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [resnet18.name, short_run.name]
