"""Compiled programs, kept beside the runs: a start after the first one compiles less.

JAX's persistent compilation cache in `<parent of workdir>/.jax_cache`, which all runs
there share. Its size is bounded, which makes JAX lock it for each access: without
that, two processes could write one file at once.
"""

import hashlib
import os
import pathlib
import platform

import filelock
import jax
import ml_collections
from absl import logging
from jax._src import path as jax_path  # which paths JAX uses has no public name

FOLDER = ".jax_cache"
MAX_BYTES = 2 * 2**30
# JAX's default keeps what took a second; a start compiles many smaller programs.
MIN_COMPILE_S = 0.1
_LOCK_TIMEOUT_S = 10


def enable(config: ml_collections.ConfigDict, workdir: pathlib.Path):
    """Make this process keep compiled programs, and load those that were kept.

    Without `config.compilation_cache`, or where JAX_COMPILATION_CACHE_DIR already names
    a folder, JAX's own settings stay. If the folder is not writable, a warning is
    logged and the process goes on without the cache.

    Args:
      config: of the experiment.
      workdir: folder of the run.
    """
    if not config.compilation_cache or jax.config.jax_compilation_cache_dir:
        return
    folder = workdir.absolute().parent / FOLDER / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # JAX's own lock.
        with filelock.FileLock(folder / ".lockfile", timeout=_LOCK_TIMEOUT_S):
            _drop_torn_entries(folder)
    except OSError as error:
        logging.warning(
            "%s: cannot be written and locked (%s); programs are compiled anew at each "
            "start",
            folder,
            error.strerror or error,
        )
        return
    # The paths of etils, which JAX prefers where it finds them, ask for the names of a
    # file's owner and group; in a container they may have none.
    jax_path.Path, jax_path.epath_installed = pathlib.Path, False
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_S)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _drop_torn_entries(folder: pathlib.Path):
    """Remove entries that a killed process left half written.

    JAX writes the time of use after the entry. Without it, the entry can be torn, is
    never replaced, and ends every search for entries to evict.
    """
    for entry in folder.glob("*-cache"):
        time_of_use = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
        if not time_of_use.exists() or time_of_use.stat().st_size != 8:
            entry.unlink()


def _machine() -> str:
    """Return a name that machines share if they can run the same programs.

    Programs for CPUs use their special instructions, and are split over their cores.
    """
    backend = jax.default_backend()
    if backend != "cpu":
        return backend
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith("flags")), "")
    cores = len(os.sched_getaffinity(0))
    kind = f"{platform.machine()} {platform.processor()} {flags}"
    return f"cpu_{cores}_{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
