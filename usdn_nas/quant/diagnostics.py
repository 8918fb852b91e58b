"""Observes a supernet's quantizers in training: step sizes over time, oscillating weights, and typical failures."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.quant.supernet import Supernet

__all__ = ["INPUTS", "WEIGHTS", "QuantizerWatch"]

WEIGHTS, INPUTS = "weights", "inputs"
SAMPLE = 1024
"""Largest number of weights of a layer that are watched. They are evenly spaced."""
MOMENTUM, OSCILLATES = 0.01, 0.005
"""Momentum m of the oscillation frequency, and the frequency above which a weight oscillates (Nagel et al., 2022)."""
COLLAPSED = 0.01
"""A step size counts as collapsed if it is below this share of its initial value."""


class _Oscillations:
    """Measures how often the codes of weights go back and forth at one bit-width.

    A code oscillates (o = 1) if it changes in the opposite direction to its last change; otherwise o = 0. Its frequency
    is f <- m o + (1 - m) f with m = 0.01 (Nagel et al., 2022, Eq. 6).

    Args:
        steps: The quantizers of L layers at this width.
        counts: (L,) number of watched weights of each layer.
    """

    def __init__(self, steps: list[LSQQuantizer], counts: list[int]) -> None:
        device = steps[0].step.device
        self.steps, self.counts = steps, counts
        self._counts = torch.tensor(counts, device=device)
        self.codes: Tensor | None = None
        self.direction = torch.zeros(sum(counts), dtype=torch.int8, device=device)
        self.frequency = torch.zeros(sum(counts), device=device)

    def observe(self, weights: Tensor) -> None:
        """Updates the frequencies from the current weights: the watched weights of all layers, concatenated."""
        sizes = torch.stack([step.step for step in self.steps]).abs().repeat_interleave(self._counts)
        codes = (weights / sizes).round_().clamp_(self.steps[0].low, self.steps[0].high).to(torch.int16)
        if self.codes is not None:
            change = (codes - self.codes).sign_().to(torch.int8)
            turned = (change * self.direction < 0).to(self.frequency.dtype)
            self.frequency.lerp_(turned, MOMENTUM)
            self.direction = torch.where(change != 0, change, self.direction)
        self.codes = codes

    def shares(self) -> list[float]:
        """Returns the share of oscillating weights for each layer."""
        return [float((part > OSCILLATES).float().mean()) for part in self.frequency.split(self.counts)]

    def state_dict(self) -> dict[str, Tensor | None]:
        return {"codes": self.codes, "direction": self.direction, "frequency": self.frequency}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Restores a state that `state_dict` returned.

        Raises:
            ValueError: The state belongs to other weights, or holds impossible values.
        """
        types = {"codes": torch.int16, "direction": torch.int8, "frequency": self.frequency.dtype}
        if set(state) != set(types):
            raise ValueError("oscillations without codes, direction or frequency")
        for name, value in state.items():
            if value is None and name == "codes":  # saved before the first training step
                continue
            if not isinstance(value, Tensor) or value.shape != self.frequency.shape or value.dtype != types[name]:
                raise ValueError(f"oscillations of other weights ({name})")
        frequency = state["frequency"]
        if frequency is not None and not bool(((frequency >= 0) & (frequency <= 1)).all()):
            raise ValueError("a frequency of oscillation outside 0 to 1")
        device = self.frequency.device
        vars(self).update({name: None if value is None else value.to(device) for name, value in state.items()})


