"""Metric writers: a JSON-lines file, TensorBoard, the log, and Weights & Biases.

`metrics.jsonl` is the primary record. When a run resumes, entries after the checkpoint
are removed, so that no step appears twice. Names under `time/` are wall-clock
measurements. All others are reproducible.
"""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from sanorm_jax.core import lazy
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder.wandb_writer import WandbWriter

METRICS_FILE = "metrics.jsonl"


class JsonLinesWriter:
    """Unbuffered writer of lines `{"step": ..., name: value, ...}`.

    If the disk is full, lines are kept and written together with the next one.
    """

    def __init__(self, path: pathlib.Path):
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Write one line, with null for values that are not finite."""
        values = {name: float(value) for name, value in scalars.items()}
        values = {k: v if np.isfinite(v) else None for k, v in values.items()}
        self._pending += (json.dumps({"step": int(step)} | values) + "\n").encode()
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            logging.error("%s: %s; training continues", self._file.name, error.strerror)

    def close(self):
        """Close the file."""
        self._file.close()


class Writer:
    """Writer of scalars to all outputs, and of images to all but `metrics.jsonl`.

    Entries after `step`, from which the run resumes, are removed.

    Raises:
      UserError: `config.wandb` is set and wandb does not start.
    """

    def __init__(
        self, workdir: pathlib.Path, step: int, config: ml_collections.ConfigDict
    ):
        truncate(workdir, step)
        self._wandb = WandbWriter(workdir, config) if config.wandb else None
        self._json = JsonLinesWriter(workdir / METRICS_FILE)
        from clu import metric_writers  # This imports TensorFlow.

        self._clu = metric_writers.create_default_writer(
            str(workdir), asynchronous=False
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Write scalars by name."""
        self._json.write_scalars(step, scalars)
        self._try(self._clu.write_scalars, step, dict(scalars))
        if self._wandb:
            self._wandb.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]):
        """Write images `[N, H, W, 3]`, uint8 or floats in [0, 1], by name."""
        self._try(self._clu.write_images, step, dict(images))
        self._try(self._clu.flush)
        if self._wandb:
            self._wandb.write_images(step, images)

    def close(self):
        """Flush and close all outputs."""
        if self._wandb:
            self._wandb.close()
        self._try(self._clu.flush)
        self._try(self._clu.close)
        self._json.close()

    def _try(self, write: Callable, *args):
        """Write to TensorBoard; log errors, since the run does not depend on it."""
        errors = lazy.tensorflow().errors
        try:
            write(*args)
        except (OSError, errors.OpError) as error:
            logging.error("not written to TensorBoard: %s", error)


def number(value: float | None) -> float:
    """Return a value of `metrics.jsonl`, where None stands for NaN and infinity."""
    return math.nan if value is None else value


def evaluation(line: Mapping[str, Any], setting: str) -> dict[str, float]:
    """Return the values of one named evaluation in a line of `metrics.jsonl`."""
    prefix = f"{setting}/"
    return {
        name.removeprefix(prefix): number(value)
        for name, value in line.items()
        if name.startswith(prefix)
    }


def truncate(workdir: pathlib.Path, step: int):
    """Drop entries after `step` from `metrics.jsonl` and TensorBoard's files."""
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
            if tf.compat.v1.Event.FromString(record).step <= step:
                kept.append(record)
            else:
                dropped += 1
    except tf.errors.DataLossError:
        dropped += 1  # The process was killed while writing the last record.
    if dropped:
        temporary = path.with_name(f".{path.name}.tmp")
        with tf.io.TFRecordWriter(str(temporary)) as file:
            for record in kept:
                file.write(record)
        temporary.replace(path)
