"""Discovery of the processes of a run and of the GPUs that each process uses.

Flags, JAX's environment variables or Slurm's determine both, before JAX initializes any
device.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

import jax
from absl import logging

from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import preemption

# Maximum time that processes wait for all others to start.
MEETING_TIMEOUT_S = 300
# A host without a heartbeat for this long counts as dead, and all others exit.
HEARTBEAT_TIMEOUT_S = 60

# Variables that limit the GPUs visible to a process.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_DRIVER = pathlib.Path("/proc/driver/nvidia/gpus")
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# First entry of a Slurm nodelist: a name with ranges in brackets.
_NAME_WITH_RANGES = re.compile(r"(?:[^\[\],\s]|\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\])+")
_SCONTROL_S = 30


def first_host(nodelist: str) -> str:
    """Return the first name of a Slurm nodelist, such as `rack1-gpu[01-02,07].edu`.

    Raises:
      UserError: The text is not a nodelist.
    """
    try:
        found = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist],
            capture_output=True,
            text=True,
            timeout=_SCONTROL_S,
            check=False,
        )
        names = found.stdout.splitlines() if found.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        names = []
    if names and _HOST_NAME.fullmatch(names[0]):
        return names[0]
    # Containers often lack Slurm's commands.
    first = _NAME_WITH_RANGES.match(nodelist)
    rest = nodelist[first.end() :] if first else nodelist
    if first is None or (rest and not rest.startswith(",")):
        raise UserError(
            f"SLURM_STEP_NODELIST={nodelist}: not a list of hosts; set "
            "--coordinator_address, --num_processes and --process_id"
        )
    # First number of each bracket: [01-02,07] -> 01
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])


def _slurm_hosts() -> tuple[str, int, int] | None:
    """Return coordinator, number of processes and own index in a Slurm step."""
    count = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if count == 1:
        return None
    # Jobs on the same host use different ports, below the ephemeral ones.
    port = 20_000 + int(_slurm("SLURM_JOB_ID")) % 10_000
    # Process 0 runs on the first host.
    address = f"{first_host(_slurm('SLURM_STEP_NODELIST'))}:{port}"
    return address, count, int(_slurm("SLURM_PROCID"))


def _slurm(name: str) -> str:
    if name not in os.environ:
        raise UserError(
            f"{name}: is not set in a Slurm step of several tasks; start them with "
            "srun, or set --coordinator_address, --num_processes and --process_id"
        )
    return os.environ[name]


def find_hosts(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> tuple[str, int, int] | None:
    """Return coordinator, number of processes and own index; None for one process.

    See `joined_hosts` for arguments and errors.
    """
    env = os.environ.get
    given = {
        "coordinator_address": coordinator_address or env("JAX_COORDINATOR_ADDRESS"),
        "num_processes": num_processes or env("JAX_NUM_PROCESSES"),
        "process_id": env("JAX_PROCESS_ID") if process_id is None else process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return _slurm_hosts()
    if missing:
        raise UserError(
            f"--{missing[0]}: required with the other flags for several processes; set "
            f"it, or JAX_{missing[0].upper()}"
        )
    address, count, index = given.values()
    try:
        count, index = int(count), int(index)
    except ValueError:
        count = index = -1
    if not 0 <= index < count or not re.fullmatch(r".+:\d+", address):
        raise UserError(
            f"--coordinator_address={address} --num_processes={count} "
            f"--process_id={index}: must be HOST:PORT of process 0, the number of "
            "processes, and the index of this one, from 0"
        )
    return address, count, index


def num_gpus() -> int:
    """Return the number of GPUs visible to this process, without initializing them."""
    for name in _VISIBLE:
        if name in os.environ:
            listed = [part.strip() for part in os.environ[name].split(",")]
            # Entries after -1 are invisible.
            if "-1" in listed:
                listed = listed[: listed.index("-1")]
            return len([part for part in listed if part])
    return len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0


def find_local_devices(given: Sequence[str] | None = None) -> list[int] | None:
    """Return the visible GPUs that this process uses; None for all.

    `given` defaults to `JAX_LOCAL_DEVICE_IDS`. Several Slurm tasks on a node split its
    GPUs in the order of `SLURM_LOCALID`, unless the scheduler has already split them.

    Raises:
      UserError: There are no such devices, or the tasks cannot split the GPUs evenly.
    """
    if not given and os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        given = os.environ["JAX_LOCAL_DEVICE_IDS"].split(",")
    count = num_gpus()
    if given:
        numbers = [int(n) if n.strip().isdecimal() else -1 for n in given]
        wrong = min(numbers) < 0 or len(set(numbers)) < len(numbers)
        if wrong or (count and max(numbers) >= count):
            limit = f" to {count - 1}" if count else ""
            raise UserError(
                f"--local_device_ids={','.join(given)}: must be different numbers from "
                f"0{limit}"
            )
        return numbers
    tasks = _slurm_tasks_here()
    if tasks == 1 or not count:
        return None
    if count == 1 or count < int(os.environ.get("SLURM_GPUS_ON_NODE", 0)):
        return None  # The scheduler has split them.
    if count % tasks:
        raise UserError(
            f"--ntasks-per-node={tasks}: must divide the {count} GPUs of the node; "
            "change the number of tasks, or assign GPUs with --local_device_ids"
        )
    each = count // tasks
    index = int(_slurm("SLURM_LOCALID"))
    return list(range(index * each, (index + 1) * each))


def _slurm_tasks_here() -> int:
    """Return the number of this Slurm step's tasks on this node; 1 without Slurm."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return 1
    listed = os.environ.get("SLURM_STEP_TASKS_PER_NODE")
    if listed is None:
        return int(os.environ.get("SLURM_NTASKS_PER_NODE", 1))
    # 4(x2),3: four tasks on each of two nodes, three on the next
    counts = [
        int(found[1])
        for part in listed.split(",")
        if (found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part))
        for _ in range(int(found[2] or 1))
    ]
    node = int(os.environ.get("SLURM_NODEID", 0))
    return counts[node] if node < len(counts) else 1


