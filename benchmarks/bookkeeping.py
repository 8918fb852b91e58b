"""Milliseconds a trial that is not evaluation, by storage and sampler, when a study has so many trials.

An 8-block space (ResNet-18, four pairs of bits a block, exits solved exactly). Nothing is run: outputs and judgements
are made beforehand, their fronts as large as real ones. ``ours`` is storage, loop and our part of the sampler; the
third column is what Optuna's own sampler takes inside it. Both are means over the trials before the named number.

python benchmarks/bookkeeping.py --trials 100 1000 5000
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna

from usdn_nas.config import SearchConfig, find_toml
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.networks.build import resolve_space
from usdn_nas.space.search_space import SearchSpace, load_space
from usdn_nas.study import judgement, samplers, search, session

STORAGES = ("journal", "sqlite", "memory")
SAMPLERS = ("random", "nsga2", "tpe", "surrogate")
SLOW = ("tpe", "gp", "surrogate")
"""Their proposals cost much at thousands of trials: all but the measured ones come from the random sampler."""


class Clock:
    """Seconds spent in some functions, with those inside them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def outputs(space: SearchSpace, generator: np.random.Generator, samples: int = 500) -> ExitOutputs:
    """Confidences and correctness that rise from exit to exit."""
    level = np.linspace(0.5, 0.95, len(space.candidates) + 1)[:, None] * generator.uniform(0.9, 1)
    confidence = generator.beta(8 * level, 8 * (1 - level), size=(len(level), samples)).astype(np.float32)
    return ExitOutputs(confidence, generator.random(confidence.shape) < confidence, (*space.candidates, "final"))


@contextlib.contextmanager
def canned(space: SearchSpace, config: SearchConfig, generator: np.random.Generator) -> Iterator[None]:
    """Judgements made once from random outputs, handed out in turn with figures a little different each time."""
    made = []
    for _ in range(16):
        bits = space.choice_bits([int(generator.integers(len(group.choices))) for group in space.groups])
        made.append(judgement.judge(space, config, {"trade_off": 0.1}, bits, outputs(space, generator)))
    turn = itertools.cycle(made)

    def judge(*_: object) -> judgement.ScoredTrial:
        one = next(turn)
        shift = float(generator.normal(0, 0.01))
        front = [[a + shift, b * (1 - shift), mask, t] for a, b, mask, t in one.record["front"]]
        values = [one.values[0] + shift, one.values[1] * (1 - shift)]
        return judgement.ScoredTrial(values, None, one.front, one.chosen, {**one.record, "front": front})

    with patch.object(search, "judge", judge):
        yield


def measured(
    options: argparse.Namespace, space: SearchSpace, storage: str, sampler: str, trials: int
) -> dict[str, Any]:
    """The row of one storage, sampler and number of trials."""
    generator = np.random.default_rng(options.seed)
    one = outputs(space, generator)
    before = trials - min(options.last, trials)

    def settings(name: str, configurations: int, url: str | None) -> SearchConfig:
        return SearchConfig.model_validate(
            {"sampler": name, "configurations": configurations, "batch": options.batch, "storage": url}
        )

    def run(study: optuna.Study, config: SearchConfig) -> float:
        start = time.perf_counter()
        search.run_search(study, space, config, lambda batch: ((i, one) for i, _ in enumerate(batch)))
        return time.perf_counter() - start

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        url = f"sqlite:///{folder}/study.db" if storage == "sqlite" else None
        if storage == "memory":
            held = optuna.storages.InMemoryStorage()
            stack.enter_context(patch.object(session, "open_storage", lambda *_: held))
        config = settings(sampler, trials, url)
        stack.enter_context(canned(space, config, generator))

        def opened() -> optuna.Study:
            path = folder / "study.journal"
            return session.open_study(space, config, seed=options.seed, storage_path=path, fingerprint={}, name="b")

        study = opened()
        if before:
            filler = "random" if sampler in SLOW else sampler
            own = study.sampler
            fill = settings(filler, before, url)
            study.sampler = samplers.SeededSampler(space, fill, samplers.sampler_settings(space, fill, options.seed))
            run(study, fill)
            study.sampler = own
        inner, whole = Clock(), Clock()
        third = patch.object(
            samplers.SeededSampler, "_inner_proposal", inner.timed(samplers.SeededSampler._inner_proposal)
        )
        proposal = patch.object(
            samplers.SeededSampler, "sample_relative", whole.timed(samplers.SeededSampler.sample_relative)
        )
        with third, proposal:
            seconds = run(study, config)
        start = time.perf_counter()
        if storage != "memory":
            opened().get_trials(deepcopy=False)
        opening = time.perf_counter() - start
        size = sum(path.stat().st_size for path in folder.iterdir())
    count = trials - before
    return {
        "storage": storage,
        "sampler": sampler,
        "trials": trials,
        "ours_ms": (seconds - inner.seconds) / count * 1e3,
        "of_it_in_our_sampler_ms": (whole.seconds - inner.seconds) / count * 1e3,
        "third_party_ms": inner.seconds / count * 1e3,
        "kilobytes_a_trial": size / trials / 1e3,
        "opening_seconds": opening,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=list(STORAGES))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--space", default="resnet18_imagenet")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--last", type=int, default=64, help="trials that are measured, before the named number")
    parser.add_argument("--folder", help="where the storages are put (default: the system's temporary folder)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, _ = resolve_space(load_space(find_toml(options.space, "search_spaces")))
    rows = []
    if options.format == "table":
        print(f"{options.space}, {len(space.groups)} groups, batches of {options.batch}, optuna {optuna.__version__}")
        print("storage  sampler    trials     ours  (sampler)  third-party ms  kB/trial  opening s")
    for storage, sampler, trials in itertools.product(options.storages, options.samplers, options.trials):
        rows.append(measured(options, space, storage, sampler, trials))
        if options.format == "table":
            row = rows[-1]
            print(
                f"{storage:8} {sampler:9} {trials:7,} {row['ours_ms']:8.2f}   {row['of_it_in_our_sampler_ms']:8.2f}"
                f"  {row['third_party_ms']:14.2f}  {row['kilobytes_a_trial']:8.1f}  {row['opening_seconds']:9.2f}",
                flush=True,
            )
    if options.format == "json":
        print(json.dumps({"settings": vars(options), "optuna": optuna.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
