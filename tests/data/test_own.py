"""Data from a function of one's own, found in the working directory."""

import sys

import numpy as np
import pytest

from usdn_nas.config import DataConfig
from usdn_nas.data import describe_data, load_data
from usdn_nas.errors import UserError

MODULE = """
import numpy as np, torch
def _part(n, shape=(6, 6), classes=3):
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % classes
def good(root, seed): return {"train": _part(60), "test": _part(9), "class_names": ["a", "b", "c"]}
def tensors(root, seed): return {"train": (torch.rand(60, 3, 6, 6), torch.arange(60) % 3)}
def seeded(root, seed): return {"train": _part(60 + 3 * seed)}
def pair(root, seed): return _part(60), _part(9)
def three(root, seed): return {"train": (*_part(60), 1)}
def unknown(root, seed): return {"train": _part(60), "valid": _part(9)}
def five(root, seed): return {"train": _part(60, (1, 2, 6, 6))}
def ints(root, seed): return {"train": (_part(60)[0].astype(int), _part(60)[1])}
def nan(root, seed): return {"train": (np.full((60, 6, 6), np.nan), _part(60)[1])}
def floats(root, seed): return {"train": (_part(60)[0], _part(60)[1] / 2)}
def short(root, seed): return {"train": (_part(60)[0], _part(59)[1])}
def negative(root, seed): return {"train": (_part(60)[0], _part(60)[1] - 1)}
def new_label(root, seed): return {"train": _part(60), "test": _part(9, classes=5)}
def shapes(root, seed): return {"train": _part(60), "test": _part(9, (5, 6))}
def raises(root, seed): raise RuntimeError("no disk")
def silent(): pass
value = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_images.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_images", None)


def _load(function: str, seed: int = 0, **settings):
    return load_data(DataConfig(name=f"own_images:{function}", **settings), seed=seed)


def test_arrays():
    path = list(sys.path)
    splits = _load("good")
    assert (len(splits.train), len(splits.search), len(splits.test)) == (48, 12, 9)
    assert (splits.input_shape, splits.class_names) == ((1, 6, 6), ("a", "b", "c"))
    assert sys.path == path


def test_tensors_without_a_test_part():
    splits = _load("tensors")
    assert (len(splits.train), len(splits.search), len(splits.test)) == (36, 12, 12)
    assert splits.input_shape == (3, 6, 6)
    images, _ = next(splits.train.batches(99))
    np.testing.assert_allclose(images.mean((0, 2, 3)), 0, atol=1e-5)


def test_the_seed_is_passed_on():
    assert len(_load("seeded", seed=10).test) == 18


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("pair", "expected a mapping with 'train', got tuple of 2; The function is called with"),
        ("three", r"train: expected a pair \(images, labels\), got tuple of 3"),
        ("unknown", "unknown key 'valid'"),
        ("five", r"expected images \(N, C, H, W\) or \(N, H, W\), got shape \(60, 1, 2, 6, 6\)"),
        ("ints", "expected uint8 or float images, got int64"),
        ("nan", "expected finite pixels"),
        ("floats", r"expected \(N,\) integer labels, got float64"),
        ("short", "60 images need as many labels, got 59"),
        ("negative", "expected labels from 0, got -1"),
        ("new_label", "test images: expected labels from 0 to 2, got 3"),
        ("shapes", r"expected images of shape \(1, 6, 6\), got \(1, 5, 6\)"),
        ("raises", "the function raised RuntimeError: no disk"),
        ("silent", "the function raised TypeError"),
        ("value", "'own_images' has no function 'value'"),
        ("godo", "did you mean 'good'"),
    ],
)
def test_errors_are_one_line(function, message):
    with pytest.raises(UserError, match=message) as caught:
        _load(function)
    assert "\n" not in str(caught.value)


def test_no_such_module():
    with pytest.raises(UserError, match="data.name: cannot import 'own_imagse': No module named 'own_imagse'"):
        load_data(DataConfig(name="own_imagse:good"), seed=0)


def test_description():
    report = describe_data(DataConfig(name="own_images:good"))
    assert report.present
    assert "'train'" in report.how_to_get
