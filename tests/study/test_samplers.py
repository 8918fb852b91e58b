"""Samplers: what they propose, what they never repeat."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna
import pytest

from tests.helpers import search_space
from tests.study.helpers import SPACE, config, evaluate, opened, outputs_of, searched
from usdn_nas._util.errors import UserError
from usdn_nas.study.parameters import bits_of, indices_of, params_of
from usdn_nas.study.samplers import goal, sampler_settings
from usdn_nas.study.search import one_by_one, run_search
from usdn_nas.study.session import open_study, planned

SAMPLERS = ["random", "tpe", "nsga2", "nsga3", "surrogate", "gp"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_proposal_made_twice_is_the_same(sampler: str, tmp_path: Path) -> None:
    # The second time, what Optuna keeps of a proposal is there already: generation, parameters, and, since trial 24
    # is the first of a generation, its parents, in whose selection NSGA-III draws random numbers.
    settings = config(sampler=sampler, configurations=24 if "nsga" in sampler else 12)
    study, _ = searched(settings, tmp_path)
    trial = study.ask()
    first = trial.relative_params
    frozen = study._storage.get_trial(trial._trial_id)
    again = opened(settings, tmp_path).sampler.sample_relative(study, frozen, {})
    assert first == again


@pytest.mark.parametrize("sampler", SAMPLERS[:-1])
def test_nothing_is_run_twice_and_the_ladder_comes_first(sampler: str, tmp_path: Path) -> None:
    settings = config(sampler=sampler, configurations=14)
    study, summaries = searched(settings, tmp_path)
    assert [s.bits for s in summaries[:4]] == SPACE.ladder()
    assert [s.distinct for s in summaries] == list(range(1, 15))
    assert len({trial.params["trade_off"] for trial in study.trials[:4]}) == 4


def test_another_seed_searches_elsewhere(tmp_path: Path) -> None:
    runs = [searched(config(sampler="random"), tmp_path / str(seed), seed=seed)[1] for seed in (0, 1)]
    assert [s.bits for s in runs[0][4:]] != [s.bits for s in runs[1][4:]]


def test_brute_enumerates_all_in_prefix_order(tmp_path: Path) -> None:
    space = search_space(3)
    settings = config(sampler="auto", configurations=1000)
    assert planned(space, settings) == ("brute", 64)
    study = open_study(space, settings, seed=0, storage_path=tmp_path / "s.journal", fingerprint={}, name="all")
    seen: list[tuple[int, ...]] = []
    small = search_space(3)
    run_search(
        study,
        space,
        settings,
        one_by_one(lambda bits: outputs_of(bits | {"b3": (2, 2)}).placed(small.candidates)),
        on_trial=lambda s: seen.append(tuple(s.bits[g.name][0] for g in space.groups)),
    )
    assert seen == sorted(seen) and len(set(seen)) == 64


@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_the_whole_space_is_enough(sampler: str, tmp_path: Path) -> None:
    space = search_space(4, {"choices": [[2, 2], [4, 4]]})
    settings = config(sampler=sampler, configurations=100)
    assert goal(space, settings) == 16
    study = open_study(space, settings, seed=0, storage_path=tmp_path / "s.journal", fingerprint={}, name="all")
    run_search(study, space, settings, evaluate)
    assert len({indices_of(space, trial.params) for trial in study.trials}) == 16 == len(study.trials)


def test_sampled_exits_may_repeat_bits_and_do_so_for_free(tmp_path: Path) -> None:
    space = search_space(4, {"choices": [[2, 2]], "fixed": {"b0.*": [4, 4]}})
    settings = config(sampler="nsga2", exits="sampled", configurations=12)
    study = open_study(space, settings, seed=0, storage_path=tmp_path / "s.journal", fingerprint={}, name="one")
    calls: Counter[str] = Counter()
    summaries = []

    def counted(bits):  # type: ignore[no-untyped-def]
        calls["evaluate"] += 1
        return outputs_of({"b0": (4, 4), **bits})

    run_search(study, space, settings, one_by_one(counted), on_trial=summaries.append)
    assert calls["evaluate"] == 1 and summaries[-1].distinct == 1 and summaries[-1].complete == 12
    assert [s.repeated for s in summaries] == [False] + [True] * 11
    assert len({tuple(sorted(trial.params.items())) for trial in study.trials}) > 6


def test_weights_and_activations_apart(tmp_path: Path) -> None:
    space = search_space(4, {"weights": [2, 4], "activations": [3, 5, 4]})
    settings = config(sampler="nsga2", configurations=12)
    study = open_study(space, settings, seed=0, storage_path=tmp_path / "s.journal", fingerprint={}, name="apart")
    run_search(study, space, settings, evaluate)
    assert list(study.trials[0].params)[:2] == ["weights.b0", "activations.b0"]
    for trial in study.trials:
        bits = bits_of(space, trial.params)
        assert all(bits[g.name] in g.choices for g in space.groups)
        assert params_of(space, bits) == {k: v for k, v in trial.params.items() if k != "trade_off"}


@pytest.mark.parametrize("sampler", [*SAMPLERS[:-1], "brute"])
def test_lists_of_choices_that_differ_between_groups(sampler: str, tmp_path: Path) -> None:
    allowed = {"b0": [[4, 4], [5, 5]], "b3": [[2, 2], [3, 3], [5, 5]], "b2": [[4, 4]]}
    space = search_space(4, {"choices": [[2, 2], [3, 3], [4, 4], [5, 5]], "allowed": allowed})
    settings = config(sampler=sampler, configurations=100)
    assert goal(space, settings) == 2 * 4 * 1 * 3
    study = open_study(space, settings, seed=0, storage_path=tmp_path / "s.journal", fingerprint={}, name="allowed")
    run_search(study, space, settings, evaluate)
    drawn = [bits_of(space, trial.params) for trial in study.trials]
    assert len({tuple(bits.values()) for bits in drawn}) == 24
    assert {group.name: {bits[group.name] for bits in drawn} for group in space.groups} == {
        group.name: set(group.choices) for group in space.groups
    }


def test_resolution_of_auto() -> None:
    def name(**changes: object) -> str:
        return sampler_settings(SPACE, config(sampler="auto", **changes), 0).name

    assert name(mode="pareto") == name(mode="scalar") == name(mode="budget") == "surrogate"
    assert name(configurations=256) == "brute"
    assert name(configurations=256, exits="sampled") == "nsga2"
    assert name(mode="scalar", exits="sampled") == name(mode="budget", exits="sampled") == "tpe"


def test_auto_enumerates_where_prefixes_make_it_cheap() -> None:
    assert sum(SPACE.prefixes) == 4 + 16 + 64 + 256
    for configurations, name in ((84, "surrogate"), (85, "brute")):  # 4 segments each
        settings = config(sampler="auto", configurations=configurations)
        assert planned(SPACE, settings) == (name, 256 if name == "brute" else configurations)


def test_what_is_given_beforehand_is_a_third_at_most() -> None:
    given = [sampler_settings(SPACE, config(configurations=n), 0).initial for n in (3, 15, 18, 24, 200)]
    assert given == [4, 5, 6, 8, 8]


def test_populations() -> None:
    populations = [sampler_settings(SPACE, config(configurations=n), 0).population for n in (10, 120, 1000)]
    assert populations == [8, 20, 50]


def test_brute_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match="at most 200,000 bit configurations, this space has 262,144"):
        sampler_settings(search_space(9), config(sampler="brute"), 0)
    for sampler in ("brute", "surrogate"):
        with pytest.raises(UserError, match=f"{sampler} .* cannot take sampled exits"):
            sampler_settings(SPACE, config(sampler=sampler, exits="sampled"), 0)


def test_a_trial_that_somebody_enqueued_is_run(tmp_path: Path) -> None:
    settings = config(sampler="nsga2", configurations=10)
    study = opened(settings, tmp_path)
    wanted = {"b0": (5, 5), "b1": (2, 2), "b2": (4, 4), "b3": (3, 3)}
    study.enqueue_trial(params_of(SPACE, wanted))
    summaries = []
    run_search(study, SPACE, settings, evaluate, on_trial=summaries.append)
    assert summaries[0].bits == wanted
    assert summaries[-1].distinct == 10
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in study.trials]
    assert generations == [0] * 8 + [1] * 2


def test_optuna_is_quiet_within_and_as_before_after(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    searched(config(sampler="nsga3", configurations=3), tmp_path)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")
