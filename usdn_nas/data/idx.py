"""Reads IDX files, which may be gzipped. IDX is MNIST's format: a magic number, sizes, and big-endian values.

The header is checked against the size of the file before memory is allocated, and no more bytes are unzipped than the
header announces.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError, reason
from usdn_nas.data.reading import check_memory, file_size, open_regular

__all__ = ["parse_idx", "read_idx"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_DIMENSIONS = 4
_LARGE, _MOST_EXPANSION = 2**26, 200
"""An array above ``_LARGE`` bytes that is compressed to less than 1/200 is a decompression bomb, not images."""


def parse_idx(content: bytes, where: object) -> NDArray[Any]:
    """Returns the array in the unzipped bytes of an IDX file, in the machine's byte order.

    Raises:
        UserError: The bytes are not an IDX file, or their number differs from the header.
    """
    return _read(io.BytesIO(content), len(content), where, range(1, _MOST_DIMENSIONS + 1), None)


def read_idx(
    path: Path, dimensions: Collection[int] = range(1, _MOST_DIMENSIONS + 1), count: int | None = None
) -> NDArray[Any]:
    """Reads an IDX file. If its name ends in ``.gz``, it is unzipped.

    Args:
        path: The file.
        dimensions: The allowed numbers of dimensions.
        count: Required length of the first dimension, which is the number of labels. None: any length.

    Raises:
        UserError: The file cannot be read, is damaged, or holds an array of another shape.
    """
    with open_regular(path) as file:
        if Path(path).suffix != ".gz":
            return _read(file, file_size(file), path, dimensions, count)
        packed = file_size(file)
        try:
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _read(unzipped, None, path, dimensions, count, packed)
        except (OSError, EOFError, zlib.error):
            raise UserError("expected a gzipped file, got a truncated, damaged or foreign one", where=path) from None


def _read(
    stream: io.BufferedIOBase,
    size: int | None,
    where: object,
    dimensions: Collection[int],
    count: int | None,
    packed: int | None = None,
) -> NDArray[Any]:
    """Reads an array. ``size`` is the size of the file in bytes, None if gzipped; ``packed`` that of a gzipped file."""
    dtype, shape = _read_header(stream, where)
    if len(shape) not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise UserError(f"expected an array of {expected} dimensions, got {len(shape)}", where=where)
    if count is not None and shape[0] != count:
        raise UserError(f"expected {count} images, one for each label, got {shape[0]}", where=where)
    if 0 in shape:
        raise UserError(f"expected at least one value, got an array of shape {shape}", where=where)
    header, content = 4 + 4 * len(shape), math.prod(shape) * dtype.itemsize
    if size is not None and size != header + content:
        state = "truncated" if size < header + content else "too long"
        raise UserError(f"the file is {state}: expected {header + content} bytes, got {size}", where=where)
    if packed is not None and content > max(_LARGE, packed * _MOST_EXPANSION):
        raise UserError(f"the header promises {content} bytes, the gzipped file has only {packed}", where=where)
    check_memory(content, where)
    try:
        array = np.empty(shape, dtype)
        got = _fill(stream, array)
        rest = stream.read(1)
    except MemoryError as error:
        raise UserError(f"cannot be read: {reason(error)}", where=where) from None
    if got < content or rest:
        state = "truncated" if got < content else "too long"
        more = " or more" if rest else ""
        raise UserError(
            f"the file is {state}: expected {header + content} bytes, got {header + got + len(rest)}{more}", where=where
        )
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: io.BufferedIOBase, where: object) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise UserError(f"expected an IDX file, got one that begins with {magic.hex(' ') or 'nothing'}", where=where)
    if not 1 <= magic[3] <= _MOST_DIMENSIONS:
        raise UserError(f"expected an array of 1 to {_MOST_DIMENSIONS} dimensions, got {magic[3]}", where=where)
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise UserError("the file is truncated inside its header", where=where)
    return np.dtype(_DTYPES[magic[2]]), tuple(np.frombuffer(sizes, ">u4").tolist())


def _fill(stream: io.BufferedIOBase, array: NDArray[Any]) -> int:
    """Reads into ``array`` until it is full or the stream ends, and returns the number of bytes read."""
    view = array.reshape(-1).view(np.uint8).data
    at = 0
    while at < len(view) and (got := stream.readinto(view[at:])):
        at += got
    return at
