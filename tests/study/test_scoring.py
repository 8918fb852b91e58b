"""What is recorded of a trial, beside all policies that its outputs allow."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.helpers import search_space, synthetic_outputs
from usdn_nas.config import SearchConfig
from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import score_shared, threshold_grid
from usdn_nas.exits.front import FRONT_LIMIT, support
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import exit_costs, reference_bops
from usdn_nas.study.scoring import judge

SPACE = search_space(6)


def noisy(seed: int, samples: int = 3000) -> tuple[dict[str, tuple[int, int]], ExitOutputs]:
    """Bits and outputs whose front has more than `FRONT_LIMIT` policies."""
    rng = np.random.default_rng(seed)
    level = np.linspace(0.5, 0.9, 6)[:, None]
    confidence = rng.beta(8 * level, 8 * (1 - level), size=(6, samples)).astype(np.float32)
    return SPACE.sample(rng), ExitOutputs(
        confidence, rng.random((6, samples)) < confidence, (*SPACE.candidates, "final")
    )


@pytest.mark.parametrize("seed", range(4))
def test_record_holds_the_best_policy_of_every_trade_off_exactly(seed: int) -> None:
    bits, outputs = noisy(seed)
    scores = score_shared(outputs, exit_costs(SPACE, bits), threshold_grid(outputs, 64))
    reference = reference_bops(SPACE)
    judgement = judge(SPACE, SearchConfig(), {"trade_off": 0.37}, bits, outputs)
    assert len(judgement.front) == FRONT_LIMIT
    stored = np.array([entry[:2] for entry in json.loads(json.dumps(judgement.record))["front"]])
    whole = support(scores.accuracy.ravel(), scores.bops.ravel() / reference)[0]
    assert support(stored[:, 0], stored[:, 1] / reference)[0].tolist() == whole.tolist()
    chosen = stored[judgement.record["chosen"]]
    assert chosen[0] - 0.37 * chosen[1] / reference == (scores.accuracy - 0.37 * scores.bops / reference).max()


@pytest.mark.parametrize("seed", range(2))
def test_every_recorded_policy_does_what_is_recorded(seed: int) -> None:
    bits, outputs = noisy(seed)
    costs = exit_costs(SPACE, bits)
    judgement = judge(SPACE, SearchConfig(mode="budget", gbops=0.002), {}, bits, outputs)
    for policy, (accuracy, bops, mask, threshold) in zip(judgement.front, judgement.record["front"], strict=True):
        assert policy.exits == tuple(name for i, name in enumerate(SPACE.candidates) if mask >> i & 1)
        assert set(policy.thresholds) <= {threshold}
        result = apply(outputs.placed(policy.exits), costs.placed(policy.exits), policy.thresholds)
        assert (result.accuracy, result.average_bops) == (accuracy, bops)
    assert judgement.excess == judgement.front[0].bops / 0.002e9 - 1


@pytest.mark.parametrize("rule", ["threshold", "most-confident"])
def test_all_exits_placed_or_any_under_either_rule(rule: Rule) -> None:
    bits, outputs = noisy(3, 400)
    costs, reference = exit_costs(SPACE, bits), reference_bops(SPACE)
    grid = threshold_grid(outputs, 64)
    shared = [apply(outputs, costs, [t] * 5, rule) for t in grid]
    own = judge(SPACE, SearchConfig(exits="all", rule=rule), {"trade_off": 0.2}, bits, outputs)
    assert {policy.exits for policy in own.front} == {SPACE.candidates}
    best = max(s.accuracy - 0.2 * s.average_bops / reference for s in shared)
    assert own.policy.accuracy - 0.2 * own.policy.bops / reference == best
    assert own.front[0].bops == min(s.average_bops for s in shared)
    assert own.front[-1].accuracy == max(s.accuracy for s in shared)
    free = judge(SPACE, SearchConfig(rule=rule), {"trade_off": 0.2}, bits, outputs)
    for policy in free.front:
        result = apply(outputs.placed(policy.exits), costs.placed(policy.exits), policy.thresholds, rule)
        assert (result.accuracy, result.average_bops) == (policy.accuracy, policy.bops)


@pytest.mark.parametrize("rule", ["threshold", "most-confident"])
def test_sampled_exits_are_judged_as_they_are(rule: Rule) -> None:
    bits = SPACE.sample(np.random.default_rng(0))
    outputs = synthetic_outputs(SPACE, bits)
    params = {f"exit.{name}": name in ("b1", "b3") for name in SPACE.candidates} | {"threshold": 0.7}
    judgement = judge(SPACE, SearchConfig(exits="sampled", mode="scalar", rule=rule), params, bits, outputs)
    (policy,) = judgement.front
    result = apply(outputs.placed(["b1", "b3"]), exit_costs(SPACE, bits).placed(["b1", "b3"]), (0.7, 0.7), rule)
    assert (policy.exits, policy.thresholds) == (("b1", "b3"), (0.7, 0.7))
    assert (policy.accuracy, policy.bops) == (result.accuracy, result.average_bops)
    assert judgement.values == [policy.accuracy - SearchConfig().tr * policy.bops / reference_bops(SPACE)]
    assert judgement.record["front"] == [[policy.accuracy, policy.bops, 0b1010, 0.7]]
