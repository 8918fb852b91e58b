"""Finds the image files of a folder, ``<class>/**/<image>``. This module does not import torch.

Links to images and folders outside the data set are followed, because caches of data sets consist of such links. A link
back into the data set is refused: a link to a folder above would give every image several labels, a link to another
split would mix test images into the training, and links in a circle would never end.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError, reason, shown
from usdn_nas.data.images import class_names

__all__ = ["EXTENSIONS", "SPLITS", "ImageFiles", "find_classes", "find_images"]

SPLITS = ("train", "val", "test")
"""Names of the splits' folders. Each of them holds a folder for each class."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files whose names end like this, in upper or lower case, are images. torchvision's ImageFolder has the same list."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files below a folder.

    Attributes:
        paths: (N,) absolute paths as bytes, because a path need not be valid text in any encoding.
        labels: (N,) int64.
        digest: SHA-256 over relative paths and sizes of the files. The paths contain the classes.
    """

    paths: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    digest: str


def find_classes(folder: Path) -> tuple[str, ...]:
    """Returns the sorted names of the folders in ``folder``. Other files in it are ignored unless they are images.

    Raises:
        UserError: There is no folder, there is an image or a refused link beside the folders, or a name is not
            printable.
    """
    names = []
    for entry in _entries(folder, folder.parent):
        if entry.is_dir():
            names.append(entry.name)
        elif _is_image(entry.name):
            raise UserError("expected images in a folder for each class, got one beside them", where=entry.path)
    if not names:
        raise UserError("expected one folder for each class", where=folder)
    for name in names:
        if not name.isprintable():  # names that are not UTF-8 are not printable either
            raise UserError(f"expected a printable name of a class in UTF-8, got {shown(name)}", where=folder)
    return class_names(sorted(names), folder)


def find_images(folder: Path, classes: Sequence[str], root: Path) -> ImageFiles:
    """Finds all images below ``folder``, in the order of torchvision's ImageFolder.

    Args:
        folder: A folder that holds a folder for each class, or for some classes.
        classes: Names of the classes. The label of an image is the position of its class in this list.
        root: Folder of the data set. Paths in the digest are relative to it.

    Raises:
        UserError: A class is unknown, there is no image at all, or an entry is neither a file nor a folder.
    """
    found = find_classes(folder)
    if unknown := set(found) - set(classes):
        raise UserError(f"class {shown(min(unknown))} is not among those of train", where=folder)
    base = os.path.abspath(folder)
    prefix = os.path.relpath(base, root)
    paths, labels, state = [], [], hashlib.sha256()
    for label, name in enumerate(classes):
        if name not in found:
            continue
        for path, size in _images(os.path.join(base, name), root):
            paths.append(os.fsencode(path))
            labels.append(label)
            state.update(os.fsencode(f"{prefix}{path[len(base) :]} {size}\n"))
    if not paths:
        raise UserError(f"no images here ({', '.join(EXTENSIONS)})", where=folder)
    return ImageFiles(np.array(paths), np.array(labels, dtype=np.int64), state.hexdigest())


def _images(folder: str, root: Path) -> list[tuple[str, int]]:
    """Returns paths and sizes of the images below ``folder``, folder by folder."""
    by_folder, waiting, seen = {}, [folder], set()
    while waiting:
        at = waiting.pop()
        if (real := os.path.realpath(at)) in seen:
            raise UserError("expected every folder once, got a link to one that is here already", where=at)
        seen.add(real)
        images = []
        for entry in _entries(at, root):
            if entry.is_dir():
                waiting.append(entry.path)
            elif _is_image(entry.name):
                images.append((entry.path, entry.stat().st_size))
        by_folder[at] = sorted(images)
    return [image for at in sorted(by_folder) for image in by_folder[at]]


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _entries(folder: Path | str, root: Path) -> list[os.DirEntry[str]]:
    """Returns the files and folders in ``folder``, including links to files and folders. Anything else is refused.

    Args:
        folder: The folder.
        root: Folder of the data set. No link may lead into one of its splits or to a folder above a split.
    """
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {reason(error)}", where=folder) from None
    for entry in entries:
        try:
            mode = entry.stat().st_mode
        except (OSError, ValueError) as error:
            if entry.is_symlink():
                finding = f"expected a file or folder, got a link that leads nowhere: {reason(error)}"
            else:
                finding = f"cannot be read: {reason(error)}"
            raise UserError(finding, where=entry.path) from None
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise UserError("expected a file or folder, got a pipe, socket or device", where=entry.path)
        if entry.is_symlink() and _leads_back(entry.path, root):
            raise UserError(
                "expected a file or folder, got a symbolic link back into the data set",
                where=entry.path,
                remedy="an image may be in one split and one class only",
            )
    return entries


def _leads_back(link: str, root: Path) -> bool:
    """Returns True if a link leads into a split of the data set in ``root``, or to a folder above a split."""
    target = os.path.realpath(link)
    splits = [os.path.realpath(root / split) for split in SPLITS]
    return any(os.path.commonpath([target, split]) in (target, split) for split in splits)
