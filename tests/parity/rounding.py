"""Comparisons that tell a kink from a fault.

The gradient of a ReLU jumps where its input is 0, at its kink. An input within rounding
of 0 can be positive in one correct program and negative in another. Their gradients
then differ by all that the unit contributes. Our code crosses such a kink as well when
weights and inputs change by rounding. A comparison past its tolerance is therefore
repeated with changed weights and inputs. If one of these runs agrees with the vectors,
the vectors are what our code computes on the other side of the kink. With a fault, no
run agrees.
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
    """Add a row for each quantity that is computed.

    Args:
      vectors: File of vectors.
      quantities: Names of arrays in the file to compare.
      compute: Function of `arguments`; returns arrays by name.
      arguments: Weights and inputs, a pytree of float32 arrays.
      scales: Scales of errors by name; the largest entry where a name is absent.

    Returns:
      What `compute` returns for the arguments as they are.
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
        # One run has to explain all: several that explain a part could do so by chance.
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

        # Relative changes, so that a 0 stays: units whose input is exactly 0, as at
        # borders, have it in both programs.
        def change(x, rng=rng):
            factors = 1 + rng.uniform(-LARGEST_CHANGE, LARGEST_CHANGE, np.shape(x))
            return np.asarray(x * factors, np.float32)

        yield compute(jax.tree.map(change, arguments))


def _largest(array: np.ndarray) -> float:
    return np.abs(array).max(initial=0)
