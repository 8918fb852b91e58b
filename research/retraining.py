"""Configurations in bands of BOPs, each retrained from the same full-precision weights: what `ranking.py` looks at.

usdn-nas pretrain research/studies/ranking.toml --out RUN
python research/retraining.py RUN

A finished retraining is a record in one JSON file; started again, it goes on with those missing. Several
processes of one machine share the work.
"""

from __future__ import annotations

import argparse
import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError
from usdn_nas._util.files import digest, file_digest, read_json, write_json
from usdn_nas._util.seeds import derive
from usdn_nas.config import TrainConfig
from usdn_nas.engine.outputs import run
from usdn_nas.exits.exact import score_shared, threshold_grid
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.train import untrained_supernet
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.cost import exit_costs, full_bops, reference_bops
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.parameters import bits_of, configuration
from usdn_nas.training.loop import fit
from usdn_nas.training.losses import ExitWeights, cross_entropy_step

__all__ = ["BANDS", "RESULTS", "STRATA", "Configuration", "Retrainings", "draw", "early_exit_value"]

RESULTS = Path(__file__).parent / "results" / "ranking.json"
SCHEMA = "usdn-nas/benchmark-ranking/1"
BANDS = {"low": 0.15, "mid": 0.5, "high": 0.85}
"""Band -> the share of all configurations that have fewer BOPs than its centre."""
WIDTH = 0.05
"""A band holds what lies within this share of its centre's BOPs."""
RANGE = "range"
STRATA = (*BANDS, RANGE)
EACH = 20
THRESHOLDS = 64
RECIPE = TrainConfig(epochs=1, batch_size=128, lr=0.02, weight_decay=5e-4, max_steps=150)


@dataclass(frozen=True)
class Configuration:
    """A bit configuration of one stratum.

    Attributes:
        name: ``"low-03"``: stratum and number.
        bits: Group name -> (W, A).
        bops: Of the whole network, without internal classifiers.
    """

    name: str
    bits: dict[str, Bits]
    bops: int

    @property
    def stratum(self) -> str:
        """One of `STRATA`."""
        return self.name.rpartition("-")[0]


def draw(space: SearchSpace, each: int = EACH, seed: int = 0) -> list[Configuration]:
    """``each`` configurations a stratum, all distinct, drawn at random; the strata take turns.

    The last stratum spreads over the whole range: one configuration, drawn at random, in each of ``each`` equal parts
    of the BOPs between the cheapest and the dearest; where a part holds none, in the parts next to it.
    """
    generator = np.random.default_rng([seed, each])
    every = [bits_of(space, configuration(space, number)) for number in range(space.bit_configurations)]
    bops = np.array([full_bops(space, bits) for bits in every])
    free = np.ones(len(every), dtype=bool)
    chosen: dict[str, list[int]] = {}
    for band, share in BANDS.items():
        centre = np.quantile(bops, share)
        inside = np.flatnonzero(free & (np.abs(bops / centre - 1) <= WIDTH))
        chosen[band] = generator.choice(inside, each, replace=False).tolist()
        free[chosen[band]] = False
    chosen[RANGE] = []
    for middle in (np.arange(each) + 0.5) / each:
        target = bops.min() + middle * np.ptp(bops)
        distance = np.maximum(np.abs(bops - target), np.ptp(bops) / (2 * each))
        near = np.flatnonzero(free & (distance == distance[free].min()))
        chosen[RANGE].append(int(generator.choice(near)))
        free[chosen[RANGE][-1]] = False
    return [
        Configuration(f"{stratum}-{index:02}", every[chosen[stratum][index]], int(bops[chosen[stratum][index]]))
        for index in range(each)
        for stratum in STRATA
    ]


def early_exit_value(
    space: SearchSpace, bits: dict[str, Bits], outputs: ExitOutputs, tr: float
) -> tuple[float, NDArray[np.float64]]:
    """The largest accuracy - tr x average BOPs / reference over placements and shared thresholds, and (N,) its parts.

    The parts are what each image adds: right or wrong, less tr x the BOPs it took.
    """
    costs, reference = exit_costs(space, bits), reference_bops(space)
    scores = score_shared(outputs, costs, threshold_grid(outputs, THRESHOLDS))
    values = scores.accuracy - tr * scores.bops / reference
    row, placement = np.unravel_index(int(values.argmax()), values.shape)
    exits = scores.exits(int(placement))
    placed, threshold = outputs.placed(exits), scores.thresholds[row]
    leaves = placed.confidence >= threshold
    leaves[-1] = True
    where = leaves.argmax(axis=0)
    right = placed.correct[where, np.arange(placed.samples)]
    parts = right - tr * costs.placed(exits).cumulative[where] / reference
    return float(values.max()), parts


