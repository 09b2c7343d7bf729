"""Processes of a run and the GPUs that each of them uses."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import cluster
from tests import stores


def _slurm(monkeypatch, **changes):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAX_COORD", "JAX_NUM_P", "JAX_PROC", "CUDA_V")):
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
        ("a-b[1-2]-c", "a-b1-c"),
        ("rack1-gpu[01-02].cluster.edu", "rack1-gpu01.cluster.edu"),
        ("g[10-12]n[1-2]", "g10n1"),
        ("r[007,009]c[03-04,1]-ib.x,other[1-2]", "r007c03-ib.x"),
        ("n1.a.b,n[2-3].a.b", "n1.a.b"),
    ],
)
def test_slurm_step_with_several_tasks_is_detected(nodes, first, monkeypatch):
    _slurm(monkeypatch, SLURM_STEP_NODELIST=nodes)
    assert cluster.find_hosts() == (f"{first}:24567", 4, 2)


def test_a_slurm_step_of_one_task_is_one_process(monkeypatch):
    _slurm(monkeypatch, SLURM_STEP_NUM_TASKS="1")
    assert cluster.find_hosts() is None


def test_flags_override_environment_and_environment_overrides_slurm(monkeypatch):
    _slurm(monkeypatch)
    for name, value in (
        ("JAX_COORDINATOR_ADDRESS", "there:1"),
        ("JAX_NUM_PROCESSES", "8"),
        ("JAX_PROCESS_ID", "0"),
    ):
        monkeypatch.setenv(name, value)
    assert cluster.find_hosts() == ("there:1", 8, 0)
    assert cluster.find_hosts("here:2", 3, 0) == ("here:2", 3, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1", None, None), "--num_processes: required with the other"),
        (("here:1", 2, None), "--process_id: required with"),
        (("here:1", 2, 2), "--process_id=2"),
        (("here", 2, 0), "--coordinator_address=here"),
    ],
)
def test_partial_host_flags_are_an_error(given, message, monkeypatch):
    _slurm(monkeypatch, SLURM_STEP_NUM_TASKS="1")
    with pytest.raises(UserError, match=message):
        cluster.find_hosts(*given)


@pytest.mark.parametrize("nodes", ["", "gpu[1-2", "gpu1-2]", "a b", ",a", "gpu[a-b]"])
def test_invalid_nodelist_is_reported(nodes, monkeypatch):
    _slurm(monkeypatch, SLURM_STEP_NODELIST=nodes)
    with pytest.raises(UserError, match=r"SLURM_STEP_NODELIST=.*not a list of"):
        cluster.find_hosts()


@pytest.mark.parametrize(
    ("script", "first"),
    [
        ("echo n07.x; echo n08.x", "n07.x"),
        ("echo 'scontrol: error: no such thing'", "n7"),
        ("echo n9; exit 1", "n7"),
    ],
)
def test_scontrol_is_used_if_it_returns_a_host(script, first, monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text(
        f'#!/bin/bash\n[ "$*" = "show hostnames n[7-8]" ] || exit 2\n{script}\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert cluster.first_host("n[7-8]") == first


def _node(monkeypatch, **changes):
    """Four tasks on this node and two on the next, eight GPUs here."""
    more = {
        "SLURM_STEP_TASKS_PER_NODE": "4,2",
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_NODEID": "0",
        "SLURM_LOCALID": "1",
        "SLURM_GPUS_ON_NODE": "8",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    }
    _slurm(monkeypatch, **(more | changes))


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, [2, 3]),
        ({"SLURM_LOCALID": "3"}, [6, 7]),
        ({"SLURM_NODEID": "1"}, [4, 5, 6, 7]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "5"}, [5]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x6)"}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        # The scheduler has divided them.
        ({"CUDA_VISIBLE_DEVICES": "5"}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, None),
        # No GPUs at all.
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"JAX_LOCAL_DEVICE_IDS": "7,0"}, [7, 0]),
    ],
)
def test_each_task_of_a_node_takes_its_own_gpus(changes, devices, monkeypatch):
    _node(monkeypatch, **changes)
    assert cluster.find_local_devices() == devices


@pytest.mark.parametrize(("tasks", "count"), [("3(x2)", 3), ("16", 16)])
def test_tasks_that_do_not_divide_the_gpus_are_rejected(tasks, count, monkeypatch):
    _node(monkeypatch, SLURM_STEP_TASKS_PER_NODE=tasks)
    with pytest.raises(UserError, match=f"--ntasks-per-node={count}: must divide the"):
        cluster.find_local_devices()


@pytest.mark.parametrize("given", [["x"], ["0", "0"], ["8"], ["-1"]])
def test_missing_devices_are_rejected(given, monkeypatch):
    _node(monkeypatch)
    with pytest.raises(UserError, match=f"--local_device_ids={','.join(given)}"):
        cluster.find_local_devices(given)


def _start(*arguments, **variables) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _slurm_tasks(*arguments, **variables) -> list[subprocess.Popen]:
    """Start two tasks of a Slurm step; `{}` in an argument is the task's index."""
    shared = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "JAX_PLATFORMS": "cpu",
    }
    return [
        _start(
            *[argument.replace("{}", str(index)) for argument in arguments],
            **shared | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)},
            **variables,
        )
        for index in range(2)
    ]


def _error(stderr: str) -> str:
    """Return the only error line."""
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in stderr
    return line


_TASK = """
import json, jax
from sanorm_jax.run.distribution import cluster
with cluster.joined_hosts():
    seen = [jax.config.read("jax_cuda_visible_devices"), jax.process_index()]
    total = int(jax.pmap(lambda x: jax.lax.psum(x, "d"), "d")(
        jax.numpy.ones(jax.local_device_count()))[0])
    print(json.dumps([*seen, jax.local_device_count(), total]), flush=True)
"""


