"""Augmentation of a batch beside a loop over its images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usdn_nas.data.augment import CropFlip


def _one_by_one(images: np.ndarray, padding: int, flip: bool, generator: np.random.Generator) -> np.ndarray:
    batch, _, height, width = images.shape
    rows, columns = generator.integers(0, 2 * padding + 1, (2, batch, 1))[..., 0]
    mirrored = generator.random(batch) < 0.5 if flip else np.zeros(batch, bool)
    result = []
    for image, row, column, mirror in zip(images, rows, columns, mirrored, strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        crop = padded[:, row : row + height, column : column + width]
        result.append(crop[:, :, ::-1] if mirror else crop)
    return np.stack(result)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from([np.uint8, np.float32]),
)
def test_as_one_by_one(shape, padding, flip, dtype):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    result = CropFlip(padding, flip)(torch.from_numpy(images), np.random.default_rng(7))
    assert result.numpy().dtype == dtype
    np.testing.assert_array_equal(result.numpy(), _one_by_one(images, padding, flip, np.random.default_rng(7)))


@pytest.mark.parametrize("flip", [False, True])
def test_every_place_and_side_occurs(flip):
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    results = CropFlip(1, flip)(image.repeat(2000, 1, 1, 1), np.random.default_rng(0))
    assert len({tuple(result.flatten().tolist()) for result in results}) == (18 if flip else 9)
