"""Names of measures in reports, and the groups in which reports show them."""

from collections.abc import Iterable, Mapping

from sanorm_jax.core.names import ALIASES

# FG-ARI ignores the background. Reports therefore always show it with the others.
_KINDS = {"fg_ari": "FG-ARI", "ari": "ARI", "mbo": "mBO"}
_OTHERS = {"mbo_class": "class mBO", "miou_class": "class mIoU", "miou": "mIoU"}
_OTHERS |= {"mbo_bg": "mBO with background", "covering": "segmentation covering"}
_OTHERS |= {"corloc": "CorLoc", "recovery": "object recovery"}
_OTHERS |= {"ap": "AP", "mse": "MSE", "huber": "Huber loss"}
# Over- and under-segmentation, and the number of slots in use.
_COUNTS = {
    "slots_per_object": "slots per object",
    "objects_per_slot": "objects per slot",
    "pair_recall": "pair recall",
    "pair_precision": "pair precision",
    "count_error": "slot count error",
}
COUNTS_TEXT = (
    "Pair recall falls when slots split objects, pair precision when slots contain "
    "several objects. The slot count error is the number of slots in use minus the "
    "number of true segments."
)
_OTHERS |= _COUNTS | {"pair_f1": "pair F1", "count_abs_error": "absolute count error"}

# Interpolations from tokens to pixels, see `segmentation.UPSCALE_METHODS`.
_INTERPOLATIONS = {"refined": "bilinear", "repeated": "nearest"}
# Name of the group of average precision.
PROPERTIES = "properties"


def split(measure: str) -> tuple[str, str]:
    """Split `fg_ari_masks_refined` into the metric FG-ARI and "masks, bilinear"."""
    named = _KINDS | _OTHERS
    for kind in sorted(named, key=len, reverse=True):
        if measure == kind or measure.startswith(f"{kind}_"):
            words = measure[len(kind) + 1 :].split("_")
            words = [_INTERPOLATIONS.get(word, word) for word in words if word]
            return named[kind], ", ".join(words)
    first, *words = measure.split("_")
    return first, ", ".join(words)


def label(measure: str) -> str:
    """Return a measure's name in reports, such as FG-ARI (masks) for `fg_ari_masks`."""
    kind, group = split(measure)
    if kind == "AP":
        group = {"inf": "no distance limit"}.get(group, f"distance {group}")
    return f"{kind} ({group})" if group else kind


def variant(name: str) -> str:
    """Return a variant's name in reports, such as batch norm for `batch_norm`."""
    if name == "none":
        return "no normalization"
    return ALIASES.get(name, name).replace("_", " ")


def brief(values: Mapping[str, float]) -> str:
    """Return the main measures, those of the first group, in one line."""
    for group, kinds in groups(values).items():
        shown = (f"{kind} {values[name]:.3f}" for kind, name in kinds.items())
        return f"{group}: {', '.join(shown)}"
    numbers = {n: value for n, value in values.items() if isinstance(value, float)}
    return ", ".join(f"{label(name)} {value:.4g}" for name, value in numbers.items())


def groups(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the measures that a report shows, grouped by what they compare.

    These are FG-ARI, ARI and mBO of segmentations (bilinear interpolation only), and
    all average precisions. The CSV file contains all measures.

    Returns:
      Names of the measures by group and metric, such as
      `{"masks": {"FG-ARI": "fg_ari_masks_refined", ...}}`.
    """
    names = list(names)
    found = _by_group(names, _KINDS)
    properties = {label(name): name for name in names if split(name)[0] == "AP"}
    if properties:
        found[PROPERTIES] = properties
    # The outputs of the model, masks or properties, come before its attention.
    first = ("masks", PROPERTIES)
    return dict(sorted(found.items(), key=lambda item: item[0] not in first))


def counts(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the measures of the slot count that a report shows, see `groups`."""
    found = _by_group(names, _COUNTS)
    return dict(sorted(found.items(), key=lambda item: item[0] != "masks"))


def _by_group(
    names: Iterable[str], kinds: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return the names of the given metrics by group, each group in their order."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        kind, group = split(name)
        if kind in kinds.values() and "nearest" not in group:
            found.setdefault(group.removesuffix(", bilinear"), {})[kind] = name
    return {
        group: {kind: of_group[kind] for kind in kinds.values() if kind in of_group}
        for group, of_group in found.items()
    }
