"""How measures are named for people, and which of them belong side by side."""

from collections.abc import Iterable, Mapping

from sanorm_jax.core.names import ALIASES

# FG-ARI is blind to the background and AP to what is not an object: no kind is shown
# without the others of its group.
_KINDS = {"fg_ari": "FG-ARI", "ari": "ARI", "mbo": "mBO"}
_OTHERS = {"mbo_class": "class mBO", "miou_class": "class mIoU", "miou": "mIoU"}
_OTHERS |= {"ap": "AP", "mse": "MSE", "huber": "Huber loss"}

# Where average precision is measured: the place of its group.
PROPERTIES = "properties"


def split(measure: str) -> tuple[str, str]:
    """Return kind and place: `fg_ari_masks_refined` as FG-ARI, "masks, refined"."""
    named = _KINDS | _OTHERS
    for kind in sorted(named, key=len, reverse=True):
        if measure == kind or measure.startswith(f"{kind}_"):
            words = measure[len(kind) + 1 :].split("_")
            return named[kind], ", ".join(filter(None, words))
    first, *words = measure.split("_")
    return first, ", ".join(words)


def label(measure: str) -> str:
    """Return how a measure's name is written: `fg_ari_masks` as FG-ARI (masks)."""
    kind, place = split(measure)
    if kind == "AP":
        place = {"inf": "no distance limit"}.get(place, f"distance {place}")
    return f"{kind} ({place})" if place else kind


def normalization(name: str) -> str:
    """Return how a normalization is written: `batch_norm` as batch norm."""
    if name == "none":
        return "no normalization"
    return ALIASES.get(name, name).replace("_", " ")


def brief(values: Mapping[str, float]) -> str:
    """Return the measures that tell most, in one line: those of the first group."""
    for place, kinds in groups(values).items():
        shown = (f"{kind} {values[name]:.3f}" for kind, name in kinds.items())
        return f"{place}: {', '.join(shown)}"
    numbers = {n: value for n, value in values.items() if isinstance(value, float)}
    return ", ".join(f"{label(name)} {value:.4g}" for name, value in numbers.items())


def groups(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the measures that a report shows, those of one place together.

    Of segmentations FG-ARI, ARI and mBO, of maps enlarged bilinearly if there are
    others; of property prediction all AP. The rest stays in the CSV file.

    Args:
      names: of all measures there are.

    Returns:
      measure by kind, by place: `{"masks": {"FG-ARI": "fg_ari_masks_refined", ...}}`.
    """
    names = list(names)
    found: dict[str, dict[str, str]] = {}
    for name in names:
        kind, place = split(name)
        if kind == "AP":
            found.setdefault(PROPERTIES, {})[label(name)] = name
        elif kind in _KINDS.values() and "repeated" not in place:
            found.setdefault(place.removesuffix(", refined"), {})[kind] = name
    for place, kinds in found.items():
        if place != PROPERTIES:
            found[place] = {k: kinds[k] for k in _KINDS.values() if k in kinds}
    # What the model is for, its masks or properties, comes before its attention.
    first = ("masks", PROPERTIES)
    return dict(sorted(found.items(), key=lambda item: item[0] not in first))
