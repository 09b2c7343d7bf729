"""What every command does around its work."""

import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from sanorm_jax import configs
from sanorm_jax.command_line import overrides
from sanorm_jax.data import terminal
from sanorm_jax.data.manifest import StoreError
from sanorm_jax.errors import ConfigError


def find_config(path: str) -> str:
    """Returns a config's path, or where `configs/NAME.py` was installed to.

    Args:
      path: of a file, or `configs/NAME.py` where there is no such folder.
    """
    given = pathlib.Path(path)
    if given.exists() or given.parent != pathlib.Path("configs"):
        return path
    shipped = pathlib.Path(configs.__file__).with_name(given.name)
    return str(shipped) if shipped.exists() else path


def _find_configs(argv: list[str]) -> list[str]:
    found = []
    for before, argument in zip(["", *argv], argv, strict=False):
        flag, is_set, path = argument.partition("=")
        if is_set and flag in ("--config", "-config"):
            argument = f"{flag}={find_config(path)}"
        elif before in ("--config", "-config"):
            argument = find_config(argument)
        found.append(argument)
    return found


def _parse_flags(config: flags.FlagHolder, argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    argv, evaluations = overrides.take_evaluations(_find_configs(argv))
    # The flag of the config looks for its fields there.
    sys.argv = list(argv)
    try:
        left = flags.FLAGS(argv)
        if config.value is not None:
            config.value.keys()  # A file that could not be read is told here.
            given = flags.FLAGS["config"].override_values
            overrides.check_empty(
                {path: flags.FLAGS[f"config.{path}"].default for path in given}
            )
            overrides.add_evaluations(config.value, evaluations)
        elif evaluations:
            raise ConfigError(f"{evaluations[0][0]}: give the --config that it is of")
        return left
    except OSError:
        path = flags.FLAGS["config"].config_filename
        reason = f"--config={path}: no such file; see configs/"
    except ConfigError as error:
        reason = str(error)
    except flags.IllegalFlagValueError as error:
        # flag --config.seed=2.0: must be a whole number
        reason = " ".join(str(error).split()).removeprefix("flag ")
    except flags.Error as error:
        reason = " ".join(str(error).split())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # How ml_collections says that a field is unknown or its value no such thing.
        said = " ".join(str(error.args[0] if error.args else error).split())
        reason = f"--config.FIELD=VALUE: no such field, or no value for it: {said}"
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(1)


def _main(command: Callable[[], int], argv: Sequence[str]) -> int:
    terminal.setup()
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
