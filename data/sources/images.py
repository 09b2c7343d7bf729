"""Any folder of images, or of frames of a video, as a dataset of one split, `test`."""

import collections
import functools
import pathlib
from collections.abc import Iterator

from absl import logging
from PIL import ImageColor

from sanorm_jax.core.errors import UserError

from . import files
from .base import Example, Options, Source

_PER_SHARD = 64


def _examples(
    split: str,
    start: int,
    *,
    folder: pathlib.Path,
    names: list[str],
    size: int,
    background: tuple[int, int, int],
) -> Iterator[Example]:
    def load(index):
        path = folder / names[index]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: unreadable ({error.strerror})") from None
        image = files.decode(content, str(path), background)
        return {"image": files.square(image, None, size)}

    return files.load_all(load, range(start, len(names)))


def build(options: Options) -> Source:
    """Return the source of the images in and below `--source`, sorted.

    Files that Pillow reads count, by their suffix; what is left out is logged. The
    manifest's `source` has their paths relative to the folder, in the order of the
    examples.

    Raises:
      UserError: an option out of range, or a folder without images.
    """
    options.refuse("images", "splits", "min_objects", "max_objects", "seed")
    folder = options.source
    if folder is None:
        raise UserError("--source: must be given for --dataset=images, a folder")
    if not folder.is_dir():
        raise UserError(f"--source={folder}: is no folder")
    size = 224 if options.image_size is None else options.image_size
    if not 16 <= size <= 4096:
        raise UserError(f"--image_size={size}: must be 16 to 4096")
    background = _color(options.background or "white")
    known = files.suffixes()
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = [path for path in found if path.suffix.lower() in known]
    left_out = collections.Counter(
        path.suffix.lower() or "no suffix"
        for path in found
        if path.suffix.lower() not in known
    )
    said = ", ".join(f"{count} {suffix}" for suffix, count in left_out.most_common())
    if not paths:
        raise UserError(
            f"--source={folder}: has no images that Pillow reads, such as .png, .jpg "
            f"or .webp ({said or 'no files at all'})"
        )
    if left_out:
        logging.warning(
            "left out %d of %d files, which are no images that Pillow reads: %s",
            left_out.total(),
            len(found),
            said,
        )
    names = [path.relative_to(folder).as_posix() for path in paths]
    return Source(
        dataset="images",
        source={"files": names, "bytes": [path.stat().st_size for path in paths]},
        settings={
            "image_size": size,
            "max_objects": 0,
            "crop": "the middle square",
            "resize": files.RESIZE,
            "depth": files.DEPTH,
            "transparency": f"over #{bytes(background).hex()}",
        },
        fields={"image": ((size, size, 3), "uint8")},
        splits={"test": len(names)},
        examples_per_shard=_PER_SHARD,
        examples=functools.partial(
            _examples, folder=folder, names=names, size=size, background=background
        ),
    )


def _color(name: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise UserError(
            f"--background={name}: must be a colour, such as white or #808080"
        ) from None
