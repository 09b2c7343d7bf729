"""Fields of a config on the command line, read as people type them."""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections.config_flags import config_flags

from sanorm_jax.core import fields
from sanorm_jax.core.errors import UserError

# Groups whose fields are names that one chooses.
_NAMED = {"datasets", "evaluations", "studies", "train_settings"}
_EVALUATION = re.compile(
    r"--?config\.(base\.)?evaluations\.(\w+)\.(num_slots|num_iterations)(?:=(.*))?"
)


class _WholeNumber(flags.IntegerParser):
    """Whole numbers, also as 1e3; None is looked at when all is parsed."""

    def parse(self, argument: Any) -> int | None:
        if not isinstance(argument, str):
            return argument
        if argument == "None":
            return None
        try:
            return int(argument)
        except ValueError:
            pass
        try:
            value = float(argument)
        except ValueError:
            value = math.nan
        if "e" in argument.lower() and math.isfinite(value) and value.is_integer():
            return int(value)
        raise ValueError("must be a whole number")


class _Number(flags.FloatParser):
    """Numbers; None is looked at when all is parsed."""

    def parse(self, argument: Any) -> float | None:
        if argument is None or argument == "None":
            return None
        try:
            return float(argument)
        except ValueError:
            raise ValueError("must be a number") from None


class _Truth(flags.BooleanParser):
    """True and False."""

    def parse(self, argument: Any) -> bool:
        try:
            return super().parse(argument)
        except ValueError:
            raise ValueError("must be True or False") from None


class _Group(flags.ArgumentParser):
    """A group of fields, as a dict; `check_groups` looks at what is in it."""

    def parse(self, argument: Any) -> ml_collections.ConfigDict:
        if isinstance(argument, ml_collections.ConfigDict):
            return argument
        try:
            value = ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            value = None
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            raise ValueError(
                "is a group of fields; set one of them by a dot and its name, or "
                "several by a dict"
            )
        return ml_collections.ConfigDict(value)


config_flags.register_flag_parser_for_type(int, _WholeNumber())
config_flags.register_flag_parser_for_type(ml_collections.ConfigDict, _Group())
config_flags.register_flag_parser_for_type(float, _Number())
config_flags.register_flag_parser_for_type(bool, _Truth())


def take_evaluations(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Take the fields of named evaluations out of a command line.

    They may name evaluations that the config does not have, which no flag can.

    Returns:
      what is left, and (argument, "base." or "", name, field, value) of what is taken.
    """
    left, taken = [], []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        found = _EVALUATION.fullmatch(argument)
        if not found:
            left.append(argument)
            continue
        base, name, field, value = found.groups()
        if value is None:
            value = arguments.pop(0) if arguments else ""
        taken.append((argument, base or "", name, field, value))
    return left, taken


def add_evaluations(
    config: ml_collections.ConfigDict, taken: Sequence[tuple[str, ...]]
):
    """Set the fields of named evaluations; a new one is otherwise as in training.

    Raises:
      UserError: a value is no whole number above 0, or the config has none.
    """
    for argument, base, name, field, value in taken:
        name_of_flag = argument.split("=")[0]
        experiment = config.get("base") if base else config
        if experiment is None or "evaluations" not in experiment:
            raise UserError(f"{name_of_flag}: this config has no evaluations")
        try:
            number = _WholeNumber().parse(value)
        except ValueError:
            number = None
        if number is None or number <= 0:
            raise UserError(f"{name_of_flag}={value}: must be a whole number above 0")
        with experiment.unlocked():
            if name not in experiment.evaluations:
                experiment.evaluations[name] = {
                    "num_slots": experiment.num_slots,
                    "num_iterations": experiment.num_iterations,
                }
            experiment.evaluations[name][field] = number


def complete_groups(config: ml_collections.ConfigDict, defaults: Mapping[str, Any]):
    """Fill up the groups of fields that were given as a dict.

    Groups of named settings, such as `evaluations`, stay as they were given.

    Args:
      config: Config with the values given.
      defaults: Values, by path, that the given ones replaced.

    Raises:
      UserError: a dict has a field that the group does not have.
    """
    for path, default in defaults.items():
        *parents, name = path.split(".")
        if not isinstance(default, ml_collections.ConfigDict) or name in _NAMED:
            continue
        group = config
        for parent in parents:
            group = group[parent]
        completed = default.copy_and_resolve_references()
        try:
            completed.update(group[name].to_dict())
        except (AttributeError, KeyError, TypeError) as error:
            reason = str(error.args[0]).partition(" since ")[0]
            raise UserError(f"--config.{path}: {reason}") from None
        group[name] = completed


def check_empty(defaults: Mapping[str, Any]):
    """Raise `UserError` if None was given to a field that must have a value.

    Args:
      defaults: Values, by path, that the given ones replaced.
    """
    for path, default in defaults.items():
        value = flags.FLAGS[f"config.{path}"].value
        has_to_be = (
            default is not None and path.split(".")[-1] not in fields.MAY_BE_EMPTY
        )
        if value is None and has_to_be:
            raise UserError(f"--config.{path}=None: must not be empty")
