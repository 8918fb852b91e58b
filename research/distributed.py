"""What several processes cost: our one sum a step beside `DistributedDataParallel`, two gloo processes of this machine.

A step of four random paths of a supernet on the same micro-batches: without any exchange, with our one sum over all
processes, and with DistributedDataParallel that finds unused parameters, exchanging after every backward pass or after
the last one alone. Also whether gradients are the same.

python research/distributed.py --space resnet_fashion
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from usdn_nas.config import find_toml
from usdn_nas.networks.build import resolve_space
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.search_space import load_space
from usdn_nas.training.distributed import mean_step
from usdn_nas.training.losses import cross_entropy

Work = Callable[[], object]
PATHS = 4


def _step(
    supernet: Supernet, forward: Callable[[Tensor, bool], tuple[Tensor, ...]], images: Tensor, labels: Tensor
) -> float:
    """Cross-entropy of four paths, one after the other; ``forward`` is told which is the last."""
    space, generator, loss = supernet.space, np.random.default_rng(0), 0.0
    weights = [1.0] * len(space.chain.exits)
    for number in range(PATHS):
        supernet.set_bits(space.sample(generator))
        path = cross_entropy(forward(images, number == PATHS - 1), labels, weights)
        path.backward()
        loss += path.item()
    return loss


def _parallel(supernet: Supernet, every: bool) -> Callable[[Tensor, bool], tuple[Tensor, ...]]:
    """Forward passes that exchange gradients in every backward pass, or in the last one of a step."""
    parallel = DistributedDataParallel(supernet, find_unused_parameters=True, forward_sync_buffers=False)

    def forward(images: Tensor, last: bool) -> tuple[Tensor, ...]:
        with nullcontext() if every or last else parallel.no_sync():
            return parallel(images)

    return forward


def _process(rank: int, options: argparse.Namespace, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    space, network = resolve_space(load_space(find_toml(options.space, "search_spaces")))
    # DistributedDataParallel leaves hooks at the parameters: each has a supernet of its own.
    supernets = [Supernet(network, space).train() for _ in range(3)]
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(options.batch_size // 2, *space.spec.network.input_shape, generator=generator)
    labels = torch.randint(space.spec.network.num_classes, (len(images),), generator=generator)
    one, late, often = supernets

    def plain() -> float:
        return _step(one, lambda images, last: one(images), images, labels)

    after_the_last, after_every = _parallel(late, every=False), _parallel(often, every=True)
    works: dict[str, tuple[Supernet, Work]] = {
        "no exchange": (one, plain),
        "one sum": (one, lambda: mean_step(one, [plain], 2)),
        "DDP, after the last pass": (late, lambda: _step(late, after_the_last, images, labels)),
        "DDP, after every pass": (often, lambda: _step(often, after_every, images, labels)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    gradients: dict[str, list[Tensor]] = {}
    for number in range(options.repeats + 1):
        for name, (supernet, work) in works.items():
            supernet.zero_grad(set_to_none=True)
            dist.barrier()
            start = time.perf_counter()
            work()
            dist.barrier()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
            gradients[name] = [_gradient(p).clone() for p in supernet.parameters()]
    if rank:
        return
    parameters = sum(p.numel() for p in supernets[0].parameters())
    print(f"{options.space}: {parameters:,} parameters, batch {options.batch_size}, medians of {options.repeats}")
    for name, values in seconds.items():
        ratio = float(np.median(values)) / float(np.median(seconds["no exchange"]))
        off = max(float((a - b).abs().max()) for a, b in zip(gradients["one sum"], gradients[name], strict=True))
        print(f"{name:26} {np.median(values):8.4f} s  {ratio:5.2f} x  gradients differ by at most {off:.1e}")


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="resnet_fashion")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        start_processes(_process, args=(options, meeting), nprocs=2, start_method="spawn")


if __name__ == "__main__":
    main()
