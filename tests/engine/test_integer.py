"""The integer back end next to float64 arithmetic written out, and to the plain supernet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests import nets
from tests.quant.test_supernet import SPACES
from usdn_nas.engine import compiled, integer, integer_steps, integer_trial
from usdn_nas.engine.integer_steps import ByteLayer
from usdn_nas.engine.integer_trial import Finding, trial
from usdn_nas.engine.parts import PartCompiler
from usdn_nas.engine.program import Add, Affine, Call, Geometry, Grid, Layer, Options, Program, Quantize, Slot, Tail
from usdn_nas.quant.supernet import Supernet

CPU = torch.device("cpu")
OPTIONS = Options(torch.float32, CPU, channels_last=True)

needs_int8 = pytest.mark.skipif(integer.unavailable(CPU) is not None, reason=str(integer.unavailable(CPU)))

# channels in and out, kernel, stride, padding, dilation, groups
CONVS = {
    "3x3": (16, 24, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "strided": (16, 32, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "dilated": (8, 16, (3, 3), (1, 1), (2, 2), (2, 2), 1),
    "grouped": (16, 32, (3, 3), (1, 1), (1, 1), (1, 1), 4),
    "depthwise": (24, 24, (5, 5), (2, 2), (2, 2), (1, 1), 24),
    "pointwise, strided": (32, 64, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "odd counts": (3, 7, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    "one channel": (1, 16, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "oblong": (16, 16, (1, 4), (1, 2), (0, 3), (1, 1), 1),
}
# W, A, lowest code
GRIDS = [(2, 2, 0), (5, 3, 0), (3, 7, 0), (8, 7, 0), (8, 7, -41), (4, 4, -8), (8, 2, -1)]


def layer(name: str, w: int, a: int, low: int, seed: int = 0) -> Layer:
    """A layer from slot 1 to slot 2 that gives its sums of products, weights at both ends among them."""
    generator = torch.Generator().manual_seed(seed)
    if name == "linear":
        shape, geometry = (100, 96), None
    else:
        inputs, outputs, kernel, *_, groups = CONVS[name]
        shape, geometry = (outputs, inputs // groups, *kernel), Geometry(*CONVS[name][3:])
    weight = torch.randint(-(2 ** (w - 1)), 2 ** (w - 1), shape, generator=generator).double()
    weight[0], weight[-1] = -(2 ** (w - 1)), 2 ** (w - 1) - 1
    grid = Grid(0.25, low, low + 2**a - 1)
    return Layer(Slot(2), Slot(1), grid, weight, True, torch.ones(len(weight)).double(), None, geometry)


def values_for(step: Layer, seed: int = 1) -> Tensor:
    """Float32 values on both sides of the grid's ends, off the ties; half of the images are all at its upper end."""
    assert step.source_grid is not None
    grid, generator = step.source_grid, torch.Generator().manual_seed(seed)
    features = step.weight.shape[1] * (1 if step.geometry is None else step.geometry.groups)
    shape = (4, features) if step.geometry is None else (4, features, 9, 11)
    codes = torch.randint(grid.low - 3, grid.high + 4, shape, generator=generator)
    codes[:2] = grid.high
    values = (codes + 0.5 * torch.rand(shape, generator=generator) - 0.25) * grid.step
    return values if values.ndim == 2 else values.contiguous(memory_format=torch.channels_last)


def sums(step: Layer, values: Tensor) -> Tensor:
    """The exact result, float64."""
    assert step.source_grid is not None
    codes = (values.double() / step.source_grid.step).round().clamp(step.source_grid.low, step.source_grid.high)
    if step.geometry is None:
        return F.linear(codes, step.weight)
    geometry = step.geometry
    return F.conv2d(codes, step.weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)


def program(*steps: Layer | Add | Affine | Call, first: Layer) -> Program:
    """Quantizes slot 0 into slot 1 for ``first``, then goes on with ``steps``; gives the last one's result."""
    assert first.source_grid is not None
    slots = 1 + max(step.out for step in steps)
    return Program((Slot(0),), (Quantize(Slot(1), Slot(0), first.source_grid), *steps), (steps[-1].out,), slots)


@torch.inference_mode()
def run(made: Program, *state: Tensor, options: Options = OPTIONS) -> Tensor:
    """What the integer back end makes of it."""
    return integer.compile_program(made, options)(state)[0]


