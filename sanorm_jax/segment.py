"""Segmentation of images by a trained run, written as label maps and overlays."""

import collections
import concurrent.futures
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging
from PIL import Image

from sanorm_jax import tasks, trained
from sanorm_jax.core import files, progress, published, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.drawing import figures
from sanorm_jax.evaluate import settings_grid
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache
from sanorm_jax.run.folder import workdir as workdir_lib

DIRECTORY = "segmentations"
# Label maps are 8-bit images.
MAX_SLOTS = 256
# Maximum number of images that wait to be drawn.
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

    The label of a pixel is the index of the slot with the largest mask there. For each
    image and setting, `labels/NAME.png` is an 8-bit label map of the size of the stored
    image, and `overlays/NAME.png` draws it over the image. NAME is the file name of the
    image, or its index. Only `segmentations/` in `workdir` is written; results of a
    published model go to `published.results_folder`.

    The defaults are the dataset, the folder and the split of the config (or the only
    split), the numbers of slots and iterations of training, and the newest checkpoint.

    Returns:
      The folder of the results.

    Raises:
      UserError: The run has no such checkpoint, a number is out of range, or the data
        does not exist or differs from the run's in size or encoder.
    """
    settings = settings_grid(config, num_slots or (config.num_slots,), num_iterations)
    for setting in settings:
        if setting.num_slots > MAX_SLOTS:
            raise UserError(
                f"--num_slots={setting.num_slots}: label maps hold at most "
                f"{MAX_SLOTS}; choose fewer slots"
            )
    results_folder = published.results_folder(workdir)
    workdir_lib.check_writable(results_folder / DIRECTORY)
    config = config.copy_and_resolve_references()
    config.dataset = dataset or config.dataset
    config.data_dir = str(data_dir or config.data_dir)
    opened = tasks.open_dataset(config)
    _check_data(run_data.read(workdir), opened, config)
    # Label maps have the size of the images.
    config.evaluation_resolution = opened.fields["image"][0][0]
    compilation_cache.enable(config, results_folder)
    devices = Devices(config.parallelism)
    run = trained.open_run(workdir, step, config=config, dataset=opened)
    if not split:
        splits = list(opened.splits)
        split = splits[0] if len(splits) == 1 else config.evaluation_split
    names = _names(opened, split)
    name = f"{config.dataset}_{split}_step_{run.step}"
    directory = results_folder / DIRECTORY / name
    workdir_lib.check_writable(directory)
    for setting in settings:
        name = f"slots_{setting.num_slots}_iterations_{setting.num_iterations}"
        labels = _labels(run, devices, split, setting)
        _write(directory / name, names, labels, opened.num_examples(split))
    return directory


def _check_data(recorded, dataset: pipeline.Dataset, config):
    where = f"--dataset={config.dataset}"
    if dataset.feature_settings is not None:
        run_data.check_features(
            recorded["features"] or {}, dataset.feature_settings, where
        )
        return
    size = dataset.settings["image_size"]
    if size != recorded["image_size"]:
        raise UserError(
            f"{where}: images of {size} pixels, but the run was trained on "
            f"{recorded['image_size']}; prepare them with --like=WORKDIR of the run"
        )


def _names(dataset: pipeline.Dataset, split: str) -> Callable[[int], str]:
    """Return a function from the index of an example to its NAME (see `segment`)."""
    if dataset.file_names is None:
        digits = len(str(dataset.num_examples(split) - 1))
        return lambda index: f"{index:0{digits}d}"
    paths = [pathlib.PurePosixPath(name) for name in dataset.file_names]
    # Files that differ only in their suffix keep it, such as a.png and a.jpg.
    count = collections.Counter(path.with_suffix("") for path in paths)
    names = [
        path.with_suffix("") if count[path.with_suffix("")] == 1 else path
        for path in paths
    ]
    return lambda index: str(names[index])


def _labels(run: trained.TrainedRun, devices: Devices, split: str, setting: Any):
    """Yield (indices `[b]`, images `[b, H, W, 3]`, labels `[b, H, W]` uint8)."""
    config, task, dataset = run.config, run.task, run.task.dataset
    compiled = trained.Compiled(task, devices.compile_evaluation)
    variables = devices.put_state(run.variables)
    height, width, _ = dataset.fields["image"][0]
    batches = pipeline.eval_batches(
        dataset,
        split,
        np.arange(dataset.num_examples(split)),
        fields=sorted({"image", task.input_field}),
        batch_size=trained.batch_size(
            config, devices, setting.num_slots * height * width
        ),
        host_index=devices.hosts.index,
        num_hosts=devices.hosts.count,
    )
    for batch in batches:
        images, mask = batch["image"], batch["mask"]
        inputs = {key: batch[key] for key in (task.input_field, "index")}
        out = compiled(
            "predict",
            variables,
            devices.put_batch(inputs),
            setting,
            config.evaluation_seed,
            outputs=("segmentation",),
        )
        labels = devices.get_batch(out)["segmentation"].astype(np.uint8)
        yield batch["index"][mask], images[mask], labels[mask]


def _write(directory: pathlib.Path, names, batches, count: int):
    logging.info("writing %s", directory)

    def write(index: int, image: np.ndarray, labels: np.ndarray):
        name = f"{names(index)}.png"
        content = io.BytesIO()
        Image.fromarray(labels).save(content, "PNG")
        path = directory / "labels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, content.getvalue())
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
