"""A damaged checkpoint stops its stage with one line; the stage is trained anew only once the user deletes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.pipeline import tiny as small
from usdn_nas.cli import app
from usdn_nas.training import loop


def test_a_damaged_checkpoint_is_refused_until_it_is_deleted(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    whole = small.contents(tiny_copy)
    saved, checkpoint = loop.save_checkpoint, tiny_copy / "pretrain/checkpoint.pt"

    def killed(*arguments: object) -> None:
        saved(*arguments)  # type: ignore[arg-type]
        if arguments[3].step == 5:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    def pretrain() -> tuple[int, str]:
        result = CliRunner().invoke(app, ["pretrain", str(tiny_copy), "--quiet"], prog_name="usdn-nas")
        return result.exit_code, result.stderr

    (tiny_copy / "pretrain/weights.safetensors").unlink()
    monkeypatch.setattr(loop, "save_checkpoint", killed)
    assert pretrain()[0] == 130
    monkeypatch.setattr(loop, "save_checkpoint", saved)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 3] ^= 8
    checkpoint.write_bytes(content)
    for _ in range(2):
        status, line = pretrain()
        assert status == 2 and line.startswith(f"error: {checkpoint}: expected a whole checkpoint")
        assert line.endswith("; delete it to train this stage anew\n") and line.count("\n") == 1
        assert checkpoint.read_bytes() == content and not (tiny_copy / "pretrain/weights.safetensors").exists()
        stages = json.loads((tiny_copy / "stages.json").read_text())["stages"]
        assert stages["pretrain"]["status"] == "running"
    checkpoint.unlink()
    assert pretrain() == (0, "")
    assert small.contents(tiny_copy) == whole
