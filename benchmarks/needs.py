"""What a run of each study for GPUs needs: the tables of docs/recipes.md.

Hours are arithmetic over MACs, images and epochs. Memory is counted: the bytes that autograd keeps for the backward
pass, on the CPU, at two batch sizes, whose difference is an image's share.

    python benchmarks/needs.py [STUDY ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from usdn_nas.config import StudyConfig, TrainConfig, find_toml, list_toml, load_study
from usdn_nas.networks.build import resolve_space
from usdn_nas.quant.supernet import Supernet
from usdn_nas.training.losses import cross_entropy

TFLOPS = 10
"""Assumed to be sustained by one GPU in FP32. Two operations a MAC; a backward pass costs two forward passes."""
IMAGES = {"imagenet": (1_231_167, 50_000), "cifar10": (45_000, 5_000), "cifar100": (45_000, 5_000)}
"""Of the training split and of the search split."""
BATCHES = (2, 4)


def exa(macs: int, images: int, epochs: int, passes: float) -> float:
    """10^18 operations."""
    return 2 * macs * images * epochs * passes / 1e18


def operations(study: StudyConfig, macs: int, single: bool) -> dict[str, float]:
    """Stage -> 10^18 operations, all candidate exits attached."""
    train, search = IMAGES[study.data.name]
    supernet = study.supernet
    paths = 1 + supernet.smallest + supernet.random_paths
    step = 3 if single else 3 * paths + (supernet.teacher == "pretrained")  # the teacher runs forward alone
    of = {"pretrain": (supernet.pretrain, 3), "supernet": (supernet.qat, step)}
    found = {stage: exa(macs, train, settings.epochs, passes) for stage, (settings, passes) in of.items()}
    configurations = 1 if single else study.search.configurations
    found["search"] = exa(macs, search, 1, configurations)
    retrain: list[tuple[TrainConfig, float]] = [(study.retrain.teacher, 3), (study.retrain.train, 4)]
    if study.retrain.compare_ce:
        retrain.append((study.retrain.train, 3))
    found["retrain"] = sum(exa(macs, train, settings.epochs, passes) for settings, passes in retrain)
    return found


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """What autograd holds between forward and backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(images)
        loss = cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64), [1.0] * len(logits))
    del loss
    return sum(seen.values())


def memory(network: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """GB that do not depend on the batch (weights, gradients, momentum, what is kept of weights), MB an image."""
    network.train()
    few, many = (kept_bytes(network, torch.randn(batch, *shape)) for batch in BATCHES)
    image = (many - few) / (BATCHES[1] - BATCHES[0])
    weights = 3 * sum(p.numel() * p.element_size() for p in network.parameters())
    return (weights + few - BATCHES[0] * image) / 1e9, image / 1e6


def report(name: str, show: Callable[[str], None]) -> None:
    """Prints the rows of one study."""
    study, spec = load_study(find_toml(name, "studies"))
    space, network = resolve_space(spec)
    macs = sum(layer.macs for layer in space.chain.layers())
    stages = operations(study, macs, space.bit_configurations == 1)
    full = memory(network, spec.network.input_shape)
    supernet = Supernet(network, space)
    supernet.set_bits(space.ladder()[-1])
    quantized = memory(supernet, spec.network.input_shape)
    hours = {stage: work * 1e6 / TFLOPS / 3600 for stage, work in stages.items()}
    cells = [name, f"{macs / 1e6:,.1f}", *(f"{hours[stage]:,.1f}" for stage in hours), f"{sum(hours.values()):,.1f}"]
    show("| " + " | ".join(cells) + " |")
    batches = sorted({study.supernet.qat.batch_size, 64, 256, 1024})
    needs = [f"{quantized[0] + quantized[1] * batch / 1e3:.1f}" for batch in batches]
    show(f"  full precision {full[0]:.2f} GB + {full[1]:.1f} MB an image; QAT {quantized[0]:.2f} GB + "
         f"{quantized[1]:.1f} MB an image; QAT at {batches}: {needs} GB")  # fmt: skip


def main() -> None:
    """Prints all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in list_toml("studies") if name.split("_")[0] in IMAGES]
    parser.add_argument("studies", nargs="*", default=known)
    torch.manual_seed(0)
    for name in parser.parse_args().studies:
        report(name, print)


if __name__ == "__main__":
    main()
