"""Checkpoints in the layout of the published trainers, made with torch."""

import os
import pathlib
import pickle

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from sanorm_jax.core.errors import UserError
from sanorm_jax.feature_extraction import convert_checkpoint
from tests import commands

VECTORS = pathlib.Path(__file__).parent.parent / "vectors"
# Their file of vectors, and the name that the published trainer gives the model.
TASKS = {
    "dinosaur": ("dinosaur_mean", "model"),
    "object_discovery": ("autoencoder_expanding", "auto_encoder"),
    "property_prediction": ("set_predictor", "set_predictor"),
}


@pytest.fixture(scope="module")
def trainer():
    """Return the state of an optimizer and its schedule after a step."""
    layer = torch.nn.Linear(3, 2)
    optim = torch.optim.Adam(layer.parameters(), 4e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optim, 1e-8, 1.0, 100)
    decay = torch.optim.lr_scheduler.ExponentialLR(optim, 0.999)
    schedule = torch.optim.lr_scheduler.SequentialLR(optim, [warmup, decay], [100])
    layer(torch.ones(1, 3)).sum().backward()
    optim.step()
    schedule.step()
    return {"optim": optim.state_dict(), "lr_scheduler": schedule.state_dict()}


def _state(file: str) -> dict[str, torch.Tensor]:
    with np.load(VECTORS / f"{file}.npz") as arrays:
        names = [n for n in arrays.files if n.startswith(("params/", "params_before/"))]
        return {n.partition("/")[2]: torch.from_numpy(arrays[n]) for n in names}


def _checkpoint(trainer: dict, name: str, state: dict, step: int = 950) -> dict:
    """Return what the published `save_checkpoint` gives to `torch.save`."""
    return {
        name: state,
        **trainer,
        "rng": np.random.RandomState(3),
        "generator_state": torch.Generator().get_state(),
        "i_restart": 2,
        "step": step,
    }


@pytest.mark.parametrize("task", TASKS)
def test_models_of_all_tasks_convert_bit_identically(trainer, task, tmp_path):
    file, name = TASKS[task]
    state = _state(file)
    assert state
    torch.save(_checkpoint(trainer, name, state), tmp_path / "step_950.pkl")
    out = tmp_path / "out.safetensors"
    convert_checkpoint.convert(tmp_path / "step_950.pkl", out)
    found = safetensors.numpy.load_file(out)
    assert found.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value.numpy())
    with safetensors.safe_open(out, "numpy") as opened:
        assert opened.metadata()["step"] == "950"
        assert opened.metadata()["source"] == "step_950.pkl"


def test_frozen_vit_of_dinosaur_is_dropped(trainer, tmp_path):
    state = _state("dinosaur_mean")
    vit = {
        f"encoder.{n}": torch.ones(2) for n in ("patch_embed.proj.bias", "cls_token")
    }
    torch.save(_checkpoint(trainer, "model", state | vit), tmp_path / "step_1.pkl")
    found, _ = convert_checkpoint.read(tmp_path / "step_1.pkl")
    assert found.keys() == state.keys()


def test_prefixes_of_data_parallelism_are_removed(tmp_path):
    state = {f"module.{n}": x for n, x in _state("dinosaur_mean").items()}
    torch.save({"model_state_dict": state}, tmp_path / "a.pt")
    found, metadata = convert_checkpoint.read(tmp_path / "a.pt")
    assert found.keys() == _state("dinosaur_mean").keys()
    assert metadata == {}


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_code_in_a_checkpoint_is_executed(tmp_path):
    content = {"model": {"a": torch.ones(2)}, "harm": _Harmful(tmp_path / "made")}
    torch.save(content, tmp_path / "step_1.pkl")
    with pytest.raises(UserError, match=r"step_1\.pkl.*unpickling") as caught:
        convert_checkpoint.convert(tmp_path / "step_1.pkl", tmp_path / "o.safetensors")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "o.safetensors").exists()


def test_ignored_numpy_objects_do_not_stay_allowed(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "b": np.ones(2)}, tmp_path / "a.pkl")
    convert_checkpoint.read(tmp_path / "a.pkl")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pkl", weights_only=True)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 99, None, {"step": 3}])
def test_invalid_checkpoints_are_rejected(content, tmp_path):
    path = tmp_path / "bad.pkl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"bad\.pkl: ") as caught:
        convert_checkpoint.convert(path, tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_line(tmp_path):
    path, out = tmp_path / "step_1.pkl", tmp_path / "out.safetensors"
    torch.save({"model": {"a": torch.ones(2)}}, path)
    module = "feature_extraction.convert_checkpoint"
    assert commands.run(module, path, out).returncode == 0
    assert out.exists()
    done = commands.run(module, path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: usage")
