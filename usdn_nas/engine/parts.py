"""The parts of a supernet, each compiled for any bits of its layers by any back end."""

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
    """A segment or head.

    Attributes:
        paths: Path of each of its switchable layers and BatchNorms -> name of the layer whose bits it takes.
        layers: Names of its layers.
        graph: None: it runs as it stands.
    """

    module: nn.Module
    paths: dict[str, str]
    layers: tuple[str, ...]
    graph: fx.Graph | None


class PartCompiler:
    """Compiles segments and heads. Every part is traced once and its graph tried next to the part at full precision.

    A part that cannot be traced, or whose graph computes something else, runs as it stands.

    Args:
        supernet: In evaluation mode from here on; parts that were compiled know nothing of later changes to it.
        backend: Which compiler.
        channels_last: The layout of states.

    Attributes:
        options: What parts are compiled for.
        arities: Tensors in the state after each segment.
        state_bytes: Of the state after each segment, for one image.
        work_bytes: Most that the values within a part take, what goes in and comes out included, for one image.
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
        """The part, and what it gives at full precision."""
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
        """Whether the graph computes what the part does; no rounding is near at full precision."""
        try:
            program = lower(graph, module, dict.fromkeys(paths, FULL_PRECISION))
            found = compile_program(program, self.options)(state)
        except Exception:  # an operator that the rules got wrong is a reason to run the part as it is
            return False
        return len(found) == len(plain) and all(map(_close, found, plain))

    def _work(self, part: _Part, state: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> int:
        """Bytes of the values within a part: of its float form, or a guess where it runs as it stands."""
        if part.graph is None:
            return 3 * sum(tensor.nbytes for tensor in (*state, *out))
        space = self.supernet.space
        bits = space.layer_bits(space.choice_bits([0] * len(space.groups)))
        program = lower(part.graph, part.module, {path: bits[name] for path, name in part.paths.items()})
        return compile_program(program, self.options).peak(state)

    @property
    def weight_bytes(self) -> tuple[int, ...]:
        """Of the layers of each segment, then each head."""
        size = {name: layer.layer.weight.nbytes for name, layer in self.supernet.layers.items()}
        return tuple(sum(size[name] for name in part.layers) for part in (*self._segments, *self._heads))

    @property
    def traced(self) -> tuple[bool, ...]:
        """For each segment, then each head: whether it is compiled, and not run as it stands."""
        return tuple(part.graph is not None for part in (*self._segments, *self._heads))

    def prepared(self, images: Tensor) -> Tensor:
        """``images`` in the type, on the device and in the layout that compiled parts take."""
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return images.to(self.options.device, self.options.dtype).contiguous(memory_format=layout)

    def segment_layers(self, index: int) -> tuple[str, ...]:
        """Names of the layers of a segment."""
        return self._segments[index].layers

    def head_layers(self, index: int) -> tuple[str, ...]:
        """Names of the layers of a head."""
        return self._heads[index].layers

    def segment(self, index: int, bits: Mapping[str, Bits]) -> CompiledPart:
        """A segment at the bits of its layers (name -> (W, A); others are ignored)."""
        return self._compile(self._segments[index], bits)

    def head(self, index: int, bits: Mapping[str, Bits]) -> CompiledPart:
        """A head at the bits of its layers."""
        return self._compile(self._heads[index], bits)

    def _compile(self, part: _Part, bits: Mapping[str, Bits]) -> CompiledPart:
        if part.graph is None:
            return _PlainPart(self.supernet, part.module, {name: bits[name] for name in part.layers})
        program = lower(part.graph, part.module, {path: bits[name] for path, name in part.paths.items()})
        return self._backend.compile(program, self.options)


def _close(found: Tensor, plain: Tensor) -> bool:
    """Whether both are the same but for rounding; where there is no number, in a network that diverged, in both."""
    if found.shape != plain.shape:
        return False
    largest = float(plain.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, plain, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)


class _PlainPart:
    """A part run as it stands, its layers switched before; on copies, for it may change what it is given."""

    nbytes = 0
    """The supernet itself keeps its quantized weights."""

    def __init__(self, supernet: Supernet, module: nn.Module, bits: Mapping[str, Bits]) -> None:
        self.supernet, self.module, self.bits = supernet, module, bits

    def __call__(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.supernet.set_layer_bits(self.bits)
        out = self.module(*(tensor.clone() for tensor in state))
        return out if isinstance(out, tuple) else (out,)
