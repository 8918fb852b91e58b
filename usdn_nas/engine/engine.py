"""Runs many bit configurations over a split. Each distinct prefix of segments runs once, within a memory limit.

The outer loop goes over image batches. The inner loop walks the tree of prefixes depth-first, so only the states of one
path and one image batch must be in memory. The states of the last path are cached between calls if memory allows.
Configurations that come in prefix order then never run a prefix twice, even if they come in several calls.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from usdn_nas.engine.memory import OUTPUT_BYTES, divide, kept_batches
from usdn_nas.engine.outputs import Batches
from usdn_nas.engine.parts import PartCompiler
from usdn_nas.engine.prefix_tree import HeadOutputs, Place, Trail, Walk
from usdn_nas.engine.prefixes import Key, Path, Paths, distinct_prefixes, tree
from usdn_nas.engine.program import CompiledPart
from usdn_nas.engine.settings import EngineSettings, choose_settings, thread_limit
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits

__all__ = ["Engine", "EngineSettings", "choose_settings", "distinct_prefixes"]

_Name = tuple[str, int, Key]
"""Name of a compiled part: kind ("segment" or "head"), number, choices."""


class Engine:
    """Computes the outputs of all candidate exits for bit configurations.

    Args:
        supernet: The supernet. Do not change it while the engine is in use: a compiled part keeps the weights that it
            was compiled with.
        batches: Gives the split to run. The engine makes its own image batches from it.
        settings: How to run: the result of `choose_settings`, or your own.
        memory_bytes: Limit for the sum of states, compiled weights, and outputs that are not yet yielded. Images, and
            the quantized weights of parts that are not compiled, need memory on top of it.

    Raises:
        UserError: ``memory_bytes`` is too little for one configuration.
    """

    def __init__(
        self, supernet: Supernet, batches: Batches, settings: EngineSettings, *, memory_bytes: int = 2 << 30
    ) -> None:
        self.space = supernet.space
        self.settings = settings
        self.names = tuple(exit_.name for exit_ in self.space.chain.exits)
        self._exits = {segment: number for number, segment in enumerate(supernet.chain.exit_segments)}
        self._paths = Paths(self.space)
        compiler = PartCompiler(supernet, settings.backend, channels_last=settings.channels_last)
        self._labels = torch.from_numpy(np.asarray(batches.labels)).to(compiler.options.device)
        self._budget = divide(memory_bytes, compiler, settings.images, len(self._labels))
        self._kept = kept_batches(self._budget, compiler, len(self._labels))
        self._parts = _Parts(compiler, self._budget.compiled)
        self._split = batches.split
        self._trails: list[Trail] = [[] for _ in range(0, len(self._labels), self._budget.images)]
        self._last: Path | None = None
        self._segment_runs = [0] * len(supernet.chain.segments)

    @property
    def runs(self) -> float:
        """Segment runs over the whole split so far. Segments before the first searched one are not counted."""
        return sum(self._segment_runs[self._paths.first :]) / len(self._labels)

    def __call__(self, bits: Mapping[str, Bits]) -> ExitOutputs:
        """Returns the outputs of one configuration: group name -> (weight bits W, activation bits A)."""
        return next(outputs for _, outputs in self.run([bits]))

    def run(self, configurations: Sequence[Mapping[str, Bits]]) -> Iterator[tuple[int, ExitOutputs]]:
        """Yields the outputs of several configurations, in prefix order.

        Configurations that share segments with the last path of the previous call come first.

        Args:
            configurations: Each maps group name -> (W, A). Some may be equal.

        Yields:
            Pairs (index in ``configurations``, outputs). Each index comes once.
        """
        numbers: dict[Path, list[int]] = {}
        for number, bits in enumerate(configurations):
            numbers.setdefault(self._paths.of(bits), []).append(number)
        for chunk in self._chunks(self._in_order(numbers)):
            outputs = self._run_chunk({path: configurations[numbers[path][0]] for path in chunk})
            for path in chunk:
                found = self._assemble(path, outputs)
                yield from ((number, found) for number in numbers[path])

    def _in_order(self, paths: Iterable[Path]) -> list[Path]:
        last = () if self._last is None else self._last.segments

        def rank(path: Path) -> tuple[object, ...]:
            keys = path.segments
            return (*((keys[: i + 1] != last[: i + 1], key) for i, key in enumerate(keys)), path.heads)

        return sorted(paths, key=rank)

    def _chunks(self, paths: Iterable[Path]) -> Iterator[list[Path]]:
        """Yields ``paths`` in their order, in lists whose outputs fit into the memory reserved for outputs."""
        most = self._budget.outputs // (len(self._labels) * OUTPUT_BYTES) - 2 * len(self.names)
        chunk: list[Path] = []
        places: set[Place] = set()
        for path in paths:
            new = [place for place in self._places(path) if place not in places]
            if chunk and len(places) + len(new) > most:
                yield chunk
                chunk, places, new = [], set(), self._places(path)
            chunk.append(path)
            places.update(new)
        if chunk:
            yield chunk

    def _places(self, path: Path) -> list[Place]:
        """Returns the keys under which the outputs of a path's exits are stored, one for each exit."""
        return [(path.segments[: segment + 1], path.heads[number]) for segment, number in self._exits.items()]

    def _assemble(self, path: Path, outputs: Mapping[Place, HeadOutputs]) -> ExitOutputs:
        found = [outputs[place] for place in self._places(path)]
        confidence = np.stack([head.confidence for head in found])
        return ExitOutputs(confidence, np.stack([head.correct for head in found]), self.names)

    @torch.inference_mode()
    def _run_chunk(self, configurations: Mapping[Path, Mapping[str, Bits]]) -> dict[Place, HeadOutputs]:
        count = len(self._labels)
        places = {place for path in configurations for place in self._places(path)}
        outputs = {place: _empty(count) for place in places}
        roots = tree(self.space, configurations, self._exits)
        images = self._images()
        with thread_limit(self.settings.threads):
            for number, trail in enumerate(self._trails):
                rows = slice(number * self._budget.images, min((number + 1) * self._budget.images, count))
                Walk(
                    trail=trail,
                    kept=sum(number < batches for batches in self._kept),
                    rows=rows,
                    labels=self._labels[rows],
                    images=functools.partial(images, number),
                    segment=self._parts.segment,
                    head=self._parts.head,
                    exits=self._exits,
                    outputs=outputs,
                    segment_runs=self._segment_runs,
                ).roots(roots)
        self._last = list(configurations)[-1]
        return outputs

    def _images(self) -> Callable[[int], Tensor]:
        """Returns a function that takes a number and returns that image batch.

        Call it with rising numbers. Batches that are skipped are not read.
        """
        batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        upcoming = -1

        def at(number: int) -> Tensor:
            nonlocal batches, upcoming
            if number != upcoming:
                batches = iter(self._split.batches(self._budget.images, start=number))
            upcoming = number + 1
            return self._parts.compiler.prepared(next(batches)[0])

        return at


