"""Folder of a run: its config, its lock and its JSON-lines files."""

import contextlib
import fcntl
import json
import pathlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import ml_collections
from absl import logging

from sanorm_jax.configs import common
from sanorm_jax.core import files, published
from sanorm_jax.core.errors import UserError

CHECKPOINTS = "checkpoints"
CONFIG_FILE = "config.json"
STARTS_FILE = "starts.jsonl"

# Fields that may change between starts. None affects the parameters, except that
# `num_train_steps` moves the end of training.
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


def check_writable(folder: pathlib.Path):
    """Raise `UserError` unless files can be written in a folder.

    The folder need not exist. It is not created.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: not writable ({error.strerror}); choose a writable --workdir, "
            "or copy the run"
        ) from None


def config_to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the config with JSON types, with lists instead of tuples."""
    return json.loads(config.to_json_best_effort())


def fixed_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the fields that must not change between the starts of a run."""
    fields = config_to_dict(config)
    return {name: fields[name] for name in fields if name not in FREE_FIELDS}


def load_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Return the config recorded in `workdir`, locked.

    Fields that were added since have the values of `configs/common.py`.

    Raises:
      UserError: There is no run in `workdir`, or its config is damaged.
    """
    path = workdir / CONFIG_FILE
    try:
        recorded = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"--workdir={workdir}: contains no run ({CONFIG_FILE} is missing); train "
            f"one with --config=... first, {published.suggestion()}"
        ) from None
    except ValueError:
        raise UserError(
            f"{path}: is not JSON; restore a backup, or choose another --workdir"
        ) from None
    return _complete(recorded).lock()


def _complete(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Return a config with the fields, and those of `configs/common.py` it lacks."""
    config = common.get_config()
    with config.ignore_type():
        config.update(fields)
    return config


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict):
    """Raise `UserError` if `workdir` holds checkpoints of another config."""
    if not saved_steps(workdir) and not published.is_published(workdir):
        return
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(
            f"--workdir={workdir}: has checkpoints but no {CONFIG_FILE}; choose "
            "another --workdir"
        )
    recorded = fixed_fields(load_config(workdir))
    given = fixed_fields(_complete(config_to_dict(config)))
    if parts := files.differences(recorded, given):
        raise UserError(
            f"--workdir={workdir}: holds a run of another config ({'; '.join(parts)}); "
            "choose another --workdir"
        )


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Return the steps of the checkpoints in `workdir`, oldest first."""
    folders = (workdir / CHECKPOINTS).glob("*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Lock `workdir` during the context, and record the config.

    The folder is created if it is missing. If the file system does not support locks, a
    warning is logged.

    Raises:
      UserError: The folder is not writable, locked by another process, or belongs to
        another config.
    """
    check_writable(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as lock:
        try:
            if not _try_lock(lock, fcntl.LOCK_EX):
                raise UserError(
                    f"--workdir={workdir}: in use by another training process; stop "
                    "it, or choose another --workdir"
                )
        except OSError as error:
            logging.warning(
                "--workdir=%s: the file system does not support locks (%s); do not "
                "start a second training there",
                workdir,
                error.strerror,
            )
        check_config(workdir, config)
        write_config(workdir, config_to_dict(config))
        yield


def _try_lock(file: IO, kind: int) -> bool:
    """Return whether a file could be locked until it is closed.

    Raises:
      OSError: The file system does not support locks, such as Lustre without `flock`.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on NFS
        return False
    return True


def write_config(workdir: pathlib.Path, config: Mapping[str, Any]):
    """Write the config of a run, as `config_to_dict` returns it."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    files.write(workdir / CONFIG_FILE, text)


def record_start(workdir: pathlib.Path, step: int):
    """Append the time and the step of this start to `starts.jsonl`."""
    path = workdir / STARTS_FILE
    # Rewrite the file: a line appended to an incomplete last line would be lost.
    write_lines(path, [*read_lines(path), {"time": time.time(), "step": step}])


def write_lines(path: pathlib.Path, lines: Iterable[Mapping[str, Any]]):
    """Write a JSON-lines file atomically."""
    files.write(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the intact lines of a JSON-lines file.

    A last line without a newline is still being written and is ignored. Other damaged
    lines, such as zeros after a power loss, are skipped with a warning.
    """
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if isinstance(content, dict):
            lines.append(content)
        else:
            logging.warning("%s: line %d is damaged; skipped", path, number)
    return lines


def is_locked(workdir: pathlib.Path) -> bool | None:
    """Return whether a process is training in `workdir`; None if unknown."""
    try:
        # A shared lock needs no write access to another user's file.
        with (workdir / ".lock").open() as lock:
            return not _try_lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except OSError:
        return None
