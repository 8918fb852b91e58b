"""The command line follows habits: what people type by habit works, or the error says what to type."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("setting", "full"),
    [
        (
            "epochs=3",
            "supernet.pretrain.epochs, supernet.qat.epochs, retrain.train.epochs, retrain.teacher.epochs",
        ),
        ("train.epochs=3", "retrain.train.epochs"),
        ("supernet.epochs=3", "supernet.pretrain.epochs, supernet.qat.epochs, "),
        ("configurations=7", "search.configurations"),
    ],
)
def test_an_unknown_key_suggests_the_full_names_that_end_so(setting: str, full: str, command: Command) -> None:
    refused = command("run", "digits", "--dry-run", "--set", setting)
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
    assert f"; did you mean {full}" in refused.stderr


@pytest.mark.parametrize("name", ["x.onnx", "x", "x.json.gz"])
def test_export_writes_json_only_into_json_files(name: str, command: Command, tmp_path: Path) -> None:
    refused = command("export", "digits", "--to", name)
    assert refused.exit_code == 2
    assert refused.stderr == f"error: --to: expected a name that ends in .json, got '{name}'\n"
    assert list(tmp_path.iterdir()) == []
