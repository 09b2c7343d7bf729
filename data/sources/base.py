"""Interface of a dataset that can be written to a store."""

import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from sanorm_jax.core.errors import UserError

Example = dict[str, np.ndarray]


class SourceError(UserError):
    """The original data is missing, damaged or of another dataset."""


def read_bytes(
    path: pathlib.Path | zipfile.Path, hint: str = "download it again"
) -> bytes:
    """Return the content of a file, which may be in a zip file.

    Args:
      path: File to read.
      hint: Advice for the error.

    Raises:
      SourceError: The file is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceError(f"{path}: missing; {hint}") from None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{path}: unreadable ({reason}); {hint}") from None


def pad(values: np.ndarray, count: int, fill: float, dtype: str) -> np.ndarray:
    """Return values `[n, ...]` padded to `[count, ...]`."""
    column = np.full((count, *values.shape[1:]), fill, dtype)
    column[: len(values)] = values
    return column


_SCENES = ("shapes", "blocks", "tabletop")
# Options that only some datasets use.
_OWNERS = {
    "min_objects": _SCENES,
    "max_objects": _SCENES,
    "objects": _SCENES,
    "seed": _SCENES,
    "frames": ("tabletop",),
    "background": ("images",),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Command-line options of `data.prepare`; None if unset.

    Attributes:
      splits: Number of examples by split.
      objects: Minimum and maximum number of objects by split. They replace the options
        `min_objects` and `max_objects`.
      data_dir: Folder of the stores; downloads go to `<data_dir>/downloads`.
      dataset: Name of the dataset.
    """

    source: Annotated[pathlib.Path | None, "File or folder to read."] = None
    image_size: Annotated[int | None, "Side of the images in pixels."] = None
    min_objects: Annotated[int | None, "Scenes: minimum number of objects."] = None
    max_objects: Annotated[int | None, "Scenes: maximum number of objects."] = None
    seed: Annotated[int | None, "Scenes: seed."] = None
    frames: Annotated[int | None, "tabletop: frames per video; stills if unset."] = None
    background: Annotated[str | None, "images: background; white if unset."] = None
    splits: Mapping[str, int] | None = None
    objects: Mapping[str, tuple[int, int]] | None = None
    data_dir: pathlib.Path = pathlib.Path("datasets")
    dataset: str = ""

    def reject(self, *names: str):
        """Raise `UserError` if an option is set that the dataset does not use."""
        others = [
            name for name, owners in _OWNERS.items() if self.dataset not in owners
        ]
        for name in (*names, *others):
            if getattr(self, name) is not None:
                raise UserError(
                    f"--{name}: not used by --dataset={self.dataset}; remove it"
                )

    def required_source(self, hint: str) -> pathlib.Path:
        """Return `source`; raise `UserError` that suggests `hint` if it is not set."""
        if self.source is None:
            raise UserError(
                f"--source: required for --dataset={self.dataset}; pass {hint}"
            )
        return self.source

    def check_image_size(self, default: int, low: int, high: int) -> int:
        """Return the side of the images; raise `UserError` if it is out of range."""
        size = default if self.image_size is None else self.image_size
        if not low <= size <= high:
            raise UserError(
                f"--image_size={size}: out of range; choose {low} to {high}"
            )
        return size

    def check_splits(self, sizes: Mapping[str, int | None]):
        """Raise `UserError` if a split does not exist or is too small.

        Args:
          sizes: Number of examples by split; None for no limit.
        """
        for name, count in (self.splits or {}).items():
            if name not in sizes:
                raise UserError(
                    f"--splits={name}: not a split of {self.dataset}; choose from "
                    f"{', '.join(sizes)}"
                )
            limit = sizes[name]
            if limit is not None and count > limit:
                raise UserError(
                    f"--splits={name}:{count}: too many; choose at most {limit}"
                )

    def check_videos(self, num_frames: int):
        """Raise `UserError` unless the splits consist of whole videos."""
        for name, count in (self.splits or {}).items():
            if count % num_frames:
                raise UserError(
                    f"--splits={name}:{count}: videos cannot be split; choose a "
                    f"multiple of their {num_frames} frames"
                )


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset that can be written to a store.

    Attributes:
      source: Description of the original data, for the manifest.
      settings: Settings that define the content. `image_size` and `max_objects`, the
        number of rows of the per-object columns, are required.
      fields: Shape and dtype of each field of an example, by name.
      splits: Number of examples by split.
      examples_per_shard: Number of examples per shard file.
      example: Picklable function `example(split, index)`, called in several processes.
      load: Function `load(split, index)` that returns an example, called in several
        threads.
      examples: Generator function `examples(split, start)` that yields the examples in
        order, starting at `start`. Exactly one of these three functions is set.
      file_an_example: Whether each example has its own source file. A damaged file can
        then be replaced on its own, and finished shards are kept.
      begin: Function that runs once before the first example; None if there is none.
    """

    source: Mapping[str, Any]
    settings: Mapping[str, Any]
    fields: Mapping[str, tuple[Sequence[int], str]]
    splits: Mapping[str, int]
    examples_per_shard: int
    begin: Callable[[], None] | None = None
    example: Callable[[str, int], Example] | None = None
    load: Callable[[str, int], Example] | None = None
    examples: Callable[[str, int], Iterator[Example]] | None = None
    file_an_example: bool = False


def class_fields(size: int, max_objects: int, labels: str) -> dict[str, tuple]:
    """Return the fields of images whose objects have classes.

    Args:
      size: Side of the images in pixels.
      max_objects: Rows of the per-object columns.
      labels: Dtype of the label maps.
    """
    return {
        "image": ((size, size, 3), "uint8"),
        "segmentation": ((size, size), labels),
        "num_objects": ((), "int32"),
        "category": ((max_objects,), "int32"),
        "visibility": ((max_objects,), "float32"),
    }


def object_fields(size: int, max_objects: int) -> dict[str, tuple]:
    """Return the fields of images of side `size` with CLEVR's object properties."""
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
