"""A file of vectors and the record of comparisons with it."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

FORWARD_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


@dataclasses.dataclass
class Row:
    """A comparison.

    Attributes:
      file: Name of the file of vectors.
      quantity: Name of the array.
      error: Largest difference, relative to the array's scale.
      tolerance: Maximum error.
      sensitivity: Largest change of the result, relative to the same scale, when inputs
        and weights change by rounding; None if not measured.
      at_kink: Whether the error exceeds its tolerance and rounding explains it (see
        `tests.parity.rounding`).
    """

    file: str
    quantity: str
    error: float
    tolerance: float
    sensitivity: float | None = None
    at_kink: bool = False

    @property
    def passed(self) -> bool:
        return self.at_kink or self.error <= self.tolerance  # false for NaN


class Vectors:
    """The arrays of a file, with a record of those read and of the comparisons."""

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
        """Read all arrays with a prefix; the keys are the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self.names(prefix)}

    def compare(self, quantity: str, actual):
        """Compare with the array `quantity`."""
        expected = self[quantity]
        error = relative_error(np.asarray(actual), expected, np.abs(expected).max())
        self.add(quantity, error, tolerance_of(quantity))

    def add(
        self,
        quantity: str,
        error: float,
        tolerance: float,
        sensitivity: float | None = None,
        at_kink: bool = False,
    ):
        """Add a row with the attributes of `Row`."""
        row = Row(self._file, quantity, float(error), tolerance, sensitivity, at_kink)
        self.rows.append(row)

    def note(self, text: str):
        self.notes.append(f"{self._file}: {text}")

    def finish(self):
        """Add a failure for every array that no check has read."""
        for name in sorted(self._arrays.keys() - self._read):
            self.add(f"{name} (left out)", np.inf, 0.0)


def tolerance_of(quantity: str) -> float:
    """Return the maximum error of a forward result or a gradient."""
    return GRADIENT_TOLERANCE if quantity.startswith("grad") else FORWARD_TOLERANCE


def relative_error(actual: np.ndarray, expected: np.ndarray, scale: float) -> float:
    """Return the largest absolute difference, divided by `scale`."""
    if actual.shape != expected.shape:
        return np.inf
    if not expected.size:
        return 0.0
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    if scale == 0:
        return 0.0 if difference == 0 else np.inf
    return float(difference / scale)
