"""Data from a function of one's own, found in the working directory."""

import sys

import numpy as np
import pytest

from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import describe_data, load_data

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
def ragged(root, seed): return {"train": ([np.zeros((6 - n // 59, 6), np.uint8) for n in range(60)], _part(60)[1])}
def ragged_labels(root, seed): return {"train": (_part(60)[0], [[0]] * 59 + [0])}
def objects(root, seed): return {"train": (np.array([None] * 60), _part(60)[1])}
def lazy(root, seed): return {"train": ((image for image in _part(60)[0]), _part(60)[1])}
def texts(root, seed): return {"train": (_part(60)[0], ["a"] * 60)}
def gradients(root, seed): return {"train": (torch.rand(60, 6, 6, requires_grad=True), _part(60)[1])}
def halves(root, seed): return {"train": (torch.rand(60, 6, 6).bfloat16(), _part(60)[1])}
def endless(root, seed): return {"train": (np.broadcast_to(np.uint8(0), (2**40, 9, 9)), np.broadcast_to(0, 2**40))}
def nothing(root, seed): return {"train": (np.zeros((0, 6, 6), np.uint8), np.zeros(0, int))}
def empty_images(root, seed): return {"train": (np.zeros((60, 0, 6), np.uint8), _part(60)[1])}
def large_label(root, seed): return {"train": (_part(60)[0], _part(60)[1] * 2**30)}
def wrapped(root, seed): return {"train": (_part(60)[0], _part(60)[1].astype(np.uint64) + 2**63)}
def gap(root, seed): return {"train": (_part(60)[0], _part(60)[1] * 2)}
def overflow(root, seed): return {"train": (_part(60)[0] * 1e300, _part(60)[1])}
def number_of_names(root, seed): return {"train": _part(60), "class_names": 3}
def name_of_names(root, seed): return {"train": _part(60), "class_names": "abc"}
def named_objects(root, seed): return {"train": _part(60), "class_names": [None, 1, 2]}
def named_twice(root, seed): return {"train": _part(60), "class_names": ["a", "b", "a"]}
def named_oddly(root, seed): return {"train": _part(60), "class_names": ["a", "b", "c\x1b[31m"]}
def name_too_many(root, seed): return {"train": _part(60), "class_names": ["a", "b", "c", "d"]}
def name_too_few(root, seed): return {"train": _part(60), "class_names": ["a", "b"]}
def one_image_a_class(root, seed): return {"train": _part(3)}
def no_test(root, seed): return {"train": _part(60), "test": None}
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
    return load_data(DataConfig(name=f"own_images:{function}", **settings), seed=seed, trust_code=True)


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
        ("ragged", "train: expected images that make one array .*, got list from which numpy makes none"),
        ("ragged_labels", "train: expected labels that make one array"),
        ("objects", r"expected images \(N, C, H, W\) or \(N, H, W\), got shape \(60,\)"),
        ("lazy", r"expected images \(N, C, H, W\) or \(N, H, W\), got shape \(\)"),
        ("texts", r"expected \(N,\) integer labels, got <U1"),
        ("gradients", "expected images that make one array .* without gradients"),
        ("halves", "expected images that make one array"),
        ("endless", "train: needs 91,136 GiB of memory, this machine has"),
        ("nothing", r"got shape \(0, 1, 6, 6\)"),
        ("empty_images", r"got shape \(60, 1, 0, 6\)"),
        ("large_label", "expected labels from 0, got 2147483648"),
        ("wrapped", "expected labels from 0, got 9223372036854775810"),
        ("gap", "train: class 1 of 5 has no images; labels count from 0 without a gap"),
        ("overflow", "expected finite pixels"),
        ("number_of_names", "class_names: expected a list of texts, got int"),
        ("name_of_names", "class_names: expected a list of texts, got str"),
        ("named_objects", "class_names: expected a list of texts, got list of 3"),
        ("named_twice", "class_names: the class name 'a' comes 2 times"),
        ("named_oddly", r"got 'c\\x1b\[31m'"),
        ("name_too_many", "class 3 of 4 has no images"),
        ("name_too_few", "expected labels from 0 to 1, got 2"),
        ("one_image_a_class", "no training image is left of class|data.search: .* cannot be set aside"),
        ("no_test", r"test: expected a pair \(images, labels\), got NoneType"),
        ("raises", "the function raised RuntimeError: no disk"),
        ("silent", "the function raised TypeError"),
        ("value", "'own_images:value' is no function, its type is int"),
        ("godo", "did you mean 'good'"),
    ],
)
def test_errors_are_one_line(function, message):
    with pytest.raises(UserError, match=message) as caught:
        _load(function)
    assert "\n" not in str(caught.value)


def test_no_such_module():
    with pytest.raises(UserError, match="data.name: module 'own_imagse' is not found; install it"):
        load_data(DataConfig(name="own_imagse:good"), seed=0, trust_code=True)


def test_description():
    report = describe_data(DataConfig(name="own_images:good"), trust_code=True)
    assert report.present
    assert "'train'" in report.how_to_get
