"""Extraction of features from a store of images to another store, shard by shard."""

import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from sanorm_jax.core import files, progress, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data.manifest import PROJECTION, feature_root
from sanorm_jax.data.store import Store, StoreWriter

from . import encoders, projection
from .options import Options

_Job = tuple[str, int]


def extract(
    data_dir: str | pathlib.Path,
    name: str,
    encoder_name: str,
    options: Options,
    *,
    dataset: str | None = None,
    splits: Sequence[str] | None = None,
    part: tuple[int, int] = (0, 1),
    repair: bool = False,
    like: pathlib.Path | None = None,
) -> pathlib.Path:
    """Write the missing shards of the features of a store of images.

    Args:
      data_dir: Folder of the stores.
      name: Name of the store of the images.
      encoder_name: Name of a timm ViT, or `patches`.
      options: Options of the encoder.
      dataset: Expected dataset of the images; any if None.
      splits: Splits to write; all if None.
      part: Index I of this job and number N of jobs; the job writes the shards I,
        I + N, I + 2 N and so on.
      repair: Whether to check existing shards and replace damaged ones.
      like: Folder of a run, whose encoder is used.

    Returns:
      The folder of the feature store.

    Raises:
      UserError: An option is invalid, the store exists with other settings, or the disk
        is full.
    """
    source = Store.open(pathlib.Path(data_dir) / name)
    if dataset not in (None, source.manifest["dataset"]):
        raise UserError(
            f"--dataset={dataset}: {source.root} holds {source.manifest['dataset']}; "
            "choose another --name"
        )
    for split in splits or ():
        if split not in source.splits:
            raise UserError(
                f"--splits={split}: not in {source.root}; choose from "
                f"{', '.join(source.splits)}"
            )
    recorded = None if like is None else run_data.read(like)["features"]
    if recorded is not None and options.weights is None:
        options = dataclasses.replace(options, weights=_weights_of(recorded, data_dir))
    root = feature_root(data_dir, name, encoder_name)
    if options.dtype == "auto":
        dtype = projection.recorded_dtype(root) or "auto"
        options = dataclasses.replace(options, dtype=dtype)
    encoder = encoders.create(encoder_name, source, options, recorded)
    fitted = (recorded or {}).get("projection")
    if fitted is not None:
        original = fitted, like / PROJECTION
        encoder = projection.project(encoder, source, root, options, original)
    elif options.components is not None:
        encoder = projection.project(encoder, source, root, options)
    if recorded is not None:
        run_data.check_features(recorded, encoder.settings, f"--encoder={encoder_name}")
    writer = StoreWriter.create(
        root,
        dataset=source.manifest["dataset"],
        source={"name": name, "fingerprint": source.fingerprint},
        settings=encoder.settings | {"source_fingerprint": source.fingerprint},
        fields={"features": ((encoder.num_tokens, encoder.feature_dim), "float16")},
        splits=source.splits,
        examples_per_shard=source.examples_per_shard,
    )
    jobs = _jobs(writer, splits or list(writer.splits), part, repair)
    if jobs:
        _write(source, writer, encoder, jobs)
    done = "" if jobs else "nothing to do, "
    if writer.finish():
        logging.info("%scomplete: %s", done, root)
    else:
        left = sum(len(writer.missing_shards(split)) for split in writer.splits)
        logging.info("%sincomplete: %d shards of %s left", done, left, root)
    return root


def _weights_of(
    settings: Mapping[str, Any], data_dir: str | pathlib.Path
) -> pathlib.Path | None:
    """Return the file in `<data_dir>/weights` with the recorded hash, or None."""
    for path in sorted(pathlib.Path(data_dir, "weights").glob("*.safetensors")):
        if files.sha256(path) == settings.get("weights"):
            logging.info("weights found: %s", path)
            return path
    return None


def _jobs(writer, splits, part, repair) -> list[_Job]:
    """Return the shards that this job must write."""
    index, count = part
    shards = [(s, i) for s in writer.splits for i in range(writer.num_shards(s))]
    mine = [job for job in shards[index::count] if job[0] in splits]
    missing = {(split, i) for split in splits for i in writer.missing_shards(split)}
    jobs = [job for job in mine if job in missing]
    if repair:
        jobs += _damaged(writer.root, [job for job in mine if job not in missing])
    return jobs


def _damaged(root: pathlib.Path, jobs: list[_Job]) -> list[_Job]:
    """Return the finished shards whose file is damaged."""
    store = Store.open(root, allow_incomplete=True)
    damaged = []
    with progress.Progress(f"checking {root}", len(jobs), "shards") as bar:
        for split, shard in jobs:
            reason = store.check_shard(split, "features", shard)
            if reason:
                logging.warning("%s", reason)
                damaged.append((split, shard))
            bar.advance(1)
    logging.info("checked %d finished shards: %d damaged", len(jobs), len(damaged))
    return damaged


def _write(source, writer, encoder, jobs):
    """Write shards; reading, encoding and writing overlap."""
    name = encoder.settings["encoder"]
    total = sum(stop - start for start, stop in (writer.shard_range(*j) for j in jobs))
    started, num_bytes = time.monotonic(), 0

    def read(split, shard):
        indices = np.arange(*writer.shard_range(split, shard))
        return source.read(split, "image", indices)

    def write(split, shard, features):
        nonlocal num_bytes
        if not np.isfinite(features).all():
            raise UserError(
                f"--encoder={name}: features of shard {shard} of {split} are not "
                "finite in float16; check the weights or choose another --layer"
            )
        writer.write_shard(split, shard, {"features": features})
        num_bytes += features.nbytes
        bar.advance(len(features), f"{num_bytes / 1e9:.2f} GB")

    with (
        progress.Progress(f"writing {writer.root}", total, "images") as bar,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        reading, writing = pool.submit(read, *jobs[0]), None
        for job, following in zip(jobs, [*jobs[1:], None], strict=True):
            images = reading.result()
            if following is not None:
                reading = pool.submit(read, *following)
            features = encoder(images)
            if writing is not None:
                writing.result()
            writing = pool.submit(write, *job, features)
        writing.result()
    seconds = time.monotonic() - started
    logging.info(
        "wrote %d images, %.2f GB in %.1f s: %.1f images/s, %.1f MB/s",
        total,
        num_bytes / 1e9,
        seconds,
        total / seconds,
        num_bytes / 1e6 / seconds,
    )
