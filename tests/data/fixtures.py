"""Small files in the formats of the published datasets.

Features, types and shapes are the same as in the original files. Only the number of
examples is smaller.
"""

import json
import pathlib
import zipfile

import numpy as np
import tensorflow as tf
from PIL import Image

COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")


def _bytes(array: np.ndarray) -> tf.train.Feature:
    # As published: each byte is a separate string.
    values = [bytes([value]) for value in array.astype(np.uint8).ravel()]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _floats(array: np.ndarray) -> tf.train.Feature:
    values = np.asarray(array, np.float32).ravel()
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def write_records(
    path: pathlib.Path, examples: list[dict], repeats: int = 1
) -> pathlib.Path:
    """Write a gzip TFRecord file of examples {name: feature}, `repeats` times."""
    records = [
        tf.train.Example(
            features=tf.train.Features(feature=feature)
        ).SerializeToString()
        for feature in examples
    ]
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records * repeats:
            writer.write(record)
    return path


def _masks(rng, entities: int, count: int, height: int, width: int) -> np.ndarray:
    """Return disjoint masks [entities, H, W, 1] of 0 and 255; entity 0 is the rest."""
    labels = np.zeros((height, width), np.uint8)
    for number in range(1, count + 1):
        y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
        labels[y : y + height // 6, x : x + width // 6] = number
    return ((labels == np.arange(entities)[:, None, None]) * 255)[..., None]


def clevr_scene(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Return the values of a CLEVR-with-masks scene with `count` objects."""
    real = (np.arange(11) > 0) & (np.arange(11) <= count)
    values = {
        "image": rng.integers(0, 256, (240, 320, 3), np.uint8),
        "mask": _masks(rng, 11, count, 240, 320),
        "pixel_coords": rng.uniform(0, 240, (11, 3)) * real[:, None],
        "rotation": rng.uniform(0, 360, 11) * real,
        "visibility": (np.arange(11) <= count).astype(float),
        "z": rng.choice([0.35, 0.7], 11) * real,
    }
    values |= {axis: rng.uniform(-3, 3, 11) * real for axis in "xy"}
    kinds = (("size", 2), ("material", 2), ("shape", 3), ("color", 8))
    # Codes start at 1; 0 is the background or padding.
    return values | {n: rng.integers(1, m + 1, 11) * real for n, m in kinds}


def write_scenes(path: pathlib.Path, scenes: list[dict], repeats: int = 1):
    """Write a file of CLEVR with masks."""
    as_bytes = ("image", "mask", "size", "material", "shape", "color")
    features = [
        {n: (_bytes if n in as_bytes else _floats)(v) for n, v in scene.items()}
        for scene in scenes
    ]
    write_records(path, features, repeats)


def write_clevr_with_masks(
    path: pathlib.Path, counts: list[int]
) -> list[dict[str, np.ndarray]]:
    """Write one scene for each number of objects and return their values."""
    rng = np.random.default_rng(0)
    scenes = [clevr_scene(rng, count) for count in counts]
    write_scenes(path, scenes)
    return scenes


def write_tetrominoes(path: pathlib.Path, count: int) -> list[dict[str, np.ndarray]]:
    """Write images of three tetrominoes and return their values."""
    rng = np.random.default_rng(0)
    rgb = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    real = np.arange(4) > 0
    images = [
        {
            "image": rng.integers(0, 256, (35, 35, 3), np.uint8),
            "mask": _masks(rng, 4, 3, 35, 35),
            "x": rng.uniform(0, 35, 4) * real,
            "y": rng.uniform(0, 35, 4) * real,
            "shape": rng.integers(1, 18, 4) * real,
            "color": rgb[rng.integers(0, 6, 4)] * real[:, None],
            "visibility": np.ones(4),
        }
        for _ in range(count)
    ]
    write_records(
        path,
        [
            {
                n: (_bytes if n in ("image", "mask") else _floats)(v)
                for n, v in i.items()
            }
            for i in images
        ],
    )
    return images


def _scene(rng, split: str, index: int) -> dict:
    objects = [
        {
            "color": str(rng.choice(COLORS)),
            "size": str(rng.choice(["large", "small"])),
            "rotation": float(rng.uniform(0, 360)),
            "shape": str(rng.choice(["cube", "sphere", "cylinder"])),
            "3d_coords": rng.uniform(-3, 3, 3).tolist(),
            "material": str(rng.choice(["rubber", "metal"])),
            "pixel_coords": [*rng.integers(0, 320, 2).tolist(), rng.uniform(7, 15)],
        }
        for _ in range(rng.integers(3, 11))
    ]
    everyone = [list(range(i)) for i in range(len(objects))]
    return {
        "image_index": index,
        "objects": objects,
        "relationships": dict.fromkeys(("right", "behind", "front", "left"), everyone),
        "image_filename": f"CLEVR_{split}_{index:06d}.png",
        "split": split,
        "directions": {
            "right": [0.6563, 0.7544, -0.0],
            "behind": [-0.7544, 0.6563, 0.0],
            "above": [0.0, 0.0, 1.0],
            "below": [-0.0, -0.0, -1.0],
            "left": [-0.6563, -0.7544, 0.0],
            "front": [0.7544, -0.6563, -0.0],
        },
    }


def write_clevr(root: pathlib.Path, counts: dict[str, int]) -> dict[str, list[dict]]:
    """Write the folder CLEVR_v1.0 with images of 480 x 320 pixels.

    The split `test` has no scenes, as published.

    Returns:
      The scenes by split.
    """
    rng = np.random.default_rng(0)
    (root / "scenes").mkdir(parents=True)
    (root / "questions").mkdir()
    (root / "README.txt").write_text("CLEVR v1.0\n")
    scenes = {}
    for split, count in counts.items():
        (root / "images" / split).mkdir(parents=True)
        scenes[split] = [_scene(rng, split, index) for index in range(count)]
        for scene in scenes[split]:
            # Smooth and with an alpha channel, as rendered by Blender.
            small = rng.integers(0, 256, (8, 12, 4), np.uint8)
            small[..., 3] = 255
            image = Image.fromarray(small).resize((480, 320), Image.Resampling.BICUBIC)
            image.save(root / "images" / split / scene["image_filename"])
        if split != "test":
            info = {
                "split": split,
                "license": "Creative Commons Attribution (CC-BY 4.0)",
                "version": "1.0",
                "date": "2/14/2017",
            }
            (root / "scenes" / f"CLEVR_{split}_scenes.json").write_text(
                json.dumps({"info": info, "scenes": scenes[split]})
            )
    return scenes


def zip_folder(root: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Zip a folder as published: uncompressed, with the folder in all names."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in [root, *sorted(root.rglob("*"))]:
            archive.write(file, file.relative_to(root.parent))
    return path
