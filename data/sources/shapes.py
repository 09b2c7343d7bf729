"""The embedded scenes as a dataset: see `data.shapes`, which renders them."""

import functools

from data import shapes
from data.sources.base import Example, Options, Source, object_fields
from data.store import StoreError

_PER_SHARD = 64


def _example_at(split: str, index: int, *, settings: dict) -> Example:
    limits = settings["min_objects"], settings["max_objects"]
    return shapes.render(
        *(settings["seed"], split, index, settings["image_size"]),
        *settings.get("objects", {}).get(split, limits),
        num_rows=settings["max_objects"],
    )


def build(options: Options) -> Source:
    """Returns the source of rendered scenes.

    Raises:
      StoreError: an option out of range.
    """
    options.refuse("shapes", "source")
    settings = {
        # Another number for another picture: stores of both are not mixed.
        "renderer": 3,
        "seed": 0 if options.seed is None else options.seed,
        "image_size": options.image_size or 128,
        "min_objects": 1 if options.min_objects is None else options.min_objects,
        "max_objects": 10 if options.max_objects is None else options.max_objects,
    }
    if not 16 <= settings["image_size"] <= 1024:
        raise StoreError(f"--image_size={settings['image_size']}: must be 16 to 1024")
    if settings["seed"] < 0:
        raise StoreError(f"--seed={settings['seed']}: must not be negative")
    for split in options.splits or shapes.SPLITS:
        if split not in shapes.SPLITS:
            raise StoreError(f"--splits={split}: must be of {', '.join(shapes.SPLITS)}")
    if not 1 <= settings["min_objects"] <= settings["max_objects"] <= 10:
        raise StoreError(
            f"--min_objects={settings['min_objects']} "
            f"--max_objects={settings['max_objects']}: must be 1 to 10, in this order"
        )
    if options.objects is not None:
        settings |= _object_ranges(options)
    return Source(
        dataset="shapes",
        source={"generator": "data.shapes"},
        settings=settings,
        fields=object_fields(settings["image_size"], settings["max_objects"]),
        splits=options.splits or shapes.SPLITS,
        examples_per_shard=_PER_SHARD,
        example=functools.partial(_example_at, settings=settings),
    )


def _object_ranges(options: Options) -> dict:
    """Returns the settings of ranges of objects that differ by split."""
    splits = options.splits or shapes.SPLITS
    for name in ("min_objects", "max_objects"):
        if getattr(options, name) is not None:
            raise StoreError(f"--{name}: given by --objects too; leave one of them out")
    if options.objects.keys() != splits.keys():
        raise StoreError(
            f"--objects: has {', '.join(options.objects)}, needs a range for each of "
            f"{', '.join(splits)}"
        )
    for split, (least, most) in options.objects.items():
        if not 1 <= least <= most <= 10:
            raise StoreError(
                f"--objects={split}:{least}-{most}: must be 1 to 10, in this order"
            )
    return {
        "objects": {split: list(limits) for split, limits in options.objects.items()},
        "min_objects": min(least for least, _ in options.objects.values()),
        "max_objects": max(most for _, most in options.objects.values()),
    }
