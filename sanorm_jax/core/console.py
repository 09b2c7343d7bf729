"""What a person sees of a command: a line for each thing; all else is in a log file.

In a terminal lines are bare, and bars stand below them; elsewhere lines have the time.
Libraries are heard from warnings on (their C++ parts, errors on).
"""

import logging as std_logging
import os
import pathlib
import sys

from absl import logging
from rich.console import Console

# Read by XLA and TensorFlow when they are loaded; what the user has set stays. Only so
# does TensorFlow, which reads and decodes alike without it, not announce oneDNN.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Lines and bars share it: a line pushes the bar down, whatever its thread.
CONSOLE = Console(
    stderr=True,
    highlight=False,
    soft_wrap=True,
    markup=False,
    # Rich would take FORCE_COLOR, which notebooks and CI set, for a terminal.
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
    # Orbax tells of each file, and JAX of each absent accelerator, as warnings too.
    chatty = "orbax" in path or "xla_bridge" in path
    minimum = std_logging.ERROR if chatty else std_logging.WARNING
    return path.startswith(_OURS) or record.levelno >= minimum


class _Lines(std_logging.Handler):
    """Prints records as lines on standard error."""

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
    """Make this process write for people; called once, by commands."""
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
    """Appends all that is logged to `<folder>/log.txt`, libraries' lines too.

    A context manager. Where standard error is that file already, nothing is added.
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
