"""Reads image files: checked, cropped to a square and resized, by several threads."""

import concurrent.futures
import functools
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from .base import SourceError

# What `square` and `decode` do, for the settings of stores.
RESIZE = "bilinear with antialiasing (Pillow)"
DEPTH = (
    "8 bits; deeper ones scaled from 0 to 65535, or, of 32 bits and floats, to the "
    "least of 1 (floats), 255, 65535 and 2147483647 that holds the largest value"
)
WHITE = (255, 255, 255)
_AT_ONCE = 64
_T = TypeVar("_T")

# Pillow runs another program to read the first, and has no reader of its own for the
# others.
_NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
# Chunks of a PNG file that no pixel depends on, and that may be of any size.
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}


@functools.cache
def formats() -> frozenset[str]:
    """Returns the names of the formats that are read."""
    Image.init()
    return frozenset(Image.OPEN) - _NOT_READ


def suffixes() -> set[str]:
    """Returns the suffixes of the files that are read, in lower case."""
    known = formats()
    return {s for s, name in Image.registered_extensions().items() if name in known}


def decode(
    content: bytes,
    name: str,
    background: tuple[int, int, int] = WHITE,
    upright: bool = True,
) -> Image.Image:
    """Returns the RGB image of a file, its first frame, in 8 bits.

    Args:
      content: of the file.
      name: of the file, for the error.
      background: colour that transparent pixels are laid over.
      upright: turn it as its EXIF data say.

    Raises:
      SourceError: corrupt, truncated, no image, too large, or of a range of values
        that no scale is known for.
    """
    try:
        try:
            return _decode(content, name, background, upright)
        except ValueError:
            # Pillow limits texts and profiles; neither is needed.
            without = _without_texts(content)
            if without == content:
                raise
            return _decode(without, name, background, upright)
    except SourceError:
        raise
    except Image.DecompressionBombError as error:
        raise SourceError(
            f"{name}: too large ({' '.join(str(error).split())[:120]}); make it "
            "smaller or remove it"
        ) from None
    # Pillow raises SyntaxError for broken PNG chunks, others for broken headers.
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError):
        raise SourceError(
            f"{name}: corrupt, truncated or no image; replace or remove it"
        ) from None


def _decode(content, name, background, upright) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=tuple(formats())) as image:
        image.load()
        image = ImageOps.exif_transpose(image) if upright else image.copy()
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image, name)
    # An alpha channel, or a colour that is seen through.
    if {"A", "a"} & {*image.getbands()} or "transparency" in image.info:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(under, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Returns grey values of 16 or 32 bits or floats in 8 bits, with transparency."""
    values = np.asarray(image).astype(np.float64)
    least, most = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and least >= 0):
        raise SourceError(
            f"{name}: has values from {least:g} to {most:g}; scale them to 0 to 1 or "
            "0 to 255, or remove it"
        )
    if image.mode.startswith("I;16"):
        full = 65535.0
    else:
        scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        full = next((scale for scale in scales if most <= scale), 2.0**31 - 1)
    grey = Image.fromarray(np.rint(np.minimum(values / full, 1) * 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        alpha = np.where(values == clear, 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(alpha))
    return grey


def _without_texts(content: bytes) -> bytes:
    """Returns a PNG file without its texts and colour profile; others as they are."""
    if not content.startswith(_PNG_SIGNATURE):
        return content
    kept, place = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while place < len(content):
        # Length, name, content, checksum.
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] not in _PNG_TEXTS:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def square(image: Image.Image, crop: int | None, size: int) -> np.ndarray:
    """Returns the middle `crop` x `crop` pixels (None: all that fit), [S, S, 3] uint8.

    Rows and columns begin at floor((side - crop) / 2).
    """
    width, height = image.size
    crop = min(width, height) if crop is None else crop
    left, top = (width - crop) // 2, (height - crop) // 2
    # Cropped first: resized by a box, pixels beyond it would weigh in.
    image = image.crop((left, top, left + crop, top + crop))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.uint8)


def load_all(load: Callable[[int], _T], indices: Iterable[int]) -> Iterator[_T]:
    """Yields `load(index)` in order, some at once: Pillow decodes without the GIL."""
    indices = iter(indices)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(indices, _AT_ONCE)):
            yield from pool.map(load, batch)
