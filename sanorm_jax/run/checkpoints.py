"""Orbax checkpoints of a run: asynchronous, atomic, checked when read."""

import pathlib
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from sanorm_jax.errors import ConfigError
from sanorm_jax.run.workdir import CHECKPOINTS


def _leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Returns shape, dtype and CRC-32 of every leaf, by its path."""
    return {
        name: {
            "shape": list(np.shape(leaf)),
            "dtype": str(np.asarray(leaf).dtype),
            "crc32": zlib.crc32(np.ascontiguousarray(leaf)),
        }
        for name, leaf in _leaves(tree)
    }


def _params_first(names: Iterable[str]) -> list[str]:
    # What the optimizer keeps of a parameter differs with it; only few are shown.
    return sorted(names, key=lambda name: (name.startswith("opt_state/"), name))


def _list_some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def compare(saved: dict[str, dict[str, Any]], template: Any, where: str):
    """Raises `ConfigError` naming the parameters in which a model differs.

    Args:
      saved: shapes by path, as `describe` gives them.
      template: tree of arrays or shapes that the present model has.
      where: the file or folder that `saved` comes from.
    """
    present = {name: list(np.shape(leaf)) for name, leaf in _leaves(template)}
    reasons = []
    if absent := _params_first(present.keys() - saved.keys()):
        reasons.append(f"it lacks {_list_some(absent)}")
    if extra := _params_first(saved.keys() - present.keys()):
        reasons.append(f"the model has no {_list_some(extra)}")
    other = [
        f"{name} {saved[name]['shape']} there, {present[name]} in the model"
        for name in _params_first(present.keys() & saved.keys())
        if saved[name]["shape"] != present[name]
    ]
    if other:
        reasons.append(_list_some(other))
    if reasons:
        raise ConfigError(
            f"{where} is of another model: {'; '.join(reasons)}; set the config it "
            "was trained with"
        )


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: folder of the run; they lie in its `checkpoints/`.
      num_checkpoints: how many of the newest are kept.
      keep_every_steps: those at a multiple of this are kept for good; 0: none.
      read_only: for evaluation beside a training run; nothing is cleaned up.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        num_checkpoints: int = 3,
        keep_every_steps: int = 0,
        read_only: bool = False,
    ):
        self.directory = (workdir / CHECKPOINTS).absolute()
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else num_checkpoints,
                keep_period=keep_every_steps or None,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                create=False,
                # One host writes, and each reads for itself: none waits for another.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=jax.process_index(),
                    active_processes={jax.process_index()},
                    barrier_sync_key_prefix=f"host{jax.process_index()}",
                ),
            ),
            item_names=("state", "meta"),
        )
        self.last_save_s = 0.0
        self._step_in_progress = None

    def steps(self) -> list[int]:
        """Returns the steps of the whole checkpoints, oldest first."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any], *, wait=False) -> bool:
        """Saves in the background; returns False, and says why, if that failed.

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
                    meta=ocp.args.JsonSave(meta | {"leaves": describe(state)}),
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
        """Waits for the save in progress; False, and says why, if it failed."""
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
            *(self._step_in_progress, str(error).splitlines()[0]),
        )
        # What there is of it takes the room that the next one needs.
        for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)

    def restore(self, template: Any, step: int | None = None, *, part: bool = False):
        """Returns (state, meta) of the newest checkpoint that can be read, or None.

        A damaged one is said and passed over for the one before it.

        Args:
          template: tree of arrays of the shapes and dtypes to restore.
          step: this one and no other.
          part: `template` is a dict of some top-level parts of the state.

        Raises:
          ConfigError: of another model; no such step; or all of them damaged.
        """
        steps = self.steps()
        if step is not None:
            if step not in steps:
                raise ConfigError(
                    f"{self.directory}: no checkpoint of step {step}; there are "
                    f"{_list_some([str(s) for s in steps[::-1]]) or 'none'}"
                )
            steps = [step]
        for candidate in reversed(steps):
            try:
                return self._read(candidate, template, part)
            except ConfigError:
                raise
            except Exception as error:  # whatever a damaged file makes Orbax raise
                logging.error(
                    "checkpoint of step %d is damaged (%s); trying the one before",
                    candidate,
                    str(error).splitlines()[0][:200],
                )
        if steps:
            raise ConfigError(
                f"{self.directory}: every checkpoint is damaged "
                f"({_list_some([str(s) for s in steps])}); remove the folder to begin "
                "anew"
            )
        return None

    def _read(self, step: int, template: Any, part: bool):
        meta = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta
        leaves = meta.pop("leaves")
        if part:
            prefixes = tuple(f"{name}/" for name in template)
            leaves = {k: v for k, v in leaves.items() if k.startswith(prefixes)}
        compare(leaves, template, f"{self.directory / str(step)}")
        args = ocp.args.StandardRestore()
        if not part:
            args = ocp.args.StandardRestore(
                jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
            )
        state = self._manager.restore(step, args=ocp.args.Composite(state=args)).state
        if part:
            # An empty collection leaves no trace in a checkpoint.
            state = {name: state.get(name) or {} for name in template}
        damaged = [
            name
            for name, leaf in _leaves(state)
            if zlib.crc32(np.ascontiguousarray(leaf)) != leaves[name]["crc32"]
        ]
        if damaged:
            raise ValueError(f"wrong checksum of {_list_some(damaged)}")
        return state, meta | {"step": step}

    def drop_after(self, step: int):
        """Removes damaged checkpoints newer than the one a run resumes from."""
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)

    def close(self):
        """Waits for the save in progress."""
        self._wait()
        self._manager.close()
