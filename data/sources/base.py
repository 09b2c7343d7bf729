"""What a dataset has to offer to become a store."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sanorm_jax.core.errors import UserError

Example = dict[str, np.ndarray]


class SourceError(UserError):
    """What a dataset is read from is damaged or something else: one line naming it."""


def read_text(path: pathlib.Path, hint: str) -> str:
    """Return a file's text; SourceError if it is missing (with a hint) or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceError(f"{path}: missing; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: unreadable ({error})") from None


# Options that some datasets alone have.
_OWNERS = {
    "objects": ("shapes", "blocks", "tabletop"),
    "background": ("images",),
    "frames": ("tabletop",),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of `data.prepare`'s command line; None where not given.

    Attributes:
      source: file or folder to read.
      splits: number of examples by split.
      image_size: side of the stored images in pixels.
      min_objects: fewest objects of a scene.
      max_objects: most objects of a scene.
      objects: fewest and most objects of a scene by split, instead of these two.
      seed: of what is made at random.
      background: colour under transparent pixels, as Pillow names it or `#rrggbb`.
      frames: frames of a video, of scenes that are rendered as videos.
      data_dir: folder of the stores; downloads go to `<data_dir>/downloads`.
      dataset: its name, for a module that offers several.
    """

    source: pathlib.Path | None = None
    splits: Mapping[str, int] | None = None
    image_size: int | None = None
    min_objects: int | None = None
    max_objects: int | None = None
    objects: Mapping[str, tuple[int, int]] | None = None
    seed: int | None = None
    background: str | None = None
    frames: int | None = None
    data_dir: pathlib.Path = pathlib.Path("datasets")
    dataset: str | None = None

    def refuse(self, dataset: str, *names: str):
        """Raise `UserError` if an option is given that the dataset does not use."""
        others = [name for name, owners in _OWNERS.items() if dataset not in owners]
        for name in (*names, *others):
            if getattr(self, name) is not None:
                raise UserError(f"--{name}: not used by --dataset={dataset}")


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset to be written to a store.

    Attributes:
      dataset: its name.
      source: what it is read from, for the manifest.
      settings: what else defines its content; has `image_size` and `max_objects`,
        the number of rows of the per-object columns.
      fields: shape and dtype of an example's fields by name.
      splits: number of examples by name.
      examples_per_shard: examples of a shard file.
      begin: Called once before examples are made, where any are missing.
      examples: `examples(split, start)` yields the examples from `start` on, in
        order; None if there is `example`.
      example: `example(split, index)`; picklable, run by many processes.
      file_an_example: a damaged file can be got again by itself, so that finished
        shards are kept.
    """

    dataset: str
    source: Mapping[str, Any]
    settings: Mapping[str, Any]
    fields: Mapping[str, tuple[Sequence[int], str]]
    splits: Mapping[str, int]
    examples_per_shard: int
    begin: Callable[[], None] | None = None
    examples: Callable[[str, int], Iterator[Example]] | None = None
    example: Callable[[str, int], Example] | None = None
    file_an_example: bool = False


def class_fields(size: int, max_objects: int, labels: str) -> dict[str, tuple]:
    """Return the fields of images of `size` pixels whose objects have classes.

    Args:
      size: of the images.
      max_objects: rows of the columns of objects.
      labels: dtype of the label maps.
    """
    return {
        "image": ((size, size, 3), "uint8"),
        "segmentation": ((size, size), labels),
        "num_objects": ((), "int32"),
        "category": ((max_objects,), "int32"),
        "visibility": ((max_objects,), "float32"),
    }


def object_fields(size: int, max_objects: int) -> dict[str, tuple]:
    """Return the fields of images of `size` pixels with CLEVR's properties."""
    M = (max_objects,)
    kinds = {name: (M, "int8") for name in ("shape", "size", "material", "color")}
    return {
        "image": ((size, size, 3), "uint8"),
        "segmentation": ((size, size), "uint8"),
        "num_objects": ((), "int32"),
        **kinds,
        "position": ((*M, 3), "float32"),
        "pixel_coords": ((*M, 3), "float32"),
        "rotation": (M, "float32"),
        "visibility": (M, "float32"),
    }
