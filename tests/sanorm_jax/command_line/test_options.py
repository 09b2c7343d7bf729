"""Values of config fields as people type them, in processes of their own."""

import json
import pathlib
import subprocess
import sys

import pytest

from sanorm_jax.core import fields

_COMMAND = """
from sanorm_jax.command_line import options
config = options.define_config("")

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


def test_values_are_parsed_as_users_write_them():
    result = _run(
        "--config.num_train_steps=1e3",
        "--config.batch_size=1.6e+1",
        "--config.optimizer.learning_rate=1e-4",
        "--config.model.common_dim=64",
        "--config.model.common_dim=None",
        "--config.evaluations.default.num_iterations",
        "5",
        "--config.remat=true",
    )
    assert result.returncode == 0, result.stderr
    config = json.loads(result.stdout)
    assert (config["num_train_steps"], config["batch_size"]) == (1000, 16)
    assert isinstance(config["num_train_steps"], int)
    assert config["optimizer"]["learning_rate"] == 1e-4
    assert config["model"]["common_dim"] is None and config["remat"] is True
    assert config["evaluations"] == {"default": {"num_slots": 7, "num_iterations": 5}}


def test_named_evaluations_of_a_run_and_of_a_study_s_runs_can_be_set():
    setting = {"extra": {"num_slots": 15, "num_iterations": 3}}
    result = _run(f"--config.evaluations={setting}")
    assert json.loads(result.stdout)["evaluations"] == setting
    result = _run(
        f"--config.base.evaluations={setting}",
        "--config.base.seed=2",
        config="configs/study_shapes.py",
    )
    base = json.loads(result.stdout)["base"]
    assert base["evaluations"] == setting and base["seed"] == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.seed=2.0", "--config.seed=2.0: must be an integer"),
        ("--config.seed=1e-1", "--config.seed=1e-1: must be an integer"),
        ("--config.seed=1e999", "--config.seed=1e999: must be an integer"),
        ("--config.seed=None", "--config.seed=None: must be a non-negative integer"),
        ("--config.optimizer.epsilon=None", "epsilon=None: could not convert"),
        ("--config.optimizer.epsilon=tiny", "epsilon=tiny: could not convert"),
        ("--config.remat=maybe", "--config.remat=maybe: "),
        ("--config.evaluations.default.num_slots=1.5", "=1.5: must be an integer"),
        ("--config.evaluations.default.num_slots=0", "=0: must be a positive integer"),
        ("--config.evaluations={'x': {'num_slots': 0}}", "evaluations.x.num_slots=0: "),
        ("--config.evaluations.default.slots=3", "unknown field"),
        ("--config.evaluations.x.num_slots=3", "unknown field"),
        ("--config.optimizer={'learning_rate': 1.0}", "config.optimizer: is a group"),
        ("--config.optimizer=adam", "--config.optimizer=adam: "),
        ("--config.num slots=3", "unknown field"),
        ("--config.num_slotz=3", 'Did you mean "num_slots"'),
        ("--seeds=3", "Unknown command line flag 'seeds'"),
    ],
)
def test_errors_are_one_line(argument, message):
    result = _run(argument)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "SyntaxError: invalid syntax (mine.py, line 1)"),
        ("def get_config():\n    return no\n", "name 'no' is not defined (line 2)"),
        (
            "def get_config():\n    raise ValueError('bad')\n",
            "ValueError: bad (line 2)",
        ),
        ("x = 1\n", "has no attribute 'get_config'"),
        ("def get_config():\n    return 3\n", "get_config returns no ConfigDict"),
    ],
)
def test_an_error_in_a_config_file_is_one_line(text, message, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    result = _run(config=tmp_path / "mine.py")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: --config={tmp_path / 'mine.py'}: ")
    assert message in line


@pytest.mark.parametrize("field", sorted(fields.PATHS))
def test_the_home_folder_is_written_as_in_a_shell(field):
    result = _run(f"--config.{field}=~/somewhere")
    found = json.loads(result.stdout)[field]
    assert found == str(pathlib.Path("~/somewhere").expanduser())
