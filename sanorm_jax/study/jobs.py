"""The jobs of a study: which there are, what each does, and whether it is done.

A job trains one normalization under one training setting with one seed, through the
training loop that every run goes through, and then evaluates it: one pass over a whole
split for each number of slots, kept as a table with a row for each example, from which
all numbers of the report are made. What a job has done is in its folder, so that a job
that is started again does the rest.
"""

import dataclasses
import importlib.metadata
import itertools
import json
import pathlib
import platform
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from sanorm_jax import evaluate as evaluate_lib
from sanorm_jax import tasks, train
from sanorm_jax.core import files, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.drawing import predictions
from sanorm_jax.models import normalization
from sanorm_jax.run.distribution import preemption
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import training_run, writers
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.parameters import init_from

RUNS = "runs"
TABLES = "study"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
      train_setting: name in the study's `train_settings`.
      normalization: of the slots' updates.
      seed: of the run.
      learning_rate: of the study's grid; None without one.
      config: of the experiment.
      workdir: folder of the run.
    """

    train_setting: str
    normalization: str
    seed: int
    learning_rate: float | None
    config: ml_collections.ConfigDict
    workdir: pathlib.Path

    @property
    def name(self) -> str:
        """Name of the job and of its folder."""
        return self.workdir.name

    def evaluation_config(self, name: str, study: ml_collections.ConfigDict):
        """Return the run's config with the data of one of the study's evaluations."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.dataset = study.evaluation.datasets[name].dataset
            config.evaluation_split = study.evaluation.datasets[name].split
            config.evaluation_min_objects = 0
            config.evaluation_max_objects = 0
            config.init_from = ""
        return config

    def table_path(self, dataset: str, num_slots: int) -> pathlib.Path:
        """Return where the measures of each example are kept."""
        return self.workdir / TABLES / f"{dataset}_slots_{num_slots}.npz"

    def samples_path(self, dataset: str, num_slots: int) -> pathlib.Path:
        """Return where the segmentations of the sample images are kept."""
        return self.workdir / TABLES / f"{dataset}_samples_slots_{num_slots}.npz"


def create(study: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Job]:
    """Return the jobs of a study, all variants of the first seed first.

    With a grid of learning rates these are all there may be: `learning_rates.chosen`
    tells which of them the report compares.

    Args:
      study: has `base`, the config of the experiment; `normalizations`; `seeds`;
        `learning_rates`, tried alike for every normalization, empty for that of
        `base`; and `train_settings`: changes of `base` by name.
      workdir: folder of the study.

    Raises:
      UserError: a field or value that there is not.
    """
    for name in ("normalizations", "seeds", "train_settings"):
        if not len(study[name]):
            raise UserError(f"config.{name}: is empty; name at least one")
    for name in study.normalizations:
        normalization.canonical_name(name)
    rates = study.learning_rates or (None,)
    jobs = []
    for seed, (setting, changes), name, rate in itertools.product(
        study.seeds, study.train_settings.items(), study.normalizations, rates
    ):
        config = ml_collections.ConfigDict(study.base.to_dict()).lock()
        config.update({"update_normalization": name, "seed": seed})
        try:
            config.update(changes)
        except (KeyError, AttributeError, TypeError) as error:
            reason = error.args[0].partition(" since ")[0]
            raise UserError(f"config.train_settings.{setting}: {reason}") from None
        folder = f"{setting}_{name}_seed_{seed}"
        if rate is not None:
            config.optimizer.learning_rate = rate
            folder += f"_rate_{rate:g}"
        jobs.append(Job(setting, name, seed, rate, config, workdir / RUNS / folder))
    return jobs


def is_finished(job: Job, study: ml_collections.ConfigDict) -> bool:
    """Return whether a job has trained and evaluated all that the study asks for."""
    return (
        is_trained(job)
        and not _missing_tables(job, study)
        and not _missing_samples(job, study)
    )


def is_trained(job: Job) -> bool:
    """Return whether a job's run has taken and evaluated all its steps."""
    has_checkpoints = (job.workdir / workdir_lib.CHECKPOINTS).exists()
    return has_checkpoints and training_run.is_finished(job.workdir, job.config)


