"""Folders of image files: torchvision beside it, workers, damaged files."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import load_data

SHAPE = (3, 14, 14)


def _load(root, name="imagefolder", **settings):
    return load_data(DataConfig(name=name, root=str(root), **settings), seed=0, input_shape=SHAPE)


def test_evaluation_images_are_torchvisions(image_folder):
    root = image_folder({"train": 4, "val": 3})
    splits = _load(root)
    transform = v2.Compose(
        [
            v2.Resize(16),
            v2.CenterCrop(14),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    reference = ImageFolder(root / "val", transform)
    ((images, labels),) = splits.test.batches(100)
    torch.testing.assert_close(images, torch.stack([image for image, _ in reference]), atol=1e-5, rtol=0)
    assert labels.tolist() == reference.targets
    assert splits.class_names == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ({"train": 10}, (18, 6, 6)),
        ({"train": 10, "val": 2}, (24, 6, 6)),
        ({"train": 10, "test": 3}, (24, 6, 9)),
        ({"train": 10, "val": 2, "test": 3}, (30, 6, 9)),
    ],
)
def test_which_folder_is_which_split(image_folder, counts, sizes):
    splits = _load(image_folder(counts))
    assert (len(splits.train), len(splits.search), len(splits.test)) == sizes
    for split in (splits.train, splits.search, splits.test):
        assert len(set(np.bincount(split.labels, minlength=3))) == 1


def test_imagenet_layout(image_folder):
    splits = _load(image_folder({"train": 4, "val": 2}), name="imagenet", search=3)
    assert (len(splits.train), len(splits.search), len(splits.test)) == (9, 3, 6)


@pytest.mark.parametrize("augment", [False, True])
def test_workers_and_a_pass_begun_later(image_folder, augment):
    root = image_folder({"train": 5})
    splits = [_load(root, workers=workers) for workers in (0, 2)]
    settings = {"shuffle_seed": (0, 1), "augment": augment}
    whole = list(splits[0].train.batches(2, **settings))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for split, start in ((splits[1].train, 0), (splits[1].train, 3), (splits[0].train, 2)):
        later = list(split.batches(2, start=start, **settings))
        assert len(later) == len(whole) - start
        for (images, labels), (other, others) in zip(whole[start:], later, strict=True):
            assert torch.equal(images, other)
            assert torch.equal(labels, others)
    assert torch.equal(state, torch.get_rng_state())


def test_augmentation_follows_seed_and_image(image_folder):
    split = _load(image_folder({"train": 5})).train
    epochs = [dict(_by_label_and_mean(split, seed)) for seed in ((0, 1), (0, 1), (0, 2))]
    assert epochs[0] == epochs[1] != epochs[2]


def _by_label_and_mean(split, seed):
    for number, (images, labels) in enumerate(split.batches(3, shuffle_seed=seed, augment=True)):
        yield (number, tuple(labels.tolist())), images.double().mean().item()


def test_grey_images(image_folder):
    config = DataConfig(name="imagefolder", root=str(image_folder({"train": 5})))
    splits = load_data(config, seed=0, input_shape=(1, 8, 12))
    assert next(splits.train.batches(2))[0].shape == (2, 1, 8, 12)
    with pytest.raises(UserError, match="1 or 3 channels, the network takes 4"):
        load_data(config, seed=0, input_shape=(4, 8, 8))


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image(image_folder, workers):
    root = image_folder({"train": 5, "val": 1})
    path = root / "val" / "bee" / "0.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError) as caught:
        list(_load(root, workers=workers).test.batches(1))
    assert str(caught.value).startswith(f"{path}: ")
    assert "Traceback" not in str(caught.value)


def test_folders_that_cannot_be_used(image_folder):
    root = image_folder({"train": 5, "val": 1})
    (root / "val" / "dog").mkdir()
    with pytest.raises(UserError, match="class 'dog' is not among those of train"):
        _load(root)
    (root / "val" / "dog").rmdir()
    (root / "train" / "eel").mkdir()
    with pytest.raises(UserError, match=r"class 'eel' has no images \(.jpg"):
        _load(root)
    with pytest.raises(UserError, match=r"train/0.jpg: expected images in a folder for each class, got one beside"):
        _load(_flat(root))
    (root / "flat/train/0.jpg").rename(root / "flat/train/0.txt")
    with pytest.raises(UserError, match="expected one folder for each class"):
        _load(root / "flat")
    with pytest.raises(UserError, match="imagenet has a test split of its own"):
        _load(image_folder({"train/a/train": 1, "train/a/val": 1}) / "train/a", name="imagenet", test=3)


def _flat(root):
    folder = root / "flat" / "train"
    folder.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "0.jpg")
    return folder.parent


def test_digest_sees_files(image_folder):
    root = image_folder({"train": 5})
    before = _load(root).digest
    assert _load(root).digest == before
    Image.new("RGB", (50, 50)).save(root / "train" / "ant" / "0.jpg")
    assert _load(root).digest != before
