"""The parts of `python -m benchmarks.gpu`."""

import concurrent.futures
import dataclasses
import importlib.metadata
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from benchmarks import train_step_cases as cases
from benchmarks.train_step_cases import PAPER, PUBLISHED_BATCH_SIZES, Case
from sanorm_jax import optimizers, tasks
from sanorm_jax.data import pipeline
from sanorm_jax.metrics import segmentation
from sanorm_jax.metrics.matching import match
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.train_step import create_state, make_train_step
from tests import stores, tiny
from tests.parity import __main__ as parity_main
from tests.parity.vectors import FORWARD_TOLERANCE, GRADIENT_TOLERANCE

VECTORS = pathlib.Path(parity_main.__file__).parents[1] / "vectors"
SHARED_MEMORY = pathlib.Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of the parts."""

    steps: dict[str, Case]
    rounds: int = 5
    matrix: int = 8192
    stream_bytes: int = 2**31
    frames: int = 512
    num_images: int = 10_000
    side: int = 224
    vectors: str = "*.npz"  # glob pattern of files


_SMALL = {"image_size": 16, "tokens": 16, "feature_dim": 8, "num_slots": 3}

SIZES = {
    "paper": Size(
        {
            c.task: dataclasses.replace(c, batch_size=PUBLISHED_BATCH_SIZES[c.task])
            for c in PAPER
        }
    ),
    "small": Size(
        {c.task: dataclasses.replace(c, batch_size=2, **_SMALL) for c in PAPER},
        rounds=2,
        matrix=256,
        stream_bytes=2**20,
        frames=16,
        num_images=16,
        side=16,
        vectors="slot_attention_none.npz",
    ),
}


def seconds_of(run: Callable[[], Any], rounds: int, count: int = 10) -> float:
    """Return the median seconds per call over several rounds of calls."""
    jax.block_until_ready(run())
    turns = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready([run() for _ in range(count)])
        turns.append((time.perf_counter() - start) / count)
    return float(np.median(turns))


def card(size: Size) -> dict[str, Any]:
    """Return the device, versions, and the rates of matrix products and memory."""
    device = jax.local_devices()[0]
    rates = {}
    for name, dtype, precision in (
        ("float32", jnp.float32, "default"),
        ("float32, highest", jnp.float32, "highest"),
        ("bfloat16", jnp.bfloat16, "default"),
    ):
        matrix = jax.random.normal(jax.random.key(0), (size.matrix,) * 2, dtype)
        product = jax.jit(lambda a, p=precision: jnp.matmul(a, a, precision=p))
        seconds = seconds_of(lambda f=product, a=matrix: f(a), size.rounds)
        rates[name] = 2 * size.matrix**3 / seconds
    array = jnp.ones(size.stream_bytes // 8)  # half is read, half written
    negate = jax.jit(jnp.negative)
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "versions": {
            distribution.name: distribution.version
            for distribution in importlib.metadata.distributions()
            if distribution.name in ("jax", "jaxlib", "flax", "torch", "triton")
        },
        "flops_per_s": rates,
        "bytes_per_s": size.stream_bytes
        / seconds_of(lambda: negate(array), size.rounds),
    }


def parity(size: Size, precision: str) -> dict[str, Any]:
    """Compare with the original implementation at a float32 precision."""
    rows = []
    with jax.default_matmul_precision(precision):
        for path in sorted(VECTORS.glob(size.vectors)):
            rows += parity_main.check_file(path)[0]
    return {
        "comparisons": len(rows),
        "past_tolerance": sum(not row.passed for row in rows),
        "largest": {
            name: max((r.error for r in rows if r.tolerance == bound), default=None)
            for name, bound in (
                ("forward", FORWARD_TOLERANCE),
                ("gradient", GRADIENT_TOLERANCE),
            )
        },
    }


def parallel(size: Size) -> dict[str, Any]:
    """Return the largest difference of `jit` and `pmap` after five steps per task."""
    del size
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        data_dir = tiny.data_dir(pathlib.Path(folder))
        for name in tasks.TASKS:
            config = tiny.config(data_dir, name, update_normalization="batch_norm")
            params = [_train(config, Devices(mode)) for mode in ("jit", "pmap")]
            leaves = zip(*map(jax.tree.leaves, params), strict=True)
            result[name] = max(float(np.abs(a - b).max()) for a, b in leaves)
    return result


def _train(config, devices: Devices) -> Any:
    task = tasks.create(config, tasks.open_dataset(config), devices.axis_name)
    tx, schedule = optimizers.create(config.optimizer)
    step = devices.compile_train_step(make_train_step(task, tx, schedule))
    state = devices.put_state(create_state(task, tx, 0))
    read = pipeline.train_reader(
        task.dataset,
        "train",
        np.arange(40),
        fields=task.train_fields,
        batch_size=config.batch_size,
        seed=0,
    )
    for batch in devices.prefetch(read(i) for i in range(5)):
        state, _ = step(state, batch)
    return devices.get_state(state).params


def training_step(size: Size, task: str, dtype: str, remat: bool) -> dict[str, Any]:
    """Measure a task's step, compared with PyTorch."""
    from benchmarks.gpu import steps  # the other parts need no PyTorch

    case = dataclasses.replace(size.steps[task], dtype=dtype, remat=remat)
    return steps.measure(case, size.rounds)


