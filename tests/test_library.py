"""The library as a user meets it: a model class of her own, her loaders, Optuna's samplers, and files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import usdn_nas as un
from usdn_nas.pipeline.context import open_run
from usdn_nas.study.points import complete_trials
from usdn_nas.study.samplers import SeededSampler, sampler_settings
from usdn_nas.study.tables import trial_rows

SHAPE = (1, 8, 8)


class Block(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels))
        self.two = nn.Conv2d(channels, channels, 3, padding=1)
        self.short = nn.AvgPool2d(stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x))) + self.short(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.blocks = nn.Sequential(Block(4, 1), Block(4, 2), Block(4, 2))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def images(seed: int, count: int = 60) -> tuple[Tensor, Tensor]:
    """Stripes of three kinds, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    kinds = torch.stack([rows % 2, columns % 2, (rows + columns) % 2]).float() * 2 - 1
    return kinds[labels][:, None] + 0.5 * torch.randn(count, *SHAPE, generator=generator), labels


def loader(seed: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*images(seed)), batch_size=20, shuffle=shuffle)


@pytest.fixture(scope="module")
def model() -> Net:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    for _ in range(8):
        for batch, labels in loader(0):
            optimizer.zero_grad()
            F.cross_entropy(net(batch), labels).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def supernet(model: Net) -> un.Supernet:
    torch.manual_seed(0)
    space = un.search_space(model, SHAPE, bits=[2, 4, 8], head="linear")
    made = un.Supernet(model, space).calibrate(loader(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    history = un.train_supernet(made, loader(0, shuffle=True), teacher=model, epochs=4, lr=0.05, progress=False)
    assert list(history["epoch"]) == [1, 2, 3, 4] and history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return made


@pytest.fixture(scope="module")
def objective(supernet: un.Supernet) -> un.Objective:
    return un.Objective(supernet, loader(1))


def new_study(objective: un.Objective, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    return optuna.create_study(directions=objective.directions, sampler=sampler)


def test_the_space_of_a_model(model: Net) -> None:
    space = un.search_space(model, SHAPE, weights=[2, 4], activations=[4], exits=["blocks.0"], fixed={"*fc*": (4, 4)})
    assert [group.name for group in space.groups] == ["blocks.0", "blocks.1", "blocks.2"]
    assert space.groups[0].choices == ((2, 4), (4, 4)) and space.candidates == ("blocks.0",)
    assert space.bit_configurations == 8 and space.spec.network.num_classes == 3


@pytest.mark.parametrize("kind", ["ours", "tpe", "nsga2", "random"])
def test_samplers_in_search_and_in_plain_optuna(objective: un.Objective, kind: str) -> None:
    made = {
        "ours": lambda: un.SurrogateSampler(objective.space, seed=1, n_trials=12),
        "tpe": lambda: optuna.samplers.TPESampler(seed=1),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=1),
        "random": lambda: optuna.samplers.RandomSampler(seed=1),
    }[kind]
    together, alone = new_study(objective, made()), new_study(objective, made())
    un.search(together, objective, 12, batch=5)
    alone.optimize(objective, n_trials=12)
    for study in (together, alone):
        assert len(complete_trials(study, objective.space)) == 12
        front = un.pareto_front(study)
        assert front["accuracy"].is_monotonic_increasing and front["bops"].is_monotonic_increasing
        assert un.select(study, trial=front["trial"].iloc[0]).bits.keys() == {"blocks.0", "blocks.1", "blocks.2"}
    if kind == "random":  # which learns nothing from results, and so proposes the same
        same = [
            [(t.params, t.values, {k: v for k, v in t.user_attrs.items() if k != "seconds"}) for t in study.trials]
            for study in (together, alone)
        ]
        assert same[0] == same[1]
        pd.testing.assert_frame_equal(un.pareto_front(together), un.pareto_front(alone))


def test_our_sampler_tries_no_bits_twice(objective: un.Objective) -> None:
    study = new_study(objective, un.SurrogateSampler(objective.space, seed=0, n_trials=27))
    un.search(study, objective, 27, batch=9)
    assert len({trial.user_attrs["bits"] for trial in study.trials}) == 27 == objective.space.bit_configurations


def test_a_budget_is_a_constraint(supernet: un.Supernet, objective: un.Objective) -> None:
    study = new_study(objective, optuna.samplers.RandomSampler(seed=0))
    un.search(study, objective, 10)
    limit = float(un.pareto_front(study)["bops"].median())
    budget = un.Objective(supernet, loader(1), mode="budget", max_bops=limit)
    assert budget.directions == ["maximize"]
    constrained = new_study(budget, optuna.samplers.TPESampler(seed=0))
    constrained.optimize(budget, n_trials=6)
    assert all(len(trial.constraints) == 1 for trial in constrained.trials)
    chosen = un.select(constrained, max_bops=limit)
    assert un.pareto_front(constrained)["bops"].min() <= limit and chosen.bits
    with pytest.raises(un.UserError, match="another objectives|needs a study with directions"):
        study.optimize(budget, n_trials=1)


def test_from_the_choice_to_files_and_back(
    model: Net, supernet: un.Supernet, objective: un.Objective, tmp_path: Path
) -> None:
    study = new_study(objective, un.SurrogateSampler(objective.space, n_trials=9))
    un.search(study, objective, 9)
    front = un.pareto_front(study)
    architecture = un.select(study, trial=front[front["exits"].map(len) > 0]["trial"].iloc[-1])
    network = un.extract(supernet, architecture)
    rows: list[dict[str, float]] = []
    un.distill(network, loader(0, shuffle=True), teacher=model, epochs=2, on_epoch=rows.append, progress=False)
    assert [row["epoch"] for row in rows] == [1, 2]
    network.fit_thresholds(loader(1), tr=0.05)
    measured = un.evaluate(network, loader(2))
    assert measured.n == 60 and "MBOPs" in str(measured) and measured.accuracy > 0.5
    assert measured.exits["exit_rate"].sum() == pytest.approx(1)
    assert isinstance(un.plot_bits(network), Axes)
    pixels, labels = images(2)
    prediction = network.predict(pixels)
    assert float((prediction.labels == labels).float().mean()) == pytest.approx(measured.accuracy)
    assert float(prediction.bops.double().mean()) == pytest.approx(measured.average_bops)
    again = un.load(network.save(tmp_path / "winner"), model=Net())
    other = again.predict(pixels)
    assert torch.equal(other.logits, prediction.logits) and torch.equal(other.exit_index, prediction.exit_index)
    with pytest.raises(un.UserError, match="a Net that was passed in Python.*model="):
        un.load(tmp_path / "winner")


def test_a_loop_of_ones_own_trains_as_the_ready_made_one(model: Net) -> None:
    torch.manual_seed(0)
    space = un.search_space(model, SHAPE, bits=[2, 8], head="linear")
    mine = un.Supernet(model, space).calibrate(loader(0)).train()
    optimizer = torch.optim.SGD(mine.parameters(), 0.05, 0.9)
    generator = np.random.default_rng(0)
    sums = []
    for _ in range(6):
        sums.append(0.0)
        for batch, labels in loader(0):
            optimizer.zero_grad()
            for loss in un.sandwich(mine, batch, labels, teacher=model, random_paths=2, generator=generator):
                loss.backward()
                sums[-1] += float(loss.detach())
            optimizer.step()
    assert sums[-1] < 0.8 * sums[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "a loader that yields none; pass a DataLoader or a list"),
        (TensorDataset(*images(0)), r"batch 1 of the loader: expected images \(B, C, H, W\)"),
        ([(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))], r"expected images of shape \(1, 8, 8\), got"),
        ([(torch.zeros(2, *SHAPE), torch.tensor([0, 3]))], "expected labels from 0 to 2, got 3"),
        ([(torch.zeros(2, *SHAPE), torch.zeros(2))], "expected 2 integer labels"),
        ([(torch.full((2, *SHAPE), torch.nan), torch.tensor([0, 1]))], "finite pixels"),
        ([torch.zeros(2, *SHAPE)], "expected a pair"),
    ],
)
def test_loaders_that_cannot_be_used(supernet: un.Supernet, bad: object, message: str) -> None:
    with pytest.raises(un.UserError, match=message):
        un.Objective(supernet, bad)  # type: ignore[arg-type]


