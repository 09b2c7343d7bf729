"""What every command does around its work."""

import logging as std_logging
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from sanorm_jax.errors import ConfigError


def _is_of_interest(record: std_logging.LogRecord) -> bool:
    """Keeps Orbax from telling of each file, and JAX of each absent accelerator."""
    chatty = "orbax" in record.pathname or "xla_bridge" in record.pathname
    return not chatty or record.levelno >= std_logging.ERROR


def _parse_flags(config: flags.FlagHolder, argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        left = app.parse_flags_with_usage(argv)
        if config.value is not None:
            config.value.keys()  # A file that could not be read is told here.
        return left
    except OSError:
        path = flags.FLAGS["config"].config_filename
        reason = f"--config={path}: no such file; see configs/"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # How ml_collections says that a field is unknown or its value no such thing.
        said = " ".join(str(error).split())
        reason = f"--config.FIELD=VALUE: no such field, or no value for it: {said}"
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(1)


def _main(command: Callable[[], int], argv: Sequence[str]) -> int:
    from data.store import StoreError

    logging.get_absl_logger().addFilter(_is_of_interest)
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags are --name=value")
    try:
        return command()
    except (ConfigError, StoreError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def run(command: Callable[[], int], config: flags.FlagHolder):
    """Parses the flags, runs a command and exits; bad input is one line and code 1.

    Args:
      command: does the work and returns the exit code.
      config: the flag `--config`.
    """
    app.run(
        lambda argv: _main(command, argv),
        flags_parser=lambda argv: _parse_flags(config, argv),
    )
