"""Orbax checkpoints of a run: saved in the background, atomic, checked when read."""

import contextlib
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from sanorm_jax.core.errors import UserError
from sanorm_jax.run.folder import contents
from sanorm_jax.run.folder.workdir import CHECKPOINTS


def _open(directory: pathlib.Path, **options) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(
            create=False,
            # One host writes, and each reads for itself: none waits for another.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(),
                active_processes={jax.process_index()},
                barrier_sync_key_prefix=f"host{jax.process_index()}",
            ),
            **options,
        ),
        item_names=("state", "meta"),
    )


class Checkpoints:
    """Saves the checkpoints of one run; `restore` reads them.

    Args:
      workdir: folder of the run; they lie in its `checkpoints/`.
      num_checkpoints: how many of the newest are kept.
    """

    def __init__(self, workdir: pathlib.Path, *, num_checkpoints: int):
        self.directory = (workdir / CHECKPOINTS).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = _open(
            self.directory,
            max_to_keep=num_checkpoints,
            cleanup_tmp_directories=True,
        )
        self.last_save_s = 0.0
        self._step_in_progress = None

    def steps(self) -> list[int]:
        """Return the steps of the whole checkpoints, oldest first."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any], *, wait=False) -> bool:
        """Save in the background; log why and return False if that fails.

        A failure (a full disk) leaves the checkpoints before it untouched; the run
        goes on and tries again at the next one.

        Args:
          step: number of training steps that `state` has seen.
          state: tree of arrays on the host or on one device.
          meta: what JSON can hold: wall time, data fingerprint.
          wait: until it is on disk.
        """
        started = time.time()
        self._wait()
        if step in self._manager.all_steps():
            return True
        self._step_in_progress = step
        state = jax.tree.map(np.asarray, state)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave(meta | {"leaves": contents.describe(state)}),
                ),
                force=True,
            )
        except (OSError, ValueError) as error:
            self._give_up(error)
            return False
        saved = not wait or self._wait()
        self.last_save_s = time.time() - started
        return saved

    def _wait(self) -> bool:
        """Wait for the save in progress; False, and says why, if it failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: Exception):
        logging.error(
            "checkpoint of step %s not saved (%s); going on, it is tried again at the "
            "next one",
            self._step_in_progress,
            str(error).splitlines()[0],
        )
        # What there is of it takes the room that the next one needs.
        for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)

    def drop_after(self, step: int):
        """Remove damaged checkpoints newer than the one a run resumes from."""
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)

    def close(self):
        """Wait for the save in progress."""
        self._wait()
        self._manager.close()


def restore(
    workdir: pathlib.Path, template: Any, step: int | None = None, *, part: bool = False
):
    """Return (state, meta) of the newest checkpoint that can be read, or None.

    A damaged one is said and passed over for the one before it.

    Args:
      workdir: folder of the run, which may be in progress.
      template: tree of arrays of the shapes and dtypes to restore.
      step: this one and no other.
      part: `template` is a dict of some top-level parts of the state.

    Raises:
      UserError: of another model; no such step; or all of them damaged.
    """
    directory = (workdir / CHECKPOINTS).absolute()
    if not directory.exists():
        return None
    with contextlib.closing(_open(directory, read_only=True)) as manager:
        return _newest(manager, directory, template, step, part)


def _newest(manager, directory, template, step, part):
    steps = sorted(manager.all_steps())
    if step is not None:
        if step not in steps:
            raise UserError(
                f"{directory}: no checkpoint of step {step}; there are "
                f"{contents.list_some([str(s) for s in steps[::-1]]) or 'none'}"
            )
        steps = [step]
    reason = ""
    for candidate in reversed(steps):
        try:
            return _read(manager, candidate, template, part)
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file makes Orbax raise
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            logging.error(
                "checkpoint of step %d is damaged (%s); trying the one before",
                candidate,
                reason,
            )
    if steps:
        raise UserError(
            f"{directory}: no checkpoint can be read, of steps "
            f"{contents.list_some([str(s) for s in steps])} ({reason}); restore them "
            "from a backup, or choose another --workdir to begin anew"
        )
    return None


def _read(manager, step: int, template: Any, part: bool):
    meta = manager.restore(
        step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
    ).meta
    leaves = meta.pop("leaves")
    if part:
        prefixes = tuple(f"{name}/" for name in template)
        leaves = {k: v for k, v in leaves.items() if k.startswith(prefixes)}
    contents.compare(leaves, template, f"{manager.directory / str(step)}")
    args = ocp.args.StandardRestore()
    if not part:
        contents.compare_dtypes(leaves, template, f"{manager.directory / str(step)}")
        args = ocp.args.StandardRestore(
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
        )
    state = manager.restore(step, args=ocp.args.Composite(state=args)).state
    if part:
        # An empty collection leaves no trace in a checkpoint.
        state = {name: state.get(name) or {} for name in template}
    if damaged := contents.damaged(state, leaves):
        raise ValueError(f"wrong checksum of {contents.list_some(damaged)}")
    return state, meta | {"step": step}
