"""Weights in Hugging Face's layouts give in timm what transformers computes."""

import importlib.util

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from sanorm_jax.feature_extraction import layouts, vit
from sanorm_jax.feature_extraction.options import Options
from tests.feature_extraction import hugging_face

hugging_face.register()
# What a model for a task puts before the names, and adds to them.
WRAPPERS = {
    "": {},
    "vit.": {"classifier.weight": torch.zeros(2, 16)},
    "dinov2.": {"classifier.bias": torch.zeros(2)},
    "backbone.": {"head.conv.weight": torch.zeros(1)},
}


def _vectors(name):
    """Return states by kind (saved, memory), input and tokens."""
    with np.load(hugging_face.FILE, allow_pickle=False) as file:
        parts = {key: file[key] for key in file.files if key.startswith(f"{name}/")}
    return _split({key.removeprefix(f"{name}/"): v for key, v in parts.items()})


def _split(parts):
    x, tokens = parts.pop("x"), parts.pop("tokens")
    states = {"saved": {}, "memory": {}}
    for key, value in parts.items():
        kind, _, name = key.partition("/")
        states[kind][name] = torch.from_numpy(value)
    return states, torch.from_numpy(x), tokens


def _check(name, state, x, tokens, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    options = Options(weights=path, input_size=hugging_face.SIDE, dtype="float32")
    encoder = vit.VitEncoder(f"hf_{name}", options)
    with torch.inference_mode():
        found = encoder._model.forward_features(x)[:, -tokens.shape[1] :]
    assert np.abs(tokens).max() > 1
    np.testing.assert_allclose(found, tokens, atol=2e-5)


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("name", hugging_face.MODELS)
def test_tokens_are_those_of_transformers(name, prefix, tmp_path):
    states, x, tokens = _vectors(name)
    # Bare models as they are in memory too.
    kinds = ("saved",) if prefix or not states["memory"] else ("saved", "memory")
    for kind in kinds:
        state = {f"{prefix}{key}": value for key, value in states[kind].items()}
        path = tmp_path / f"weights{'.bin' if prefix == 'vit.' else '.safetensors'}"
        _check(name, state | WRAPPERS[prefix], x, tokens, path)


@pytest.mark.long
@pytest.mark.parametrize("name", hugging_face.MODELS)
def test_tokens_are_those_of_the_installed_transformers(name, tmp_path):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    states, x, tokens = _split(hugging_face.compute(name))
    _check(name, states["saved"], x, tokens, tmp_path / "model.safetensors")


def test_other_layouts_are_not_changed():
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    same = layouts.to_timm(state)
    assert same.keys() == state.keys()
    assert all(same[name] is state[name] for name in state)
