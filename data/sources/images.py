"""A folder of images or video frames as a dataset with one split, `test`."""

import collections
import functools
import pathlib

from absl import logging
from PIL import ImageColor

from sanorm_jax.core.errors import UserError

from . import files
from .base import Example, Options, Source, read_bytes

_PER_SHARD = 64


def _load(
    split: str,
    index: int,
    *,
    paths: list[pathlib.Path],
    size: int,
    background: tuple[int, int, int],
) -> Example:
    path = paths[index]
    content = read_bytes(path, "fix or remove it")
    image = files.decode(content, str(path), background)
    return {"image": files.square(image, None, size)}


def build(options: Options) -> Source:
    """Return the source of the images in and below `--source`, sorted by path.

    Files with a suffix that Pillow supports are read; the others are logged. The
    manifest's `source` records the relative paths in the order of the examples.
    """
    options.reject("splits")
    folder = options.required_source("a folder")
    if not folder.is_dir():
        raise UserError(f"--source={folder}: not a folder; pass a folder of images")
    size = options.check_image_size(224, 16, 4096)
    background = _color(options.background or "white")
    known = files.suffixes()
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = [path for path in found if path.suffix.lower() in known]
    unsupported = collections.Counter(
        path.suffix.lower() or "no suffix"
        for path in found
        if path.suffix.lower() not in known
    )
    listed = ", ".join(f"{count} {name}" for name, count in unsupported.most_common())
    if not paths:
        raise UserError(
            f"--source={folder}: contains no images ({listed or 'no files'}); pass a "
            "folder of files that Pillow supports, such as .png, .jpg or .webp"
        )
    if unsupported:
        logging.warning(
            "skipped %d of %d files that Pillow does not support: %s",
            unsupported.total(),
            len(found),
            listed,
        )
    names = [path.relative_to(folder).as_posix() for path in paths]
    return Source(
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
        load=functools.partial(_load, paths=paths, size=size, background=background),
    )


def _color(name: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise UserError(
            f"--background={name}: not a color; pass one such as white or #808080"
        ) from None