def in_bytes(made: Program) -> int:
    """How many layers the integer back end runs in bytes."""
    steps = integer.compile_program(made, OPTIONS).steps
    return sum(isinstance(step, ByteLayer) for step, _ in steps)


@needs_int8
class TestExactness:
    @pytest.mark.parametrize("name", [*CONVS, "linear"])
    @pytest.mark.parametrize(("w", "a", "low"), GRIDS)
    def test_sums(self, name: str, w: int, a: int, low: int) -> None:
        """To the bit: sums below 2^24 are whole numbers of float32."""
        step = layer(name, w, a, low)
        values = values_for(step)
        made = program(step, first=step)
        assert in_bytes(made) == 1
        assert torch.equal(run(made, values).double(), sums(step, values))

    @pytest.mark.parametrize("name", [*CONVS, "linear"])
    @pytest.mark.parametrize("after", [Grid(0.5, 0, 15), Grid(2.0, -3, 4), Grid(0.25, 0, 127)])
    def test_requantization(self, name: str, after: Grid) -> None:
        """Scale, bias and step are powers of two, so that float32 has all in full, ties too, which go to even."""
        step = layer(name, 4, 4, 0)
        outputs = len(step.weight)
        scale = torch.tensor([2.0**-4, -(2.0**-5), 0.0, 2.0**-6]).repeat(outputs)[:outputs].double()
        bias = torch.linspace(-4, 4, outputs).double().mul(16).round() / 16
        first = replace(step, scale=scale, bias=bias, tail=Tail(grid=after))
        reader = Layer(Slot(3), Slot(2), after, torch.eye(outputs), True, torch.ones(outputs).double(), None, None)
        if step.geometry is not None:
            reader = replace(
                reader, weight=reader.weight[:, :, None, None], geometry=Geometry((1, 1), (0, 0), (1, 1), 1)
            )
        values = values_for(step)
        exact = sums(step, values).movedim(1, -1) * scale + bias
        codes = (exact / after.step).round().clamp(after.low, after.high).movedim(-1, 1)
        made = program(first, reader, first=first)
        assert in_bytes(made) == 2
        # bytes are rounded after the zero-point was added: where it is odd, ties go to odd codes
        ties = (exact / after.step).remainder(1).movedim(-1, 1) == 0.5
        found = run(made, values).double()
        assert torch.equal(found[~ties], codes[~ties])
        assert (found - codes)[ties].abs().sum() == 0 or after.low % 2

    def test_weights_are_packed_for_one_size_and_run_at_others(self) -> None:
        step = layer("3x3", 8, 7, -41)
        part = integer.compile_program(program(step, first=step), OPTIONS)
        generator = torch.Generator().manual_seed(0)
        for shape in ((2, 16, 9, 11), (70, 16, 9, 11), (1, 16, 28, 28), (3, 16, 5, 3)):
            values = torch.randint(-20, 20, shape, generator=generator).float()
            with torch.inference_mode():
                assert torch.equal(part((values,))[0].double(), sums(step, values))

    def test_layouts(self) -> None:
        step = layer("strided", 4, 4, 0)
        values, made = values_for(step), program(step, first=step)
        assert torch.equal(run(made, values), run(made, values.contiguous()))
        assert torch.equal(run(made, values), run(made, values, options=replace(OPTIONS, channels_last=False)))

    def test_long_sums_are_left_to_floating_point(self) -> None:
        step = layer("linear", 8, 7, 0)
        assert in_bytes(program(replace(step, weight=step.weight.repeat(1, 500)), first=step)) == 1
        assert in_bytes(program(replace(step, weight=step.weight.repeat(1, 2000)), first=step)) == 0


