"""Whom the supernet learns from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.tiny import Heard, context
from usdn_nas.pipeline.stages import Pipeline


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [((), True), (("supernet.teacher=largest",), False), (("supernet.pretrain.epochs=1",), False)],
)
def test_a_teacher_that_nobody_trained_is_told(
    tiny_copy: Path, tmp_path: Path, overrides: tuple[str, ...], warned: bool
) -> None:
    heard = Heard()
    made = context(tiny_copy, "supernet.pretrain.epochs=0", *overrides, out=tmp_path / "other")
    made.reporter = heard
    Pipeline(made).run(until="supernet")
    assert any("was not pre-trained" in line for line in heard.lines) == warned
