"""LSQ's quantizer next to NumPy and to its formulas, element by element."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usdn_nas.quant.quantizers import LSQQuantizer

KINDS = {"weights": (True, False), "inputs": (False, False), "offset": (False, True)}


def quantizer(width: int, kind: str, step: float = 0.375, offset: float = -0.8, count: int = 50) -> LSQQuantizer:
    signed, has_offset = KINDS[kind]
    made = LSQQuantizer(width, signed=signed, offset=has_offset, count=count).double()
    with torch.no_grad():
        made.step.fill_(step)
        if made.offset is not None:
            made.offset.fill_(offset)
    return made


def codes_of(width: int, kind: str, step: float, offset: float) -> tuple[int, int]:
    """Lowest and highest multiple of the step, from the definition."""
    if kind == "weights":
        return -(2 ** (width - 1)), 2 ** (width - 1) - 1
    zero = int(np.clip(np.rint(-offset / abs(step)), 0, 2**width - 1)) if kind == "offset" else 0
    return -zero, 2**width - 1 - zero


def twin(x: np.ndarray, width: int, kind: str, step: float, offset: float) -> np.ndarray:
    low, high = codes_of(width, kind, step, offset)
    return np.clip(np.rint(x / abs(step)), low, high) * abs(step)


def values(seed: int = 0, count: int = 400) -> torch.Tensor:
    """Normal values, values far out, and values on the grid's ties and bounds (0.375 = 3/8: exactly on them)."""
    x = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([x, 40 * x[:50], 0.375 * torch.arange(-20, 20).double() / 2]).reshape(2, 7, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [2, 3, 4, 8])
@pytest.mark.parametrize("step", [0.375, -0.375])
def test_forward_is_numpys(kind: str, width: int, step: float) -> None:
    made, x = quantizer(width, kind, step), values()
    expected = twin(x.numpy(), width, kind, step, -0.8)
    recording = made(x)
    with torch.no_grad():
        kept = x.clone()
        silent = made(x)
    np.testing.assert_array_equal(recording.detach().numpy(), expected)
    np.testing.assert_array_equal(silent.numpy(), expected)
    assert torch.equal(x, kept), "the input must stay as it was"
    assert len(np.unique(np.round(expected / step))) <= 2**width


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("step", [0.375, -0.375])
def test_gradients_by_lsqs_formulas(kind: str, width: int, step: float) -> None:
    made, x = quantizer(width, kind, step), values().requires_grad_()
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made(x).backward(gradient)
    low, high = codes_of(width, kind, step, -0.8)
    positive_codes = 2 ** (width - 1) - 1 if kind == "weights" else 2**width - 1
    scale = 1 / math.sqrt(50 * positive_codes)
    of_x, of_step, of_offset = [], 0.0, 0.0
    for value, incoming in zip(x.detach().flatten().tolist(), gradient.flatten().tolist(), strict=True):
        scaled = value / abs(step)
        inside = low <= scaled <= high
        of_x.append(incoming if inside else 0.0)
        # Outside, LSQ+ (Eq. 5) has the bound before the zero-point is taken off: the zero-point moves with the step.
        zero = made.zero_point()
        of_step += incoming * (round(scaled) - scaled if inside else (low if scaled < low else high) + zero)
        of_offset += 0.0 if inside else incoming
    np.testing.assert_allclose(x.grad.flatten().numpy(), of_x, rtol=0, atol=0)
    np.testing.assert_allclose(made.step.grad.item(), of_step * scale * math.copysign(1, step), rtol=1e-11)
    if made.offset is not None:
        np.testing.assert_allclose(made.offset.grad.item(), of_offset * scale, rtol=1e-11)


@pytest.mark.parametrize(("x", "slope"), [(-30.0, 0), (30.0, 15)])
def test_step_gradient_with_an_offset_is_the_slope_of_what_lies_outside(x: float, slope: int) -> None:
    """4 bits, step .1, offset -.75: out = n s + offset below and p s + offset above, but for rounding."""
    made = LSQQuantizer(4, signed=False, offset=True, count=1).double()
    with torch.no_grad():
        made.step.fill_(0.1)
        made.offset.fill_(-0.75)
    made(torch.tensor([x], dtype=torch.float64)).backward()
    assert made.step.grad.item() / made.gradient_scale == pytest.approx(slope)
    assert made.offset.grad.item() / made.gradient_scale == pytest.approx(1)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("gradient_order", [torch.contiguous_format, torch.channels_last])
