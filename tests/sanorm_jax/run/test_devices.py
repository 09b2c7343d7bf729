import os
import subprocess
import sys

import pytest

from sanorm_jax.models import normalization

TASKS = ("dinosaur", "object_discovery", "property_prediction")
ALL = [f"{task}.{name}" for task in TASKS for name in normalization.NORMALIZATIONS]
# Batch norm alone takes a mean over the batch; the others run in a step of each task.
SHORT = [
    "dinosaur.batch_norm",
    "object_discovery.batch_norm.pmap",
    "property_prediction.layer_norm.pmap",
]

MODULE = "tests.sanorm_jax.run.eight_devices"


@pytest.mark.parametrize(
    "names", [SHORT, pytest.param(ALL, marks=pytest.mark.long)], ids=["short", "all"]
)
def test_eight_devices_match_one(names, data_dir):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-m", MODULE, str(data_dir), *names],
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
