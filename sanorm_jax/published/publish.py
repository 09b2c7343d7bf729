"""A model in the form in which it is published, written from a finished run."""

import pathlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import safetensors.numpy

from sanorm_jax import trained
from sanorm_jax.core import files, published, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data.manifest import read_manifest
from sanorm_jax.metrics import measures
from sanorm_jax.run.folder import contents, training_run, writers
from sanorm_jax.run.folder import workdir as workdir_lib

# Fields of the machine or the user, which a published config does not have.
_OWN_FIELDS = {"data_dir": "datasets", "time_limit_h": 0.0, "wandb": ""}


def publish(
    workdir: pathlib.Path,
    folder: pathlib.Path,
    *,
    config_file: str,
    license: str,
    others: Sequence[pathlib.Path] = (),
) -> dict[str, Any]:
    """Write a published model from a finished run, and return its card.

    The card has the mean and the standard deviation over the run and `others`, which
    differ only in their seeds.

    Raises:
      UserError: A run is not finished or has no evaluation with the slots of training,
        the configs differ in more than the seed, or the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists; remove it, or choose another --name")
    config = workdir_lib.load_config(workdir)
    setting, name = _evaluation(config, workdir)
    values = [_last_evaluation(run, config, name) for run in (workdir, *others)]
    run = trained.open_run(workdir)
    folder.mkdir(parents=True)
    workdir_lib.write_config(folder, workdir_lib.config_to_dict(config) | _OWN_FIELDS)
    for file in (run_data.FILE, run_data.PROJECTION):
        if (workdir / file).exists():
            shutil.copyfile(workdir / file, folder / file)
    weights = {
        path: np.asarray(leaf, order="C")
        for path, leaf in contents.leaves(run.variables)
    }
    files.write(folder / published.WEIGHTS, safetensors.numpy.save(weights))
    manifest = read_manifest(pathlib.Path(config.data_dir, config.dataset))
    card = {
        "config": config_file,
        "seed": config.seed,
        "step": run.step,
        "commit": _commit(),
        "data": evaluated_data(manifest, config.evaluation_split),
        "evaluation": {"split": config.evaluation_split} | setting.to_dict(),
        "measures": _summary(values),
        "num_runs": len(values),
        "license": license,
        "sha256": files.sha256(folder / published.WEIGHTS),
    }
    # The card is last: without it, the folder is no published model.
    files.write(folder / published.CARD, files.to_json(card))
    return card


def evaluated_data(manifest: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return what determines the images of a split, from the manifest of their store.

    Two stores with the same description hold the same images, whichever other splits
    they have.
    """
    settings = dict(manifest["settings"])
    if objects := settings.pop("objects", None):
        settings["min_objects"], settings["max_objects"] = objects[split]
    return {
        "dataset": manifest["dataset"],
        "source": manifest["source"],
        "settings": settings,
        "num_examples": manifest["splits"][split]["num_examples"],
    }


def _evaluation(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[ml_collections.ConfigDict, str]:
    """Return the evaluation with the slots of training, and its name."""
    for name, setting in config.evaluations.items():
        if setting.num_slots == config.num_slots:
            return setting, name
    raise UserError(
        f"{workdir}: has no evaluation with {config.num_slots} slots, as in training; "
        "set it in config.evaluations and train again"
    )


def _last_evaluation(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, name: str
) -> dict[str, float]:
    """Return the measures at the last step of a run that differs only in its seed."""
    own = workdir_lib.load_config(workdir)
    parts = files.differences(
        workdir_lib.fixed_fields(config) | {"seed": own.seed},
        workdir_lib.fixed_fields(own),
    )
    if parts:
        raise UserError(
            f"--others={workdir}: differs in more than the seed ({'; '.join(parts)}); "
            "pass runs of the same config"
        )
    if not training_run.is_finished(workdir, own):
        raise UserError(f"{workdir}: is not finished; resume its training first")
    line = workdir_lib.read_lines(workdir / writers.METRICS_FILE)[-1]
    return writers.evaluation(line, name)


def _summary(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the main measures of the first run, with mean and deviation over all."""
    kinds = next(iter(measures.groups(runs[0]).values()))
    summary = {}
    for kind, name in kinds.items():
        values = [run[name] for run in runs]
        summary[kind] = {
            "name": name,
            "value": values[0],
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
    return summary


def _commit() -> str | None:
    """Return the commit of this code; None outside a repository."""
    root = published.FOLDER.parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or None