def test_gradients_do_not_depend_on_the_order_in_memory(
    order: torch.memory_format, gradient_order: torch.memory_format
) -> None:
    def gradients(order: torch.memory_format, gradient_order: torch.memory_format) -> list[torch.Tensor]:
        made = quantizer(3, "offset")
        x = values()[:, :, :35].reshape(2, 7, 5, 7).contiguous(memory_format=order).requires_grad_()
        incoming = torch.arange(490.0, dtype=torch.float64).reshape(2, 7, 5, 7).contiguous(memory_format=gradient_order)
        made(x).backward(incoming)
        return [x.grad, made.step.grad, made.offset.grad]

    plain = gradients(torch.contiguous_format, torch.contiguous_format)
    for ours, theirs in zip(gradients(order, gradient_order), plain, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("kind", ["weights", "inputs"])
def test_gradients_are_those_of_a_straight_through_estimator(kind: str) -> None:
    """The pseudo-code of LSQ's appendix A, which leaves the derivatives to autograd."""

    def scale_gradient(s: torch.Tensor, scale: float) -> torch.Tensor:
        return (s - s * scale).detach() + s * scale

    def round_through(v: torch.Tensor) -> torch.Tensor:
        return (v.round() - v).detach() + v

    made, x = quantizer(4, kind), (values() + 0.01).requires_grad_()  # not on a bound: the scaled step rounds
    low, high = codes_of(4, kind, 0.375, 0)
    y, step = x.detach().clone().requires_grad_(), torch.tensor(0.375, dtype=torch.float64, requires_grad=True)
    scaled = scale_gradient(step, 1 / math.sqrt(50 * high))
    expected = round_through((y / scaled).clamp(low, high)) * scaled
    for out in (made(x), expected):
        (out**3).sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-9)
    assert math.isclose(made.step.grad.item(), step.grad.item(), rel_tol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_scale_and_code_ranges(kind: str) -> None:
    made = quantizer(3, kind, count=700)
    assert made.gradient_scale == 1 / math.sqrt(700 * (3 if kind == "weights" else 7))
    assert made.bounds() == codes_of(3, kind, 0.375, -0.8)
    assert (made.offset is None) == (kind != "offset")


@given(width=st.integers(2, 8), step=st.floats(0.001, 10), offset=st.floats(-50, 50), seed=st.integers(0, 100))
def test_offset_keeps_zero_on_the_grid(width: int, step: float, offset: float, seed: int) -> None:
    made = quantizer(width, "offset", step, offset)
    low, high = made.bounds()
    assert low <= 0 <= high and high - low == 2**width - 1
    assert made(torch.zeros(1, dtype=torch.float64)).item() == 0
    with torch.no_grad():
        out = made(values(seed)) / step
    assert torch.allclose(out, out.round(), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("distribution", ["normal", "laplace", "relu", "all alike"])
def test_initialize_beats_lsqs_own_start(kind: str, width: int, distribution: str) -> None:
    generator = np.random.default_rng(0)
    x = generator.laplace(0, 0.3, 3000) if distribution == "laplace" else generator.normal(0, 0.3, 3000)
    if distribution == "all alike":
        x = np.full(3000, 0.7)
    if distribution == "relu" or kind == "inputs":
        x = np.maximum(x, 0)
    made = quantizer(width, kind)
    made.initialize(torch.from_numpy(x))
    with torch.no_grad():
        error = np.square(made(torch.from_numpy(x)).numpy() - x).mean()
    positive_codes = codes_of(width, kind, 1, 0)[1]
    own = 2 * np.abs(x).mean() / math.sqrt(positive_codes)
    offset = x.min() if kind == "offset" else 0.0
    error_of_own = np.square(twin(x, width, kind, own, offset) - x).mean()
    assert error <= error_of_own * (0.95 if width >= 5 and distribution != "all alike" else 1) + 1e-15


def test_initialize_finds_the_best_of_its_candidates() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, 500))
    made = quantizer(3, "weights")
    made.initialize(x)
    reach = x.abs().max().item()
    errors = {}
    for share in (1 - i / 40 for i in range(40)):
        step = reach * share / 3.5
        errors[step] = np.square(twin(x.numpy(), 3, "weights", step, 0) - x.numpy()).mean()
    assert math.isclose(made.step.item(), min(errors, key=errors.get), rel_tol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_initialize_survives_constants(kind: str) -> None:
    made = quantizer(4, kind)
    for constant in (0.0, 3.0):
        made.initialize(torch.full((9,), constant, dtype=torch.float64))
        with torch.no_grad():
            out = made(torch.full((9,), constant, dtype=torch.float64))
        assert math.isfinite(made.step.item()) and made.step.item() > 0
        assert torch.allclose(out, torch.full_like(out, constant), atol=0.1 * constant)