class Retrainings:
    """The records of a run's retrainings.

    Args:
        context: An opened run folder with pretrained weights.
        path: Where the records are.
    """

    def __init__(self, context: Context, path: Path) -> None:
        self.context, self.path = context, path
        self.configurations = draw(context.space)
        self.digest = digest(
            {
                "space": context.space.digest,
                "pretrained": file_digest(context.folder / "pretrain" / "weights.safetensors"),
                "data": context.data.digest,
                "recipe": RECIPE.model_dump(mode="json"),
                "exit_weight": context.study.supernet.exit_weight,
                "tr": context.study.search.tr,
            }
        )

    def read(self) -> dict[str, Any]:
        """The file; a new one where there is none.

        Raises:
            UserError: It was made with other weights, data or settings.
        """
        if self.path.is_file():
            found = read_json(self.path, SCHEMA)
            if found["digest"] != self.digest:
                raise UserError("records of other weights or settings", where=self.path, remedy="name other --results")
            return found
        return {
            "schema": SCHEMA,
            "digest": self.digest,
            "recipe": RECIPE.model_dump(mode="json", exclude_none=True),
            "tr": self.context.study.search.tr,
            "configurations": {c.name: {"bits": c.bits, "bops": c.bops} for c in self.configurations},
            "retrained": {},
            "provenance": self.context.provenance(),
        }

    @contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        """What `read` gives, written back at the end."""
        with self._lock("results"):
            results = self.read()
            yield results
            write_json(self.path, results)

    @contextmanager
    def _lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Whether the lock ``name`` is ours, against other processes; it goes when its owner does."""
        path = Path(tempfile.gettempdir()) / f"usdn-nas-{self.digest[:16]}-{name}.lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def complete(self, seeds: int) -> None:
        """Retrains what is missing, all configurations with seed 0, then with seed 1, ..."""
        for seed in range(seeds):
            for one in self.configurations:
                key = f"{one.name}, seed {seed}"
                with self._lock(key, wait=False) as ours:
                    if ours and key not in self.read()["retrained"]:
                        self._record(key, one, seed)

    def _record(self, key: str, one: Configuration, seed: int) -> None:
        record = self._retrain(one, seed)
        with self.change() as results:
            results["retrained"][key] = record
        print(f"{key}: final exit {record['accuracy'][-1]:.4f}, value {record['value']:.4f}", flush=True)

    @cached_property
    def _start(self) -> Supernet:
        return untrained_supernet(self.context, self.context.pretrained())

    def train(
        self, bits: dict[str, Bits], recipe: TrainConfig, seed: int, folder: Path, fingerprint: str
    ) -> ExitOutputs:
        """Trains ``bits`` from the full-precision weights, cross-entropy at all exits; its outputs on search images.

        Args:
            seed: Draws batches and augmentation.
            folder: Of its checkpoint, from which it goes on.
        """
        context = self.context
        candidates = context.space.candidates
        architecture = Architecture(bits, candidates, (1.0,) * len(candidates))
        network = context.to_device(extract_chain(self._start, architecture))
        weights = ExitWeights(len(network.exit_names), context.study.supernet.exit_weight)
        fit(
            network, cross_entropy_step(network, weights), context.data.train, recipe, seed=(seed,), folder=folder,
            fingerprint=fingerprint, device=context.device, augment=context.study.data.augment,
        )  # fmt: skip
        return run(network, context.search_batches, network.exit_names)

    def _retrain(self, one: Configuration, seed: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            outputs = self.train(one.bits, RECIPE, derive(seed, "ranking"), Path(folder), self.digest)
        value, _ = early_exit_value(self.context.space, one.bits, outputs, self.context.study.search.tr)
        return {"accuracy": outputs.accuracy.tolist(), "value": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    context = open_run(options.run)
    context.device  # noqa: B018  sets the number of threads
    Retrainings(context, options.results).complete(options.seeds)


if __name__ == "__main__":
    main()
