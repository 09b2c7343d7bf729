"""Validated options of the synthetic datasets."""

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
    """Return the source of a dataset that is rendered example by example.

    Args:
      options: Command-line options.
      dataset: Name of the dataset.
      generator: Name of the module that renders it.
      renderer: Version of the renderer, changed with its output, so that stores of
        different versions are never mixed.
      image_size: Side of the images in pixels.
      splits: Default number of examples by split.
      default: Default minimum and maximum number of objects.
      most: Maximum number of objects that fit in a scene.
      fields: Function from the maximum number of objects to the fields of the store.
      examples_per_shard: Number of examples per shard file.
      example: Function `example(split, index, settings=...)`.

    Raises:
      UserError: An option is out of range.
    """
    options.refuse(dataset, "source")
    found = _settings(options, splits, default, most)
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


def _settings(options: Options, splits, default, most: int) -> dict:
    """Return `seed`, `min_objects`, `max_objects` and, if given, `objects` by split."""
    seed = 0 if options.seed is None else options.seed
    if seed < 0:
        raise UserError(f"--seed={seed}: negative; choose 0 or more")
    for split in options.splits or splits:
        if split not in splits:
            raise UserError(
                f"--splits={split}: unknown; choose from {', '.join(splits)}"
            )
    if options.objects is not None:
        return {"seed": seed} | _ranges(options, options.splits or splits, most)
    given = (options.min_objects, options.max_objects)
    least, largest = (
        d if v is None else v for v, d in zip(given, default, strict=True)
    )
    if not 1 <= least <= largest <= most:
        raise UserError(
            f"--min_objects={least} --max_objects={largest}: not an ascending range in "
            f"1 to {most}; change one of them"
        )
    return {"seed": seed, "min_objects": least, "max_objects": largest}


def limits(settings: Mapping, split: str) -> tuple[int, int]:
    """Return the minimum and maximum number of objects per scene of a split."""
    everywhere = settings["min_objects"], settings["max_objects"]
    return tuple(settings.get("objects", {}).get(split, everywhere))


def _ranges(options: Options, splits: Mapping[str, int], most: int) -> dict:
    """Return the settings for ranges of objects that differ by split."""
    for name in ("min_objects", "max_objects"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: also set by --objects; remove one of the two")
    if options.objects.keys() != splits.keys():
        raise UserError(
            f"--objects: has ranges for {', '.join(options.objects)}; give one for "
            f"each of {', '.join(splits)}"
        )
    for split, (least, largest) in options.objects.items():
        if not 1 <= least <= largest <= most:
            raise UserError(
                f"--objects={split}:{least}-{largest}: not an ascending range in 1 to "
                f"{most}; change it"
            )
    return {
        "objects": {split: list(limits) for split, limits in options.objects.items()},
        "min_objects": min(least for least, _ in options.objects.values()),
        "max_objects": max(largest for _, largest in options.objects.values()),
    }
