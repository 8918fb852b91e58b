"""Code that a file names: nothing runs without consent, and with it only what is written in Python."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_model
from typer.testing import CliRunner

from tests.pipeline import tiny as small
from usdn_nas import load_model, load_run, read_architecture
from usdn_nas._util.errors import UserError
from usdn_nas._util.trust import ConsentError, find_function
from usdn_nas.cli import app
from usdn_nas.config import DataConfig, find_toml, load_study
from usdn_nas.data import describe_data, load_data
from usdn_nas.networks.build import build_network
from usdn_nas.networks.find import call_function
from usdn_nas.pipeline.context import open_run
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.report import MissingPartError
from usdn_nas.report.figures.write import FIGURES
from usdn_nas.space.search_space import load_space

MODULE = """
import functools, os, pathlib
import numpy as np
from torch import nn

pathlib.Path("RAN").touch()


def net(num_classes=4):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )


def data(root, seed):
    labels = np.arange(200) % 4
    images = np.random.default_rng(seed).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    return {"train": (images, labels)}


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(*net())


class Maker:
    def __call__(self):
        return net()

    def make(self):
        return net()


maker, make, partial, cached = Maker(), Maker().make, functools.partial(net, 4), functools.lru_cache(net)
abort, aborting, lazy_abort = os.abort, functools.partial(os.abort), functools.lru_cache(os.abort)
length, array = "".__len__, np.zeros


class Plain:
    pass


class AbortWhenCalled:
    __call__ = os.abort


aborts = AbortWhenCalled()
def leaves(): raise SystemExit(3)
def stops(): raise KeyboardInterrupt
def generates(): raise GeneratorExit
class Rude(Exception):
    def __str__(self): raise RuntimeError("no text")
def rude(): raise Rude
def nothing(): return 3
class Quits(nn.Module):
    def forward(self, x): raise SystemExit("while traced")
def leaving_data(root, seed): raise SystemExit("no data")
"""
SPACE = """
[network]
name = "evilmod:net"
input_shape = [1, 8, 8]
num_classes = 4

[bits]
choices = [[2, 2], [4, 4]]

[exits]
head = "linear"
"""
SHORT = "epochs = 1, batch_size = 20, max_steps = 2"
STUDY = f"""
space = "evil"
threads = 1

[data]
name = "evilmod:data"

[supernet]
calibration_images = 20
pretrain = {{ {SHORT} }}
qat = {{ {SHORT} }}

[search]
configurations = 2

