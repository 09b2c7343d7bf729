"""Source of the synthetic datasets, with validated options."""

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
    limit: int,
    fields: Callable[[int], Mapping[str, tuple]],
    examples_per_shard: int,
    example: Callable[..., Example],
) -> Source:
    """Return the source of a dataset that is rendered example by example.

    Args:
      options: Command-line options.
      dataset: Name of the dataset.
      generator: Name of the module that renders it.
      renderer: Version of the renderer. It changes whenever the output does, so that
        stores of different versions are never mixed.
      image_size: Side of the images in pixels.
      splits: Default number of examples by split.
      default: Default minimum and maximum number of objects.
      limit: Maximum number of objects that fit in a scene.
      fields: Function from the maximum number of objects to the fields of the store.
      examples_per_shard: Number of examples per shard file.
      example: Function `example(split, index, settings=...)`.

    Raises:
      UserError: An option is out of range.
    """
    options.reject(dataset, "source")
    options.check_splits(dataset, dict.fromkeys(splits))
    settings = _settings(options, splits, default, limit)
    settings |= {"renderer": renderer, "image_size": image_size}
    return Source(
        dataset=dataset,
        source={"generator": generator},
        settings=settings,
        fields=fields(settings["max_objects"]),
        splits=options.splits or splits,
        examples_per_shard=examples_per_shard,
        example=functools.partial(example, settings=settings),
    )


def _settings(options: Options, splits, default, limit: int) -> dict:
    """Return `seed`, `min_objects`, `max_objects` and, if set, `objects` by split."""
    seed = 0 if options.seed is None else options.seed
    if seed < 0:
        raise UserError(f"--seed={seed}: negative; choose 0 or more")
    if options.objects is not None:
        return {"seed": seed} | _ranges(options, options.splits or splits, limit)
    low = default[0] if options.min_objects is None else options.min_objects
    high = default[1] if options.max_objects is None else options.max_objects
    if not 1 <= low <= high <= limit:
        raise UserError(
            f"--min_objects={low} --max_objects={high}: not an ascending range in "
            f"1 to {limit}; change one of them"
        )
    return {"seed": seed, "min_objects": low, "max_objects": high}


def limits(settings: Mapping, split: str) -> tuple[int, int]:
    """Return the minimum and maximum number of objects per scene of a split."""
    default = settings["min_objects"], settings["max_objects"]
    return tuple(settings.get("objects", {}).get(split, default))


def _ranges(options: Options, splits: Mapping[str, int], limit: int) -> dict:
    """Return the settings for ranges of objects that differ by split."""
    for name in ("min_objects", "max_objects"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: also set by --objects; remove one of the two")
    if options.objects.keys() != splits.keys():
        raise UserError(
            f"--objects: has ranges for {', '.join(options.objects)}; give one for "
            f"each of {', '.join(splits)}"
        )
    for split, (low, high) in options.objects.items():
        if not 1 <= low <= high <= limit:
            raise UserError(
                f"--objects={split}:{low}-{high}: not an ascending range in 1 to "
                f"{limit}; change it"
            )
    return {
        "objects": {split: list(limits) for split, limits in options.objects.items()},
        "min_objects": min(low for low, _ in options.objects.values()),
        "max_objects": max(high for _, high in options.objects.values()),
    }