@needs_int8
class TestTails:
    @pytest.fixture
    def step(self) -> Layer:
        made = layer("3x3", 3, 4, 0)
        return replace(made, scale=made.scale / 64, bias=torch.linspace(-2, 2, 24).double(), out=Slot(3))

    def exact(self, step: Layer, values: Tensor) -> Tensor:
        assert step.bias is not None
        return (sums(step, values).movedim(1, -1) * step.scale + step.bias).movedim(-1, 1)

    @pytest.mark.parametrize("relu", [True, False])
    def test_residual(self, step: Layer, relu: bool) -> None:
        """The state that is added is as it was afterwards."""
        values, other = values_for(step), torch.randn(4, 24, 9, 11)
        before = values.clone(), other.clone()
        made = replace(program(replace(step, add=Slot(2), tail=Tail(relu)), first=step), inputs=(Slot(0), Slot(2)))
        found = run(made, values, other)
        want = self.exact(step, values) + other
        assert torch.allclose(found.double(), want.relu() if relu else want, atol=1e-5)
        assert torch.equal(values, before[0]) and torch.equal(other, before[1])

    @pytest.mark.parametrize("shape", [(24, 1, 1), (4, 24, 1, 1), (1,)])
    def test_residual_of_another_shape(self, step: Layer, shape: tuple[int, ...]) -> None:
        values, other = values_for(step), torch.randn(shape)
        made = replace(program(replace(step, add=Slot(2), tail=Tail(True)), first=step), inputs=(Slot(0), Slot(2)))
        assert torch.allclose(run(made, values, other).double(), (self.exact(step, values) + other).relu(), atol=1e-5)

    @pytest.mark.parametrize("relu", [True, False])
    @pytest.mark.parametrize("low", [0, -5])
    @pytest.mark.parametrize("reader", ["layer", "call"])
    @pytest.mark.parametrize("maker", ["layer", "residual", "add", "affine"])
    def test_grids(self, step: Layer, relu: bool, low: int, reader: str, maker: str) -> None:
        """Whoever makes codes and whoever reads them, bytes or not."""
        grid = Grid(0.21, low, low + 15)
        values, other = values_for(step), torch.randn(4, 24, 9, 11)
        tail = Tail(relu, grid)
        want = self.exact(step, values)
        if maker == "affine":
            steps = [step, Affine(Slot(4), Slot(3), torch.full((24,), 0.5), torch.full((24,), 0.1), tail)]
            want = want * 0.5 + 0.1
        elif maker == "add":
            steps, want = [step, Add(Slot(4), Slot(3), Slot(2), tail)], want + other
        elif maker == "residual":
            steps, want = [replace(step, out=Slot(4), add=Slot(2), tail=tail)], want + other
        else:
            steps = [replace(step, out=Slot(4), tail=tail)]
        if reader == "layer":
            weight = torch.eye(24)[:, :, None, None]
            geometry = Geometry((1, 1), (0, 0), (1, 1), 1)
            steps.append(Layer(Slot(5), Slot(4), grid, weight, True, torch.ones(24).double(), None, geometry))
        else:
            steps.append(Call(Slot(5), torch.clone, (Slot(4),)))
        made = replace(program(*steps, first=step), inputs=(Slot(0), Slot(2)))
        codes = ((want.relu() if relu else want) / grid.step).round().clamp(grid.low, grid.high)
        found = run(made, values, other).double()
        assert found.min() >= (0 if relu else low) and found.max() <= low + 15
        assert (found != codes).double().mean() < 1e-3  # float32 rounds some the other way
        assert (found - codes).abs().max() <= 1

    def test_relu(self, step: Layer) -> None:
        values = values_for(step)
        found = run(program(replace(step, tail=Tail(True)), first=step), values)
        assert torch.allclose(found.double(), self.exact(step, values).relu(), atol=1e-5)


@needs_int8
class TestWhatIsLeftToFloat:
    def check(self, made: Program, *state: Tensor) -> None:
        assert in_bytes(made) == 0
        with torch.inference_mode():
            assert torch.equal(run(made, *state), compiled.compile_program(made, OPTIONS)(state)[0])

    def test_codes_of_8_bits_where_pairs_saturate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        step = layer("3x3", 8, 8, 0)
        monkeypatch.setattr(integer, "trial", lambda: Finding(None, wide=False))
        self.check(program(step, first=step), values_for(step))
        assert in_bytes(program(replace(step, weight=step.weight / 2), first=step)) == 1  # W = 7: pairs fit

    def test_codes_of_8_bits_where_they_do_not(self) -> None:
        if not trial().wide:
            pytest.skip("no VNNI here")
        for low in (0, -100):
            step = layer("3x3", 8, 8, low)
            values = values_for(step)
            assert in_bytes(program(step, first=step)) == 1
            assert torch.equal(run(program(step, first=step), values).double(), sums(step, values))

    @pytest.mark.parametrize(("w", "a"), [(9, 4), (4, 9)])
    def test_wide_codes(self, w: int, a: int) -> None:
        step = layer("3x3", w, a, 0)
        self.check(program(step, first=step), values_for(step))

    def test_weights_in_full_precision(self) -> None:
        step = replace(layer("3x3", 4, 4, 0), weight_codes=False)
        self.check(program(step, first=step), values_for(step))

    def test_codes_that_something_else_reads_too(self) -> None:
        step = replace(layer("3x3", 4, 4, 0), out=Slot(3))
        pooled = Call(Slot(2), F.adaptive_avg_pool2d, (Slot(1), 1))
        step = replace(step, add=Slot(2), weight=step.weight[:16], scale=step.scale[:16])
        self.check(program(pooled, step, first=step), values_for(step))

    def test_small_linear_layers(self) -> None:
        step = layer("linear", 4, 4, 0)
        self.check(program(replace(step, weight=step.weight[:9], scale=step.scale[:9]), first=step), values_for(step))

    def test_float64(self) -> None:
        step = layer("3x3", 4, 4, 0)
        made, options = program(step, first=step), replace(OPTIONS, dtype=torch.float64)
        values = values_for(step).double()
        assert torch.equal(run(made, values, options=options), sums(step, values))


