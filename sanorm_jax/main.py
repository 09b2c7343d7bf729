"""Trains or evaluates one experiment: `python -m sanorm_jax.main --config=...`."""

import logging as std_logging
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from sanorm_jax.errors import ConfigError

_MODES = ("train", "evaluate", "report", "status")
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File of the experiment, see configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default experiments/<name of the config>."
)
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_SPLIT = flags.DEFINE_string("split", "", "evaluate: split, default the config's.")
_NUM_SLOTS = flags.DEFINE_list("num_slots", [], "evaluate: numbers of slots, 7,11.")
_NUM_ITERATIONS = flags.DEFINE_list("num_iterations", [], "evaluate: iterations, 3,5.")
_MAX_OBJECTS = flags.DEFINE_list("max_objects", [], "evaluate: most objects, 6,10.")
_STEP = flags.DEFINE_integer("step", None, "evaluate: checkpoint, default the newest.")


def _numbers(flag: flags.FlagHolder) -> list[int]:
    try:
        return [int(value) for value in flag.value]
    except ValueError:
        raise ConfigError(
            f"--{flag.name}={','.join(flag.value)}: must be whole numbers"
        ) from None


def _workdir() -> pathlib.Path:
    if _WORKDIR.value:
        return pathlib.Path(_WORKDIR.value)
    if _CONFIG.value is None:
        raise ConfigError("give --config=configs/... or the --workdir of a run")
    return pathlib.Path(
        "experiments", pathlib.Path(flags.FLAGS["config"].config_filename).stem
    )


def _run() -> int:
    from sanorm_jax import workdir as workdir_lib

    workdir = _workdir()
    if _MODE.value == "status":
        from sanorm_jax import status

        status.show(workdir)
        return 0
    if _MODE.value == "report":
        from sanorm_jax import run_report

        sys.stdout.write(f"{run_report.write(workdir)}\n")
        return 0
    if _MODE.value == "train":
        if _CONFIG.value is None:
            raise ConfigError("--config: give the experiment's file, see configs/")
        from sanorm_jax import train

        return train.train(_CONFIG.value, workdir)
    if _CONFIG.value is None:
        config = workdir_lib.load_config(workdir)
    else:
        config = _CONFIG.value
        workdir_lib.check_config(workdir, config)
    from sanorm_jax import evaluate

    directory = evaluate.evaluate(
        config,
        workdir,
        split=_SPLIT.value,
        num_slots=_numbers(_NUM_SLOTS),
        num_iterations=_numbers(_NUM_ITERATIONS),
        max_objects=_numbers(_MAX_OBJECTS),
        step=_STEP.value,
    )
    logging.info("written: %s", directory)
    return 0


def _is_of_interest(record: std_logging.LogRecord) -> bool:
    """Keeps Orbax from telling of each file, and JAX of each absent accelerator."""
    chatty = "orbax" in record.pathname or "xla_bridge" in record.pathname
    return not chatty or record.levelno >= std_logging.ERROR


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        left = app.parse_flags_with_usage(argv)
        if _CONFIG.value is not None:
            _ = _CONFIG.value.task  # A file that could not be read is told here.
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


def main(argv: list[str]) -> int:
    """Runs the mode that the flags ask for and returns the exit code."""
    from data.store import StoreError

    logging.get_absl_logger().addFilter(_is_of_interest)
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags are --name=value")
    try:
        return _run()
    except (ConfigError, StoreError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