def test_a_generator_trains_one_epoch_and_not_two(supernet: un.Supernet) -> None:
    once = (batch for batch in loader(0))
    with pytest.raises(un.UserError, match="a generator yields its batches only once"):
        un.train(un.extract(supernet, un.Architecture(supernet.space.ladder()[0])), once, epochs=2, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": [1]}, "expected 2 to 16 bits"),
        ({"bits": [2], "weights": [2]}, "expected either"),
        ({"bits": [2], "exits": ["nowhere"]}, "no exit can follow 'nowhere'"),
        ({"bits": [2], "head": "round"}, "head"),
    ],
)
def test_spaces_that_cannot_be_made(model: Net, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(un.UserError, match=message):
        un.search_space(model, SHAPE, **arguments)  # type: ignore[arg-type]


@pytest.mark.sweep
def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs/library.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "docs/library.md", "exec"), names)
    assert (tmp_path / "bits.svg").is_file() and (tmp_path / "winner/architecture.json").is_file()
    assert un.evaluate(names["network"], names["test"]).accuracy > 0.9  # type: ignore[arg-type]


def test_every_public_name_is_in_the_reference() -> None:
    text = (Path(__file__).parents[1] / "docs/reference/api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: usdn_nas\.(\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(name for name in un.__all__ if name != "__version__")
    for name in named:
        assert getattr(un, name).__doc__, name


def test_a_search_in_python_finds_what_the_command_line_finds(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny study's search, repeated with its supernet, its images, and a sampler with its settings."""
    monkeypatch.chdir(tiny.parents[1])
    context = open_run(tiny)
    config, space = context.study.search, context.space
    again = un.Objective(context.supernet(), context.data.search, thresholds=config.thresholds, backend="float")
    sampler = SeededSampler(space, config, sampler_settings(space, config, context.study.seed))
    study = new_study(again, sampler)
    un.search(study, again, config.configurations, batch=config.batch)
    front = un.load_run(tiny).front
    pd.testing.assert_frame_equal(un.pareto_front(study), front)
    chosen = un.select(study, tr=config.tr)
    assert chosen == context_architecture(tiny)
    trials = pd.DataFrame(trial_rows(study, space))
    written = un.load_run(tiny).trials
    assert list(trials["accuracy"]) == list(written["accuracy"]) and list(trials["front"]) == list(written["front"])


def context_architecture(run: Path) -> un.Architecture:
    """The architecture that the run exported."""
    return un.read_architecture(run / "export/architecture.json").architecture
