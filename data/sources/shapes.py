"""The synthetic scenes of `data.shapes` as a dataset."""

import functools

from .. import shapes
from . import rendered
from .base import Example, Options, Source, object_fields

_PER_SHARD = 64
_MAX_OBJECTS = 10


def _example_at(split: str, index: int, *, settings: dict) -> Example:
    return shapes.render(
        settings["seed"],
        split,
        index,
        settings["image_size"],
        *rendered.limits(settings, split),
        num_rows=settings["max_objects"],
    )


def build(options: Options) -> Source:
    """Return the source of rendered scenes.

    Raises:
      UserError: An option is out of range.
    """
    image_size = options.check_image_size(128, 16, 1024)
    return rendered.source(
        options,
        dataset="shapes",
        generator="data.shapes",
        renderer=3,
        image_size=image_size,
        splits=shapes.SPLITS,
        default=(1, _MAX_OBJECTS),
        limit=_MAX_OBJECTS,
        fields=functools.partial(object_fields, image_size),
        examples_per_shard=_PER_SHARD,
        example=_example_at,
    )
