import contextlib
import ctypes
import errno
import fcntl
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
# The gradient of the autoencoder compiles in an eighth of the time. With
# `XLA_FLAGS= make test` all is compiled as runs are.
_QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
os.environ.setdefault("XLA_FLAGS", _QUICKLY)

# A shell's background jobs ignore SIGINT, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# First: after TensorFlow, mitsuba makes the process abort at its end.
import mitsuba  # noqa: E402, F401
import psutil  # noqa: E402 - what is set above is read at import
import pytest  # noqa: E402

from tests import tiny  # noqa: E402
from tests.faults import harm  # noqa: E402

# Bytes of compiled programs and the like. Until they are let go of, trainings are fast.
_MUCH = 1_500_000_000


def pytest_collection_finish():
    """Exclude what was imported from garbage collection, which is then fast."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tiny.data_dir(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def small_disk(tmp_path):
    """Return a function of a size: `with small_disk("256k") as path`."""

    @contextlib.contextmanager
    def mount(size: str):
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(harm.small_disk(tmp_path / "disk", size))
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no small disk can be mounted: {error}")
            yield path

    return mount


@pytest.fixture
def no_locks(monkeypatch):
    """`flock` as Lustre without its mount option has it."""

    def flock(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def nfs(monkeypatch):
    """`flock` as NFS has it: by locks of bytes, which ask how the file is open."""
    original = fcntl.flock

    def flock(file, operation):
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        refused = os.O_RDONLY if operation & fcntl.LOCK_EX else os.O_WRONLY
        if mode == refused and not operation & fcntl.LOCK_UN:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        original(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def _own_memory() -> int:
    """Return the bytes that this process holds beside what it shares."""
    held = psutil.Process().memory_info()
    return held.rss - getattr(held, "shared", 0)


@pytest.fixture(scope="session")
def _memory():
    """Return what was held at first, or when programs were last let go of."""
    return {"held": _own_memory()}


@pytest.fixture(autouse=True)
def _forget_programs(_memory):
    """Let go of what was compiled once it is much; it can be found on the disk."""
    yield
    if _own_memory() < _memory["held"] + _MUCH:
        return
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    # What is freed goes back to the system, which glibc alone does not do.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _memory["held"] = _own_memory()
