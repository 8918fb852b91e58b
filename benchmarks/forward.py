"""Seconds a bit configuration, all exits attached: plain, folded, in integers, and with prefixes shared in batches.

python benchmarks/forward.py --space resnet_fashion
python benchmarks/forward.py --space resnet18_imagenet --images 16 --batch-size 8 --repeats 3
python benchmarks/forward.py --run runs/fashion_mnist    # decisions of a trained supernet

Ratios are within one run: everything is timed in turn, medians. Brevitas is the extra `bench`.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor, nn

from usdn_nas.config import find_toml
from usdn_nas.data import Split
from usdn_nas.engine.backends import BACKENDS
from usdn_nas.engine.engine import Engine, EngineSettings, distinct_prefixes
from usdn_nas.engine.outputs import Batches
from usdn_nas.engine.parts import PartCompiler
from usdn_nas.engine.prefix_tree import Walk
from usdn_nas.networks.build import resolve_space
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.pipeline.context import open_run
from usdn_nas.quant.layers import FULL_PRECISION
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import load_space

CPU = torch.device("cpu")
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
Row = dict[str, Any]


class Images(Split):
    """Images in memory."""

    def __init__(self, images: Tensor, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def _load(
        self, chunks: Sequence[np.ndarray], first: int, seed: tuple[int, ...] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            yield self.images[chunk], torch.from_numpy(self.labels[chunk])


def from_space(options: argparse.Namespace) -> tuple[MultiExitNetwork, Supernet, Images]:
    """A network as initialised, its supernet with calibrated BatchNorm and steps, and noise."""
    torch.manual_seed(options.seed)
    space, network = resolve_space(load_space(find_toml(options.space, "search_spaces")))
    shape, classes = space.spec.network.input_shape, space.spec.network.num_classes
    images = torch.randn(options.images, *shape)
    labels = np.random.default_rng(options.seed).integers(classes, size=options.images)
    with torch.no_grad():
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = None  # statistics of these images
        network.train()(images[:16])
    supernet = Supernet(network, space)
    supernet.initialize_steps([images[:16]])
    return network, supernet, Images(images, labels)


def from_run(options: argparse.Namespace) -> tuple[MultiExitNetwork, Supernet, Images]:
    """The networks of a run folder, and the first images of its search split."""
    context = open_run(Path(options.run), ("device=cpu",))
    images, labels = next(iter(context.data.search.batches(options.images)))
    return context.pretrained(), context.supernet(), Images(images, labels.numpy())


class Modules:
    """A network as it stands over all batches: softmax maximum and argmax of every exit."""

    def __init__(self, network: nn.Module, batches: list[Tensor]) -> None:
        self.network, self.batches = network.eval(), batches

    def __call__(self) -> list[tuple[Tensor, Tensor]]:
        """(confidence, predicted), both (E, B), for each batch."""
        with torch.inference_mode():
            return [_judged(self.network(images)) for images in self.batches]


class Compiled:
    """A compiled configuration over all batches."""

    def __init__(self, compiler: PartCompiler, bits: Mapping[str, Bits], batches: list[Tensor]) -> None:
        chain = compiler.supernet.chain
        self.segments = [compiler.segment(i, bits) for i in range(len(chain.segments))]
        self.heads = {index: compiler.head(i, bits) for i, index in enumerate(chain.exit_segments)}
        self.batches = batches

    def _logits(self, images: Tensor) -> list[Tensor]:
        state: tuple[Tensor, ...] = (images,)
        logits = []
        for index, segment in enumerate(self.segments):
            state = segment(state)
            if index in self.heads:
                logits.append(self.heads[index](state)[0])
        return logits

    def __call__(self) -> list[tuple[Tensor, Tensor]]:
        """As `Modules`."""
        with torch.inference_mode():
            return [_judged(self._logits(images)) for images in self.batches]


def _judged(logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    confidence, predicted = torch.stack(tuple(logits)).softmax(-1).max(-1)
    return confidence, predicted


def brevitas_networks(network: MultiExitNetwork, bits: Mapping[str, Bits], images: Tensor) -> dict[str, nn.Module]:
    """The same network in Brevitas at the same bits, scales calibrated on ``images``: as it trains, and as it infers.

    Nothing where Brevitas is not installed; its mode for inference needs ONNX too.
    """
    if importlib.util.find_spec("brevitas") is None:
        return {}
    network = copy.deepcopy(network)
    first = next(iter(bits))
    for prefix, part in network.parts():
        for path, layer in list(part.named_modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                name = f"{prefix}.{path}"
                part.set_submodule(path, brevitas_layer(layer, bits[name], signed=name == first))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        network.train()(images)  # statistics of the activations
        found = {"Brevitas": network.eval()}
        if importlib.util.find_spec("onnx") is not None:
            from brevitas.export.inference import quant_inference_mode

            inferring = copy.deepcopy(network)
            quant_inference_mode(inferring, cache_quant_weight=True).__enter__()
            inferring(images)
            found["Brevitas, quant_inference_mode"] = inferring
    return found


def brevitas_layer(layer: nn.Conv2d | nn.Linear, bits: Bits, *, signed: bool) -> nn.Module:
    """The layer with its weights and input quantized."""
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat

    settings = {
        "bias": layer.bias is not None,
        "weight_quant": Int8WeightPerTensorFloat,
        "weight_bit_width": bits[0],
        "input_quant": Int8ActPerTensorFloat if signed else Uint8ActPerTensorFloat,
        "input_bit_width": bits[1],
    }
    if isinstance(layer, nn.Linear):
        made = QuantLinear(layer.in_features, layer.out_features, **settings)
    else:
        geometry = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
        made = QuantConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **geometry, **settings)
    made.load_state_dict(layer.state_dict(), strict=False)
    return made


def shared(
    supernet: Supernet, split: Images, backend: str, count: int, options: argparse.Namespace
) -> tuple[Callable[[], object], float]:
    """Runs a fresh batch of random configurations each time; the mean share of distinct prefixes of those batches."""
    settings = EngineSettings(backend, options.batch_size, channels_last=True)  # type: ignore[arg-type]
    batches = Batches(split, options.batch_size, CPU)
    engine = Engine(supernet, batches, settings, memory_bytes=int(options.memory_gb * 1e9))
    space = supernet.space
    generator = np.random.default_rng(options.seed)
    drawn = [[space.sample(generator) for _ in range(count)] for _ in range(options.repeats + 1)]
    upcoming = iter(drawn)
    segments = len(engine._segment_runs) - engine._paths.first
    shares = [distinct_prefixes(space, batch) / (count * segments) for batch in drawn[1:]]

    def work() -> None:
        for _ in engine.run(next(upcoming)):
            pass

    return work, statistics.mean(shares)


def differences(plain: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> tuple[int, int, int]:
    """(image, exit) pairs whose argmax differs, whose confidence is on another side of a threshold, and all."""
    argmax = exits = count = 0
    for (p, p_class), (c, c_class) in zip(plain, other, strict=True):
        sides = [(p >= t) != (c >= t) for t in THRESHOLDS]
        argmax += int((p_class != c_class).sum())
        exits += int(torch.stack(sides).any(0).sum())
        count += p.numel()
    return argmax, exits, count


def decisions(supernet: Supernet, batches: list[Tensor], options: argparse.Namespace) -> list[Row]:
    """How many decisions differ from the plain supernet's, over random configurations.

    Beside it: how many of the plain supernet's own differ where its sums are taken in another order, for other kernels
    run where its input lies channels-first. (In an untrained network roundings that flip are amplified from block to
    block.)
    """
    generator = np.random.default_rng(options.seed + 1)
    drawn = [supernet.space.sample(generator) for _ in range(options.decisions)]
    compilers = {name: PartCompiler(supernet, name) for name in available()}  # type: ignore[arg-type]
    first = copy.deepcopy(supernet).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    totals = {name: np.zeros(3, dtype=int) for name in ("fake-quant, channels-first", *compilers)}
    for bits in drawn:
        supernet.set_bits(bits)
        first.set_bits(bits)
        runs: dict[str, Callable[[], list[tuple[Tensor, Tensor]]]] = {
            "fake-quant, channels-first": Modules(first, [images.contiguous() for images in batches])
        }
        by_layer = supernet.space.layer_bits(bits)
        runs |= {name: Compiled(compiler, by_layer, batches) for name, compiler in compilers.items()}
        plain = Modules(supernet, batches)()
        for name, run in runs.items():
            totals[name] += differences(plain, run())
    return [
        {"backend": name, "pairs": int(pairs), "argmax_differs": int(argmax), "exit_differs": int(exits)}
        for name, (argmax, exits, pairs) in totals.items()
    ]


def available() -> list[str]:
    return [name for name, backend in BACKENDS.items() if backend.unavailable(CPU) is None]


def enumeration(supernet: Supernet, split: Images, backend: str, options: argparse.Namespace) -> Row:
    """Wall time of an enumeration in prefix order against the sum of its segments', heads' and softmaxes' times."""
    settings = EngineSettings(backend, options.batch_size)  # type: ignore[arg-type]
    engine = Engine(
        supernet, Batches(split, options.batch_size, CPU), settings, memory_bytes=int(options.memory_gb * 1e9)
    )
    spent = [0.0]

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.perf_counter()
            out = work(*args)
            spent[0] += time.perf_counter() - start
            return out

        return run

    segment, head = engine._parts.segment, engine._parts.head
    engine._parts.segment = lambda *args: timed(segment(*args))  # type: ignore[method-assign,assignment]
    engine._parts.head = lambda *args: timed(head(*args))  # type: ignore[method-assign,assignment]
    space = supernet.space
    choices = itertools.product(*(range(len(group.choices)) for group in space.groups))
    every = [space.choice_bits(choice) for choice in choices]
    with patch.object(Walk, "_judged", timed(Walk._judged)):
        start = time.perf_counter()
        for first in range(0, len(every), options.enumerate):
            for _ in engine.run(every[first : first + options.enumerate]):
                pass
        wall = time.perf_counter() - start
    return {
        "backend": backend,
        "configurations": len(every),
        "segment_runs": engine.runs,
        "wall_seconds": wall,
        "segment_seconds": spent[0],
        "ratio": wall / spent[0],
    }


