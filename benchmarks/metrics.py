"""Time the metrics over 10,000 images, compared with scikit-learn and a loop.

    python -m benchmarks.metrics [--num_images=10000]

The loop calls the reference versions of the tests, one image at a time. The loop and
scikit-learn run only on the first images, and their time is extrapolated. Average
precision runs on all images in both implementations. The table also has compile times
and the largest difference between the results.
"""

import functools
import time

import jax
import numpy as np
import sklearn
from absl import flags
from sklearn.metrics import adjusted_rand_score

from benchmarks import tables
from sanorm_jax.core import commands
from sanorm_jax.metrics import average_precision, segmentation
from tests.sanorm_jax.metrics import plain

NUM_IMAGES = flags.DEFINE_integer("num_images", 10_000, "Images to score.", 1)
SIDE = 224
NUM_SLOTS = 11  # predicted segments, and objects
BATCH_SIZE = 50
NUM_PLAIN = 100  # images that the loop and scikit-learn score


def make_segmentations(count: int):
    """Return label maps `[count, SIDE, SIDE]` of discs, and noisy shifted copies."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    true = np.zeros((count, SIDE, SIDE), np.int32)
    for labels in true:
        for label in range(1, NUM_SLOTS):
            y, x, r = rng.random(3)
            labels[(rows - y) ** 2 + (columns - x) ** 2 < (0.05 + 0.1 * r) ** 2] = label
    predicted = np.roll(true, SIDE // 32, (1, 2))
    noise = rng.random(true.shape, np.float32) < 0.1
    predicted[noise] = rng.integers(0, NUM_SLOTS, noise.sum())
    return true, predicted


def make_properties(count: int):
    """Return similar predictions and targets, `[count, NUM_SLOTS, 19]`."""
    rng = np.random.default_rng(0)
    targets = np.zeros((count, NUM_SLOTS, 19), np.float32)
    start = 0
    for size in (3, 2, 2, 8):
        kinds = rng.integers(0, size, (count, NUM_SLOTS))
        targets[..., start : start + size] = np.eye(size)[kinds]
        start += size
    targets[..., 15:18] = rng.random((count, NUM_SLOTS, 3))
    targets[..., 18] = np.arange(NUM_SLOTS) < rng.integers(3, NUM_SLOTS, (count, 1))
    targets *= targets[..., 18:]
    noise = rng.normal(size=targets.shape) * 0.3
    noise[..., 15:18] *= 0.1
    predictions = targets + noise.astype(np.float32)
    return predictions[:, rng.permutation(NUM_SLOTS)], targets


def timed(function):
    """Return the result of a call and its seconds."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return result, time.perf_counter() - start


def main():
    """Print the table."""
    count, batch_size = NUM_IMAGES.value, min(BATCH_SIZE, NUM_IMAGES.value)
    num_plain = min(NUM_PLAIN, count)
    # The same images in each batch, because 10,000 would fill 8 GB.
    num_distinct = max(batch_size, num_plain)
    true, predicted = make_segmentations(num_distinct)
    sizes = {"num_true": NUM_SLOTS, "num_predicted": NUM_SLOTS}
    pairs = list(zip(true[:num_plain], predicted[:num_plain], strict=True))
    ari, overlap = segmentation.adjusted_rand_index, segmentation.mean_best_overlap
    implementations = {
        "ARI": (
            ari,
            lambda: [adjusted_rand_score(t.ravel(), p.ravel()) for t, p in pairs],
            lambda: [pairs_ari(t, p, **sizes) for t, p in pairs],
        ),
        "FG-ARI": (
            functools.partial(ari, ignore_background=True),
            lambda: [plain.fg_ari(t, p) for t, p in pairs],
            lambda: [pairs_ari(t[t > 0], p[t > 0], **sizes) for t, p in pairs],
        ),
        "mBO": (
            overlap,
            None,
            lambda: [plain.mean_best_overlap(t, p, **sizes) for t, p in pairs],
        ),
        "mIoU": (
            segmentation.mean_iou,
            None,
            lambda: [plain.mean_iou(t, p, **sizes) for t, p in pairs],
        ),
    }
    table = tables.make(
        f"{count:,} images of {SIDE} x {SIDE} pixels, {NUM_SLOTS} labels; "
        f"{jax.devices()[0].device_kind}; scikit-learn {sklearn.__version__}",
        *("metric", "ours s", "compile s", "scikit-learn s", "loop s"),
        *("x scikit-learn", "x loop", "largest difference"),
    )

    on_device = jax.device_put((true, predicted))
    for name, (metric, library, loop) in implementations.items():
        function = jax.jit(functools.partial(metric, **sizes))
        batch = [labels[:batch_size] for labels in on_device]
        _, first = timed(lambda f=function, b=batch: f(*b))

        def ours(function=function, batch=batch):
            return [function(*batch) for _ in range(-(-count // batch_size))]

        results, seconds = timed(ours)
        expected, loop_s = timed(loop)
        shared = min(num_plain, batch_size)
        difference = np.abs(np.array(results[0][:shared]) - expected[:shared]).max()
        scale = count / num_plain
        library_s = timed(library)[1] * scale if library else None
        compile_s = first - seconds / len(results)
        add(table, name, seconds, compile_s, library_s, loop_s * scale, difference)

    split = make_properties(count)
    ours, seconds = timed(lambda: average_precision.average_precision(*split))
    thresholds = average_precision.THRESHOLDS
    expected, loop_s = timed(
        lambda: [plain.average_precision(*split, t) for t in thresholds]
    )
    add(table, "AP x 5", seconds, None, None, loop_s, np.abs(ours - expected).max())
    tables.show(table)


def pairs_ari(true, predicted, num_true, num_predicted):
    """Return the ARI of an image, from masks of each pair of labels in NumPy."""
    table = np.array(
        [
            [np.sum((true == t) & (predicted == p)) for p in range(num_predicted)]
            for t in range(num_true)
        ]
    ).astype(np.float64)
    rows, columns, total = table.sum(1), table.sum(0), table.sum()
    both = (table * (table - 1)).sum()
    true_pairs = (rows * (rows - 1)).sum()
    predicted_pairs = (columns * (columns - 1)).sum()
    chance = true_pairs * predicted_pairs / (total * (total - 1))
    return (both - chance) / ((true_pairs + predicted_pairs) / 2 - chance)


def add(table, name, seconds, compile_s, library_s, loop_s, difference):
    """Add a row; None where a value does not apply."""
    table.add_row(
        name,
        f"{seconds:.2f}",
        "-" if compile_s is None else f"{compile_s:.2f}",
        "-" if library_s is None else f"{library_s:.1f}",
        f"{loop_s:.1f}",
        "-" if library_s is None else f"{library_s / seconds:.0f}",
        f"{loop_s / seconds:.0f}",
        f"{difference:.1e}",
    )


if __name__ == "__main__":
    commands.main(main)
