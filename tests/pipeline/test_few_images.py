"""Data with which a training or the search could not end is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline import tiny
from usdn_nas._util.errors import UserError

REFUSED = {
    ("data.search=1",): "data.search: 1 images cannot be set aside from 1647 of digits; set it to a number from 2",
    ("data.test=1795",): "data.search: 100 images cannot be set aside from 2",
    ("data.train_limit=3", "supernet.qat.accumulate=50"): "supernet.qat: 3 training images cannot be shared by 50",
    ("retrain.train.batch_size=1",): "retrain.train: training would run one image at a time",
    ("supernet.pretrain.accumulate=50",): "supernet.pretrain: training would run one image at a time",
    ("data.train_limit=1",): "supernet.pretrain: training would run one image at a time",
}  # fmt: skip
ACCEPTED = [
    ("data.search=2", "data.test=1", "data.train_limit=2"),
    ("retrain.train.batch_size=1", "retrain.train.epochs=0", "retrain.train.milestones=[]"),
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The tiny study, with heads that bring an image down to one value a channel."""
    path = tiny.write_study(tmp_path)
    space = tmp_path / "search_spaces/tiny_space.toml"
    space.write_text(space.read_text().replace('"linear"', '"conv3"'))
    return path


@pytest.mark.parametrize("overrides", REFUSED)
def test_refused(overrides: tuple[str, ...], study: Path) -> None:
    with pytest.raises(UserError) as caught:
        tiny.context(study, *overrides).check()
    assert REFUSED[overrides] in str(caught.value)


@pytest.mark.parametrize("overrides", ACCEPTED)
def test_accepted(overrides: tuple[str, ...], study: Path) -> None:
    tiny.context(study, *overrides).check()


def test_a_network_that_learns_from_one_image(tmp_path: Path) -> None:
    tiny.context(tiny.write_study(tmp_path), "supernet.pretrain.batch_size=1").check()
