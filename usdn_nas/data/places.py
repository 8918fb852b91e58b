"""Finds data sets on disk, and tells which files are missing and how to get them. This module does not import torch."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from usdn_nas._util.errors import UserError, nearest, shown
from usdn_nas._util.trust import check_data, find_function
from usdn_nas.config import DataConfig
from usdn_nas.data.own import CONTRACT
from usdn_nas.data.reading import path_status

__all__ = ["DATASETS", "DataReport", "FileReport", "check_name", "describe_data", "find_files"]

ROOT_VARIABLE = "USDN_DATA"
DEFAULT_ROOT = "data"


@dataclass(frozen=True)
class _Place:
    """Where a data set may be on disk.

    Attributes:
        files: Names of the required files, and of the required folders (with a slash at the end).
        folders: Folders below the root in which they may be, in the order of search.
        how_to_get: Advice for a user who does not have the data set.
        elsewhere: More folders to search if no root was given.
        gzipped: True if a file may also be called ``name.gz``.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    how_to_get: str
    elsewhere: tuple[str, ...] = ()
    gzipped: bool = False


_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_PLACES = {
    "digits": _Place((), (), "It comes with scikit-learn: nothing to get."),
    "fashion-mnist": _Place(
        _IDX_FILES,
        (".", "FashionMNIST/raw", "fashion-mnist"),
        "On Debian and Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere: the four files of "
        "https://github.com/zalandoresearch/fashion-mnist (gzipped or not), or what "
        "torchvision.datasets.FashionMNIST(root, download=True) leaves in the root.",
        elsewhere=("/usr/share/datasets/fashion-mnist",),
        gzipped=True,
    ),
    "cifar10": _Place(
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        ("cifar-10-batches-py", "."),
        "Unpack cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html in the root, or run "
        "torchvision.datasets.CIFAR10(root, download=True).",
    ),
    "cifar100": _Place(
        ("train", "test", "meta"),
        ("cifar-100-python", "."),
        "Unpack cifar-100-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html in the root, or run "
        "torchvision.datasets.CIFAR100(root, download=True).",
    ),
    "imagenet": _Place(
        ("train/", "val/"),
        (".", "imagenet", "ImageNet"),
        "Register at https://www.image-net.org, get ILSVRC2012's training and validation archives and unpack them "
        "into train/<class>/ and val/<class>/; torchvision.datasets.ImageNet(root) does that from the archives.",
    ),
    "imagefolder": _Place(
        ("train/",),
        (".",),
        "Your own images: train/<class>/*.jpg below the root, and test/<class>/ or val/<class>/ beside it; with both, "
        "val is the search split; with neither, a stratified part of train is held out for the test. Links below these "
        "folders are not followed.",
    ),
    "idx": _Place(
        _IDX_FILES,
        (".",),
        "Your own images in MNIST's format: four IDX files (gzipped or not) in the root.",
        gzipped=True,
    ),
}

DATASETS: tuple[str, ...] = tuple(_PLACES)
"""Names of the built-in data sets. The user can also name a function, ``package.module:function``."""


@dataclass(frozen=True)
class FileReport:
    """A required file or folder of a data set.

    ``path`` is None if it is missing. ``size_bytes`` is None if it is missing or a folder.
    """

    name: str
    path: Path | None
    size_bytes: int | None


@dataclass(frozen=True)
class DataReport:
    """The information that ``usdn-nas data NAME`` prints.

    Attributes:
        name: Name of the data set.
        present: True if every required file is there. The files are not read.
        folder: The folder with all required files, or else with most of them; None if none was found.
        looked_in: The folders that were searched, in this order.
        files: The required files, with those found in ``folder``.
        how_to_get: Advice for a user who does not have the data set.
    """

    name: str
    present: bool
    folder: Path | None
    looked_in: tuple[Path, ...]
    files: tuple[FileReport, ...]
    how_to_get: str


def check_name(name: str) -> None:
    """Raises `UserError` if ``name`` is neither in `DATASETS` nor of the form ``package.module:function``."""
    if name not in _PLACES and ":" not in name:
        raise UserError(f"unknown data set {shown(name)}", where="data.name", remedy=nearest(name, DATASETS))


def _candidates(place: _Place, root: str | None) -> tuple[Path, ...]:
    if root == "":
        raise UserError("expected a folder, got an empty text", where="data.root", remedy="leave this key out")
    given = root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT
    try:
        base = Path(given).expanduser()
    except RuntimeError:
        raise UserError(f"there is no home folder for {shown(given)}", where="data.root") from None
    elsewhere = () if root else place.elsewhere
    return (*(base / folder for folder in place.folders), *map(Path, elsewhere))


def _look(place: _Place, folder: Path) -> tuple[FileReport, ...]:
    found = []
    for name in place.files:
        options = [folder / name, folder / f"{name}.gz"] if place.gzipped else [folder / name]
        is_kind = stat.S_ISDIR if name.endswith("/") else stat.S_ISREG
        status = {option: there for option in options if (there := path_status(option)) and is_kind(there.st_mode)}
        path = next(iter(status), None)
        size = None if path is None or is_kind is stat.S_ISDIR else status[path].st_size
        found.append(FileReport(name, path, size))
    return tuple(found)


def describe_data(config: DataConfig, *, trust_code: bool = False) -> DataReport:
    """Returns whether the data set is there, which folders were searched, and how to get it.

    The root is ``config.root``, or else the environment variable ``USDN_DATA``, or else ``./data``. Without
    ``config.root``, the system's usual folders are searched too.

    Args:
        config: Name and root of the data set.
        trust_code: Allow to import the function that ``config.name`` names.

    Raises:
        UserError: The name is unknown; or it names a function that cannot be imported, or ``trust_code`` is False.
    """
    check_name(config.name)
    if config.name not in _PLACES:
        check_data(config.name, where="data.name", trust_code=trust_code)
        find_function(config.name, where="data.name")
        return DataReport(config.name, True, None, (), (), CONTRACT)
    place = _PLACES[config.name]
    looked_in = _candidates(place, config.root)
    reports = {folder: _look(place, folder) for folder in looked_in}
    folder, files = max(
        reports.items(), key=lambda item: sum(file.path is not None for file in item[1]), default=(None, ())
    )
    found = [file for file in files if file.path is not None]
    return DataReport(
        config.name, len(found) == len(files), folder if found else None, looked_in, files, place.how_to_get
    )


def find_files(config: DataConfig) -> tuple[Path, ...]:
    """Returns the required files or folders of the data set, in the order of `DataReport.files`.

    All of them are in the same folder.

    Raises:
        UserError: A file is missing. The message names the missing files and the folders that were searched.
    """
    report = describe_data(config)
    paths = tuple(file.path for file in report.files if file.path is not None)
    if report.present:
        return paths
    missing = ", ".join(file.name for file in report.files if file.path is None)
    places = ", ".join(map(str, report.looked_in)) if report.folder is None else str(report.folder)
    raise UserError(
        f"data set '{config.name}' is not there: no {missing} in {places}",
        where="data.root",
        remedy=f"'usdn-nas data {config.name}' says how to get it",
    )
