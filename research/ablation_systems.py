"""The ablation's systems: what each may choose, and its choices on the search split from the shared supernet.

All but MSDNet and SDN are points of one search space, ``resnet_fashion_small``, so that one supernet serves them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from usdn_nas._util.files import file_digest
from usdn_nas.engine.engine import Engine, choose_settings
from usdn_nas.exits.exact import threshold_grid
from usdn_nas.exits.front import config_front
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.networks.build import resolve_space
from usdn_nas.pipeline.context import Context
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.cost import exit_costs, full_bops
from usdn_nas.space.search_space import SearchSpace, SpaceSpec
from usdn_nas.study.points import FrontPoint, front_points
from usdn_nas.study.search import Evaluate, run_search
from usdn_nas.study.session import open_study

OURS = "joint"
SYSTEMS = (
    "full network, 4 bits",
    "early exit, best uniform bits",
    "mixed precision",
    "mixed precision, then early exit",
    OURS,
    "MSDNet, 4 bits",
    "SDN, 4 bits",
)
FULL, EXITS, BITS, SEQUENTIAL, _, MSDNET, SDN = SYSTEMS


@dataclass(frozen=True)
class Backbone:
    """The network that all systems but MSDNet have in common, and what its accuracies ask for.

    Attributes:
        study: Of the systems that share its supernet.
        shares: Budgets of the points that are retrained, as shares of what 4 bits everywhere take.
        offsets: Accuracies that thresholds are fitted to on the search split, relative to the retrained full network
            at 4 bits.
        main: The one of them that the claim is judged at.
        all_exits: Whether all exits are retrained, and chosen among afterwards, with the thresholds; else those that
            the search placed.
        uniform_shares: Those of early exit at uniform bits, where they are others.
    """

    study: str
    shares: tuple[float, ...]
    offsets: tuple[float, ...]
    main: float
    all_exits: bool = False
    uniform_shares: tuple[float, ...] = ()

    @property
    def studies(self) -> dict[str, str]:
        """System -> its study."""
        return dict.fromkeys(SYSTEMS, self.study) | {MSDNET: "ablation_msdnet", SDN: f"{self.study}_sdn"}


def study_file(study: str) -> Path:
    """The file of one of the ablation's studies."""
    return Path(__file__).parent / "studies" / f"{study}.toml"


def _quarters(low: int, high: int) -> tuple[float, ...]:
    """Quarters of a point, from ``low`` to ``high`` of them."""
    return tuple(quarter / 400 for quarter in range(low, high + 1))


BACKBONES = {
    "resnet": Backbone("ablation", (0.55, 0.4, 0.3), _quarters(-10, -2), -0.005),
    "compact": Backbone("ablation_compact", (0.8, 0.65), _quarters(-8, 1), 0.0, True, (1.0, 0.8, 0.65)),
}
FOUR: Bits = (4, 4)


def restricted(
    space: SearchSpace,
    *,
    granularity: str | None = None,
    candidates: tuple[str, ...] | None = None,
) -> SearchSpace:
    """The space of the same network in which less may be chosen."""
    spec = space.spec.model_dump(mode="json")
    if granularity is not None:
        spec["bits"]["granularity"] = granularity
    if candidates is not None:
        spec["exits"]["candidates"] = candidates
    return resolve_space(SpaceSpec.model_validate(spec))[0]


