"""The state of an evaluation: a row for each example, whatever brought it here."""

from collections.abc import Mapping

import numpy as np

# What an image without objects has not got.
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
    """Return the mean over examples `[n]`, in float64; NaN if none counts.

    Measures of objects leave out images without objects, which are NaN there;
    elsewhere NaN is a fault, and stays.
    """
    if name.startswith(_OF_OBJECTS):
        values = values[~np.isnan(values)]
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")


def count(columns: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many examples columns `[n, ...]` have, and how many count in mBO.

    Returns:
      `num_examples` and, where objects were compared, `num_with_objects`.
    """
    counts = {"num_examples": len(next(iter(columns.values())))}
    for name, values in columns.items():
        if name.startswith(_OF_OBJECTS):
            return counts | {"num_with_objects": int((~np.isnan(values)).sum())}
    return counts


class Table:
    """Values of metrics for each example, collected over batches.

    Rows are kept under the index of their example and read in its order, so that
    neither batch size nor devices, hosts or the order of batches can change a
    result. An example counted twice is an error, not a weight.
    """

    def __init__(self):
        self._parts: list[dict[str, np.ndarray]] = []
        self._indices: list[np.ndarray] = []
        self._seen: set[int] = set()

    def add(self, index, mask, values: Mapping[str, np.ndarray]):
        """Add the rows of one batch.

        Args:
          index: Integer `[B]`, index of each example.
          mask: bool `[B]`, False for rows that only fill the batch.
          values: A column `[B, ...]` by name, the same names each time.

        Raises:
          ValueError: The batch has an example twice, or one that the table has.
        """
        mask = np.asarray(mask, bool)
        index = np.asarray(index)[mask].astype(np.int64)
        for example in index.tolist():
            if example in self._seen:
                raise ValueError(f"example {example} was counted twice")
            self._seen.add(example)
        self._indices.append(index)
        self._parts.append({k: np.asarray(v)[mask] for k, v in values.items()})

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
