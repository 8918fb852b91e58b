import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from usdn_nas.architecture import Architecture
from usdn_nas.errors import UserError
from usdn_nas.report import (
    Run,
    draw_figures,
    plot_bits,
    plot_exits,
    plot_front,
    plot_ladder,
    plot_reliability,
    plot_thresholds,
    plot_training,
    table1,
    write_figures,
    write_report,
)
from usdn_nas.report.figures._style import bops_unit
from usdn_nas.report.figures.bits import _bits_data, _flag_rows, _text_inches
from usdn_nas.report.figures.exits import _exits_data
from usdn_nas.report.figures.front import accuracy_floor, front_data
from usdn_nas.report.figures.reliability import _reliability_data
from usdn_nas.report.figures.thresholds import _thresholds_data
from usdn_nas.report.figures.training import _ladder_data, _training_data
from usdn_nas.report.figures.write import FIGURES, figure_svg


def _every_exit(run: Run) -> Architecture:
    exits = run.space.candidates
    return Architecture(run.winner.bits, exits, tuple(0.5 for _ in exits))


def test_bits_data_follows_the_chain(resnet18: Run) -> None:
    data = _bits_data(resnet18.space, _every_exit(resnet18), heads=False)
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
    data = _bits_data(resnet18.space, _every_exit(resnet18), heads=True)
    assert len(data.layers) == 21 + 7 * 4
    assert ("head 0", 3, 4) in data.blocks


@given(st.lists(st.integers(1, 60), unique=True, max_size=12), st.floats(0.07, 0.6))
def test_flags_meet_no_text_and_no_line(positions: list[int], inches: float) -> None:
    flags = [(position, f"block{position}\n≥ 0.50") for position in sorted(positions)]
    rows = _flag_rows(flags, inches)
    for (i, (start, text)), (j, (later, _)) in itertools.combinations(enumerate(flags), 2):
        if later < start + _text_inches(text) / inches:
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


def test_training_and_ladder_data(resnet18: Run) -> None:
    stages = _training_data(resnet18)
    assert [stage.title for stage in stages][:2] == ["Full-precision supernet", "Supernet, QAT"]
    assert {"final@max", "final@min"} <= set(stages[1].accuracy)
    ladder = _ladder_data(resnet18.ladder)
    assert ladder.labels == ("2/2", "3/3", "4/4", "5/5") and ladder.errors[0] == 0


@pytest.mark.parametrize(("value", "unit"), [(3.4e10, "GBOPs"), (2e6, "MBOPs"), (900.0, "kBOPs")])
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
    with pytest.raises(UserError, match="needs 10 axes, got 2"):
        plot_training(short_run, ax=axes[7:9])
    with pytest.raises(UserError, match="did you mean 'final'"):
        plot_reliability(short_run, "finale")


def test_callers_settings_are_left_alone(short_run: Run) -> None:
    import matplotlib as mpl

    before = mpl.rcParams["font.size"], mpl.rcParams["axes.titleweight"]
    assert isinstance(plot_front(short_run), Axes)
    assert (mpl.rcParams["font.size"], mpl.rcParams["axes.titleweight"]) == before


def test_every_figure_is_written(short_run: Run, tmp_path: Path) -> None:
    paths = write_figures(short_run, tmp_path)
    assert sorted(path.name for path in paths) == sorted(f"{n}.{s}" for n in FIGURES for s in ("png", "svg"))
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml") and len(content) > 5_000
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths}, "no temporary file stays"


def test_drawn_once_for_files_and_page(short_run: Run, tmp_path: Path) -> None:
    drawn = draw_figures(short_run)
    draws = {name: 0 for name in drawn}
    for name, figure in drawn.items():
        assert isinstance(figure, Figure)
        figure.canvas.mpl_connect("draw_event", lambda _, name=name: draws.update({name: draws[name] + 1}))
    write_figures(short_run, tmp_path / "once", drawn=drawn)
    assert write_report(short_run, tmp_path / "once.html", drawn=drawn).read_text(encoding="utf-8") == write_report(
        short_run, tmp_path / "again.html"
    ).read_text(encoding="utf-8")
    assert set(draws.values()) == {3}, "PNG, SVG, page: a layout engine would have drawn each twice"


def test_same_data_same_bytes(short_run: Run) -> None:
    texts = {figure_svg(plot_front(short_run).get_figure(root=True)) for _ in range(2)}  # type: ignore[arg-type]
    assert len(texts) == 1 and "<dc:date>" not in texts.pop()


def test_an_unfinished_run_has_the_figures_it_has_data_for(started: Callable[[], Run], tmp_path: Path) -> None:
    run = started()
    with pytest.raises(UserError, match="nothing to draw yet"):
        write_figures(run, tmp_path / "figures")
    (run.path / "pretrain").mkdir()
    (run.path / "pretrain/history.csv").write_text("epoch,step,loss,lr,seconds,accuracy_final\n1,9,2.1,.1,3,\n")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/front.png").write_bytes(b"of an earlier run")
    names = [path.name for path in write_figures(run, tmp_path / "figures")]
    assert names == sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["training.png", "training.svg"]
