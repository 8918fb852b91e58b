import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from usdn_nas._util.errors import UserError
from usdn_nas._util.units import bops_unit
from usdn_nas.report import (
    MissingPartError,
    Run,
    draw_figures,
    load_run,
    plot_bits,
    plot_budgeted,
    plot_curves,
    plot_exits,
    plot_front,
    plot_history,
    plot_importance,
    plot_ladder,
    plot_quantizers,
    plot_reliability,
    plot_sensitivity,
    plot_thresholds,
    plot_training,
    table1,
    write_figures,
    write_report,
)
from usdn_nas.report.figures._places import text_inches
from usdn_nas.report.figures._style import MODEL_STYLES, new_axes, styled
from usdn_nas.report.figures.bars import _flag_rows
from usdn_nas.report.figures.exits import _exits_data
from usdn_nas.report.figures.front import accuracy_floor, front_data
from usdn_nas.report.figures.history import _history_data, hypervolume
from usdn_nas.report.figures.importance import _importance_data
from usdn_nas.report.figures.layers import bits_data
from usdn_nas.report.figures.quantizers import _quantizer_data
from usdn_nas.report.figures.reliability import _reliability_data
from usdn_nas.report.figures.sensitivity import _sensitivity_data
from usdn_nas.report.figures.thresholds import _thresholds_data
from usdn_nas.report.figures.training import _ladder_data, _training_data
from usdn_nas.report.figures.write import FIGURES, figure_svg, laid_out
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import layer_table


def _every_exit(run: Run) -> Architecture:
    exits = run.space.candidates
    return Architecture(run.winner.bits, exits, tuple(0.5 for _ in exits))


def test_bits_data_follows_the_chain(resnet18: Run) -> None:
    data = bits_data(resnet18.space, _every_exit(resnet18), heads=False)
    assert len(data.layers) == 21
    assert [name for name, *_ in data.blocks][:2] == ["stem", "layer1.0"] and data.blocks[-1][0] == "final"
    assert sum(count for *_, count in data.blocks) == 21
    assert [layer.name for layer in data.layers[:3]] == ["conv1", "conv1", "conv2"]
    assert [layer.searched for layer in data.layers] == [False] + 19 * [True] + [False]
    assert (data.layers[0].weight_bits, data.layers[-1].activation_bits) == (8, 8)
    assert data.flags[0] == (3, "layer1.0\n≥ 0.50") and len(data.flags) == 7
    winner = resnet18.winner.bits["layer2.0"]
    assert {(layer.weight_bits, layer.activation_bits) for layer in data.layers[5:8]} == {winner}


def test_bits_data_with_heads(resnet18: Run) -> None:
    data = bits_data(resnet18.space, _every_exit(resnet18), heads=True)
    assert len(data.layers) == 21 + 7 * 4
    assert ("head 0", 3, 4) in data.blocks


@given(st.lists(st.integers(1, 60), unique=True, max_size=12), st.floats(0.07, 0.6))
def test_flags_meet_no_text_and_no_line(positions: list[int], inches: float) -> None:
    flags = [(position, f"block{position}\n≥ 0.50") for position in sorted(positions)]
    rows = _flag_rows(flags, inches)
    for (i, (start, text)), (j, (later, _)) in itertools.combinations(enumerate(flags), 2):
        if later < start + text_inches(text) / inches:
            assert rows[i] > rows[j], "a line that ends at its own text must end below a text it would cross"


