"""The integer back end. It runs layers with quantized inputs and weights in oneDNN's int8 operators, on CPUs.

Activations are unsigned bytes, weights are signed bytes, and sums are exact. The same pass also applies scale and bias.
It then either clamps and rounds to the next layer's bytes, or applies a ReLU and returns float32. States between parts
are float32 in every back end. Layers and steps that the operators cannot run use the float back end.
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
"""Largest sum of two products that every processor computes exactly.

Processors without VNNI add products in pairs, in 16 bits with saturation. Products of 7-bit codes and 8-bit weights
stay below this limit.
"""
_LARGE_LINEAR = 2**13
"""Linear layers with fewer weights run in floating point: calling the int8 operator would take longer."""


def unavailable(device: torch.device) -> str | None:
    """Returns why the integer back end cannot be used on ``device``; None if it can."""
    if device.type != "cpu":
        return f"oneDNN's int8 operators run on CPUs, not on '{device}'"
    return trial().fault


def compile_program(program: Program, options: Options) -> CompiledProgram:
    """Compiles a program: quantized layers compute with bytes, everything else runs as in the float back end.

    If states are not float32, or the back end is unavailable on the device, everything runs as in the float back end.
    """
    if options.dtype != torch.float32 or unavailable(options.device):
        return compiled.compile_program(program, options)
    held = _bytes(program)
    return CompiledProgram(program, [_step(step, held, options) for step in program.steps])


def _bytes(program: Program) -> set[Slot]:
    """Returns the slots that hold bytes. These are the slots that are read only by layers that take bytes."""
    fits: dict[Slot, bool] = {slot: False for slot in program.outputs}
    for step in program.steps:
        for slot in reads_of(step):
            takes = isinstance(step, Layer) and slot != step.add and _takes(step)
            fits[slot] = takes and fits.get(slot, True)
    return {slot for slot, fit in fits.items() if fit}


def _takes(step: Layer) -> bool:
    """Returns whether the int8 operators compute ``step`` exactly and are worth calling."""
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
