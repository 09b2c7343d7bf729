"""Metric writers: TensorBoard and the log by clu, a JSON-lines file, and wandb.

The JSON-lines file `metrics.jsonl` is the record: one line a step and a kind of
metric, cut back to the checkpoint when a run resumes, so that no step is in it twice.
Names under `time/` hold wall-clock measurements; all others are reproducible.
"""

import json
import pathlib
from collections.abc import Callable, Mapping

import ml_collections
import numpy as np
from absl import logging

from sanorm_jax.core import lazy
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder.wandb_writer import WandbWriter

METRICS_FILE = "metrics.jsonl"


class JsonLinesWriter:
    """Appends `{"step": ..., name: value, ...}` lines and flushes each.

    What a full disk has no room for is kept, and written with the next line.
    """

    def __init__(self, path: pathlib.Path):
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Write one line; values that are not finite become null."""
        values = {name: float(value) for name, value in scalars.items()}
        values = {k: v if np.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"step": int(step)} | values) + "\n"
        self._waiting += line.encode()
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            logging.error("%s: %s; going on", self._file.name, error.strerror)

    def close(self):
        """Close the file."""
        self._file.close()


class Writer:
    """Writes scalars to all places, and images to all but the record.

    Args:
      workdir: folder of the run.
      step: the step it resumes from; what was logged after it is cut off.
      config: of the experiment.

    Raises:
      UserError: `config.wandb` is set and wandb does not start.
    """

    def __init__(
        self, workdir: pathlib.Path, step: int, config: ml_collections.ConfigDict
    ):
        truncate(workdir, step)
        self._wandb = WandbWriter(workdir, config) if config.wandb else None
        self._json = JsonLinesWriter(workdir / METRICS_FILE)
        from clu import metric_writers  # takes TensorFlow along

        self._clu = metric_writers.create_default_writer(
            str(workdir), asynchronous=False
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Write scalars by name."""
        self._json.write_scalars(step, scalars)
        self._show(self._clu.write_scalars, step, dict(scalars))
        if self._wandb:
            self._wandb.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]):
        """Write images [N, H, W, 3], uint8 or floats in [0, 1], by name."""
        self._show(self._clu.write_images, step, dict(images))
        self._show(self._clu.flush)
        if self._wandb:
            self._wandb.write_images(step, images)

    def close(self):
        """Flushe and closes all."""
        if self._wandb:
            self._wandb.close()
        self._show(self._clu.flush)
        self._show(self._clu.close)
        self._json.close()

    def _show(self, write: Callable, *args):
        """Write for TensorBoard, whose files a run does not depend on."""
        errors = lazy.tensorflow().errors
        try:
            write(*args)
        except (OSError, errors.OpError) as error:
            logging.error("nothing written for TensorBoard: %s", error)


def truncate(workdir: pathlib.Path, step: int):
    """Remove what was logged after `step`, in the record and in TensorBoard's files.

    A run killed between a log line and the next checkpoint takes those steps again.
    """
    path = workdir / METRICS_FILE
    if path.exists():
        kept = [line for line in workdir_lib.read_lines(path) if line["step"] <= step]
        workdir_lib.write_lines(path, kept)
    for events in sorted(workdir.glob("events.out.tfevents.*")):
        _truncate_events(events, step)


def _truncate_events(path: pathlib.Path, step: int):
    tf = lazy.tensorflow()
    kept, dropped = [], 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            if event.step <= step:
                kept.append(record)
            else:
                dropped += 1
    except tf.errors.DataLossError:
        dropped += 1  # the record that a kill tore
    if dropped:
        temporary = path.with_name(f".{path.name}.tmp")
        with tf.io.TFRecordWriter(str(temporary)) as file:
            for record in kept:
                file.write(record)
        temporary.replace(path)