def _overlaps(texts: Sequence[Text]) -> bool:
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    return any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("name", ["short_run", "resnet18", "long_run"])
@pytest.mark.parametrize("width", [None, 4.0])
def test_labels_of_bits_do_not_overlap(name: str, width: float | None, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    ax = None if width is None else Figure(figsize=(width, 3), layout="constrained").subplots()
    ax = plot_bits(run, _every_exit(run), ax=ax)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    for texts in (ax.get_xticklabels(), ax.get_yticklabels(), ax.child_axes[0].get_xticklabels(), ax.texts):
        assert not _overlaps(list(texts))
    legend = ax.get_legend()
    assert legend is not None and not legend.get_window_extent().overlaps(
        ax._left_title.get_window_extent()  # type: ignore[attr-defined]
    )


def test_front_data_keeps_search_and_test_apart(resnet18: Run) -> None:
    data = front_data(resnet18)
    assert data.trials.shape == (127, 2) and len(data.front) == len(resnet18.front)
    assert [mark.label for mark in data.ladder] == ["2/2", "3/3", "4/4", "5/5"]
    assert data.chosen is not None and data.chosen.label == f"chosen ({resnet18.architecture['source']['trial']})"
    models = resnet18.evaluation["models"]
    assert [mark.accuracy for mark in data.test] == [models[m]["policy"]["accuracy"] for m in ("kd", "ce")]
    assert [mark.accuracy for mark in data.search] == [models[m]["search_policy"]["accuracy"] for m in ("kd", "ce")]


def test_accuracy_floor_hides_only_trials_far_below() -> None:
    assert accuracy_floor([0.1, 0.85], [0.8, 0.9]) == pytest.approx(0.765)
    assert accuracy_floor([0.79], [0.8, 0.9]) == pytest.approx(0.782)


def test_exits_data_is_table1(resnet18: Run) -> None:
    data = _exits_data(resnet18.evaluation)
    assert data.rates["kd"] == tuple(table1(resnet18.evaluation)["exit_rate_percent"][:-1])
    assert sum(data.shares) == pytest.approx(data.average)


def test_reliability_data(resnet18: Run) -> None:
    data = _reliability_data(resnet18.evaluation)
    assert list(data) == [*resnet18.winner.exits, "final"]
    for models in data.values():
        for diagram in models.values():
            gaps = [abs(c - a) * n for c, a, n in zip(diagram.confidence, diagram.accuracy, diagram.count, strict=True)]
            assert sum(gaps) / diagram.n == pytest.approx(diagram.ece)
            assert sum(count for *_, count in diagram.edges) == diagram.n


def test_thresholds_data(resnet18: Run) -> None:
    sweep = _thresholds_data(resnet18.evaluation)["kd"]
    assert list(sweep.bops) == sorted(sweep.bops), "a higher threshold never costs less"
    policy = resnet18.evaluation["models"]["kd"]["policy"]
    assert sweep.operating == (policy["average_bops"], 100 * policy["accuracy"])


def test_curves_are_the_evaluations(resnet18: Run) -> None:
    models = resnet18.evaluation["models"]
    for ax, key in zip(plot_curves(resnet18), ("sweep", "fitted"), strict=True):
        for name, line in zip(("kd", "ce", "ce-temperature"), ax.get_lines(), strict=True):
            rows = sorted(models[name][key], key=lambda row: row["average_bops"])
            assert list(line.get_xdata()) == pytest.approx([row["average_bops"] / 1e9 for row in rows])
            assert list(line.get_ydata()) == pytest.approx([100 * row["accuracy"] for row in rows])


def test_training_and_ladder_data(resnet18: Run) -> None:
    stages = _training_data(resnet18)
    assert [stage.title for stage in stages][:2] == ["Full-precision supernet", "Supernet, QAT"]
    assert {"final@max", "final@min"} <= set(stages[1].accuracy)
    ladder = _ladder_data(resnet18.ladder)
    assert ladder.labels == ("2/2", "3/3", "4/4", "5/5") and ladder.errors[0] == 0


def test_quantizer_data(resnet18: Run) -> None:
    data = _quantizer_data(resnet18.diagnostics)
    assert list(data) == [2, 3, 4, 5, 8]
    records = [r for r in resnet18.diagnostics["quantizers"] if r["bits"] == 3 and r["tensor"] == "inputs"]
    last = sorted(r["step"][-1] / r["start"] for r in records)
    assert data[3].inputs is not None and data[3].inputs[:, -1] == pytest.approx(np.quantile(last, [0.25, 0.5, 0.75]))
    assert data[4].oscillating == pytest.approx([4.0 * epoch for epoch in range(5)])


def test_groups_without_bits_in_common_have_no_ladder(resnet18: Run) -> None:
    with pytest.raises(MissingPartError, match="no bit-widths are common"):
        _ladder_data(resnet18.ladder | {"rows": []})


@pytest.mark.parametrize("share", ["macs", "bops"])
def test_shares_are_those_of_the_layers_shown(resnet18: Run, share: Any) -> None:
    data = bits_data(resnet18.space, resnet18.winner, heads=False)
    rows = [row for row in layer_table(resnet18.space, resnet18.winner) if not row["exit"] or row["part"] == "final"]
    total = sum(row[share] for row in rows)
    assert data.share(share) == pytest.approx([100 * row[share] / total for row in rows])
    panel = plot_bits(resnet18, share=share).child_axes[-1]
    assert [bar.get_height() for bar in panel.patches] == pytest.approx(list(data.share(share)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["short_run", "resnet18", "long_run"])
def test_several_architectures_stand_layer_under_layer(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    last = run.point(run.front["trial"].iloc[-1])
    apart = Architecture(
        {group: (w, 6) for group, (w, _) in run.winner.bits.items()},
        run.space.candidates,
        (0.5,) * len(run.space.candidates),
    )
    ax = plot_bits(run, {"the winner": run.winner, "most accurate": last, "A 6": apart}, share="bops")
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    assert not _overlaps(ax.texts) and not _overlaps(ax.get_yticklabels()) and not _overlaps(ax.get_xticklabels())
    numbers = [int(text.get_text()) for text in ax.texts if text.get_text().isdigit()]
    layers = len(bits_data(run.space, last, heads=False).layers)
    assert len(numbers) == 4 * layers, "one strip each where W = A, two where not"
    weights = [layer.weight_bits for layer in bits_data(run.space, run.winner, heads=False).layers]
    assert numbers[:layers] == weights
    with pytest.raises(UserError, match="heads are not shown of several"):
        plot_bits(run, {"a": last}, heads=True)


def test_front_with_others_and_baselines(resnet18: Run, short_run: Run) -> None:
    marks = {"by hand": (2e10, 0.9), "by luck": (2.01e10, 0.901)}
    ax = plot_front(resnet18, others={"short": short_run}, baselines=marks)
    texts = [text.get_text() for text in ax.texts]
    assert {"2/2", "5/5", "by hand", "by luck"} < set(texts) and not _overlaps(ax.texts)
    legend = ax.get_legend()
    assert legend is not None
    assert f"front of short ({len(short_run.front)})" in [text.get_text() for text in legend.get_texts()]
    assert ax.get_xscale() == "log" and plot_front(resnet18, log=False).get_xscale() == "linear"


@pytest.mark.parametrize("name", ["short_run", "resnet18", "long_run"])
def test_labels_of_groups_do_not_overlap(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    for axes in ([plot_sensitivity(run)], plot_importance(run), [plot_sensitivity(run, trade_off=0.1)]):
        figure = axes[0].get_figure(root=True)
        assert figure is not None
        figure.draw_without_rendering()
        for ax in axes:
            assert (
                not _overlaps(ax.get_xticklabels()) and not _overlaps(ax.get_yticklabels()) and not _overlaps(ax.texts)
            )
            for second in ax.child_axes:
                assert not _overlaps(second.get_xticklabels())  # type: ignore[attr-defined]


def test_sensitivity_data(resnet18: Run) -> None:
    data = _sensitivity_data(resnet18.space, resnet18.sensitivity, None)
    assert [effect.label for effect in data.effects] == ["2", "3", "4", "5"] and not data.apart
    file = resnet18.sensitivity["groups"]
    assert [i for i, _ in data.effects[0].rows] == list(range(len(file)))
    assert [y for _, y in data.effects[0].rows] == pytest.approx([100 * group["accuracy"][0] for group in file])
    weighed = _sensitivity_data(resnet18.space, resnet18.sensitivity, 0.09)
    assert weighed.what == "accuracy\n- 0.1 × relative BOPs"
    assert weighed.effects[3].rows[2][1] == pytest.approx(100 * file[2]["value"][3][2])


def test_bits_chosen_apart_have_main_effects(short_run: Run) -> None:
    name = short_run.space.groups[0].name
    choices = [[w, a] for w in (2, 3, 4) for a in (2, 4)]
    effects = [0.01 * w - 0.02 * a for w, a in choices]
    content = {"trials": 9, "trade_offs": [0.0], "groups": [{"name": name, "choices": choices, "accuracy": effects}]}
    data = _sensitivity_data(short_run.space, content, None)
    assert data.apart and [effect.label for effect in data.effects] == ["W 2", "W 3", "W 4", "A 2", "A 4"]
    values = [effect.rows[0][1] for effect in data.effects]
    assert values == pytest.approx([-1, 0, 1, 2, -2])


def test_importance_data(resnet18: Run) -> None:
    data = _importance_data(resnet18.space, resnet18.sensitivity, resnet18.front, 0.1)
    assert sum(data.accuracy) == pytest.approx(100) and sum(data.value) == pytest.approx(100)
    first = sum(resnet18.space.candidates[0] in exits for exits in resnet18.front["exits"])
    assert data.placed[0] == pytest.approx(100 * first / len(resnet18.front)) and data.trade_off == 0.1


def _area(points: Sequence[tuple[float, float]], reference: tuple[float, float], steps: int = 200) -> float:
    """Hypervolume on a grid of cells."""
    accuracy = reference[0] + (np.arange(steps) + 0.5) / steps * (1 - reference[0])
    bops = (np.arange(steps) + 0.5) / steps * reference[1]
    reached = np.zeros((steps, steps), dtype=bool)
    for a, b in points:
        reached |= (accuracy[:, None] <= a) & (bops[None, :] >= b)
    return float(reached.mean() * (1 - reference[0]) * reference[1])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2)), max_size=8))
