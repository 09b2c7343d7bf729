"""Writes features to a store: `python -m feature_extraction.extract --encoder=...`.

May be killed at any moment: a second start does what is missing. Jobs of an array
(`--shard=I/N`) need nothing of each other but the file system.
"""

from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from sanorm_jax.core import commands, run_data
from sanorm_jax.core.errors import UserError

from .features import extract
from .options import DTYPES, RECORDED, Options

_DATASET = flags.DEFINE_string(
    "dataset", None, "Dataset of the images, as prepared.", required=True
)
_NAME = flags.DEFINE_string(
    "name",
    None,
    "Folder of the images in --data_dir, default --dataset; features go to the folder "
    "<name>-<encoder> beside it.",
)
_DATA_DIR = commands.define_path("data_dir", "datasets", "Folder of the stores.")
_ENCODER = flags.DEFINE_string("encoder", None, "patches, or the name of any timm ViT.")
_LIKE = commands.define_path(
    "like", None, "Folder of a run: take the encoder of its features, as it was there."
)
_SPLITS = flags.DEFINE_list("splits", None, "Splits to do now, default all.")
_SHARD = flags.DEFINE_string("shard", "0/1", "I/N: part I of N jobs, from 0.")
_REPAIR = flags.DEFINE_boolean(
    "repair", False, "Read finished shards too, and write damaged ones again."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images encoded at once, default 64 on GPUs and 8 on CPUs."
)
_COMPONENTS = flags.DEFINE_integer(
    "components", None, "Store so many principal components, default the features."
)
_WHITENING = flags.DEFINE_float(
    "whitening",
    Options.whitening,
    "Of the components: 0 keeps variances, 1 equals them.",
)
_PROJECTION_IMAGES = flags.DEFINE_integer(
    "projection_images", Options.projection_images, "Images of train to fit them on."
)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 8, "patches: side in pixels.")
_WEIGHTS = commands.define_path(
    "weights", None, "ViT: torch or safetensors file, default timm's from the network."
)
_LAYER = flags.DEFINE_integer("layer", None, "ViT: block from 0, default the last.")
_FINAL_NORM = flags.DEFINE_boolean(
    "final_norm", True, "ViT: apply the last LayerNorm; --no-final-norm: do not."
)
_INPUT_SIZE = flags.DEFINE_integer(
    "input_size", None, "ViT: side that images are resized to, default the model's own."
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    Options.dtype,
    DTYPES,
    "ViT: compute dtype. auto: bfloat16 if the device has instructions for it, else "
    "float32; a store that has begun keeps its dtype.",
)
_DEVICE = flags.DEFINE_string("device", None, "ViT: cuda or cpu, default cuda if any.")


def _part(value: str) -> tuple[int, int]:
    index, _, count = value.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(count):
        raise UserError(f"--shard={value}: must be I/N with I from 0 to N-1")
    return int(index), int(count)


def _arguments(argv: list[str]) -> list[str]:
    # absl spells a switched-off flag --nofinal_norm; people type dashes.
    spelled = ("--no-final-norm", "--no-final_norm", "--no_final_norm")
    return ["--nofinal_norm" if argument in spelled else argument for argument in argv]


def _like() -> Mapping[str, Any] | None:
    """Return the settings of the features of `--like`, None if it reads none."""
    projecting = ("components", "whitening", "projection_images")
    for name in ("encoder", *projecting, *RECORDED):
        if flags.FLAGS[name].present:
            raise UserError(f"--{name}: given by --like too; leave one of them out")
    return run_data.read(_LIKE.value)["features"]


def _options() -> Options:
    return Options(
        patch_size=_PATCH_SIZE.value,
        weights=_WEIGHTS.value,
        layer=_LAYER.value,
        final_norm=_FINAL_NORM.value,
        input_size=_INPUT_SIZE.value,
        dtype=_DTYPE.value,
        device=_DEVICE.value,
        batch_size=_BATCH_SIZE.value,
        components=_COMPONENTS.value,
        whitening=_WHITENING.value,
        projection_images=_PROJECTION_IMAGES.value,
    )


def _extract():
    options, encoder, like = _options(), _ENCODER.value, None
    if _LIKE.value is not None:
        like = _like()
        if like is None:
            logging.info("nothing to do: %s reads images", _LIKE.value)
            return
        options, encoder = options.like(like), like["encoder"]
    elif encoder is None:
        raise UserError("--encoder: give the name of one, or --like=WORKDIR")
    extract(
        _DATA_DIR.value,
        _NAME.value or _DATASET.value,
        encoder,
        options,
        dataset=_DATASET.value,
        splits=_SPLITS.value,
        part=_part(_SHARD.value),
        repair=_REPAIR.value,
        like=_LIKE.value,
    )


if __name__ == "__main__":
    commands.main(_extract, parse=lambda argv: commands.parse_flags(_arguments(argv)))
