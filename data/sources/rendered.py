"""What datasets that are rendered here share: their options, checked."""

import functools
from collections.abc import Callable, Mapping

from sanorm_jax.core.errors import UserError

from .base import Example, Options, Source


def source(
    options: Options,
    *,
    dataset: str,
    generator: str,
    renderer: int,
    image_size: int,
    splits: Mapping[str, int],
    default: tuple[int, int],
    most: int,
    fields: Callable[[int], Mapping[str, tuple]],
    examples_per_shard: int,
    example: Callable[..., Example],
) -> Source:
    """Return a dataset that is rendered example by example.

    Args:
      options: of the command line.
      dataset: its name.
      generator: module that renders it.
      renderer: another number for another picture: stores of both are not mixed.
      image_size: side of the images in pixels.
      splits: examples by split that the dataset knows.
      default: fewest and most objects where nothing is given.
      most: objects that a scene has room for.
      fields: of a store, by the most objects of a scene.
      examples_per_shard: examples of a shard file.
      example: `example(split, index, settings=...)`.

    Raises:
      UserError: an option out of range.
    """
    found = settings(
        options, dataset=dataset, splits=splits, default=default, most=most
    )
    found |= {"renderer": renderer, "image_size": image_size}
    return Source(
        dataset=dataset,
        source={"generator": generator},
        settings=found,
        fields=fields(found["max_objects"]),
        splits=options.splits or splits,
        examples_per_shard=examples_per_shard,
        example=functools.partial(example, settings=found),
    )


def settings(
    options: Options,
    *,
    dataset: str,
    splits: Mapping[str, int],
    default: tuple[int, int],
    most: int,
) -> dict:
    """Return `seed`, `min_objects`, `max_objects` and, if given, `objects` by split.

    Args:
      options: of the command line.
      dataset: its name.
      splits: examples by split that the dataset knows.
      default: fewest and most objects where nothing is given.
      most: objects that a scene has room for.

    Raises:
      UserError: an option out of range.
    """
    options.refuse(dataset, "source")
    seed = 0 if options.seed is None else options.seed
    if seed < 0:
        raise UserError(f"--seed={seed}: must not be negative")
    for split in options.splits or splits:
        if split not in splits:
            raise UserError(f"--splits={split}: must be of {', '.join(splits)}")
    if options.objects is not None:
        return {"seed": seed} | _ranges(options, options.splits or splits, most)
    given = (options.min_objects, options.max_objects)
    least, largest = (
        d if v is None else v for v, d in zip(given, default, strict=True)
    )
    if not 1 <= least <= largest <= most:
        raise UserError(
            f"--min_objects={least} --max_objects={largest}: must be 1 to {most}, in "
            "this order"
        )
    return {"seed": seed, "min_objects": least, "max_objects": largest}


def limits(settings: Mapping, split: str) -> tuple[int, int]:
    """Return the fewest and most objects of a split's scenes."""
    everywhere = settings["min_objects"], settings["max_objects"]
    return tuple(settings.get("objects", {}).get(split, everywhere))


def _ranges(options: Options, splits: Mapping[str, int], most: int) -> dict:
    """Return the settings of ranges of objects that differ by split."""
    for name in ("min_objects", "max_objects"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: given by --objects too; leave one of them out")
    if options.objects.keys() != splits.keys():
        raise UserError(
            f"--objects: has {', '.join(options.objects)}, needs a range for each of "
            f"{', '.join(splits)}"
        )
    for split, (least, largest) in options.objects.items():
        if not 1 <= least <= largest <= most:
            raise UserError(
                f"--objects={split}:{least}-{largest}: must be 1 to {most}, in this "
                "order"
            )
    return {
        "objects": {split: list(limits) for split, limits in options.objects.items()},
        "min_objects": min(least for least, _ in options.objects.values()),
        "max_objects": max(largest for _, largest in options.objects.values()),
    }