def _expected(job: Job, name: str, study: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return what a table must have been made with to be of use."""
    data = study.evaluation.datasets[name]
    return {
        "step": job.config.num_train_steps,
        "num_iterations": study.evaluation.num_iterations,
        "dataset": data.dataset,
        "split": data.split,
        "resolution": job.config.evaluation_resolution,
        "evaluation_seed": job.config.evaluation_seed,
        "num_validation_examples": job.config.num_validation_examples,
    }


def read_arrays(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (columns, settings) of a table or of samples."""
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    return columns, json.loads(str(columns.pop("settings")))


def _write_arrays(path: pathlib.Path, columns: dict[str, np.ndarray], settings: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": np.array(json.dumps(settings)), **columns}
    files.write(path, lambda file: np.savez_compressed(file, **content))


def _is_made(path: pathlib.Path, expected: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    with np.load(path) as file:
        settings = json.loads(str(file["settings"]))
    return all(settings.get(name) == value for name, value in expected.items())


def _missing_tables(job: Job, study) -> list[tuple[str, int]]:
    return [
        (name, num_slots)
        for name in study.evaluation.datasets
        for num_slots in study.evaluation.num_slots
        if not _is_made(job.table_path(name, num_slots), _expected(job, name, study))
    ]


def _missing_samples(job: Job, study) -> list[tuple[str, int]]:
    if not study.evaluation.num_samples:
        return []
    return [
        (name, num_slots)
        for name in study.evaluation.datasets
        for num_slots in study.evaluation.sample_slots
        if not _is_made(
            job.samples_path(name, num_slots),
            _expected(job, name, study) | {"num_samples": study.evaluation.num_samples},
        )
    ]


def run(job: Job, study: ml_collections.ConfigDict, evaluate: bool = True) -> int:
    """Train and, unless it is a trial, evaluates what is left of a job.

    Returns:
      the exit code: 0 finished, 124 stopped to be started again.

    Raises:
      UserError: bad input; one line for the user.
    """
    code = train.train(job.config, job.workdir)
    if code or not evaluate:
        return code
    try:
        with preemption.Preemption(job.config.time_limit_h) as stop:
            for name in study.evaluation.datasets:
                _evaluate(job, study, name, stop)
    except preemption.Preempted as reason:
        logging.info("stopping: %s; start it again to go on", reason)
        return preemption.EXIT_CODE
    return 0


def _evaluate(job: Job, study, name: str, stop: preemption.Preemption):
    """Evaluate a job on one dataset, with each number of slots not yet done."""
    tables = [slots for n, slots in _missing_tables(job, study) if n == name]
    samples = [slots for n, slots in _missing_samples(job, study) if n == name]
    if not tables and not samples:
        return
    workdir_lib.check_writable(job.workdir / TABLES)
    config = job.evaluation_config(name, study)
    devices = Devices(config.parallelism)
    dataset = tasks.open_dataset(config)
    run_data.check_projection(job.workdir, dataset.feature_settings)
    task = tasks.create(config, dataset)
    evaluator = evaluate_lib.Evaluator(task, devices)
    step = config.num_train_steps
    variables, _ = init_from.load_variables(task, job.workdir, step)
    on_devices = devices.put_state(variables)
    split, num_iterations = config.evaluation_split, study.evaluation.num_iterations
    for num_slots in tables:
        started = time.time()
        table = evaluator.run(
            on_devices,
            split,
            num_slots=num_slots,
            num_iterations=num_iterations,
            check=stop.check,
        )
        settings = _expected(job, name, study) | {
            "num_slots": num_slots,
            "seconds": time.time() - started,
            "fingerprints": task.dataset.fingerprints,
            "versions": _versions(),
        }
        columns = {"index": table.index} | table.columns()
        _write_arrays(job.table_path(name, num_slots), columns, settings)
        logging.info("%s: evaluated with %d slots", name, num_slots)
    for num_slots in samples:
        stop.check()
        count = study.evaluation.num_samples
        indices = sample_indices(
            task.dataset,
            split,
            evaluator.select(split),
            count,
            study.evaluation.datasets[name].min_objects,
        )
        predicted = evaluator.predict(
            variables,
            split,
            indices,
            ml_collections.ConfigDict(
                {"num_slots": num_slots, "num_iterations": num_iterations}
            ),
        )
        shown = predictions.choose(predicted, task.dataset).prediction
        columns = {"index": indices, shown: predicted[shown]}
        settings = _expected(job, name, study) | {"num_samples": count}
        _write_arrays(job.samples_path(name, num_slots), columns, settings)


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    versions["Python"] = platform.python_version()
    return versions | {"device": jax.devices()[0].device_kind}


def sample_indices(
    dataset, split: str, indices: np.ndarray, count: int, min_objects: int
) -> np.ndarray:
    """Return `count` examples, from those of fewest objects to those of most."""
    num_objects = dataset.read(split, "num_objects", indices)
    order = np.argsort(num_objects, kind="stable")
    order = order[num_objects[order] >= min_objects]
    places = (np.arange(count) + 0.5) * len(order) / count
    return indices[order[places.astype(int)]]


def times(job: Job, study: ml_collections.ConfigDict) -> dict[str, float]:
    """Return the seconds that a job has taken, over all its starts."""
    lines = workdir_lib.read_lines(job.workdir / writers.METRICS_FILE)
    walls = [line["time/wall_s"] for line in lines if "time/wall_s" in line]
    evaluation = sum(
        read_arrays(path)[1]["seconds"]
        for name in study.evaluation.datasets
        for slots in study.evaluation.num_slots
        if (path := job.table_path(name, slots)).exists()
    )
    return {"train_s": max(walls, default=0.0), "evaluate_s": evaluation}
