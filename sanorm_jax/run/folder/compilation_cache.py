"""JAX's persistent compilation cache, in `<parent of workdir>/.jax_cache`."""

import hashlib
import os
import pathlib
import tempfile

import jax
import ml_collections
from absl import logging

FOLDER = ".jax_cache"
# JAX's default, one second, would exclude most programs.
MIN_COMPILE_S = 0.1


def enable(config: ml_collections.ConfigDict, workdir: pathlib.Path):
    """Cache compiled programs for later starts and for runs in the same parent folder.

    Nothing changes if `config.compilation_cache` is off or `JAX_COMPILATION_CACHE_DIR`
    is set. If the folder is not writable, a warning is logged.
    """
    if not config.compilation_cache or jax.config.jax_compilation_cache_dir:
        return
    folder = workdir.absolute().parent / FOLDER / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logging.warning(
            "%s: not writable (%s); programs are compiled at each start",
            folder,
            error.strerror,
        )
        return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_S)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _machine() -> str:
    """Return a name shared by machines that can run the same programs.

    Programs depend on the CPU's instructions and number of cores, which JAX's cache
    keys ignore.
    """
    backend = jax.default_backend()
    if backend != "cpu":
        return backend
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # `flags` on x86, `Features` on ARM
    flags = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    kind = hashlib.sha256(f"{os.uname().machine} {flags}".encode()).hexdigest()[:8]
    return f"cpu_{len(os.sched_getaffinity(0))}_{kind}"
