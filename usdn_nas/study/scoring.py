"""Scores one configuration from its cached outputs: its own front, the policy that stands for it, and their record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from usdn_nas.config import SearchConfig
from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import threshold_grid
from usdn_nas.exits.front import Policy, config_front, shared_front, thin
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.cost import exit_costs, layer_table, mean_bits, reference_bops
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.objectives import budget_excess, choose, objective_values
from usdn_nas.study.parameters import THRESHOLD, TRADE_OFF, exits_of

__all__ = ["ScoredTrial", "judge"]


@dataclass(frozen=True)
class ScoredTrial:
    """The scores of one trial.

    Attributes:
        values: Values of the objectives, in their order.
        excess: The constraint of mode ``budget``: <= 0 if a policy is within the budget. None in other modes.
        front: The configuration's own front, thinned. `support` gives the same result as for the whole front.
        chosen: Index into ``front`` of the policy that ``values`` belong to.
        record: User attributes of the trial, in JSON's own types.
    """

    values: list[float]
    excess: float | None
    front: list[Policy]
    chosen: int
    record: dict[str, Any]

    @property
    def policy(self) -> Policy:
        """The chosen policy."""
        return self.front[self.chosen]


def _full_front(
    space: SearchSpace, config: SearchConfig, params: Mapping[str, Any], outputs: ExitOutputs, bits: Mapping[str, Bits]
) -> list[Policy]:
    costs = exit_costs(space, bits)
    if config.exits != "sampled":
        front = config_front if config.exits == "exact" else shared_front
        return front(outputs, costs, threshold_grid(outputs, config.thresholds), config.rule)
    exits = exits_of(space, params)
    thresholds = (float(params[THRESHOLD]),) * len(exits)
    result = apply(outputs.placed(exits), costs.placed(exits), thresholds, config.rule)
    return [Policy(result.accuracy, result.average_bops, exits, thresholds)]


def judge(
    space: SearchSpace, config: SearchConfig, params: Mapping[str, Any], bits: Mapping[str, Bits], outputs: ExitOutputs
) -> ScoredTrial:
    """Scores one trial.

    ``exits = "exact"`` scores every set of exits with every shared threshold. ``exits = "all"`` scores the set of all
    candidates with every shared threshold. ``exits = "sampled"`` scores the one policy that ``params`` describe. The
    policy that stands for the trial is chosen by the study's mode (`choose`).

    Raises:
        RunError: A metric is not a finite number.
    """
    reference = float(reference_bops(space))
    full = _full_front(space, config, params, outputs, bits)
    best = choose(full, config, reference, params.get(TRADE_OFF))
    front = thin(full, reference, keep=(best,))
    chosen = front.index(full[best])
    policy = front[chosen]
    bit = {name: 1 << i for i, name in enumerate(space.candidates)}
    layers = layer_table(space, Architecture(bits))
    # The rows hold no heads. If only heads are searched, no row has a group, and all layers count.
    means = mean_bits([row for row in layers if row["group"] is not None] or layers)
    costs = exit_costs(space, bits).placed(())
    record = {  # optuna-dashboard keeps this order, so the entries that people read come first
        "accuracy": policy.accuracy,
        "bops": policy.bops,
        "relative_bops": policy.bops / reference,
        "bits": ", ".join(f"{group} {w}/{a}" for group, (w, a) in bits.items()),
        "exits": "+".join(policy.exits),
        "weight_bits": means["mac_weighted_weight_bits"],
        "activation_bits": means["mac_weighted_activation_bits"],
        "accuracy_without_exits": float(outputs.accuracy[-1]),
        "bops_without_exits": int(costs.cumulative[-1]),
        "samples": outputs.samples,
        "chosen": chosen,
        "front": [
            [p.accuracy, p.bops, sum(bit[name] for name in p.exits), p.thresholds[0] if p.thresholds else None]
            for p in front
        ],
    }
    values = objective_values(config, policy, reference)
    excess = budget_excess(front, config) if config.mode == "budget" else None
    return ScoredTrial(values, excess, front, chosen, record)
