"""The scenes of scanned objects of `data.tabletop` as a dataset."""

import functools
import importlib.util
import pathlib

from sanorm_jax.core.errors import UserError

from ..tabletop import assets, catalogue
from . import rendered
from .base import Example, Options, Source, class_fields

SPLITS = {"train": 10_000, "validation": 1_000, "validation_unseen": 1_000}
_DEFAULT_OBJECTS = (3, 6)
_MAX_OBJECTS = 10
_MAX_FRAMES = 240
_PER_SHARD = 32
# Modules of the extra `scenes`.
_NEEDED = ("mujoco", "mitsuba", "fast_simplification")


def _example_at(
    split: str, index: int, *, cache: pathlib.Path, settings: dict
) -> Example:
    # MuJoCo and Mitsuba are an extra, and only the workers load them.
    from ..tabletop import scenes

    return scenes.render(
        cache,
        settings["seed"],
        split,
        index,
        size=settings["image_size"],
        limits=rendered.limits(settings, split),
        num_rows=settings["max_objects"],
        num_frames=settings.get("num_frames"),
    )


def build(options: Options) -> Source:
    """Return the source of rendered scenes.

    `--source` may be a folder of the wheels. With `--frames`, each frame of a video is
    an example, as in MOVi.
    """
    options.reject()
    if options.source is not None and not options.source.is_dir():
        raise UserError(
            f"--source={options.source}: not a folder; pass the folder of the wheels "
            "with tabletop's objects"
        )
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--dataset=tabletop: needs {', '.join(missing)}; install with pip install "
            "-e '.[scenes]'"
        )
    size = options.check_image_size(128, 16, 512)
    settings = rendered.settings(options, SPLITS, _DEFAULT_OBJECTS, _MAX_OBJECTS)
    # Stores of renderers whose output differs must never be mixed.
    settings |= {"renderer": 1, "image_size": size}
    settings["categories"] = list(catalogue.CATEGORIES)
    max_objects = settings["max_objects"]
    fields = class_fields(size, max_objects, "uint8")
    if options.frames is None:
        fields["position"] = ((max_objects, 3), "float32")
        fields["pixel_coords"] = ((max_objects, 3), "float32")
        fields["radius"] = ((max_objects,), "float32")
    else:
        _check_frames(options)
        settings["num_frames"] = options.frames
        fields |= {"video": ((), "int32"), "frame": ((), "int32")}
    return Source(
        source={"generator": "data.tabletop", "assets": catalogue.WHEELS},
        settings=settings,
        fields=fields,
        splits=options.splits or SPLITS,
        examples_per_shard=options.frames or _PER_SHARD,
        file_an_example=True,
        begin=functools.partial(assets.fetch, options.data_dir, options.source),
        example=functools.partial(
            _example_at, cache=assets.folder(options.data_dir), settings=settings
        ),
    )


def _check_frames(options: Options):
    if not 1 <= options.frames <= _MAX_FRAMES:
        raise UserError(
            f"--frames={options.frames}: out of range; choose 1 to {_MAX_FRAMES}"
        )
    if options.splits is None:
        raise UserError(
            "--splits: required with --frames; pass the number of frames per split"
        )
    options.check_videos(options.frames)