class Chooser:
    """Searches restricted spaces with the shared supernet.

    Args:
        context: Run folder with the trained supernet.
        folder: Where the studies' journals are.
        backbone: Says the budgets.
    """

    def __init__(self, context: Context, folder: Path, backbone: Backbone) -> None:
        self.context, self.space, self.folder, self.backbone = context, context.space, folder, backbone

    @cached_property
    def engine(self) -> Engine:
        """Runs the supernet over the search split."""
        supernet, batches = self.context.supernet(), self.context.search_batches
        return Engine(supernet, batches, choose_settings(supernet, self.context.study.search.backend))

    @cached_property
    def _supernet_digest(self) -> str:
        return file_digest(self.context.folder / "supernet" / "weights.safetensors")

    def widened(self, space: SearchSpace, bits: Mapping[str, Bits]) -> dict[str, Bits]:
        """A restricted space's bits as a configuration of the whole space; heads that it lacks: 4/4, never placed."""
        by_layer = space.layer_bits(bits)
        return {group.name: by_layer.get(group.layers[0], FOUR) for group in self.space.groups}

    def _evaluate(self, space: SearchSpace) -> Evaluate:
        def evaluate(batch: Sequence[dict[str, Bits]]) -> Iterator[tuple[int, ExitOutputs]]:
            for index, outputs in self.engine.run([self.widened(space, bits) for bits in batch]):
                yield index, outputs.placed(space.candidates)

        return evaluate

    def front(self, name: str, space: SearchSpace) -> list[FrontPoint]:
        """The front of a search in ``space``, by the study's own settings; bits are those of the whole space.

        ``name``: of its journal; a search that was interrupted goes on.
        """
        config = self.context.study.search
        study = open_study(
            space,
            config,
            seed=self.context.study.seed,
            storage_path=self.folder / f"{name}.journal",
            fingerprint={"space": space.digest, "supernet": self._supernet_digest},
            name=name,
        )
        run_search(study, space, config, self._evaluate(space))
        return [_in(self.widened(space, point.bits), point) for point in front_points(study, space)]

    def full(self) -> Architecture:
        """4/4 everywhere, no exits."""
        return Architecture(self._uniform(FOUR))

    def _uniform(self, bits: Bits) -> dict[str, Bits]:
        return {group.name: bits for group in self.space.groups}

    def choices(self) -> dict[str, list[FrontPoint]]:
        """System -> the points to retrain, all chosen before retraining; bits and exits that came before are left out.

        For each share the most accurate policy within that share of the average BOPs that early exits at 4 bits
        take where they cost no accuracy. Without exits: within that share of the BOPs of 4 bits everywhere. "Then early
        exit" has the bits that mixed precision chose.
        """
        four, shares = self._uniform(FOUR), self.backbone.shares
        budgets = self.budgets(four, shares)
        of_uniform = self.budgets(four, self.backbone.uniform_shares or shares)
        without = [share * full_bops(self.space, four) for share in shares]
        bits = dearest(self.front("bits", restricted(self.space, candidates=())), without)
        ladder = [self.widened(self._one, uniform) for uniform in self._one.ladder()]
        return {
            EXITS: dearest([p for uniform in ladder for p in self.with_exits(uniform)], of_uniform),
            BITS: bits,
            SEQUENTIAL: dearest([p for point in bits for p in self.with_exits(point.bits)], budgets),
            OURS: dearest(self.front("joint", self.space), budgets),
        }

    @cached_property
    def _one(self) -> SearchSpace:
        """The space whose layers all have the same bits."""
        return restricted(self.space, granularity="network")

    def budgets(self, bits: dict[str, Bits], shares: Sequence[float]) -> list[float]:
        """Shares of the average BOPs of `as_accurate`."""
        most = self.as_accurate(bits).bops
        return [share * most for share in shares]

    def as_accurate(self, bits: dict[str, Bits]) -> FrontPoint:
        """The cheapest placement of exits and shared threshold that is as accurate as the last exit alone."""
        alone = float(self.engine(bits).accuracy[-1])
        return min((p for p in self.with_exits(bits) if p.accuracy >= alone), key=lambda p: p.bops)

    def with_exits(self, bits: dict[str, Bits]) -> list[FrontPoint]:
        """All placements of exits and shared thresholds worth having, for bits chosen before."""
        outputs = self.engine(bits)
        grid = threshold_grid(outputs, self.context.study.search.thresholds)
        front = config_front(outputs, exit_costs(self.space, bits), grid)
        return [
            FrontPoint(str(i), bits, policy.exits, policy.thresholds, policy.accuracy, policy.bops, outputs.samples)
            for i, policy in enumerate(front)
        ]


def _in(bits: dict[str, Bits], point: FrontPoint) -> FrontPoint:
    return replace(point, bits=bits)


def dearest(points: Sequence[FrontPoint], budgets: Sequence[float]) -> list[FrontPoint]:
    """For each of the budgets (average BOPs) the most accurate point within it; where none is, the cheapest of all."""
    found = []
    for budget in budgets:
        within = [point for point in points if point.bops <= budget]
        cheapest = min(points, key=lambda point: point.bops)
        found.append(max(within, key=lambda point: (point.accuracy, -point.bops)) if within else cheapest)
    return distinct(found)


def distinct(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Without those whose bits and exits came before."""
    seen: dict[str, FrontPoint] = {}
    for point in points:
        seen.setdefault(point.architecture.network_digest, point)
    return list(seen.values())


def with_all_exits(points: Sequence[FrontPoint], candidates: tuple[str, ...]) -> list[FrontPoint]:
    """The bits of ``points`` with an exit wherever there may be one; bits that came before are left out."""
    open_ = (1.0,) * len(candidates)
    return distinct([replace(point, exits=candidates, thresholds=open_) for point in points])
