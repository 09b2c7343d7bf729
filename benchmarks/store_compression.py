"""Measures how far features compress, and what reading them then costs.

    python -m benchmarks.store_compression
    python -m benchmarks.store_compression --store=datasets/NAME-ENCODER

Without a store: of a ViT-B/8 with random weights on rendered scenes, which have the
shape, the scale and the smoothness over neighbouring tokens of real features, but not
what pretraining taught. Every codec writes the same array as the store does, one chunk
a frame. Needs PyTorch and timm where there is no store.
"""

import copy
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
import tensorstore as ts
from absl import app, flags
from rich.console import Console
from rich.table import Table

from sanorm_jax.data import arrays
from sanorm_jax.data.sources.base import Options as SourceOptions
from sanorm_jax.data.sources.shapes import build
from sanorm_jax.data.store import Store

_STORE = flags.DEFINE_string("store", None, "Features to measure, of its first split.")
_FRAMES = flags.DEFINE_integer("frames", 16, "How many.", 1)
_READS = flags.DEFINE_integer("reads", 5, "Timed reads of all; the cheapest counts.", 1)
_MODEL = flags.DEFINE_string("model", "vit_base_patch8_224", "ViT without a store.")


def _blosc(shuffle: str) -> dict[str, Any]:
    options = {"cname": "zstd", "clevel": 3, "shuffle": shuffle, "typesize": 2}
    return {"name": "blosc", "configuration": options}


CODECS = {
    "none": None,
    "zstd": {"name": "zstd", "configuration": {"level": 3}},
    "zstd, bytes shuffled": _blosc("shuffle"),
    "zstd, bits shuffled": _blosc("bitshuffle"),
}


def random_features(model: str, count: int) -> tuple[np.ndarray, float, float]:
    """Return float16 features [count, N, D] of rendered scenes, of random weights.

    And the seconds that encoding them took, by the clock and of CPU.
    """
    import timm
    import torch

    from sanorm_jax.feature_extraction.options import Options
    from sanorm_jax.feature_extraction.vit import VitEncoder

    source = build(SourceOptions(image_size=224, splits={"train": count}))
    images = np.stack([source.example("train", i)["image"] for i in range(count)])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.pt"
        torch.save(timm.create_model(model, num_classes=0).state_dict(), path)
        encoder = VitEncoder(model, Options(weights=path, batch_size=4))
    clock, cpu = time.perf_counter(), time.process_time()
    features = encoder(images)
    return features, time.perf_counter() - clock, time.process_time() - cpu


def measure(features: np.ndarray, codec: dict[str, Any] | None, reads: int):
    """Return (bytes on the disk over bytes of the features, CPU s/byte read).

    Args:
      features: [n, N, D].
      codec: of the inner chunks, None for none.
      reads: how often to read; the cheapest counts.
    """
    metadata = copy.deepcopy(
        arrays.metadata(features.shape[1:], "float16", len(features), len(features))
    )
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
        for _ in range(reads):
            start = time.process_time()
            found = array.read().result()
            seconds.append(time.process_time() - start)
        if not np.array_equal(found, features):
            raise RuntimeError(f"{codec}: did not give back what was written")
    return size / features.nbytes, min(seconds) / features.nbytes


def main(argv):
    """Measure every codec and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags are --name=value")
    console = Console(width=100, highlight=False)
    if _STORE.value:
        store = Store.open(_STORE.value, allow_incomplete=True)
        split = next(iter(store.splits))
        some = store.available(split)[: _FRAMES.value]
        features, what = store.read(split, "features", some), _STORE.value
    else:
        features, clock, cpu = random_features(_MODEL.value, _FRAMES.value)
        clock, cpu = clock / len(features), cpu / len(features)
        console.print(f"encoded in {clock:.2f} s a frame, {cpu:.2f} s of CPU")
        what = f"{_MODEL.value}, random weights, rendered scenes"
    table = Table(title=f"{what}: {list(features.shape)} float16")
    table.add_column("codec")
    for column in ("bytes of the array", "read by tensorstore, CPU s/GB"):
        table.add_column(column, justify="right")
    for name, codec in CODECS.items():
        ratio, cost = measure(features, codec, _READS.value)
        table.add_row(name, f"{ratio:.1%}", f"{cost * 1e9:.2f}")
    console.print(table)


if __name__ == "__main__":
    app.run(main)
