"""Trains or evaluates one experiment: `python -m sanorm_jax.main --config=...`."""

import pathlib
import sys
from typing import Any

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from sanorm_jax.command_line import options
from sanorm_jax.core import commands, files
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import preemption

_MODES = ("train", "evaluate", "segment", "report", "status")
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File of the experiment, see configs/.", lock_config=True
)
_WORKDIR = commands.define_path(
    "workdir", None, "Folder of the run; default experiments/<name of the config>."
)
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_SPLIT = flags.DEFINE_string("split", "", "evaluate, segment: default the config's.")
_NUM_SLOTS = flags.DEFINE_list("num_slots", [], "Numbers of slots, 7,11.")
_NUM_ITERATIONS = flags.DEFINE_list("num_iterations", [], "Iterations, 3,5.")
_MAX_OBJECTS = flags.DEFINE_list("max_objects", [], "evaluate: most objects, 6,10.")
_DATASET = flags.DEFINE_string("dataset", "", "segment: images, default the config's.")
_DATA_DIR = commands.define_path(
    "data_dir", None, "segment: stores, default the config's."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint, default the newest.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "Several processes: HOST:PORT of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Several processes: how many; by itself under Slurm."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Several processes: which one this is, from 0."
)
_LOCAL_DEVICES = flags.DEFINE_list(
    "local_device_ids",
    [],
    "GPUs of this process, of those that it sees, from 0; by itself under Slurm.",
)


def _numbers(flag: flags.FlagHolder) -> list[int]:
    try:
        return [int(value) for value in flag.value]
    except ValueError:
        raise UserError(
            f"--{flag.name}={','.join(flag.value)}: must be whole numbers"
        ) from None


def _workdir() -> pathlib.Path:
    if _WORKDIR.value:
        return _WORKDIR.value
    if _CONFIG.value is None:
        raise UserError("give --config=configs/... or the --workdir of a run")
    return pathlib.Path(
        "experiments", pathlib.Path(flags.FLAGS["config"].config_filename).stem
    )


def _run() -> int:
    workdir = _workdir()
    if _MODE.value == "status":
        from sanorm_jax.report import status

        status.show(workdir)
        return 0
    if _MODE.value == "report":
        from sanorm_jax.report import run_report

        sys.stdout.write(f"{run_report.write(workdir)}\n")
        return 0
    if _MODE.value == "train":
        preemption.leave_on_signals()
    from sanorm_jax.run.distribution import cluster

    with cluster.joined_hosts(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        local_device_ids=_LOCAL_DEVICES.value,
    ):
        return _train_or_evaluate(workdir)


# Options in which the processes of a run must not differ.
_SHARED = (
    _MODE,
    _SPLIT,
    _NUM_SLOTS,
    _NUM_ITERATIONS,
    _MAX_OBJECTS,
    _DATASET,
    _STEP,
)
# Where a host finds its data is its own affair; `train` compares what is there.
_OF_A_HOST = ("data_dir",)


def _options(workdir: pathlib.Path) -> dict[str, Any]:
    """Return what the processes of a run must agree on, by name of the option."""
    from sanorm_jax.run.folder import workdir as workdir_lib

    given = {"--workdir": str(workdir.absolute())}
    for flag in _SHARED:
        given[f"--{flag.name}"] = flag.value
    if _CONFIG.value is not None:
        fields = files.flatten(workdir_lib.config_to_dict(_CONFIG.value))
        for name, value in fields.items():
            if name not in _OF_A_HOST:
                given[f"--config.{name}"] = value
    return given


def _config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Return the config of the run to evaluate."""
    from sanorm_jax.run.folder import workdir as workdir_lib

    if _CONFIG.value is None:
        return workdir_lib.load_config(workdir)
    workdir_lib.check_config(workdir, _CONFIG.value)
    return _CONFIG.value


def _train_or_evaluate(workdir: pathlib.Path) -> int:
    from sanorm_jax.run.distribution.hosts import Hosts

    hosts = Hosts()
    hosts.check_same(_options(workdir))
    if _MODE.value == "train":
        if _CONFIG.value is None:
            raise UserError("--config: give the experiment's file, see configs/")
        from sanorm_jax import train

        return train.train(_CONFIG.value, workdir)
    with hosts.agree():
        config = _config(workdir)
    arguments = {
        "split": _SPLIT.value,
        "num_slots": _numbers(_NUM_SLOTS),
        "num_iterations": _numbers(_NUM_ITERATIONS),
        "step": _STEP.value,
    }
    if _MODE.value == "segment":
        from sanorm_jax import segment

        arguments |= {"dataset": _DATASET.value, "data_dir": _DATA_DIR.value}
        directory = segment.segment(config, workdir, **arguments)
    else:
        from sanorm_jax import evaluate

        arguments["max_objects"] = _numbers(_MAX_OBJECTS)
        directory = evaluate.evaluate(config, workdir, **arguments)
    logging.info("written: %s", directory)
    return 0


if __name__ == "__main__":
    options.run(_run, _CONFIG)
