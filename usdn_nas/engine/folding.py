"""Turns a part of a supernet at given bits into a `Program`.

Weights are quantized first; then the BatchNorm of that (W, A) is folded in. Scales, residual additions, ReLUs and
quantizers are merged into the step that makes their input. A step is merged only if it is the only reader of that
input, and never across the boundary of a part. Operators that no rule covers are called unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from usdn_nas.engine.program import (
    Add,
    Affine,
    Call,
    Geometry,
    Grid,
    Layer,
    Program,
    Quantize,
    Relu,
    Slot,
    Step,
    Tail,
    reads_of,
)
from usdn_nas.engine.tracing import call_of, is_add, is_nothing, is_relu, module_of
from usdn_nas.quant.layers import SwitchableBatchNorm2d, SwitchableLayer
from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.space.architecture import Bits

__all__ = ["lower"]


@torch.no_grad()
def lower(graph: fx.Graph, part: nn.Module, bits: Mapping[str, Bits]) -> Program:
    """Returns the program of a traced part.

    Args:
        graph: The graph that `tracing.trace` returned.
        part: The module that was traced.
        bits: (W, A) of each switchable layer and each switchable BatchNorm, by its path within the part.
    """
    return _absorb(_Lowering(graph, part, bits).program())


class _Lowering:
    """Makes one step for each node of the graph, and one for each quantizer."""

    def __init__(self, graph: fx.Graph, part: nn.Module, bits: Mapping[str, Bits]) -> None:
        self.graph, self.part, self.bits = graph, part, bits
        self.steps: dict[Slot, Step] = {}
        self.slots: dict[fx.Node, Slot] = {}
        self.codes: dict[tuple[Slot, nn.Module], tuple[Slot, Grid]] = {}
        self.count = 0

    def program(self) -> Program:
        inputs = []
        outputs: Any = ()
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.slots[node] = self._slot()
                inputs.append(self.slots[node])
            elif node.op == "output":
                found = node.args[0]
                outputs = found if isinstance(found, tuple | list) else (found,)
            else:
                self.slots[node] = self._visit(node)
        return Program(tuple(inputs), tuple(self.steps.values()), tuple(self.slots[out] for out in outputs), self.count)

    def _slot(self) -> Slot:
        self.count += 1
        return Slot(self.count - 1)

    def _put(self, step: Step) -> Slot:
        self.steps[step.out] = step
        return step.out

    def _visit(self, node: fx.Node) -> Slot:
        module = module_of(node, self.part)
        if isinstance(module, SwitchableLayer):
            return self._layer(node, module)
        if isinstance(module, SwitchableBatchNorm2d):
            module = module.at(self.bits[str(node.target)])
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            return self._put(Affine(self._slot(), self.slots[node.all_input_nodes[0]], *_affine(module)))
        if is_nothing(node, self.part):
            return self.slots[node.all_input_nodes[0]]
        if is_relu(node, self.part):
            return self._put(Relu(self._slot(), self.slots[node.all_input_nodes[0]]))
        if is_add(node):
            left, right = (self.slots[source] for source in node.args)  # type: ignore[index]
            return self._put(Add(self._slot(), left, right))
        function, given, keywords = call_of(node, self.part)
        call: Any = fx.node.map_arg((given, keywords), lambda source: self.slots[source])
        return self._put(Call(self._slot(), function, *call))

    def _layer(self, node: fx.Node, switchable: SwitchableLayer) -> Slot:
        name, layer = str(node.target), switchable.layer
        w, a = self.bits[name]
        source, grid = self.slots[node.all_input_nodes[0]], None
        weight = layer.weight.detach()
        scale = torch.ones(len(weight), dtype=torch.float64, device=weight.device)
        if w < 32:
            quantizer = switchable.weight_quantizer.at(w)
            assert isinstance(quantizer, LSQQuantizer)
            weight = quantizer.codes(weight)
            scale *= abs(quantizer.step.item())
        if a < 32:
            source, grid = self._quantized(source, switchable.input_quantizer.at(a))
            scale *= grid.step
        source, geometry = self._geometry(source, layer)
        bias = None if layer.bias is None else layer.bias.detach().double()
        return self._put(Layer(self._slot(), source, grid, weight, w < 32, scale, bias, geometry, name=name))

    def _quantized(self, source: Slot, quantizer: nn.Module) -> tuple[Slot, Grid]:
        """Returns the slot that holds the codes of ``source``, and their grid.

        The step that makes the codes is added once for all layers that share the quantizer.
        """
        assert isinstance(quantizer, LSQQuantizer)
        if (source, quantizer) not in self.codes:
            grid = Grid(abs(quantizer.step.item()), *quantizer.bounds())
            self.codes[source, quantizer] = self._put(Quantize(self._slot(), source, grid)), grid
        return self.codes[source, quantizer]

    def _geometry(self, source: Slot, layer: nn.Module) -> tuple[Slot, Geometry | None]:
        """Returns the slot that the layer reads, and its geometry (None for a linear layer).

        Padding with values other than zeros, or given by name ("same", "valid"), becomes a separate step.
        """
        if not isinstance(layer, nn.Conv2d):
            return source, None
        padding = layer.padding
        if layer.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            pads = list(layer._reversed_padding_repeated_twice)
            source, padding = self._put(Call(self._slot(), F.pad, (source, pads), {"mode": mode})), (0, 0)
        return source, Geometry(layer.stride, padding, layer.dilation, layer.groups)  # type: ignore[arg-type]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns scale and shift of a BatchNorm in evaluation mode, (C,) float64 each."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.detach().double() if norm.affine else shift


def _absorb(program: Program) -> Program:
    """Returns the program with BatchNorms, residual additions, ReLUs and quantizers merged into earlier steps.

    Each is merged into the step that makes its input. The merged step takes the later of the two positions, because
    all the slots that it reads are written by then.
    """
    reads = Counter(slot for step in program.steps for slot in reads_of(step))
    reads.update(program.outputs)
    steps: dict[Slot, Step] = {}
    for step in program.steps:
        merged = _Merge(steps, reads).of(step)
        steps[merged.out] = merged
    return replace(program, steps=tuple(steps.values()))


class _Merge:
    """Merges a step with the step that makes its input, and removes the latter from ``steps``."""

    def __init__(self, steps: dict[Slot, Step], reads: Counter[Slot]) -> None:
        self.steps, self.reads = steps, reads

    def of(self, step: Step) -> Step:
        if isinstance(step, Affine):
            return self._affine(step)
        if isinstance(step, Add):
            return self._add(step)
        if isinstance(step, Relu):
            maker = self._maker(step.source)
            return self._take(maker, step, tail=Tail(relu=True)) if maker and maker.tail == Tail() else step
        if isinstance(step, Quantize):
            return self._quantize(step)
        return step

    def _maker(self, slot: Slot) -> Layer | Affine | Add | None:
        """Returns the step that makes ``slot``; None if it cannot have a tail or the slot has other readers."""
        maker = self.steps.get(slot)
        return maker if isinstance(maker, Layer | Affine | Add) and self.reads[slot] == 1 else None

    def _layer(self, slot: Slot) -> Layer | None:
        """Returns the layer that makes ``slot``; None unless `_maker` finds a layer without addition and tail."""
        maker = self._maker(slot)
        return maker if isinstance(maker, Layer) and maker.add is None and maker.tail == Tail() else None

    def _take(self, maker: Layer | Affine | Add, step: Step, **changes: Any) -> Step:
        del self.steps[maker.out]
        return replace(maker, out=step.out, **changes)

    def _affine(self, step: Affine) -> Step:
        if (layer := self._layer(step.source)) is None or layer.geometry is None:
            return step
        bias = step.shift if layer.bias is None else layer.bias * step.scale + step.shift
        return self._take(layer, step, scale=layer.scale * step.scale, bias=bias)

    def _add(self, step: Add) -> Step:
        for mine, other in ((step.right, step.left), (step.left, step.right)):
            if (layer := self._layer(mine)) is not None:
                return self._take(layer, step, add=other)
        return step

    def _quantize(self, step: Quantize) -> Step:
        if (maker := self._maker(step.source)) is not None and maker.tail.grid is None:
            return self._take(maker, step, tail=Tail(maker.tail.relu and step.grid.low < 0, step.grid))
        before = self.steps.get(step.source)
        if isinstance(before, Relu) and step.grid.low == 0 and self.reads[step.source] == 1:
            del self.steps[before.out]
            return replace(step, source=before.source)
        return step
