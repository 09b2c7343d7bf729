"""What is compiled when, and the cache of compiled programs."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from sanorm_jax import optimizers, tasks, train
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache, rates, workdir, writers
from sanorm_jax.train_step import create_state, make_train_step
from tests import tiny

COMPILED = "/jax/core/compile/backend_compile_duration"
# Trains a little and says how, and how many programs came from the cache.
PROGRAM = """
import json, pathlib, sys
import jax, ml_collections
from sanorm_jax.run.folder import compilation_cache

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
compilation_cache.MIN_COMPILE_S = 0
config = ml_collections.ConfigDict({"compilation_cache": True})
compilation_cache.enable(config, pathlib.Path(sys.argv[1]))
gradient = jax.jit(jax.grad(lambda w, x: jax.nn.softmax(jax.numpy.tanh(x @ w)).std()))
weights = jax.random.normal(jax.random.key(0), (20, 30))
for i in range(3):
    weights -= gradient(weights, jax.random.normal(jax.random.key(i), (40, 20)))
counts = {name: events.count(f"/jax/compilation_cache/cache_{name}")
          for name in ("hits", "misses")}
print(json.dumps(counts | {"weights": weights.tolist()}))
"""


@pytest.fixture
def compiled():
    """Names of the events of compilation since the test began."""
    events = []

    def listen(name, seconds, **_):
        del seconds
        if name == COMPILED:
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("parallelism", ["jit", "pmap"])
def test_nothing_is_compiled_after_the_first_steps_and_evaluation(
    parallelism, data_dir, tmp_path, compiled, monkeypatch
):
    """Of a run with several evaluation settings, checkpoints and figures."""
    config = tiny.config(
        data_dir,
        num_train_steps=12,
        evaluate_every_steps=4,
        num_figure_examples=2,
        parallelism=parallelism,
        # The last batch is not full, and must not compile another program.
        evaluation_batch_size=4,
        evaluations={
            name: {"num_slots": slots, "num_iterations": iterations}
            for name, slots, iterations in (("a", 4, 2), ("b", 6, 2), ("c", 6, 3))
        },
    )
    counts = {}
    write = writers.Writer.write_scalars

    def count(self, step, scalars):
        write(self, step, scalars)
        counts.setdefault(step, []).append(len(compiled))

    monkeypatch.setattr(writers.Writer, "write_scalars", count)
    assert train.train(config, tmp_path) == 0
    assert list(counts) == [2, 4, 6, 8, 10, 12]
    first_step, first_evaluation = counts[2][-1], counts[4][-1]
    # The three settings are among what is counted.
    assert 0 < first_step <= first_evaluation - 3
    assert counts[12][-1] == first_evaluation
    lines = workdir.read_lines(tmp_path / writers.METRICS_FILE)
    assert [line["step"] for line in lines if "time/to_first_step_s" in line] == [2]


@pytest.mark.parametrize("done", [True, False])
def test_waiting_for_data_counts_only_if_devices_are_idle(
    done, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(rates, "is_done", lambda scalars: done)
    config = tiny.config(data_dir, num_train_steps=4, evaluate_every_steps=4)
    assert train.train(config, tmp_path) == 0
    lines = workdir.read_lines(tmp_path / writers.METRICS_FILE)
    shares = [line["time/data_wait_share"] for line in lines if "loss" in line]
    assert len(shares) == 2
    assert all(0 < share <= 1 if done else share == 0 for share in shares)


def test_the_step_reuses_the_memory_of_the_state(data_dir):
    config = tiny.config(data_dir)
    task = tasks.create(config, tasks.open_dataset(config))
    tx, schedule = optimizers.create(config.optimizer)
    devices = Devices("jit")
    state = devices.put_state(create_state(task, tx, 0))
    batch = {
        "features": np.zeros((8, task.num_tokens, task.feature_dim), np.float16),
        "position": np.arange(8, dtype=np.int32),
    }
    step = devices.compile_train_step(make_train_step(task, tx, schedule))
    memory = step.lower(state, batch).compile().memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes == size > 0


def _start(path, program=PROGRAM):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        text=True,
    )


def _finish(process):
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "cache" not in errors
    return json.loads(out)


def test_processes_share_programs_and_results(tmp_path):
    """Two at once, then one that finds a torn entry, as a kill leaves it."""
    together = [_start(tmp_path / name) for name in ("a", "b")]
    first, second = (_finish(process) for process in together)
    assert first["misses"] + second["misses"] > 0
    (folder,) = (tmp_path / compilation_cache.FOLDER).iterdir()
    entries = sorted(folder.glob("*-cache"))
    torn = max(entries, key=lambda entry: entry.stat().st_size)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    out, _ = _start(tmp_path / "c").communicate()
    third = json.loads(out)
    assert third["hits"] >= len(entries) - 1
    assert first["weights"] == second["weights"] == third["weights"]


# What `docker -u` leaves: a user and a group without names.
_NOBODY = 54321


@pytest.fixture
def folder_of_nobody():
    """Return a folder of a user without a name; pytest's are closed to others."""
    if os.geteuid():
        pytest.skip("only root can start a process of another user")
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, _NOBODY, _NOBODY)
        yield pathlib.Path(name)


def test_user_without_a_name_can_use_the_cache(folder_of_nobody):
    imports, work = PROGRAM.split("\n\n", 1)
    # After the imports: that user may not read where Python lies.
    program = f"""{imports}
import grp, os, pwd
jax.devices()
os.environ.pop("HOME", None)
os.setgroups([])
os.setgid({_NOBODY})
os.setuid({_NOBODY})
{work}"""
    first = _finish(_start(folder_of_nobody / "a", program))
    second = _finish(_start(folder_of_nobody / "b", program))
    assert first["misses"] > 1
    assert second == first | {"hits": second["hits"], "misses": 0}
    # A user with a name finds them too.
    assert _finish(_start(folder_of_nobody / "c"))["misses"] == 0


@pytest.fixture
def settings():
    """JAX's settings of the cache: unset at first, restored afterwards."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_in_the_parent_of_the_workdir(settings, data_dir, tmp_path):
    config = tiny.config(data_dir, compilation_cache=True)
    compilation_cache.enable(config, tmp_path / "run")
    assert settings().startswith(f"{tmp_path / compilation_cache.FOLDER}/")


def test_unwritable_folder_is_one_warning(settings, data_dir, tmp_path, caplog):
    (tmp_path / compilation_cache.FOLDER).write_text("a file")
    config = tiny.config(data_dir, compilation_cache=True)
    compilation_cache.enable(config, tmp_path / "run")
    assert settings() is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{tmp_path / compilation_cache.FOLDER}" in record.getMessage()


def test_cache_can_be_disabled_or_moved(settings, data_dir, tmp_path):
    compilation_cache.enable(tiny.config(data_dir), tmp_path / "run")
    assert settings() is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "elsewhere"))
    config = tiny.config(data_dir, compilation_cache=True)
    compilation_cache.enable(config, tmp_path / "run")
    assert settings() == str(tmp_path / "elsewhere")
    assert not (tmp_path / compilation_cache.FOLDER).exists()
