"""Weights from files, read without executing code in the files."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from absl import logging

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError, list_some

Tensors = Mapping[str, torch.Tensor]
# Keys under which training programs save the model's state, in order of precedence.
_STATE_NAMES = (
    *("model", "model_state_dict", "state_dict", "model_state", "network", "net"),
    *("teacher", "module", "weights", "params"),
)
# Prefixes of data parallelism and compilation.
_PREFIXES = ("module.", "_orig_mod.")


def sha256(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
      UserError: The file is unreadable.
    """
    try:
        return files.sha256(path)
    except OSError as error:
        raise UserError(
            f"{path}: unreadable ({error.strerror}); check the path"
        ) from None


def load(path: pathlib.Path) -> Any:
    """Return the content of a torch or safetensors file, on the CPU.

    Raises:
      UserError: The file is unreadable or damaged, or contains objects that only
        unpickling can create.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"{path}: unreadable ({first_line(error)}); check the path"
        ) from None
    except Exception as error:  # PyTorch and safetensors raise various types.
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise UserError(
                f"{path}: contains objects that need unpickling, which could run any "
                "code; save the state dict alone"
            ) from None
        raise UserError(
            f"{path}: damaged or not a weights file ({first_line(error)}); download or "
            "save it again"
        ) from None


def save(target: pathlib.Path, state: Tensors, metadata: Mapping[str, str]):
    """Write a safetensors file atomically.

    Raises:
      UserError: The file is not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # `save_file` would create files that only their owner may read.
        files.write(target, safetensors.torch.save(dict(state), dict(metadata)))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{target}: not writable ({error}); choose another file"
        ) from None


def find_state(path: pathlib.Path, content: Any) -> dict[str, torch.Tensor]:
    """Return the state dict of the model in the content of a file.

    The content is a state dict, or a checkpoint with one under a usual name. The
    prefixes of wrappers are removed.

    Raises:
      UserError: The content has no state dict.
    """
    state = content
    while not _is_state(state):
        inner = state if isinstance(state, Mapping) else {}
        found = (inner.get(name) for name in _STATE_NAMES)
        state = next((value for value in found if isinstance(value, Mapping)), None)
        if state is None:
            keys = content if isinstance(content, Mapping) else []
            raise UserError(
                f"{path}: contains no state dict of a model but "
                f"{list_some(keys) or type(content).__name__}; save it under one of "
                f"{', '.join(_STATE_NAMES)}"
            )
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): x for name, x in state.items()}
    return dict(state)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(value, torch.Tensor) for value in content.values())
    )


def convert(
    path: pathlib.Path,
    target: pathlib.Path,
    read: Callable[[pathlib.Path], tuple[Tensors, Mapping[str, str]]],
):
    """Write the tensors of a file to a safetensors file atomically.

    `read` returns the tensors and metadata of the file. The metadata written also
    contain `source` and `source_sha256`.

    Raises:
      UserError: The target exists or is not writable, or `read` raised it.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: wrong suffix; choose a name in .safetensors")
    if target.exists():
        raise UserError(f"{target}: exists already; remove it or choose another name")
    state, metadata = read(path)
    source = {"source": path.name, "source_sha256": sha256(path)}
    save(target, state, source | dict(metadata))
    count = sum(x.numel() for x in state.values())
    logging.info("%s: %d tensors, %d values %s", target, len(state), count, metadata)


def first_line(error: Exception) -> str:
    """Return the first line of an error message, or the error's type if it is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
