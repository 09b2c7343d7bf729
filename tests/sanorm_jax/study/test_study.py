"""The command line of a study, in processes of its own."""

import os
import pathlib
import signal
import subprocess
import sys

import psutil
import pytest

from sanorm_jax.study import jobs, slurm
from tests.sanorm_jax.study.conftest import study_config

_CONFIG = """
import pathlib
from tests.sanorm_jax.study import conftest

def get_config():
    config = conftest.study_config(pathlib.Path({data_dir!r}))
    return config.unlock()
"""


@pytest.fixture
def command(data_dir, tmp_path):
    path = tmp_path / "study_tiny.py"
    path.write_text(_CONFIG.format(data_dir=str(data_dir)))

    def make(*arguments):
        return [
            sys.executable,
            "-m",
            "sanorm_jax.study",
            f"--config={path}",
            f"--workdir={tmp_path / 'study'}",
            *arguments,
        ]

    return make


def _run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_failed_job_is_reported_and_others_continue(command, tmp_path):
    workdir = tmp_path / "study"
    failing = workdir / "runs" / "few_weighted_mean_seed_0"
    failing.mkdir(parents=True)
    # A file where the run wants its folder of checkpoints.
    (failing / "checkpoints").write_text("in the way")
    result = _run(command())
    assert result.returncode == 1
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert "few_weighted_mean_seed_0" in line
    page = pathlib.Path(result.stdout.strip().splitlines()[-1])
    assert "Not done: few_weighted_mean_seed_0" in page.read_text()
    done = workdir / "runs" / "few_weighted_sum_seed_0"
    assert (done / "study" / "random_slots_5.npz").exists()


def test_missing_data_and_other_configs_are_reported_before_the_jobs(command, tmp_path):
    for arguments, words in (
        (["--config.base.dataset=absent"], "absent: not a store"),
        (["--config=configs/shapes.py"], "describes an experiment, not a study"),
    ):
        result = _run(command(*arguments))
        assert result.returncode == 2
        (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
        assert words in line
        assert not (tmp_path / "study" / "runs").exists()


@pytest.mark.long
def test_jobs_stop_with_the_study_and_it_resumes(command, data_dir, tmp_path):
    workdir = tmp_path / "study"
    many = "--config.base.num_train_steps=100000"
    study = subprocess.Popen(command(many), stderr=subprocess.DEVNULL)
    metrics = [
        workdir / "runs" / f"few_{name}_seed_0" / "metrics.jsonl"
        for name in ("weighted_mean", "weighted_sum")
    ]
    while not all(path.exists() and path.stat().st_size for path in metrics):
        assert study.poll() is None
        os.sched_yield()
    children = psutil.Process(study.pid).children()
    assert len(children) == 2
    study.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(children, timeout=600)
    assert len(gone) == 2 and not alive
    config = study_config(data_dir)
    for job in jobs.create(config, workdir):
        assert any((job.workdir / "checkpoints").iterdir())
    # It stops in the same way when asked to, and tells that it is to be started again.
    study = subprocess.Popen(command(many), stderr=subprocess.DEVNULL)
    while len(psutil.Process(study.pid).children()) < 2:
        assert study.poll() is None
        os.sched_yield()
    study.send_signal(signal.SIGTERM)
    assert study.wait(timeout=600) == 124


def test_an_array_for_slurm_is_written(data_dir, tmp_path):
    config, workdir = study_config(data_dir), tmp_path / "a study"
    workdir.mkdir()
    path = slurm.write(config, workdir, 8)
    text = path.read_text()
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --array=0-7" in lines and "#SBATCH --time=01:00:00" in lines
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert not any(line and not line.startswith("#") for line in lines[: last + 1])
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    # Run as a task of the array: its commands by stand-ins that tell their arguments.
    stand_in = tmp_path / "srun"
    stand_in.write_text('#!/bin/bash\necho "srun $*"\nexit 124\n')
    stand_in.chmod(0o755)
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "scontrol $*"\n')
    (tmp_path / "scontrol").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_JOB_ID": "77",
    }
    result = subprocess.run(
        ["bash", path], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 124
    assert f"-m sanorm_jax.study --workdir={workdir} --job=3" in result.stdout
    assert "scontrol requeue 77_3" in result.stdout
