"""Compiles the parts of a supernet (segments and heads), at any bits of their layers, with any back end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from usdn_nas.engine.backends import BACKENDS, BackendName
from usdn_nas.engine.compiled import compile_program
from usdn_nas.engine.folding import lower
from usdn_nas.engine.program import CompiledPart, Options
from usdn_nas.engine.tracing import trace
from usdn_nas.quant.layers import FULL_PRECISION
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits

__all__ = ["PartCompiler"]


@dataclass(frozen=True)
class _Part:
    """A segment or head, with the result of tracing it.

    Attributes:
        paths: Path of each switchable layer and BatchNorm -> name of the layer whose bits it takes.
        layers: Names of its layers.
        graph: The traced graph. None if the part is not compiled, so that its own module runs.
    """

    module: nn.Module
    paths: dict[str, str]
    layers: tuple[str, ...]
    graph: fx.Graph | None


class PartCompiler:
    """Compiles segments and heads.

    Every part is traced once, and its graph is compared with the part itself at full precision. If a part cannot be
    traced, or its graph computes something else, the part is not compiled and its own module runs.

    Args:
        supernet: The supernet; it is put into evaluation mode. Later changes to it do not reach compiled parts.
        backend: Name of the back end.
        channels_last: Whether states are stored channels-last.

    Attributes:
        options: Type, device and layout that parts are compiled for.
        arities: Number of tensors in the state after each segment.
        state_bytes: Bytes of the state after each segment, for one image.
        work_bytes: Most bytes that the values within a part take, including its input and output, for one image.
    """

    def __init__(self, supernet: Supernet, backend: BackendName, *, channels_last: bool = True) -> None:
        parameter = next(supernet.parameters())
        self.supernet = supernet.eval()
        self.options = Options(parameter.dtype, parameter.device, channels_last)
        self._backend = BACKENDS[backend]
        self.arities: list[int] = []
        self.state_bytes: list[int] = []
        self.work_bytes = 0
        self._segments: list[_Part] = []
        self._heads: list[_Part] = []
        self._trace_all()

    @torch.inference_mode()
    def _trace_all(self) -> None:
        chain = self.supernet.chain
        generator = torch.Generator().manual_seed(0)
        shape = self.supernet.space.spec.network.input_shape
        state: tuple[Tensor, ...] = (self.prepared(torch.randn(1, *shape, generator=generator)),)
        states = []
        for segment in chain.segments:
            part, state = self._trace(segment, state)
            self._segments.append(part)
            self.arities.append(len(state))
            self.state_bytes.append(sum(tensor.nbytes for tensor in state))
            states.append(state)
        for head, index in zip(chain.heads, chain.exit_segments, strict=True):
            self._heads.append(self._trace(head, states[index])[0])

    def _trace(self, module: nn.Module, state: tuple[Tensor, ...]) -> tuple[_Part, tuple[Tensor, ...]]:
        """Returns the part, and its outputs at full precision."""
        names = {layer: name for name, layer in self.supernet.layers.items()} | self.supernet.norm_owners()
        paths = {path: names[found] for path, found in module.named_modules() if found in names}
        layers = tuple(name for path, name in paths.items() if module.get_submodule(path) is self.supernet.layers[name])
        full = dict.fromkeys(layers, FULL_PRECISION)
        plain = _PlainPart(self.supernet, module, full)(state)
        graph = trace(module, len(state))
        if graph is not None and not self._agrees(graph, module, paths, state, plain):
            graph = None
        part = _Part(module, paths, layers, graph)
        self.work_bytes = max(self.work_bytes, self._work(part, state, plain))
        return part, plain

    def _agrees(
        self,
        graph: fx.Graph,
        module: nn.Module,
        paths: Mapping[str, str],
        state: tuple[Tensor, ...],
        plain: tuple[Tensor, ...],
    ) -> bool:
        """Returns whether the graph computes what the part does.

        Both run at full precision, where nothing is quantized and results can be compared directly.
        """
        try:
            program = lower(graph, module, dict.fromkeys(paths, FULL_PRECISION))
            found = compile_program(program, self.options)(state)
        except Exception:  # a lowering rule may fail for an operator; the part is then not compiled
            return False
        return len(found) == len(plain) and all(map(_close, found, plain))

    def _work(self, part: _Part, state: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> int:
        """Returns the most bytes that the values within a part take.

        They are measured on the part compiled by the float back end. For a part that is not compiled they are guessed.
        """
        if part.graph is None:
            return 3 * sum(tensor.nbytes for tensor in (*state, *out))
        space = self.supernet.space
        bits = space.layer_bits(space.choice_bits([0] * len(space.groups)))
        program = lower(part.graph, part.module, {path: bits[name] for path, name in part.paths.items()})
        return compile_program(program, self.options).peak(state)

    @property
    def weight_bytes(self) -> tuple[int, ...]:
        """Bytes of the weights of the layers of each segment, then of each head."""
        size = {name: layer.layer.weight.nbytes for name, layer in self.supernet.layers.items()}
        return tuple(sum(size[name] for name in part.layers) for part in (*self._segments, *self._heads))

    @property
    def traced(self) -> tuple[bool, ...]:
        """For each segment, then for each head: True if it is compiled, False if its own module runs."""
        return tuple(part.graph is not None for part in (*self._segments, *self._heads))

    def prepared(self, images: Tensor) -> Tensor:
        """Returns ``images`` in the type, on the device and in the layout that compiled parts read."""
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return images.to(self.options.device, self.options.dtype).contiguous(memory_format=layout)

    def segment_layers(self, index: int) -> tuple[str, ...]:
        """Returns the names of the layers of a segment."""
        return self._segments[index].layers

    def head_layers(self, index: int) -> tuple[str, ...]:
        """Returns the names of the layers of a head."""
        return self._heads[index].layers

    def segment(self, index: int, bits: Mapping[str, Bits]) -> CompiledPart:
        """Compiles a segment at the given bits (layer name -> (W, A)). Names of other layers are ignored."""
        return self._compile(self._segments[index], bits)

    def head(self, index: int, bits: Mapping[str, Bits]) -> CompiledPart:
        """Compiles a head at the given bits (layer name -> (W, A)). Names of other layers are ignored."""
        return self._compile(self._heads[index], bits)

    def _compile(self, part: _Part, bits: Mapping[str, Bits]) -> CompiledPart:
        if part.graph is None:
            return _PlainPart(self.supernet, part.module, {name: bits[name] for name in part.layers})
        program = lower(part.graph, part.module, {path: bits[name] for path, name in part.paths.items()})
        return self._backend.compile(program, self.options)


def _close(found: Tensor, plain: Tensor) -> bool:
    """Returns whether both tensors are equal up to rounding.

    NaN counts as equal to NaN, because the network may have diverged in training.
    """
    if found.shape != plain.shape:
        return False
    largest = float(plain.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, plain, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)


class _PlainPart:
    """A part that is not compiled: switches its layers to their bits, then calls its own module.

    The module gets copies of the state, because it may change its inputs in place.
    """

    nbytes = 0
    """The part keeps no constants; the supernet keeps its quantized weights."""

    def __init__(self, supernet: Supernet, module: nn.Module, bits: Mapping[str, Bits]) -> None:
        self.supernet, self.module, self.bits = supernet, module, bits

    def __call__(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.supernet.set_layer_bits(self.bits)
        out = self.module(*(tensor.clone() for tensor in state))
        return out if isinstance(out, tuple) else (out,)
