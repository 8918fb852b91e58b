"""IDX files, MNIST's format: a magic number, the sizes, the values in big-endian order; gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas.errors import UserError

__all__ = ["parse_idx", "read_idx"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def parse_idx(content: bytes, where: object) -> NDArray[Any]:
    """The array in an IDX file's (unzipped) bytes, in the machine's byte order.

    Raises:
        UserError: They are no IDX file, or fewer or more than its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise UserError(f"expected an IDX file, got one that begins with {content[:4].hex(' ')}", where=where)
    dtype, dimensions = np.dtype(_DTYPES[content[2]]), content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise UserError("the file is truncated inside its header", where=where)
    shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())
    expected = header + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise UserError(f"the file is {state}: expected {expected} bytes, got {len(content)}", where=where)
    return np.frombuffer(content, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def read_idx(path: Path) -> NDArray[Any]:
    """Reads an IDX file; one whose name ends in ``.gz`` is unzipped on the way.

    Raises:
        UserError: It cannot be read, or is damaged.
    """
    try:
        content = Path(path).read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot be read, perhaps truncated: {error}", where=path) from None
    return parse_idx(content, path)
