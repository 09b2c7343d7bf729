"""One file of vectors, and the record of what was compared with it."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

FORWARD_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


@dataclasses.dataclass
class Row:
    """A comparison: largest error relative to the largest entry, and its bound."""

    file: str
    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


class Vectors:
    """The arrays of a file; knows which of them were read, and keeps the rows."""

    def __init__(self, path: pathlib.Path):
        self.name = path.stem
        self._file = path.name
        with np.load(path, allow_pickle=False) as arrays:
            self._arrays = {name: arrays[name] for name in arrays.files}
        self._read = set()
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self._read.add(name)
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, prefix: str = "") -> Iterator[str]:
        return (name for name in self._arrays if name.startswith(prefix))

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Read all arrays below a prefix, by the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self.names(prefix)}

    def compare(self, quantity: str, actual, tolerance: float = FORWARD_TOLERANCE):
        """Compare with the array `quantity`."""
        error = relative_error(np.asarray(actual), self[quantity])
        self.add(quantity, error, tolerance)

    def add(self, quantity: str, error: float, tolerance: float):
        self.rows.append(Row(self._file, quantity, float(error), tolerance))

    def note(self, text: str):
        self.notes.append(f"{self._file}: {text}")

    def finish(self):
        """Add a failure for every array that no check has read."""
        for name in sorted(self._arrays.keys() - self._read):
            self.add(f"{name} (left out)", np.inf, 0.0)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest entry of `expected`."""
    if actual.shape != expected.shape:
        return np.inf
    if not expected.size:
        return 0.0
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    largest = np.abs(expected).max()
    if largest == 0:
        return 0.0 if difference == 0 else np.inf
    return difference / largest
