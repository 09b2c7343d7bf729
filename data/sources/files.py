"""Reads image files: checked, cropped to a square and resized, by several threads."""

import concurrent.futures
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image, ImageOps

from data.sources.base import Example, SourceError

# What `square` does, for the settings of stores.
RESIZE = "bilinear with antialiasing (Pillow)"
_AT_ONCE = 64


def decode(content: bytes, name: str) -> Image.Image:
    """Returns the RGB image of a PNG or JPEG file, upright.

    Args:
      content: of the file.
      name: of the file, for the error.

    Raises:
      SourceError: corrupt, truncated or no image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    # Pillow raises SyntaxError for broken PNG chunks, others for broken headers.
    except (
        OSError,
        SyntaxError,
        ValueError,
        KeyError,
        IndexError,
        Image.DecompressionBombError,
    ):
        raise SourceError(
            f"{name}: corrupt, truncated or no PNG or JPEG image; replace or remove it"
        ) from None


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


def load_all(
    load: Callable[[int], Example], indices: Iterable[int]
) -> Iterator[Example]:
    """Yields `load(index)` in order, some at once: Pillow decodes without the GIL."""
    indices = iter(indices)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(indices, _AT_ONCE)):
            yield from pool.map(load, batch)
