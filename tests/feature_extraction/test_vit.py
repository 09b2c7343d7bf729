"""Features of ViTs of timm with random weights, against plain forward passes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional

from sanorm_jax.core import run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data.store import Store
from sanorm_jax.feature_extraction import features, vit
from sanorm_jax.feature_extraction.options import Options
from tests import commands, stores

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
CONFIG = {"input_size": (3, 28, 28), "interpolation": "bicubic"}
CONFIG |= {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}


def _register(name: str, **arguments):
    """Add a small ViT to timm under that name."""

    def make(pretrained=False, num_classes=0, img_size=28, **kwargs):
        model = VisionTransformer(
            img_size,
            patch_size=14,
            num_classes=num_classes,
            **{"embed_dim": 32, "depth": 2, "num_heads": 2} | arguments,
        )
        model.pretrained_cfg = dict(CONFIG)
        return model

    make.__name__ = name
    timm.models.register_model(make)


# Prefix tokens by model; the size of images.
MODELS = {"test_vit": (1, 32), "vit_reg4": (5, 28), "vit_reg2_only": (2, 28)}
# The same ViT under two ways of pooling: SigLIP's attention, and the mean.
_POOLED = {"vit_map": "map", "vit_gap": "avg"}
MODELS |= dict.fromkeys(_POOLED, (0, 28))
for _name, _pool in _POOLED.items():
    _register(_name, class_token=False, global_pool=_pool, fc_norm=False)
_register("vit_reg4", reg_tokens=4)
_register("vit_reg2_only", reg_tokens=2, class_token=False, global_pool="")


def _input_size(name):
    return MODELS[name][1]


def _encoder(files, name="test_vit", **options):
    size = _input_size(name)
    options.setdefault("weights", files(name, img_size=size))
    options.setdefault("input_size", size)
    options.setdefault("dtype", "float32")
    return vit.VitEncoder(name, Options(**options))


def _plain(name, path, images, layer=None, norm=True):
    """Return float64 features [B, N, D] by hooks on the model's own forward pass."""
    size = _input_size(name)
    model = timm.create_model(name, num_classes=0, img_size=size).double().eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    taken = {}
    block = model.blocks[-1 if layer is None else layer]
    block.register_forward_hook(lambda module, given, out: taken.update(out=out))
    config = timm.data.resolve_model_data_config(model)
    mean, std = (np.asarray(config[key]) for key in ("mean", "std"))
    # As the reference does it: normalized first, then resized.
    x = torch.from_numpy((images / 255 - mean) / std).permute(0, 3, 1, 2)
    x = functional.interpolate(x, (size, size), mode="bicubic", align_corners=False)
    with torch.no_grad():
        model.forward_features(x)
        tokens = model.norm(taken["out"]) if norm else taken["out"]
    return tokens[:, model.num_prefix_tokens :].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_models_patch_tokens(name, weights):
    encoder = _encoder(weights, name)
    found = encoder(IMAGES)
    path = weights(name, img_size=_input_size(name))
    expected = _plain(name, path, IMAGES)
    assert found.dtype == np.float16
    assert found.shape == (3, encoder.num_tokens, encoder.feature_dim)
    assert encoder.num_tokens == 4
    assert encoder.settings["prefix_tokens_dropped"] == MODELS[name][0]
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("layer", "norm"), [(2, True), (2, False), (5, False)])
def test_requested_layer_and_norm_are_used(layer, norm, weights):
    encoder = _encoder(weights, layer=layer, final_norm=norm)
    path = weights("test_vit", img_size=32)
    expected = _plain("test_vit", path, IMAGES, layer, norm)
    np.testing.assert_allclose(encoder(IMAGES), expected, atol=3e-3, rtol=2e-3)
    assert encoder.settings["layer"] == layer
    assert encoder.settings["final_norm"] is norm


def test_images_are_resized_as_recorded_in_the_manifest(weights):
    encoder = _encoder(weights)
    # A checkerboard of single pixels: antialiasing would turn it gray.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    board = np.broadcast_to(board[None, ..., None], (1, 64, 64, 3))
    x = encoder.preprocess(torch.tensor(board))
    plain = functional.interpolate(
        torch.tensor(board).permute(0, 3, 1, 2) / 255, (32, 32), mode="bicubic"
    )
    mean = torch.tensor(encoder.settings["mean"]).view(3, 1, 1)
    std = torch.tensor(encoder.settings["std"]).view(3, 1, 1)
    torch.testing.assert_close(x, (plain - mean) / std)
    assert encoder.settings["antialias"] is False
    assert encoder.settings["interpolation"] == "bicubic"


