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
    """Metrics of each example, which can be merged over batches and hosts.

    Rows are sorted by the index of their example. Batch size, devices, hosts and the
    order of merging therefore do not change a result. An example that is added twice is
    an error.
    """

    def __init__(self):
        self._parts: list[dict[str, np.ndarray]] = []
        self._indices: list[np.ndarray] = []
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, index, mask, values: Mapping[str, np.ndarray]) -> None:
        """Add the rows of one batch.

        Args:
          index: Indices of the examples `[B]`, integer.
          mask: Mask `[B]`, bool, False for padding.
          values: Columns `[B, ...]` by name, with the same names in each call.

        Raises:
          ValueError: An example is already in the table, the columns differ from
            earlier ones, or a column has the wrong length or shape.
        """
        mask = np.asarray(mask, bool)
        index = np.asarray(index)
        if mask.ndim != 1 or index.shape != mask.shape:
            raise ValueError(f"index {index.shape} and mask {mask.shape} are not [B]")
        part = {}
        for name, value in values.items():
            value = np.asarray(value)
            if value.shape[:1] != mask.shape:
                raise ValueError(f"column {name}: {value.shape}, not {len(mask)} rows")
            part[name] = value[mask]
        self._append(index[mask].astype(np.int64), part)

    def merge(self, other: "Table") -> "Table":
        """Return a table with the rows of both; raise `ValueError` like `add`."""
        merged = Table()
        for table in (self, other):
            for index, part in zip(table._indices, table._parts, strict=True):
                merged._append(index, part)
        return merged

    def _append(self, index, part):
        if not len(index):
            return
        new = set(index.tolist())
        if len(new) < len(index) or not self._seen.isdisjoint(new):
            known, count = np.unique(index, return_counts=True)
            twice = set(known[count > 1].tolist()) | (self._seen & new)
            raise ValueError(f"example {min(twice)} was counted twice")
        if self._parts:
            shapes = {k: v.shape[1:] for k, v in part.items()}
            expected = {k: v.shape[1:] for k, v in self._parts[0].items()}
            if shapes != expected:
                raise ValueError(f"columns {shapes} do not fit {expected}")
        self._seen |= new
        self._indices.append(index)
        self._parts.append(part)

    @property
    def index(self) -> np.ndarray:
        """Indices of the examples, int64, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self._indices]))

    def columns(self) -> dict[str, np.ndarray]:
        """Return every column `[len(table), ...]`, in the order of the examples."""
        if not self._parts:
            return {}
        order = np.argsort(np.concatenate(self._indices))
        return {
            name: np.concatenate([part[name] for part in self._parts])[order]
            for name in self._parts[0]
        }

    def compute(self) -> dict[str, float]:
        """Return the `mean` over examples of each one-dimensional column.

        Columns with more dimensions, such as predictions for average precision, are
        omitted. An empty table has no means.
        """
        return {
            name: mean(name, values)
            for name, values in self.columns().items()
            if values.ndim == 1
        }

    def by(self, name: str) -> dict[int, dict[str, np.ndarray]]:
        """Group the rows by a column, such as the number of objects.

        Args:
          name: Name of the column.

        Returns:
          The columns of each group by the group's value, in ascending order.

        Raises:
          KeyError: The column does not exist.
        """
        columns = self.columns()
        if name not in columns:
            raise KeyError(f"no column {name!r}; there are {list(columns)}")
        group = columns[name]
        return {
            int(value): {key: column[group == value] for key, column in columns.items()}
            for value in np.unique(group).tolist()
        }
