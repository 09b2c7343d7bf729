"""Any folder of images, or of frames of a video, as a dataset of one split, `test`."""

import functools
import pathlib
from collections.abc import Iterator

from data.sources import files
from data.sources.base import Example, Options, Source
from data.store import StoreError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_PER_SHARD = 64


def _examples(
    split: str, start: int, *, folder: pathlib.Path, names: list[str], size: int
) -> Iterator[Example]:
    def load(index):
        path = folder / names[index]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: unreadable ({error.strerror})") from None
        image = files.decode(content, str(path))
        return {"image": files.square(image, None, size)}

    return files.load_all(load, range(start, len(names)))


def build(options: Options) -> Source:
    """Returns the source of the PNG and JPEG files in and below `--source`, sorted.

    The manifest's `source` has their paths relative to the folder, in the order of the
    examples.

    Raises:
      StoreError: an option out of range, or a folder without images.
    """
    options.refuse("images", "splits", "min_objects", "max_objects", "seed")
    folder = options.source
    if folder is None:
        raise StoreError("--source: must be given for --dataset=images, a folder")
    if not folder.is_dir():
        raise StoreError(f"--source={folder}: is no folder")
    size = 224 if options.image_size is None else options.image_size
    if not 16 <= size <= 4096:
        raise StoreError(f"--image_size={size}: must be 16 to 4096")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    if not paths:
        raise StoreError(f"--source={folder}: has no {', '.join(_SUFFIXES)} files")
    names = [path.relative_to(folder).as_posix() for path in paths]
    return Source(
        dataset="images",
        source={"files": names, "bytes": [path.stat().st_size for path in paths]},
        settings={
            "image_size": size,
            "max_objects": 0,
            "crop": "the middle square",
            "resize": files.RESIZE,
        },
        fields={"image": ((size, size, 3), "uint8")},
        splits={"test": len(names)},
        examples_per_shard=_PER_SHARD,
        examples=functools.partial(_examples, folder=folder, names=names, size=size),
    )
