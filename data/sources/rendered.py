"""Settings of the synthetic datasets: seed and number of objects."""

from collections.abc import Mapping
from typing import Any

from sanorm_jax.core.errors import UserError

from .base import Options


def settings(
    options: Options,
    splits: Mapping[str, int],
    default: tuple[int, int],
    limit: int,
) -> dict[str, Any]:
    """Return `seed`, `min_objects`, `max_objects` and, if set, `objects` by split.

    Without options, the splits are those of `splits`, and scenes have at least
    `default[0]` and at most `default[1]` objects. No scene can have more than `limit`.

    Raises:
      UserError: An option is out of range.
    """
    options.check_splits(dict.fromkeys(splits))
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


def _ranges(options: Options, splits: Mapping[str, int], limit: int) -> dict[str, Any]:
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


def limits(settings: Mapping[str, Any], split: str) -> tuple[int, int]:
    """Return the minimum and maximum number of objects per scene of a split."""
    default = settings["min_objects"], settings["max_objects"]
    return tuple(settings.get("objects", {}).get(split, default))
