"""Values of config fields as people type them, in processes of their own."""

import json
import pathlib
import subprocess
import sys

import pytest

_COMMAND = """
import json, sys
from ml_collections import config_flags
from sanorm_jax.command_line import options
config = config_flags.DEFINE_config_file("config", None, "", lock_config=True)

def show():
    print(config.value.to_json_best_effort())
    return 0

options.run(show, config)
"""


def _run(*arguments, config="configs/shapes.py"):
    return subprocess.run(
        [sys.executable, "-c", _COMMAND, f"--config={config}", *arguments],
        capture_output=True,
        text=True,
    )


def test_values_are_read_as_people_type_them():
    result = _run(
        "--config.num_train_steps=1e3",
        "--config.batch_size=1.6e+1",
        "--config.optimizer.learning_rate=1e-4",
        "--config.model.common_dim=64",
        "--config.model.common_dim=None",
        "--config.evaluations.extra.num_slots=15",
        "--config.evaluations.default.num_iterations=5",
        "--config.evaluations.more.num_iterations",
        "2",
        "--config.remat=true",
    )
    assert result.returncode == 0, result.stderr
    config = json.loads(result.stdout)
    assert (config["num_train_steps"], config["batch_size"]) == (1000, 16)
    assert isinstance(config["num_train_steps"], int)
    assert config["optimizer"]["learning_rate"] == 1e-4
    assert config["model"]["common_dim"] is None and config["remat"] is True
    assert config["evaluations"] == {
        "default": {"num_slots": 7, "num_iterations": 5},
        # What is not said is as in training.
        "extra": {"num_slots": 15, "num_iterations": 3},
        "more": {"num_slots": 7, "num_iterations": 2},
    }


def test_a_study_s_runs_can_be_evaluated_otherwise_too():
    result = _run(
        "--config.base.evaluations.extra.num_slots=15",
        "--config.base.seed=2",
        config="configs/study_shapes.py",
    )
    assert result.returncode == 0, result.stderr
    base = json.loads(result.stdout)["base"]
    assert base["evaluations"]["extra"] == {"num_slots": 15, "num_iterations": 3}
    assert base["seed"] == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.seed=2.0", "--config.seed=2.0: must be a whole number"),
        ("--config.seed=1e-1", "--config.seed=1e-1: must be a whole number"),
        ("--config.seed=1e999", "--config.seed=1e999: must be a whole number"),
        ("--config.seed=None", "--config.seed=None: must not be empty"),
        ("--config.optimizer.epsilon=None", "optimizer.epsilon=None: must not be"),
        ("--config.optimizer.epsilon=tiny", "epsilon=tiny: must be a number"),
        ("--config.remat=maybe", "--config.remat=maybe: must be True or False"),
        ("--config.evaluations.x.num_slots=1.5", "x.num_slots=1.5: must be a whole"),
        ("--config.evaluations.x.num_slots=0", "num_slots=0: must be a whole number a"),
        ("--config.evaluations.x.slots=3", "no such field"),
        ("--config.num_slotz=3", 'Did you mean "num_slots"'),
        ("--seeds=3", "Unknown command line flag 'seeds'"),
    ],
)
def test_what_is_wrong_is_one_line(argument, message):
    result = _run(argument)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not result.stdout


@pytest.mark.parametrize("field", ["data_dir", "init_from"])
def test_the_home_folder_is_written_as_in_a_shell(field):
    result = _run(f"--config.{field}=~/somewhere")
    found = json.loads(result.stdout)[field]
    assert found == str(pathlib.Path("~/somewhere").expanduser())