[retrain]
compare_ce = false
teacher = {{ {SHORT} }}
train = {{ {SHORT} }}
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with ``evilmod.py``, and a study and a search space that name its functions."""
    (tmp_path / "evilmod.py").write_text(MODULE)
    for folder in ("search_spaces", "studies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "search_spaces/evil.toml").write_text(SPACE)
    (tmp_path / "studies/evil.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("USDN_NAS_TRUST_CODE", raising=False)
    sys.modules.pop("evilmod", None)
    yield tmp_path
    sys.modules.pop("evilmod", None)


def architecture(folder: Path, name: str = "evilmod:net") -> Path:
    """An ``architecture.json`` as somebody could send it."""
    network = {"name": name, "input_shape": [1, 8, 8], "num_classes": 4}
    groups = load_groups(network)
    content = {
        "schema": "usdn-nas/architecture/1",
        "space": {"network": network, "bits": {"choices": [[2, 2], [4, 4]]}, "exits": {"head": "linear"}},
        "bits": {key: [4, 4] for key in groups},
    }
    path = folder / "evil.json"
    path.write_text(json.dumps(content))
    return path


def load_groups(network: dict[str, Any]) -> list[str]:
    return ["2"] if network["name"] == "evilmod:net" else []


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="usdn-nas")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "load_model": (lambda f: load_model(architecture(f), f / "none"), "evil.json: space.network.name"),
    "read_architecture": (lambda f: read_architecture(architecture(f)), "evil.json: space.network.name"),
    "load_space": (lambda f: load_space(f / "search_spaces/evil.toml"), "evil.toml: network.name"),
    "load_study": (lambda f: load_study(f / "studies/evil.toml"), "evil.toml: data.name"),
    "open_run": (lambda f: open_run(f / "studies/evil.toml"), "evil.toml: data.name"),
    "load_data": (lambda f: load_data(DataConfig(name="evilmod:data"), seed=0), "data.name"),
    "describe_data": (lambda f: describe_data(DataConfig(name="evilmod:data")), "data.name"),
}


@pytest.mark.parametrize("reader", REFUSALS)
def test_no_file_runs_code_without_consent(reader: str, evil: Path) -> None:
    read, where = REFUSALS[reader]
    with pytest.raises(ConsentError) as caught:
        read(evil)
    message = str(caught.value)
    assert f"{where}: " in message and "'evilmod:" in message and "\n" not in message
    assert "--trust-code" in message and "trust_code=True" in message
    assert "evilmod" not in sys.modules and not (evil / "RAN").exists()


COMMANDS = [
    *(("run", "evil", "--dry-run"), ("run", "evil"), ("pretrain", "evil"), ("supernet", "evil"), ("search", "evil")),
    *(("export", "evil"), ("retrain", "evil"), ("evaluate", "evil"), ("report", "evil"), ("inspect", "evil")),
    ("inspect", "search_spaces/evil.toml"),
    ("plot", "bits", "evil.json"),
    ("run", "evil", "--set", "data.name=digits"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_runs_code_without_consent(arguments: tuple[str, ...], evil: Path) -> None:
    architecture(evil)
    status, out, err = invoke(*arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "--trust-code" in err
    assert "evilmod" not in sys.modules and not (evil / "RAN").exists() and not (evil / "runs").exists()


@pytest.mark.parametrize("arguments", [("list",), ("init", "evil", "--as", "copy")], ids=" ".join)
def test_looking_at_files_asks_for_no_consent(arguments: tuple[str, ...], evil: Path) -> None:
    assert invoke(*arguments)[0] == 0
    assert "evilmod" not in sys.modules and not (evil / "RAN").exists()


def test_consent_runs_it(evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("inspect", "evil", "--trust-code")[0] == 0
    assert (evil / "RAN").exists()
    monkeypatch.setenv("USDN_NAS_TRUST_CODE", "1")
    assert invoke("run", "evil", "--dry-run")[0] == 0
    monkeypatch.setenv("USDN_NAS_TRUST_CODE", "0")
    assert invoke("run", "evil", "--dry-run")[0] == 2


def test_consent_in_python(evil: Path) -> None:
    file = read_architecture(architecture(evil), trust_code=True)
    network = extract_chain(Supernet(build_network(file.space.spec), file.space), file.architecture)
    save_model(network, str(evil / "weights.safetensors"))
    loaded = load_model(evil / "evil.json", evil / "weights.safetensors", trust_code=True)
    assert loaded.exit_names == ("final",)
    assert len(load_data(DataConfig(name="evilmod:data"), seed=0, trust_code=True).train) == 120


def test_a_name_that_is_typed_is_consent_to_that_name(evil: Path) -> None:
    assert invoke("inspect", "evilmod:net", "--input", "1x8x8")[0] == 0
    assert invoke("data", "evilmod:data")[0] == 0
    digits = find_toml("digits", "studies")
    assert load_study(digits, ["data.name=evilmod:data"])[0].data.name == "evilmod:data"
    assert load_study(digits, ['data={name="evilmod:data"}'])[0].data.name == "evilmod:data"
    with pytest.raises(ConsentError, match=r"studies/evil.toml: data.name: .*'evilmod:data'"):
        load_study(evil / "studies/evil.toml", ["data.search=20", "space=resnet_digits"])
    with pytest.raises(ConsentError, match=r"search_spaces/evil.toml: network.name: .*'evilmod:net'"):
        load_study(digits, ["space=evil"])


def test_the_refusal_names_the_base_that_names_the_code(evil: Path) -> None:
    (evil / "studies/mine.toml").write_text('base = "evil"\nseed = 3\n')
    with pytest.raises(ConsentError, match=r"studies/evil\.toml: data\.name"):
        load_study(evil / "studies/mine.toml")
    (evil / "studies/mine.toml").write_text('base = "evil"\nspace = "resnet_digits"\n[data]\nname = "digits"\n')
    assert load_study(evil / "studies/mine.toml")[0].data.name == "digits"


def test_our_own_and_torchvision_names_are_free(tmp_path: Path) -> None:
    assert load_space(
        Path(__file__).parents[2] / "research/search_spaces/compact_fashion.toml"
    ).network.name.startswith("usdn_nas.")
    path = tmp_path / "space.toml"
    path.write_text(SPACE.replace("evilmod:net", "torchvision:mobilenet_v2"))
    assert load_space(path).network.name == "torchvision:mobilenet_v2"
    path.write_text(SPACE.replace("evilmod:net", "usdn_nas.cli:main"))
    with pytest.raises(ConsentError):
        load_space(path)
    with pytest.raises(ConsentError):  # torchvision's networks are no data
        load_data(DataConfig(name="torchvision:resnet18"), seed=0)


@pytest.fixture
def foreign_run(evil: Path, tiny_copy: Path) -> Path:
    """A finished run folder whose ``study.json`` names functions of ``evilmod.py``."""
    path = tiny_copy / "study.json"
    study = json.loads(path.read_text())
    study["config"]["data"]["name"], study["space"]["network"]["name"] = "evilmod:data", "evilmod:net"
    path.write_text(json.dumps(study))
    path = tiny_copy / "chain.json"
    chain = json.loads(path.read_text())
    chain["chain"]["network"] = "evilmod:net"
    path.write_text(json.dumps(chain))
    return tiny_copy


def test_a_run_of_somebody_else_can_be_looked_at(foreign_run: Path) -> None:
    assert load_run(foreign_run).evaluation["split"] == "test"
    for arguments in (
        *(("front", foreign_run), ("compare", foreign_run), ("plot", "front", foreign_run)),
        *(("plot", "bits", foreign_run), ("dashboard", foreign_run, "--note-only")),
    ):
        status, _, err = invoke(*arguments)
        assert (status, err) == (0, ""), arguments
    for arguments in (("evaluate", foreign_run), ("evaluate", foreign_run, "--format", "json")):
        status, out, err = invoke(*arguments)
        assert status == 0 and out and err.startswith("shown as stored")
    assert json.loads(out) == load_run(foreign_run).evaluation
    assert "evilmod" not in sys.modules and not (Path.cwd() / "RAN").exists()


def test_its_report_is_drawn_from_what_is_stored(foreign_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usdn_nas.report.draw_figures", lambda run: dict.fromkeys(FIGURES, MissingPartError("a test")))
    monkeypatch.setattr("usdn_nas.report.write_figures", lambda run, folder, drawn: [])  # each takes a second
    (foreign_run / "report.html").unlink()
    status, out, err = invoke("report", foreign_run)
    assert status == 0, err
    assert out.strip() == str(foreign_run / "report.html") and (foreign_run / "report.html").exists()
    (foreign_run / "evaluation.json").unlink()
    assert invoke("report", foreign_run)[0] == invoke("evaluate", foreign_run)[0] == 2
    assert "evilmod" not in sys.modules


@pytest.mark.parametrize(
    "arguments",
    [
        *(("run",), ("retrain",), ("export",), ("evaluate", "--threshold", "0.5"), ("report", "--set", "seed=4")),
        ("evaluate", "--architecture", "runs/tiny/export/architecture.json"),
        ("run", "--set", "data.name=digits"),
    ],
    ids=" ".join,
)
def test_its_code_runs_with_consent_alone(arguments: tuple[str, ...], foreign_run: Path) -> None:
    status, out, err = invoke(arguments[0], foreign_run, *arguments[1:])
    assert (status, out) == (2, "") and f"{foreign_run}/study.json: " in err and "--trust-code" in err
    assert "evilmod" not in sys.modules and not (Path.cwd() / "RAN").exists()


def test_the_settings_of_a_run_do_not_bring_their_code(foreign_run: Path) -> None:
    with pytest.raises(ConsentError):
        load_data(load_run(foreign_run).config.data, seed=0)


def test_other_processes_need_no_consent_of_their_own(evil: Path) -> None:
    context = open_run(evil / "studies/evil.toml", trust_code=True)
    sent = pickle.loads(pickle.dumps(context))
    assert sent.spec.network.name == "evilmod:net" and len(sent.data.train) == 120
    assert sent.space.digest == context.space.digest


@pytest.mark.sweep
def test_a_whole_run_with_workers_and_code_of_its_own(evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.no_figures(monkeypatch)
    status, _, err = invoke("run", "evil", "--trust-code", "--set", "search.workers=2", "--quiet")
    assert status == 0, err
    status, out, _ = invoke("run", "runs/evil", "--trust-code", "--quiet")
    assert status == 0 and "nothing to do" in out
    status, out, err = invoke("evaluate", "evil")
    assert status == 0 and out and err.startswith("shown as stored")


@pytest.mark.parametrize("name", ["net", "Net", "maker", "make", "partial", "cached", "Maker.make.__wrapped__"])
def test_what_may_be_called(name: str, evil: Path) -> None:
    if name.startswith("Maker."):
        with pytest.raises(UserError, match="has no"):
            call_function(f"evilmod:{name}", None)
        return
    assert len(list(call_function(f"evilmod:{name}", None).parameters())) == 6


NOT_CALLED = {
    "os:abort": "'os' is a module of Python's standard library",
    "posix:_exit": "standard library",
    "builtins:exec": "standard library",
    "http.server:test": "standard library",
    "antigravity:fly": "standard library",
    "numpy:zeros": "of type builtin_function_or_method, expected a function written in Python",
    "torch:_C._crash_if_csrc_asan": "of type builtin_function",
    "torch:Tensor": "is a class, expected a function written in Python, or a subclass of Module",
    "evilmod:abort": "of type builtin_function",
    "evilmod:os.abort": "of type builtin_function",
    "evilmod:aborting": "of type partial",
    "evilmod:lazy_abort": "of type _lru_cache_wrapper",
    "evilmod:aborts": "of type AbortWhenCalled",
    "evilmod:length": "of type method-wrapper",
    "evilmod:Plain": "is a class",
    "evilmod:__name__": "is no function, its type is str",
    "evilmod:": "expected 'package.module:function'",
    ":net": "expected 'package.module:function'",
    "..evil:net": "cannot be imported",
}


@pytest.mark.parametrize("name", NOT_CALLED)
def test_what_is_not_called(name: str, evil: Path) -> None:
    with pytest.raises(UserError, match=NOT_CALLED[name]) as caught:
        call_function(name, None)
    assert "\n" not in str(caught.value)
    assert "antigravity" not in sys.modules


def test_classes_are_no_data(evil: Path) -> None:
    with pytest.raises(UserError, match="'evilmod:Net' is a class, expected a function written in Python$"):
        find_function("evilmod:Net", where="data.name")


def test_os_abort_is_one_line(evil: Path) -> None:
    status, out, err = invoke("inspect", "os:abort", "--input", "1x8x8")
    assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("leaves", r"the code of 'evilmod:leaves' tried to end the program \(SystemExit: 3\)"),
        ("rude", r"evilmod:rude\(\) failed: Rude"),
        ("nothing", "returned int, expected a torch.nn.Module"),
        ("Quits", r"tried to end the program \(SystemExit: while traced\)"),
    ],
)
def test_code_that_fails_is_one_line(function: str, message: str, evil: Path) -> None:
    path = list(sys.path)
    status, _, err = invoke("inspect", f"evilmod:{function}", "--input", "1x8x8")
    assert status == 2 and err.count("\n") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(err)
    assert sys.path == path


def test_code_that_ends_the_program_while_it_is_imported(evil: Path) -> None:
    (evil / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (evil / "lazy.py").write_text("def __getattr__(name):\n    raise SystemExit(0)\n")
    (evil / "broken.py").write_text("def __getattr__(name):\n    raise ValueError(name)\n")
    for name, message in {
        "leaving:net": "tried to end the program",
        "lazy:net": "tried to end the program",
        "broken:net": "'net' of module 'broken' cannot be read: ValueError: net",
    }.items():
        with pytest.raises(UserError, match=message):
            call_function(name, None)
    with pytest.raises(UserError, match=r"data.name: .* \(SystemExit: no data\)"):
        load_data(DataConfig(name="evilmod:leaving_data"), seed=0, trust_code=True)


def test_ctrl_c_passes(evil: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        call_function("evilmod:stops", None)


def test_the_working_directory_is_searched_last_and_left_again(evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, os.getcwd()])
    before = list(sys.path)
    find_function("evilmod:net", where="network.name")
    assert sys.path == before
