"""Optional mirror of a run's scalars and figures in Weights & Biases."""

import importlib
import json
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.folder import workdir as workdir_lib

# File with the id of the wandb run, which a restart resumes.
ID_FILE = "wandb.json"


def _library(project: str):
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise UserError(
            f"config.wandb={project}: wandb is not installed; pip install wandb, or "
            "leave the option out"
        ) from None


def check(config: ml_collections.ConfigDict):
    """Raise `UserError` if `config.wandb` is set and wandb is not installed."""
    if config.wandb:
        _library(config.wandb)


class WandbWriter:
    """Writer of scalars and images to the project `config.wandb`.

    The wandb run has the name of the workdir, and a restart resumes it. wandb's
    environment variables apply. Errors are logged and training continues, because
    `metrics.jsonl` is the primary record.

    Raises:
      UserError: wandb is not installed or does not start.
    """

    def __init__(self, workdir: pathlib.Path, config: ml_collections.ConfigDict):
        self._wandb = _library(config.wandb)
        try:
            self._run = self._wandb.init(
                project=config.wandb,
                name=workdir.absolute().name,
                id=_run_id(workdir),
                resume="allow",
                dir=str(workdir),
                config=workdir_lib.config_to_dict(config),
                settings=self._wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:  # wandb's errors have no common class.
            raise UserError(
                f"config.wandb={config.wandb}: wandb did not start "
                f"({str(error).splitlines()[0]}); log in with `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from None
        # A restart may repeat steps, but wandb's own step counter only increases.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, float]):
        """Send scalars by name."""
        self._log(step, {name: float(value) for name, value in scalars.items()})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]):
        """Send uint8 images `[N, H, W, 3]` by name."""
        self._log(step, {k: [*map(self._wandb.Image, v)] for k, v in images.items()})

    def close(self):
        """Wait until all data is sent, or written if offline."""
        try:
            self._run.finish()
        except Exception as error:
            logging.error("wandb did not finish: %s", error)

    def _log(self, step: int, values: dict[str, Any]):
        try:
            self._run.log({"step": step, **values})
        except Exception as error:
            logging.error("nothing sent to wandb: %s", error)


def _run_id(workdir: pathlib.Path) -> str:
    path = workdir / ID_FILE
    if not path.exists():
        files.write(path, json.dumps({"id": uuid.uuid4().hex[:16]}) + "\n")
    return json.loads(path.read_text())["id"]
