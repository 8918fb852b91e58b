"""The integer back end: layers whose input and weights are codes run in oneDNN's int8 operators, on CPUs.

Activations are unsigned bytes, weights signed ones, sums exact. What follows a layer is done in the same pass: scale,
bias, clamp and rounding to the next layer's bytes, or scale, bias and ReLU to float32. States stay float32, as
everywhere; layers and steps that this does not fit run as in the float back end.
"""

from __future__ import annotations

import torch

from usdn_nas.engine import compiled
from usdn_nas.engine.compiled import CompiledProgram, FloatStep, float_step
from usdn_nas.engine.integer_steps import ByteLayer, QuantizeToBytes, ThenBytes
from usdn_nas.engine.integer_trial import trial
from usdn_nas.engine.program import Layer, Options, Program, Quantize, Slot, Step, reads_of

__all__ = ["compile_program", "unavailable"]

_PAIR = 2**15 - 1
"""Processors without VNNI add products in pairs in 16 bits, and saturate: codes of 7 bits and weights of 8 fit."""
_LARGE_LINEAR = 2**13
"""Weights of a linear layer below which a call of the operator takes longer than the layer in floating point."""


def unavailable(device: torch.device) -> str | None:
    """Why the integer back end cannot be used on ``device``; None: it can."""
    if device.type != "cpu":
        return f"oneDNN's int8 operators run on CPUs, not on '{device}'"
    return trial().fault


def compile_program(program: Program, options: Options) -> CompiledProgram:
    """A program with its quantized layers in bytes, the rest as in the float back end.

    Other than in float32 on a CPU that passed the trial, all of it is as in the float back end.
    """
    if options.dtype != torch.float32 or unavailable(options.device):
        return compiled.compile_program(program, options)
    held = _bytes(program)
    return CompiledProgram(program, [_step(step, held, options) for step in program.steps])


def _bytes(program: Program) -> set[Slot]:
    """The slots that hold bytes: those of codes that only layers which take bytes read."""
    fits: dict[Slot, bool] = {slot: False for slot in program.outputs}
    for step in program.steps:
        for slot in reads_of(step):
            takes = isinstance(step, Layer) and slot != step.add and _takes(step)
            fits[slot] = takes and fits.get(slot, True)
    return {slot for slot, fit in fits.items() if fit}


def _takes(step: Layer) -> bool:
    """Whether int8 operators compute ``step`` exactly, and are worth calling."""
    if step.source_grid is None or not step.weight_codes:
        return False
    if step.geometry is None and step.weight.numel() < _LARGE_LINEAR:
        return False
    span = step.source_grid.high - step.source_grid.low
    low, high = (int(bound) for bound in step.weight.aminmax())
    largest = span * max(-low, high)
    if span > 255 or low < -128 or high > 127 or largest * step.weight[0].numel() >= 2**31:
        return False
    return 2 * largest <= _PAIR or trial().wide


def _step(step: Step, held: set[Slot], options: Options) -> FloatStep:
    if isinstance(step, Layer) and step.source in held:
        return ByteLayer(step, step.out in held)
    if step.out not in held:
        return float_step(step, options)
    if isinstance(step, Quantize):
        return QuantizeToBytes(step)
    return ThenBytes(step, options)
