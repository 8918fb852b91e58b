"""Enumeration through the engine: all configurations in prefix order, each distinct prefix run once."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.pipeline.tiny import Heard, contents, context, run
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.engine.outputs import SupernetEvaluator
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.stages import Pipeline
from usdn_nas.study.parameters import bits_of, configuration
from usdn_nas.study.search import run_search
from usdn_nas.study.session import Study, open_study

ALL = ("search.sampler=brute", "search.configurations=27")


@pytest.fixture(scope="module")
def opened(tiny: Path) -> Context:
    return context(tiny, *ALL)


def study_of(opened: Context, folder: Path) -> Study:
    settings = opened.study.search
    return open_study(
        opened.space, settings, seed=0, storage_path=folder / "study.journal", fingerprint={}, name="enumerated"
    )


def test_every_prefix_is_run_once_whatever_the_batches(opened: Context, tmp_path: Path) -> None:
    engine = Engine(opened.supernet(), opened.search_batches, EngineSettings("float", 50))
    sizes: list[int] = []

    def counted(batch: list[dict[str, tuple[int, int]]]) -> object:
        sizes.append(len(batch))
        return engine.run(batch)

    run_search(study_of(opened, tmp_path), opened.space, opened.study.search, counted)  # type: ignore[arg-type]
    assert engine.runs == sum(opened.space.prefixes) == 39
    assert sizes == [3, 6, 12, 6]  # they grow


def test_an_interrupted_enumeration_goes_on(opened: Context, tmp_path: Path) -> None:
    """The prefix under way is all that is run again, and the figures are those of the plain supernet."""
    space, settings = opened.space, opened.study.search
    plain = SupernetEvaluator(opened.supernet(), opened.search_batches)
    runs = 0.0
    while True:
        engine = Engine(opened.supernet(), opened.search_batches, EngineSettings("float", 50))
        told: list[int] = []

        def evaluate(batch: list[dict[str, tuple[int, int]]]) -> object:
            for index, outputs in engine.run(batch):  # noqa: B023
                if len(told) == 5:  # noqa: B023
                    raise KeyboardInterrupt
                yield index, outputs

        try:
            run_search(
                study_of(opened, tmp_path),
                space,
                settings,
                evaluate,
                on_trial=lambda s: told.append(s.number),  # type: ignore[arg-type] # noqa: B023
            )
            break
        except KeyboardInterrupt:
            runs += engine.runs
    assert runs + engine.runs < 2 * 39
    study = study_of(opened, tmp_path)
    ran = [bits_of(space, trial.params) for trial in study.trials]
    assert ran == [bits_of(space, configuration(space, number)) for number in range(27)]
    for trial in study.trials[::5]:
        outputs: ExitOutputs = plain(bits_of(space, trial.params))
        assert trial.user_attrs["accuracy_without_exits"] == pytest.approx(outputs.accuracy[-1], abs=0.011)


def test_it_says_what_it_does_and_how_long_it_takes(tiny_copy: Path) -> None:
    heard = Heard()
    enumerated = context(tiny_copy, *ALL)
    enumerated.reporter = heard
    Pipeline(enumerated).run(until="search")
    assert "search: enumerates 27 of 27 bit configurations in prefix order; all of them are 39 segment runs, 81" in (
        "\n".join(heard.lines)
    )
    assert any(re.match(r"search: 3 configurations took \d", line) for line in heard.lines)
    assert any("the other 24 will take about" in line for line in heard.lines)
    rows = list(csv.DictReader((tiny_copy / "search/trials.csv").open()))
    assert [row["state"] for row in rows] == ["complete"] * 27
    # Who lets the sampler be chosen is content with it.
    assert run(tiny_copy, "search.sampler=auto", "search.configurations=6", until="search") == []


def test_two_workers_enumerate_the_same(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_copy.parents[1])
    assert run(tiny_copy, *ALL, until="search") == ["search"]
    alone = contents(tiny_copy)
    study = tiny_copy / "search/study.journal"
    for path in (study, study.with_name("trials.csv"), study.with_name("front.csv")):
        path.unlink()
    assert run(tiny_copy, *ALL, "search.workers=2", "search.batch=2", until="search") == ["search"]
    assert contents(tiny_copy)["search/trials.csv"] == alone["search/trials.csv"]
    assert contents(tiny_copy)["search/front.csv"] == alone["search/front.csv"]
    assert len(set(study.read_text().split('"pid":')[1:])) >= 2