def timings(network: MultiExitNetwork, supernet: Supernet, split: Images, options: argparse.Namespace) -> list[Row]:
    """One row for each way to run a configuration."""
    space = supernet.space
    layout = {"memory_format": torch.channels_last}
    network.to(**layout)  # type: ignore[call-overload]
    supernet.to(**layout)  # type: ignore[call-overload]
    batches = channels_last(split.images.split(options.batch_size))
    bits = space.choice_bits([len(group.choices) // 2 for group in space.groups])
    by_layer = space.layer_bits(bits)
    supernet.set_bits(bits)
    full = dict.fromkeys(by_layer, FULL_PRECISION)
    works: dict[str, Callable[[], object] | None] = {
        "FP32 eager": Modules(network, batches),
        "FP32 folded": Compiled(PartCompiler(supernet, "float"), full, batches),
        "fake-quant": Modules(supernet, batches),
    }
    peers = brevitas_networks(network, by_layer, batches[0])
    works |= {name: Modules(peer, batches) for name, peer in peers.items()} or {"Brevitas": None}
    one = {}
    for backend in available():
        one[backend] = f"folded ({backend})"
        works[one[backend]] = Compiled(PartCompiler(supernet, backend), by_layer, batches)  # type: ignore[arg-type]
    sharing: dict[str, tuple[str, int, float]] = {}
    for backend in available():
        for count in options.configurations:
            name = f"{one[backend]}, shared prefixes of {count}"
            works[name], share = shared(supernet, split, backend, count, options)
            sharing[name] = (one[backend], count, share)
    seconds = rounds({name: work for name, work in works.items() if work is not None}, sharing, options.repeats)
    seconds |= {name: seconds[name] / count for name, (_, count, _) in sharing.items()}
    rows: list[Row] = []
    for name in works:
        row: Row = {"run": name}
        if name in seconds:
            row |= {"seconds": seconds[name], "ratio": seconds[name] / seconds["FP32 eager"]}
            row["ratio_to_folded"] = seconds[name] / seconds["FP32 folded"]
        if name in sharing:
            base, _, share = sharing[name]
            row |= {"share_of_prefixes": share, "ratio_to_share": seconds[name] / (share * seconds[base])}
        rows.append(row)
    return rows


def channels_last(batches: Iterable[Tensor]) -> list[Tensor]:
    return [images.contiguous(memory_format=torch.channels_last) for images in batches]


def rounds(works: Mapping[str, Callable[[], object]], once: Collection[str], repeats: int) -> dict[str, float]:
    """Median seconds of every piece of work, taken in turn after a round to warm up.

    What is short is done over and over for half a second each time, or it would find the caches full of other work's
    data; ``once``: not these.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    passes = dict.fromkeys(works, 1)
    for number in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(passes[name]):
                work()
            seconds = (time.perf_counter() - start) / passes[name]
            if number:
                taken[name].append(seconds)
            elif name not in once:
                passes[name] = max(1, round(0.5 / seconds))
    return {name: statistics.median(values) for name, values in taken.items()}


def show(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        if "seconds" not in row:
            print(f"{row['run']:44} not installed")
            continue
        line = f"{row['run']:44} {row['seconds']:9.4f} s  {row['ratio']:5.2f} x"
        if "share_of_prefixes" in row:
            line += f"  {row['share_of_prefixes']:.3f} of prefixes distinct, {row['ratio_to_share']:.2f} x that share"
        print(line)
    for row in result["decisions"]:
        print(
            f"{row['backend']}: of {row['pairs']:,} (image, exit) pairs {row['argmax_differs']} differ in argmax, "
            f"{row['exit_differs']} at a threshold of {THRESHOLDS}"
        )
    for row in result["enumeration"]:
        print(
            f"{row['backend']}: {row['configurations']:,} configurations in {row['segment_runs']:,.0f} segment runs, "
            f"{row['wall_seconds']:.1f} s, {row['ratio']:.3f} x the sum of segments and heads with softmax"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="resnet_fashion")
    parser.add_argument("--run", help="a run folder: its networks and images instead of --space")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--configurations", type=int, nargs="+", default=[32, 128], help="in a batch")
    parser.add_argument("--decisions", type=int, default=4, help="configurations whose decisions are compared")
    parser.add_argument("--enumerate", type=int, default=0, help="enumerate the space in calls of so many")
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network, supernet, split = from_run(options) if options.run else from_space(options)
    result: dict[str, Any] = {"settings": vars(options), "torch": torch.__version__}
    result["rows"] = timings(network.eval(), supernet, split, options)
    batches = channels_last(split.images.split(options.batch_size))
    result["decisions"] = decisions(supernet, batches, options)
    names = available() if options.enumerate else []
    result["enumeration"] = [enumeration(supernet, split, name, options) for name in names]
    if options.format == "json":
        print(json.dumps(result, indent=2))
        return
    print(
        f"{options.run or options.space}, {options.images} images in batches of {options.batch_size}, channels-last, "
        f"{options.threads} threads, median of {options.repeats}"
    )
    show(result)


if __name__ == "__main__":
    main()
