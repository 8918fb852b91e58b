"""IDX files: round trip, torchvision's reader as an oracle, damage."""

import gzip

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from hypothesis.extra import numpy as arrays
from torchvision.datasets import FashionMNIST

from usdn_nas._util.errors import UserError
from usdn_nas.data.idx import parse_idx, read_idx

DTYPES = [np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=arrays.arrays(np.uint8, arrays.array_shapes(max_dims=4, max_side=5)))
def test_round_trip(to_idx, array):
    np.testing.assert_array_equal(parse_idx(to_idx(array), "file"), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(to_idx, dtype):
    array = np.array([[0, 1, 100], [7, 8, 9]], dtype=dtype)
    parsed = parse_idx(to_idx(array), "file")
    assert parsed.dtype == array.dtype
    np.testing.assert_array_equal(parsed, array)


def test_as_torchvision_reads_it(idx_folder):
    folder = idx_folder("FashionMNIST/raw")
    for train, prefix in ((True, "train"), (False, "t10k")):
        reference = FashionMNIST(folder.parents[1], train=train)
        np.testing.assert_array_equal(read_idx(folder / f"{prefix}-images-idx3-ubyte"), reference.data.numpy())
        np.testing.assert_array_equal(read_idx(folder / f"{prefix}-labels-idx1-ubyte"), reference.targets.numpy())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=strategies.integers(0, 21))
def test_truncated_anywhere(to_idx, cut):
    content = to_idx(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
    assert len(content) == 22
    with pytest.raises(UserError, match="^some/file: "):
        parse_idx(content[:cut], "some/file")


def test_too_long(to_idx):
    with pytest.raises(UserError, match="too long: expected 11 bytes, got 12"):
        parse_idx(to_idx(np.arange(3, dtype=np.uint8)) + b"1", "file")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"plain" + b, lambda b: b[:20] + b"\xff" * 9])
def test_damaged_gzip(to_idx, tmp_path, damage):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(to_idx(np.arange(100, dtype=np.uint8)))))
    with pytest.raises(UserError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
