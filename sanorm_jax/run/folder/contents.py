"""What a checkpoint says of its arrays, and whether a model has the same."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from sanorm_jax.core.errors import UserError


def leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield path and array of each leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Return shape, dtype and CRC-32 of every leaf, by its path."""
    return {
        name: {
            "shape": list(np.shape(leaf)),
            "dtype": str(np.asarray(leaf).dtype),
            "crc32": zlib.crc32(np.ascontiguousarray(leaf)),
        }
        for name, leaf in leaves(tree)
    }


def _params_first(names: Iterable[str]) -> list[str]:
    # What the optimizer keeps of a parameter differs with it; only few are shown.
    return sorted(names, key=lambda name: (name.startswith("opt_state/"), name))


def list_some(names: list[str], most: int = 4) -> str:
    """Return the first names and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def compare(saved: dict[str, dict[str, Any]], template: Any, where: str):
    """Raise `UserError` naming the parameters in which a model differs.

    Args:
      saved: shapes by path, as `describe` gives them.
      template: tree of arrays or shapes that the present model has.
      where: the file or folder that `saved` comes from.
    """
    present = {name: list(np.shape(leaf)) for name, leaf in leaves(template)}
    reasons = []
    if absent := _params_first(present.keys() - saved.keys()):
        reasons.append(f"it lacks {list_some(absent)}")
    if extra := _params_first(saved.keys() - present.keys()):
        reasons.append(f"the model has no {list_some(extra)}")
    other = [
        f"{name} {saved[name]['shape']} there, {present[name]} in the model"
        for name in _params_first(present.keys() & saved.keys())
        if saved[name]["shape"] != present[name]
    ]
    if other:
        reasons.append(list_some(other))
    if reasons:
        raise UserError(
            f"{where} is of another model: {'; '.join(reasons)}; set the config it "
            "was trained with"
        )


def compare_dtypes(saved: dict[str, dict[str, Any]], template: Any, where: str):
    """Raise `UserError` naming the parameters whose dtype a process differs in.

    Args:
      saved: Dtypes by path, as `describe` gives them.
      template: Tree of arrays as this process makes them.
      where: The folder that `saved` comes from.
    """
    present = {name: str(leaf.dtype) for name, leaf in leaves(template)}
    other = [
        f"{name} is {saved[name]['dtype']} instead of {present[name]}"
        for name in _params_first(present)
        if saved[name]["dtype"] != present[name]
    ]
    if other:
        raise UserError(
            f"{where}: {list_some(other)}; set JAX_ENABLE_X64 as it was when the run "
            "began"
        )


def damaged(tree: Any, saved: dict[str, dict[str, Any]]) -> list[str]:
    """Return the paths of leaves whose bits are not those that `saved` describes."""
    return [
        name
        for name, leaf in leaves(tree)
        if zlib.crc32(np.ascontiguousarray(leaf)) != saved[name]["crc32"]
    ]
