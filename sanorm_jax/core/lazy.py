"""Libraries that take seconds to import, imported where they are needed."""

import functools
import types


@functools.cache
def tensorflow() -> types.ModuleType:
    """Return TensorFlow, kept from the GPUs.

    JAX needs a GPU's whole memory; TensorFlow would take it at its first operation.
    """
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
