"""Trials a second of one worker and of two on one study, one thread each; trials lost or doubled.

Workers are processes that run the real loop: a supernet with random weights, all candidate exits, a journal, the
engine with its float back end. They are started, warmed up, and set off together; rounds of one and of two workers
alternate, so that a busy machine strikes both alike. Seconds are from the start of all to the end of the last. Two
workers with a study each, of half the configurations, show what the machine itself allows.

python benchmarks/scaling.py --configurations 128 --samples 2000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usdn_nas.config import SearchConfig, find_toml
from usdn_nas.data.splits import Split
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.engine.outputs import Batches
from usdn_nas.networks.build import resolve_space
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.search_space import SearchSpace, load_space
from usdn_nas.study.search import run_search
from usdn_nas.study.session import Study, open_study


class Noise(Split):
    """Images of noise."""

    def __init__(self, images: Tensor, classes: int) -> None:
        self.images = images
        self.labels = np.arange(len(images), dtype=np.int64) % classes

    def _load(
        self, chunks: Sequence[NDArray[np.int64]], first: int, seed: tuple[int, ...] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            yield self.images[torch.from_numpy(chunk)], torch.from_numpy(self.labels[chunk])


def prepared(options: argparse.Namespace) -> tuple[SearchSpace, Engine]:
    """The engine over a supernet with random weights, all its parts compiled."""
    torch.manual_seed(options.seed)
    space, network = resolve_space(load_space(find_toml(options.space, "search_spaces")))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    supernet = Supernet(network, space)
    images = torch.randn(options.samples, *space.spec.network.input_shape)
    supernet.initialize_steps([images[:100]])
    batches = Batches(Noise(images, space.spec.network.num_classes), options.images, torch.device("cpu"))
    engine = Engine(supernet, batches, EngineSettings("float", options.images, threads=options.threads))
    choices = range(max(len(group.choices) for group in space.groups))
    uniform = [[min(choice, len(group.choices) - 1) for group in space.groups] for choice in choices]
    list(engine.run([space.choice_bits(one) for one in uniform]))
    return space, engine


def opened(options: argparse.Namespace, space: SearchSpace, folder: Path) -> tuple[Study, SearchConfig]:
    """The study that the workers share."""
    settings = {"sampler": options.sampler, "configurations": options.configurations, "batch": options.batch}
    config = SearchConfig.model_validate(settings)
    path = folder / "study.journal"
    return open_study(space, config, seed=options.seed, storage_path=path, fingerprint={}, name="scaling"), config


def work(options: argparse.Namespace, folder: Path, barrier: Barrier, results: Any) -> None:
    """One worker; puts down when it began and ended, its processor seconds, and what it told."""
    torch.set_num_threads(options.threads)
    space, engine = prepared(options)
    study, config = opened(options, space, folder)
    told: list[int] = []
    barrier.wait()
    began, processor = time.time(), time.process_time()
    run_search(study, space, config, engine.run, on_trial=lambda trial: told.append(trial.number))
    results.put((began, time.time(), time.process_time() - processor, told))


def round_of(options: argparse.Namespace, workers: int, studies: int) -> dict[str, Any]:
    """So many workers on one study, or on one each, from nothing to their end."""
    spawn = multiprocessing.get_context("spawn")
    options = argparse.Namespace(**{**vars(options), "configurations": options.configurations // studies})
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folders = [Path(name) / str(number % studies) for number in range(workers)]
        barrier, results = spawn.Barrier(workers), spawn.SimpleQueue()
        processes = [spawn.Process(target=work, args=(options, folder, barrier, results)) for folder in folders]
        for process in processes:
            process.start()
        found = [results.get() for _ in processes]
        for process in processes:
            process.join()
        space, _ = resolve_space(load_space(find_toml(options.space, "search_spaces")))
        trials = [t for f in set(folders) for t in opened(options, space, f)[0].get_trials(deepcopy=False)]
    told = [number for _, _, _, numbers in found for number in numbers]
    complete = sum(trial.state.name == "COMPLETE" for trial in trials)
    bits = {tuple(sorted((k, v) for k, v in trial.params.items() if k != "trade_off")) for trial in trials}
    doubled = len(told) - len(set(told)) + len(trials) - len(bits) if studies == 1 else None
    return {
        "seconds": max(end for _, end, _, _ in found) - min(began for began, _, _, _ in found),
        "processor_seconds": sum(processor for _, _, processor, _ in found),
        "lost": options.configurations * studies - complete,
        "doubled": doubled,
        "shares": sorted(len(numbers) for _, _, _, numbers in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="resnet_fashion")
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--configurations", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--images", type=int, default=50, help="images the engine runs at once")
    parser.add_argument("--threads", type=int, default=1, help="of a worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the journal is put (default: the system's temporary folder)")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    rounds: dict[tuple[int, int], list[dict[str, Any]]] = {(1, 1): [], (2, 1): [], (2, 2): []}
    for _ in range(options.rounds):
        for (workers, studies), found in rounds.items():
            found.append(round_of(options, workers, studies))
    rows = [
        {
            "workers": workers,
            "studies": studies,
            "trials_per_second": options.configurations / statistics.median(one["seconds"] for one in found),
            "ratio": statistics.median(
                first["seconds"] / one["seconds"] for first, one in zip(rounds[1, 1], found, strict=True)
            ),
            "processor_seconds": statistics.median(one["processor_seconds"] for one in found),
            "lost": sum(one["lost"] for one in found),
            "doubled": sum(one["doubled"] for one in found) if studies == 1 else None,
            "rounds": found,
        }
        for (workers, studies), found in rounds.items()
    ]
    if options.format == "json":
        print(json.dumps({"settings": vars(options), "torch": torch.__version__, "rows": rows}, indent=2))
        return
    print(
        f"{options.space}, {options.configurations} configurations in batches of {options.batch}, {options.samples} "
        f"images, {options.sampler}, {options.threads} thread a worker, median of {options.rounds} rounds"
    )
    print("workers  studies  trials/s  ratio  processor s  lost  doubled  trials each (last round)")
    for row in rows:
        print(
            f"{row['workers']:7} {row['studies']:8} {row['trials_per_second']:9.2f} {row['ratio']:6.2f}"
            f" {row['processor_seconds']:12.1f} {row['lost']:5} {row['doubled'] if row['studies'] == 1 else '-':>8}"
            f"  {row['rounds'][-1]['shares']}"
        )


if __name__ == "__main__":
    main()
