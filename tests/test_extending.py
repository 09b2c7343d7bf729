"""The recipes of `docs/extending.md`, run as they stand."""

import pathlib
import re
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax import evaluate, tasks, train
from sanorm_jax.models import normalization
from sanorm_jax.run.folder import workdir as workdir_lib
from tests import tiny

PAGE = pathlib.Path(__file__).parent.parent / "docs/extending.md"


def _code(name: str) -> str:
    blocks = re.findall(
        rf"^ *```python {name}\n(.*?)^ *```$", PAGE.read_text(), re.M | re.S
    )
    (block,) = blocks
    return textwrap.dedent(block)


def _module(name: str, code: str, monkeypatch) -> types.ModuleType:
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, f"{PAGE}:{name}", "exec"), module.__dict__)
    return module


@pytest.fixture
def eighth(monkeypatch):
    """Return the registry with the page's normalization, and none of it afterwards."""
    monkeypatch.setattr(
        normalization, "NORMALIZATIONS", dict(normalization.NORMALIZATIONS)
    )
    namespace = dict(vars(normalization))
    exec(compile(_code("normalization"), str(PAGE), "exec"), namespace)
    monkeypatch.setattr(
        normalization, "largest_mass", namespace["largest_mass"], raising=False
    )


@pytest.mark.usefixtures("eighth")
def test_an_eighth_normalization_passes_its_test_and_trains(data_dir, tmp_path):
    names = {"jax": jax, "jnp": jnp, "np": np, "normalization": normalization}
    exec(compile(_code("test"), str(PAGE), "exec"), names)
    names["test_largest_mass_does_not_depend_on_the_number_of_tokens"]()
    config = tiny.config(data_dir, update_normalization="largest_mass")
    assert train.train(config, tmp_path) == 0
    assert _losses(tmp_path)[0] != _losses(tmp_path)[-1]


def test_a_fourth_task_trains_and_evaluates(data_dir, tmp_path, monkeypatch):
    _module("sanorm_jax.models.counter", _code("counter"), monkeypatch)
    task = _module("sanorm_jax.tasks.counting", _code("counting"), monkeypatch)
    monkeypatch.setitem(tasks.TASKS, "counting", task.CountingTask)
    config = _module("configs.counting", _code("config"), monkeypatch).get_config()
    config.update(
        {
            "data_dir": str(data_dir),
            "dataset": "random",
            "encoder": "random",
            "num_train_steps": 40,
            "evaluation_resolution": 16,
            "log_every_steps": 10,
        }
    )
    config.optimizer.update({"learning_rate": 1e-2, "warmup_steps": 2})
    assert train.train(config.lock(), tmp_path) == 0
    losses = _losses(tmp_path)
    assert losses[-1] < losses[0]
    folder = evaluate.evaluate(config, tmp_path, num_slots=[3, 9])
    results = (folder / "results.csv").read_text()
    assert "count_error" in results.splitlines()[0]


def _losses(workdir):
    lines = workdir_lib.read_lines(workdir / "metrics.jsonl")
    return [line["loss"] for line in lines if "loss" in line]