class QuantizerWatch:
    """Observes the quantizers of a supernet in training.

    Args:
        supernet: The supernet before its first training step. Later step sizes are compared with its present ones.

    Attributes:
        quantizers: Records of R quantizers. Each has ``layer``, ``tensor`` (``"weights"`` or ``"inputs"``), ``bits``,
            ``start`` (the initial step size) and ``step`` (the step size after each epoch). ``layer`` of shared inputs
            is the first layer that reads them. Records of weights also have ``oscillating``: after each epoch, the
            share of weights whose frequency is above 0.005.
    """

    def __init__(self, supernet: Supernet) -> None:
        self.quantizers: list[dict[str, Any]] = []
        self._steps: list[LSQQuantizer] = []
        self._samples: list[tuple[Tensor, Tensor]] = []
        self._members: dict[int, list[int]] = {}
        for number, (name, layer) in enumerate(supernet.layers.items()):
            weight = layer.layer.weight
            stride = -(-weight.numel() // SAMPLE)
            self._samples.append((weight, torch.arange(0, weight.numel(), stride, device=weight.device)))
            for step in layer.weight_quantizer.widths():
                self._members.setdefault(step.width, []).append(number)
                self._add(name, WEIGHTS, step)
            for step in layer.input_quantizer.widths():
                if not any(step is known for known in self._steps):  # layers may share an input quantizer
                    self._add(name, INPUTS, step)
        self._norms = _trained_norms(supernet)
        self._updates = {name: int(norm.num_batches_tracked) for name, norm in self._norms.items()}  # type: ignore[arg-type]
        layers = list(supernet.layers.values())
        self._oscillations = {
            width: _Oscillations(
                [layers[number].weight_quantizer.at(width) for number in members],  # type: ignore[misc]
                [len(self._samples[number][1]) for number in members],
            )
            for width, members in self._members.items()
        }

    def _add(self, layer: str, tensor: str, step: LSQQuantizer) -> None:
        start = float(step.step.detach().abs())
        record = {"layer": layer, "tensor": tensor, "bits": step.width, "start": start, "step": []}
        self.quantizers.append(record | ({"oscillating": []} if tensor == WEIGHTS else {}))
        self._steps.append(step)

    @torch.no_grad()
    def after_step(self) -> None:
        """Updates the frequencies of oscillation. Call it after each step of the optimizer."""
        sampled = [weight.reshape(-1)[index] for weight, index in self._samples]
        for width, members in self._members.items():
            self._oscillations[width].observe(torch.cat([sampled[number] for number in members]))

    def end_epoch(self) -> None:
        """Adds an epoch to the records. Call it at the end of each epoch."""
        shares = {width: iter(found.shares()) for width, found in self._oscillations.items()}
        for record, step in zip(self.quantizers, self._steps, strict=True):
            record["step"].append(float(step.step.detach().abs()))
            if record["tensor"] == WEIGHTS:
                record["oscillating"].append(next(shares[record["bits"]]))

    def collapsed(self) -> list[dict[str, Any]]:
        """Returns the records whose last step size is below a hundredth of its initial value."""
        return [record for record in self.quantizers if record["step"][-1] < COLLAPSED * record["start"]]

    def stale(self) -> list[str]:
        """Returns the BatchNorms whose bits can be chosen but whose statistics no training step has updated.

        Each is named ``"<layer>: w2a2"``.
        """
        return [name for name, norm in self._norms.items() if int(norm.num_batches_tracked) == self._updates[name]]  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Returns the records and the state of the oscillations, for `load_state_dict`."""
        oscillations = {width: found.state_dict() for width, found in self._oscillations.items()}
        return {"quantizers": self.quantizers, "oscillations": oscillations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned for the same supernet.

        Raises:
            ValueError: The state belongs to another supernet, or holds impossible values.
        """
        _check_records(state["quantizers"], self.quantizers)
        if set(state["oscillations"]) != set(self._oscillations):
            raise ValueError("oscillations at other bit-widths")
        self.quantizers = state["quantizers"]
        for width, found in self._oscillations.items():
            found.load_state_dict(state["oscillations"][width])


def _check_records(records: Any, own: list[dict[str, Any]]) -> None:
    """Checks stored records of quantizers against ``own``, the records of the supernet in training.

    Raises:
        ValueError: The records belong to other quantizers, or hold impossible numbers.
    """
    if not isinstance(records, list) or len(records) != len(own):
        raise ValueError("records of other quantizers")
    for record, expected in zip(records, own, strict=True):
        if set(record) != set(expected) or any(record[key] != expected[key] for key in ("layer", "tensor", "bits")):
            raise ValueError("records of other quantizers")
        series = [record["step"], *([record["oscillating"]] if "oscillating" in record else [])]
        if any(len(values) != len(records[0]["step"]) for values in series):
            raise ValueError(f"records of '{record['layer']}' over another number of epochs")
        if not all(type(x) is float and 0 <= x < math.inf for x in [record["start"], *itertools.chain(*series)]):
            raise ValueError(f"impossible figures of a quantizer of '{record['layer']}'")


def _trained_norms(supernet: Supernet) -> dict[str, nn.BatchNorm2d]:
    """Returns the BatchNorm copies for all bits that their layers can take, without those that keep no statistics."""
    space = supernet.space
    choices = {group.name: group.choices for group in space.groups}
    found: dict[str, nn.BatchNorm2d] = {}
    for norm, owner in supernet.norm_owners().items():
        pairs = choices[space.group_of[owner]] if owner in space.group_of else (space.fixed[owner],)
        found |= {f"{owner}: {norm.key(pair)}": norm.at(pair) for pair in pairs}
    return {name: norm for name, norm in found.items() if norm.num_batches_tracked is not None}
