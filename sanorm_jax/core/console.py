"""Messages of a command: its own on standard error, libraries' in a log file.

In a terminal, a progress bar is below the messages. Elsewhere they begin with the time.
Of libraries, warnings and errors are shown too (of their C++ code, errors only).
"""

import logging as std_logging
import os
import pathlib
import sys

from absl import logging
from rich.console import Console

# Read by XLA and TensorFlow when they are loaded, unless the user has set them.
# Without oneDNN, TensorFlow reads and decodes the same and does not announce it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Messages and bars share one console, so that a message moves the bar down.
CONSOLE = Console(
    stderr=True,
    highlight=False,
    soft_wrap=True,
    markup=False,
    # Rich would take a notebook or CI, which set FORCE_COLOR, for a terminal.
    force_terminal=sys.stderr.isatty(),
)
LOG_FILE = "log.txt"
# Libraries log through absl too: Orbax alone writes thirty lines for each checkpoint.
_ROOT = pathlib.Path(__file__).parents[2]
_OURS = tuple(
    f"{_ROOT / name}{os.sep}" for name in ("sanorm_jax", "data", "feature_extraction")
)


def _is_for_people(record: std_logging.LogRecord) -> bool:
    path = record.pathname
    # Orbax warns about each file, and JAX about each accelerator that is absent.
    chatty = "orbax" in path or "xla_bridge" in path
    minimum = std_logging.ERROR if chatty else std_logging.WARNING
    return path.startswith(_OURS) or record.levelno >= minimum


class _Lines(std_logging.Handler):
    """A handler that prints records on standard error."""

    def emit(self, record: std_logging.LogRecord):
        """Print a record."""
        text = self.format(record)
        if record.levelno >= std_logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if not CONSOLE.is_terminal:
            time = std_logging.Formatter().formatTime(record, "%Y-%m-%d %H:%M:%S")
            text = f"{time} {text}"
        CONSOLE.print(text)


def setup():
    """Set up logging of this process; called once, by commands."""
    logging.set_verbosity(logging.INFO)
    root = std_logging.getLogger()
    for handler in list(root.handlers):
        if handler is logging.get_absl_handler():
            root.removeHandler(handler)
    if not any(isinstance(handler, _Lines) for handler in root.handlers):
        lines = _Lines()
        lines.addFilter(_is_for_people)
        root.addHandler(lines)


class LogFile:
    """A context manager that appends all messages to `<folder>/log.txt`.

    It adds nothing if standard error is that file already.
    """

    def __init__(self, folder: pathlib.Path):
        self._path = folder / LOG_FILE
        self._handler: std_logging.Handler | None = None

    def __enter__(self):
        handler = std_logging.FileHandler(self._path)
        if os.path.sameopenfile(handler.stream.fileno(), sys.__stderr__.fileno()):
            handler.close()
            return self
        form = "%(asctime)s %(levelname)s %(filename)s:%(lineno)d: %(message)s"
        handler.setFormatter(std_logging.Formatter(form))
        std_logging.getLogger().addHandler(handler)
        self._handler = handler
        return self

    def __exit__(self, *exc_info):
        if self._handler is not None:
            std_logging.getLogger().removeHandler(self._handler)
            self._handler.close()
