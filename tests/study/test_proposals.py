"""What the surrogate proposes, beside its definition and as a function of the trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers import search_space
from tests.study.helpers import SPACE, config, outputs_of
from usdn_nas.exits.front import TRADE_OFFS
from usdn_nas.study.parameters import bits_of, indices_of, parameter_sizes, params_of
from usdn_nas.study.proposals import Proposals, Seen, aim, initial_design, trade_off_weights
from usdn_nas.study.scoring import judge
from usdn_nas.study.surrogate import Surrogate


def test_weights_are_lengths_of_the_hulls_pieces() -> None:
    # Lines .9 + 0 c, .85 + .1 c, .7 + c: they cross at .5 and at 1/6.
    weights = trade_off_weights(np.array([0.9, 0.85, 0.7]), np.array([0.0, 0.1, 1.0]), 0.0, 1.0)
    np.testing.assert_allclose(weights, [0.5, 0.5 - 1 / 6, 1 / 6], atol=0.005)
    assert trade_off_weights(np.array([0.9, 0.85, 0.7]), np.array([0.0, 0.1, 1.0]), 0.3, 0.3).tolist() == [0, 1, 0]


def test_trials_aim_in_proportion_to_the_roots_of_weights() -> None:
    counts = np.bincount([aim(np.array([0.81, 0.0, 0.01, 0.09]), number) for number in range(1300)], minlength=4)
    np.testing.assert_allclose(counts, [900, 0, 100, 300], atol=4)


def test_sensitivities_raise_one_parameter_at_a_time() -> None:
    space = search_space(2, {"weights": [2, 4], "activations": [3, 5, 4]})
    assert list(parameter_sizes(space).values()) == [2, 3, 2, 3]
    assert initial_design(space) == [(1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 1, 0), (0, 0, 0, 2)]


def seen_of(proposals: Proposals, codes: tuple[int, ...], settings: Any) -> Seen:
    params = dict(zip(parameter_sizes(SPACE), codes, strict=True)) | {"trade_off": 0.1}
    bits = bits_of(SPACE, params)
    return proposals.seen(codes, judge(SPACE, settings, params, bits, outputs_of(bits)).record["front"])


@pytest.fixture
def complete() -> dict[int, Seen]:
    proposals = Proposals(SPACE, config(), 0)
    codes = {tuple(code) for code in np.random.default_rng(0).integers(4, size=(20, 4)).tolist()}
    return {number: seen_of(proposals, code, config()) for number, code in enumerate(sorted(codes))}


def test_a_proposal_is_the_greatest_bound_at_its_aim(complete: dict[int, Seen]) -> None:
    unwanted = {seen.codes for seen in complete.values()}
    found = Proposals(SPACE, config(), 0).propose(37, 2, complete, {})
    codes = np.array([seen.codes for seen in complete.values()])
    values = np.array([seen.values for seen in complete.values()])
    trade_off = aim(trade_off_weights(values.max(axis=0), TRADE_OFFS, 0.0, 1.2), 37)
    others = [c for c in np.ndindex(4, 4, 4, 4) if c not in unwanted]
    posterior = Surrogate(codes, values).predict(np.array(others))
    best = others[int((posterior.mean + 0.5 * posterior.deviation)[:, trade_off].argmax())]
    assert indices_of(SPACE, found) == best
    assert found["trade_off"] == pytest.approx(max(TRADE_OFFS[trade_off], 1e-3))


@pytest.mark.parametrize("exact", [True, False])
def test_proposals_depend_on_the_trials_alone(
    exact: bool, complete: dict[int, Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that has proposed the trials of a batch before, and one that starts amid the batch.
    if not exact:
        monkeypatch.setattr("usdn_nas.study.proposals.EXACT_LIMIT", 0)
    steady = Proposals(SPACE, config(), 0)
    unwanted = {seen.codes for seen in complete.values()}
    pending: dict[int, tuple[int, ...]] = {31: (3, 3, 3, 1)}  # some other worker's
    for number in range(32, 40):
        found = steady.propose(number, 2, complete, pending)
        assert found == Proposals(SPACE, config(), 0).propose(number, 2, complete, dict(pending))
        codes = indices_of(SPACE, found)
        assert codes is not None and codes not in unwanted | set(pending.values())
        pending[number] = codes


@pytest.mark.parametrize("changes", [{"mode": "scalar", "tr": 0.05}, {"mode": "budget", "gbops": 0.004}])
def test_one_objective_aims_at_itself(changes: dict[str, Any], complete: dict[int, Seen]) -> None:
    settings = config(**changes)
    proposals = Proposals(SPACE, settings, 0)
    seen = {number: seen_of(proposals, one.codes, settings) for number, one in complete.items()}
    found = [proposals.propose(number, 2, seen, {}) for number in range(32, 48)]
    assert all(one == found[0] for one in found) and "trade_off" not in found[0]


def test_the_models_trials_are_the_informative_ones(complete: dict[int, Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usdn_nas.study.proposals._MOST_TRIALS", 8)
    fitted = []

    class Spy(Surrogate):
        def __init__(self, codes: Any, values: Any) -> None:
            fitted.append(values)
            super().__init__(codes, values)

    monkeypatch.setattr("usdn_nas.study.proposals.Surrogate", Spy)
    Proposals(SPACE, config(), 0).propose(32, 2, complete, {})
    assert len(fitted[0]) == 8
    values = np.array([seen.values for seen in complete.values()])
    weights = trade_off_weights(values.max(axis=0), TRADE_OFFS, 0.0, 1.2)
    np.testing.assert_array_equal(fitted[0].max(axis=0)[weights > 0], values.max(axis=0)[weights > 0])


def test_ranks_and_bits_agree() -> None:
    assert params_of(SPACE, SPACE.ladder()[1]) == dict.fromkeys(parameter_sizes(SPACE), 1)
