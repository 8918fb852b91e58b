"""CIFAR's pickles: read as pickle itself would read them, but nothing in them is run."""

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import load_data
from usdn_nas.data.cifar import read_batch, read_names
from usdn_nas.data.pickles import read_pickled_dict


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_python2_pickle_as_pickle_reads_it(tmp_path, data, to_python2_pickle):
    path = tmp_path / "batch"
    path.write_bytes(to_python2_pickle(data, [3, 1, 2, 0], b"labels"))
    with path.open("rb") as file:
        reference = pickle.load(file, encoding="bytes")
    batch = read_batch(path, "labels")
    np.testing.assert_array_equal(batch.images.reshape(4, -1), reference[b"data"])
    np.testing.assert_array_equal(batch.images.reshape(4, -1), data)
    assert batch.labels.tolist() == reference[b"labels"] == [3, 1, 2, 0]


@pytest.mark.parametrize("order", ["C", "F"])
def test_python3_pickle_of_protocol_2(tmp_path, data, order):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": np.asarray(data, order=order), "fine_labels": [1, 2, 3, 4]}, protocol=2))
    batch = read_batch(path, "fine_labels")
    np.testing.assert_array_equal(batch.images.reshape(4, -1), data)


def test_malicious_pickle_is_not_run(tmp_path, data):
    path, mark = tmp_path / "batch", tmp_path / "mark"
    path.write_bytes(pickle.dumps({b"data": data, b"labels": _Trap(mark)}, protocol=2))
    with pytest.raises(UserError, match=r"posix\.mkdir") as caught:
        read_pickled_dict(path)
    assert str(path) in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\nfromstring\n", b"cnumpy\ndtype.name\n"],
)
def test_other_names_are_not_looked_up(tmp_path, target):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\2" + target + b"X\1\0\0\0a\x85R.")
    with pytest.raises(UserError, match=target.split(b"\n")[1].decode()):
        read_pickled_dict(path)


def test_truncated_anywhere(tmp_path, data, to_python2_pickle):
    path = tmp_path / "batch"
    content = to_python2_pickle(data[:1], [0], b"labels")
    for cut in [*range(0, 200), *range(200, len(content), 97)]:
        path.write_bytes(content[:cut])
        with pytest.raises(UserError) as caught:
            read_batch(path, "labels")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([1, 2], "expected a dict, got list"),
        ({b"labels": [1]}, "it has no 'data'"),
        ({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 1]}, r"expected data of shape \(N, 3072\), got \(2, 5\)"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "2 images need as many labels, got 1"),
        ({b"data": np.zeros((1, 3072), np.int16), b"labels": [1]}, "expected an array of u1, got 'i2'"),
    ],
)
def test_something_else(tmp_path, payload, message):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(UserError, match=message):
        read_batch(path, "labels")


@pytest.mark.parametrize(("name", "classes", "sizes"), [("cifar10", 10, (70, 30, 20)), ("cifar100", 10, (14, 6, 20))])
def test_load(cifar_root, name, classes, sizes, caplog):
    config = DataConfig(name=name, root=str(cifar_root), search=30 if name == "cifar10" else 6)
    with caplog.at_level(logging.WARNING):
        splits = load_data(config, seed=0, input_shape=(3, 32, 32))
    assert (len(splits.train), len(splits.search), len(splits.test)) == sizes
    assert splits.class_names == tuple(f"class {k}" for k in range(classes))
    assert splits.num_classes == classes
    assert "checksum" in caplog.text


def test_names_are_a_list(tmp_path):
    path = tmp_path / "meta"
    path.write_bytes(pickle.dumps({b"label_names": 3}, protocol=2))
    with pytest.raises(UserError, match="meta: label_names: expected a list of class names, got int"):
        read_names(path, "label_names")
