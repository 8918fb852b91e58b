"""Appends a digest to a file that `torch.save` wrote, so that any changed bit is detected.

Such a file is a zip archive. The archive's own checksums cover its members, but not the bytes between the members,
which are a third of the file for a small network. The digest is stored as the archive's comment, so that torch can
still read the file.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

__all__ = ["is_sealed", "seal"]

_LENGTH = 64
"""Number of characters of a SHA-256 digest in hexadecimal."""
_NO_COMMENT = b"\0\0"


def seal(path: Path) -> None:
    """Appends the digest of the archive at ``path`` to the archive.

    Raises:
        ValueError: The archive already has a comment, or the file is not a whole archive.
    """
    with path.open("rb+") as file:
        file.seek(-len(_NO_COMMENT), 2)
        if file.read() != _NO_COMMENT:
            raise ValueError(f"{path}: expected an archive without a comment")
        file.seek(-len(_NO_COMMENT), 2)
        file.write(struct.pack("<H", _LENGTH))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, 2)
        file.write(digest.encode())


def is_sealed(path: Path) -> bool:
    """Returns True if the file ends with the digest of all bytes before the digest."""
    content = path.read_bytes()
    return hashlib.sha256(memoryview(content)[:-_LENGTH]).hexdigest().encode() == content[-_LENGTH:]