def test_hypervolume_is_the_area(points: list[tuple[float, float]]) -> None:
    a, b = np.array(points).reshape(-1, 2).T
    assert hypervolume(a, b, (0.25, 1.5)) == pytest.approx(_area(points, (0.25, 1.5)), abs=0.02)


def test_history_rises_to_the_front_s_hypervolume(resnet18: Run) -> None:
    reference = (0.7, 3e10)
    (data,) = _history_data({"a": resnet18}, reference).values()
    assert len(data.hypervolume) == len(data.seconds) == 127 and not data.all_points
    assert (np.diff(data.hypervolume) >= 0).all() and data.seconds[-1] == pytest.approx(127 * 0.2)
    accuracy, bops = (resnet18.front[key].to_numpy(float) for key in ("accuracy", "bops"))
    box = (accuracy.max() - reference[0]) * (reference[1] - bops.min())
    assert data.hypervolume[-1] == pytest.approx(hypervolume(accuracy, bops, reference) / box)
    assert len(plot_history(resnet18, others=[resnet18])) == 2


def test_history_of_all_points_where_they_are_on_record(short_run: Run, tmp_path: Path) -> None:
    shutil.copytree(short_run.path, tmp_path / "run")
    path = tmp_path / "run/search/trials.csv"
    trials = pd.read_csv(path)
    trials["front"] = [
        json.dumps([[a, b], [a / 2, b / 2]]) for a, b in zip(trials["accuracy"], trials["bops"], strict=True)
    ]
    trials.to_csv(path, index=False)
    (data,) = _history_data({"a": load_run(tmp_path / "run")}, None).values()
    assert data.all_points
    assert plot_history(load_run(tmp_path / "run"))[0].get_title("left") == "What the search has found"


