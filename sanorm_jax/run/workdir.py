"""What a run leaves in its folder, and whether a folder belongs to a run."""

import fcntl
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import ml_collections

from sanorm_jax.errors import ConfigError

CHECKPOINTS = "checkpoints"
CONFIG_FILE = "config.json"
STARTS_FILE = "starts.jsonl"

# A restart may change these: none of them moves a parameter by one bit, except
# `num_train_steps`, which only says where on the same path to stop.
FREE_FIELDS = frozenset(
    {
        "checkpoint_every_steps",
        "compilation_cache",
        "data_dir",
        "evaluate_every_steps",
        "evaluation_batch_size",
        "log_every_steps",
        "num_checkpoints",
        "num_figure_examples",
        "num_train_steps",
        "parallelism",
        "time_limit_h",
        "wandb",
    }
)


def write_atomically(path: pathlib.Path, text: str):
    """Writes a small file such that a reader sees the old or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def config_to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as JSON knows it (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def load_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the locked config recorded in `workdir`.

    Raises:
      ConfigError: there is no run in `workdir`.
    """
    path = workdir / CONFIG_FILE
    try:
        recorded = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"--workdir={workdir}: no run there ({CONFIG_FILE} is missing); train "
            "first with --config=..."
        ) from None
    except ValueError:
        raise ConfigError(f"{path}: is no JSON; the run's config is lost") from None
    return ml_collections.ConfigDict(recorded).lock()


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict):
    """Raises `ConfigError` if `workdir` holds a run of another config.

    A run without a checkpoint (its first start met bad input) holds nothing yet.
    """
    if not saved_steps(workdir):
        return
    if not (workdir / CONFIG_FILE).exists():
        raise ConfigError(
            f"--workdir={workdir}: has checkpoints but no {CONFIG_FILE} that tells "
            "what was trained there; choose another --workdir"
        )
    recorded = _flatten(load_config(workdir).to_dict())
    given = _flatten(config_to_dict(config))
    missing = "(not set)"
    differences = [
        f"{name}: {recorded.get(name, missing)!r} there, {given.get(name, missing)!r}"
        " now"
        for name in sorted(recorded.keys() | given.keys())
        if name.split(".")[0] not in FREE_FIELDS
        and recorded.get(name, missing) != given.get(name, missing)
    ]
    if differences:
        raise ConfigError(
            f"--workdir={workdir} holds a run of another config "
            f"({'; '.join(differences)}); choose another --workdir"
        )


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in `workdir`, oldest first."""
    folders = (workdir / CHECKPOINTS).glob("*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict):
    """Makes `workdir` the folder of this run and locks it against a second one.

    Args:
      workdir: folder of the run; made if absent.
      config: what to train; recorded at the first start, compared at the next.

    Returns:
      the open lock file; the lock lasts while it is open.

    Raises:
      ConfigError: not writable, held by a running process, or of another config.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir}: not writable ({error.strerror}); choose another"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigError(
            f"--workdir={workdir}: another process is training there; stop it, or "
            "choose another --workdir"
        ) from None
    try:
        check_config(workdir, config)
    except ConfigError:
        lock.close()
        raise
    text = json.dumps(config_to_dict(config), indent=2, sort_keys=True) + "\n"
    write_atomically(workdir / CONFIG_FILE, text)
    return lock


def note_start(workdir: pathlib.Path, step: int):
    """Appends a line to `starts.jsonl`: when this process began, and at which step."""
    with (workdir / STARTS_FILE).open("a") as file:
        file.write(json.dumps({"time": time.time(), "step": step}) + "\n")


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a JSON-lines file; a torn last one is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def is_locked(workdir: pathlib.Path) -> bool:
    """Tells whether a process of this machine is training in `workdir`."""
    try:
        with (workdir / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
