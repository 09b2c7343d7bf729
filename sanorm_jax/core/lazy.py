"""TensorFlow, imported on first use because the import takes seconds."""

import functools
import types


@functools.cache
def tensorflow() -> types.ModuleType:
    """Return TensorFlow without access to GPUs, whose memory it would reserve."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