@pytest.mark.parametrize(
    ("value", "unit"), [(5e12, "TBOPs"), (3.4e10, "GBOPs"), (2e6, "MBOPs"), (9e3, "kBOPs"), (900.0, "BOPs")]
)
def test_units(value: float, unit: str) -> None:
    assert bops_unit([1.0, value])[1] == unit


def test_plots_draw_on_given_axes(short_run: Run) -> None:
    figure = Figure(figsize=(12, 12))
    axes = list(figure.subplots(4, 4).flat)
    assert plot_front(short_run, ax=axes[0]) is axes[0]
    assert plot_bits(short_run, ax=axes[1]) is axes[1]
    assert plot_exits(short_run, ax=axes[2:4]) == axes[2:4]
    assert plot_reliability(short_run, "final", ax=axes[4]) == [axes[4]]
    assert plot_thresholds(short_run, ax=axes[5]) is axes[5]
    assert plot_ladder(short_run, ax=axes[6]) is axes[6]
    assert plot_quantizers(short_run, ax=axes[8:11]) == axes[8:11]
    assert plot_budgeted(short_run, ax=axes[11]) is axes[11]
    with pytest.raises(UserError, match="needs 10 axes, got 2"):
        plot_training(short_run, ax=axes[7:9])
    with pytest.raises(UserError, match="did you mean 'final'"):
        plot_reliability(short_run, "finale")


