"""Tests of the batch scripts and their wrapper under a fake Slurm."""

import os
import pathlib
import signal
import subprocess

import pytest

from sanorm_jax import run
from sanorm_jax.run.folder import workdir as workdir_lib
from tests.scripts.scheduler import SLURM, TIMEOUT_S, Scheduler, wait_for

REQUEUE = pathlib.Path(run.__file__).with_name("requeue.sh")
FILES = sorted(SLURM.glob("*.sbatch"))
TRAINING = ("one_gpu", "one_node", "several_nodes", "one_task_a_gpu")


def _fake_python(folder, codes):
    """Write a program that exits with the next code at each start."""
    path, left = folder / "python", folder / "codes"
    left.write_text("".join(f"{code}\n" for code in codes))
    path.write_text(
        f'#!/bin/bash\ncode=$(head -n 1 "{left}")\nsed -i 1d "{left}"\n'
        '[ "$code" = kill ] && kill -KILL $$\nexit "$code"\n'
    )
    path.chmod(0o755)
    return {"PYTHON": str(path)}


@pytest.mark.parametrize(
    ("code", "returned", "requeued"),
    [
        (0, 0, False),
        (1, 1, False),
        (124, 124, True),
        (134, 134, False),
        ("kill", 137, False),
    ],
)
def test_only_124_is_requeued(code, returned, requeued, tmp_path):
    scheduler = Scheduler(tmp_path, environment=_fake_python(tmp_path, [code]))
    job = scheduler.start([REQUEUE, "srun", tmp_path / "python"])
    job.communicate(timeout=TIMEOUT_S)
    assert job.returncode == returned
    assert len(scheduler.requeued()) == requeued


def test_failed_requeue_is_reported(tmp_path):
    environment = _fake_python(tmp_path, [124]) | {"FAKE_SCONTROL_FAILS": "yes"}
    scheduler = Scheduler(tmp_path, environment=environment)
    job = scheduler.start([REQUEUE, "srun", tmp_path / "python"])
    output = job.communicate(timeout=TIMEOUT_S)[0]
    assert job.returncode == 124
    assert "is not requeued; submit it again" in output


def _program(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("code", [0, 23])
def test_stores_are_copied_to_the_node_before_the_command(code, tmp_path):
    stores = [tmp_path / "data" / name for name in ("images", "features")]
    for store in stores:
        store.mkdir(parents=True)
    scheduler = Scheduler(
        tmp_path,
        environment={
            "STAGE": " ".join(map(str, stores)),
            "STAGE_DIR": str(tmp_path / "node"),
        },
    )
    # Fake rsync that supports the options of the script.
    copy = f'mkdir -p "${{@: -1}}"; cp -rL "${{@:3}}"; exit {code}'
    _program(tmp_path / "bin" / "rsync", copy)
    _program(tmp_path / "command", f'echo "$@" > {tmp_path}/args; ls {tmp_path}/node')
    job = scheduler.start([REQUEUE, tmp_path / "command", "--config=x.py"])
    output = job.communicate(timeout=TIMEOUT_S)[0]
    assert job.returncode == code
    assert (tmp_path / "args").exists() == (code == 0)
    if code == 0:
        assert output.split() == ["features", "images"]
        args = (tmp_path / "args").read_text()
        assert args == f"--config=x.py --config.data_dir={tmp_path / 'node'}\n"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (signal.SIGUSR1, "USR1"),
        (signal.SIGTERM, "TERM"),
        (signal.SIGINT, "TERM"),
    ],
)
def test_a_signal_to_the_wrapper_reaches_the_command(sent, received, tmp_path):
    # The command saves for a while after the signal. The wrapper returns the command's
    # exit code, not that of the signal.
    command = tmp_path / "command"
    command.write_text(
        "#!/bin/bash\n"
        + "".join(
            f"trap 'echo {name} >> {tmp_path}/received' {name}\n"
            for name in ("USR1", "TERM", "INT")
        )
        + f"touch {tmp_path}/ready\n"
        + f"until [ -e {tmp_path}/saved ]; do sleep 0.05; done\nexit 124\n"
    )
    command.chmod(0o755)
    scheduler = Scheduler(tmp_path)
    job = scheduler.start([REQUEUE, command])
    wait_for((tmp_path / "ready").exists, job)
    job.send_signal(sent)
    wait_for((tmp_path / "received").exists, job)
    (tmp_path / "saved").touch()
    job.communicate(timeout=TIMEOUT_S)
    assert job.returncode == 124
    assert (tmp_path / "received").read_text().split() == [received]
    assert len(scheduler.requeued()) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_options_come_before_commands(path):
    # sbatch ignores options after the first command.
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(lines)
    assert any(line.startswith("#SBATCH --time=") for line in lines)


