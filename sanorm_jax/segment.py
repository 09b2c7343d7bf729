"""Segments images with a trained run: a label map and an overlay for each of them."""

import collections
import concurrent.futures
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from PIL import Image

from sanorm_jax import tasks
from sanorm_jax.core import progress, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.drawing import figures
from sanorm_jax.evaluate import settings_grid
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.parameters.init_from import load_variables
from sanorm_jax.tasks.base import Task

DIRECTORY = "segmentations"
# Labels are written as 8 bits.
MAX_SLOTS = 256
# Of the masks of a batch: bounds the memory that large images take.
_MAX_MASK_VALUES = 2**26
# Drawings under way; each holds an image.
_WAITING = 16


def segment(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    dataset: str = "",
    data_dir: str | pathlib.Path | None = None,
    split: str = "",
    num_slots: Sequence[int] = (),
    num_iterations: Sequence[int] = (),
    step: int | None = None,
) -> pathlib.Path:
    """Segment all images of a split, with or without true labels.

    A pixel's label is the slot whose mask is largest there, from 0. For each image and
    setting, `labels/NAME.png` has the labels in 8 bits at the stored size of the image,
    and `overlays/NAME.png` shows them; NAME is that of the image's file, or its number.

    Args:
      config: of the run.
      workdir: folder of the run; only `segmentations/` in it is written.
      dataset: name of the store of images, default `config.dataset`.
      data_dir: folder of the stores, default `config.data_dir`.
      split: default `config.evaluation_split`, or the only one there is.
      num_slots: slot counts, default as in training.
      num_iterations: iteration counts, default as in training.
      step: of the checkpoint, default the newest.

    Returns:
      the folder written.

    Raises:
      UserError: no checkpoint, or a number out of range.
      UserError: no such data, or not of the size or encoder that the run reads.
    """
    settings = settings_grid(config, num_slots or (config.num_slots,), num_iterations)
    for setting in settings:
        if setting.num_slots > MAX_SLOTS:
            raise UserError(
                f"--num_slots={setting.num_slots}: label maps hold {MAX_SLOTS} at most"
            )
    workdir_lib.check_writable(workdir / DIRECTORY)
    config = _config(config, dataset, data_dir)
    opened = tasks.open_dataset(config)
    _check_data(run_data.read(workdir), opened, config)
    # Masks are made at the size of the images.
    config.evaluation_resolution = opened.fields["image"][0][0]
    compilation_cache.enable(config, workdir)
    devices = Devices(config.parallelism)
    task = tasks.create(config, opened)
    variables, step = load_variables(task, workdir, step)
    variables = devices.put_state(variables)
    split = split or _split(config, opened)
    names = _names(opened, split)
    directory = workdir / DIRECTORY / f"{config.dataset}_{split}_step_{step}"
    workdir_lib.check_writable(directory)
    for setting in settings:
        name = f"slots_{setting.num_slots}_iterations_{setting.num_iterations}"
        labels = _labels(task, devices, variables, split, setting)
        _write(directory / name, names, labels, opened.num_examples(split))
    return directory


def _config(
    config, dataset: str, data_dir: str | pathlib.Path | None
) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    config.dataset = dataset or config.dataset
    config.data_dir = str(data_dir or config.data_dir)
    return config


def _check_data(noted, dataset: pipeline.Dataset, config):
    where = f"--dataset={config.dataset}"
    if dataset.feature_settings is not None:
        run_data.check_features(
            noted["features"] or {}, dataset.feature_settings, where
        )
        return
    size = dataset.settings["image_size"]
    if size != noted["image_size"]:
        raise UserError(
            f"{where}: images of {size} pixels, the run was trained on "
            f"{noted['image_size']}; prepare them with --like=WORKDIR of the run"
        )


def _split(config, dataset: pipeline.Dataset) -> str:
    splits = list(dataset.splits)
    return splits[0] if len(splits) == 1 else config.evaluation_split


def _names(dataset: pipeline.Dataset, split: str) -> Callable[[int], str]:
    """Return what gives the name of an example's files, without suffix."""
    if dataset.file_names is None:
        digits = len(str(dataset.num_examples(split) - 1))
        return lambda index: f"{index:0{digits}d}"
    paths = [pathlib.PurePosixPath(name) for name in dataset.file_names]
    # Of a.png and a.jpg, both keep their suffix.
    count = collections.Counter(path.with_suffix("") for path in paths)
    names = [
        path.with_suffix("") if count[path.with_suffix("")] == 1 else path
        for path in paths
    ]
    return lambda index: str(names[index])


def _labels(task: Task, devices: Devices, variables, split: str, setting: Any):
    """Yield (indices [b], images [b, H, W, 3], labels [b, H, W] uint8)."""
    config, dataset = task.config, task.dataset
    rng = jax.random.PRNGKey(config.evaluation_seed)

    def predict(variables, batch):
        predicted = task.predict(
            variables, batch, rng, setting.num_slots, setting.num_iterations
        )
        return {"labels": predicted["segmentation"].astype(jnp.uint8)}

    function = devices.compile_evaluation(predict)
    values = setting.num_slots * np.prod(dataset.fields["image"][0][:2])
    parts = devices.num_devices * devices.hosts.count
    most = min(config.evaluation_batch_size, _MAX_MASK_VALUES // values)
    given = "features" if "features" in dataset.fields else "image"
    batches = pipeline.eval_batches(
        dataset,
        split,
        np.arange(dataset.num_examples(split)),
        fields=sorted({"image", given}),
        batch_size=max(most // parts, 1) * parts,
        host_index=devices.hosts.index,
        num_hosts=devices.hosts.count,
    )
    for batch in batches:
        images, mask = batch["image"], batch["mask"]
        read = devices.put_batch({key: batch[key] for key in (given, "index")})
        labels = devices.get_batch(function(variables, read))["labels"]
        yield batch["index"][mask], images[mask], labels[mask]


def _write(directory: pathlib.Path, names, batches, count: int):
    logging.info("writing %s", directory)

    def write(index: int, image: np.ndarray, labels: np.ndarray):
        name = f"{names(index)}.png"
        content = io.BytesIO()
        Image.fromarray(labels).save(content, "PNG")
        figures.write(content.getvalue(), directory / "labels" / name)
        overlay = figures.segmentation_overlay(image, labels)
        figures.save(overlay, directory / "overlays" / name)

    with (
        progress.Progress(f"segmenting {directory}", count, "images") as bar,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        waiting = collections.deque()
        for indices, images, labels in batches:
            for example in zip(indices.tolist(), images, labels, strict=True):
                waiting.append(pool.submit(write, *example))
                if len(waiting) > _WAITING:
                    waiting.popleft().result()
            bar.advance(len(indices))
        while waiting:
            waiting.popleft().result()
