"""The ablation that the claim rests on: early exit and mixed precision alone, one after the other, and jointly.

python research/ablation.py --seeds 3
python research/ablation.py --seeds 3 --test
python research/ablation.py --seeds 3 --test --network compact

Systems, protocol and findings: research/ablation.md. Everything is chosen on the search split. With --test a seed reads
the test split at its end, once, and writes it into the attempt's record. Killed, it goes on where it stopped. Settings
other than the last attempt's begin a new attempt (``--why``); none is ever removed. Seeds may run side by side
(``--only 1``), and ``--prepare`` beside them.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ablation_summary import MAIN, MARGIN, draw, show
from ablation_systems import (
    BACKBONES,
    BITS,
    FULL,
    MSDNET,
    OURS,
    SDN,
    SYSTEMS,
    Backbone,
    Chooser,
    dearest,
    study_file,
    with_all_exits,
)
from numpy.typing import NDArray
from rich.console import Console

from usdn_nas._util.files import digest, write_json
from usdn_nas._util.progress import Reporter
from usdn_nas.engine.outputs import Batches, run
from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import threshold_grid
from usdn_nas.exits.front import config_front
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.thresholds import fit_accuracies
from usdn_nas.export.document import read_architecture, write_architecture
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.search import load_retrained
from usdn_nas.pipeline.stages import Pipeline, retrain_folder
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import ExitCosts, exit_costs, reference_bops
from usdn_nas.study.points import FrontPoint

SCHEMA = "usdn-nas/benchmark-ablation/1"
SHARED = 64
"""How many shared thresholds are tried to choose exits by, where that comes after retraining."""


@dataclass(frozen=True)
class Chosen:
    """A policy of a candidate: which of its exits, and their thresholds."""

    exits: tuple[str, ...]
    thresholds: tuple[float, ...]


def best_of(accuracy: float, figures: Sequence[dict[str, Any]]) -> int:
    """Which has the least average BOPs of those that reach an accuracy; none: which is the most accurate."""
    reaching = [i for i, one in enumerate(figures) if one["accuracy"] >= accuracy - 1e-9]
    if reaching:
        return min(reaching, key=lambda i: figures[i]["average_bops"])
    return max(range(len(figures)), key=lambda i: figures[i]["accuracy"])


@dataclass
class Candidate:
    """An architecture of a system, retrained; its outputs on the search split and, once asked for, on the test split.

    Args:
        path: Its architecture file.
        inherited: Accuracy and BOPs of its policy before retraining.
        all_exits: Whether a policy may leave out some of its exits.
    """

    context: Context
    architecture: Architecture
    path: Path
    inherited: dict[str, float] | None
    all_exits: bool

    def retrain(self) -> None:
        """Trains it, unless that is done."""
        write_architecture(
            self.path, self.context.space, self.architecture, objective=None, metrics=None, source=None,
            provenance=self.context.provenance(), data=self.context.data_summary(),
        )  # fmt: skip
        Pipeline(self.context).retrain_all(self.path)

    @cached_property
    def costs(self) -> ExitCosts:
        """Of the placed exits."""
        return exit_costs(self.context.space, self.architecture.bits).placed(self.architecture.exits)

    def outputs(self, batches: Batches) -> ExitOutputs:
        """Of the retrained network."""
        folder = self.context.folder / retrain_folder(self.architecture) / "kd"
        file = read_architecture(self.path, within=self.context.space)
        network = load_retrained(self.context, file, folder)
        return run(network, batches, network.exit_names)

    @cached_property
    def search(self) -> ExitOutputs:
        """On the search split."""
        return self.outputs(self.context.search_batches)

    @cached_property
    def test(self) -> ExitOutputs:
        """On the test split."""
        return self.outputs(self.context.test_batches)

    def policies(self, accuracies: Sequence[float]) -> list[Chosen]:
        """For each accuracy the cheapest policy that reaches it on the search split, or the most accurate."""
        fitted = [
            [Chosen(exits, fit.thresholds) for fit in fit_accuracies(*self._of(self.search, exits), accuracies)]
            for exits in self._placements(accuracies)
        ]
        return [
            self._best(accuracy, of_it) for accuracy, of_it in zip(accuracies, zip(*fitted, strict=True), strict=True)
        ]

    def _placements(self, accuracies: Sequence[float]) -> list[tuple[str, ...]]:
        """The exits worth a fit: with a shared threshold they are the best for one of the accuracies."""
        if not self.all_exits or not self.architecture.exits:
            return [self.architecture.exits]
        front = config_front(self.search, self.costs, threshold_grid(self.search, SHARED))
        best = [min((p for p in front if p.accuracy >= a), key=lambda p: p.bops, default=front[-1]) for a in accuracies]
        return list(dict.fromkeys(policy.exits for policy in best))

    def _best(self, accuracy: float, those: Sequence[Chosen]) -> Chosen:
        figures = [self.measured(self.search, one) for one in those]
        return those[best_of(accuracy, figures)]

    def _of(self, outputs: ExitOutputs, exits: Sequence[str]) -> tuple[ExitOutputs, ExitCosts]:
        return outputs.placed(exits), self.costs.placed(exits)

    def measured(self, outputs: ExitOutputs, chosen: Chosen) -> dict[str, Any]:
        """Accuracy, average BOPs and exit rates of a policy."""
        result = apply(*self._of(outputs, chosen.exits), chosen.thresholds)
        return {
            "accuracy": result.accuracy,
            "average_bops": result.average_bops,
            "exit_rates": result.exit_rates.tolist(),
        }

    def right(self, chosen: Chosen) -> NDArray[np.bool_]:
        """(N,): whether the policy's answer is right, on the test split."""
        placed, costs = self._of(self.test, chosen.exits)
        result = apply(placed, costs, chosen.thresholds)
        return placed.correct[result.answers_at, np.arange(placed.samples)]

    def described(self) -> dict[str, Any]:
        """What it is, and its curve on the search split."""
        return {
            "bits": {group: list(pair) for group, pair in self.architecture.bits.items()},
            "exits": list(self.architecture.exits),
            "inherited": self.inherited,
            "accuracy_exits": dict(zip(self.search.names, self.search.accuracy.tolist(), strict=True)),
        }


