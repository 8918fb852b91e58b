"""Finds the image files of a folder, ``<class>/**/<image>``. No torch in here.

Links are not followed: one to a folder above would give every image several labels, one to another split would put
test images into the training, and one that leads in a circle would never end.
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

from usdn_nas.data.images import class_names
from usdn_nas.data.reading import reason, shown
from usdn_nas.errors import UserError

__all__ = ["EXTENSIONS", "ImageFiles", "find_classes", "find_images"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of names, in any case, of the files that are taken for images; those of torchvision's ImageFolder."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files below a folder.

    Attributes:
        paths: (N,) absolute paths as bytes. A path need not be text in any encoding.
        labels: (N,) int64.
        digest: SHA-256 over relative paths and sizes of the files; a path tells the label.
    """

    paths: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    digest: str


def find_classes(folder: Path) -> tuple[str, ...]:
    """Returns the names of the folders in ``folder``, sorted. Files beside them are left alone unless they are images.

    Raises:
        UserError: There is none, an image or a link lies beside them, or a name cannot be printed.
    """
    names = []
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
        elif _is_image(entry.name):
            raise UserError("expected images in a folder for each class, got one beside them", where=entry.path)
    if not names:
        raise UserError("expected one folder for each class", where=folder)
    for name in names:
        if not name.isprintable():  # so are bytes that are not UTF-8
            raise UserError(f"expected a printable name of a class in UTF-8, got {shown(name)}", where=folder)
    return class_names(sorted(names), folder)


def find_images(folder: Path, classes: Sequence[str], root: Path) -> ImageFiles:
    """Finds all images below ``folder``, in the order of torchvision's ImageFolder.

    Args:
        folder: It holds a folder for each class, or for some of them.
        classes: Names of the classes; an image's label is the position of its class here.
        root: The folder that paths in the digest are relative to.

    Raises:
        UserError: A class is unknown, there is no image at all, or something is neither file nor folder.
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
        for path, size in _images(os.path.join(base, name)):
            paths.append(os.fsencode(path))
            labels.append(label)
            state.update(os.fsencode(f"{prefix}{path[len(base) :]} {size}\n"))
    if not paths:
        raise UserError(f"no images here ({', '.join(EXTENSIONS)})", where=folder)
    return ImageFiles(np.array(paths), np.array(labels, dtype=np.int64), state.hexdigest())


def _images(folder: str) -> list[tuple[str, int]]:
    """Paths and sizes of the images below ``folder``, folder by folder."""
    by_folder, waiting = {}, [folder]
    while waiting:
        at = waiting.pop()
        images = []
        for entry in _entries(at):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif _is_image(entry.name):
                images.append((entry.path, entry.stat(follow_symlinks=False).st_size))
        by_folder[at] = sorted(images)
    return [image for at in sorted(by_folder) for image in by_folder[at]]


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Files and folders in ``folder``; anything else is refused."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
            modes = [entry.stat(follow_symlinks=False).st_mode for entry in entries]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {reason(error)}", where=folder) from None
    for entry, mode in zip(entries, modes, strict=True):
        if stat.S_ISLNK(mode):
            raise UserError(
                "expected a file or folder, got a symbolic link, which is not followed in folders of images",
                where=entry.path,
                remedy="put the file or folder itself there, or a hard link",
            )
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise UserError("expected a file or folder, got a pipe, socket or device", where=entry.path)
    return entries
