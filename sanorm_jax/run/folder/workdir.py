"""What a run leaves in its folder, and whether a folder belongs to a run."""

import fcntl
import json
import pathlib
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from absl import logging

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError
from sanorm_jax.core.locks import LocksUnsupportedError, try_lock

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

# Fields that the configs of earlier runs lack, with what those runs were trained with.
_ADDED = {
    "keep_penalty": [[0, 0.0]],
    "merge_threshold": 0.0,
    "model.adaptive": False,
    "model.attention": "softmax",
    "model.num_heads": 1,
    "model.slot_init": "gaussian",
    "slot_share_penalty": [[0, 0.0]],
}


def check_writable(folder: pathlib.Path):
    """Raise `UserError` unless files can be written in a folder, made or not.

    Nothing is left: what is absent is not made, but looked for in its parents.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: not writable ({error.strerror}); choose a --workdir that you "
            "may write to, or copy the run"
        ) from None


def config_to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the config as JSON knows it (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def load_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Return the locked config recorded in `workdir`.

    Raises:
      UserError: there is no run in `workdir`.
    """
    path = workdir / CONFIG_FILE
    try:
        recorded = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"--workdir={workdir}: no run there ({CONFIG_FILE} is missing); train "
            "first with --config=..."
        ) from None
    except ValueError:
        raise UserError(f"{path}: is no JSON; the run's config is lost") from None
    return ml_collections.ConfigDict(recorded).lock()


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict):
    """Raise `UserError` if `workdir` holds a run of another config.

    A run without a checkpoint (its first start met bad input) holds nothing yet.
    """
    if not saved_steps(workdir):
        return
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(
            f"--workdir={workdir}: has checkpoints but no {CONFIG_FILE} that tells "
            "what was trained there; choose another --workdir"
        )
    recorded = files.flatten(load_config(workdir).to_dict())
    given = files.flatten(config_to_dict(config))
    missing = "(not set)"
    names = sorted(recorded.keys() | given.keys())
    there, now = (
        {name: config.get(name, _ADDED.get(name, missing)) for name in names}
        for config in (recorded, given)
    )
    differences = [
        f"{name}: {there[name]!r} there, {now[name]!r} now"
        for name in names
        if name.split(".")[0] not in FREE_FIELDS and there[name] != now[name]
    ]
    if differences:
        raise UserError(
            f"--workdir={workdir} holds a run of another config "
            f"({'; '.join(differences)}); choose another --workdir"
        )


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Return the steps of the checkpoints in `workdir`, oldest first."""
    folders = (workdir / CHECKPOINTS).glob("*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict):
    """Make `workdir` the folder of this run and locks it against a second one.

    Args:
      workdir: folder of the run; made if absent.
      config: what to train; recorded at the first start, compared at the next.

    Returns:
      the open lock file; the lock lasts while it is open. Where the file system has no
      locks, a warning is logged and the file is open without one.

    Raises:
      UserError: not writable, held by a running process, or of another config.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: not writable ({error.strerror}); choose another"
        ) from None
    try:
        if not try_lock(lock):
            raise UserError(
                f"--workdir={workdir}: another process is training there; stop it, or "
                "choose another --workdir"
            )
    except LocksUnsupportedError as error:
        logging.warning(
            "--workdir=%s: the file system has no locks (%s); start no second process "
            "there while this one trains",
            workdir,
            error.strerror,
        )
    except UserError:
        lock.close()
        raise
    try:
        check_config(workdir, config)
    except UserError:
        lock.close()
        raise
    text = json.dumps(config_to_dict(config), indent=2, sort_keys=True) + "\n"
    files.write(workdir / CONFIG_FILE, text)
    return lock


def note_start(workdir: pathlib.Path, step: int):
    """Add a line to `starts.jsonl`: when this process began, and at which step."""
    path = workdir / STARTS_FILE
    # All anew: a line appended to a torn one would be lost with it.
    write_lines(path, [*read_lines(path), {"time": time.time(), "step": step}])


def write_lines(path: pathlib.Path, lines: Iterable[Mapping[str, Any]]):
    """Write a JSON-lines file in place of the one that is there."""
    files.write(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON-lines file, without those that are damaged.

    A last line without an end is being written and left out; any other that is no JSON
    object, such as the zeros that a loss of power leaves, is skipped with a warning.
    """
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict):
            lines.append(found)
        else:
            logging.warning("%s: line %d is damaged; skipped", path, number)
    return lines


def is_locked(workdir: pathlib.Path) -> bool | None:
    """Return whether a process is training in `workdir`; None if nobody can tell."""
    try:
        # A shared lock: for it a file of another user need not be writable.
        with (workdir / ".lock").open() as lock:
            return not try_lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except OSError:
        return None
