"""The flags of verbs that compute with a run: its config, folder and processes."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ml_collections
from absl import flags

from sanorm_jax.command_line import options
from sanorm_jax.core import commands, files
from sanorm_jax.core.errors import UserError

if TYPE_CHECKING:
    from sanorm_jax.run.distribution.hosts import Hosts

# Each host may have its own copy of the data, whose contents `train` compares.
_OF_A_HOST = ("data_dir",)

# Flags defined here are those of the module that asked for them.
flags.disclaim_key_flags()


class _WholeNumbers(flags.ListParser):
    """Whole numbers with commas between them."""

    def parse(self, argument: str | list[int]) -> list[int]:
        """Return the numbers."""
        try:
            return [int(value) for value in super().parse(argument)]
        except ValueError:
            raise ValueError("must be whole numbers") from None


def define_numbers(name: str, description: str) -> flags.FlagHolder:
    """Define a flag whose value is a list of whole numbers, empty by default.

    Args:
      name: Name of the flag.
      description: Help text.
    """
    return flags.DEFINE(
        _WholeNumbers(), name, [], description, serializer=flags.ListSerializer(",")
    )


class RunFlags:
    """Defines the flags of a run, to be read once they are parsed.

    Attributes:
      config: The flag `--config`.
    """

    def __init__(self):
        self.config = options.define_config("File of the experiment, see configs/.")
        self._workdir = commands.define_path(
            "workdir", None, "Folder of the run; default experiments/<name of config>."
        )
        self._coordinator = flags.DEFINE_string(
            "coordinator_address", None, "Several processes: HOST:PORT of process 0."
        )
        self._num_processes = flags.DEFINE_integer(
            "num_processes", None, "Several processes: how many; set by Slurm if unset."
        )
        self._process_id = flags.DEFINE_integer(
            "process_id", None, "Several processes: index of this one, from 0."
        )
        self._local_devices = flags.DEFINE_list(
            "local_device_ids", [], "Visible GPUs of this process, such as 0,1."
        )

    @property
    def workdir(self) -> pathlib.Path:
        """The run's folder.

        Raises:
          UserError: Neither config nor folder is given.
        """
        if self._workdir.value:
            return self._workdir.value
        if self.config.value is None:
            raise UserError("--workdir: is missing; give the folder of a run")
        return options.default_workdir()

    @contextlib.contextmanager
    def joined(self, *shared: flags.FlagHolder) -> Iterator["Hosts"]:
        """Join the run's other processes, which must have been given the same options.

        Args:
          *shared: Further flags in which the processes must not differ.

        Raises:
          UserError: They differ, or the processes cannot meet.
        """
        from sanorm_jax.run.distribution import cluster

        given = self._given(shared)
        with cluster.joined_hosts(
            self._coordinator.value,
            self._num_processes.value,
            self._process_id.value,
            local_device_ids=self._local_devices.value,
        ):
            from sanorm_jax.run.distribution.hosts import Hosts

            hosts = Hosts()
            hosts.check_same(given)
            yield hosts

    def _given(self, shared) -> dict[str, Any]:
        from sanorm_jax.run.folder import workdir as workdir_lib

        given = {"--workdir": str(self.workdir.absolute())}
        given |= {f"--{flag.name}": flag.value for flag in shared}
        if self.config.value is not None:
            values = files.flatten(workdir_lib.config_to_dict(self.config.value))
            for name, value in values.items():
                if name not in _OF_A_HOST:
                    given[f"--config.{name}"] = value
        return given

    def trained_config(self) -> ml_collections.ConfigDict:
        """Return the config of a trained run: the recorded one, or `--config`.

        Raises:
          UserError: There is no run, or `--config` is not its config.
        """
        from sanorm_jax.run.folder import workdir as workdir_lib

        if self.config.value is None:
            return workdir_lib.load_config(self.workdir)
        workdir_lib.check_config(self.workdir, self.config.value)
        return self.config.value