@contextlib.contextmanager
def joined_hosts(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_device_ids: Sequence[str] | None = None,
):
    """Connect the processes of a run; enter this context before using JAX.

    Arguments default to `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, or else to the values of a Slurm step with several tasks. Without
    any of these there is one process. Each process uses the GPUs of
    `find_local_devices`.

    If a process does not start, the others exit after `MEETING_TIMEOUT_S` with code 1.
    If a process dies, the others exit within `HEARTBEAT_TIMEOUT_S`: with code 1 if one
    of their operations fails, otherwise aborted by JAX. The exit code is never 0 or
    that of a preempted run.

    Raises:
      UserError: There are no such devices, only some arguments are set, the port is in
        use, or JAX finds no device of `JAX_PLATFORMS`.
    """
    found = find_hosts(coordinator_address, num_processes, process_id)
    devices = find_local_devices(local_device_ids)
    if devices is not None:
        logging.info("using GPUs %s of those visible", devices)
        visible = ",".join(map(str, devices))
        jax.config.update("jax_cuda_visible_devices", visible)
        jax.config.update("jax_rocm_visible_devices", visible)
    if found is None or found[1] == 1:
        _check_platform()
        yield
        return
    address, count, index = found
    _meet(address, count, index)
    try:
        _check_platform()
        yield
    except UserError:
        raise
    except Exception as error:
        # A regular exit would deadlock: it waits for hosts that wait for this one.
        logging.exception("host %d of %d failed", index, count)
        preemption.end(
            1,
            f"error: host {index} failed or lost another host "
            f"({str(error).splitlines()[0][:200]}); start all processes again to "
            "resume from the last checkpoint",
        )


def _meet(address: str, count: int, index: int):
    """Connect the processes of a run; exit if some are missing."""
    host, _, port = address.rpartition(":")
    if index == 0:
        try:
            # JAX would crash if the port is in use.
            socket.create_server(("", int(port))).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--coordinator_address={address}: port {port} is not available "
                f"({error}); choose another"
            ) from None
    # Reach the run's own address without a proxy. gRPC reads `no_proxy` only if
    # `no_grpc_proxy` is unset.
    direct = [os.environ.get(name) for name in ("no_grpc_proxy", "no_proxy")]
    direct = [next(filter(None, direct), ""), host.strip("[]")]
    os.environ.update(no_grpc_proxy=",".join(filter(None, direct)))
    jax.config.update("jax_check_proxy_envs", False)
    # JAX's handler of SIGTERM would hide the signal from `Preemption`.
    jax.config.update("jax_enable_preemption_service", False)
    meeting = concurrent.futures.Future()

    def join():
        try:
            jax.distributed.initialize(
                address,
                count,
                index,
                cluster_detection_method="deactivate",
                # JAX would abort with a stack trace, so exit before its timeout.
                initialization_timeout=2 * MEETING_TIMEOUT_S,
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            )
        except Exception as error:
            meeting.set_exception(error)
        else:
            meeting.set_result(None)

    try:
        # Python handles signals only in the main thread, so connect in another one.
        threading.Thread(target=join, daemon=True).start()
        logging.info(
            "process %d of %d waits at %s for the others, up to %d s",
            index,
            count,
            address,
            MEETING_TIMEOUT_S,
        )
        deadline = time.monotonic() + MEETING_TIMEOUT_S
        while not meeting.done() and time.monotonic() < deadline:
            # Short waits, because a signal just before a wait is handled after it.
            concurrent.futures.wait([meeting], timeout=0.5)
        meeting.result(timeout=0)
    except TimeoutError:
        preemption.end(
            1,
            f"error: --coordinator_address={address}: the {count} processes did not "
            f"meet there in {MEETING_TIMEOUT_S} s; start all of them with the same "
            "address and --num_processes, on hosts that reach it",
        )
    except KeyboardInterrupt:
        preemption.end(128 + signal.SIGINT, "interrupted before training started")
    except RuntimeError as error:
        raise UserError(
            f"--coordinator_address={address}: {count} processes did not meet there "
            f"({str(error).splitlines()[0]}); choose an address that all hosts reach"
        ) from None


def _check_platform():
    """Raise `UserError` if JAX finds no device of `JAX_PLATFORMS`."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition(" (")[0].strip(".") or "no GPU is visible"
        raise UserError(
            f"JAX_PLATFORMS={jax.config.jax_platforms or ''}: {reason}; set it to a "
            "platform of this machine, or unset it"
        ) from None
