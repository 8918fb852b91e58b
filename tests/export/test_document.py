"""architecture.json: round trip, handwritten, tampered with, of another space."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas._util.files import write_json
from usdn_nas.export.document import Objective, read_architecture, write_architecture
from usdn_nas.networks.build import resolve_space
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.search_space import SearchSpace

SPEC = nets.spec(exits={"head": "conv3"})
CHOICES = "[2, 2], [4, 3], [3, 5]"
ORDER = "exits: exits must stand once each, in the order of the chain"
BITS = {"layer1.0": [2, 2], "layer2.0": [4, 3], "layer3.0": [3, 5]}
MINIMAL = {
    "schema": "usdn-nas/architecture/1",
    "space": {"network": nets.RESNET8, "bits": nets.PAIRS, "exits": {"head": "conv3"}},
    "bits": BITS,
    "exits": ["layer2.0"],
    "thresholds": [0.75],
}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return resolve_space(SPEC)[0]


@pytest.fixture
def written(space: SearchSpace, tmp_path: Path) -> Path:
    path = tmp_path / "architecture.json"
    write_architecture(
        path,
        space,
        Architecture({name: tuple(pair) for name, pair in BITS.items()}, ("layer2.0",), (0.75,)),
        objective=Objective(mode="tr", tr=0.2),
        metrics={"split": "search", "n": 10, "accuracy": 0.5, "average_bops": 12.5, "exit_rates": {"final": 1.0}},
        source={"trial": "12.3"},
        provenance={"seed": 0},
    )
    return path


def handwritten(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(MINIMAL | changes), encoding="utf-8")
    return path


def refusal(path: Path, within: SearchSpace | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_architecture(path, within)
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line
    return line.removeprefix(f"{path}: ")


def test_round_trip(written: Path, space: SearchSpace) -> None:
    for within in (None, space):
        file = read_architecture(written, within)
        assert file.architecture == Architecture({n: tuple(b) for n, b in BITS.items()}, ("layer2.0",), (0.75,))
        assert file.space.spec == SPEC and file.space.digest == space.digest
        assert file.objective == Objective(mode="tr", tr=0.2)
        assert file.metrics is not None and file.metrics["average_bops"] == 12.5
        assert (file.source, file.provenance) == ({"trial": "12.3"}, {"seed": 0})


def test_rule_of_the_last_exit(written: Path, space: SearchSpace, tmp_path: Path) -> None:
    plain = read_architecture(written).architecture
    other = read_architecture(handwritten(tmp_path, rule="most-confident")).architecture
    assert other == replace(plain, rule="most-confident")
    assert other.digest != plain.digest and other.network_digest == plain.network_digest
    path = tmp_path / "again.json"
    write_architecture(path, space, other, objective=None, metrics=None, source=None, provenance={})
    assert read_architecture(path).architecture == other
    assert "rule" not in json.loads(written.read_text())
    assert refusal(handwritten(tmp_path, rule="surest")).startswith("rule: expected 'threshold' or")


def test_handwritten(tmp_path: Path, written: Path) -> None:
    own, searched = read_architecture(handwritten(tmp_path)), read_architecture(written)
    assert own.architecture == searched.architecture
    assert own.architecture.digest == json.loads(written.read_text())["digest"]
    assert (own.objective, own.metrics, own.source, own.provenance) == (None,) * 4
    bare = read_architecture(handwritten(tmp_path, exits=[], thresholds=[]))
    assert bare.architecture.exits == ()


def test_derived_figures_by_hand(written: Path) -> None:
    """ResNet-8, width 4, two channels of 9x9; stem and classifier at 8/8; head of width 4 at 4/4."""
    document = json.loads(written.read_text())
    macs = {
        "stem.conv1": 81 * 4 * 2 * 9,
        "layer1.0.conv1": 81 * 4 * 4 * 9,
        "layer1.0.conv2": 81 * 4 * 4 * 9,
        "layer2.0.conv1": 25 * 8 * 4 * 9,
        "layer2.0.conv2": 25 * 8 * 8 * 9,
        "layer3.0.conv1": 9 * 16 * 8 * 9,
        "layer3.0.conv2": 9 * 16 * 16 * 9,
        "exit:layer2.0.conv0": 9 * 4 * 8 * 9,
        "exit:layer2.0.conv1": 4 * 4 * 4 * 9,
        "exit:layer2.0.conv2": 1 * 4 * 4 * 9,
        "exit:layer2.0.linear": 4 * 5,
        "final.fc": 16 * 5,
    }
    pairs = {"layer1": (2, 2), "layer2": (4, 3), "layer3": (3, 5), "exit:layer2": (4, 4)}
    bits = {name: pairs.get(name.split(".")[0], (8, 8)) for name in macs} | {"exit:layer2.0.linear": (8, 8)}
    bops = {name: macs[name] * bits[name][0] * bits[name][1] for name in macs}
    rows = {row["name"]: row for row in document["layers"]}
    assert list(rows) == list(macs)
    for name, row in rows.items():
        assert (row["macs"], row["weight_bits"], row["activation_bits"]) == (macs[name], *bits[name])
        assert row["bops"] == bops[name]
        assert row["group"] == (name.rpartition(".")[0] if name.startswith("layer") else None)
        assert row["exit"] == name.startswith(("exit", "final"))
    chain = sum(bops[name] for name in macs if name.startswith(("stem", "layer")))
    to_exit = chain - bops["layer3.0.conv1"] - bops["layer3.0.conv2"]
    head = sum(bops[name] for name in macs if name.startswith("exit:"))
    cost = document["cost"]
    assert cost["exits"] == [
        {"exit": "layer2.0", "chain_bops": to_exit, "head_bops": head, "cumulative_bops": to_exit + head},
        {"exit": "final", "chain_bops": chain, "head_bops": 5120, "cumulative_bops": chain + head + 5120},
    ]
    assert cost["full_bops"] == chain + 5120
    searched = [name for name in macs if name.startswith("layer")]
    assert cost["reference_bops"] == sum(macs[name] for name in searched) * 16 + bops["stem.conv1"] + 5120
    assert (cost["average_bops"], cost["relative_bops"]) == (12.5, 12.5 / cost["reference_bops"])
    means = cost["bits"]["searched"]
    assert means["mean_weight_bits"] == pytest.approx(3) and means["mean_activation_bits"] == pytest.approx(10 / 3)
    weighted = sum(macs[name] * bits[name][0] for name in searched) / sum(macs[name] for name in searched)
    assert means["mac_weighted_weight_bits"] == pytest.approx(weighted)
    assert cost["bits"]["all"]["mean_weight_bits"] == pytest.approx(sum(w for w, _ in bits.values()) / 12)


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return [path]
    return [leaf for key, inner in items for leaf in leaves(inner, (*path, key))]


def test_every_tampered_figure_is_refused(written: Path, space: SearchSpace) -> None:
    document = json.loads(written.read_text())
    checked = 0
    for key in ("space_digest", "digest", "layers", "cost"):
        for path in leaves(document[key], (key,)):
            if path[-1] in ("average_bops", "relative_bops"):
                continue  # measured, not derived
            changed = copy.deepcopy(document)
            *way, last = path
            node = changed
            for part in way:
                node = node[part]
            old = node[last]
            node[last] = not old if isinstance(old, bool) else "x" if isinstance(old, str | None) else old * 1.001 + 1
            written.write_text(json.dumps(changed))
            expected = f"{key}: '{key}' does not follow from the architecture's space, bits, exits and thresholds"
            assert refusal(written, space) == f"{expected}; remove it, it is recomputed"
            checked += 1
    assert checked > 120


@pytest.mark.parametrize("key", ["layers", "cost"])
def test_missing_rows_are_refused_and_missing_keys_recomputed(key: str, written: Path, space: SearchSpace) -> None:
    document = json.loads(written.read_text())
    shorter = copy.deepcopy(document)
    shorter[key] = document[key][:-1] if key == "layers" else {k: v for k, v in document[key].items() if k != "exits"}
    written.write_text(json.dumps(shorter))
    assert f"'{key}' does not follow" in refusal(written, space)
    del document[key]
    written.write_text(json.dumps(document))
    read_architecture(written, space)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"bits": {"choices": [[2, 2], [4, 3]]}}, "bits.choices is [[2, 2], [4, 3], [3, 5]] there, [[2, 2], [4, 3]]"),
        ({"network": nets.RESNET8 | {"width": 8}}, "network.width is 4 there, 8 here"),
        ({"network": nets.RESNET14}, "network.depth is 8 there, 14 here"),
        ({"exits": {"head": "linear"}}, "exits.head is 'conv3' there, 'linear' here"),
    ],
)
def test_another_space_is_refused_by_the_key_that_differs(changes: dict[str, Any], line: str, written: Path) -> None:
    settings = {"network": nets.RESNET8, "bits": nets.PAIRS, "exits": {"head": "conv3"}} | changes
    other = resolve_space(nets.spec(**settings))[0]
    assert refusal(written, other).startswith(f"architecture of another search space: {line}")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"schema": "usdn-nas/study/1"}, "expected schema 'usdn-nas/architecture/1', got 'usdn-nas/study/1'"),
        ({"treshold": []}, "treshold: unknown key 'treshold'; did you mean 'thresholds'?"),
        ({"schemas": 1}, "schemas: unknown key 'schemas'; did you mean 'schema'?"),
        ({"objective": {"mode": "tr", "t": 1}}, "objective.t: unknown key 't'; did you mean 'tr'?"),
        ({"objective": {"mode": "best"}}, "objective.mode: expected 'tr' or 'budget', got 'best'"),
        ({"bits": BITS | {"layer1.0": [5, 5]}}, "bits.layer1.0: [5, 5] is not among the choices " + CHOICES),
        ({"bits": BITS | {"layer1.1": [2, 2]}}, "bits: unknown group 'layer1.1'; did you mean 'layer1.0'?"),
        ({"bits": {"layer1.0": [2, 2]}}, "bits: no bits given for group 'layer2.0'"),
        ({"bits": 3}, "bits: expected a table, got 3"),
        ({"exits": ["layer3.0"]}, "exits: unknown exit 'layer3.0'; did you mean 'layer2.0'?"),
        ({"exits": ["final"]}, "exits: unknown exit 'final'; valid: layer1.0, layer2.0"),
        ({"thresholds": []}, "thresholds: 1 exits need as many thresholds, got 0"),
        ({"thresholds": [1.5]}, "thresholds: expected thresholds in [0, 1], got 1.5"),
        ({"thresholds": [float("nan")]}, "thresholds.0: expected a finite number, got nan"),
        ({"exits": ["layer2.0", "layer1.0"], "thresholds": [0, 0]}, ORDER),
        ({"exits": ["layer2.0", "layer2.0"], "thresholds": [0, 0]}, ORDER),
    ],
)  # fmt: skip
def test_what_is_no_point_of_the_space_is_one_line(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    assert refusal(handwritten(tmp_path, **changes)) == line


@pytest.mark.parametrize("key", ["space", "bits"])
def test_what_is_missing_is_named(key: str, tmp_path: Path) -> None:
    path = handwritten(tmp_path)
    path.write_text(json.dumps({k: v for k, v in MINIMAL.items() if k != key}))
    assert refusal(path) == f"{key}: this key is missing"


def test_space_inside_is_checked_too(tmp_path: Path) -> None:
    space = copy.deepcopy(MINIMAL["space"])
    space["network"]["widht"] = 3
    assert refusal(handwritten(tmp_path, space=space)) == (
        "space.network.widht: unknown key 'widht'; did you mean 'width'?"
    )


def test_no_file_and_no_json(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.json") == "no such file"
    path = tmp_path / "bad.json"
    path.write_text('{"schema": ')
    assert refusal(path).startswith("expected JSON, but it ends too early, at line 1")
    path.write_bytes(b"\xff\xfe")
    assert refusal(path).startswith("expected UTF-8 text, got something else at byte 0")
    path.write_text("[]")
    assert refusal(path) == "expected schema 'usdn-nas/architecture/1', got 'list'"
    write_json(path, {"schema": "usdn-nas/study/1"})
    assert refusal(path) == "expected schema 'usdn-nas/architecture/1', got 'usdn-nas/study/1'"
