"""Weights from files, read without running any code that a file may hold."""

import pathlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from sanorm_jax.core import commands, files
from sanorm_jax.core.errors import UserError

# Where training programs keep the state of the model, the usual names first.
_STATE_NAMES = (
    "model",
    "model_state_dict",
    "state_dict",
    "model_state",
    "network",
    "net",
    "teacher",
    "module",
    "weights",
    "params",
)
# What wrappers put before each name: data parallelism and compilation.
_PREFIXES = ("module.", "_orig_mod.")


def sha256(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
      UserError: unreadable.
    """
    try:
        return files.sha256(path)
    except OSError as error:
        raise UserError(f"{path}: unreadable ({error.strerror})") from None


def load(path: pathlib.Path) -> Any:
    """Return what a torch or safetensors file holds, on the CPU.

    Raises:
      UserError: unreadable, damaged, or holds objects that only unpickling makes.
    """
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{path}: unreadable ({first_line(error)})") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: unreadable ({error.strerror})") from None
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "Unsupported" not in reason and "GLOBAL" not in reason:
            raise UserError(f"{path}: is no torch file, or damaged") from None
        raise UserError(
            f"{path}: holds more than tensors and plain values, which only unpickling "
            "could read, and that may run any code; save the state dict alone"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError) as e:
        raise UserError(
            f"{path}: is no torch file, or damaged ({first_line(e)})"
        ) from None


def check_target(target: pathlib.Path):
    """Raise UserError unless a safetensors file may be written at `target`."""
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: must end in .safetensors")
    if target.exists():
        raise UserError(f"{target}: exists already; remove it or choose another name")


def save(
    target: pathlib.Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
):
    """Write a safetensors file, whole or not at all.

    Raises:
      UserError: not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not `save_file`, whose files only their owner may read.
        files.write(target, safetensors.torch.save(dict(state), dict(metadata)))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{target}: not written ({error})") from None


def find_state(path: pathlib.Path, content: Any) -> dict[str, torch.Tensor]:
    """Return the state of the model within what `load` gave.

    Args:
      path: of the file, for errors.
      content: a state dict, or a checkpoint that has one under a usual name.

    Returns:
      tensors by name, names without the prefixes of wrappers.

    Raises:
      UserError: none there.
    """
    state = content
    while not _is_state(state):
        if not isinstance(state, Mapping):
            state = None
        names = [name for name in _STATE_NAMES if isinstance(state, Mapping)]
        inner = [state[name] for name in names if isinstance(state.get(name), Mapping)]
        if not inner:
            keys = list(content) if isinstance(content, Mapping) else []
            raise UserError(
                f"{path}: has no state dict of a model; it has "
                f"{shown(map(str, keys)) or type(content).__name__}, looked for "
                f"{', '.join(_STATE_NAMES)}"
            )
        state = inner[0]
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): x for name, x in state.items()}
    return dict(state)


def shown(names) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(value, torch.Tensor) for value in content.values())
    )


def run_conversion(source: str, convert: Callable[[pathlib.Path, pathlib.Path], Any]):
    """Run a command that converts one file to another, and exit.

    Args:
      source: Name of the file to read, for the usage.
      convert: Conversion of a source to a target.
    """

    def work(source: str, target: str):
        convert(commands.expand(source), commands.expand(target))

    commands.main(work, arguments=(source, "out.safetensors"))


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