def test_budgeted_batches_and_anytime_are_drawn_for_each_model(short_run: Run) -> None:
    lines = {str(line.get_label()): line for line in plot_budgeted(short_run).get_lines()}
    for name in ("kd", "ce"):
        curve, marks = (lines[f"{MODEL_STYLES[name]['label']}, {kind}"] for kind in ("budgeted batch", "anytime"))
        content = short_run.evaluation["models"][name]
        assert sorted(curve.get_ydata()) == pytest.approx(sorted(100 * row["accuracy"] for row in content["budgeted"]))
        assert list(marks.get_ydata()) == pytest.approx([100 * row["accuracy"] for row in content["exits"]])
        assert (np.diff(curve.get_xdata()) >= 0).all()


def test_a_dollar_in_a_name_is_no_formula() -> None:
    @styled
    def plot() -> Axes:
        (ax,) = new_axes(2, 2)
        ax.set_title(r"$\frac{$")
        ax.plot([0, 1], label=r"$\bad$")
        ax.set_xticks([0], [r"$\nothing$"])
        ax.legend()
        return ax

    assert r"$\frac{$" in figure_svg(laid_out(plot()), text=True)


def test_callers_settings_are_left_alone(short_run: Run) -> None:
    import matplotlib as mpl

    before = mpl.rcParams["font.size"], mpl.rcParams["axes.titleweight"]
    assert isinstance(plot_front(short_run), Axes)
    assert (mpl.rcParams["font.size"], mpl.rcParams["axes.titleweight"]) == before


def test_every_figure_is_written_and_drawn_once_for_files_and_page(short_run: Run, tmp_path: Path) -> None:
    drawn = draw_figures(short_run)
    draws = {name: 0 for name in drawn}
    for name, figure in drawn.items():
        assert isinstance(figure, Figure)
        figure.canvas.mpl_connect("draw_event", lambda _, name=name: draws.update({name: draws[name] + 1}))
    paths = write_figures(short_run, tmp_path / "once", drawn=drawn)
    assert sorted(path.name for path in paths) == sorted(f"{n}.{s}" for n in FIGURES for s in ("png", "svg", "pdf"))
    for path in paths:
        content = path.read_bytes()
        assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[path.suffix])
        assert len(content) > 5_000
    assert {p.name for p in (tmp_path / "once").iterdir()} == {p.name for p in paths}, "no temporary file stays"
    assert write_report(short_run, tmp_path / "once.html", drawn=drawn).read_text(encoding="utf-8") == write_report(
        short_run, tmp_path / "again.html"
    ).read_text(encoding="utf-8")
    assert set(draws.values()) == {4}, "PNG, SVG, PDF, page: a layout engine would have drawn each twice"


def test_same_data_same_bytes(short_run: Run) -> None:
    texts = {figure_svg(plot_front(short_run).get_figure(root=True)) for _ in range(2)}  # type: ignore[arg-type]
    assert len(texts) == 1 and "<dc:date>" not in texts.pop()


def test_an_unfinished_run_has_the_figures_it_has_data_for(started: Callable[[], Run], tmp_path: Path) -> None:
    run = started()
    with pytest.raises(UserError, match="nothing to draw yet"):
        write_figures(run, tmp_path / "figures")
    (run.path / "pretrain").mkdir()
    (run.path / "pretrain/history.csv").write_text(
        "epoch,step,loss,lr,seconds,images_per_second,accuracy_final\n1,9,2.1,.1,3,9,\n"
    )
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/front.png").write_bytes(b"of an earlier run")
    names = sorted(path.name for path in write_figures(run, tmp_path / "figures"))
    assert names == ["training.pdf", "training.png", "training.svg"]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {*names, "front.png"}  # it may be the user's
