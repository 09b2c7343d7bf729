"""Shapes, dtypes and checksums of a checkpoint's arrays."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from sanorm_jax.core.errors import UserError, list_some

# Shape, dtype and checksum of each array, by path.
Description = dict[str, dict[str, Any]]


def leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the path and the array of each leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _crc32(leaf: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(leaf))


def describe(tree: Any) -> Description:
    """Return shape, dtype and CRC-32 of each leaf, by path."""
    return {
        name: {
            "shape": list(np.shape(leaf)),
            "dtype": str(np.asarray(leaf).dtype),
            "crc32": _crc32(leaf),
        }
        for name, leaf in leaves(tree)
    }


def _params_first(names: Iterable[str]) -> list[str]:
    # Only a few names are shown, and those of the optimizer repeat the parameters.
    return sorted(names, key=lambda name: (name.startswith("opt_state/"), name))


def compare(saved: Description, template: Any, where: str):
    """Raise `UserError` if the model has other parameters than the checkpoint.

    `template` is the tree of the model's arrays or their shapes.
    """
    present = {name: list(np.shape(leaf)) for name, leaf in leaves(template)}
    reasons = []
    if missing := _params_first(present.keys() - saved.keys()):
        reasons.append(f"only the model has {list_some(missing)}")
    if unknown := _params_first(saved.keys() - present.keys()):
        reasons.append(f"only the checkpoint has {list_some(unknown)}")
    differing = [
        f"{name} has shape {saved[name]['shape']}, in the model {present[name]}"
        for name in _params_first(present.keys() & saved.keys())
        if saved[name]["shape"] != present[name]
    ]
    if differing:
        reasons.append(list_some(differing))
    if reasons:
        raise UserError(
            f"{where}: is of another model ({'; '.join(reasons)}); use the config that "
            "it was trained with"
        )


def compare_dtypes(saved: Description, template: Any, where: str):
    """Raise `UserError` if the model has other dtypes than the checkpoint."""
    present = {name: str(leaf.dtype) for name, leaf in leaves(template)}
    differing = [
        f"{name} is {saved[name]['dtype']} instead of {present[name]}"
        for name in _params_first(present)
        if saved[name]["dtype"] != present[name]
    ]
    if differing:
        raise UserError(
            f"{where}: {list_some(differing)}; set JAX_ENABLE_X64 as in the first start"
        )


def damaged(tree: Any, saved: Description) -> list[str]:
    """Return the paths of leaves whose checksum differs from the saved one."""
    return [name for name, leaf in leaves(tree) if _crc32(leaf) != saved[name]["crc32"]]
