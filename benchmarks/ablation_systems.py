"""The ablation's systems: what each may choose, and its choices on the search split from the shared supernet.

All but MSDNet and SDN are points of one search space, ``resnet_fashion_small``, so that one supernet serves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from usdn_nas.architecture import Architecture, Bits
from usdn_nas.cost import exit_costs
from usdn_nas.evaluation.engine import Engine, choose_settings
from usdn_nas.files import file_digest
from usdn_nas.networks.build import resolve_space
from usdn_nas.pipeline.context import Context
from usdn_nas.policy.exact import threshold_grid
from usdn_nas.policy.front import own_front
from usdn_nas.policy.outputs import ExitOutputs
from usdn_nas.space import SearchSpace, SpaceSpec
from usdn_nas.study.points import FrontPoint, front_points
from usdn_nas.study.search import Evaluate, run_search
from usdn_nas.study.session import open_study

OURS = "joint"
STUDIES = {
    "full network, 4 bits": "ablation",
    "early exit, best uniform bits": "ablation",
    "mixed precision": "ablation",
    "mixed precision, then early exit": "ablation",
    OURS: "ablation",
    "MSDNet, 4 bits": "ablation_msdnet",
    "SDN, 4 bits": "ablation_sdn",
}
"""System -> its study."""

FULL, EXITS, BITS, SEQUENTIAL, _, MSDNET, SDN = STUDIES
FOUR: Bits = (4, 4)


def restricted(
    space: SearchSpace,
    *,
    granularity: str = "block",
    candidates: tuple[str, ...] | None = None,
) -> SearchSpace:
    """The space of the same network in which less may be chosen."""
    spec = space.spec.model_dump(mode="json")
    spec["bits"]["granularity"] = granularity
    if candidates is not None:
        spec["exits"]["candidates"] = candidates
    return resolve_space(SpaceSpec.model_validate(spec))[0]


class Chooser:
    """Searches restricted spaces with the shared supernet.

    Args:
        context: Run folder with the trained supernet.
        folder: Where the studies' journals are.
    """

    def __init__(self, context: Context, folder: Path) -> None:
        self.context, self.space, self.folder = context, context.space, folder

    @cached_property
    def engine(self) -> Engine:
        """Runs the supernet over the search split."""
        supernet, batches = self.context.supernet(), self.context.search_batches
        return Engine(supernet, batches, choose_settings(supernet, batches, self.context.study.search.backend))

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

    def full(self) -> tuple[Architecture, ExitOutputs]:
        """4/4 everywhere, no exits; with its outputs."""
        bits = {group.name: FOUR for group in self.space.groups}
        return Architecture(bits), self.engine(bits).placed(())

    def choices(self, accuracies: Iterable[float]) -> dict[str, list[FrontPoint]]:
        """System -> its cheapest point that reaches the first of ``accuracies`` before retraining.

        Early exits at uniform bits have one for each of them. Where none reaches it, the most accurate. A point whose
        bits and exits came before is left out.
        """
        every = list(accuracies)
        wanted = every[:1]
        exits = self.front("exits", restricted(self.space, granularity="network"))
        bits = self.front("bits", restricted(self.space, candidates=()))
        joint = self.front("joint", self.space)
        found = {EXITS: cheapest(exits, every), BITS: cheapest(bits, wanted), OURS: cheapest(joint, wanted)}
        found[SEQUENTIAL] = cheapest(self.with_exits(found[BITS][0].bits), wanted)
        return found

    def with_exits(self, bits: dict[str, Bits]) -> list[FrontPoint]:
        """All placements of exits and shared thresholds worth having, for bits chosen before."""
        outputs = self.engine(bits)
        grid = threshold_grid(outputs, self.context.study.search.thresholds)
        front = own_front(outputs, exit_costs(self.space, bits), grid)
        return [
            FrontPoint(str(i), bits, policy.exits, policy.thresholds, policy.accuracy, policy.bops, outputs.samples)
            for i, policy in enumerate(front)
        ]


def _in(bits: dict[str, Bits], point: FrontPoint) -> FrontPoint:
    return FrontPoint(**{**vars(point), "bits": bits})


def cheapest(points: Sequence[FrontPoint], accuracies: Sequence[float], *, distinct: bool = True) -> list[FrontPoint]:
    """For each accuracy the cheapest point that reaches it; where none does, the most accurate."""
    found = []
    for accuracy in accuracies:
        reaching = [point for point in points if point.accuracy >= accuracy]
        if reaching:
            found.append(min(reaching, key=lambda point: point.bops))
        else:
            found.append(max(points, key=lambda point: (point.accuracy, -point.bops)))
    return _distinct(found) if distinct else found


def _distinct(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    seen: dict[str, Any] = {}
    for point in points:
        seen.setdefault(point.architecture.network_digest, point)
    return list(seen.values())