def test_recorded_weights_are_found_by_hash(weights, tmp_path):
    file = weights("test_vit", img_size=32)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"others")
    (folder / "b.safetensors").write_bytes(file.read_bytes())
    noted = _encoder(weights).settings
    assert features._weights_of(noted, tmp_path) == folder / "b.safetensors"
    assert features._weights_of(noted | {"weights": "0" * 64}, tmp_path) is None
    assert features._weights_of({"encoder": "patches"}, tmp_path) is None


def test_features_do_not_depend_on_the_batch_size(weights):
    images = np.concatenate([IMAGES, IMAGES])
    one = _encoder(weights, batch_size=1)(images)
    all_at_once = _encoder(weights, batch_size=64)(images)
    four = _encoder(weights, batch_size=4)(images)
    np.testing.assert_allclose(one, all_at_once, atol=2e-3)
    np.testing.assert_allclose(four, all_at_once, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lower_precision_is_close(dtype, weights):
    exact = _encoder(weights)(IMAGES).astype(np.float32)
    near = _encoder(weights, dtype=dtype)(IMAGES).astype(np.float32)
    difference = np.abs(near - exact)
    assert 0 < difference.max() < 0.15
    assert np.corrcoef(near.ravel(), exact.ravel())[0, 1] > 0.999


def test_weights_are_found_in_files_of_other_layouts(weights, tmp_path):
    expected = _encoder(weights)
    state = torch.load(weights("test_vit", img_size=32), weights_only=True)
    head = {"head.weight": torch.ones(2, 64), "head.bias": torch.ones(2)}
    safetensors.torch.save_file(state | head, tmp_path / "a.safetensors")
    prefixed = {f"module.backbone.{name}": x for name, x in state.items()}
    torch.save({"teacher": prefixed, "epoch": 3}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        encoder = _encoder(weights, weights=tmp_path / name)
        np.testing.assert_array_equal(encoder(IMAGES), expected(IMAGES))
        # Another file is another store, whatever is in it.
        assert encoder.settings["weights"] != expected.settings["weights"]


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_it_is_native(native, dtype, weights, monkeypatch):
    monkeypatch.setattr(vit, "has_native_bfloat16", lambda device: native)
    encoder = _encoder(weights, dtype="auto")
    assert encoder.settings["compute_dtype"] == dtype
    expected = _encoder(weights, dtype=dtype)
    np.testing.assert_array_equal(encoder(IMAGES), expected(IMAGES))


def test_a_cpu_limited_to_avx2_has_no_native_bfloat16():
    code = (
        "import torch; from sanorm_jax.feature_extraction import vit; "
        "print(vit.has_native_bfloat16(torch.device('cpu')))"
    )
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=commands.ROOT,
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("killed_after", ["projection", "manifest"])
def test_started_store_keeps_its_dtype(killed_after, weights, tmp_path, monkeypatch):
    """A job that resumes on another CPU computes as the one that began the store."""
    stores.write_source(tmp_path / "random", {"train": 16}, size=32)
    path = weights("test_vit", img_size=32)
    options = Options(weights=path, input_size=32, components=3, projection_images=8)

    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vit, "has_native_bfloat16", lambda device: False)
        if killed_after == "projection":
            patch.setattr(features.StoreWriter, "create", kill)
        else:
            patch.setattr(features, "_write", kill)
        with pytest.raises(KeyboardInterrupt):
            features.extract(tmp_path, "random", "test_vit", options)
    monkeypatch.setattr(vit, "has_native_bfloat16", lambda device: True)
    root = features.extract(tmp_path, "random", "test_vit", options)
    assert Store.open(root).settings["compute_dtype"] == "float32"


@pytest.mark.parametrize(
    ("trained", "wanted"), [("vit_map", "vit_gap"), ("vit_gap", "vit_map")]
)
def test_pooling_is_ignored_as_a_head(trained, wanted, weights):
    path = weights(trained, img_size=28)
    encoder = vit.VitEncoder(
        wanted, Options(weights=path, input_size=28, dtype="float32")
    )
    expected = _plain(trained, path, IMAGES)
    np.testing.assert_allclose(encoder(IMAGES), expected, atol=2e-3, rtol=2e-3)


def test_settings_record_everything_that_affects_features(weights):
    settings = _encoder(weights).settings
    assert json.loads(json.dumps(settings)) == settings
    names = "encoder timm weights input_size resize interpolation antialias mean std "
    names += "layer final_norm compute_dtype prefix_tokens_dropped"
    assert settings.keys() >= set(names.split())
    assert len(settings["weights"]) == 64
    for other in ({"layer": 1}, {"final_norm": False}, {"dtype": "bfloat16"}):
        assert _encoder(weights, **other).settings != settings


def test_encoder_is_recreated_from_settings(weights, tmp_path):
    made = _encoder(weights, layer=2, final_norm=False, dtype="bfloat16")
    path = weights("test_vit", img_size=32)
    again = vit.VitEncoder("test_vit", Options(weights=path).like(made.settings))
    np.testing.assert_array_equal(again(IMAGES), made(IMAGES))
    # Of other images, and computed by another version of timm.
    noted = made.settings | {"source_fingerprint": "a", "timm": "0"}
    run_data.check_features(noted, again.settings, "here")
    other = _spoiled(weights, tmp_path, lambda state: state["norm.bias"].add_(1))
    differs = vit.VitEncoder("test_vit", Options(weights=other).like(made.settings))
    with pytest.raises(UserError, match=r"here: .*\(weights: .* recorded, .* now\)"):
        run_data.check_features(noted, differs.settings, "here")


def _spoiled(weights, tmp_path, change):
    state = torch.load(weights("test_vit", img_size=32), weights_only=True)
    change(state)
    torch.save(state, tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), r"1 missing: norm\.bias"),
        (lambda s: s.update(new=torch.ones(1)), "1 unknown: new"),
        (
            lambda s: s.update({"norm.bias": torch.ones(3)}),
            r"size mismatch for norm\.bias",
        ),
    ],
)
def test_mismatched_weights_are_rejected(change, message, weights, tmp_path):
    path = _spoiled(weights, tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        _encoder(weights, weights=path)
    assert f"--weights={path}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch8_224.dnio", r"vit_base_patch8_224\.dino"),
        ("vit_bsae_patch16_224", "vit_base_patch16_224"),
        ("resnet18", "not a plain ViT"),
        ("patchs", "choose from patches"),
    ],
)
def test_unknown_names_suggest_similar_ones(name, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        vit.VitEncoder(name, Options())
    assert f"--encoder={name}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 6}, "--layer=6: not a block of test_vit; choose 0 to 5"),
        ({"layer": -1}, "--layer=-1"),
        ({"input_size": 40}, "--input_size=40.*multiple"),
        ({"device": "cuda"}, "--device=cuda: PyTorch found no GPU"),
    ],
)
def test_options_out_of_range_are_rejected(options, message, weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        _encoder(weights, **options)


def test_failed_download_suggests_a_file(monkeypatch):
    create = timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("no route to host")
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no route to host.*--weights") as caught:
        vit.VitEncoder("test_vit.r160_in1k", Options())
    assert "\n" not in str(caught.value)


def _full(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")


@pytest.mark.parametrize("where", ["model", "sending", "loading"])
def test_insufficient_gpu_memory_is_a_one_line_error(where, weights, monkeypatch):
    encoder = _encoder(weights, batch_size=2)
    message = "--batch_size=2: exceeds the GPU memory"
    if where == "model":
        monkeypatch.setattr(encoder._model, "forward_intermediates", _full)
    elif where == "sending":
        monkeypatch.setattr(encoder, "_send", _full)
    else:
        message = "--encoder=test_vit: exceeds the free GPU memory"
        monkeypatch.setattr(torch.nn.Module, "to", _full)
    with pytest.raises(UserError, match=message) as error:
        encoder(IMAGES) if where != "loading" else _encoder(weights)
    assert "\n" not in str(error.value)
