"""The study file: keys, types, overrides, where names are looked up."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usdn_nas._util.errors import UserError
from usdn_nas.config import StudyConfig, apply_overrides, find_toml, list_toml, load_study
from usdn_nas.networks.build import resolve_space
from usdn_nas.space.search_space import SearchSpace, SpaceSpec, load_space

# four pairs for each of 8 blocks; 16 for each of 19 layers (16 in blocks, 3 shortcuts)
IMAGENET = {"resnet18_imagenet": 4**8, "resnet18_imagenet_layerwise": 16**19}
ROOT = Path(__file__).parents[1]
SPACE = '[network]\nname = "resnet_cifar"\ninput_shape = [1, 8, 8]\nnum_classes = {}\n[bits]\nchoices = [[2, 2]]\n'
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.text("abcdefgh_", min_size=1, max_size=6)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one line in a working directory of its own."""
    (tmp_path / "work").mkdir()
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "studies" / "own.toml"
    path.write_text('space = "resnet_digits"\n')
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_study(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@cache
def resolved(spec: str) -> tuple[SearchSpace, tuple[str, ...]]:
    """Resolves a search space, once for all studies that share it; also returns its network's exits."""
    space, network = resolve_space(SpaceSpec.model_validate_json(spec))
    return space, tuple(network.exit_names)


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_study_loads(path: Path) -> None:
    study, space = load_study(path)
    assert isinstance(study, StudyConfig) and isinstance(space, SpaceSpec)
    assert 1 <= study.search.configurations <= resolved(space.model_dump_json())[0].bit_configurations


def test_a_study_changes_what_it_says_of_its_base(study: Path) -> None:
    base = study.with_name("under.toml")
    base.write_text('space = "resnet_digits"\nseed = 3\n[supernet]\nrandom_paths = 1\n[supernet.qat]\nepochs = 2\n')
    study.write_text('base = "under"\nseed = 4\n[supernet.qat]\nepochs = 7\nlr = 0.01\n')
    found, space = load_study(study, ["supernet.exit_weight=0.5"])
    expected = {"space": "resnet_digits", "seed": 4}
    expected |= {"supernet": {"random_paths": 1, "exit_weight": 0.5, "qat": {"epochs": 7, "lr": 0.01}}}
    assert found == StudyConfig.model_validate(expected)
    assert space == load_space(find_toml("resnet_digits", "search_spaces"))
    again = study.with_name("again.toml")
    again.write_text('base = "own"\nspace = "resnet_fashion"\n')
    assert load_study(again)[0] == found.model_copy(
        update={"space": "resnet_fashion", "supernet": found.supernet.model_copy(update={"exit_weight": 1.0})}
    )


def test_a_base_that_cannot_be_one_is_refused(study: Path) -> None:
    study.write_text('base = "own"\n')
    assert "a study is its own base: own > own" in refusal(study)
    study.write_text("base = 3\n")
    assert "expected a study's name or path, got 3" in refusal(study)
    study.write_text('base = "digitz"\n')
    assert "no such study: 'digitz'" in refusal(study) and "digits" in refusal(study)


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_space_resolves(path: Path) -> None:
    space, exits = resolved(load_space(path).model_dump_json())
    assert space.chain.exits[-1].name == "final" == exits[-1]
    widths = {pair for pair in space.spec.bits.choices or () if pair[0] == pair[1]}
    assert space.spec.bits.choices is None or {*space.ladder()[0].values()} <= widths
    assert len(space.ladder()) == (len(widths) or 4)
    if path.stem in IMAGENET:
        assert space.bit_configurations == IMAGENET[path.stem] and len(space.candidates) == 7


def test_a_table_leaves_the_rest_as_it_stands_there(study: Path) -> None:
    default = load_study(study, ["supernet={}", "retrain={}"])[0]
    changed = load_study(study, ["supernet={}", "retrain={}", "supernet.qat.batch_size=7", "retrain.train.lr=0.3"])[0]
    assert changed.supernet.qat == default.supernet.qat.model_copy(update={"batch_size": 7})
    assert changed.retrain.train == default.retrain.train.model_copy(update={"lr": 0.3})
    assert default.retrain.train.weight_decay == 5e-4 and default.supernet.qat.lr == 0.02


def test_defaults_and_values(study: Path) -> None:
    config, space = load_study(study)
    assert (config.space, config.search.mode, config.retrain.temperature, config.retrain.alpha) == (
        *("resnet_digits", "pareto", 2.0, 0.3),
    )
    assert space.network.name == "resnet_cifar"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sead = 1", "sead: unknown key 'sead'; did you mean 'seed'?"),
        ("[supernet]\nzzz = 1", "supernet.zzz: unknown key 'zzz'; valid: "),
        ("[supernet.qat]\nepoch = 1", "supernet.qat.epoch: unknown key 'epoch'; did you mean 'epochs'?"),
        ("[serch]\ntr = 1", "serch: unknown key 'serch'; did you mean 'search'?"),
        ("[supernet.qat]\nepochs = -1", "supernet.qat.epochs: expected a number >= 0, got -1"),
        ("[supernet.qat]\nepochs = 1.5", "supernet.qat.epochs: expected a whole number"),
        ('[supernet.qat]\nepochs = "many"', "supernet.qat.epochs: expected a whole number"),
        ("[supernet.qat]\nepochs = 1\nlr = inf", "supernet.qat.lr: expected a finite number, got inf"),
        ('[supernet.qat]\nepochs = 9\nschedule = "step"', "supernet.qat: schedule 'step' needs 'milestones'"),
        ("[supernet.qat]\nepochs = 9\nmilestones = [3]", "supernet.qat: schedule 'step' needs 'milestones'"),
        (
            '[supernet.qat]\nepochs = 9\nschedule = "step"\nmilestones = [3, 9]',
            "supernet.qat: expected rising 'milestones' below the 9 epochs",
        ),
        (
            '[supernet.qat]\nepochs = 9\nschedule = "step"\nmilestones = [3, 3]',
            "supernet.qat: expected rising 'milestones' below the 9 epochs",
        ),
        ("[supernet.qat]\nepochs = 9\ndecay = 0.2", "supernet.qat: 'decay' is for schedule 'step'"),
        ("[search]\ntr = nan", "search.tr: expected a finite number, got nan"),
        ('[search]\nmode = "budget"', "search: mode 'budget' needs 'gbops'"),
        ('[search]\nsampler = "cma"', "search.sampler: expected 'auto', 'surrogate', 'tpe', "),
        ("[export]\ntr = 1\nbudget = 2", "export: give one of 'tr', 'budget' and 'trial'"),
        ("[retrain]\nalpha = 1.1", "retrain.alpha: expected a number <= 1, got 1.1"),
        ("search = 3", "search: expected a table, got 3"),
        ("[search\n", "expected TOML, got something else at line 2, column 8"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, line: str, study: Path) -> None:
    study.write_text(f'space = "resnet_digits"\n{text}\n')
    assert refusal(study).startswith(line)


def test_settings_that_came_later_are_written_where_they_are_used(study: Path) -> None:
    before, _ = load_study(study)
    train = before.model_dump(mode="json")["supernet"]["qat"]
    assert {"lr", "epochs"} < set(train) and not {"schedule", "milestones", "decay", "nesterov"} & set(train)
    used = ["schedule='step'", "milestones=[3]", "nesterov=false"]
    after, _ = load_study(study, [f"supernet.qat.{text}" for text in ("epochs=9", *used)])
    written = after.model_dump(mode="json")
    assert written["supernet"]["qat"].items() >= {"schedule": "step", "milestones": [3], "nesterov": False}.items()
    assert StudyConfig.model_validate(written) == after


def test_missing_files_and_keys(study: Path) -> None:
    assert refusal(study.with_name("none.toml")) == "no such file"
    study.write_text("seed = 1\n")
    assert refusal(study) == "space: this key is missing"
    study.write_text('space = "resnet_digit"\n')
    assert refusal(study) == "no such search space: 'resnet_digit'; did you mean 'resnet_digits'?"


def test_overrides(study: Path) -> None:
    config, _ = load_study(study, ["search.configurations=256", "data.name = own", "seed=3", 'device="cpu"', "seed=4"])
    assert (config.search.configurations, config.data.name, config.seed, config.device) == (256, "own", 4, "cpu")
    assert refusal(study, "search.configuration=2").endswith("did you mean 'configurations'?")
    assert refusal(study, "search.tr=much").startswith("search.tr: expected a number")
    assert refusal(study, "seed") == "--set: expected key=value, got 'seed'"
    assert refusal(study, "=1") == "--set: expected key=value, got '=1'"
    assert refusal(study, "seed.x=1").startswith("seed: expected a whole number")
    assert refusal(study, "space.x=1") == "--set space.x=1: 'space' is a value, not a table"


@given(
    keys=st.lists(KEYS, min_size=1, max_size=4),
    value=st.integers(-(2**60), 2**60) | st.booleans() | FLOATS | st.lists(st.integers(-9, 9)),
    spaces=st.sampled_from(["", " "]),
)
def test_override_of_a_value(keys: list[str], value: object, spaces: str) -> None:
    written = str(value).lower() if isinstance(value, bool) else repr(value)
    payload: dict = {}
    apply_overrides(payload, [f"{'.'.join(keys)}{spaces}={spaces}{written}"])
    for key in keys:
        payload = payload[key]
    assert payload == value and type(payload) is type(value)


@given(keys=st.lists(KEYS, min_size=1, max_size=3), text=st.text("ghjkxyz/=:.", min_size=1))
def test_override_that_is_no_toml_is_a_text(keys: list[str], text: str) -> None:
    payload: dict = {}
    apply_overrides(payload, [f"{'.'.join(keys)}={text}"])
    for key in keys:
        payload = payload[key]
    assert payload == text


@given(st.dictionaries(KEYS, st.integers() | st.dictionaries(KEYS, st.integers(), max_size=3), max_size=4), KEYS, KEYS)
def test_overrides_touch_nothing_else(payload: dict, table: str, key: str) -> None:
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in payload.items()}
    if isinstance(payload.get(table), int):
        with pytest.raises(UserError):
            apply_overrides(payload, [f"{table}.{key}=1"])
        assert payload == before
        return
    apply_overrides(payload, [f"{table}.{key}=1"])
    assert payload.pop(table) == before.pop(table, {}) | {key: 1}
    assert payload == before


