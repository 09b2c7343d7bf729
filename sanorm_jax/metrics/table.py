"""Table of metrics with one row per example, independent of batches and hosts."""

from collections.abc import Mapping

import numpy as np

# Prefixes of metrics that are undefined for images without objects.
_OF_OBJECTS = (
    "mbo",
    "miou",
    "covering",
    "pair_",
    "slots_per_object",
    "objects_per_slot",
    "corloc",
    "recovery",
)


def mean(name: str, values: np.ndarray) -> float:
    """Return the float64 mean over examples `[n]`; NaN if there are none.

    Metrics that are undefined for images without objects exclude these images, where
    they are NaN. In other metrics, a NaN is an error and is kept.
    """
    if name.startswith(_OF_OBJECTS):
        values = values[~np.isnan(values)]
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")


def count(columns: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Count examples, and examples with objects, in columns `[n, ...]`.

    Returns:
      `num_examples` and, if a metric depends on objects, `num_with_objects`.
    """
    counts = {"num_examples": len(next(iter(columns.values())))}
    for name, values in columns.items():
        if name.startswith(_OF_OBJECTS):
            return counts | {"num_with_objects": int((~np.isnan(values)).sum())}
    return counts


class Table:
    """Metrics of each example, collected over batches and hosts.

    Rows are sorted by the index of their example. Batch size, devices, hosts and the
    order of batches therefore do not change a result. An example that is added twice is
    an error.
    """

    def __init__(self):
        self._parts: list[dict[str, np.ndarray]] = []
        self._indices: list[np.ndarray] = []
        self._seen: set[int] = set()

    def add(
        self, index: np.ndarray, mask: np.ndarray, values: Mapping[str, np.ndarray]
    ):
        """Add the rows of one batch.

        Args:
          index: Indices of the examples `[B]`, integer.
          mask: Mask `[B]`, bool, False for padding.
          values: Columns `[B, ...]` by name, with the same names in each call.

        Raises:
          ValueError: The batch has an example twice, or one that the table has.
        """
        index = index[mask].astype(np.int64)
        for example in index.tolist():
            if example in self._seen:
                raise ValueError(f"example {example} was counted twice")
            self._seen.add(example)
        self._indices.append(index)
        self._parts.append({k: v[mask] for k, v in values.items()})

    @property
    def index(self) -> np.ndarray:
        """Indices of the examples, int64, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self._indices]))

    def columns(self) -> dict[str, np.ndarray]:
        """Return every column `[n, ...]`, in the order of the examples."""
        if not self._parts:
            return {}
        order = np.argsort(np.concatenate(self._indices))
        return {
            name: np.concatenate([part[name] for part in self._parts])[order]
            for name in self._parts[0]
        }
