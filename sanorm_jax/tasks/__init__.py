"""The experiments: what differs between them, and nothing else."""

import ml_collections

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.tasks.base import Task
from sanorm_jax.tasks.dinosaur import DinosaurTask
from sanorm_jax.tasks.object_discovery import ObjectDiscoveryTask
from sanorm_jax.tasks.property_prediction import PropertyPredictionTask

TASKS = {
    "dinosaur": DinosaurTask,
    "object_discovery": ObjectDiscoveryTask,
    "property_prediction": PropertyPredictionTask,
}


def create(
    config: ml_collections.ConfigDict,
    dataset: pipeline.Dataset,
    axis_name: str | None = None,
) -> Task:
    """Return the task that `config.task` names.

    Raises:
      UserError: no such task, or an option of it out of range.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task}: must be one of {', '.join(TASKS)}")
    return TASKS[config.task](config, dataset, axis_name)


def open_dataset(config: ml_collections.ConfigDict) -> pipeline.Dataset:
    """Return the dataset that the config names.

    Raises:
      UserError: missing, incomplete, damaged, or features of other images.
    """
    return pipeline.open_dataset(
        config.data_dir,
        config.dataset,
        encoder=config.encoder or None,
    )
