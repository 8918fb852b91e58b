"""Leaving early, next to running everything and then applying the policy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import usdn_nas
from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import load_data
from usdn_nas.exits.apply import apply
from usdn_nas.exits.budgeted import thresholds_for_shares
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.export.document import write_architecture
from usdn_nas.export.runtime import EarlyExitNetwork, load_model
from usdn_nas.networks.weights import save_weights
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import exit_costs

COUNT = 24


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return nets.supernet(nets.spec(nets.RESNET14, nets.APART, {"head": "linear"}))


@pytest.fixture(scope="module")
def images(supernet: Supernet) -> Tensor:
    return nets.images_for(supernet.space, COUNT, 4)


def early_exit(
    supernet: Supernet, exits: tuple[str, ...], thresholds: tuple[float, ...], seed: int = 0
) -> EarlyExitNetwork:
    bits = supernet.space.sample(np.random.default_rng(seed))
    architecture = Architecture(bits, exits, thresholds)
    return EarlyExitNetwork(extract_chain(supernet, architecture), architecture, supernet.space)


def everything(network: EarlyExitNetwork, images: Tensor) -> np.ndarray:
    """(E, N, C) softmax of all exits, by hand."""
    with torch.no_grad():
        logits = np.stack([z.numpy() for z in network.eval()(images)])
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


EXITS = [(), ("layer1.0",), ("layer1.1", "layer3.0"), ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0")]


@pytest.mark.parametrize("exits", EXITS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_predict_is_the_policy(exits: tuple[str, ...], share: float, supernet: Supernet, images: Tensor) -> None:
    """``share``: of all samples, those confident enough to leave at an exit."""
    network = early_exit(supernet, exits, (0.0,) * len(exits), seed=len(exits))
    probabilities = everything(network, images)
    confidence = probabilities.max(-1)
    thresholds = []
    for row in np.sort(confidence[:-1], axis=1):  # halfway between two samples: no rounding decides
        k = round((1 - share) * COUNT)
        thresholds.append(0.0 if k == 0 else 1.0 if k == COUNT else float(row[k - 1 : k + 1].mean()))
    architecture = network.architecture.with_thresholds(thresholds)
    network = EarlyExitNetwork(network.network, architecture, supernet.space)
    costs = exit_costs(supernet.space, architecture.bits).placed(exits)
    taken = [next((e for e, t in enumerate(thresholds) if row[e] >= t), len(exits)) for row in confidence.T]
    for max_batch in (None, 1, 5):
        got = network.predict(images, max_batch=max_batch)
        assert got.exit_index.tolist() == taken
        for n, e in enumerate(taken):
            assert int(got.labels[n]) == probabilities[e, n].argmax()
            assert float(got.confidence[n]) == pytest.approx(confidence[e, n], rel=1e-6)
            assert int(got.bops[n]) == int(costs.chain[e]) + int(costs.heads[: e + 1].sum())
            assert np.allclose(torch.softmax(got.logits[n], 0), probabilities[e, n], atol=1e-12)
        outputs = ExitOutputs(confidence.astype(np.float32), np.ones_like(confidence, dtype=bool), network.exit_names)
        result = apply(outputs, costs, thresholds)
        assert result.leaves_at.tolist() == taken
        assert result.average_bops == pytest.approx(got.bops.double().mean().item())
    if share == 1.0:
        assert not any(taken)
    if share == 0.0:
        assert set(taken) == {len(exits)}


@pytest.mark.parametrize("exits", EXITS)
def test_most_confident_answers_what_reached_the_end(
    exits: tuple[str, ...], supernet: Supernet, images: Tensor
) -> None:
    network = early_exit(supernet, exits, (0.0,) * len(exits), seed=len(exits))
    probabilities = everything(network, images)
    confidence = probabilities.max(-1)
    thresholds = [float(row[k : k + 2].mean()) for k, row in enumerate(np.sort(confidence[:-1], axis=1), COUNT // 2)]
    architecture = replace(network.architecture, thresholds=tuple(thresholds), rule="most-confident")
    network = EarlyExitNetwork(network.network, architecture, supernet.space)
    got = network.predict(images, max_batch=7)
    outputs = ExitOutputs(confidence.astype(np.float32), np.ones_like(confidence, dtype=bool), network.exit_names)
    costs = exit_costs(supernet.space, architecture.bits).placed(exits)
    result = apply(outputs, costs, thresholds, "most-confident")
    assert got.exit_index.tolist() == result.leaves_at.tolist()
    assert got.labels.tolist() == [probabilities[e, n].argmax() for n, e in enumerate(result.answers_at)]
    assert got.confidence.tolist() == pytest.approx([confidence[e, n] for n, e in enumerate(result.answers_at)])
    assert got.bops.double().mean().item() == pytest.approx(result.average_bops)
    assert (result.answers_at != result.leaves_at).any() == (len(exits) > 0)


def test_later_segments_do_not_run_on_samples_that_left(supernet: Supernet, images: Tensor) -> None:
    exits = ("layer1.0", "layer2.0", "layer3.0")
    network = early_exit(supernet, exits, (0.0,) * 3)
    medians = np.median(everything(network, images).max(-1)[:-1], axis=1)
    network = early_exit(supernet, exits, tuple(medians.tolist()))
    seen: dict[str, int] = {}
    chain = network.network
    for kind, names, modules in (
        ("segment", chain.segment_names, chain.segments),
        ("head", chain.exit_names, chain.heads),
    ):
        for name, module in zip(names, modules, strict=True):
            module.register_forward_pre_hook(
                lambda _, inputs, key=f"{kind} {name}": seen.__setitem__(key, seen.get(key, 0) + len(inputs[0]))
            )
    leave = network.predict(images).exit_index
    reach = {exit_: int((leave >= e).sum()) for e, exit_ in enumerate((*exits, "final"))}
    assert COUNT == reach["layer1.0"] > reach["layer2.0"] > reach["layer3.0"] > reach["final"] > 0
    assert {key: count for key, count in seen.items() if key.startswith("head")} == {
        f"head {name}": count for name, count in reach.items()
    }
    order = list(chain.segment_names)
    for name in order:
        at = order.index(name)
        needs = next(e for e in (*exits, "final") if e == "final" or order.index(e) >= at)
        assert seen[f"segment {name}"] == reach[needs]


def test_nothing_runs_after_all_have_left(supernet: Supernet, images: Tensor) -> None:
    network = early_exit(supernet, ("layer1.0",), (0.0,))
    for segment in list(network.network.segments)[2:]:
        segment.register_forward_pre_hook(lambda *_: pytest.fail("ran though every sample has left"))
    assert not network.predict(images).exit_index.any()


def test_a_confidence_equal_to_the_threshold_leaves(supernet: Supernet, images: Tensor) -> None:
    probe = early_exit(supernet, ("layer1.0",), (0.0,)).float()
    image = images[:1].float()
    exact = float(probe.predict(image).confidence[0])
    for threshold, taken in ((exact, 0), (float(np.nextafter(exact, 2)), 1)):
        assert int(early_exit(supernet, ("layer1.0",), (threshold,)).float().predict(image).exit_index[0]) == taken


def test_undefined_logits_are_not_answered_by_an_exit_not_taken(supernet: Supernet, images: Tensor) -> None:
    network = early_exit(supernet, ("layer1.0",), (0.5,))
    spoiled = torch.full_like(images[:2], torch.nan)
    got = network.predict(spoiled)
    assert got.exit_index.tolist() == [1, 1] and got.confidence.isnan().all()
    assert got.bops.tolist() == [int(network.cumulative_bops[-1])] * 2


def test_no_images(supernet: Supernet, images: Tensor) -> None:
    got = early_exit(supernet, ("layer1.0",), (0.5,)).predict(images[:0])
    assert [len(field) for field in (got.labels, got.exit_index, got.bops, got.logits)] == [0] * 4


@pytest.mark.parametrize("shape", [(2, 9, 9), (1, 1, 9, 9), (1, 2, 8, 9)])
def test_other_shapes_are_refused(shape: tuple[int, ...], supernet: Supernet) -> None:
    with pytest.raises(UserError, match=r"expected images of shape \(B, 2, 9, 9\), got"):
        early_exit(supernet, (), ()).predict(torch.zeros(shape))


def test_load_model(supernet: Supernet, images: Tensor, tmp_path: Path) -> None:
    network = early_exit(supernet, ("layer1.1", "layer3.0"), (0.3, 0.4)).float()
    write_architecture(
        tmp_path / "a.json",
        supernet.space,
        network.architecture,
        objective=None,
        metrics=None,
        source=None,
        provenance={},
    )
    save_weights(network.network, tmp_path / "w.safetensors")
    for path in (str, Path):
        loaded = load_model(path(tmp_path / "a.json"), path(tmp_path / "w.safetensors"))
        assert not loaded.training and loaded.exit_names == ("layer1.1", "layer3.0", "final")
        expected, got = network.predict(images.float()), loaded.predict(images.float())
        for field in ("labels", "exit_index", "bops", "logits"):
            assert torch.equal(getattr(got, field), getattr(expected, field))
    assert usdn_nas.load_model is load_model and usdn_nas.EarlyExitNetwork is EarlyExitNetwork


def test_files_that_do_not_belong_together(supernet: Supernet, tmp_path: Path) -> None:
    ours, theirs = (
        early_exit(supernet, ("layer1.1",), (0.3,)),
        early_exit(supernet, ("layer3.0", "layer2.0"), (0.3, 0.3)),
    )
    write_architecture(
        tmp_path / "a.json", supernet.space, ours.architecture, objective=None, metrics=None, source=None, provenance={}
    )
    save_weights(theirs.network, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="weights of another network"):
        load_model(tmp_path / "a.json", tmp_path / "w.safetensors")


def test_pixels_are_normalized_as_in_training() -> None:
    """`normalize` on stored pixels gives what the data room gives for the same image."""
    splits = load_data(DataConfig(), seed=0)
    space, network = nets.network(nets.spec())
    architecture = Architecture(space.choice_bits([0] * len(space.groups)))
    ready = EarlyExitNetwork(network.place(()), architecture, space, {"mean": splits.mean, "std": splits.std})
    normalized = ready.normalize(torch.tensor(load_digits().images).unsqueeze(1)).flatten(1)
    given = next(splits.test.batches(50))[0].flatten(1)
    assert (given[:, None] - normalized).abs().amax(dim=2).amin(dim=1).max() < 1e-5
    with pytest.raises(UserError, match="says nothing of its data"):
        EarlyExitNetwork(network.place(()), architecture, space).normalize(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("rank", range(1, COUNT, 4))
def test_who_leaves_does_not_depend_on_the_batch_size(rank: int, supernet: Supernet, images: Tensor) -> None:
    """``rank``: so many of the images, which thresholds are read off, leave at the first exit."""
    exits = ("layer1.1", "layer3.0")
    network = early_exit(copy.deepcopy(supernet).float(), exits, (0.0, 0.0))
    confidence = everything(network, images.float()).max(-1)
    outputs = ExitOutputs(confidence, np.ones_like(confidence, dtype=bool), network.exit_names)
    thresholds = thresholds_for_shares(outputs, [(rank + 0.5) / COUNT, 0.5 * (1 - rank / COUNT), 1.0])
    costs = exit_costs(supernet.space, network.architecture.bits).placed(exits)
    expected = apply(outputs, costs, thresholds).leaves_at.tolist()
    assert expected.count(0) == rank
    architecture = network.architecture.with_thresholds(min(t, 1.0) for t in thresholds)
    network = EarlyExitNetwork(network.network, architecture, supernet.space)
    for max_batch in (None, 1, 2, 3, 7, 16):
        assert network.predict(images.float(), max_batch=max_batch).exit_index.tolist() == expected