class Seed:
    """One seed of an attempt."""

    def __init__(
        self, seed: int, runs: Path, record: Record, reporter: Reporter, *, backbone: Backbone, test: bool
    ) -> None:
        self.seed, self.record, self.reporter, self.test = seed, record, reporter, test
        self.backbone, self.folder = backbone, runs / f"seed-{seed}"
        self.contexts = {
            study: open_run(study_file(study), (f"seed={seed}", "threads=1"), self.folder / study, reporter)
            for study in dict.fromkeys(backbone.studies.values())
        }

    def prepare(self) -> None:
        """Trains what the systems start from: the 4-bit MSDNet and SDN, and the supernet."""
        for context in reversed(self.contexts.values()):
            with waiting(context.folder):
                Pipeline(context).run(until="supernet")

    def run(self) -> None:
        """All systems; then, if asked for, the test split."""
        if self.record.of(self.seed).get("test"):
            self.reporter.say(f"seed {self.seed}: done before")
            return
        found = self._from_supernet()
        for system in (MSDNET, SDN):
            found[system] = self._of_other(system)
        self._retrain(found)
        candidates = {system: found[system] for system in SYSTEMS}
        target = float(candidates[FULL][0].search.accuracy[-1])
        self.record.write(self.seed, "target", {"search_accuracy": target})
        for system, those in candidates.items():
            points = self._points(those, target)
            described = [candidate.described() for candidate in those]
            self.record.write(self.seed, system, {"candidates": described, "points": points})
        if self.test:
            self._read_test(candidates)

    def _retrain(self, candidates: dict[str, list[Candidate]]) -> None:
        """The first of every system, then the second ..."""
        for number in range(max(len(those) for those in candidates.values())):
            for system, those in candidates.items():
                if number < len(those):
                    those[number].retrain()
                    accuracies = [round(a, 4) for a in those[number].search.accuracy.tolist()]
                    self.record.write(self.seed, system, {f"retrained {number}": accuracies})
                    self.reporter.say(f"seed {self.seed}: {system}, candidate {number}: {accuracies}")

    def _from_supernet(self) -> dict[str, list[Candidate]]:
        """System -> its candidates, not yet retrained, where they share the supernet."""
        context = self.contexts[self.backbone.studies[OURS]]
        with waiting(context.folder):
            Pipeline(context).run(until="supernet")
        chooser = Chooser(context, self.folder / "search", self.backbone)
        found = {FULL: [self._candidate(FULL, 0, context, chooser.full(), None)]}
        for system, points in chooser.choices().items():
            found[system] = self._candidates(system, context, points)
        return found

    def _of_other(self, system: str) -> list[Candidate]:
        """Of MSDNet or SDN, whose bits are given: the most accurate placement within each share of what it takes."""
        context = self.contexts[self.backbone.studies[system]]
        with waiting(context.folder):
            Pipeline(context).run(until="supernet")
        chooser = Chooser(context, self.folder / "search", self.backbone)
        bits = dict(context.space.ladder()[0])
        points = dearest(chooser.with_exits(bits), chooser.budgets(bits, self.backbone.shares))
        return self._candidates(system, context, points)

    def _candidates(self, system: str, context: Context, points: Sequence[FrontPoint]) -> list[Candidate]:
        if self.backbone.all_exits and system != BITS:
            points = with_all_exits(points, context.space.candidates)
        return [
            self._candidate(system, i, context, p.architecture, {"accuracy": p.accuracy, "bops": p.bops})
            for i, p in enumerate(points)
        ]

    def _candidate(
        self, system: str, number: int, context: Context, architecture: Architecture, inherited: dict[str, float] | None
    ) -> Candidate:
        name = system.replace(",", "").replace(" ", "-")
        return Candidate(
            context, architecture, self.folder / "chosen" / f"{name}-{number}.json", inherited, self.backbone.all_exits
        )

    def _points(self, candidates: list[Candidate], target: float) -> list[dict[str, Any]]:
        """For each accuracy aimed at the candidate and policy that are cheapest on the search split, with figures.

        Accuracies: the backbone's offsets, and each with `MARGIN` on top.
        """
        wanted = self.backbone.offsets
        offsets = sorted({*wanted, *(round(offset + MARGIN, 6) for offset in wanted)})
        fitted = [candidate.policies([target + offset for offset in offsets]) for candidate in candidates]
        return [self._point(candidates, [one[i] for one in fitted], target, offset) for i, offset in enumerate(offsets)]

    def _point(
        self, candidates: list[Candidate], policies: list[Chosen], target: float, offset: float
    ) -> dict[str, Any]:
        figures = [
            candidate.measured(candidate.search, own) for candidate, own in zip(candidates, policies, strict=True)
        ]
        number = best_of(target + offset, figures)
        return {
            "offset": offset,
            "reached": figures[number]["accuracy"] >= target + offset - 1e-9,
            "candidate": number,
            "exits": list(policies[number].exits),
            "thresholds": list(policies[number].thresholds),
            "search": figures[number],
        }

    def _read_test(self, candidates: dict[str, list[Candidate]]) -> None:
        """Measures every chosen point on the test split; from here on the seed is done."""
        context = self.contexts[self.backbone.studies[OURS]]
        found: dict[str, Any] = {}
        for system, those in candidates.items():
            rows = []
            for point in self.record.of(self.seed)[system]["points"]:
                candidate = those[point["candidate"]]
                chosen = Chosen(tuple(point["exits"]), tuple(point["thresholds"]))
                right = np.packbits(candidate.right(chosen))
                rows.append(
                    {
                        "offset": point["offset"],
                        **candidate.measured(candidate.test, chosen),
                        "right": base64.b64encode(right.tobytes()).decode(),
                    }
                )
            found[system] = rows
        self.record.write(
            self.seed,
            "test",
            {
                "n": len(context.data.test),
                "systems": found,
                "reference_bops": reference_bops(context.space),
                "provenance": context.provenance(),
                "read": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )


@contextmanager
def waiting(folder: Path) -> Iterator[None]:
    """Holds a folder; waits while another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class Record:
    """The last attempt of a results file, shared with the processes of other seeds."""

    def __init__(self, path: Path, settings: dict[str, Any], why: str | None, start: dict[str, Any]) -> None:
        self.path, self.digest = path, digest(settings)
        with self._locked() as results:
            last = results["attempts"][-1] if results["attempts"] else None
            if last is None or last["digest"] != self.digest:
                if last is not None and why is None:
                    raise SystemExit(f"{path}: settings differ from the last attempt's; say --why a new one is made")
                results["attempts"].append(
                    {"digest": self.digest, "why": why or "first attempt", **start, "settings": settings, "seeds": {}}
                )

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        """The file's content, written back at the end."""
        with waiting(self.path.parent):
            there = json.loads(self.path.read_text()) if self.path.is_file() else {"schema": SCHEMA, "attempts": []}
            before = json.dumps(there)
            yield there
            if json.dumps(there) != before:
                write_json(self.path, there)

    def of(self, seed: int) -> dict[str, Any]:
        """What is known of a seed."""
        with self._locked() as results:
            found: dict[str, Any] = results["attempts"][-1]["seeds"].get(str(seed), {})
        return found

    def write(self, seed: int, key: str, figures: dict[str, Any]) -> None:
        """Adds figures under a key of a seed."""
        with self._locked() as results:
            entry = results["attempts"][-1]["seeds"].setdefault(str(seed), {})
            entry[key] = {**entry.get(key, {}), **figures}


def settings_of(runs: Path, backbone: Backbone) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides an attempt's figures, seeds aside; and where it begins: date, commit, MACs."""
    every = sorted(set(backbone.studies.values()))
    contexts = {study: open_run(study_file(study), (), runs / study) for study in every}
    settings = {
        "shares": list(backbone.shares),
        "offsets": list(backbone.offsets),
        "margin": MARGIN,
        "studies": {
            study: {"study": c.study.model_dump(mode="json"), "space": c.spec.model_dump(mode="json")}
            for study, c in contexts.items()
        },
    }
    # what came later is written only where it is used: records made before still hold
    if backbone.main != MAIN:
        settings["main"] = backbone.main
    if backbone.all_exits:
        settings["all_exits"] = True
    if backbone.uniform_shares:
        settings["uniform_shares"] = list(backbone.uniform_shares)
    macs = {study: context.space.chain.macs for study, context in contexts.items()}
    commit = contexts[backbone.study].provenance().get("commit")
    start = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit, "macs": macs}
    return settings, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="0 to SEEDS - 1")
    parser.add_argument("--only", type=int, nargs="+", help="these seeds alone")
    parser.add_argument("--prepare", action="store_true", help="train what the systems start from, choose nothing")
    parser.add_argument("--test", action="store_true", help="read the test split, once a seed, when all else is done")
    parser.add_argument("--network", choices=BACKBONES, default="resnet", help="backbone of all systems but MSDNet")
    parser.add_argument("--runs", type=Path, help="default: runs/ablation, or runs/ablation_NETWORK")
    parser.add_argument("--results", type=Path, help="default: results/ablation.json, or results/ablation_NETWORK.json")
    parser.add_argument("--why", help="of a new attempt")
    parser.add_argument("--figure", type=Path, help="also draw the last attempt")
    parser.add_argument("--show", action="store_true", help="print the tables of the last attempt, run nothing")
    options = parser.parse_args()
    backbone = BACKBONES[options.network]
    runs = options.runs or Path("runs") / backbone.study
    path = options.results or Path(__file__).parent / "results" / f"{backbone.study}.json"
    if not options.show:
        settings, start = settings_of(runs, backbone)
        largest, smallest = max(start["macs"].values()), min(start["macs"].values())
        ours = start["macs"][backbone.study]
        if largest > 1.2 * ours or smallest < 0.8 * ours:
            raise SystemExit(f"backbones must have equal MACs, within 20%: {start['macs']}")
        record = Record(path, settings, options.why, start)
        reporter = Reporter(Console(stderr=True))
        for seed in options.only or range(options.seeds):
            one = Seed(seed, runs, record, reporter, backbone=backbone, test=options.test)
            one.prepare() if options.prepare else one.run()
        if options.prepare:
            return
    results = json.loads(path.read_text())
    show(results, Console(width=150))
    if options.figure is not None:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
