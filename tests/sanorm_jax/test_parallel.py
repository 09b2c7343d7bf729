import os
import subprocess
import sys

import pytest

from sanorm_jax import parallel
from sanorm_jax.errors import ConfigError
from sanorm_jax.models import normalization

TASKS = ("dinosaur", "object_discovery", "property_prediction")
ALL = [f"{task}.{name}" for task in TASKS for name in normalization.NORMALIZATIONS]
# Batch norm alone takes a mean over the batch; the others run in a step of each task.
SHORT = [
    "dinosaur.batch_norm",
    "object_discovery.batch_norm",
    "property_prediction.layer_norm",
]


@pytest.mark.parametrize(
    "names", [SHORT, pytest.param(ALL, marks=pytest.mark.long)], ids=["short", "all"]
)
def test_eight_devices_give_the_numbers_of_one(names, data_dir):
    flags = "--xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-m", "tests.sanorm_jax.eight_devices", str(data_dir), *names],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert result.returncode == 0, result.stderr
    *compared, error = result.stdout.splitlines()
    assert [line.split(":")[0] for line in compared] == names
    assert error == (
        "config.batch_size=12: must be a positive multiple of the number of devices (8)"
    )


def _slurm(monkeypatch, **changes):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAX_COORDINATOR", "JAX_NUM_P", "JAX_PROCESS")):
            monkeypatch.delenv(name)
    variables = {
        "SLURM_JOB_ID": "1234567",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "gpu[03,05-07]",
        "SLURM_PROCID": "2",
    }
    for name, value in (variables | changes).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03,05-07]", "gpu03"),
        ("gpu[003-006]", "gpu003"),
        ("a100-1,b200-7", "a100-1"),
        ("node7", "node7"),
    ],
)
def test_a_slurm_step_of_several_tasks_is_found(nodes, first, monkeypatch):
    _slurm(monkeypatch, SLURM_STEP_NODELIST=nodes)
    assert parallel.find_hosts() == (f"{first}:24567", 4, 2)


def test_a_slurm_step_of_one_task_is_one_process(monkeypatch):
    _slurm(monkeypatch, SLURM_STEP_NUM_TASKS="1")
    assert parallel.find_hosts() is None


def test_flags_go_before_the_environment_and_that_before_slurm(monkeypatch):
    _slurm(monkeypatch)
    for name, value in (
        ("JAX_COORDINATOR_ADDRESS", "there:1"),
        ("JAX_NUM_PROCESSES", "8"),
        ("JAX_PROCESS_ID", "0"),
    ):
        monkeypatch.setenv(name, value)
    assert parallel.find_hosts() == ("there:1", 8, 0)
    assert parallel.find_hosts("here:2", 3, 0) == ("here:2", 3, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1", None, None), "--num_processes: must be given, or JAX_NUM_PROC"),
        (("here:1", 2, None), "--process_id: must be given"),
        (("here:1", 2, 2), "--process_id=2"),
        (("here", 2, 0), "--coordinator_address=here"),
    ],
)
def test_hosts_that_are_half_given_are_an_error(given, message, monkeypatch):
    _slurm(monkeypatch, SLURM_STEP_NUM_TASKS="1")
    with pytest.raises(ConfigError, match=message):
        parallel.find_hosts(*given)
