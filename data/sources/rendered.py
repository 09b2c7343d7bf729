"""What datasets that are rendered here share: their options, checked."""

from collections.abc import Mapping

from data.sources.base import Options
from data.store import StoreError


def settings(
    options: Options,
    *,
    dataset: str,
    splits: Mapping[str, int],
    default: tuple[int, int],
    most: int,
) -> dict:
    """Returns `seed`, `min_objects`, `max_objects` and, if given, `objects` by split.

    Args:
      options: of the command line.
      dataset: its name.
      splits: examples by split that the dataset knows.
      default: fewest and most objects where nothing is given.
      most: objects that a scene has room for.

    Raises:
      StoreError: an option out of range.
    """
    options.refuse(dataset, "source")
    seed = 0 if options.seed is None else options.seed
    if seed < 0:
        raise StoreError(f"--seed={seed}: must not be negative")
    for split in options.splits or splits:
        if split not in splits:
            raise StoreError(f"--splits={split}: must be of {', '.join(splits)}")
    if options.objects is not None:
        return {"seed": seed} | _ranges(options, options.splits or splits, most)
    given = (options.min_objects, options.max_objects)
    least, largest = (
        d if v is None else v for v, d in zip(given, default, strict=True)
    )
    if not 1 <= least <= largest <= most:
        raise StoreError(
            f"--min_objects={least} --max_objects={largest}: must be 1 to {most}, in "
            "this order"
        )
    return {"seed": seed, "min_objects": least, "max_objects": largest}


def limits(settings: Mapping, split: str) -> tuple[int, int]:
    """Returns the fewest and most objects of a split's scenes."""
    everywhere = settings["min_objects"], settings["max_objects"]
    return tuple(settings.get("objects", {}).get(split, everywhere))


def _ranges(options: Options, splits: Mapping[str, int], most: int) -> dict:
    """Returns the settings of ranges of objects that differ by split."""
    for name in ("min_objects", "max_objects"):
        if getattr(options, name) is not None:
            raise StoreError(f"--{name}: given by --objects too; leave one of them out")
    if options.objects.keys() != splits.keys():
        raise StoreError(
            f"--objects: has {', '.join(options.objects)}, needs a range for each of "
            f"{', '.join(splits)}"
        )
    for split, (least, largest) in options.objects.items():
        if not 1 <= least <= largest <= most:
            raise StoreError(
                f"--objects={split}:{least}-{largest}: must be 1 to {most}, in this "
                "order"
            )
    return {
        "objects": {split: list(limits) for split, limits in options.objects.items()},
        "min_objects": min(least for least, _ in options.objects.values()),
        "max_objects": max(largest for _, largest in options.objects.values()),
    }
