import os
import pathlib
import signal
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


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tiny.data_dir(tmp_path_factory.mktemp("datasets"))
