"""The command line in a process of its own."""

import subprocess
import sys

import pytest

from tests import tiny


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sanorm_jax.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/shapes.py", "--config.num_slotz=7"], "num_slotz"),
        (["--config=configs/shapes.py", "--config.num_slots=many"], "num_slots=many"),
        (["--config=configs/absent.py"], "--config=configs/absent.py: no such file"),
        (["--mode=test"], "--mode=test"),
    ],
)
def test_a_bad_flag_is_named_without_a_traceback(arguments, message, tmp_path):
    result = _run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/shapes.py", "--config.data_dir=/none"], "not a store"),
        (["--mode=evaluate", "--workdir=/none"], "no run there"),
        ([], "--config"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    if arguments and "--mode=evaluate" not in arguments:
        arguments = [*arguments, f"--workdir={tmp_path / 'run'}"]
    result = _run(*arguments)
    assert result.returncode == 2
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert message in line


def test_a_scheduler_that_starts_again_on_124_reaches_the_end(data_dir, tmp_path):
    # The time of the first start is over before it has done anything; the second has
    # no limit.
    config = tiny.config(data_dir)
    arguments = [
        "--config=configs/dinosaur.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data_dir={config.data_dir}",
        "--config.dataset=random",
        "--config.encoder=random",
        "--config.batch_size=8",
        "--config.evaluation_batch_size=8",
        "--config.evaluation_resolution=16",
        "--config.model.decoder_hidden_dim=8",
        "--config.num_train_steps=4",
        "--config.num_figure_examples=0",
        "--config.compilation_cache=False",
    ]
    starts = [
        _run(*arguments, f"--config.time_limit_h={limit}") for limit in (1e-6, 0.0, 0.0)
    ]
    assert [start.returncode for start in starts] == [124, 0, 0]
