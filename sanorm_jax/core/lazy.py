"""TensorFlow, imported on first use because the import takes seconds."""

import functools
import types


@functools.cache
def tensorflow() -> types.ModuleType:
    """Return TensorFlow with all GPUs hidden: it would reserve the memory JAX needs."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