class TestAvailability:
    @pytest.fixture(autouse=True)
    def fresh(self):
        trial.cache_clear()
        yield
        trial.cache_clear()

    def test_only_on_cpus(self) -> None:
        assert "cuda" in str(integer.unavailable(torch.device("cuda", 0)))

    def test_a_torch_without_the_operators(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(integer_steps, "_Conv", lambda *given: torch.ops.onednn.no_such_operator)
        assert "does not run" in str(integer.unavailable(CPU))
        self.falls_back()

    def test_other_arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuses(*given: object) -> Tensor:
            raise RuntimeError("qlinear_prepack() is missing value for argument 'x'")

        monkeypatch.setattr(integer_steps._Linear, "__call__", refuses)
        assert "missing value" in str(integer.unavailable(CPU))

    def test_a_processor_that_saturates(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(integer_trial, "_computes", lambda span, case: False)
        assert "add up exactly" in str(integer.unavailable(CPU))
        self.falls_back()

    def test_a_torch_without_onednn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert "without oneDNN" in str(integer.unavailable(CPU))

    def falls_back(self) -> None:
        step = layer("3x3", 4, 4, 0)
        values = values_for(step)
        assert in_bytes(program(step, first=step)) == 0
        assert torch.equal(run(program(step, first=step), values).double(), sums(step, values))


@needs_int8
@pytest.mark.parametrize("name", SPACES)
def test_decisions_are_the_supernets(name: str) -> None:
    """Float32 next to the plain supernet in float64: roundings may differ, decisions hardly."""
    exact = nets.supernet(SPACES[name])
    images = nets.images_for(exact.space, 30)
    net = Supernet(*_network(name)).eval()
    net.load_state_dict(exact.state_dict())
    part = PartCompiler(net, "integer")
    rng = np.random.default_rng(0)
    agree = close = total = taken = 0
    for _ in range(3):
        bits = exact.space.sample(rng)
        exact.set_bits(bits)
        with torch.inference_mode():
            for want, found in zip(exact(images), _through(part, images, bits), strict=True):
                agree += int((want.argmax(1) == found.argmax(1)).sum())
                close += int(((want - found).abs().amax(1) < 1e-3 * want.abs().max()).sum())
                total += len(want)
        layers = exact.space.layer_bits(bits)
        taken += sum(in_bytes_of(part.segment(i, layers)) for i in range(len(net.chain.segments)))
    assert taken > 0
    assert agree / total > 0.99 and close / total > 0.9


def _network(name: str):
    space, chain = nets.network(SPACES[name])
    return chain.float(), space


def in_bytes_of(part: object) -> int:
    return sum(isinstance(step, ByteLayer) for step, _ in getattr(part, "steps", ()))


def _through(part: PartCompiler, images: Tensor, bits: object) -> list[Tensor]:
    net = part.supernet
    layers = net.space.layer_bits(bits)
    state: tuple[Tensor, ...] = (part.prepared(images),)
    logits, exits = [], dict(zip(net.chain.exit_segments, range(len(net.chain.heads)), strict=True))
    for index in range(len(net.chain.segments)):
        state = part.segment(index, layers)(state)
        if index in exits:
            logits.append(part.head(exits[index], layers)(state)[0])
    return logits
