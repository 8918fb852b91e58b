"""Splits in memory: what a batch holds, and that a pass can begin anywhere."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import load_data


def _equal(left, right) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(left, right, strict=True)
    )


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig(), seed=0)


def test_digits(digits):
    assert (len(digits.train), len(digits.search), len(digits.test)) == (1079, 359, 359)
    assert digits.input_shape == (1, 8, 8)
    assert digits.num_classes == 10
    for split in (digits.train, digits.search, digits.test):
        shares = np.bincount(split.labels, minlength=10) / len(split)
        np.testing.assert_allclose(shares, np.bincount(load_digits().target) / 1797, atol=1 / len(split) + 1e-3)


def test_images_are_normalized_pixels(digits):
    originals = {tuple(image.flatten()): label for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    seen = 0
    for split in (digits.train, digits.search, digits.test):
        ((images, labels),) = split.batches(len(split))
        assert images.dtype == torch.float32
        assert labels.tolist() == split.labels.tolist()
        pixels = (images.double() * digits.std[0] + digits.mean[0]).round().flatten(1)
        assert all(originals[tuple(pixel.tolist())] == label for pixel, label in zip(pixels, labels, strict=True))
        seen += len(split)
    assert seen == len(originals) == 1797


def test_no_overlap(digits):
    images = [
        {tuple(image.flatten().tolist()) for batch, _ in split.batches(100) for image in batch}
        for split in (digits.train, digits.search, digits.test)
    ]
    assert not (images[0] & images[1] or images[0] & images[2] or images[1] & images[2])


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 50])
def test_a_pass_begun_later(digits, augment, drop_last, start):
    whole = list(digits.train.batches(100, shuffle_seed=(0, 3), augment=augment, drop_last=drop_last))
    assert len(whole) == digits.train.num_batches(100, drop_last) == (10 if drop_last else 11)
    later = digits.train.batches(100, shuffle_seed=(0, 3), augment=augment, drop_last=drop_last, start=start)
    assert _equal(whole[start:], list(later))


def test_order_and_augmentation_follow_the_seed(digits):
    def first(**settings):
        return next(digits.train.batches(64, **settings))

    plain = first(shuffle_seed=(0, 1))
    augmented = first(shuffle_seed=(0, 1), augment=True)
    assert torch.equal(plain[1], augmented[1])
    assert not torch.equal(plain[0], augmented[0])
    assert torch.equal(augmented[0], first(shuffle_seed=(0, 1), augment=True)[0])
    assert not torch.equal(plain[1], first(shuffle_seed=(0, 2))[1])
    assert not torch.equal(plain[1], first(shuffle_seed=(1, 0))[1])


def test_shuffling_permutes(digits):
    labels = torch.cat([labels for _, labels in digits.search.batches(50, shuffle_seed=(4,))])
    assert labels.tolist() != digits.search.labels.tolist()
    assert sorted(labels.tolist()) == sorted(digits.search.labels.tolist())


def test_global_generators_are_left_alone(digits):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(digits.train.batches(500, shuffle_seed=(0,), augment=True))
    assert torch.equal(before, torch.get_rng_state())


def test_augmentation_needs_a_seed(digits):
    with pytest.raises(ValueError, match="shuffle_seed"):
        digits.train.batches(10, augment=True)


def test_digest_tells_splits_apart(digits):
    digests = {load_data(DataConfig(search=search), seed=seed).digest for seed in (0, 1) for search in (300, 359)}
    assert len(digests) == 4
    assert digits.digest in digests


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 32, 32)])
def test_other_shape_than_the_network_takes(shape):
    with pytest.raises(UserError) as caught:
        load_data(DataConfig(), seed=0, input_shape=shape)
    assert str(shape) in str(caught.value)
    assert "(1, 8, 8)" in str(caught.value)


@pytest.mark.parametrize("gzipped", [False, True])
def test_idx(idx_folder, gzipped):
    splits = load_data(DataConfig(name="idx", root=str(idx_folder(gzipped=gzipped))), seed=0)
    assert (len(splits.train), len(splits.search), len(splits.test)) == (48, 12, 20)
    assert (splits.input_shape, splits.class_names) == ((1, 6, 5), ("0", "1", "2", "3"))
    images = torch.cat([images for images, _ in splits.train.batches(7)])  # what search images are like stays unseen
    np.testing.assert_allclose([images.mean(), images.std(correction=0)], [0, 1], atol=1e-5)


def test_fashion_mnist(idx_folder):
    root = idx_folder("FashionMNIST/raw", gzipped=True, classes=10).parents[1]
    splits = load_data(DataConfig(name="fashion-mnist", root=str(root), search=12), seed=0)
    assert splits.class_names[9] == "Ankle boot"
    assert splits.num_classes == 10


def test_label_out_of_range(idx_folder):
    root = idx_folder(classes=12)
    with pytest.raises(UserError, match="expected labels from 0 to 9, got 10"):
        load_data(DataConfig(name="fashion-mnist", root=str(root), search=20), seed=0)