def reading(size: Size) -> dict[str, Any]:
    """Time reading DINOSAUR's batches: alone, with the copy, and with a step."""
    case = size.steps["dinosaur"]
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = pathlib.Path(name)
        source = stores.write_source(root / "random", {"train": size.frames})
        shape = (case.tokens, case.feature_dim)
        stores.write_features(root / "random-random", source, shape)
        dataset = pipeline.open_dataset(root, "random", encoder="random")
        read = pipeline.train_reader(
            dataset,
            "train",
            np.arange(size.frames),
            fields=("features",),
            batch_size=case.batch_size,
            seed=0,
        )
        devices = Devices("jit")
        step = _feature_step(case)
        resident = jax.device_put(read(0))
        count = 5 * size.rounds

        def timed(batches: Iterator, use: Callable[[Any], Any]) -> float:
            jax.block_until_ready(use(next(batches)))
            start = time.perf_counter()
            for batch in batches:
                last = use(batch)
            jax.block_until_ready(last)
            return (time.perf_counter() - start) / count

        ahead = lambda: _read_ahead(read, count + 1)  # noqa: E731
        seconds = {
            "read": timed(ahead(), lambda batch: None),
            "read and copied": timed(devices.prefetch(ahead()), lambda batch: batch),
            "step on batches": timed(devices.prefetch(ahead()), step),
            "step on one batch": timed(itertools.repeat(resident, count + 1), step),
        }
    num_bytes = case.batch_size * 2 * int(np.prod(shape))
    return {"seconds": seconds, "batch_bytes": num_bytes, "name": str(case)}


def _read_ahead(read, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches like the pipeline, but without TensorFlow."""
    with concurrent.futures.ThreadPoolExecutor(pipeline.PARALLEL_READS) as pool:
        held = pipeline.PARALLEL_READS + pipeline.PREFETCHED
        waiting = [pool.submit(read, i) for i in range(min(held, count))]
        for i in range(count):
            yield waiting.pop(0).result()
            if i + held < count:
                waiting.append(pool.submit(read, i + held))


def _feature_step(case: Case) -> Callable[[dict[str, jax.Array]], jax.Array]:
    model = cases.make_model(case)
    features, noise = cases.make_inputs(case, model.slot_attention.slot_dim)
    params = model.init(jax.random.key(0), features[:1], train=True, noise=noise[:1])
    state = params["params"], cases.TX.init(params["params"])
    noise = jax.device_put(noise)
    widen = jax.jit(lambda x: x.astype(jnp.float32))
    compiled = cases.lower_step(model, state, (features, noise)).compile()

    def step(batch):
        nonlocal state
        state, loss = compiled(state, widen(batch["features"]), noise)
        return loss

    return step


def matching(size: Size) -> dict[str, Any]:
    """Time matching on the device and on the host, and its share of a step."""
    case = size.steps["set_predictor"]
    model = cases.make_model(case)
    inputs = cases.make_inputs(case, model.slot_attention.slot_dim)
    params = model.init(jax.random.key(0), inputs[0][:1], train=True)["params"]

    def step_seconds(**options) -> float:
        step = cases.our_step(model, params, inputs, **options).step
        return seconds_of(step, size.rounds, 3)

    def unmatched(out, x, targets):
        return optax.losses.huber_loss(out["predicted_properties"], targets).mean()

    shape = (case.batch_size, case.num_slots, case.num_slots)
    costs = jax.random.uniform(jax.random.key(1), shape)
    on_device, on_host = jax.jit(match), jax.jit(match_on_host)
    totals = [
        float(jnp.take_along_axis(costs, f(costs)[..., None], 2).sum())
        for f in (on_device, on_host)
    ]
    with_it, without = step_seconds(), step_seconds(loss=unmatched)
    return {
        "name": str(case),
        "seconds": {
            "on the device": seconds_of(lambda: on_device(costs), size.rounds),
            "on the host": seconds_of(lambda: on_host(costs), size.rounds),
            "step": with_it,
            "step without": without,
        },
        "share": 1 - without / with_it,
        "costs_agree": bool(np.isclose(*totals, rtol=1e-5)),
    }


def match_on_host(costs: jax.Array) -> jax.Array:
    """Return each slot's target `[B, K]` for costs `[B, K, K]`, with SciPy."""

    def assign(costs):
        pairs = [linear_sum_assignment(cost)[1] for cost in np.asarray(costs)]
        return np.stack(pairs).astype(np.int32)

    shape = jax.ShapeDtypeStruct(costs.shape[:2], jnp.int32)
    return jax.pure_callback(assign, shape, costs)


def scores(size: Size) -> dict[str, Any]:
    """Time the ARI of many images, and compare it with scikit-learn."""
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(0)
    labels = 11
    batch_size = min(500, size.num_images)
    true = rng.integers(0, labels, (batch_size, size.side, size.side), np.int32)
    moved = rng.random(true.shape) < 0.3
    predicted = np.where(moved, rng.integers(0, labels, true.shape, np.int32), true)
    ari = jax.jit(
        lambda t, p: segmentation.adjusted_rand_index(
            t, p, num_true=labels, num_predicted=labels
        )
    )
    batch = jax.device_put((true, predicted))
    num_batches = -(-size.num_images // batch_size)
    expected = [
        adjusted_rand_score(t.ravel(), p.ravel())
        for t, p in zip(true[:8], predicted[:8], strict=True)
    ]
    return {
        "num_images": num_batches * batch_size,
        "seconds": num_batches * seconds_of(lambda: ari(*batch), size.rounds, 3),
        "largest_error": float(np.abs(np.array(ari(*batch))[:8] - expected).max()),
    }