@pytest.mark.parametrize("name", TRAINING)
def test_training_is_requeued_until_it_exits_with_0(name, tmp_path):
    environment = _fake_python(tmp_path, [124, 124, 0])
    scheduler = Scheduler(tmp_path, environment=environment)
    workdir = f"--workdir={tmp_path}/a run"
    codes, _ = scheduler.run(SLURM / f"{name}.sbatch", [workdir, "--config=c.py"])
    assert codes == [124, 124, 0]
    command = scheduler.step()["command"]
    assert command[1:] == ["-m", "sanorm_jax.main", workdir, "--config=c.py"]
    signals = [
        line
        for line in (SLURM / f"{name}.sbatch").read_text().splitlines()
        if line.startswith("#SBATCH --signal=")
    ]
    assert signals == ["#SBATCH --signal=USR1@300"]


def test_failed_training_is_not_requeued(tmp_path):
    scheduler = Scheduler(tmp_path, environment=_fake_python(tmp_path, [124, 1, 0]))
    codes, _ = scheduler.run(SLURM / "one_gpu.sbatch", [])
    assert codes == [124, 1]


@pytest.mark.parametrize("name", ["several_nodes", "one_task_a_gpu"])
def test_no_process_of_several_is_killed_while_it_saves(name, tmp_path):
    scheduler = Scheduler(tmp_path, environment=_fake_python(tmp_path, [0]))
    scheduler.run(SLURM / f"{name}.sbatch", [])
    assert scheduler.step()["options"] == ["--kill-on-bad-exit=0"]


def test_extraction_that_times_out_is_requeued(tmp_path):
    # The first start times out. Later starts have enough time and exit with 0.
    python = tmp_path / "python"
    text = f'[ "$EXTRACT_TIME" = 1h ] && exit 0\nexec sleep {TIMEOUT_S}'
    _program(python, text)
    scheduler = Scheduler(
        tmp_path,
        array_task=(3, 16),
        environment={"PYTHON": str(python), "EXTRACT_TIME": "1"},
    )

    def give_time(number, job):
        scheduler.environment["EXTRACT_TIME"] = "1h"

    codes, _ = scheduler.run(
        SLURM / "extract_array.sbatch", ["--dataset=movi_c"], give_time
    )
    assert codes == [124, 0]
    command = scheduler.step()["command"]
    assert command[1:] == [
        "-m",
        "feature_extraction.extract",
        "--dataset=movi_c",
        "--shard=3/16",
    ]


@pytest.mark.parametrize(
    ("name", "num_tasks"),
    [("one_gpu", 1), pytest.param("several_nodes", 2, marks=pytest.mark.long)],
)
def test_real_run_resumes_after_the_time_limit_signal(
    name, num_tasks, data_dir, tmp_path
):
    config = tmp_path / "tiny_config.py"
    config.write_text(
        "import pathlib\nfrom tests import tiny\n\ndef get_config():\n"
        f"    path = pathlib.Path({str(data_dir)!r})\n"
        "    changes = {'num_train_steps': 1000, 'log_every_steps': 100}\n"
        "    changes |= dict.fromkeys(\n"
        "        ['checkpoint_every_steps', 'evaluate_every_steps'], 1000)\n"
        "    return tiny.config(path, **changes).unlock()\n"
    )
    workdir = tmp_path / "run"
    metrics = workdir / "metrics.jsonl"

    def signal_first_start(number, job):
        if number == 0:
            wait_for(lambda: metrics.exists() and metrics.stat().st_size, job)
            for pid in scheduler.step()["pids"]:
                os.kill(pid, signal.SIGUSR1)

    scheduler = Scheduler(tmp_path, num_tasks=num_tasks)
    codes, output = scheduler.run(
        SLURM / f"{name}.sbatch",
        [f"--config={config}", f"--workdir={workdir}"],
        signal_first_start,
    )
    assert codes == [124, 0], output
    lines = [x for x in workdir_lib.read_lines(metrics) if "loss" in x]
    assert [line["step"] for line in lines] == list(range(100, 1001, 100))
    starts = workdir_lib.read_lines(workdir / workdir_lib.STARTS_FILE)
    assert len(starts) == 2
    assert 0 < starts[1]["step"] < 1000
    assert output.count(f"process {num_tasks - 1} of {num_tasks}") == (
        2 if num_tasks > 1 else 0
    )


def test_scripts_are_valid_bash():
    for path in (REQUEUE, *FILES):
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    assert len(FILES) == 5
