"""Flags of verbs that compute with a run: its config, folder and processes."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections
from absl import flags

from sanorm_jax.command_line import options
from sanorm_jax.core import commands, files
from sanorm_jax.core.errors import UserError

# Fields that may differ between hosts. Each host may have its own copy of the data;
# `train` compares their contents.
_PER_HOST = ("data_dir",)

# absl then lists these flags in the help of the command that defines them.
flags.disclaim_key_flags()


class _Integers(flags.ListParser):
    """Parser of comma-separated integers."""

    def parse(self, argument: str | list[int]) -> list[int]:
        try:
            return [int(value) for value in super().parse(argument)]
        except ValueError:
            raise ValueError("must be comma-separated integers") from None


def define_numbers(name: str, description: str) -> flags.FlagHolder:
    """Define a flag whose value is a list of integers, empty by default."""
    return flags.DEFINE(
        _Integers(), name, [], description, serializer=flags.ListSerializer(",")
    )


class RunFlags:
    """Flags of a run. The values are available after parsing.

    Attributes:
      config: Flag `--config`.
    """

    def __init__(self):
        self.config = options.define_config("Config file, see configs/.")
        self._workdir = commands.define_run(
            "workdir",
            "Folder of the run, or name of a published model; default "
            "experiments/<name of config>.",
        )
        self._coordinator = flags.DEFINE_string(
            "coordinator_address", None, "Several processes: HOST:PORT of process 0."
        )
        self._num_processes = flags.DEFINE_integer(
            "num_processes", None, "Several processes: their number; Slurm's if unset."
        )
        self._process_id = flags.DEFINE_integer(
            "process_id", None, "Several processes: index of this one, from 0."
        )
        self._local_devices = flags.DEFINE_list(
            "local_device_ids", [], "Visible GPUs that this process uses, such as 0,1."
        )

    @property
    def workdir(self) -> pathlib.Path:
        """The run's folder.

        Raises:
          UserError: Neither `--config` nor `--workdir` is set.
        """
        if self._workdir.value:
            return self._workdir.value
        if self.config.value is None:
            raise UserError("--workdir: required; pass the folder of a run")
        return options.default_workdir()

    @contextlib.contextmanager
    def joined(self, *shared: flags.FlagHolder) -> Iterator[None]:
        """Connect the processes of the run, which must have the same options.

        `shared` are further flags that must be the same in all processes.

        Raises:
          UserError: The options differ, or the processes cannot connect.
        """
        from sanorm_jax.run.distribution import cluster

        values = self._shared_options(shared)
        with cluster.joined_hosts(
            self._coordinator.value,
            self._num_processes.value,
            self._process_id.value,
            local_device_ids=self._local_devices.value,
        ):
            from sanorm_jax.run.distribution.hosts import Hosts

            Hosts().check_same(values)
            yield

    def _shared_options(self, shared) -> dict[str, Any]:
        """Return the values that must be the same in all processes, by option."""
        from sanorm_jax.run.folder import workdir as workdir_lib

        values = {"--workdir": str(self.workdir.absolute())}
        values |= {f"--{flag.name}": flag.value for flag in shared}
        if self.config.value is not None:
            config = files.flatten(workdir_lib.config_to_dict(self.config.value))
            for name, value in config.items():
                if name not in _PER_HOST:
                    values[f"--config.{name}"] = value
        return values

    def trained_config(self) -> ml_collections.ConfigDict:
        """Return the config of a trained run: `--config`, or the recorded one if unset.

        Call it within `joined`.

        Raises:
          UserError: There is no run, or `--config` differs from its config.
        """
        from sanorm_jax.run.distribution.hosts import Hosts
        from sanorm_jax.run.folder import workdir as workdir_lib

        with Hosts().agree():
            if self.config.value is None:
                return workdir_lib.load_config(self.workdir)
            workdir_lib.check_config(self.workdir, self.config.value)
            return self.config.value
