"""The flag `--config`: a config file, and overrides of its fields."""

import functools
import math
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import flags
from ml_collections.config_flags import config_flags

from sanorm_jax import configs
from sanorm_jax.core import commands, fields
from sanorm_jax.core.errors import UserError

# Groups whose fields have user-defined names.
_NAMED = {"datasets", "evaluations", "studies", "train_settings"}
# Fields that tell what a config describes.
_KINDS = {"an experiment": "task", "a study": "base", "several studies": "studies"}

# absl then lists these flags in the help of the command that defines them.
flags.disclaim_key_flags()


class _Integer(flags.IntegerParser):
    """Parser of integers, also as 1e3, and of None, which `fields.check` validates."""

    def parse(self, argument: Any) -> int | None:
        if not isinstance(argument, str):
            return argument
        if argument == "None":
            return None
        try:
            value = float(argument) if "e" in argument.lower() else int(argument)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value != int(value):
            raise ValueError("must be an integer")
        return int(value)


config_flags.register_flag_parser_for_type(int, _Integer())


class _ConfigFile(config_flags.ConfigFileFlagParser):
    """Parser of config files; `configs/NAME.py` may also be an installed config."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        file, colon, argument = path.partition(":")
        found = commands.expand(file)
        if not found.exists() and found.parent == pathlib.Path("configs"):
            found = pathlib.Path(configs.__file__).with_name(found.name)
        if not found.is_file():
            raise ValueError("no such file; see configs/")
        try:
            config = super().parse(f"{found}{colon}{argument}")
        except Exception as error:
            raise ValueError(f"{_reason(error, found)}; correct the file") from None
        if not isinstance(config, ml_collections.ConfigDict):
            raise ValueError("get_config returns no ConfigDict; see configs/")
        return config


def _reason(error: Exception, path: pathlib.Path) -> str:
    """Return what was raised by a file, and in which of its lines."""
    # ml_collections raises some errors again, with the traceback as their message.
    while isinstance(error.__context__, type(error)):
        error = error.__context__
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


def define_config(description: str) -> flags.FlagHolder:
    """Define the flag `--config`."""
    try:
        # This reads the files of `--flagfile`.
        config = config_flags.DEFINE_config_file(
            "config", None, description, flag_values=flags.FLAGS
        )
    except flags.Error as error:
        commands.exit_for(error)
    flags.FLAGS["config"].parser = _ConfigFile("config")
    return config


def default_workdir() -> pathlib.Path:
    """Return `experiments/<name of the config>`."""
    name = pathlib.Path(flags.FLAGS["config"].config_filename).stem
    return pathlib.Path("experiments", name)


def _check(config: ml_collections.ConfigDict, kind: str | None = None):
    if kind and _KINDS[kind] not in config:
        found = next((k for k, field in _KINDS.items() if field in config), "nothing")
        raise UserError(f"--config: describes {found}, not {kind}; choose another file")
    for path, value in flags.FLAGS["config"].override_values.items():
        # ml_collections replaces the group, which would then lack its other fields.
        is_group = isinstance(value, ml_collections.ConfigDict)
        if is_group and path.split(".")[-1] not in _NAMED:
            raise UserError(
                f"--config.{path}: is a group of fields; set a single field with "
                f"--config.{path}.FIELD=VALUE"
            )
    fields.check(config, "--config")
    for _, group, name, value in fields.walk(config):
        if name in fields.PATHS and value:
            group[name] = str(commands.expand(value))


def _parse_flags(
    config: flags.FlagHolder, default: str | None, argv: list[str]
) -> list[str]:
    try:
        # This reads the default config with its overrides, unless argv has --config.
        flags.set_default(config, default)
        return commands.parse_flags(argv)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # ml_collections raises these for unknown fields, and absl does not catch them.
        detail = " ".join(str(error.args[0] if error.args else error).split())
        reason = f"--config.FIELD=VALUE: unknown field or invalid value: {detail}"
        sys.exit(commands.fail(reason))


def run(
    command: Callable[[], int | None],
    config: flags.FlagHolder,
    default: str | None = None,
    kind: str | None = None,
):
    """Parse the flags, run a command and exit; bad input is one line and exit code 2.

    Args:
      command: Function that does the work; returns the exit code, or None for 0.
      config: Flag `--config`.
      default: Default value of the flag.
      kind: Key of `_KINDS` that the config must describe; not checked if None.
    """

    def work() -> int | None:
        if config.value is not None:
            _check(config.value, kind)
        return command()

    commands.main(work, parse=functools.partial(_parse_flags, config, default))
