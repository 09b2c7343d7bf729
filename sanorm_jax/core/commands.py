"""Common parts of all commands: flags, paths, errors and exit codes."""

import dataclasses
import errno
import os
import pathlib
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

from absl import app, flags

from sanorm_jax.core import console, published
from sanorm_jax.core.errors import UserError

# The exit code of invalid input, as in argparse and shells.
BAD_INPUT = 2
# Errors of disks and permissions, for which a traceback would not help, and advice.
_DISK_ERRORS = {
    errno.ENOSPC: "free disk space and run the command again",
    errno.EDQUOT: "free disk space and run the command again",
    errno.EROFS: "choose a folder on a disk that is not read-only",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
}

# absl then lists these flags in the help of the command that defines them.
flags.disclaim_key_flags()


def expand(path: str | pathlib.Path) -> pathlib.Path:
    """Return a path with `~` replaced by the home folder, if there is one."""
    return pathlib.Path(os.path.expanduser(path))  # noqa: PTH111 - this never fails


class _PathParser(flags.ArgumentParser):
    """Parser of the path of a file or folder."""

    syntactic_help = "a path"

    def parse(self, argument: str | pathlib.Path) -> pathlib.Path:
        if not str(argument):
            raise ValueError("must name a file or a folder")
        return expand(argument)


class _RunParser(_PathParser):
    """Parser of the folder of a run or the name of a published model."""

    def parse(self, argument: str | pathlib.Path) -> pathlib.Path:
        return published.find(super().parse(argument))


def define_path(
    name: str,
    default: str | None,
    description: str,
    *,
    required: bool = False,
    parser: flags.ArgumentParser | None = None,
) -> flags.FlagHolder:
    """Define a flag whose value is a `pathlib.Path`; see `expand`."""
    return flags.DEFINE(
        parser or _PathParser(),
        name,
        default,
        description,
        serializer=flags.ArgumentSerializer(),
        required=required,
    )


def define_run(name: str, description: str) -> flags.FlagHolder:
    """Define a flag for the folder of a run or the name of a published model."""
    return define_path(name, None, description, parser=_RunParser())


def define_options(options: type) -> Callable[..., Any]:
    """Define a flag for each annotated field of a dataclass.

    Args:
      options: Dataclass with fields such as `size: Annotated[int | None, "Help."] = 1`.
        The type is `int`, `float`, `bool`, `str`, `Path` or a `Literal` of strings.

    Returns:
      Function that creates an instance from the parsed flags. Its keyword arguments set
      the other fields and override flags.
    """
    define = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        str: flags.DEFINE_string,
        pathlib.Path: define_path,
    }
    hints = typing.get_type_hints(options, include_extras=True)
    holders = {}
    for field in dataclasses.fields(options):
        if typing.get_origin(hints[field.name]) is Annotated:
            kind, description = typing.get_args(hints[field.name])
            kind, *others = typing.get_args(kind) or (kind,)
            arguments = (field.name, field.default)
            if isinstance(kind, str):
                holder = flags.DEFINE_enum(*arguments, (kind, *others), description)
            else:
                holder = define[kind](*arguments, description)
            holders[field.name] = holder

    def make(**others: Any) -> Any:
        return options(**{n: h.value for n, h in holders.items()} | others)

    return make


def fail(reason: object) -> int:
    """Print an error as one line on standard error and return `BAD_INPUT`."""
    console.CONSOLE.print(f"error: {reason}")
    return BAD_INPUT


def run(work: Callable[[], int | None]) -> int:
    """Return the exit code of `work`, or `BAD_INPUT` after one error line."""
    console.setup()
    try:
        return work() or 0
    except UserError as error:
        return fail(error)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = error.filename or "writing"
        return fail(f"{where}: {error.strerror}; {_DISK_ERRORS[error.errno]}")


def parse_flags(argv: list[str]) -> list[str]:
    """Return the arguments that are not flags; exit with one line on invalid flags."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        exit_for(error)


def exit_for(error: flags.Error) -> NoReturn:
    """Print an error of absl as one line and exit."""
    # absl says "flag --num_workers=many: invalid literal for int()".
    text = " ".join(str(error).split()).removeprefix("flag ")
    sys.exit(fail(text.replace("ERROR:: Unable to open flagfile", "--flagfile")))


def main(
    work: Callable[..., int | None],
    *,
    arguments: Sequence[str] = (),
    parse: Callable[[list[str]], list[str]] = parse_flags,
):
    """Parse the command line, do the work and exit.

    Args:
      work: Function that takes the arguments that are not flags as paths (see
        `expand`), and returns an exit code, or None for 0.
      arguments: Names of these arguments.
      parse: Parser of the command line, which ends the process on invalid flags.
    """

    def start(argv: Sequence[str]) -> int:
        values = argv[1:]
        if len(values) == len(arguments):
            return run(lambda: work(*map(expand, values)))
        if arguments:
            return fail(f"usage: {pathlib.Path(argv[0]).stem} {' '.join(arguments)}")
        return fail(f"unknown argument {values[0]}; flags are --name=value")

    sys.exit(app.run(start, flags_parser=parse))