def test_two_tasks_of_a_node_share_a_run_and_no_gpu():
    """Real processes, which compute on virtual devices of the CPU."""
    tasks = _slurm_tasks(
        "-c",
        _TASK,
        SLURM_STEP_TASKS_PER_NODE="2",
        CUDA_VISIBLE_DEVICES="0,1,2,3",
        # Nobody listens to this proxy, which must not be used.
        http_proxy="http://localhost:9",
        no_proxy="elsewhere",
        XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2",
    )
    # Gloo writes to standard output as well.
    lines = [task.communicate(timeout=1200)[0].splitlines()[-1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    assert [*map(json.loads, lines)] == [["0,1", 0, 2, 4], ["2,3", 1, 2, 4]]


@pytest.mark.parametrize(
    ("verb", "options", "difference"),
    [
        (
            "train",
            ["--config=configs/dinosaur.py", "--config.seed=7{}"],
            "--config.seed: 70 in process 0, 71 in process 1",
        ),
        ("evaluate", ["--num_slots=7{}"], "--num_slots: [70] in process 0, [71]"),
    ],
)
def test_two_runs_in_one_step_are_an_error_that_names_the_difference(
    verb, options, difference, tmp_path
):
    runs = f"{tmp_path}/runs"
    tasks = _slurm_tasks("-m", "sanorm_jax", verb, f"--workdir={runs}/{{}}", *options)
    for task in tasks:
        line = _error(task.communicate(timeout=1200)[1])
        assert task.returncode not in (0, 124)
        assert difference in line
        assert f"--workdir: {runs}/0 in process 0, {runs}/1 in process 1" in line
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def port():
    """Return a socket on a port, which stays reserved until it is closed.

    The port is below those that the system gives to other programs, so that none has it
    when the process under test opens it, seconds later.
    """
    first = 30_000 + os.getpid() % 2000
    for number in range(first, first + 700):
        with contextlib.suppress(OSError):
            taken = socket.create_server(("", number))
            break
    with taken:
        yield taken


def _free(port) -> str:
    """Free the port and return its address."""
    number = port.getsockname()[1]
    port.close()
    return f"localhost:{number}"


_TRAIN = """
import pathlib, sys
from sanorm_jax import train
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import cluster
from tests import tiny
address, index, data_dir, workdir = sys.argv[1:]
try:
    with cluster.joined_hosts(address, 2, int(index)):
        train.train(tiny.config(data_dir), pathlib.Path(workdir))
except UserError as error:
    sys.exit(f"error: {error}")
"""


def test_processes_with_different_data_are_an_error(data_dir, tmp_path, port):
    stores.random_dataset(tmp_path / "other", {"train": 48, "validation": 10})
    address, run = _free(port), tmp_path / "run"
    tasks = [
        _start("-c", _TRAIN, address, index, data, run, JAX_PLATFORMS="cpu")
        for index, data in enumerate([data_dir, tmp_path / "other"])
    ]
    for task in tasks:
        line = _error(task.communicate(timeout=1200)[1])
        assert line.startswith("error: config.data_dir: {'source': ")
    assert not run.exists()


_ALONE = """
import sys
from absl import logging
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import cluster, preemption
address, index, timeout_s, mode = sys.argv[1:]
logging.set_verbosity(logging.INFO)
cluster.MEETING_TIMEOUT_S = int(timeout_s)
if mode == "train":
    preemption.leave_on_signals()
try:
    with cluster.joined_hosts(address, 2, int(index)):
        print("joined")
except UserError as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.parametrize("index", [0, 1])
def test_missing_processes_are_reported_after_the_timeout(index, port):
    address = _free(port)
    process = _start("-c", _ALONE, address, index, 1, "train")
    out, stderr = process.communicate(timeout=1200)
    waits, line = stderr.splitlines()
    assert (process.returncode, out) == (1, "")
    assert f"process {index} of 2 waits at {address} for the others" in waits
    assert line.startswith(f"error: --coordinator_address={address}: the 2 processes")
    assert "did not meet there in 1 s; start all of them" in line


@pytest.mark.parametrize(
    ("mode", "number", "code"),
    [
        ("train", signal.SIGTERM, 124),
        ("train", signal.SIGUSR1, 124),
        ("train", signal.SIGINT, 124),
        ("evaluate", signal.SIGINT, 130),
        ("evaluate", signal.SIGTERM, -signal.SIGTERM),
    ],
)
def test_waiting_process_responds_to_signals(mode, number, code, port):
    process = _start("-c", _ALONE, _free(port), 0, 300, mode)
    assert "waits at" in process.stderr.readline()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=1200)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr


def test_port_in_use_is_reported(port):
    address = f"localhost:{port.getsockname()[1]}"
    process = _start("-c", _ALONE, address, 0, 300, "train")
    (line,) = process.communicate(timeout=1200)[1].splitlines()
    assert line.startswith(f"error: --coordinator_address={address}: port ")
    assert "Address already in use" in line


@pytest.mark.parametrize("platform", ["cuda", "unheard_of"])
def test_unavailable_platform_is_a_one_line_error(platform, tmp_path):
    if platform == "cuda" and cluster.num_gpus():
        pytest.skip("there is a GPU")
    options = ["--config=configs/shapes.py", f"--workdir={tmp_path}"]
    process = _start("-m", "sanorm_jax.main", *options, JAX_PLATFORMS=platform)
    line = _error(process.communicate(timeout=1200)[1])
    assert process.returncode not in (0, 124)
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: ")
