"""Decodes one image file. Size and kind are checked in the header of the file, before its pixels take memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from usdn_nas._util.errors import UserError
from usdn_nas.data.reading import open_regular

__all__ = ["MOST_PIXELS", "check_header", "decode"]

MOST_PIXELS = 89_478_485
"""Largest number of pixels of an image (a quarter of a GiB in colour). Above it Pillow warns of decompression bombs."""

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Accepted formats, whatever the name of the file. PostScript is refused: Pillow would run Ghostscript to read it."""

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes with at most 8 bits a channel. Pillow clips pixels of other modes at 255 instead of scaling them."""

T = TypeVar("T")


def check_header(path: str, smaller_side: int) -> int:
    """Returns the number of pixels of an image file. Only the header of the file is read.

    Args:
        path: The file.
        smaller_side: The length to which the smaller side of the image will be resized.

    Raises:
        UserError: The file is not an image, or its image cannot be used.
    """
    return _opened(path, lambda image: _checked(image, path, smaller_side))


def decode(path: str, mode: str, smaller_side: int) -> Image.Image:
    """Returns the image in a file, in the mode ``"RGB"`` or ``"L"``. If the file has several images, returns the first.

    Raises:
        UserError: `check_header` refuses the file, or the image is damaged after its header.
    """

    def convert(image: Image.Image) -> Image.Image:
        _checked(image, path, smaller_side)
        return image.convert(mode)

    return _opened(path, convert)


def _opened(path: str, use: Callable[[Image.Image], T]) -> T:
    with open_regular(path) as file, warnings.catch_warnings():
        # Pillow's warnings are not needed: decompression bombs are refused here, and the others do not matter.
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=_FORMATS) as image:
                return use(image)
        except UserError:
            raise
        except UnidentifiedImageError:
            kinds = ", ".join(_FORMATS)
            raise UserError(f"expected an image ({kinds}), got a file of another kind", where=path) from None
        except Image.DecompressionBombError:
            raise UserError(f"expected an image of at most {MOST_PIXELS:,} pixels", where=path) from None
        except Exception:  # a damaged image can raise nearly anything
            raise UserError("expected a whole image, got a truncated or damaged one", where=path) from None


def _checked(image: Image.Image, path: str, smaller_side: int) -> int:
    """Checks size and mode of an opened image and returns its number of pixels."""
    width, height = image.size
    pixels = width * height
    if not 1 <= pixels <= MOST_PIXELS:
        raise UserError(
            f"expected an image of 1 to {MOST_PIXELS:,} pixels, got {width} x {height}",
            where=path,
            remedy="make the file smaller" if pixels else None,
        )
    if smaller_side**2 * max(width, height) > MOST_PIXELS * min(width, height):
        raise UserError(
            f"an image of {width} x {height} pixels is too narrow to be resized: one side would have "
            f"{smaller_side}, the other {smaller_side * max(width, height) // min(width, height):,}",
            where=path,
        )
    if image.mode not in _MODES:
        raise UserError(
            f"expected an image of 8 bits a channel, got one of Pillow's mode '{image.mode}'",
            where=path,
            remedy="convert it to 8 bits",
        )
    return pixels
