"""The jobs of a study: their list, their work and their state.

A job trains a run of one variant (a normalization or another mechanism), training
setting and seed. Then it evaluates the run, with one pass over a split for each number
of slots, and stores a table with one row per example. All numbers in the report come
from these tables. The results are files in the folder of the job, so a job that is
started again does only the remaining work.

The baselines and the sample images depend only on the data. They are computed once per
study, in the folder `data`.
"""

import dataclasses
import importlib.metadata
import itertools
import json
import pathlib
import platform
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from sanorm_jax import baselines, tasks, train, trained
from sanorm_jax import evaluate as evaluate_lib
from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError, check_name
from sanorm_jax.drawing import predictions
from sanorm_jax.models import initial_slots, merging, normalization
from sanorm_jax.run.distribution import preemption
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import training_run, writers
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.study import thresholds

RUNS = "runs"
DATA = "data"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study, or the evaluation of that run with merging.

    Attributes:
      index: Position in the list of the study's jobs.
      train_setting: Name in the study's `train_settings`.
      variant: Normalization of the slots' updates, or name of a mechanism.
      learning_rate: Learning rate of the study's grid; None without a grid.
      merges: Whether slots are merged in evaluation.
    """

    index: int
    train_setting: str
    variant: str
    seed: int
    learning_rate: float | None
    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    merges: bool = False

    @property
    def name(self) -> str:
        """Name of the job: that of the run's folder."""
        return self.workdir.name + ("_merged" if self.merges else "")

    @property
    def tables(self) -> pathlib.Path:
        """Folder of the results."""
        return self.workdir / ("study_merged" if self.merges else "study")

    def allows(self, num_slots: int) -> bool:
        """Return whether the model works with this number of slots."""
        one_count = self.config.model.slot_init in initial_slots.ONE_COUNT
        return not one_count or num_slots == self.config.num_slots

    def table_path(self, dataset: str, num_slots: int) -> pathlib.Path:
        """Return the file of the measures of each example."""
        return self.tables / f"{dataset}_slots_{num_slots}.npz"

    def samples_path(self, dataset: str, num_slots: int) -> pathlib.Path:
        """Return the file of the predictions for the sample images."""
        return self.tables / f"{dataset}_samples_slots_{num_slots}.npz"

    def baselines_path(self, dataset: str) -> pathlib.Path:
        """Return the study's file of the baselines of each example."""
        return self.workdir.parents[1] / DATA / f"{dataset}_baselines.npz"

    def images_path(self, dataset: str) -> pathlib.Path:
        """Return the study's file of the sample images."""
        return self.workdir.parents[1] / DATA / f"{dataset}_samples.npz"


