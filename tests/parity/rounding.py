"""Comparisons that distinguish kinks of ReLUs from errors.

The gradient of a ReLU is discontinuous at its kink, where its input is 0. An input that
is 0 up to rounding can be positive in one correct program and negative in another. The
gradients then differ by the full contribution of the unit. This code also crosses the
kink if weights and inputs change by rounding. A comparison that exceeds its tolerance
is therefore repeated with changed weights and inputs. If one of these runs agrees with
the vectors, the two programs are on different sides of a kink. With an error in the
code, no run agrees.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tests.parity.vectors import Vectors, relative_error, tolerance_of

# Four units in the last place of a float32 near 1: 4.8e-7.
LARGEST_CHANGE = 2.0**-21
SENSITIVITY_RUNS = 4
MAX_RUNS = 64

Arrays = Mapping[str, np.ndarray]


def compare(
    vectors: Vectors,
    quantities: Sequence[str],
    compute: Callable[[Any], Arrays],
    arguments: Any,
    scales: Mapping[str, Any],
) -> Arrays:
    """Compare each computed quantity with the vectors and add a row for it.

    Args:
      vectors: File of vectors.
      quantities: Names of arrays in the file to compare.
      compute: Function of `arguments`; returns arrays by name.
      arguments: Weights and inputs, a pytree of float32 arrays.
      scales: Error scales by name; the largest entry for other names.

    Returns:
      The result of `compute` for the unchanged arguments.
    """
    actual = compute(arguments)
    expected = {name: vectors[name] for name in quantities if name in actual}

    def errors(result: Arrays, target: Arrays) -> dict[str, float]:
        return {
            name: relative_error(
                result[name], target[name], scales.get(name, _largest(expected[name]))
            )
            for name in expected
        }

    own = errors(actual, expected)
    past = [name for name in own if not own[name] <= tolerance_of(name)]
    changes, agrees = [], False
    for number, result in enumerate(_changed_runs(compute, arguments)):
        if number < SENSITIVITY_RUNS:
            changes.append(errors(result, actual))
        found = errors(result, expected)
        # One run has to explain all kinks. Partial matches could be a coincidence.
        agrees = agrees or all(found[name] <= tolerance_of(name) for name in past)
        needs_more = past and not agrees and np.isfinite([own[n] for n in past]).all()
        if number + 1 >= SENSITIVITY_RUNS and not needs_more:
            break
    for name, error in own.items():
        vectors.add(
            name,
            error,
            tolerance_of(name),
            sensitivity=max(change[name] for change in changes),
            at_kink=name in past and agrees,
        )
    return actual


def _changed_runs(compute, arguments) -> Iterator[Arrays]:
    """Compute with arguments that differ by rounding, at most `MAX_RUNS` times."""
    for seed in range(MAX_RUNS):
        rng = np.random.default_rng(seed)

        # Relative changes keep zeros. A unit whose input is exactly 0, such as at image
        # borders, has this input in both programs.
        def change(x, rng=rng):
            factors = 1 + rng.uniform(-LARGEST_CHANGE, LARGEST_CHANGE, np.shape(x))
            return np.asarray(x * factors, np.float32)

        yield compute(jax.tree.map(change, arguments))


def _largest(array: np.ndarray) -> float:
    return np.abs(array).max(initial=0)
