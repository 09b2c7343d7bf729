"""Variables for tests, without the seconds that compiling initializers takes."""

import jax
import numpy as np


def random_variables(module, *args, seed: int = 0, **options):
    """Return numbers in the shapes that `module.init(rngs, *args)` would give.

    Kernels are scaled by their fan-in, so that activations stay near 1.
    """
    rngs = {"params": jax.random.key(0), "slots": jax.random.key(0)}
    shapes = jax.eval_shape(lambda: module.init(rngs, *args, **options))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        if name in ("scale", "var"):
            return 1 + 0.1 * np.abs(values)
        return values / max(1, np.prod(leaf.shape[:-1])) ** 0.5

    return jax.tree_util.tree_map_with_path(fill, shapes)


def with_dtype(model, dtype):
    """Return a copy of a `SlotModel` that computes in another dtype."""
    return model.clone(slot_attention=model.slot_attention.clone(dtype=dtype))
