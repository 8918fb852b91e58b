"""Search spaces: groups, fixed layers, encodings, sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import beta

from tests.helpers import chain_record, search_space
from usdn_nas._util.errors import UserError
from usdn_nas._util.validation import validate
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import exit_costs, full_bops, layer_table, mean_bits, reference_bops, uniform_bops
from usdn_nas.space.search_space import SearchSpace, SpaceSpec, load_space
from usdn_nas.study.parameters import bits_of, configuration, parameter_sizes, params_of

PAIRS = st.lists(st.tuples(st.integers(2, 16), st.integers(2, 16)), min_size=1, max_size=5, unique=True)
WIDTHS = st.lists(st.integers(2, 16), min_size=1, max_size=3, unique=True)
CHOSEN = st.fixed_dictionaries({"choices": PAIRS}) | st.fixed_dictionaries({"weights": WIDTHS, "activations": WIDTHS})
GRANULARITY = st.sampled_from(["block", "layer", "network"])


def space_of(bits: dict, exits: dict | None = None, blocks: int = 3) -> SearchSpace:
    network = {"name": "fake", "input_shape": [1, 8, 8], "num_classes": 10}
    spec = SpaceSpec.model_validate({"network": network, "bits": bits, "exits": exits or {}})
    return SearchSpace(spec, chain_record(blocks))


@given(bits=CHOSEN, granularity=GRANULARITY, searched=st.booleans(), seed=st.integers(0, 2**32))
def test_invariants(bits: dict, granularity: str, searched: bool, seed: int) -> None:
    space = space_of(bits | {"granularity": granularity}, {"head_bits": "search"} if searched else {})
    pairs = bits.get("choices") or list(itertools.product(bits["weights"], bits["activations"]))
    names = [layer.name for layer in space.chain.layers()]
    for group in space.groups:
        assert sorted(group.choices) == sorted(tuple(pair) for pair in pairs)
        assert [w * a for w, a in group.choices] == sorted(w * a for w, a in group.choices)
    # every layer is either in one group or fixed
    grouped = [layer for group in space.groups for layer in group.layers]
    assert sorted([*grouped, *space.fixed]) == sorted(names)
    assert all(space.group_of[layer] == group.name for group in space.groups for layer in group.layers)
    convs = 6 + (2 if searched else 0)
    assert len(grouped) == convs
    blocks = 3 + (2 if searched else 0)
    assert len(space.groups) == {"layer": convs, "block": blocks, "network": 1}[granularity]
    assert space.bit_configurations == len(pairs) ** len(space.groups)
    assert space.size == space.bit_configurations * 4
    # a sample is a point, made of choices, a function of the generator
    drawn = space.sample(np.random.default_rng(seed))
    assert drawn == space.sample(np.random.default_rng(seed))
    space.check(Architecture(drawn))
    indices = [group.choices.index(drawn[group.name]) for group in space.groups]
    assert space.choice_bits(indices) == drawn
    by_layer = space.layer_bits(drawn)
    assert list(by_layer) == names
    assert all(by_layer[layer] == drawn[space.group_of[layer]] for layer in grouped)
    assert all(by_layer[layer] == pair for layer, pair in space.fixed.items())


@given(seed=st.integers(0, 2**32), group=st.integers(0, 2), index=st.integers(0, 2))
def test_one_step_up_a_groups_choices_never_costs_less(seed: int, group: int, index: int) -> None:
    space = space_of({"choices": [[5, 5], [2, 2], [4, 3], [3, 4]]})
    indices = np.random.default_rng(seed).integers(4, size=3).tolist()
    indices[group] = index
    more = [i + (k == group) for k, i in enumerate(indices)]
    low, high = (exit_costs(space, space.choice_bits(i)) for i in (indices, more))
    assert (low.cumulative <= high.cumulative).all()
    assert (low.chain[:group] == high.chain[:group]).all() and (low.heads == high.heads).all()


def test_encodings_are_distinct() -> None:
    space = search_space(blocks=3)
    made = {tuple(sorted(space.choice_bits(i).items())) for i in itertools.product(range(4), repeat=3)}
    assert len(made) == space.bit_configurations == 64
    with pytest.raises(ValueError):
        space.choice_bits([0, 0])


def test_samples_are_uniform() -> None:
    space = search_space(blocks=2)
    generator = np.random.default_rng(0)
    counts: dict[tuple, int] = {}
    for _ in range(3200):
        key = tuple(space.sample(generator).values())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 16
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 37.7  # 15 degrees of freedom, p = .001


def test_stratified_configurations_follow_a_level() -> None:
    space = search_space(blocks=2)
    generator = np.random.default_rng(0)
    drawn = np.array(
        [
            [
                [group.choices.index(bits[group.name]) for group in space.groups]
                for bits in space.stratified(generator, 2)
            ]
            for _ in range(1600)
        ]
    )  # fmt: skip
    # Given the level t, Binomial(3, t) in each group; the integral over t is a beta function.
    chances = np.array(
        [
            [math.comb(3, i) * math.comb(3, j) * beta(i + j + 1, 7 - i - j) for j in range(4)]
            for i in range(4)
        ]
    )  # fmt: skip
    assert chances.sum(axis=0) == pytest.approx(1 / 4)
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(drawn.reshape(-1, 2).T), 1)
    assert ((counts - 3200 * chances) ** 2 / (3200 * chances)).sum() < 37.7  # 15 degrees of freedom, p = .001
    assert drawn.mean(axis=(0, 2)) == pytest.approx([3 / 4, 9 / 4], abs=0.06)  # levels of 1/4 and 3/4 on average


def test_choices_are_ordered_by_cost_then_by_weights() -> None:
    space = space_of({"choices": [[4, 2], [2, 4], [5, 5], [2, 2]]})
    assert space.groups[0].choices == ((2, 2), (2, 4), (4, 2), (5, 5))
    apart = space_of({"weights": [4, 2], "activations": [3, 2]}).groups[0]
    assert apart.choices == ((2, 2), (2, 3), (4, 2), (4, 3))
    assert (apart.weights, apart.activations) == ((2, 4), (2, 3))


def test_ladder() -> None:
    space = search_space(blocks=2)
    assert space.ladder() == [{"b0": (b, b), "b1": (b, b)} for b in (2, 3, 4, 5)]
    assert [full_bops(space, bits) for bits in space.ladder()] == [uniform_bops(space, b) for b in (2, 3, 4, 5)]
    uneven = space_of({"choices": [[4, 3], [2, 3]]})
    assert [bits["b0"] for bits in uneven.ladder()] == [(2, 3), (4, 3)]
    mixed = space_of({"weights": [2, 3], "activations": [2, 3]})
    assert [bits["b0"] for bits in mixed.ladder()] == [(2, 2), (3, 3)]


def test_allowed_choices_of_a_group() -> None:
    choices = [[2, 2], [3, 3], [4, 4], [5, 5]]
    space = space_of({"choices": choices, "allowed": {"b*": [[4, 4], [2, 2]], "b1": [[5, 5], [3, 3], [4, 4]]}})
    of = {group.name: group.choices for group in space.groups}
    assert of == {"b0": ((2, 2), (4, 4)), "b1": ((3, 3), (4, 4), (5, 5)), "b2": ((2, 2), (4, 4))}
    assert space.bit_configurations == 12
    assert space.ladder() == [{"b0": (4, 4), "b1": (4, 4), "b2": (4, 4)}]
    by_layer = space_of({"choices": choices, "granularity": "layer", "allowed": {"b1.conv?": [[3, 3]]}})
    assert [len(group.choices) for group in by_layer.groups] == [4, 4, 1, 1, 4, 4]
    assert space_of({"choices": choices, "allowed": {"b0": [[2, 2]], "b1": [[3, 3]]}}).ladder() == []


def test_allowed_where_w_and_a_are_apart() -> None:
    """A group with a list of its own chooses among pairs, the others W and A."""
    space = space_of({"weights": [2, 4], "activations": [2, 3], "allowed": {"b1": [[4, 2], [2, 3]]}})
    b0, b1, _ = space.groups
    assert b1.choices == ((2, 3), (4, 2)) and b1.weights is None and b1.activations is None
    assert b0.choices == ((2, 2), (2, 3), (4, 2), (4, 3)) and b0.weights == (2, 4)
    assert list(parameter_sizes(space).values()) == [2, 2, 2, 2, 2]
    every = [bits_of(space, configuration(space, number)) for number in range(space.bit_configurations)]
    assert len({tuple(bits.values()) for bits in every}) == 4 * 2 * 4
    for number, bits in enumerate(every):
        space.check(Architecture(bits))
        assert params_of(space, bits) == configuration(space, number)


@pytest.mark.parametrize(
    "allowed, message",
    [
        ({"b7": [[2, 2]]}, r"'b7' matches no searched group of fake"),
        ({"b0.conv1": [[2, 2]]}, r"matches no searched group"),
        ({"b0": [[2, 3]]}, r"holds \[2, 3\], which is not among the choices \[2, 2\], \[3, 3\]"),
        ({"b0": [[2, 2], [2, 2]]}, "holds a pair twice"),
        ({"b0": []}, "at least 1 item"),
    ],
)
def test_allowed_that_is_wrong(allowed: dict, message: str) -> None:
    with pytest.raises((UserError, ValidationError), match=message):
        space_of({"choices": [[2, 2], [3, 3]], "allowed": allowed})


def test_a_space_without_allowed_keeps_its_digest() -> None:
    assert "allowed" not in space_of({"choices": [[2, 2], [3, 3]]}).spec.model_dump()["bits"]
    written = space_of({"choices": [[2, 2], [3, 3]], "allowed": {"b0": [[2, 2]]}}).spec
    assert SpaceSpec.model_validate(written.model_dump(mode="json")) == written


def test_fixed_layers_heads_and_ends() -> None:
    bits = {"choices": [[2, 2], [3, 3]], "fixed": {"b1.*": [6, 5], "stem.conv": [4, 4], "exit:b0.conv0": [7, 7]}}
    space = space_of(bits, {"head_bits": [3, 2], "head_linear_bits": [5, 5]})
    assert [group.name for group in space.groups] == ["b0", "b2"]
    assert space.fixed == {
        "stem.conv": (4, 4),
        "b1.conv1": (6, 5),
        "b1.conv2": (6, 5),
        "exit:b0.conv0": (7, 7),
        "exit:b0.linear": (5, 5),
        "exit:b1.conv0": (3, 2),
        "exit:b1.linear": (5, 5),
        "exit:final.linear": (8, 8),
    }
    default = space_of({"choices": [[2, 2], [3, 3]]})
    assert default.fixed["stem.conv"] == default.fixed["exit:final.linear"] == (8, 8)
    assert (default.fixed["exit:b0.conv0"], default.fixed["exit:b0.linear"]) == ((4, 4), (8, 8))


def test_what_cannot_be_resolved_is_named() -> None:
    with pytest.raises(UserError) as caught:
        space_of({"choices": [[2, 2]], "fixed": {"b1.conv3": [8, 8]}})
    assert str(caught.value).startswith("bits.fixed: 'b1.conv3' matches no layer of fake; did you mean 'b1.conv")
    with pytest.raises(UserError, match="nothing is left to search"):
        space_of({"choices": [[2, 2]], "fixed": {"b*": [8, 8]}})


def test_costs_by_hand() -> None:
    space = search_space(blocks=2)  # stem 10,000; b0 41,000 + 42,000; b1 48,000 + 49,000; head 3,000 + 640; final 640
    costs = exit_costs(space, {"b0": (2, 3), "b1": (5, 5)})
    b0, b1 = 640_000 + 83_000 * 6, 97_000 * 25
    assert costs.chain.tolist() == [b0, b0 + b1]
    assert costs.heads.tolist() == [3_000 * 16 + 640 * 64, 640 * 64]
    assert costs.cumulative.tolist() == [b0 + costs.heads[0], b0 + b1 + costs.heads.sum()]
    assert (
        costs.placed(()).cumulative.tolist() == [b0 + b1 + 640 * 64] == [full_bops(space, {"b0": (2, 3), "b1": (5, 5)})]
    )
    assert reference_bops(space) == 10_000 * 64 + 180_000 * 16 + 640 * 64
    assert uniform_bops(space, 3, ends=None) == (10_000 + 180_000 + 640) * 9
    assert exit_costs(space, None).cumulative.tolist() == [
        1024 * (93_000 + 3_640),
        1024 * (190_000 + 3_640 + 640),
    ]
    table = layer_table(space, Architecture({"b0": (2, 3), "b1": (5, 5)}))
    assert [row["name"] for row in table] == [
        *("stem.conv", "b0.conv1", "b0.conv2", "b1.conv1", "b1.conv2", "exit:final.linear")
    ]
    assert sum(row["bops"] for row in table) == full_bops(space, {"b0": (2, 3), "b1": (5, 5)})
    means = mean_bits([row for row in table if row["group"]])
    assert means["mean_weight_bits"] == 3.5 and means["mean_activation_bits"] == 4
    assert math.isclose(means["mac_weighted_weight_bits"], (83 * 2 + 97 * 5) / 180)
    assert math.isclose(means["mac_weighted_activation_bits"], (83 * 3 + 97 * 5) / 180)


def test_digests_follow_content() -> None:
    assert search_space(3).digest == search_space(3).digest != search_space(4).digest
    assert search_space(3).digest != search_space(3, {"choices": [[2, 2]]}).digest
    first, second = (space_of({"choices": c}) for c in ([[2, 2], [3, 3]], [[3, 3], [2, 2]]))
    assert first.spec.digest != second.spec.digest


WIDTH = "expected 2 to 16 bits, or 32 for full precision, got "
EITHER = "bits: expected either 'choices' (pairs), or both 'weights' and 'activations'"
TUPLE_OR_SEARCH = "exits.head_bits: expected a list or 'search', got 'serach'"
HEADS = "exits.head: expected 'linear', 'sdn', 'conv', 'msdnet', 'conv3' or 'own', got "
ABOVE_0 = "expected a number >= 1, got 0"
TWO_CLASSES = "expected a number >= 2, got 1"
NETWORK = {"name": "n", "input_shape": [1, 8, 8], "num_classes": 10}
SPACE = {"network": NETWORK, "bits": {"choices": [[2, 2]]}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bit": {}}, "bit: unknown key 'bit'; did you mean 'bits'?"),
        ({"exits": {"heads": "conv"}}, "exits.heads: unknown key 'heads'; did you mean 'head'?"),
        ({"exits": {"head": "a"}}, HEADS + "'a'"),
        ({"exits": {"head_bits": "serach"}}, TUPLE_OR_SEARCH),
        ({"exits": {"head_bits": [4, 1]}}, "exits.head_bits.1: " + WIDTH + "1"),
        ({"bits": {"choices": [[2, 17]]}}, "bits.choices.0.1: " + WIDTH + "17"),
        ({"bits": {"choices": [[2]]}}, "bits.choices.0.1: expected one more value, got [2]"),
        ({"bits": {"choices": [[2, 2], [2, 2]]}}, "bits: 'choices' holds a value twice"),
        ({"bits": {"weights": [2]}}, EITHER),
        ({"bits": {"choices": [[2, 2]], "weights": [2], "activations": [2]}}, EITHER),
        ({"network": {"name": "n", "num_classes": 2}}, "network.input_shape: this key is missing"),
        ({"network": NETWORK | {"width": 0}}, "network.width: " + ABOVE_0),
        ({"network": NETWORK | {"input_shape": [1, 0, 8]}}, "network.input_shape.1: " + ABOVE_0),
        ({"network": NETWORK | {"num_classes": 1}}, "network.num_classes: " + TWO_CLASSES),
        ({"network": 3}, "network: expected a table, got 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_space_is_one_line(change: dict, line: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(SpaceSpec, SPACE | change, where="s.toml")
    assert str(caught.value) == f"s.toml: {line}"


def test_reading_a_space(tmp_path) -> None:
    path = tmp_path / "s.toml"
    with pytest.raises(UserError, match="no such file"):
        load_space(path)
    path.write_text("[network\n")
    with pytest.raises(UserError, match="expected TOML"):
        load_space(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="expected UTF-8 text, got something else at byte 0"):
        load_space(path)
    path.write_text('[network]\nname = "n"\ninput_shape = [1, 8, 8]\nnum_classes = 10\n[bits]\nchoices = [[2, 2]]\n')
    assert load_space(path) == SpaceSpec.model_validate(SPACE)


PAIRS_5 = "[2, 2], [3, 3], [4, 4], [5, 5]"
CHECKED = {"b0": (2, 2), "b1": (3, 3), "b2": (5, 5)}


@pytest.mark.parametrize(
    ("bits", "exits", "thresholds", "line"),
    [
        (CHECKED | {"b3": (2, 2)}, (), (), "a: bits: unknown group 'b3'; did you mean 'b2'?"),
        (CHECKED | {"b1": (2, 3)}, (), (), "a: bits.b1: [2, 3] is not among the choices " + PAIRS_5),
        ({"b0": (2, 2), "b2": (2, 2)}, (), (), "a: bits: no bits given for group 'b1'"),
        (CHECKED, ("b2",), (0.5,), "a: exits: unknown exit 'b2'; did you mean 'b1'?"),
        (CHECKED, ("b1", "b0"), (0.5, 0.5), "a: exits: exits must stand once each, in the order of the chain"),
        (CHECKED, ("b1", "b1"), (0.5, 0.5), "a: exits: exits must stand once each, in the order of the chain"),
        (CHECKED, ("b1",), (-0.1,), "a: thresholds: expected thresholds in [0, 1], got -0.1"),
    ],
)  # fmt: skip
def test_points_outside_the_space_are_named(bits: dict, exits: tuple, thresholds: tuple, line: str) -> None:
    space = search_space(blocks=3)
    space.check(Architecture(CHECKED, ("b0", "b1"), (0.0, 1.0)), where="a")
    with pytest.raises(UserError) as caught:
        space.check(Architecture(bits, exits, thresholds), where="a")
    # which of two equally near names is named is no matter
    assert str(caught.value).partition(";")[0] == line.partition(";")[0]
