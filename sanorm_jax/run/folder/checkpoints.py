"""Orbax checkpoints, saved in the background and verified by checksums."""

import contextlib
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from sanorm_jax.core.errors import UserError, list_some
from sanorm_jax.run.folder import contents
from sanorm_jax.run.folder.workdir import CHECKPOINTS


def _open(directory: pathlib.Path, **options) -> ocp.CheckpointManager:
    host = jax.process_index()
    # One host writes, and each host reads without waiting for the others.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=host,
        active_processes={host},
        barrier_sync_key_prefix=f"host{host}",
    )
    return ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(
            create=False, multiprocessing_options=alone, **options
        ),
        item_names=("state", "meta"),
    )


class Checkpoints:
    """Writer of the checkpoints of a run; `restore` reads them.

    Attributes:
      last_save_s: Seconds that the last save took.
    """

    def __init__(self, workdir: pathlib.Path, *, num_checkpoints: int):
        self.directory = (workdir / CHECKPOINTS).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = _open(
            self.directory, max_to_keep=num_checkpoints, cleanup_tmp_directories=True
        )
        self.last_save_s = 0.0
        self._step_in_progress = None

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any], *, wait=False) -> bool:
        """Save arrays and JSON values; return False and log the reason on failure.

        A failure, such as a full disk, leaves earlier checkpoints intact. Unless
        `wait`, the checkpoint is written in the background.
        """
        started = time.time()
        self._wait()
        if step in self._manager.all_steps():
            return True
        self._step_in_progress = step
        state = jax.tree.map(np.asarray, state)
        meta = meta | {"leaves": contents.describe(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        )
        try:
            self._manager.save(step, args=args, force=True)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return False
        saved = not wait or self._wait()
        self.last_save_s = time.time() - started
        return saved

    def _wait(self) -> bool:
        """Wait for the save in progress; return whether it succeeded."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: Exception):
        logging.error(
            "checkpoint of step %s not saved (%s); training continues until the next",
            self._step_in_progress,
            str(error).splitlines()[0],
        )
        # Free the disk space of the partial checkpoint for the next one.
        for partial in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)

    def drop_after(self, step: int):
        """Remove damaged checkpoints newer than the one that a run resumes from."""
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)

    def close(self):
        """Wait for the save in progress."""
        self._wait()
        self._manager.close()


def restore(
    workdir: pathlib.Path, template: Any, step: int | None = None, *, part: bool = False
) -> tuple[Any, dict[str, Any]] | None:
    """Return `(state, meta)` of the newest intact checkpoint, or None without any.

    Damaged checkpoints are logged and skipped.

    Args:
      workdir: Folder of the run, which may be in progress.
      template: Tree of arrays with the shapes and dtypes to restore.
      step: Step to restore; the newest if None.
      part: Whether `template` is a dict of some top-level parts of the state.

    Raises:
      UserError: The checkpoints are of another model, all are damaged, or there is none
        of that step.
    """
    directory = (workdir / CHECKPOINTS).absolute()
    if not directory.exists():
        return None
    with contextlib.closing(_open(directory, read_only=True)) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if step is not None:
            if step not in steps:
                raise UserError(
                    f"{directory}: no checkpoint of step {step}; there are "
                    f"{list_some(steps) or 'none'}"
                )
            steps = [step]
        if not steps:
            return None
        for candidate in steps:
            try:
                return _read(manager, candidate, template, part)
            except UserError:
                raise
            except Exception as error:  # Orbax raises various errors.
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                logging.error(
                    "checkpoint of step %d is damaged (%s); trying the previous one",
                    candidate,
                    reason,
                )
    raise UserError(
        f"{directory}: no checkpoint can be read, of steps "
        f"{list_some(steps[::-1])} ({reason}); restore them "
        "from a backup, or choose another --workdir"
    )


def _read(manager, step: int, template: Any, part: bool):
    where = f"{manager.directory / str(step)}"
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = manager.restore(step, args=args).meta
    leaves = meta.pop("leaves")
    if part:
        prefixes = tuple(f"{name}/" for name in template)
        leaves = {k: v for k, v in leaves.items() if k.startswith(prefixes)}
    contents.compare(leaves, template, where)
    zeros = None
    if not part:
        contents.compare_dtypes(leaves, template, where)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(zeros))
    state = manager.restore(step, args=args).state
    if part:
        # Orbax does not store empty collections.
        state = {name: state.get(name) or {} for name in template}
    if damaged := contents.damaged(state, leaves):
        raise ValueError(f"wrong checksum of {list_some(damaged)}")
    return state, meta | {"step": step}
