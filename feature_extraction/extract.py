"""Writes features to a store: `python -m feature_extraction.extract --encoder=...`."""

import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags, logging
from rich.console import Console

from data import progress
from data.manifest import feature_root
from data.store import Store, StoreError, StoreWriter
from feature_extraction import encoders

_DATASET = flags.DEFINE_string("dataset", None, "Name of the dataset.", required=True)
_NAME = flags.DEFINE_string("name", None, "Store of the images, default --dataset.")
_DATA_DIR = flags.DEFINE_string("data_dir", "datasets", "Folder of the stores.")
_ENCODER = flags.DEFINE_string(
    "encoder", None, "patches, or the name of any timm ViT.", required=True
)
_SHARD = flags.DEFINE_string("shard", "0/1", "I/N: part I of N jobs, from 0.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images encoded at once.")
_REPAIR = flags.DEFINE_boolean(
    "repair", False, "Read finished shards too, and write damaged ones again."
)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 8, "patches: side in pixels.")
_WEIGHTS = flags.DEFINE_string("weights", None, "ViT: torch or safetensors file.")
_LAYER = flags.DEFINE_integer("layer", None, "ViT: block to take, default the last.")
_FINAL_NORM = flags.DEFINE_boolean("final_norm", True, "ViT: apply the last LayerNorm.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "float16", "bfloat16"], "ViT: compute dtype."
)
_DEVICE = flags.DEFINE_string("device", None, "ViT: cuda or cpu, default cuda if any.")


def _part(value: str) -> tuple[int, int]:
    index, _, count = value.partition("/")
    if not (index.isdigit() and count.isdigit()) or int(index) >= int(count):
        raise StoreError(f"--shard={value}: must be I/N with I from 0 to N-1")
    return int(index), int(count)


def _damaged(root: pathlib.Path, split: str, shards: list[int]) -> list[int]:
    """Returns those of the finished shards whose file is damaged."""
    store = Store.open(root, allow_incomplete=True)
    damaged = []
    for shard in shards:
        reason = store.check_shard(split, "features", shard)
        if reason:
            logging.warning("%s", reason)
            damaged.append(shard)
    return damaged


def extract(
    data_dir: str | pathlib.Path,
    name: str,
    encoder_name: str,
    options: encoders.Options,
    *,
    part: tuple[int, int] = (0, 1),
    repair: bool = False,
) -> pathlib.Path:
    """Writes the features of a store of images, or what is missing of them.

    Args:
      data_dir: folder of the stores.
      name: store of the images.
      encoder_name: `patches`, or the name of a timm ViT.
      options: of the encoder.
      part: (I, N): this job does every Nth shard, from I on; jobs need nothing of
        each other but the file system.
      repair: also read the shards that are there and write damaged ones again.

    Returns:
      the folder of the feature store.

    Raises:
      StoreError: one line on bad input, another store under the name, or no room.
    """
    source = Store.open(pathlib.Path(data_dir) / name)
    encoder = encoders.create(encoder_name, source, options)
    root = feature_root(data_dir, name, encoder_name)
    writer = StoreWriter.create(
        root,
        dataset=source.manifest["dataset"],
        source={"name": name, "fingerprint": source.fingerprint},
        settings=encoder.settings | {"source_fingerprint": source.fingerprint},
        fields={"features": ((encoder.num_tokens, encoder.feature_dim), "float16")},
        splits=source.splits,
        examples_per_shard=source.examples_per_shard,
    )
    jobs = []
    for split in writer.splits:
        missing = set(writer.missing_shards(split))
        mine = list(range(writer.num_shards(split)))[part[0] :: part[1]]
        if repair:
            there = [shard for shard in mine if shard not in missing]
            missing |= set(_damaged(root, split, there))
        jobs += [(split, shard) for shard in mine if shard in missing]
    if jobs:
        _write(source, writer, encoder, jobs, options.batch_size)
    if writer.finish():
        logging.info("complete: %s", root)
    else:
        left = sum(len(writer.missing_shards(split)) for split in writer.splits)
        logging.info("this part is done; %d shards are left to other jobs", left)
    return root


def _write(source, writer, encoder, jobs, batch_size):
    sizes = [writer.shard_range(*job) for job in jobs]
    total = sum(stop - start for start, stop in sizes)
    with progress.Progress(f"writing {writer.root}", total, "images") as bar:
        written = 0
        for (split, shard), (start, stop) in zip(jobs, sizes, strict=True):
            images = source.read(split, "image", np.arange(start, stop))
            parts = [
                encoder(images[first : first + batch_size])
                for first in range(0, len(images), batch_size)
            ]
            features = np.concatenate(parts)
            if not np.isfinite(features).all():
                raise StoreError(
                    f"--encoder={encoder.settings['encoder']}: features of shard "
                    f"{shard} of {split} do not fit float16"
                )
            writer.write_shard(split, shard, {"features": features})
            written += features.nbytes
            bar.advance(len(images), f"{written / 1e9:.2f} GB")


def _arguments(argv: list[str]) -> list[Any]:
    # absl spells a switched-off flag --nofinal_norm; people type dashes.
    return ["--nofinal_norm" if a == "--no-final-norm" else a for a in argv]


def main(argv: list[str]) -> int:
    """Runs `extract` with the command line's flags; returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags are --name=value")
    logging.set_verbosity(logging.INFO)
    try:
        if _BATCH_SIZE.value <= 0:
            raise StoreError(f"--batch_size={_BATCH_SIZE.value}: must be above 0")
        options = encoders.Options(
            patch_size=_PATCH_SIZE.value,
            weights=pathlib.Path(_WEIGHTS.value) if _WEIGHTS.value else None,
            layer=_LAYER.value,
            final_norm=_FINAL_NORM.value,
            dtype=_DTYPE.value,
            device=_DEVICE.value,
            batch_size=_BATCH_SIZE.value,
        )
        extract(
            _DATA_DIR.value,
            _NAME.value or _DATASET.value,
            _ENCODER.value,
            options,
            part=_part(_SHARD.value),
            repair=_REPAIR.value,
        )
    except StoreError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    app.run(main, argv=_arguments(sys.argv))
