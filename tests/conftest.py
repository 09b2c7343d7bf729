import contextlib
import ctypes
import gc
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

# Small models take longer to compile than to run: tests share what they compiled,
# also with the processes that they start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_CACHE = pathlib.Path(tempfile.gettempdir()) / "sanorm_jax_compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# A shell's background jobs ignore SIGINT, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402 - what is set above is read at import

from tests import tiny  # noqa: E402
from tests.faults import harm  # noqa: E402


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tiny.data_dir(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def small_disk(tmp_path):
    """A function of a size: `with small_disk("256k") as path`."""

    @contextlib.contextmanager
    def mount(size: str):
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(harm.small_disk(tmp_path / "disk", size))
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no small disk can be mounted: {error}")
            yield path

    return mount


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Lets go of what a module compiled: another finds it on the disk."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    # What is freed goes back to the system, which glibc alone does not do.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
