"""What every command of this package does around its work."""

import pathlib
import sys
from collections.abc import Callable

import ml_collections
from absl import flags

from sanorm_jax import configs
from sanorm_jax.command_line import overrides
from sanorm_jax.core import commands, fields
from sanorm_jax.core.errors import UserError


def find_config(path: str) -> str:
    """Return a config's path, or where `configs/NAME.py` was installed to.

    Args:
      path: Path of a file, or `configs/NAME.py` where there is no such folder.
    """
    given = commands.expand(path)
    if given.exists() or given.parent != pathlib.Path("configs"):
        return str(given)
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
    """Parse the command line; exit with an error line if it is wrong."""
    try:
        argv, evaluations = overrides.take_evaluations(_find_configs(argv))
        # The flag of the config looks for its fields there.
        sys.argv = list(argv)
        left = flags.FLAGS(argv)
        if config.value is not None:
            config.value.keys()  # A file that could not be read is told here.
            given = flags.FLAGS["config"].override_values
            replaced = {path: flags.FLAGS[f"config.{path}"].default for path in given}
            overrides.check_empty(replaced)
            overrides.complete_groups(config.value, replaced)
            overrides.add_evaluations(config.value, evaluations)
            fields.check(config.value, "--config")
            _expand_paths(config.value)
        elif evaluations:
            raise UserError(f"{evaluations[0][0]}: give the --config that it is of")
        return left
    except OSError:
        path = flags.FLAGS["config"].config_filename
        reason = f"--config={path}: no such file; see configs/"
    except UserError as error:
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
    sys.exit(commands.fail(reason))


def _expand_paths(config: ml_collections.ConfigDict):
    for _, group, name, value in fields.walk(config):
        if name in fields.PATHS and value:
            group[name] = str(commands.expand(value))


def run(command: Callable[[], int], config: flags.FlagHolder):
    """Parse the flags, run a command and exit; bad input is one line and exit code 2.

    Args:
      command: Work of the command; returns the exit code.
      config: The flag `--config`.
    """
    commands.main(
        command,
        parse=lambda argv: _parse_flags(config, argv),
    )
