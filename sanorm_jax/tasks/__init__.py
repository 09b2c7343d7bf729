"""Tasks: the model, loss, evaluation and inputs of each type of experiment."""

import ml_collections

from sanorm_jax.core.errors import check_name
from sanorm_jax.data import pipeline
from sanorm_jax.tasks.base import Description, Task
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
    dataset: pipeline.Dataset | Description,
    axis_name: str | None = None,
) -> Task:
    """Return the task that `config.task` names.

    Raises:
      UserError: The task or one of its options is unknown.
    """
    check_name("config.task", config.task, TASKS)
    return TASKS[config.task](config, dataset, axis_name)


def open_dataset(config: ml_collections.ConfigDict) -> pipeline.Dataset:
    """Return the dataset of the config.

    Raises:
      UserError: The dataset is missing, incomplete or damaged, or its features come
        from other images.
    """
    encoder = config.encoder or None
    return pipeline.open_dataset(config.data_dir, config.dataset, encoder=encoder)
