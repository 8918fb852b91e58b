"""A command on two ranks: the stages that train run on both, all else on rank 0; how they end together."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.pipeline import tiny as study_of
from tests.pipeline.tiny import contents, context, no_figures, run
from tests.together import fork
from usdn_nas import cli
from usdn_nas.cli import torchrun
from usdn_nas.pipeline import ranks
from usdn_nas.training import loop

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

TRAININGS = ("supernet.pretrain", "supernet.qat", "retrain.teacher", "retrain.train")
SHORT = (
    "supernet.pretrain.epochs=1",
    "supernet.qat.max_steps=3",
    "search.configurations=2",
    "retrain.teacher.max_steps=3",
    "retrain.train.max_steps=3",
    "retrain.compare_ce=false",
)
ACCUMULATE = tuple(f"{training}.accumulate=2" for training in TRAININGS)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    no_figures(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return study_of.write_study(tmp_path)


def on_two_ranks(folder: Path, works: list[Callable[[], Any]]) -> tuple[list[Any], list[int]]:
    """Each of ``works`` within `ranks.joined`."""
    meeting = folder / "ranks"
    meeting.unlink(missing_ok=True)

    def member(place: int) -> Any:
        with ranks.joined(dist.FileStore(str(meeting), 2), place, 2):
            return works[place]()

    return fork(folder, [partial(member, place) for place in range(2)])


def test_all_stages_equal_those_of_one_process(study: Path, tmp_path: Path) -> None:
    """Which accumulates the same micro-batches; afterwards one process finds all of it done."""
    work = partial(run, study, *SHORT, until="retrain")
    ran, statuses = on_two_ranks(tmp_path, [work, ranks.follow])
    stages = ["pretrain", "supernet", "search", "export", "retrain/teacher", "retrain/kd", "retrain/kd thresholds"]
    assert statuses == [0, 0] and ran[0] == stages
    assert work() == []
    two = contents(tmp_path / "runs/tiny")
    (tmp_path / "runs/tiny").rename(tmp_path / "two")
    run(study, *SHORT, *ACCUMULATE, until="retrain")
    one = contents(tmp_path / "runs/tiny")
    assert two.keys() == one.keys()
    for name, found in two.items():
        if name.endswith(".safetensors"):
            first, second = (load_file(tmp_path / folder / name) for folder in ("two", "runs/tiny"))
            # Sums differ by rounding, and a value between two codes may then fall to either side.
            assert all(torch.allclose(first[key], second[key], rtol=1e-4, atol=1e-4) for key in first), name
        elif name.endswith("history.csv"):
            losses = [[float(row["loss"]) for row in rows] for rows in (found, one[name])]
            assert losses[0] == pytest.approx(losses[1], rel=1e-5), name


def test_both_killed_and_resumed(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pretrain, then in supernet."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    work = partial(run, study, *SHORT, until="supernet")
    assert on_two_ranks(tmp_path, [work, ranks.follow])[1] == [0, 0]
    (tmp_path / "runs/tiny").rename(tmp_path / "whole")
    mean_step = loop.mean_step
    for made, stage in ((5, "pretrain"), (3 + 1, "supernet")):
        steps = iter(range(100))

        def killing(*arguments: Any, made: int = made, steps: Iterator[int] = steps) -> float:
            if next(steps) == made:
                os.kill(os.getpid(), signal.SIGKILL)
            return mean_step(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "mean_step", killing)
            assert on_two_ranks(tmp_path, [work, ranks.follow])[1] == [-signal.SIGKILL] * 2
        assert (tmp_path / f"runs/tiny/{stage}/checkpoint.pt").exists()
    ran, statuses = on_two_ranks(tmp_path, [work, ranks.follow])
    assert statuses == [0, 0] and ran[0] == ["supernet"]
    whole, resumed = contents(tmp_path / "whole"), contents(tmp_path / "runs/tiny")
    assert [name for name in whole if whole[name] != resumed[name]] == []


def test_another_process_is_sent_settings_alone(study: Path) -> None:
    ours = context(study, "seed=9")
    assert len(ours.data.train) == 400  # loaded, and not sent
    sent = pickle.dumps(ours)
    assert len(sent) < 10_000
    theirs = pickle.loads(sent)
    assert (theirs.name, theirs.study, theirs.spec, theirs.folder) == (ours.name, ours.study, ours.spec, ours.folder)
    assert theirs.data.digest == ours.data.digest
    assert pickle.loads(pickle.dumps(ours)) is theirs  # with the data that it loaded
    assert pickle.loads(pickle.dumps(context(study, "seed=8"))).study.seed == 8


def command(
    folder: Path, *arguments: str, capfd: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> tuple[list[int], str]:
    """``usdn-nas`` on two ranks, as ``torchrun`` starts it, but that they meet through a file; statuses and stderr."""
    meeting = folder / "ranks"
    meeting.unlink(missing_ok=True)
    patch.setenv("WORLD_SIZE", "2")
    patch.setattr(sys, "argv", ["usdn-nas", *arguments])

    def member(place: int) -> None:
        torchrun.joined = partial(ranks.joined, dist.FileStore(str(meeting), 2), place, 2)  # type: ignore[attr-defined]
        cli.main()

    capfd.readouterr()
    _, statuses = fork(folder, [partial(member, place) for place in range(2)])
    return statuses, capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "statuses", "line"),
    [
        (["pretrain", "nothing"], {2}, "error: no such study: 'nothing'"),
        (["pretrain", "tiny", "--set", "supernet.qat.batch_size=51"], {2}, "error: supernet.qat: a batch of 51 "),
        (["pretrain", "tiny", "--set", "supernet.pretrain.lr=100", "--quiet"], {1}, "failed: pretrain: after step "),
        (["pretrain", "tiny", "--quiet"], {0}, ""),
        (["list", "--nonsense"], {2}, "No such option: --nonsense"),
    ],
    ids=["bad study", "bad batch", "failure", "success", "bad option"],
)  # fmt: skip
def test_one_line_and_one_status(
    arguments: list[str], statuses: set[int], line: str, study: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found, err = command(tmp_path, *arguments, capfd=capfd, patch=monkeypatch)
    assert set(found) == statuses, err
    if arguments[0] == "pretrain":
        assert err.count("\n") == bool(line) and err.startswith(line)
        assert (tmp_path / "runs/tiny/pretrain/weights.safetensors").exists() == (not line)
    else:
        assert err.count(line) == 1


@pytest.mark.parametrize("at", ["both", "one"])
def test_interrupted(
    at: str, study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a training: to all processes, as a terminal sends it, or to rank 0 alone."""
    steps = iter(range(100))
    mean_step = loop.mean_step

    def interrupting(*arguments: Any) -> float:
        if next(steps) == 5 and (at == "both" or ranks.rank() == 0):
            os.kill(os.getpid(), signal.SIGINT)
        return mean_step(*arguments)

    monkeypatch.setattr(loop, "mean_step", interrupting)
    statuses, err = command(tmp_path, "pretrain", "tiny", "--quiet", capfd=capfd, patch=monkeypatch)
    assert err == "interrupted; the same command goes on from here\n"
    assert statuses == ([130, 130] if at == "both" else [130, 1])


@pytest.mark.sweep
def test_torchrun(study: Path, tmp_path: Path) -> None:
    """The real one, which brings processes and store of its own."""
    root = str(Path(__file__).parents[2])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "usdn_nas"]
    finished = subprocess.run(
        [sys.executable, *launch, "pretrain", str(study)], env={**os.environ, "PYTHONPATH": root},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == ["runs/tiny/pretrain"]
    assert finished.stderr.count("pretrain  24/24  done") == 1
    found = contents(tmp_path / "runs/tiny")
    (tmp_path / "runs/tiny").rename(tmp_path / "two")
    run(study, *ACCUMULATE, until="pretrain")
    assert contents(tmp_path / "runs/tiny") == found