def _empty(count: int) -> HeadOutputs:
    return HeadOutputs(torch.empty(count).numpy(), torch.empty(count, dtype=torch.bool).numpy())


class _Parts:
    """A cache of compiled parts. A part is compiled when it is first requested.

    If the parts take more than ``limit`` bytes, the least recently used ones are dropped.
    """

    def __init__(self, compiler: PartCompiler, limit: int) -> None:
        self.compiler, self.limit = compiler, limit
        self._kept: OrderedDict[_Name, CompiledPart] = OrderedDict()
        self._bytes = 0

    def segment(self, index: int, key: Key, bits: Mapping[str, Bits]) -> CompiledPart:
        return self._kept_one(("segment", index, key)) or self._make("segment", index, key, bits)

    def head(self, index: int, key: Key, bits: Mapping[str, Bits]) -> CompiledPart:
        return self._kept_one(("head", index, key)) or self._make("head", index, key, bits)

    def _kept_one(self, name: _Name) -> CompiledPart | None:
        part = self._kept.get(name)
        if part is not None:
            self._kept.move_to_end(name)
        return part

    def _make(self, kind: str, index: int, key: Key, bits: Mapping[str, Bits]) -> CompiledPart:
        part = (self.compiler.segment if kind == "segment" else self.compiler.head)(index, bits)
        self._kept[kind, index, key] = part
        self._bytes += part.nbytes
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return part
