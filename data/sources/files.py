"""Image files: validation, square crop and resizing, in several threads."""

import concurrent.futures
import functools
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from .base import SourceError

# Descriptions of `square` and `decode` for the settings of stores.
RESIZE = "bilinear with antialiasing (Pillow)"
DEPTH = "8 bits; 16 bits scaled from 0 to 65535"
WHITE = (255, 255, 255)
_AT_ONCE = 64
_T = TypeVar("_T")

# Pillow calls an external program for EPS and has no decoder for the others.
_NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}


@functools.cache
def formats() -> frozenset[str]:
    """Return the names of the supported formats."""
    Image.init()
    return frozenset(Image.OPEN) - _NOT_READ


def suffixes() -> set[str]:
    """Return the suffixes of the supported formats, in lower case."""
    known = formats()
    return {s for s, name in Image.registered_extensions().items() if name in known}


def decode(
    content: bytes,
    name: str,
    background: tuple[int, int, int] = WHITE,
    upright: bool = True,
) -> Image.Image:
    """Return the first frame of an image file as 8-bit RGB.

    Args:
      content: Bytes of the file.
      name: Name of the file for error messages.
      background: Color behind transparent pixels.
      upright: Whether to apply the EXIF orientation.

    Raises:
      SourceError: The file is corrupt, truncated, not an image, too large, or of an
        unsupported format.
    """
    try:
        return _decode(content, name, background, upright)
    except SourceError:
        raise
    except Image.DecompressionBombError as error:
        raise SourceError(
            f"{name}: too large ({' '.join(str(error).split())[:120]}); shrink or "
            "remove it"
        ) from None
    except Image.UnidentifiedImageError:
        raise SourceError(
            f"{name}: corrupt, truncated or not an image; replace or remove it"
        ) from None
    # Pillow raises SyntaxError for broken PNG chunks and the others for broken headers.
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError) as error:
        raise SourceError(
            f"{name}: corrupt, truncated or not supported by Pillow "
            f"({' '.join(str(error).split())[:120]}); replace or remove it"
        ) from None


def _decode(content, name, background, upright) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=tuple(formats())) as image:
        image.load()
        image = ImageOps.exif_transpose(image) if upright else image.copy()
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    elif image.mode in ("I", "F"):
        raise SourceError(
            f"{name}: 32-bit values have no known range; convert it to a PNG of 8 or "
            "16 bits, or remove it"
        )
    # An alpha channel or a transparent color.
    if {"A", "a"} & {*image.getbands()} or "transparency" in image.info:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(under, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit gray values scaled to 8 bits; Pillow's conversion clips them."""
    values = np.asarray(image)
    gray = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if "transparency" in image.info:
        opaque = values != image.info["transparency"]
        gray.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return gray


def square(image: Image.Image, crop: int | None, size: int) -> np.ndarray:
    """Return the resized center crop, `[size, size, 3]` uint8.

    Args:
      image: RGB image.
      crop: Side of the crop in pixels; that of the largest square if None. The crop
        begins at floor((side - crop) / 2).
      size: Side of the result in pixels.
    """
    width, height = image.size
    crop = min(width, height) if crop is None else crop
    left, top = (width - crop) // 2, (height - crop) // 2
    # Crop first: `resize(box=...)` would filter in pixels outside the box.
    image = image.crop((left, top, left + crop, top + crop))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.uint8)


def load_all(load: Callable[[Any], _T], items: Iterable[Any]) -> Iterator[_T]:
    """Yield `load(item)` in order, from threads: Pillow decodes without the GIL."""
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(items, _AT_ONCE)):
            yield from pool.map(load, batch)
