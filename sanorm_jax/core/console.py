"""Messages of a command, on standard error and in a log file.

In a terminal, a progress bar stays below the messages. Elsewhere, each message begins
with the time. Messages of libraries go to the log file only, except that warnings and
errors are also shown (from C++ code, errors only).
"""

import contextlib
import logging as std_logging
import os
import pathlib
import sys
from collections.abc import Iterator

from absl import logging
from rich.console import Console

# Read by XLA and TensorFlow when they are loaded, unless the user has set them.
# TensorFlow announces oneDNN on import, and needs it for neither reading nor decoding.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Messages and bars share one console, so that a message moves the bar down.
CONSOLE = Console(
    stderr=True,
    highlight=False,
    soft_wrap=True,
    markup=False,
    # Notebooks and CI set FORCE_COLOR, and Rich would mistake them for a terminal.
    force_terminal=sys.stderr.isatty(),
)
LOG_FILE = "log.txt"
# Libraries also log through absl: Orbax alone writes 30 lines for each checkpoint.
_ROOT = pathlib.Path(__file__).parents[2]
_OURS = tuple(
    f"{_ROOT / name}{os.sep}" for name in ("sanorm_jax", "data", "feature_extraction")
)


def _is_shown(record: std_logging.LogRecord) -> bool:
    path = record.pathname
    # Orbax warns about each file, and JAX about each missing accelerator.
    chatty = "orbax" in path or "xla_bridge" in path
    minimum = std_logging.ERROR if chatty else std_logging.WARNING
    return path.startswith(_OURS) or record.levelno >= minimum


class _ConsoleHandler(std_logging.Handler):
    """Handler that prints records on standard error."""

    def emit(self, record: std_logging.LogRecord):
        text = self.format(record)
        if record.levelno >= std_logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if not CONSOLE.is_terminal:
            time = std_logging.Formatter().formatTime(record, "%Y-%m-%d %H:%M:%S")
            text = f"{time} {text}"
        CONSOLE.print(text)


def setup():
    """Set up logging of this process; called by commands."""
    logging.set_verbosity(logging.INFO)
    root = std_logging.getLogger()
    for handler in list(root.handlers):
        if handler is logging.get_absl_handler():
            root.removeHandler(handler)
    if not any(isinstance(handler, _ConsoleHandler) for handler in root.handlers):
        console_handler = _ConsoleHandler()
        console_handler.addFilter(_is_shown)
        root.addHandler(console_handler)


@contextlib.contextmanager
def log_to(folder: pathlib.Path) -> Iterator[None]:
    """Append all messages to `<folder>/log.txt`, unless standard error goes there."""
    root = std_logging.getLogger()
    handler = std_logging.FileHandler(folder / LOG_FILE)
    form = "%(asctime)s %(levelname)s %(filename)s:%(lineno)d: %(message)s"
    handler.setFormatter(std_logging.Formatter(form))
    if not os.path.sameopenfile(handler.stream.fileno(), sys.__stderr__.fileno()):
        root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
