"""Measure how much features compress, and the CPU time to read them.

    python -m benchmarks.store_compression
    python -m benchmarks.store_compression --store=datasets/NAME-ENCODER

Without a store, the features are those of a ViT-B/8 with random weights on rendered
scenes. They have the shape, scale and spatial smoothness of real features, but are not
pretrained. All codecs write the array of a store with one chunk per frame. Needs
PyTorch and timm without `--store`.
"""

import pathlib
import tempfile
import time
from typing import Any

import numpy as np
import tensorstore as ts
from absl import flags

from benchmarks import tables
from sanorm_jax.core import commands
from sanorm_jax.data import arrays
from sanorm_jax.data.sources.base import Options as SourceOptions
from sanorm_jax.data.sources.shapes import build
from sanorm_jax.data.store import Store

_STORE = commands.define_path(
    "store", None, "Folder of a store of features; its first split is used."
)
_FRAMES = flags.DEFINE_integer("frames", 16, "Number of frames.", 1)

MODEL = "vit_base_patch8_224"
NUM_READS = 5


def _blosc(shuffle: str) -> dict[str, Any]:
    options = {"cname": "zstd", "clevel": 3, "shuffle": shuffle, "typesize": 2}
    return {"name": "blosc", "configuration": options}


CODECS = {
    "none": None,
    "zstd": {"name": "zstd", "configuration": {"level": 3}},
    "zstd, bytes shuffled": _blosc("shuffle"),
    "zstd, bits shuffled": _blosc("bitshuffle"),
}


def random_features(count: int) -> np.ndarray:
    """Return float16 features `[count, N, D]` of a ViT with random weights."""
    import timm
    import torch

    from sanorm_jax.feature_extraction.options import Options
    from sanorm_jax.feature_extraction.vit import VitEncoder

    source = build(SourceOptions(image_size=224, splits={"train": count}))
    images = np.stack([source.example("train", i)["image"] for i in range(count)])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.pt"
        torch.save(timm.create_model(MODEL, num_classes=0).state_dict(), path)
        encoder = VitEncoder(MODEL, Options(weights=path, batch_size=4))
    return encoder(images)


def measure(features: np.ndarray, codec: dict[str, Any] | None):
    """Return the size on disk as a share of the features', and CPU seconds per byte.

    The features are `[n, N, D]`. Of several reads, the minimum counts.
    """
    count, *shape = features.shape
    metadata = arrays.metadata(shape, "float16", count, per_shard=count)
    if codec is not None:
        inner = metadata["codecs"][0]["configuration"]["codecs"]
        inner.insert(1, codec)
    with tempfile.TemporaryDirectory() as folder:
        spec = arrays.spec(pathlib.Path(folder)) | {"metadata": metadata}
        array = ts.open(spec, create=True, context=arrays.context()).result()
        array.write(features).result()
        files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        seconds = []
        for _ in range(NUM_READS):
            start = time.process_time()
            found = array.read().result()
            seconds.append(time.process_time() - start)
        if not np.array_equal(found, features):
            raise RuntimeError(f"{codec}: read other values than were written")
    return size / features.nbytes, min(seconds) / features.nbytes


def main():
    """Print the table."""
    if _STORE.value:
        store = Store.open(_STORE.value, allow_incomplete=True)
        split = next(iter(store.splits))
        some = store.available(split)[: _FRAMES.value]
        features, what = store.read(split, "features", some), str(_STORE.value)
    else:
        features = random_features(_FRAMES.value)
        what = f"{MODEL}, random weights, rendered scenes"
    table = tables.make(
        f"{what}: {list(features.shape)} float16",
        *("codec", "bytes of the array", "read by tensorstore, CPU s/GB"),
    )
    for name, codec in CODECS.items():
        ratio, cost = measure(features, codec)
        table.add_row(name, f"{ratio:.1%}", f"{cost * 1e9:.2f}")
    tables.show(table)


if __name__ == "__main__":
    commands.main(main)
