"""MOVi-C, D and E, written by tfds in the format of the published builders.

Features, types and shapes are those of the published 128 x 128 variant. Only the number
of videos is smaller.
"""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

NUM_FRAMES, SIZE = 24, 128
COUNTS = {"train": 3, "validation": 2, "test": 2}
CATEGORIES = (
    "Action Figures",
    "Bag",
    "Board Games",
    "Bottles and Cans and Cups",
    "Camera",
    "Car Seat",
    "Consumer Goods",
    "Hat",
    "Headphones",
    "Keyboard",
    "Legos",
    "Media Cases",
    "Mouse",
    "None",
    "Shoe",
    "Stuffed Toys",
    "Toys",
)
_S, _H = NUM_FRAMES, SIZE


def _tensor(*shape, dtype=np.float32):
    return tfds.features.Tensor(shape=shape, dtype=dtype)


def _instance(is_dynamic: bool) -> dict:
    features = {
        **dict.fromkeys(("mass", "friction", "restitution"), np.float32),
        "positions": _tensor(_S, 3),
        "quaternions": _tensor(_S, 4),
        "velocities": _tensor(_S, 3),
        "angular_velocities": _tensor(_S, 3),
        "bboxes_3d": _tensor(_S, 8, 3),
        "image_positions": _tensor(_S, 2),
        "bboxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
        "bbox_frames": tfds.features.Sequence(_tensor(dtype=np.int32)),
        "visibility": _tensor(_S, dtype=np.uint16),
        "asset_id": tfds.features.Text(),
        "category": tfds.features.ClassLabel(names=list(CATEGORIES)),
        "scale": np.float32,
    }
    return features | ({"is_dynamic": np.bool_} if is_dynamic else {})


def _features(is_dynamic: bool) -> tfds.features.FeaturesDict:
    def images(channels, dtype):
        image = tfds.features.Image(shape=(_H, _H, channels), dtype=dtype)
        return tfds.features.Sequence(image, length=_S)

    def flow():
        return tfds.features.Sequence(_tensor(_H, _H, 2, dtype=np.uint16), length=_S)

    def video(dtype):
        return tfds.features.Video(shape=(_S, _H, _H, 3), dtype=dtype)

    collision = {
        "instances": _tensor(2, dtype=np.uint16),
        "frame": np.int32,
        "force": np.float32,
        "position": _tensor(3),
        "image_position": _tensor(2),
        "contact_normal": _tensor(3),
    }
    ranges = ("depth_range", "forward_flow_range", "backward_flow_range")
    return tfds.features.FeaturesDict(
        {
            "metadata": {
                "video_name": tfds.features.Text(),
                **dict.fromkeys(("width", "height", "num_frames"), np.int32),
                "num_instances": np.uint16,
                **{name: _tensor(2) for name in ranges},
            },
            "background": tfds.features.Text(),
            "instances": tfds.features.Sequence(_instance(is_dynamic)),
            "camera": {
                **dict.fromkeys(
                    ("focal_length", "sensor_width", "field_of_view"), np.float32
                ),
                "positions": _tensor(_S, 3),
                "quaternions": _tensor(_S, 4),
            },
            "events": {"collisions": tfds.features.Sequence(collision)},
            "video": video(np.uint8),
            "segmentations": images(1, np.uint8),
            "forward_flow": flow(),
            "backward_flow": flow(),
            "depth": images(1, np.uint16),
            "normal": video(np.uint16),
            "object_coordinates": video(np.uint16),
        }
    )


def _object(rng, is_dynamic: bool) -> dict:
    def floats(*shape):
        return rng.normal(size=shape).astype(np.float32)

    values = {
        **{name: 0.5 for name in ("mass", "friction", "restitution", "scale")},
        "positions": floats(_S, 3),
        "quaternions": floats(_S, 4),
        "velocities": floats(_S, 3),
        "angular_velocities": floats(_S, 3),
        "bboxes_3d": floats(_S, 8, 3),
        "image_positions": floats(_S, 2),
        "bboxes": [tfds.features.BBox(0.1, 0.2, 0.3, 0.4)] * 2,
        "bbox_frames": np.array([3, 5], np.int32),
        "visibility": rng.integers(0, 99, _S, np.uint16),
        "asset_id": "Shoe_7",
        "category": int(rng.integers(len(CATEGORIES))),
    }
    return values | ({"is_dynamic": True} if is_dynamic else {})


def video(split: str, number: int, max_objects: int, is_dynamic: bool) -> dict:
    """Return the features of a video with 1 to `max_objects` objects."""
    rng = np.random.default_rng([list(COUNTS).index(split), number])
    count = int(rng.integers(max(1, max_objects - 3), max_objects + 1))

    def layer(channels, dtype, high):
        # Blocks of 8 x 8 pixels, because noise in single pixels would not compress.
        small = rng.integers(0, high, (_S, _H // 8, _H // 8, channels))
        return small.repeat(8, 1).repeat(8, 2).astype(dtype)

    return {
        "metadata": {
            "video_name": str(number),
            "width": _H,
            "height": _H,
            "num_frames": _S,
            "num_instances": count,
            "depth_range": np.array([1, 9], np.float32),
            "forward_flow_range": np.array([-4, 4], np.float32),
            "backward_flow_range": np.array([-4, 4], np.float32),
        },
        "background": "lebombo",
        "instances": [_object(rng, is_dynamic) for _ in range(count)],
        "camera": {
            "focal_length": 35.0,
            "sensor_width": 32.0,
            "field_of_view": 0.86,
            "positions": rng.normal(size=(_S, 3)).astype(np.float32),
            "quaternions": rng.normal(size=(_S, 4)).astype(np.float32),
        },
        "events": {
            "collisions": [
                {
                    "instances": np.array([0, 65535], np.uint16),
                    "frame": 4,
                    "force": 1.5,
                    "position": np.zeros(3, np.float32),
                    "image_position": np.zeros(2, np.float32),
                    "contact_normal": np.zeros(3, np.float32),
                }
            ]
        },
        "video": layer(3, np.uint8, 256),
        "segmentations": layer(1, np.uint8, count + 1),
        "forward_flow": layer(2, np.uint16, 65536),
        "backward_flow": layer(2, np.uint16, 65536),
        "depth": layer(1, np.uint16, 65536),
        "normal": layer(3, np.uint16, 65536),
        "object_coordinates": layer(3, np.uint16, 65536),
    }


class _Movi(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="128x128")]  # noqa: RUF012
    # Nothing is downloaded. Looking up checksums would need another package.
    url_infos = {}  # noqa: RUF012
    max_objects, is_dynamic = 10, False

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=_features(self.is_dynamic))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
        for number in range(COUNTS[split]):
            yield number, video(split, number, self.max_objects, self.is_dynamic)


class MoviC(_Movi, skip_registration=True):
    """MOVi-C."""


class MoviD(_Movi, skip_registration=True):
    """MOVi-D."""

    max_objects, is_dynamic = 23, True


class MoviE(_Movi, skip_registration=True):
    """MOVi-E."""

    max_objects, is_dynamic = 23, True


BUILDERS = {"movi_c": MoviC, "movi_d": MoviD, "movi_e": MoviE}


def write(data_dir: pathlib.Path, dataset: str) -> pathlib.Path:
    """Write a builder's folder with two record files per split."""
    builder = BUILDERS[dataset](data_dir=data_dir, config="128x128")
    config = tfds.download.DownloadConfig(num_shards=2)
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=config)
    return pathlib.Path(builder.data_dir)
