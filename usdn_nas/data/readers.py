"""Reads the data sets that fit in memory."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from usdn_nas.config import DataConfig
from usdn_nas.data.arrays import ArrayData
from usdn_nas.data.augment import CropFlip
from usdn_nas.data.cifar import read_batch, read_names
from usdn_nas.data.idx import read_idx
from usdn_nas.data.images import ImageSet, check_classes, image_set
from usdn_nas.data.own import call_function
from usdn_nas.data.places import find_files
from usdn_nas.data.reading import open_regular

__all__ = ["read_arrays"]

logger = logging.getLogger(__name__)


def read_arrays(config: DataConfig, seed: int) -> ArrayData:
    """Reads the data set that ``config`` names, which must not be a folder of image files.

    Raises:
        UserError: The data set is missing or damaged.
    """
    match config.name:
        case "digits":
            return _read_digits()
        case "fashion-mnist":
            train, test = _read_idx_pairs(config)
            return ArrayData(train, test, tuple(FashionMNIST.classes), CropFlip(2, flip=True), search=10_000)
        case "idx":
            train, test = _read_idx_pairs(config)
            return ArrayData(train, test, _numbered(train, "idx: training images"), _shift(train))
        case "cifar10" | "cifar100":
            return _read_cifar(config)
        case _:
            own_train, own_test, names = call_function(config, seed)
            return ArrayData(
                own_train, own_test, names or _numbered(own_train, f"{config.name}: train"), _shift(own_train)
            )


def _read_digits() -> ArrayData:
    """Returns scikit-learn's digits: 1,797 images of 8x8 pixels, with grey levels from 0 to 16."""
    digits = load_digits()
    images = image_set(digits.images.astype(np.uint8), digits.target, "digits")
    return ArrayData(images, None, _numbered(images, "digits"), CropFlip(1, flip=False))


def _read_idx_pairs(config: DataConfig) -> tuple[ImageSet, ImageSet]:
    """Returns training and test images from four files in MNIST's format."""
    train_images, train_labels, test_images, test_labels = find_files(config)
    return _read_idx_pair(train_images, train_labels), _read_idx_pair(test_images, test_labels)


def _read_idx_pair(images: Path, labels: Path) -> ImageSet:
    """Reads labels and images. Labels come first: they are small, and give the number of images to expect."""
    of_images = read_idx(labels, dimensions=(1,))
    return image_set(read_idx(images, dimensions=(3, 4), count=len(of_images)), of_images, images)


def _read_cifar(config: DataConfig) -> ArrayData:
    folder = find_files(config)[0].parent
    reference = {"cifar10": CIFAR10, "cifar100": CIFAR100}[config.name]
    labels, names = ("labels", "label_names") if config.name == "cifar10" else ("fine_labels", "fine_label_names")
    for name, md5 in [*reference.train_list, *reference.test_list]:
        if _md5(folder / name) != md5:
            logger.warning("%s: not the published file (its checksum differs); read all the same", folder / name)
    batches = [read_batch(folder / name, labels) for name, _ in reference.train_list]
    train = ImageSet(
        np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])
    )
    test = read_batch(folder / reference.test_list[0][0], labels)
    class_names = read_names(folder / reference.meta["filename"], names)
    return ArrayData(train, test, class_names, CropFlip(4, flip=True), search=5_000)


def _md5(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _numbered(images: ImageSet, where: object) -> tuple[str, ...]:
    """Returns the labels themselves, for data without class names.

    Raises:
        UserError: A label below the largest has no image. So a single large label cannot create countless names.
    """
    count = int(images.labels.max()) + 1
    check_classes(images.labels, count, where)
    return tuple(map(str, range(count)))


def _shift(images: ImageSet) -> CropFlip:
    """Returns an augmentation that suits unknown images: shifts by up to 1/12 of the shorter side, and no flips.

    A flip could change the class of an image, such as b into d.
    """
    return CropFlip(max(1, min(images.shape[1:]) // 12), flip=False)
