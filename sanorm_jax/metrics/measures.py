"""How measures are named for people, and which of them belong side by side."""

from collections.abc import Iterable, Mapping

from sanorm_jax.core.names import ALIASES

# FG-ARI is blind to the background and AP to what is not an object: no kind is shown
# without the others of its group.
_KINDS = {"fg_ari": "FG-ARI", "ari": "ARI", "mbo": "mBO"}
_OTHERS = {"mbo_class": "class mBO", "miou_class": "class mIoU", "miou": "mIoU"}
_OTHERS |= {"mbo_bg": "mBO with background", "covering": "segmentation covering"}
_OTHERS |= {"corloc": "CorLoc", "recovery": "object recovery"}
_OTHERS |= {"ap": "AP", "mse": "MSE", "huber": "Huber loss"}
# Over- and under-segmentation, and how many slots take part.
_COUNTS = {
    "slots_per_object": "slots per object",
    "objects_per_slot": "objects per slot",
    "pair_recall": "pair recall",
    "pair_precision": "pair precision",
    "count_error": "slot count error",
}
COUNTS_TEXT = (
    "Pair recall falls when objects are split among slots, pair precision when slots "
    "hold several objects. The slot count error is the number of slots in use minus "
    "the number of segments present."
)
_OTHERS |= _COUNTS | {"pair_f1": "pair F1", "count_abs_error": "absolute count error"}

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


def variant(name: str) -> str:
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
    found = _by_place(names, _KINDS)
    properties = {label(name): name for name in names if split(name)[0] == "AP"}
    if properties:
        found[PROPERTIES] = properties
    # What the model is for, its masks or properties, comes before its attention.
    first = ("masks", PROPERTIES)
    return dict(sorted(found.items(), key=lambda item: item[0] not in first))


def counts(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the measures of the slot count that a report shows, as `groups` does."""
    found = _by_place(names, _COUNTS)
    return dict(sorted(found.items(), key=lambda item: item[0] != "masks"))


def _by_place(
    names: Iterable[str], kinds: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return the measures of these kinds by place, each place in the order of kinds."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        kind, place = split(name)
        if kind in kinds.values() and "repeated" not in place:
            found.setdefault(place.removesuffix(", refined"), {})[kind] = name
    return {
        place: {kind: of_place[kind] for kind in kinds.values() if kind in of_place}
        for place, of_place in found.items()
    }