def test_names_are_looked_up_beside_then_here_then_in_the_package(study: Path, tmp_path: Path) -> None:
    def classes() -> int:
        return load_study(study)[1].network.num_classes

    assert classes() == 10  # the package's
    here = tmp_path / "work" / "search_spaces"
    here.mkdir()
    (here / "resnet_digits.toml").write_text(SPACE.format(11))
    assert classes() == 11
    (study.parent / "resnet_digits.toml").write_text(SPACE.format(12))
    assert classes() == 12
    study.write_text('space = "resnet_digits.toml"\n')
    assert classes() == 12
    (study.parent / "resnet_digits.toml").unlink()
    assert classes() == 11
    study.write_text(f'space = "{here / "resnet_digits.toml"}"\n')
    assert classes() == 11


def test_a_study_and_its_space_may_have_one_name(study: Path, tmp_path: Path) -> None:
    """Studies lie among each other: of the files beside it none is its search space."""
    here = tmp_path / "work"
    (here / "studies").mkdir()
    (here / "search_spaces").mkdir()
    for name in ("same", "digits"):
        (here / f"studies/{name}.toml").write_text('space = "same"\n')
    (here / "search_spaces/same.toml").write_text(SPACE.format(13))
    for name in ("same", "digits"):
        assert load_study(find_toml(name, "studies"))[1].network.num_classes == 13


def test_studies_by_name_and_by_path(study: Path, tmp_path: Path) -> None:
    assert find_toml(str(study), "studies") == study
    assert find_toml("../studies/own.toml", "studies").resolve() == study
    shipped = find_toml("digits", "studies")
    assert shipped.read_text() == (ROOT / "studies" / "digits.toml").read_text()
    assert find_toml("digits.toml", "studies") == find_toml("studies/digits.toml", "studies") == shipped
    (tmp_path / "work" / "studies").mkdir()
    own = tmp_path / "work" / "studies" / "digits.toml"
    own.write_text('space = "x"\n')
    assert find_toml("digits", "studies") == own == list_toml("studies")["digits"]
    with pytest.raises(UserError, match="no such study: 'digit'; did you mean 'digits'"):
        find_toml("digit", "studies")
    assert set(list_toml("search_spaces")) == {path.stem for path in (ROOT / "search_spaces").glob("*.toml")}