def evaluation_config(
    config: ml_collections.ConfigDict, name: str, study: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Return a config with the data of one of the study's evaluations."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.dataset = study.evaluation.datasets[name].dataset
    config.evaluation_split = study.evaluation.datasets[name].split
    config.evaluation_min_objects = 0
    config.evaluation_max_objects = 0
    config.init_from = ""
    return config.lock()


def create(study: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Job]:
    """Return the jobs of a study; those of the first seed come first.

    `study.base` is the config of a run. `mechanisms` and `train_settings` are changes
    to it by name. `variants` are normalizations or names of mechanisms.
    `learning_rates` is the grid for each variant; if empty, the rate of `base` is used.
    With a grid, the report compares only the jobs that `learning_rates.chosen` returns.

    Raises:
      UserError: A field or value does not exist.
    """
    for name in ("variants", "seeds", "train_settings"):
        if not len(study[name]):
            raise UserError(f"config.{name}: is empty; set at least one")
    for threshold in study.merge_thresholds:
        merging.check_threshold("config.merge_thresholds", threshold)
    for result, name in study.merged.items():
        check_name(f"config.merged.{result}", name, study.variants)
    rates = study.learning_rates or (None,)
    jobs = []
    for seed, (setting, changes), name, rate in itertools.product(
        study.seeds, study.train_settings.items(), study.variants, rates
    ):
        config = ml_collections.ConfigDict(study.base.to_dict()).lock()
        config.seed = seed
        if name in study.mechanisms:
            _change(config, study.mechanisms[name], f"config.mechanisms.{name}")
        else:
            config.update_normalization = normalization.canonical_name(name)
        _change(config, changes, f"config.train_settings.{setting}")
        folder = f"{setting}_{name}_seed_{seed}"
        if rate is not None:
            config.optimizer.learning_rate = rate
            folder += f"_rate_{rate:g}"
        path = workdir / RUNS / folder
        job = Job(len(jobs), setting, name, seed, rate, config, path)
        if not evaluated_slots(job, study):
            raise UserError(
                f"config.evaluation.num_slots: lacks {config.num_slots}, the only "
                f"number of slots of {name}; add it"
            )
        jobs.append(job)
    return jobs


def results_of(job: Job, study: ml_collections.ConfigDict) -> list[Job]:
    """Return a job and, if its variant is also evaluated with merging, that job."""
    merged = [
        dataclasses.replace(job, variant=result, merges=True)
        for result, name in study.merged.items()
        if name == job.variant
    ]
    return [job, *merged]


def evaluated_slots(job: Job, study: ml_collections.ConfigDict) -> list[int]:
    """Return the numbers of slots that a job is evaluated with."""
    return [k for k in study.evaluation.num_slots if job.allows(k)]


def _change(config: ml_collections.ConfigDict, changes: Mapping, field: str):
    try:
        config.update(changes)
    except (KeyError, AttributeError, TypeError) as error:
        reason = error.args[0].partition(" since ")[0]
        raise UserError(f"{field}: {reason}") from None


def is_finished(job: Job, study: ml_collections.ConfigDict) -> bool:
    """Return whether a job is trained, with all evaluations that the study asks for."""
    return all(
        is_reportable(result, study) and has_label_maps(result, study)
        for result in results_of(job, study)
    )


def has_label_maps(job: Job, study: ml_collections.ConfigDict) -> bool:
    """Return whether a reportable job has all the label maps that it needs."""
    return not any(
        _missing_samples(job, name, study) for name in study.evaluation.datasets
    )


def is_reportable(job: Job, study: ml_collections.ConfigDict) -> bool:
    """Return whether a job is finished, except perhaps for its label maps."""
    return is_trained(job) and not any(
        _missing_tables(job, name, study)
        or _missing_samples(job, name, study, label_maps=False)
        or _missing_data(job, name, study)
        for name in study.evaluation.datasets
    )


def is_trained(job: Job) -> bool:
    """Return whether a job's run has taken and evaluated all its steps."""
    return training_run.is_finished(job.workdir, job.config)


def _expected_data(
    config: ml_collections.ConfigDict, name: str, study: ml_collections.ConfigDict
) -> dict[str, Any]:
    """Return the settings of the data that an up-to-date file has."""
    return {
        "dataset": study.evaluation.datasets[name].dataset,
        "split": study.evaluation.datasets[name].split,
        "resolution": config.evaluation_resolution,
        "num_validation_examples": config.num_validation_examples,
    }


def _expected(job: Job, name: str, study: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the settings that an up-to-date file of the job has."""
    expected = _expected_data(job.config, name, study) | {
        "step": job.config.num_train_steps,
        "num_iterations": study.evaluation.num_iterations,
        "evaluation_seed": job.config.evaluation_seed,
    }
    if job.merges:
        expected["merge_thresholds"] = list(study.merge_thresholds)
    return expected


def read_arrays(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (columns, settings) of a table, of samples or of baselines."""
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


def _missing_tables(job: Job, name: str, study) -> list[int]:
    """Return the numbers of slots without a table for a dataset."""
    expected = _expected(job, name, study)
    return [
        num_slots
        for num_slots in evaluated_slots(job, study)
        if not _is_made(job.table_path(name, num_slots), expected)
    ]


def _missing_samples(job: Job, name: str, study, label_maps=True) -> list[int]:
    """Return the numbers of slots without predictions for a dataset's sample images.

    The first seed also needs label maps with each number of slots, which the page of
    the study shows on demand.
    """
    if not study.evaluation.num_samples:
        return []
    expected = _expected(job, name, study)
    expected["num_samples"] = study.evaluation.num_samples
    slots = set(study.evaluation.sample_slots)
    if label_maps and job.seed == min(study.seeds):
        expected["label_maps"] = True
        slots.update(study.evaluation.num_slots)
    return [
        num_slots
        for num_slots in sorted(filter(job.allows, slots))
        if not _is_made(job.samples_path(name, num_slots), expected)
    ]


def _missing_data(job: Job, name: str, study) -> bool:
    """Return whether the baselines or the sample images of a dataset are missing."""
    expected = _expected_data(study.base, name, study)
    slots = {"num_slots": list(study.evaluation.num_slots)}
    count = {"num_samples": study.evaluation.num_samples}
    return not _is_made(job.baselines_path(name), expected | slots) or (
        study.evaluation.num_samples > 0
        and not _is_made(job.images_path(name), expected | count)
    )


def run(job: Job, study: ml_collections.ConfigDict, evaluate: bool = True) -> int:
    """Do the remaining training and, if `evaluate`, evaluation of a job.

    Returns:
      The exit code: 0 if finished, 124 if stopped before the end.
    """
    code = train.train(job.config, job.workdir)
    if code or not evaluate:
        return code
    try:
        with preemption.Preemption(job.config.time_limit_h) as stop:
            for name in study.evaluation.datasets:
                if _missing_data(job, name, study):
                    _evaluate_data(job, study, name, stop)
                for result in results_of(job, study):
                    _evaluate(result, study, name, stop)
    except preemption.Preempted as reason:
        logging.info("stopping: %s; the same command resumes", reason)
        return preemption.EXIT_CODE
    return 0


def _evaluate_data(job: Job, study, name: str, stop: preemption.Preemption):
    """Evaluate the baselines on one dataset, and copy its sample images."""
    config = evaluation_config(study.base, name, study)
    task = tasks.create(config, tasks.open_dataset(config))
    workdir_lib.check_writable(job.baselines_path(name).parent)
    evaluator = evaluate_lib.Evaluator(task, Devices(config.parallelism))
    split, num_slots = config.evaluation_split, list(study.evaluation.num_slots)
    expected = _expected_data(config, name, study)
    settings = expected | {"fingerprints": task.dataset.fingerprints}
    indices = evaluator.select(split)
    num_objects = task.dataset.read(split, "num_objects", indices)
    columns = {"index": indices, "num_objects": num_objects}
    methods = baselines.available(task, num_slots)
    if methods:
        columns |= evaluator.run_baselines(
            split, num_slots=num_slots, indices=indices, check=stop.check
        ).columns()
    _write_arrays(
        job.baselines_path(name),
        columns,
        settings | {"num_slots": num_slots, "methods": methods},
    )
    logging.info("%s: evaluated the baselines", name)
    if study.evaluation.num_samples:
        shown = _sample_indices(task, study, name, evaluator)
        examples = predictions.read_examples(task.dataset, split, shown)
        settings["num_samples"] = study.evaluation.num_samples
        _write_arrays(job.images_path(name), {"index": shown} | examples, settings)


def _evaluate(job: Job, study, name: str, stop: preemption.Preemption):
    """Evaluate a job on one dataset, with each number of slots that is missing."""
    tables = _missing_tables(job, name, study)
    samples = _missing_samples(job, name, study)
    if not tables and not samples:
        return
    workdir_lib.check_writable(job.tables)
    config = evaluation_config(job.config, name, study)
    if job.merges:
        path = job.tables / "thresholds.json"
        config.merge_threshold = thresholds.choose(
            job.workdir, job.config, study, path, stop.check
        )
    devices = Devices(config.parallelism)
    opened = trained.open_run(
        job.workdir,
        config.num_train_steps,
        config=config,
        dataset=tasks.open_dataset(config),
    )
    task, split = opened.task, config.evaluation_split
    evaluator = evaluate_lib.Evaluator(task, devices)
    variables = devices.put_state(opened.variables)
    num_iterations = study.evaluation.num_iterations
    for num_slots in tables:
        started = time.time()
        setting = trained.Setting(num_slots, num_iterations)
        table = evaluator.run(variables, split, setting, check=stop.check)
        settings = _expected(job, name, study) | {
            "num_slots": num_slots,
            "merge_threshold": config.merge_threshold,
            "seconds": time.time() - started,
            "fingerprints": task.dataset.fingerprints,
            "versions": _versions(),
        }
        columns = {"index": table.index} | table.columns()
        _write_arrays(job.table_path(name, num_slots), columns, settings)
        logging.info("%s: evaluated with %d slots", name, num_slots)
    for num_slots in samples:
        stop.check()
        indices = _sample_indices(task, study, name, evaluator)
        setting = trained.Setting(num_slots, num_iterations)
        predicted = evaluator.predict(opened.variables, split, indices, setting)
        shown = predictions.choose(predicted, task.dataset.fields).prediction
        columns = {"index": indices, shown: predicted[shown]}
        small = np.min_scalar_type(num_slots - 1)
        columns["segmentation"] = predicted["segmentation"].astype(small)
        settings = _expected(job, name, study) | {"label_maps": True}
        settings["num_samples"] = study.evaluation.num_samples
        _write_arrays(job.samples_path(name, num_slots), columns, settings)


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    versions["Python"] = platform.python_version()
    return versions | {"device": jax.devices()[0].device_kind}


def _sample_indices(task, study, name, evaluator) -> np.ndarray:
    """Return the indices of the sample images, in order of the number of objects."""
    split = study.evaluation.datasets[name].split
    indices, count = evaluator.select(split), study.evaluation.num_samples
    num_objects = task.dataset.read(split, "num_objects", indices)
    order = np.argsort(num_objects, kind="stable")
    order = order[num_objects[order] >= study.evaluation.datasets[name].min_objects]
    positions = (np.arange(count) + 0.5) * len(order) / count
    return indices[order[positions.astype(int)]]


def times(job: Job, study: ml_collections.ConfigDict) -> dict[str, float]:
    """Return the seconds that a job took over all its starts."""
    lines = workdir_lib.read_lines(job.workdir / writers.METRICS_FILE)
    walls = [line["time/wall_s"] for line in lines if "time/wall_s" in line]
    evaluation = sum(
        read_arrays(path)[1]["seconds"]
        for result in results_of(job, study)
        for name in study.evaluation.datasets
        for slots in study.evaluation.num_slots
        if (path := result.table_path(name, slots)).exists()
    )
    return {"train_s": max(walls, default=0.0), "evaluate_s": evaluation}
